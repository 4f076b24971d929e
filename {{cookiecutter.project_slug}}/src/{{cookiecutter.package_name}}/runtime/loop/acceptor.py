"""Where connections come into a loop: from its listeners, and from siblings that hand theirs over."""

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol

from ..ipc import fd_passing
from ..ipc.scoreboard import ACCEPTED, EVICTED, IDLE_SINCE, NO_CAPACITY, Scoreboard
from ..ipc.waker import wait_for
from ..log.records import log
from ..system.listeners import Listener, peer_of
from .accept_balance import AcceptBalance
from .eviction import DEFER, Eviction
from .interfaces import PARCEL_MOST, Engine, Loop, Mode, Pollable, Source
from .selector import READ

BURST = 64  # connections taken from a listener in one turn, at most
TURN = 0.002  # seconds that a turn may have lasted when one more is taken
SHORTAGE = 0.1  # seconds for which accepting pauses when descriptors or memory have run out
RECOVERED = 1.0  # seconds without shortage after which it is over: before, it may well come back in a moment
QUIET = 60.0  # seconds before the log names a shortage again


class AcceptingLoop(Loop, Protocol):
    """The loop as this module sees it: what connections see, and its books."""

    board: Scoreboard
    words: memoryview  # of the board
    base: int  # of this worker's slot in them
    engine: Engine
    table: dict[int, Pollable]
    count: int  # connections held
    is_full: bool
    next_duty: float

    def admit(self, item: Pollable) -> None: ...
    def guarded(self, item: Pollable, action: Callable[..., None], *values: Any) -> None: ...
    def publish(self) -> None: ...


class Acceptor(Source):
    """A listener in the loop."""

    def __init__(self, intake: "Intake", listener: Listener) -> None:
        super().__init__(listener.socket.fileno())
        self.intake = intake
        self.socket = listener.socket
        self.most = 1  # taken in the next turn

    runs_user_code = True  # of a first request

    @property
    def interest(self) -> int:
        return 0 if self.intake.loop.mode else READ

    def ready(self, mask: int) -> None:
        """Take one, and twice as many each time that more were there: one per turn would keep the last of a burst of
        256 waiting for 128 turns, and to look once too often costs a tenth of a connection."""
        loop = self.intake.loop
        end = loop.now + TURN  # `now` moves when a thread stands in meanwhile
        for _ in range(self.most):
            # By now, a first request may have made the worker pause accepting, or close the listener.
            if not (self.mask and self.intake.may_accept() and self.accept()) or loop.moment > end:
                self.most = 1
                return
        self.most = min(2 * self.most, BURST)

    def accept(self, serve: bool = True) -> bool:
        """Take one connection out of the queue; False when it is empty, or there is a shortage."""
        intake = self.intake
        loop = intake.loop
        replaced, intake.replaced = intake.replaced, None
        try:
            try:
                sock, peer = self.socket.accept()
            except OSError as error:
                if not intake.frees_descriptor(error):
                    raise
                replaced = None
                sock, peer = self.socket.accept()
        except BlockingIOError:
            return False  # a sibling was faster
        except ConnectionAbortedError:
            return True  # its client has left: that was one
        except OSError as error:  # no descriptors, no memory; Linux tells of the network's errors here too (accept(2))
            intake.run_short(f"cannot accept: {error.strerror}; accepting pauses until connections close")
            return False
        intake.recover()
        if replaced is not None:
            intake.evict(replaced)
        sock.setblocking(False)
        loop.words[loop.base + ACCEPTED] += 1
        connection = loop.engine.connect(sock, peer_of(peer))
        loop.admit(connection)
        if serve:
            # A request is often there already; if not, it costs a microsecond.
            loop.guarded(connection, connection.ready, READ)
        if not connection.mask and connection.is_parked:
            loop.watch(connection, READ)
        return True


class Receiver(Source):
    """The generation's pair, from which connections come that a busy sibling handed over."""

    def __init__(self, intake: "Intake", end: socket.socket) -> None:
        super().__init__(end.fileno())
        self.intake = intake
        self.pair = end

    runs_user_code = True

    @property
    def interest(self) -> int:
        return 0 if self.intake.loop.mode == Mode.RETIRING else READ  # or it would take back what it hands over

    def ready(self, mask: int) -> None:
        if self.intake.is_turn():
            self.receive()

    def receive(self) -> bool:
        """Take over one connection; False when there is none, or no descriptor for it."""
        loop = self.intake.loop
        try:
            try:
                taken = fd_passing.receive(self.pair, PARCEL_MOST)
            except OSError as error:
                if not is_readable(self.fd) or not self.intake.frees_descriptor(error):
                    raise
                self.intake.frees_descriptor(error)  # it takes two at least
                taken = fd_passing.receive(self.pair, PARCEL_MOST)
        except OSError as error:
            self.intake.run_short(
                f"cannot take over a connection: {error.strerror}; accepting pauses until connections close"
            )
            return False
        if taken is None:
            return False
        parcel, sock, files = taken
        if sock is None:
            return True
        sock.setblocking(False)
        try:
            peer = peer_of(sock.getpeername())
        except OSError:  # the client left on the way
            sock.close()
            for file in files:
                os.close(file)
            return True
        connection = loop.engine.adopt(sock, peer, parcel, files)
        if loop.mode:
            loop.guarded(connection, connection.drain)
        return True


class Intake:
    """All of them, and when they have to pause: for a sibling with fewer connections, or in a shortage."""

    def __init__(self, loop: AcceptingLoop, listeners: list[Listener], end: socket.socket, most: int) -> None:
        self.loop = loop
        self.most = most  # connections held by all workers
        self.balance = AcceptBalance()
        self.eviction = Eviction()
        self.replaced: Pollable | None = None  # at --max-connections: what the next connection takes the place of
        self.paused_until = 0.0  # 0 = the listeners are watched
        self.short_since = 0.0  # when descriptors or permitted connections ran out last; 0 = there are enough
        self.is_told = False  # the log has named the shortage
        self.quiet_until = self.evictions_quiet_until = 0.0
        self.acceptors = [Acceptor(self, listener) for listener in listeners]
        self.receiver = Receiver(self, end)
        for source in self.sources():
            loop.table[source.fd] = source
            loop.watch(source, READ)

    def sources(self) -> list[Source]:
        return [*self.acceptors, self.receiver]

    def may_accept(self) -> bool:
        """False when a sibling should take it (it holds fewer connections), or when --max-connections are held and none
        of them can make room."""
        if sum(self.loop.board.connections) >= self.most:
            return self.is_turn() and self.makes_room()
        return self.is_turn()

    def makes_room(self) -> bool:
        """At --max-connections: choose the connection that the next one replaces. False: a sibling has one that has
        been idle for longer, or there is none."""
        loop, eviction = self.loop, self.eviction
        self.replaced = eviction.choose(loop.table, loop.now, is_readable)
        self.publish_idle()
        if eviction.defers(eviction.oldest, loop.board.longest_idle(), loop.now):
            self.replaced = None
            self.pause(DEFER)
        elif self.replaced is None:
            self.run_short(f"{self.most} connections held (--max-connections): accepting pauses until some close")
        return self.replaced is not None

    def frees_descriptor(self, error: OSError) -> bool:
        """Accepting has failed: if for want of a descriptor, close the longest idle connection."""
        if error.errno != errno.EMFILE:
            return False
        item = self.eviction.choose(self.loop.table, self.loop.now, is_readable)
        if item is not None:
            self.evict(item, "no descriptor is free (raise the limit, ulimit -n)")
        return item is not None

    def evict(self, item: Pollable, reason: str = "") -> None:
        """Close an idle connection, which another replaces; the log names that once in a while."""
        loop = self.loop
        loop.guarded(item, item.close)
        loop.words[loop.base + EVICTED] += 1
        if loop.now >= self.evictions_quiet_until:
            self.evictions_quiet_until = loop.now + QUIET
            log.warning("%s: the longest idle connections make room for new ones",
                        reason or f"{self.most} connections held (--max-connections)")  # fmt: skip

    def look_for_idle(self) -> None:
        """In each sweep: at the limit, siblings learn for how long this worker's connections have been idle."""
        if sum(self.loop.board.connections) >= self.most:
            self.eviction.look(self.loop.table, self.loop.now)
        else:
            self.eviction.candidates.clear()
        self.publish_idle()

    def publish_idle(self) -> None:
        self.loop.words[self.loop.base + IDLE_SINCE] = int(self.eviction.oldest * 1000)

    def is_turn(self) -> bool:
        """May this worker take one more connection, or is it a sibling's turn?"""
        least = min(self.loop.board.loads)
        if self.loop.is_full and least < NO_CAPACITY:
            seconds = self.balance.pause_full()
        else:
            seconds = self.balance.pause(self.loop.count, least)
        if seconds:
            self.pause(seconds)
        return not seconds

    def pause(self, seconds: float) -> None:
        self.paused_until = self.loop.now + seconds
        self.loop.next_duty = min(self.loop.next_duty, self.paused_until)
        for source in self.sources():
            self.loop.unwatch(source)

    def resume(self) -> None:
        """Take what is still there after the pause."""
        self.paused_until = 0.0
        for source in self.sources():
            if source.interest:
                self.loop.watch(source, READ)

    def run_short(self, message: str) -> None:
        """Pause accepting, and taking over; the log names the reason once in a while."""
        now = self.loop.now
        if now >= self.quiet_until:
            log.warning(message)
            self.is_told, self.quiet_until = True, now + QUIET
        self.short_since = now
        self.loop.publish()
        self.pause(SHORTAGE)

    def recover(self) -> None:
        """A connection could be accepted."""
        if self.short_since and self.loop.now - self.short_since > RECOVERED:
            self.short_since = 0.0
            self.loop.publish()
            if self.is_told:
                self.is_told = False
                log.info("accepting again")

    def close(self, empties: bool = True) -> None:
        """In a drain: close each listener, with `empties` as soon as its queue is empty. In a shortage, sweeps call
        this again for the rest; only the generation that ends empties the queue."""
        for acceptor in list(self.acceptors):
            self.short_since = 0.0
            while empties and acceptor.accept(serve=False):
                continue
            self.loop.unwatch(acceptor)
            if not (empties and self.short_since):
                del self.loop.table[acceptor.fd]
                acceptor.socket.close()
                self.acceptors.remove(acceptor)
        self.resume()  # what siblings hand over is taken at once, also if the drain has begun in a pause
        if not self.receiver.interest:
            self.loop.unwatch(self.receiver)


def is_readable(fd: int) -> bool:
    return wait_for(fd, READ, 0)
