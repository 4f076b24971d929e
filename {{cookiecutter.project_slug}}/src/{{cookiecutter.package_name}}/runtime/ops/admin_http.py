"""The supervisor's own HTTP: probes and status on --admin, and `ctl`'s requests on the --control socket.

It runs in the supervisor's loop, without threads or user code, so it answers when every worker is busy or dead. One
request per connection; at most 64 connections, 8 KiB and 5 seconds each, and never a blocking write.
"""

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

MOST_CONNECTIONS = 64  # one more and the oldest is closed, so that idle ones cannot lock probes out
TIMEOUT = 5.0  # seconds for a request to arrive, and again for its answer to be read
ACCEPT_BATCH = 16  # connections accepted per turn of the loop
ACCEPT_PAUSE = 0.5  # seconds without accepting when descriptors have run out
LOG_INTERVAL = 60.0  # seconds between two lines of the log about that
LIMITS = Limits(line=2048, head=8192, fields=64)
LOCAL_PEERCRED = 1  # FreeBSD and macOS: an option of level 0 that reads a struct xucred, version and user first


class Answer(NamedTuple):
    """The answer to one request."""

    status: int
    body: str
    content_type: str = "text/plain; charset=utf-8"
    policy: str = "default-src 'none'"  # Content-Security-Policy


Reply = Callable[[Answer], None]
Page = Callable[[str, Reply], Answer | None]  # is given the query; None: it replies once, when something has ended


class AdminConnection:
    """One connection: reads a request, writes its answer, closes."""

    def __init__(self, server: "AdminServer", sock: socket.socket, trusted: bool) -> None:
        self.server = server
        self.trusted = trusted
        self.socket = sock
        self.deadline = time.monotonic() + TIMEOUT
        self.input = self.output = b""
        self.method = ""  # of the request, once its head has arrived
        self.closed = False

    def on_event(self) -> None:
        try:
            if self.output:
                self.write()
            else:
                self.read()
        except BlockingIOError:
            return
        except OSError:  # the client has left
            self.close()

    def read(self) -> None:
        data = self.socket.recv(LIMITS.head)
        if not data:
            self.close()  # also while the answer is waited for, as that of a reload
        elif not self.method:  # what follows the request is ignored
            self.input += data
            self.dispatch()

    def dispatch(self) -> None:
        """Give the request to its page, once its head is complete."""
        try:
            found = parse_head(self.input, LIMITS)
        except ProtocolError as error:
            self.reply(Answer(error.status, error.reason + "\n"))
            return
        if found is None:
            return
        head, _ = found
        self.method = head.method
        pages = self.server.pages
        page = pages.get(("GET" if head.method == "HEAD" else head.method, head.path))
        if not self.trusted:
            self.reply(Answer(403, "only the service's own user and root have access\n"))
        elif not self.server.has_name(head.host):
            self.reply(Answer(421, "not a name of this endpoint: ask by its address, or by the name in --admin\n"))
        elif page is None:
            self.reply(Answer(405 if any(path == head.path for _, path in pages) else 404, "no such page\n"))
        else:
            self.deadline = float("inf")  # what a page waits for has a time limit of its own
            try:
                answer = page(head.query, self.reply)
            except Exception:  # of this question alone
                log.exception("the page %s cannot be made", head.path)
                answer = Answer(500, "this page cannot be made; see the log\n")
            if answer is not None:
                self.reply(answer)

    def reply(self, answer: Answer) -> None:
        if self.closed:
            return
        body = answer.body.encode()
        self.output = (
            f"HTTP/1.1 {answer.status} {REASONS[answer.status]}\r\nContent-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
            f"Content-Security-Policy: {answer.policy}\r\nConnection: close\r\n\r\n"
        ).encode() + (b"" if self.method == "HEAD" else body)
        self.deadline = time.monotonic() + TIMEOUT
        self.server.selector.modify(self.socket, selectors.EVENT_WRITE, self.on_event)
        self.on_event()

    def write(self) -> None:
        self.output = self.output[self.socket.send(self.output) :]
        if not self.output:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.server.connections.remove(self)
            self.server.selector.unregister(self.socket)
            self.socket.close()


class AdminServer:
    """A listening endpoint in the supervisor's loop; `pages` maps (method, path) to a function."""

    def __init__(
        self, selector: selectors.BaseSelector, listener: Listener, pages: Mapping[tuple[str, str], Page], private: bool
    ) -> None:
        self.selector = selector
        self.listener = listener
        self.pages = pages
        self.private = private  # for this user and root alone, as far as the system tells the peer's user
        self.connections: list[AdminConnection] = []
        self.closed = False
        self.paused_until = self.logged_until = 0.0  # no accepting, and no further line about it, before that
        listener.listen(1024)
        selector.register(listener.socket, selectors.EVENT_READ, self.accept)

    def accept(self) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                sock, _ = self.listener.socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # descriptors have run out
                self.free_descriptors(error)
                return
            sock.setblocking(False)
            if len(self.connections) >= MOST_CONNECTIONS:
                self.connections[0].close()
            connection = AdminConnection(self, sock, not self.private or peer_user(sock) in (None, 0, os.geteuid()))
            self.connections.append(connection)
            self.selector.register(sock, selectors.EVENT_READ, connection.on_event)
            connection.on_event()  # a probe's request has often arrived already

    def free_descriptors(self, error: OSError) -> None:
        """Close the oldest connections; without one, pause: the listener stays readable, and the loop would spin."""
        now = time.monotonic()
        if now >= self.logged_until:
            self.logged_until = now + LOG_INTERVAL
            log.warning("%s: cannot accept: %s; trying again twice a second", self.listener.address, error.strerror)
        if not self.connections:
            self.paused_until = now + ACCEPT_PAUSE
            self.selector.unregister(self.listener.socket)
        for connection in self.connections[:8]:
            connection.close()

    def has_name(self, host: str) -> bool:
        """Whether a request for this host[:port] is for us. A page of another site may have its name resolved to our
        address (DNS rebinding), but that is no address, and has a dot: without one it a container is found by it."""
        name = host.partition(":")[0].lower()
        known = {"", "localhost", self.listener.address.rpartition(":")[0].lower()}
        if self.listener.socket.family == socket.AF_UNIX or name in known:
            return True
        if host.startswith("[") or name.replace(".", "").isdigit():  # an address
            return True
        return "." not in name and "localhost" not in name  # no name that only looks like this machine's

    def expire(self, now: float) -> None:
        """Close connections whose deadline has passed, and end a pause; called once a second at least."""
        if self.paused_until and now >= self.paused_until and not self.closed:
            self.paused_until = 0.0
            self.selector.register(self.listener.socket, selectors.EVENT_READ, self.accept)
        for connection in [one for one in self.connections if now >= one.deadline]:
            connection.close()

    def sockets(self) -> list[socket.socket]:
        return [self.listener.socket, *(connection.socket for connection in self.connections)]

    def close(self) -> None:
        """Stop listening and remove the socket file; answers that are on their way get one more chance."""
        if not self.closed:
            self.closed = True
            for connection in list(self.connections):
                if connection.output:
                    connection.on_event()
                connection.close()
            if not self.paused_until:
                self.selector.unregister(self.listener.socket)
            self.listener.remove()


def peer_user(sock: socket.socket) -> int | None:
    """The user at the other end of a UNIX socket; None where the system does not tell (the file's mode must do)."""
    try:
        if hasattr(socket, "SO_PEERCRED"):  # Linux: pid, user, group
            return int(struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
        if sys.platform.startswith("freebsd") or sys.platform == "darwin":
            return int(struct.unpack_from("II", sock.getsockopt(0, LOCAL_PEERCRED, 128))[1])
    except OSError:
        return -1  # the peer has left already
    return None
