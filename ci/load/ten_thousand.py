"""Ten thousand connections at once: each held by a thread of its own, or parked.

    ten_thousand.py [held|parked ...] [--connections N] [--python PATH]

Prints figures, judges them by the promises, and fails if one is broken.
"""

import argparse
import json
import select
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from load.service import Service, raise_limits, verdict  # after its path

ECHO = """
def init(server):
    server.set_stack_size(128 * 1024)

def service_connection(stream):
    while line := stream.readline():
        stream.write(line)
"""
HTTP = """
from .runtime.http import Router

routes = Router()

@routes.get("/")
def index(request):
    return b"hello"
"""
AT_ONCE = 500  # new ones at a time, so that the queue of connections (somaxconn) does not overflow
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def answers(sockets: dict[int, socket.socket], expected: dict[int, bytes], deadline: float) -> Iterator[int]:
    """Descriptors as the end of each one's answer arrives."""
    poller = select.epoll()
    for fd in sockets:
        poller.register(fd, select.EPOLLIN)
    received = dict.fromkeys(sockets, b"")
    left = set(sockets)
    while left:
        patience = deadline - time.monotonic()
        if patience <= 0:
            sys.exit(f"{len(left)} of {len(sockets)} connections got no answer")
        for fd, _ in poller.poll(patience):
            data = sockets[fd].recv(4096)
            if not data:
                sys.exit("a connection was closed")
            received[fd] += data
            if received[fd].endswith(expected[fd]):
                left.discard(fd)
                yield fd
    poller.close()


def open_all(
    service: Service, count: int, message: bytes, tail: bytes | None
) -> tuple[dict[int, socket.socket], float]:
    """Connect, say something, and wait for all answers. Returns the connections and how long that took."""
    began = time.monotonic()
    sockets: dict[int, socket.socket] = {}
    while len(sockets) < count:
        fresh = {connection.fileno(): connection for connection in (service.connect() for _ in range(AT_ONCE))}
        sockets |= fresh
        again(fresh, message, tail, len(sockets))
    return sockets, time.monotonic() - began


def again(sockets: dict[int, socket.socket], message: bytes, tail: bytes | None, first: int = 0) -> float:
    """Every connection says something, of its own where `message` has room for a number; all get their answers."""
    began = time.monotonic()
    every = list(sockets.items())
    for at in range(0, len(every), AT_ONCE):
        some, expected = dict(every[at : at + AT_ONCE]), {}
        for number, (fd, connection) in enumerate(some.items(), first + at):
            text = message % number if tail is None else message
            connection.sendall(text)
            expected[fd] = text if tail is None else tail
        for _ in answers(some, expected, time.monotonic() + 60):
            pass
    return time.monotonic() - began


def show(service: Service, count: int, opened: float, once_more: float) -> dict[str, float]:
    figures: dict[str, float] = dict(service.measure())
    figures |= {"connections": count, "opened_s": round(opened, 2), "again_s": round(once_more, 2)}
    print(json.dumps(figures))
    return figures


def held(count: int, python: str) -> bool:
    """A thread for each connection."""
    print(f"{count} connections, each held by a thread of its own:")
    with Service("threaded", "stream", ECHO, "-n", "5", "-m", str(count), "-q", "4096", python=python) as service:
        sockets, opened = open_all(service, count, b"hello %d\n", None)
        once_more = again(sockets, b"again %d\n", None)
        figures = show(service, count, opened, once_more)
        for connection in sockets.values():
            connection.close()
    return all(
        (
            verdict("each has a thread", figures["threads"] >= count),
            verdict(f"PSS {figures['pss'] / 1024:.0f} MiB, below 250", figures["pss"] < 250 * 1024),
            verdict(f"virtual size {figures['vsz'] / 2**20:.2f} GiB, below 2 GB", figures["vsz"] * 1024 < 2e9),
            verdict(f"all connected and answered in {opened:.2f} s, below 5", opened < 5),
        )
    )


def parked(count: int, python: str) -> bool:
    """Connections that wait for a next request cost no worker."""
    good = True
    for pool, flags, name in (
        ("prefork", ("-n", "4", "-m", "4"), "4 processes"),
        ("threaded", ("-n", "8", "-m", "8"), "one host with 8 threads"),
    ):
        print(f"{count} connections parked by {name}:")
        with Service(
            pool, "http", HTTP, *flags, "-q", "4096", "--max-connections", str(count), python=python
        ) as service:
            sockets, first = open_all(service, AT_ONCE, REQUEST, b"hello")
            before = service.measure()["pss"]  # by now each process has its own copy of what it writes to
            more, opened = open_all(service, count - AT_ONCE, REQUEST, b"hello")
            sockets |= more
            once_more = again(sockets, REQUEST, b"hello")
            figures = show(service, count, first + opened, once_more)
            each = (figures["pss"] - before) / (count - AT_ONCE)
            good &= verdict(f"{each:.2f} KiB for each, below 2", each < 2)
            good &= verdict("no more threads than before", figures["threads"] < 30)
            for connection in sockets.values():
                connection.close()
    return good


def main() -> int:
    scenarios = {"held": held, "parked": parked}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help=f"of {', '.join(scenarios)}; default all")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--python", default="/usr/bin/python3", help="that runs the service")
    given = parser.parse_args()
    if unknown := set(given.scenarios) - set(scenarios):
        parser.error(f"unknown: {', '.join(unknown)}")
    count = raise_limits(given.connections)
    results = [scenarios[name](count, given.python) for name in given.scenarios or scenarios]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
