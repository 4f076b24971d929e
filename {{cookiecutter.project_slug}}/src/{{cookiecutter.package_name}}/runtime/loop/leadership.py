"""Which thread owns a loop: the leader runs it, and user code in it; the monitor may take the loop over meanwhile.

    HELD ──the monitor asks──▶ CONTESTED ──the handler still runs──▶ STOOD_IN ──another leads──▶ DEPOSED
     ▲                             │ the handler has returned            │ the handler has returned
     └─────────────────────────────┴─────────────────────────────────────┘

Between two handlers the leader reads one word, and takes no lock. That is safe by the order of writes (Dekker's
algorithm): the leader clears `started`, then reads `state`; the monitor sets `state`, then reads `started`. So at least
one of the two sees what the other has written, and the baton decides.
"""

import threading
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from ..pool.worker import Worker


class State(IntEnum):
    """Of a leader. HELD is 0: the test for it is the cheapest that there is."""

    HELD = 0  # the leader alone touches the loop
    CONTESTED = 1  # the monitor finds out whether the leader's handler still runs
    STOOD_IN = 2  # the thread with the baton may touch the loop, but must run no user code
    DEPOSED = 3  # the leader was one; it must touch nothing of the loop


TRANSITIONS = {
    State.HELD: {State.CONTESTED},
    State.CONTESTED: {State.HELD, State.STOOD_IN},
    State.STOOD_IN: {State.HELD, State.DEPOSED},
    State.DEPOSED: set[State](),
}


class Demoted(BaseException):
    """Raised in a thread that leads the loop no more: it leaves the loop's frames and touches nothing of the loop."""


class Leader:
    """A thread that leads, or has led."""

    __slots__ = ("serving", "started", "state", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker  # what its handlers see
        self.state = State.HELD
        self.started = 0.0  # when the handler that it runs in the loop was started; 0 = none runs
        # The connection for which it runs user code that is no handler, if any; a handler's is in its worker's request.
        self.serving: tuple[Any, ...] = ()


class Leadership:
    """The ownership of one loop. `on_return` is called in the leader that regains a loop that was stood in for."""

    def __init__(self) -> None:
        self.leader: Leader | None = None
        self.baton = threading.Lock()
        self.on_return: Callable[[], None] = lambda: None

    @property
    def is_stood_in(self) -> bool:
        leader = self.leader
        return leader is not None and leader.state == State.STOOD_IN

    def running(self) -> float:
        """When the leader's handler was started; 0.0 = none runs."""
        leader = self.leader
        return leader.started if leader is not None else 0.0

    def lead(self, leader: Leader) -> None:
        """Make this one the leader, in its own thread."""
        with self.baton:
            self.leader = leader

    def seize(self, started: float) -> Leader | None:
        """In the monitor: take the loop of a leader whose handler was started at `started`. Returned, it is still in
        there, and cannot come back before `release` or `depose`. None: the handler has returned."""
        leader = self.leader
        if leader is None:
            return None
        if leader.state == State.HELD:
            leader.state = State.CONTESTED
        self.baton.acquire()
        if leader.started == started:
            leader.state = State.STOOD_IN
            return leader
        leader.state = State.HELD
        self.baton.release()
        return None

    def release(self) -> None:
        """In the monitor, after `seize`: let the leader come back, if its handler returns before the next one."""
        self.baton.release()

    def depose(self, leader: Leader) -> None:
        """In the monitor, after `seize`: it leads no more."""
        leader.state = State.DEPOSED
        self.leader = None
        self.baton.release()

    def resign(self) -> None:
        """In the leader, in no handler: lead no more."""
        self.leader = None

    def give_up(self) -> None:
        """In a child that user code has forked: a handler that returns in it leads no more."""
        self.baton = threading.Lock()  # a thread that is not here may hold the old one
        if self.leader is not None:
            self.leader.state = State.DEPOSED

    def regain(self, leader: Leader) -> bool:
        """In a thread whose handler has returned, and whose state is not HELD. False: it was deposed."""
        with self.baton:
            stood_in = leader.state == State.STOOD_IN
            if leader.state == State.DEPOSED:
                return False
            leader.state = State.HELD
        if stood_in:
            self.on_return()
        return True
