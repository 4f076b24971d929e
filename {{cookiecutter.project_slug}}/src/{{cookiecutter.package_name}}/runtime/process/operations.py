"""What operators may ask of a running service, and order: the border between the supervisor and its endpoints.

The endpoints know `Operations`, the supervisor knows `OperatorEndpoints`; neither imports the other.
"""

import selectors
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from ..ipc.metrics import Figures
from ..ipc.scoreboard import Scoreboard
from ..system.listeners import Listener

Done = Callable[[bool, str], None]  # called once, when a reload has ended: whether it worked, and a line about it


class GenerationFacts(NamedTuple):
    """One generation. `pid` is its server's, 0 when that has ended; `born` is in monotonic seconds."""

    number: int
    pid: int
    born: float
    board: Scoreboard


class Snapshot(NamedTuple):
    """What the supervisor knows at this moment. Times are in monotonic seconds."""

    name: str
    version: str
    pool: str  # names, such as prefork and http
    protocol: str
    pid: int
    started: float
    stopping: bool
    unready: str  # why the service is not ready, "" when it is
    listeners: Sequence[Listener]  # those that are open
    generations: Sequence[GenerationFacts]
    serving: int  # number of the generation that serves, 0 without
    started_generations: int  # since the service was started
    workers: dict[str, int]  # (threads, where the pool has them) by state; "waiting" jobs; the bounds "floor" and "max"
    connections: int  # held now
    totals: Figures  # since the service was started
    failed_reloads: int
    server_crashes: int
    throttled_seconds: float  # until the crash throttle starts the next process
    dropped_lines: int  # of the log
    logger_restarts: int


class Operations(Protocol):
    """What the supervisor does for the endpoints."""

    def on_signal(self) -> None:
        """Do what the signals that have arrived ask for."""

    def unready(self) -> str:
        """Why the service is not ready, "" when it is."""

    def note_readiness(self, now: float) -> None:
        """Write to the log when readiness goes while a generation serves, and when it is back."""

    def snapshot(self) -> Snapshot: ...

    def summary(self) -> str:
        """What the service does, in one line."""

    def reload(self, done: Done | None = None) -> None:
        """Begin a reload, now or after the one that is under way. `done` is called when it has ended, perhaps before
        this returns."""

    def look_up(self, names: Sequence[str]) -> bool:
        """Resolve these of the addresses that a reload needs; it is begun anew at the end. False without any."""

    def reload_outcome(self, done: Done) -> None:
        """Wait for the end of the reload that is under way; without one, tell how the latest one ended."""

    def stop(self, cause: str) -> None:
        """Stop gracefully. The log names the cause."""

    def restart(self) -> str:
        """Stop gracefully, and start again by the same command. Returns why not, or "" """

    def change_floor(self, change: int) -> tuple[int, int] | None:
        """Keep so many more (or fewer) workers idle until the next reload. Returns the floor before and after; None
        when no generation serves."""

    def stacks(self) -> None:
        """Let every process of the service log where its threads are."""


class OperatorEndpoints(Protocol):
    """What the supervisor does with the endpoints."""

    def open(self, operations: Operations, selector: selectors.BaseSelector) -> None:
        """Bind them, and serve them by this selector from now on. Raises StartError when an address cannot be bound."""

    def expire(self, now: float) -> None:
        """Once per turn of the loop: end what has taken too long."""

    def sockets(self) -> Iterable[socket.socket]:
        """All that are open: a child closes them."""

    def close(self) -> None: ...
