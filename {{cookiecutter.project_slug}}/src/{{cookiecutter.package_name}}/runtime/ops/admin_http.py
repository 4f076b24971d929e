"""The supervisor's own HTTP: probes and status on --admin, and `ctl`'s requests on the --control socket.

It runs in the supervisor's loop, without threads or user code, so it answers when every worker is busy or dead. One
request per connection; at most 64 connections, 8 KiB and 5 seconds each, and never a blocking write.
"""

import json
import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..http1.parser import Limits, ProtocolError, parse_head
from ..http1.reasons import REASONS
from ..log.records import log
from ..system.listeners import Listener

MOST = 64  # connections; one more and the oldest is closed, so that idlers cannot lock probes out
PATIENCE = 5.0  # seconds for a request to arrive, and again for its answer to be read
AT_ONCE = 16  # connections accepted per turn of the loop
PAUSE = 0.5  # seconds without accepting when nothing is left to accept with
QUIET = 60.0  # seconds in which the log hears of that once
LIMITS = Limits(line=2048, head=8192, fields=64)
LOCAL_PEERCRED = 1  # FreeBSD and macOS: an option of level 0 that reads a struct xucred, version and user first


class Answer(NamedTuple):
    """What a page function returns."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"
    policy: str = "default-src 'none'"  # Content-Security-Policy


class Later:
    """What a page function returns to answer when something has happened: call `answer` then."""

    def __init__(self) -> None:
        self.visitor: AdminConnection | None = None
        self.early: Answer | None = None  # what happened before the page function had returned

    def answer(self, answer: Answer) -> None:
        if self.visitor is None:
            self.early = answer
        else:
            self.visitor.reply(answer)


Page = Callable[[str], Answer | Later]  # its argument is the query


class AdminConnection:
    """One connection."""

    def __init__(self, desk: "AdminServer", sock: socket.socket, trusted: bool) -> None:
        self.desk = desk
        self.trusted = trusted
        self.socket = sock
        self.deadline = time.monotonic() + PATIENCE
        self.buffer = b""
        self.out = b""
        self.method = ""
        self.closed = False

    def on_event(self) -> None:
        try:
            if self.out:
                self.write()
                return
            data = self.socket.recv(LIMITS.head)
            if not data:
                self.close()  # also somebody who waits for a reload and leaves
                return
            if self.method:
                return  # it has asked already: what follows is ignored
            self.buffer += data
            self.ask()
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def ask(self) -> None:
        try:
            found = parse_head(self.buffer, LIMITS)
        except ProtocolError as error:
            self.reply(Answer(error.status, error.reason + "\n"))
            return
        if found is None:
            return
        head, _ = found
        self.method = head.method
        if not self.trusted:
            self.reply(Answer(403, "only the service's own user and root may ask here\n"))
            return
        page = self.desk.pages.get(("GET" if head.method == "HEAD" else head.method, head.path))
        if page is None:
            known = any(path == head.path for _, path in self.desk.pages)
            self.reply(Answer(405 if known else 404, "no such page\n"))
            return
        result = page(head.query)
        if isinstance(result, Later):
            result.visitor = self
            self.deadline = float("inf")  # whatever is waited for has a time limit of its own
            if result.early is not None:
                self.reply(result.early)
        else:
            self.reply(result)

    def reply(self, answer: Answer) -> None:
        if self.closed:
            return
        body = answer.body.encode()
        self.out = (
            f"HTTP/1.1 {answer.status} {REASONS[answer.status]}\r\nContent-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
            f"Content-Security-Policy: {answer.policy}\r\nConnection: close\r\n\r\n"
        ).encode() + (b"" if self.method == "HEAD" else body)
        self.deadline = time.monotonic() + PATIENCE
        try:
            self.write()
        except OSError:  # the client has left
            self.close()

    def write(self) -> None:
        """Send what the client takes now; the rest when it takes more."""
        try:
            self.out = self.out[self.socket.send(self.out) :]
        except BlockingIOError:
            self.desk.selector.modify(self.socket, selectors.EVENT_WRITE, self.on_event)
            return
        if self.out:
            self.desk.selector.modify(self.socket, selectors.EVENT_WRITE, self.on_event)
        else:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.desk.visitors.remove(self)
            self.desk.selector.unregister(self.socket)
            self.socket.close()


class AdminServer:
    """A listening endpoint in the supervisor's loop; `pages` maps (method, path) to a function."""

    def __init__(
        self, selector: selectors.BaseSelector, listener: Listener, pages: Mapping[tuple[str, str], Page], private: bool
    ) -> None:
        self.selector = selector
        self.listener = listener
        self.pages = pages
        self.private = private  # for our own user and root alone, as far as the system tells who asks
        self.visitors: list[AdminConnection] = []
        self.closed = False
        self.paused = self.quiet = 0.0  # until when nobody is accepted, and the log not told of it
        listener.listen(1024)
        selector.register(listener.socket, selectors.EVENT_READ, self.on_visitors)

    def on_visitors(self) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, _ = self.listener.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # descriptors have run out: those of the oldest visitors are ours to free
                self.scarce(error)
                return
            sock.setblocking(False)
            if len(self.visitors) >= MOST:
                self.visitors[0].close()
            visitor = AdminConnection(self, sock, not self.private or peer_user(sock) in (None, 0, os.geteuid()))
            self.visitors.append(visitor)
            self.selector.register(sock, selectors.EVENT_READ, visitor.on_event)
            visitor.on_event()  # a probe's request is often there already

    def scarce(self, error: OSError) -> None:
        """Make room; where there is none to make, wait: the queue stays readable, and the loop would spin."""
        now = time.monotonic()
        if now >= self.quiet:
            self.quiet = now + QUIET
            log.warning("%s: cannot accept: %s; trying again twice a second", self.listener.address, error.strerror)
        if not self.visitors:
            self.paused = now + PAUSE
            self.selector.unregister(self.listener.socket)
        for visitor in self.visitors[:8]:
            visitor.close()

    def expire(self, now: float) -> None:
        """Close those that took too long, and end a pause; called once a second at least."""
        if self.paused and now >= self.paused and not self.closed:
            self.paused = 0.0
            self.selector.register(self.listener.socket, selectors.EVENT_READ, self.on_visitors)
        for visitor in [v for v in self.visitors if now >= v.deadline]:
            visitor.close()

    def sockets(self) -> list[socket.socket]:
        """What a forked child has to close."""
        return [self.listener.socket, *(visitor.socket for visitor in self.visitors)]

    def close(self) -> None:
        """Stop listening and remove the socket file; answers that are on their way get one more chance."""
        if not self.closed:
            self.closed = True
            for visitor in list(self.visitors):
                if visitor.out:
                    visitor.on_event()
                visitor.close()
            if not self.paused:
                self.selector.unregister(self.listener.socket)
            self.listener.remove()


def as_json(value: object, status: int = 200) -> Answer:
    """A page in JSON."""
    return Answer(status, json.dumps(value) + "\n", "application/json")


def peer_user(sock: socket.socket) -> int | None:
    """The user at the other end of a UNIX socket; None where the system does not tell (the file's mode must do)."""
    try:
        if hasattr(socket, "SO_PEERCRED"):  # Linux: pid, user, group
            return int(struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
        if sys.platform.startswith("freebsd") or sys.platform == "darwin":
            return int(struct.unpack_from("II", sock.getsockopt(0, LOCAL_PEERCRED, 128))[1])
    except OSError:
        return -1  # it has left already: nobody
    return None
