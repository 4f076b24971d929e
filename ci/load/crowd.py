"""Many clients at once that never come to an end, in a process of their own: each sends the beginning of a request,
then a piece now and then, and what the service says to that is counted.

    with Crowd(port, 60, Kind(b"POST / HTTP/1.1...", b"x", 0.2)) as crowd:
        crowd.until("408", 60)

Counted: each status that comes, `closed` and `reset` for connections that ended without one, `refused`, and `begun`:
clients whose beginning is sent (or whose connection has ended before).
"""

from __future__ import annotations

import errno
import heapq
import json
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, Self

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
KEPT = 12  # bytes of the last piece that may be the beginning of a status line
DEADLINE = 30.0
SAID_EVERY = 0.05  # seconds between two looks at what is counted
TURN = 200  # pieces due that are sent before sockets are looked at again


class Kind(NamedTuple):
    """What a client sends first, then which piece, every so many seconds (0: none), and whether it reads."""

    first: bytes
    piece: bytes = b""
    every: float = 0.0
    reads: bool = True


class Client:
    """One client; connects again when its connection ends, if the crowd insists."""

    def __init__(self, loop: Loop, kind: Kind) -> None:
        self.loop = loop
        self.kind = kind
        self.has_begun = False
        self.connect()

    def connect(self) -> None:
        self.has_said = False  # the service has, with a final status
        self.tail = b""
        self.left = self.kind.first
        self.socket = socket.socket()
        if not self.kind.reads:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.setblocking(False)
        self.fd = self.socket.fileno()
        self.loop.clients[self.fd] = self
        self.watched = select.EPOLLOUT | (select.EPOLLIN if self.kind.reads else 0)
        self.loop.epoll.register(self.fd, self.watched)
        error = self.socket.connect_ex(("127.0.0.1", self.loop.port))
        if error and error != errno.EINPROGRESS:
            self.ended("refused")

    def ready(self, mask: int) -> None:
        try:
            if mask & ~select.EPOLLOUT:
                self.receive()
            if mask & select.EPOLLOUT and self.loop.clients.get(self.fd) is self:
                self.send()
        except BlockingIOError:
            pass
        except OSError as error:
            self.ended("refused" if error.errno == errno.ECONNREFUSED else "reset")

    def receive(self) -> None:
        data = self.socket.recv(262144)
        for status in STATUS.findall(self.tail + data):
            self.loop.counts[status.decode()] += 1
            self.has_said |= not status.startswith(b"1")
        self.tail = (self.tail + data)[-KEPT:]
        if not data:
            self.ended("closed")

    def send(self) -> None:
        self.left = self.left[self.socket.send(self.left) :] if self.left else b""
        if not self.left:
            self.begun()
            if self.kind.every and self.watched & select.EPOLLOUT:
                self.loop.later(self.kind.every, self.drip, self.socket)
            self.watch(select.EPOLLIN if self.kind.reads else 0)

    def watch(self, mask: int) -> None:
        self.watched = mask
        self.loop.epoll.modify(self.fd, mask)

    def drip(self, of: socket.socket) -> None:
        """A piece more, on this connection only."""
        if of is self.socket and of.fileno() >= 0:
            try:
                of.send(self.kind.piece)
            except BlockingIOError:
                pass
            except OSError:
                self.ended("reset")
                return
            self.loop.later(self.kind.every, self.drip, of)

    def begun(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            self.loop.counts["begun"] += 1

    def ended(self, how: str) -> None:
        if not self.has_said:
            self.loop.counts[how] += 1
        self.begun()
        del self.loop.clients[self.fd]
        self.socket.close()
        if self.loop.insists:
            self.loop.later(self.loop.insists, lambda _: self.connect(), self.socket)


class Loop:
    """All clients, in the crowd's process."""

    def __init__(self, port: int, count: int, kinds: list[Kind], insists: float) -> None:
        self.port = port
        self.insists = insists
        self.counts: Counter[str] = Counter()
        self.clients: dict[int, Client] = {}
        self.epoll = select.epoll()
        self.due: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self.number = 0
        self.all = [Client(self, kinds[number % len(kinds)]) for number in range(count)]

    def later(self, seconds: float, call: Callable[[Any], None], about: Any) -> None:
        self.number += 1
        heapq.heappush(self.due, (time.monotonic() + seconds, self.number, call, about))

    def run(self) -> None:
        """Until standard input ends; then the last counts."""
        self.epoll.register(0, select.EPOLLIN | select.EPOLLHUP)
        said, told = "", 0.0
        while True:
            now = time.monotonic()
            for _ in range(TURN):
                if not self.due or self.due[0][0] > now:
                    break
                _, _, call, about = heapq.heappop(self.due)
                call(about)
            wait = min(SAID_EVERY, max(0.0, self.due[0][0] - now) if self.due else SAID_EVERY)
            events = self.epoll.poll(wait, 256)
            if any(fd == 0 for fd, _ in events):
                break
            for fd, mask in events:
                if fd in self.clients:
                    self.clients[fd].ready(mask)
            if now > told + SAID_EVERY and said != (said := json.dumps(self.counts)):
                told = now
                print(said, flush=True)
        print(json.dumps(self.counts), flush=True)


class Crowd:
    """So many clients of these kinds in turn, within a `with`. With `insists` each comes back so many seconds after its
    connection has ended."""

    def __init__(self, port: int, count: int, *kinds: Kind, insists: float = 0.0) -> None:
        self.count = count
        self.counts: Counter[str] = Counter()
        self.given = {"port": port, "count": count, "insists": insists,
                      "kinds": [[kind.first.decode("latin-1"), kind.piece.decode("latin-1"), kind.every, kind.reads]
                                for kind in kinds]}  # fmt: skip

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self.given) + "\n")
        self.process.stdin.flush()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.until("begun", self.count)
        return self

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.counts = Counter(json.loads(line))

    def until(self, what: str, number: int, deadline: float = DEADLINE) -> None:
        """Wait until so many are counted in all."""
        end = time.monotonic() + deadline
        while self.counts[what] < number:
            if time.monotonic() > end or self.process.poll() is not None:
                raise TimeoutError(f"{what}: {number} of {self.count} clients not within {deadline:g} s: {self.counts}")
            time.sleep(0.01)

    @property
    def told(self) -> Counter[str]:
        """What the service has said to them."""
        return Counter({what: number for what, number in self.counts.items() if what != "begun"})

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()
        self.reader.join(DEADLINE)


def main() -> int:
    given = json.loads(sys.stdin.readline())
    kinds = [Kind(first.encode("latin-1"), piece.encode("latin-1"), every, reads)
             for first, piece, every, reads in given["kinds"]]  # fmt: skip
    Loop(given["port"], given["count"], kinds, given["insists"]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
