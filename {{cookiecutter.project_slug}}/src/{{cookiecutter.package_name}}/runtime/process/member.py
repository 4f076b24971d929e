"""A member of the pool: what it needs to work, and the server's view of it."""

import os
import signal
import socket
import time
from types import ModuleType
from typing import NamedTuple

from ..config.service import Service
from ..config.settings import Config
from ..ipc import scoreboard
from ..ipc.scoreboard import Scoreboard
from ..system.listeners import Listener


class Member:
    """The server's view of one of its children."""

    def __init__(self, pid: int, slot: int, board: Scoreboard) -> None:
        self.pid = pid
        self.slot = slot
        self.board = board
        self.born = time.monotonic()
        self.stopped = 0.0  # since when it is stopped (SIGSTOP); 0 = it runs
        self.leaving = False  # it counts no more: it was asked to leave, or will be as soon as its successor is ready
        self.asked = 0.0  # when it was asked to leave

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
            self.leaving = True  # user code has waited for it: nobody will tell how it ended


class Context(NamedTuple):
    """What a child of the server needs to work."""

    service: Service
    config: Config
    board: Scoreboard
    handlers: ModuleType
    listeners: list[Listener]
    pair: tuple[socket.socket, socket.socket]
    parent: int  # reads end-of-file when the server is gone
    waker: int  # a byte wakes the server
    stack_size: int

    def wake_server(self) -> None:
        """Its pool may have to change."""
        try:
            os.write(self.waker, b"b")
        except OSError:
            return  # full: it has nudges enough; closed: there is no server to tell
