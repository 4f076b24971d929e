"""Answers clients while there is no worker that could: their connections wait in the kernel's accept queue meanwhile.

It is a part of the loop of the process that has the listeners then: of the server while no member comes through
worker_init(), of the supervisor while there is no server. It reads nothing of a request but that one has come.
"""

import selectors
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from ..log.records import log
from .listeners import Listener

BOUND = 3.0  # seconds without a worker after which clients are refused, instead of waiting
MOST = 256  # connections held for it; the oldest makes room
BURST = 64  # connections accepted in one turn
SILENCE = 10.0  # seconds for a client to send a request, which is then refused
LINGERING = 2.0  # seconds for it to read that: unread bytes would turn it into a reset
RECEIVE = 65536  # bytes in one turn
UNABLE = "no worker can work"  # what http says of it
RETRY_AFTER = (("Retry-After", "2"),)  # seconds; workers are tried at most 1.6 s apart


class Refusal:
    """`answer` is sent to each client, as its request comes; with none, connections are closed at once. `count` is
    called for each."""

    def __init__(self, selector: selectors.BaseSelector, answer: bytes, count: Callable[[], None]) -> None:
        self.selector = selector
        self.answer = answer
        self.count = count
        self.awake = time.monotonic()  # when it looked last
        self.vacant = 0.0  # seconds without a worker, of which a stall of this process is not one
        self.refuses = False
        self.number = 0  # refused since that began
        self.listeners: list[socket.socket] = []  # that it accepts from
        self.deadlines: dict[socket.socket, float] = {}  # of the connections, the oldest first

    def look(self, is_vacant: bool, listeners: Iterable[Listener]) -> None:
        """Begin or end, as it is needed; called once a second at least."""
        now = time.monotonic()
        self.vacant, self.awake = (self.vacant + min(now - self.awake, 1.0)) if is_vacant else 0.0, now
        if self.vacant >= BOUND and not self.listeners:
            self.begin([one.socket for one in listeners])
        elif self.refuses and not is_vacant:
            self.end()
        for client in [one for one, deadline in self.deadlines.items() if deadline <= now]:
            self.close(client)

    def begin(self, listeners: list[socket.socket]) -> None:
        if not self.refuses:
            log.error("no worker can work, which the log above explains: clients are refused until one can")
            self.number = 0
        self.refuses, self.listeners = True, listeners
        for listener in listeners:
            self.selector.register(listener, selectors.EVENT_READ, partial(self.accept, listener))

    def end(self) -> None:
        """Leave the listeners to workers; those that are accepted already have no worker to go to."""
        if self.refuses:
            log.info("clients are refused no longer; %d were", self.number)
        self.refuses = False
        self.pause()

    def pause(self) -> None:
        for listener in self.listeners:
            self.selector.unregister(listener)
        self.listeners = []

    def accept(self, listener: socket.socket) -> None:
        for _ in range(BURST):
            try:
                client = listener.accept()[0]
            except BlockingIOError:
                return
            except OSError:  # it has left; or descriptors have run out: until the next look
                self.pause()
                return
            client.setblocking(False)
            if len(self.deadlines) >= MOST:
                self.close(next(iter(self.deadlines)))
            self.deadlines[client] = time.monotonic() + SILENCE
            self.selector.register(client, selectors.EVENT_READ, partial(self.refuse, client))
            if not self.answer:
                self.refuse(client)

    def refuse(self, client: socket.socket) -> None:
        """A request begins to come."""
        with suppress(OSError):  # it has left
            if not self.answer or client.recv(RECEIVE):
                self.number += 1
                self.count()
                client.send(self.answer)  # fits into the buffer of any socket
                client.shutdown(socket.SHUT_WR)
                self.deadlines[client] = time.monotonic() + LINGERING
                self.selector.modify(client, selectors.EVENT_READ, partial(self.discard, client))
                return
        self.close(client)

    def discard(self, client: socket.socket) -> None:
        """What it sends beyond, until its end."""
        with suppress(OSError):
            if client.recv(RECEIVE):
                return
        self.close(client)

    def close(self, client: socket.socket) -> None:
        if self.deadlines.pop(client, None) is not None:  # else it was the oldest, and closed in this turn
            self.selector.unregister(client)
            client.close()

    def sockets(self) -> list[socket.socket]:
        """Its connections, which no child has."""
        return list(self.deadlines)

    def disinherit(self) -> None:
        """In a child."""
        for client in self.deadlines:
            client.close()
