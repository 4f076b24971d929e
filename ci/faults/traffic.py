"""A steady load of clients that never retry, and the account of what became of every request.

Half of the clients keep their connection for as long as the service lets them; the others make one for each request.
Each request asks for a number of its own, so that an answer to another request is seen. A connection counts
as `before` when it was established before `mark()` was called, else as `after`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any

PATIENCE = 20.0  # seconds that a request may take
PAUSE = 0.003  # seconds between attempts while connections are refused
OUTCOMES = ("answered", "refused", "reset", "late", "wrong")


class Account:
    """Outcomes by when the connection was established."""

    def __init__(self) -> None:
        self.before: Counter[str] = Counter()
        self.after: Counter[str] = Counter()
        self.examples: list[str] = []

    def total(self, what: str) -> int:
        return self.before[what] + self.after[what]

    @property
    def failed(self) -> int:
        """Requests without the right answer; refused ones were never sent."""
        return sum(self.total(what) for what in ("reset", "late", "wrong"))


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: Load, keep: bool) -> None:
        self.load = load
        self.keep = keep
        self.buffer = b""
        self.number = 0  # of the request that is waited for; 0 = none
        self.sent = 0.0
        self.next: asyncio.TimerHandle | None = None  # in a pause between two requests
        self.done: asyncio.Future[None] = load.loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.established = time.monotonic()
        self.ask()

    def ask(self) -> None:
        load = self.load
        if load.stopping:
            self.transport.close()
            return
        load.count += 1
        self.number = load.count
        self.sent = time.monotonic()
        self.buffer = b""
        close = b"" if self.keep else b"Connection: close\r\n"
        self.transport.write(b"GET /number/%d HTTP/1.1\r\nHost: test\r\n%b\r\n" % (self.number, close))
        load.sent += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        fields = head.lower()
        start = fields.find(b"content-length: ")
        length = int(fields[start + 16 :].split(b"\r\n")[0]) if start >= 0 else -1
        if len(body) < length:
            return
        right = head.startswith(b"HTTP/1.1 200 ") and body == b"%d" % self.number
        self.finish("answered" if right else "wrong", self.buffer[:200])
        if self.keep and b"connection: close" not in fields and not self.load.stopping:
            if self.load.pause:
                self.next = self.load.loop.call_later(self.load.pause, self.ask)
            else:
                self.ask()
        else:
            self.transport.close()

    def finish(self, what: str, detail: object = "") -> None:
        self.number = 0
        self.next = None
        self.load.record(what, self.established, self.sent, detail)

    def connection_lost(self, error: Exception | None) -> None:
        if self.next is not None:
            self.next.cancel()
        if self.number:
            self.finish("reset", f"after {len(self.buffer)} bytes of an answer: {error}")
        if not self.done.done():
            self.done.set_result(None)


class Load:
    """`start()` the clients in a thread, `mark()` the moment of a fault, `stop()` and look at `account`."""

    def __init__(self, port: int, clients: int = 16, pause: float = 0.0) -> None:
        self.port = port
        self.clients = clients
        self.pause = pause  # seconds between two requests of a client
        self.account = Account()
        self.count = self.sent = 0
        self.marked = float("inf")
        self.recovered: float | None = None  # seconds from the mark to the first answer on a connection made after it
        self.waits: list[float] = []  # seconds that each answered request took, since `taken()`
        self.stopping = False
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def start(self) -> Load:
        self.thread.start()
        return self

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.all_clients())
        self.loop.close()

    async def all_clients(self) -> None:
        await asyncio.gather(*(self.client(number % 2 == 0) for number in range(self.clients)))

    async def client(self, keep: bool) -> None:
        while not self.stopping:
            try:
                _, client = await self.loop.create_connection(lambda: Client(self, keep), "127.0.0.1", self.port)
            except OSError as error:
                now = time.monotonic()
                self.record("refused" if isinstance(error, ConnectionRefusedError) else "reset", now, now, error)
                await asyncio.sleep(PAUSE)
                continue
            while not client.done.done():
                await asyncio.wait([client.done], timeout=1.0)
                if client.number and time.monotonic() - client.sent > PATIENCE:
                    client.finish("late")
                    client.transport.abort()
            if self.pause:
                await asyncio.sleep(self.pause)

    def record(self, what: str, established: float, sent: float, detail: object = "") -> None:
        now = time.monotonic()
        (self.account.after if established >= self.marked else self.account.before)[what] += 1
        if what == "answered":
            self.waits.append(now - sent)
            if self.recovered is None and established >= self.marked:
                self.recovered = now - self.marked
        elif what != "refused" and len(self.account.examples) < 5:
            self.account.examples.append(f"{what} {sent - self.marked:+.4f} s from the mark, connected "
                                         f"{established - self.marked:+.4f} s: {detail!r}")  # fmt: skip

    def taken(self) -> list[float]:
        """The waits so far; those after it are counted anew."""
        taken, self.waits = self.waits, []
        return taken

    def mark(self) -> None:
        """Now the fault comes."""
        self.recovered = None
        self.marked = time.monotonic()

    def until(self, answered: int, deadline: float = 120.0) -> None:
        """Wait for so many more answers."""
        goal = self.account.total("answered") + answered
        end = time.monotonic() + deadline
        while self.account.total("answered") < goal:
            if time.monotonic() > end:
                raise TimeoutError(f"{goal - self.account.total('answered')} of {answered} answers are missing")
            time.sleep(0.005)

    def stop(self) -> Account:
        """Let the clients finish what they have begun."""
        self.stopping = True
        self.thread.join(PATIENCE + 10)
        if self.thread.is_alive():
            raise TimeoutError("clients do not end")
        return self.account
