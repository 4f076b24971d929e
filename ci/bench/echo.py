"""A client for servers of lines: `echo.py held|oneshot PORT CONNECTIONS SECONDS`.

held: every connection says a line, waits for its echo, says the next one. oneshot: a new connection for each line.
Prints JSON: lines echoed, a second, milliseconds at the median and at 99%, and what went wrong.
"""

import json
import selectors
import socket
import sys
import time

LINE = b"a line of ordinary length, as people write them\n"


def opened(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(LINE)
    return sock


def run(once: bool, port: int, connections: int, seconds: float) -> dict[str, float]:
    """Until the time is over; answers that are still to come are waited for."""
    selector = selectors.DefaultSelector()
    errors, took = 0, []
    began = time.perf_counter()
    open_ones = 0

    def start() -> None:
        nonlocal open_ones, errors
        since = time.perf_counter()
        try:
            selector.register(opened(port), selectors.EVENT_READ, [since, b""])
            open_ones += 1
        except OSError:
            errors += 1

    for _ in range(connections):
        start()
    while open_ones:
        for key, _ in selector.select(10):
            sock, state = key.fileobj, key.data
            assert isinstance(sock, socket.socket)
            try:
                data = sock.recv(4096)
            except OSError:
                data = b""
            state[1] += data
            now = time.perf_counter()
            over = now - began > seconds
            if state[1] == LINE:
                took.append(now - state[0])
                if not once and not over:
                    state[:] = [now, b""]
                    sock.sendall(LINE)
                    continue
            elif data and LINE.startswith(state[1]):
                continue
            else:
                errors += 1
            selector.unregister(sock)
            sock.close()
            open_ones -= 1
            if not over:
                start()
    wall = time.perf_counter() - began
    took.sort()
    return {
        "count": len(took),
        "rate": len(took) / wall,
        "p50": took[len(took) // 2] * 1000,
        "p99": took[int(len(took) * 0.99)] * 1000,
        "errors": errors,
    }


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1] == "oneshot", int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
