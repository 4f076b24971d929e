"""What the event loop, what it watches and the engine behind it know of each other.

A connection is a `Pollable`: the loop knows of its protocol no more than this. The engine makes the connections, and is
told when the loop turns, idles and drains.
"""

import socket
from enum import IntEnum
from typing import Any, Protocol

from .selector import READ

FOREVER = 1e12  # a deadline that never comes, in seconds of the monotonic clock
PARCEL_MOST = 49152  # bytes that travel with a connection that is handed over; with more it stays


class Mode(IntEnum):
    """The life of a loop."""

    SERVING = 0
    DRAINING = 1  # accepts no more, and finishes what it holds
    RETIRING = 2  # the same, alone: its siblings live on and take over its parked connections


# RETIRING only by way of DRAINING: a worker is seen to leave before it counts the siblings that stay.
TRANSITIONS = {Mode.SERVING: {Mode.DRAINING}, Mode.DRAINING: {Mode.RETIRING}, Mode.RETIRING: set[Mode]()}


class Registration(Protocol):
    """A descriptor. `mask` is what it is watched for (READ or WRITE; 0: it is not), and the loop alone sets it."""

    fd: int
    mask: int


class Pollable(Registration, Protocol):
    """What the loop watches. Times are seconds of the monotonic clock."""

    @property
    def deadline(self) -> float: ...  # after it `expire` is called
    @property
    def began(self) -> float: ...  # when its latest request began
    @property
    def is_parked(self) -> bool: ...  # it waits for its client, so a sibling can take it over
    @property
    def idle_since(self) -> float: ...  # it may be closed to make room for another; FOREVER: it may not
    @property
    def files(self) -> tuple[int, ...]: ...  # descriptors that go with a parcel
    @property
    def runs_user_code(self) -> bool: ...  # its next event may do so
    @property
    def interest(self) -> int: ...  # what it is to be watched for
    def ready(self, mask: int) -> None: ...  # an event on its descriptor
    def resume(self) -> None: ...  # serve the requests that it has received already
    def expire(self) -> None: ...
    def drain(self) -> None: ...  # the loop has begun to
    def parcel(self) -> bytes | None: ...  # what a sibling has to know of it; None: it cannot be handed over
    def close(self) -> None: ...
    def release(self) -> None: ...  # close the descriptor alone: a sibling goes on with the connection
    def abort(self) -> None: ...  # the same with a reset, whatever its state: serving it has raised


class Source:
    """A Pollable that is no connection: a listener, the pair of the generation, a pipe."""

    deadline = FOREVER
    began = 0.0
    is_parked = False
    idle_since = FOREVER
    files: tuple[int, ...] = ()
    runs_user_code = False

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.mask = 0

    @property
    def interest(self) -> int:
        return READ

    def ready(self, mask: int) -> None:
        raise NotImplementedError

    def nothing(self) -> None:
        """A connection's matter."""

    resume = expire = drain = close = release = abort = nothing

    def parcel(self) -> bytes | None:
        return None


class Engine(Protocol):
    """What serves a protocol in a loop."""

    abandoned: int  # connections whose handler never returns: a drain does not wait for them

    def tick(self, now: float) -> float: ...  # once a second; returns when next, in monotonic seconds
    def flush(self) -> None: ...  # in each sweep, and before the loop falls asleep
    def publish(self) -> None: ...  # write what was counted to the scoreboard; called in any thread
    def connect(self, sock: socket.socket, peer: Any) -> Pollable: ...  # a new connection
    def adopt(self, sock: socket.socket, peer: Any, parcel: bytes, files: list[int]) -> Pollable: ...  # a sibling's
    def abandon(self, item: Pollable) -> None: ...  # --request-timeout: answer for a handler that does not return
    def drain(self) -> None: ...  # the loop has begun to


class Loop(Protocol):
    """The event loop as connections see it."""

    now: float  # as the turn began
    moment: float  # as the latest handler ended
    mode: Mode

    @property
    def is_stood_in(self) -> bool: ...  # another thread has it than the leader's, and must run no user code
    def watch(self, item: Registration, mask: int) -> None: ...
    def unwatch(self, item: Registration) -> None: ...
    def postpone(self, item: Pollable) -> None: ...  # `resume` it in the next turn, and read nothing before
    def forget(self, item: Registration) -> None: ...  # it is about to be closed
