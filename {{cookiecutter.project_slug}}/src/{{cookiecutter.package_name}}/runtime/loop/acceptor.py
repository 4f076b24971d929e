"""Where connections come into a worker's loop: from its listeners, and from siblings that hand theirs over."""

import socket
import struct
from typing import TYPE_CHECKING

from ..http.connection import BODY, CLOSED, HANDLING
from ..ipc import fd_passing
from ..ipc.scoreboard import ACCEPTED
from ..system.listeners import Listener, peer_of
from .selector import READ

if TYPE_CHECKING:
    from .event_loop import EventLoop


# Of a connection handed over: requests served so far, deadline (all processes have one monotonic clock), and whether
# the bytes received, which follow, are an unfinished head.
HANDED_HEAD = struct.Struct("!Id?")
HANDED_MOST = 49152  # bytes received that travel with a connection; more stay where they are
CROWD = 64  # connections taken from a listener in one turn, at most
ENOUGH = 0.002  # seconds that a turn may have lasted when one more is taken


class Acceptor:
    """A listener in the loop."""

    def __init__(self, loop: "EventLoop", listener: Listener) -> None:
        self.loop = loop
        self.listener = listener
        self.socket = listener.socket
        self.fd = listener.socket.fileno()
        self.mask = 0
        self.most = 1  # taken in the next turn

    def ready(self, mask: int) -> None:
        """Take one, and twice as many each time that more were there: one per turn would keep the last of 256 newcomers
        waiting for 128 turns, and to look once too often costs a tenth of a connection."""
        loop = self.loop
        end = loop.now + ENOUGH  # the loop's `now` may move: somebody may stand in for it meanwhile
        for _ in range(self.most):
            # By now, a first request may have made the worker let go of the listener, or close it.
            if not (self.mask and loop.may_accept() and self.accept()) or loop.moment > end:
                self.most = 1
                return
        self.most = min(2 * self.most, CROWD)

    def accept(self, serve: bool = True) -> bool:
        """Take one connection out of the queue; False when it is empty or nothing can be taken now (`loop.short`)."""
        loop = self.loop
        try:
            sock, peer = self.socket.accept()
        except BlockingIOError:
            return False  # a sibling was faster
        except ConnectionAbortedError:
            return True  # its client has left: that was one
        except OSError as error:  # no descriptors, no memory; Linux tells of the network's errors here too (accept(2))
            loop.scarce(f"cannot accept: {error.strerror}; accepting pauses until connections close")
            return False
        loop.plenty()
        sock.setblocking(False)
        loop.words[loop.base + ACCEPTED] += 1
        connection = loop.connect(loop, sock, peer_of(peer))
        loop.admit(connection)
        if serve:
            connection.ready(READ)  # a request is often there already; if not, it costs a microsecond
        if connection.state not in (CLOSED, HANDLING) and not connection.mask:
            loop.watch(connection, READ)
        return True


class Receiver:
    """The generation's pair, from which connections come that a busy sibling handed over."""

    def __init__(self, loop: "EventLoop", end: socket.socket) -> None:
        self.loop = loop
        self.pair = end
        self.fd = end.fileno()
        self.mask = 0

    def ready(self, mask: int) -> None:
        if self.loop.is_turn():
            self.receive()

    def receive(self) -> bool:
        """Take over one connection; False when there is none, or no descriptor for it."""
        loop = self.loop
        try:
            taken = fd_passing.receive(self.pair, HANDED_HEAD.size + HANDED_MOST)
        except OSError as error:
            loop.scarce(f"cannot take over a connection: {error.strerror}; accepting pauses until connections close")
            return False
        if taken is None:
            return False
        data, sock = taken
        if sock is None:
            return True
        sock.setblocking(False)
        try:
            peer = peer_of(sock.getpeername())
        except OSError:  # the client left on the way
            sock.close()
            return True
        served, deadline, unfinished = HANDED_HEAD.unpack_from(data)
        connection = loop.connect(loop, sock, peer, data[HANDED_HEAD.size :], served)
        connection.deadline = deadline
        loop.admit(connection)
        loop.watch(connection, READ)
        if unfinished:
            connection.seen = len(connection.buffer)
        else:
            connection.go_on()
            if connection.state == BODY:
                connection.deadline = deadline
        if loop.draining:
            connection.drain()
        return True
