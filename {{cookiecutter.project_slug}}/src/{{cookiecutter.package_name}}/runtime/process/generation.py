"""The supervisor's view of one generation: a server and its members."""

import os
import signal
import socket
import time

from ..config.settings import Config
from ..ipc.scoreboard import Scoreboard
from ..system.listeners import Listener
from .operations import Done


class Generation:
    """What the supervisor knows of it. `channel` carries commands to its server and reports from it; `lives` reads
    end-of-file when its last process is gone."""

    def __init__(
        self, number: int, pid: int, config: Config, board: Scoreboard, listeners: list[Listener],
        channel: socket.socket, lives: int,
    ) -> None:  # fmt: skip
        self.number = number
        self.pid = pid  # of its server, 0 when that has ended
        self.config = config
        self.name = config.name  # in syslog; set_name() changes it
        self.board = board
        self.listeners = listeners
        self.channel = channel
        self.channel.setblocking(False)
        self.lives = lives
        self.born = time.monotonic()
        self.watchers: list[Done] = []  # wait until it is ready or has failed
        self.failure: tuple[int, str] | None = None  # (exit status, reason), as the server reported it
        self.alive = True  # some process of it is left
        self.listens = False  # its init() has returned
        self.halted = False
        self.killed = False
        self.drain_due = float("inf")  # when it begins to drain: the last clients to come get their handshake
        self.deadline = float("inf")  # when it is killed
        self.rest = b""

    def tell(self, command: str) -> None:
        """Send the server a command."""
        try:
            self.channel.send(command.encode() + b"\n")
        except OSError:
            self.halted = self.halted or command == "halt"  # it is gone: its end is on its way through the loop

    def kill(self) -> None:
        """SIGKILL to every process of it that is known."""
        for pid in (self.pid, *(slot.pid for slot in self.board.slots())):
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):  # a number that is somebody else's by now
                    continue
