"""A member of the pool: what it needs to work, and the server's view of it."""

import os
import signal
import socket
import time
from types import ModuleType

from ..config.service import Service
from ..config.settings import Config
from ..ipc import scoreboard
from ..ipc.scoreboard import Scoreboard
from ..ipc.waker import Waker
from ..log.records import log, log_stacks
from ..system.background import finish
from ..system.listeners import Listener

NAMED = 10.0  # seconds that a member may stand still before the log says so


class Member:
    """The server's view of one of its children."""

    def __init__(self, pid: int, slot: int, share: int, board: Scoreboard) -> None:
        self.pid = pid
        self.share = share
        self.slot = slot
        self.board = board
        self.born = time.monotonic()
        self.stopped = 0.0  # monotonic seconds: since when it is stopped (SIGSTOP); 0 = it runs
        self.look = self.still = 0.0  # when its stall monitor looked last; seconds since that became known
        self.leaving = False  # it does not count any more: asked to leave, or as soon as its successor is ready
        self.asked = 0.0  # monotonic seconds: when it was asked to leave; 0 = it was not

    def leave(self) -> None:
        """Ask it to leave when its requests are done."""
        self.leaving = True
        self.asked = self.asked or time.monotonic()
        self.board.words[self.board.base(self.slot) + scoreboard.RETIRING] = 1
        self.kill(signal.SIGTERM)

    def kill(self, number: signal.Signals) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            self.leaving = True  # user code has waited for it: its exit status is lost

    def wait(self) -> int | None:
        """Its wait status if it has ended. Notes what has stopped and continued it meanwhile."""
        while True:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:  # user code waited for everything
                return 0
            if not pid:
                return None
            if os.WIFSTOPPED(status):
                self.on_stop(os.WSTOPSIG(status))
            elif os.WIFCONTINUED(status):
                self.on_continue()
            else:
                return status

    def on_stop(self, number: int) -> None:
        """SIGSTOP or a debugger: its siblings must not wait for it."""
        log.warning("worker %d was stopped by %s", self.pid, signal.Signals(number).name)
        self.stopped = time.monotonic()
        self.board.loads[self.slot] = scoreboard.NO_CAPACITY
        if self.board.states[self.slot] == scoreboard.IDLE:
            self.board.states[self.slot] = scoreboard.BUSY

    def observe(self, look: float, lapse: float) -> None:
        """So many seconds after the last call, its stall monitor looked last at `look`; 0.0 = it sleeps. While it
        stands still its siblings accept in its place."""
        before = self.still
        self.still = before + lapse if look and look == self.look else 0.0
        self.look = look
        if before <= NAMED < self.still and not self.stopped:
            log.warning("worker %d stands still: something holds the interpreter's lock, or the processor", self.pid)
            self.board.loads[self.slot] = scoreboard.NO_CAPACITY

    def on_continue(self) -> None:
        log.info("worker %d runs again", self.pid)
        self.stopped = 0.0
        self.board.loads[self.slot] = self.board.connections[self.slot]
        if self.board.states[self.slot] == scoreboard.BUSY:
            self.board.states[self.slot] = scoreboard.IDLE  # if it is busy, its stall monitor says so


class Context:
    """What a child of the server needs to work."""

    def __init__(
        self, service: Service, config: Config, board: Scoreboard, handlers: ModuleType, listeners: list[Listener],
        pair: tuple[socket.socket, socket.socket], parent: int, waker: Waker, stack_size: int, share: int,
    ) -> None:  # fmt: skip
        self.service = service
        self.config = config
        self.board = board
        self.handlers = handlers
        self.listeners = listeners
        self.pair = pair  # through which the members hand connections over
        self.parent = parent  # reads end-of-file when the server is gone
        self.waker = waker  # of the server
        self.stack_size = stack_size  # bytes, of a thread
        self.share = share  # which part of the totals -n and -m is its own, from 0; its successor gets the same
        self.ends_at = float("inf")  # monotonic seconds: how long the member waits for its work when it drains
        self.limit = "drain took longer than --drain-timeout"  # why it waits no longer
        self.stacks = board.words[scoreboard.STACKS]  # as last seen

    def live(self, slot: int) -> int:
        """A member's life, and that of what user code has left in the background. Returns its exit status."""
        status: int = self.service.pool.run(self, slot)
        self.drains()  # if it leaves by itself
        if self.board.states[slot] != scoreboard.STARTING:
            self.board.states[slot] = scoreboard.LEAVING  # a successor may be wanted
            self.wake_server()
        finish("worker", self.ends_at, self.limit, status)
        self.board.words[self.board.base(slot) + scoreboard.PID] = 0  # the number may soon be another process's
        return status

    def drains(self) -> None:
        """The member has begun to."""
        if self.config.drain_timeout:
            self.ends_at = min(self.ends_at, time.monotonic() + self.config.drain_timeout)

    def wake_server(self) -> None:
        """The pool may have to change."""
        self.waker.wake()

    def look(self) -> None:
        """SIGURG has come: the server has written something on the scoreboard. Logs the stacks of this process if they
        are wanted; the rest is for the pool to read."""
        wanted = self.board.words[scoreboard.STACKS]
        if wanted != self.stacks:
            self.stacks = wanted
            log_stacks()
