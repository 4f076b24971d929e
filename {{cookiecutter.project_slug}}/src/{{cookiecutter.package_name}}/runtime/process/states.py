"""The states of a service, of its generations and of its reloads.

All that decides a transition is in this file. The tables are data: state, event, next state; an event that the row of a
state lacks means nothing there. Nothing here touches a process, a socket or a clock: the supervisor passes events and
the time in, and acts when a state has changed.

A generation serves when its first worker is ready. It ends in one of three ways: DRAINING, after REFUSING new clients
where a listener of it ends; HALTED, which cuts requests off; KILLED, when a deadline has passed. When its server has
ended, as asked or by a crash, the workers that are left are orphans: they finish what they have. It is GONE when the
server is reaped and no process is left that holds the generation's pipe.

    STARTING ─ LISTEN ─> LISTENING ─ READY ─> SERVING ─ REFUSE ─> REFUSING ─ DRAIN ─> DRAINING
    of each of these: ─ HALT ─> HALTED ─ KILL ─> KILLED ─ SERVER_… ─> LINGERING ─ LAST_END ─> GONE
                      ─ SERVER_… ─> ORPHANED ─ LAST_END ─> GONE

A service serves when its first generation is ready, and whatever happens to its generations later. It stops gracefully
(after --stop-delay it drains), at once (HALTED), or because it cannot work (FAILED). `ctl restart` is a graceful stop
with a new beginning; another order to stop turns it into an ordinary one.

One generation starts at a time. A reload that is asked for meanwhile is QUEUED: it follows.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Generic, TypeVar

from ..config.errors import OK
from .operations import Done

EXIT_TIMEOUT = 5.0  # seconds that exit() may take
KILL_MARGIN = 2.0  # seconds beyond its own limits until a server is killed; then seconds until it must be reaped
NEVER = float("inf")


class Event(Enum):
    """What happens. Orders come from the supervisor, the rest from a server, the kernel or an operator."""

    LISTEN = auto()  # the server reports: init() has returned, the sockets listen
    READY = auto()  # the server reports: the first worker is ready
    REFUSE = auto()  # order
    DRAIN = auto()  # order
    HALT = auto()  # order
    KILL = auto()  # order
    SERVER_EXIT = auto()  # with status 0: after its last worker
    SERVER_CRASH = auto()
    LAST_END = auto()  # of the processes that hold the generation's pipe, the reaped server among them

    TERM = auto()  # stop; the second one: at once
    STOP = auto()  # stop, never at once
    RESTART = auto()
    FAIL = auto()  # it cannot work

    ASK = auto()  # for a reload
    BEGIN = auto()  # a generation starts, by a reload or after a crash
    END = auto()  # it is ready, or has failed


class GenerationState(Enum):
    STARTING = auto()  # imports the handlers, runs init()
    LISTENING = auto()  # starts the first workers
    SERVING = auto()
    REFUSING = auto()  # handshakes in progress complete, new clients are refused
    DRAINING = auto()  # finishes what is in flight
    HALTED = auto()  # ends its workers, runs exit()
    KILLED = auto()
    ORPHANED = auto()  # the server has ended
    LINGERING = auto()  # killed and reaped; a process that user code has forked holds the pipe
    GONE = auto()


class ServiceState(Enum):
    STARTING = auto()  # no generation has ever been ready
    SERVING = auto()
    STOP_DELAYED = auto()  # not ready any more, but serving: load balancers notice
    STOP_DRAINING = auto()
    RESTART_DELAYED = auto()
    RESTART_DRAINING = auto()
    HALTED = auto()
    FAILED = auto()


class ReloadState(Enum):
    IDLE = auto()
    STARTING = auto()  # a generation starts
    QUEUED = auto()  # a generation starts, and a reload follows


Row = TypeVar("Row", bound=Enum)
Table = Mapping[Row, Mapping[Event, Row]]

_G, _S, _R = GenerationState, ServiceState, ReloadState
_ENDS = {
    Event.HALT: _G.HALTED, Event.KILL: _G.KILLED, Event.SERVER_EXIT: _G.ORPHANED, Event.SERVER_CRASH: _G.ORPHANED,
}  # fmt: skip
GENERATION: Table[GenerationState] = {
    _G.STARTING: {Event.LISTEN: _G.LISTENING, **_ENDS},
    _G.LISTENING: {Event.READY: _G.SERVING, **_ENDS},
    _G.SERVING: {Event.REFUSE: _G.REFUSING, Event.DRAIN: _G.DRAINING, **_ENDS},
    _G.REFUSING: {Event.REFUSE: _G.REFUSING, Event.DRAIN: _G.DRAINING, **_ENDS},
    _G.DRAINING: _ENDS,
    _G.HALTED: {event: state for event, state in _ENDS.items() if event is not Event.HALT},
    _G.KILLED: {Event.SERVER_EXIT: _G.LINGERING, Event.SERVER_CRASH: _G.LINGERING},
    _G.ORPHANED: {Event.HALT: _G.ORPHANED, Event.KILL: _G.LINGERING, Event.LAST_END: _G.GONE},
    _G.LINGERING: {Event.LAST_END: _G.GONE},
    _G.GONE: {},
}
_STOPS = {
    Event.TERM: _S.STOP_DELAYED, Event.STOP: _S.STOP_DELAYED, Event.RESTART: _S.RESTART_DELAYED,
    Event.HALT: _S.HALTED, Event.FAIL: _S.FAILED,
}  # fmt: skip
_AT_ONCE = {Event.TERM: _S.HALTED, Event.HALT: _S.HALTED}
SERVICE: Table[ServiceState] = {
    _S.STARTING: {Event.READY: _S.SERVING, **_STOPS},
    _S.SERVING: _STOPS,
    _S.STOP_DELAYED: {Event.DRAIN: _S.STOP_DRAINING, **_AT_ONCE},
    _S.STOP_DRAINING: _AT_ONCE,
    _S.RESTART_DELAYED: {
        Event.DRAIN: _S.RESTART_DRAINING, Event.TERM: _S.STOP_DELAYED, Event.STOP: _S.STOP_DELAYED,
        Event.HALT: _S.HALTED,
    },
    _S.RESTART_DRAINING: {
        Event.TERM: _S.STOP_DRAINING, Event.STOP: _S.STOP_DRAINING, Event.HALT: _S.HALTED,
    },
    _S.HALTED: {},
    _S.FAILED: _AT_ONCE,
}  # fmt: skip
RELOAD: Table[ReloadState] = {
    _R.IDLE: {Event.BEGIN: _R.STARTING},
    _R.STARTING: {Event.ASK: _R.QUEUED, Event.END: _R.IDLE},
    _R.QUEUED: {Event.ASK: _R.QUEUED, Event.END: _R.IDLE},
}
STOPPING = frozenset(_S) - {_S.STARTING, _S.SERVING}
NEEDS_LISTENERS = frozenset({_S.STARTING, _S.SERVING, _S.STOP_DELAYED, _S.RESTART_DELAYED})
_LIMITED = (_G.DRAINING, _G.HALTED, _G.KILLED)  # a crash of the server gives its workers no more time


class Machine(Generic[Row]):
    """A state, and the table of its transitions."""

    def __init__(self, table: Table[Row], state: Row) -> None:
        self.table = table
        self.state = state

    def move(self, event: Event) -> bool:
        """Apply an event. False when it means nothing in this state."""
        following = self.table[self.state].get(event)
        self.state = following or self.state
        return following is not None


class GenerationLife(Machine[GenerationState]):
    """The state of a generation, and the deadline by which it has to leave it, in monotonic seconds."""

    def __init__(self, now: float, start_timeout: float, drain_timeout: float) -> None:
        """Timeouts in seconds; 0 = none."""
        super().__init__(GENERATION, GenerationState.STARTING)
        self.has_served = False
        self.drain_limit = drain_timeout + EXIT_TIMEOUT + KILL_MARGIN if drain_timeout else NEVER
        self.deadline = now + start_timeout if start_timeout else NEVER

    def on(self, event: Event, now: float, delay: float = 0.0) -> bool:
        """Apply an event. `delay` is how many seconds it stays REFUSING. False when it means nothing in this state."""
        before = self.state
        if not self.move(event):
            return False
        if event is Event.READY:
            self.has_served = True
            self.deadline = NEVER
        elif event is Event.REFUSE:
            self.deadline = now + delay
        elif event is Event.DRAIN or (event is Event.SERVER_CRASH and before not in _LIMITED):
            self.deadline = now + self.drain_limit
        elif event is Event.HALT:
            limit = now + EXIT_TIMEOUT + KILL_MARGIN
            self.deadline = min(self.deadline, limit) if before is _G.ORPHANED else limit
        elif event is Event.KILL or (event is Event.SERVER_EXIT and before is not _G.KILLED):
            self.deadline = now + KILL_MARGIN
        return True

    @property
    def is_starting(self) -> bool:
        return self.state in (_G.STARTING, _G.LISTENING)


class ServiceLife(Machine[ServiceState]):
    """The state of a service, and the exit status that it will have."""

    def __init__(self, now: float) -> None:
        super().__init__(SERVICE, ServiceState.STARTING)
        self.started = now  # monotonic seconds
        self.deadline = NEVER  # the end of --stop-delay
        self.status = OK
        self.has_served = False

    def move(self, event: Event) -> bool:
        self.has_served |= event is Event.READY
        return super().move(event)

    @property
    def is_stopping(self) -> bool:
        return self.state in STOPPING

    @property
    def needs_listeners(self) -> bool:
        return self.state in NEEDS_LISTENERS

    @property
    def begins_again(self) -> bool:
        return self.status == OK and self.state in (_S.RESTART_DELAYED, _S.RESTART_DRAINING)


class Reloads(Machine[ReloadState]):
    """Which reload is under way, which follows, how the latest one ended. Each `done` is called once, at the end of its
    reload."""

    def __init__(self) -> None:
        super().__init__(RELOAD, ReloadState.IDLE)
        self.failures = 0
        self.trouble = ""  # why the latest one failed, if it did
        self.waiting: list[Done] = []  # for the one that is under way
        self.queued: list[Done] = []  # for the one that follows

    def ask(self, done: Done | None) -> bool:
        """Whether it can begin now. Otherwise it follows the one that is under way."""
        must_wait = self.move(Event.ASK)
        if done is not None:
            (self.queued if must_wait else self.waiting).append(done)
        return not must_wait

    def follow(self, done: Done) -> None:
        """Wait for the latest one that was asked for."""
        (self.queued if self.state is ReloadState.QUEUED else self.waiting).append(done)

    def failed(self, text: str) -> str:
        """Count a failure. Returns the line about it."""
        self.failures += 1
        self.trouble = text.replace("\n", " ")
        return self.trouble

    def end(self, worked: bool, text: str) -> bool:
        """The generation that started is ready, or has failed. Whether another reload has to begin now."""
        follows = self.state is ReloadState.QUEUED
        self.move(Event.END)
        waiting, self.waiting, self.queued = self.waiting, self.queued, []
        for done in waiting:
            done(worked, text)
        return follows

    def end_all(self, text: str) -> None:
        """No reload comes to an end any more."""
        self.end(False, text)
        self.end(False, text)
