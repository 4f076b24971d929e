"""A load generator that counts exactly: what was sent, what came back, what was wrong, what was lost.

One epoll loop, many keep-alive connections, one request at a time on each. Every request has a number, and its answer
must hold the same number, once, in order, and nothing after it. wrk is faster, but it only knows how many came back.
"""

from __future__ import annotations

import dataclasses
import re
import select
import socket
import time
from collections.abc import Callable, Iterator

LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d+)\r\n")
Address = tuple[str, int]


@dataclasses.dataclass
class Result:
    sent: int = 0
    answered: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    lost: list[tuple[int, int]] = dataclasses.field(default_factory=list)  # connection, request
    reconnected: int = 0
    left: set[bytes] = dataclasses.field(default_factory=set)  # workers that had answered on connections that ended
    took: list[float] = dataclasses.field(default_factory=list)  # seconds, of each answered request
    moved: set[int] = dataclasses.field(default_factory=set)  # connections that were answered by several workers
    seconds: float = 0.0

    def percentile(self, share: float) -> float:
        """Seconds that this share of the requests took at most."""
        return sorted(self.took)[min(len(self.took) - 1, int(len(self.took) * share))]

    def __str__(self) -> str:
        return (
            f"{self.sent} sent, {self.answered} answered, {len(self.wrong)} wrong, {len(self.lost)} lost,"
            f" {self.answered / self.seconds:.0f}/s, p50 {self.percentile(0.5) * 1e3:.1f} ms,"
            f" p99 {self.percentile(0.99) * 1e3:.1f} ms, worst {max(self.took) * 1e3:.1f} ms"
        )


class Client:
    """One connection. What is answered is «number worker»."""

    def __init__(self, load: Load, number: int) -> None:
        self.load = load
        self.number = number
        self.request = -1  # the one in flight
        self.since = 0.0
        self.data = b""
        self.worker = b""
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(self.load.address, timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.worker = b""
        self.load.clients[self.socket.fileno()] = self
        self.load.epoll.register(self.socket, select.EPOLLIN)

    def send(self) -> None:
        """The next request, if more are wanted."""
        request = self.load.next_request()
        if request is None:
            return
        self.request = request
        self.load.waiting += 1
        self.load.result.sent += 1
        self.since = time.perf_counter()
        target = self.load.target(request)
        try:
            self.socket.send(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        except OSError:
            return  # the loop sees the end of this connection, and counts the request as lost

    def ready(self) -> None:
        try:
            data = self.socket.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.gone()
            return
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(self.data, 0, end + 2)
        size = end + 4 + int(length[1] if length else 0)
        if len(self.data) < size:
            return
        answer, body, rest = self.data[:end], self.data[end + 4 : size], self.data[size:]
        self.data = b""
        self.check(answer, body, rest)
        if b"\r\nConnection: close" in answer:
            self.again()
        self.send()

    def check(self, answer: bytes, body: bytes, rest: bytes) -> None:
        result = self.load.result
        number, _, worker = body.partition(b" ")
        if not answer.startswith(b"HTTP/1.1 200 ") or number != b"%d" % self.request or rest or self.request < 0:
            result.wrong.append(f"to {self.request}: {answer[:50]!r} {body[:50]!r} {rest[:50]!r}")
        else:
            result.took.append(time.perf_counter() - self.since)
            result.answered += 1
        if self.worker and worker != self.worker:
            result.moved.add(self.number)
        self.worker = worker
        self.done()

    def done(self) -> None:
        if self.request >= 0:
            self.load.waiting -= 1
        self.request = -1

    def gone(self) -> None:
        """The connection has ended; with a request in flight, that one is lost."""
        if self.request >= 0:
            self.load.result.lost.append((self.number, self.request))
        self.load.result.left.add(self.worker)
        self.done()
        self.again()
        self.send()

    def again(self) -> None:
        self.close()
        self.data = b""
        self.load.result.reconnected += 1
        self.connect()

    def close(self) -> None:
        del self.load.clients[self.socket.fileno()]
        self.socket.close()


class Load:
    """`connections` clients that ask for `target(number)`; `requests` of them, or for `seconds`."""

    def __init__(
        self,
        address: Address,
        connections: int,
        target: Callable[[int], str] = "/n/{}".format,
        requests: int = 0,
        seconds: float = 0.0,
        until: Callable[[], bool] = lambda: False,
    ) -> None:
        self.address = address
        self.target = target
        self.requests = requests
        self.seconds = seconds
        self.until = until
        self.waiting = 0
        self.stopped = False
        self.result = Result()
        self.epoll = select.epoll()
        self.clients: dict[int, Client] = {}
        self.all = [Client(self, number) for number in range(connections)]

    def next_request(self) -> int | None:
        if self.stopped or (self.requests and self.result.sent >= self.requests):
            return None
        return self.result.sent

    def run(self, patience: float = 30.0) -> Result:
        """Raises AssertionError when an answer takes longer than `patience` seconds."""
        began = time.perf_counter()
        for client in self.all:
            client.send()
        while self.waiting:
            events = self.epoll.poll(patience)
            assert events, f"{self.waiting} requests without an answer for {patience:g} s"
            for fd, _ in events:
                if fd in self.clients:
                    self.clients[fd].ready()
            now = time.perf_counter()
            self.stopped = self.stopped or bool(self.seconds and now - began > self.seconds) or self.until()
        self.result.seconds = time.perf_counter() - began
        for fd, _ in self.epoll.poll(0.05):  # nothing may come that was not asked for
            try:
                more = self.clients[fd].socket.recv(1000)
            except OSError:
                more = b""
            if more:
                self.result.wrong.append(f"unasked: {more!r}")
        return self.result

    def close(self) -> None:
        for client in self.all:
            client.close()
        self.epoll.close()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def opened(address: Address, count: int, data: bytes = b"") -> Iterator[socket.socket]:
    """Connections that have sent `data`, and nothing more."""
    for _ in range(count):
        one = socket.create_connection(address, timeout=20)
        if data:
            one.sendall(data)
        yield one
