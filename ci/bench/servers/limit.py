"""The limit: a bare prefork loop of epoll, recv and send that parses nothing. No server in Python can do less."""

import os
import select
import socket
import sys

ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: limit\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    b"Content-Type: application/octet-stream\r\nContent-Length: 13\r\n\r\nHello, world!"
)


def work(listener: socket.socket, close: bool) -> None:
    """Answer whatever arrives."""
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    sockets: dict[int, socket.socket] = {}
    while True:
        for fd, _ in epoll.poll():
            if fd == listener.fileno():
                try:
                    sock, _ = listener.accept()
                except BlockingIOError:
                    continue
                sock.setblocking(False)
                sockets[sock.fileno()] = sock
                epoll.register(sock.fileno(), select.EPOLLIN)
                continue
            sock = sockets[fd]
            try:
                data = sock.recv(65536)
                if data:
                    sock.send(ANSWER)
                    data = b"" if close else data
            except ConnectionError:
                data = b""
            if not data:
                del sockets[fd]
                sock.close()


if __name__ == "__main__":
    port, workers, close = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["close"]
    server = socket.create_server(("127.0.0.1", port), backlog=1024)
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server.setblocking(False)
    for _ in range(workers - 1):
        if not os.fork():
            break
    work(server, close)
