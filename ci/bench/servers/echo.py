"""The same with the standard library's socketserver: `echo.py PORT Threading|Forking`."""

import socketserver
import sys


class Echo(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while line := self.rfile.readline(1024):
            self.wfile.write(line)


if __name__ == "__main__":
    base = {"Threading": socketserver.ThreadingTCPServer, "Forking": socketserver.ForkingTCPServer}[sys.argv[2]]
    base.allow_reuse_address = True
    base.request_queue_size = 1024
    if sys.argv[2] == "Forking":
        base.max_children = 1000
    with base(("127.0.0.1", int(sys.argv[1])), Echo) as server:
        server.serve_forever()
