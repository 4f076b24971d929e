"""The supervisor's view of one generation: a server and its members."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from ..config.errors import SOFTWARE
from ..config.service import Service
from ..config.settings import Config
from ..ipc import signals
from ..ipc.scoreboard import Scoreboard
from ..system.listeners import Listener
from ..system.privileges import Identity
from .server import ServerProcess, flush
from .states import GenerationLife, GenerationState

LONGEST_REPORT = 65536  # bytes


class Generation:
    """What the supervisor knows of it. `channel` carries commands to its server and reports from it; `pipe` reads
    end-of-file when its last process has ended, and is -1 from then on."""

    def __init__(
        self, number: int, pid: int, config: Config, board: Scoreboard, listeners: list[Listener],
        channel: socket.socket, pipe: int,
    ) -> None:  # fmt: skip
        self.number = number
        self.pid = pid  # of its server, 0 when that is reaped
        self.config = config
        self.name = config.name  # in syslog; set_name() changes it
        self.board = board
        self.listeners = listeners
        self.channel = channel
        self.channel.setblocking(False)
        self.pipe = pipe
        self.born = time.monotonic()
        self.life = GenerationLife(self.born, config.start_timeout, config.drain_timeout)
        self.failure: tuple[int, str] | None = None  # (exit status, reason), as the server reported it
        self.unread = b""  # the beginning of a report
        self.got_term = False  # its server, from outside the service

    def send(self, command: str) -> None:
        """Send the server a command."""
        try:
            self.channel.send(command.encode() + b"\n")
        except OSError:
            return  # it has ended, which SIGCHLD tells, or does not read, which a deadline ends

    def reports(self) -> Iterator[tuple[str, str]]:
        """What the server has reported since the last call: a word and the rest of its line. The word "closed" comes
        last, when there will be no more."""
        while self.channel.fileno() >= 0:  # else the generation was forgotten in this turn of the loop
            try:
                data = self.channel.recv(LONGEST_REPORT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            *lines, self.unread = (self.unread + data).split(b"\n")
            self.unread = self.unread[-LONGEST_REPORT:]
            for line in lines:
                word, _, rest = line.decode("utf-8", "replace").partition(" ")
                yield word, rest
            if not data:
                yield "closed", ""
                return

    def failed(self, text: str) -> None:
        """Note a report of failure: an exit status and the reason."""
        status, _, reason = text.partition(" ")
        self.failure = (int(status) if status.isdecimal() and len(status) < 4 else SOFTWARE, reason)

    def lateness(self) -> str:
        """Why it is not ready yet, when --start-timeout has passed."""
        listens = self.life.state is GenerationState.LISTENING
        waited = "worker_init()" if listens else "importing the handlers, or init(),"
        return f"not ready within {self.config.start_timeout:g} s (--start-timeout): {waited} did not return"

    def kill(self) -> None:
        """SIGKILL to every process of it that is known."""
        for pid in (self.pid, *(slot.pid for slot in self.board.slots())):
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):  # the number is another process's by now
                    continue


def start(
    number: int, service: Service, config: Config, listeners: list[Listener],
    close_in_server: Callable[[list[Listener]], None],
) -> Generation:  # fmt: skip
    """Fork a server, without exec: it has every runtime module and nothing of the user's. `close_in_server` is called
    in it first, to close what is the supervisor's alone. Raises OSError when there is no process, descriptor or memory
    left, StartError for an unknown user or group; then nothing has changed."""
    identity = Identity(config.user, config.group)
    with ExitStack() as undo:
        board = Scoreboard(service.pool.slots(config), service.pool.rows(config))
        undo.callback(board.close)
        channel, theirs = socket.socketpair()
        undo.callback(channel.close)
        undo.callback(theirs.close)
        pipe, writer = os.pipe()  # the writer is inherited by all processes of the generation
        undo.callback(os.close, pipe)
        undo.callback(os.close, writer)
        flush()
        with signals.blocked():
            pid = os.fork()
            if not pid:
                close_in_server(listeners)
                channel.close()
                os.close(pipe)
                ServerProcess(service, config, board, listeners, theirs, identity).run()
        undo.pop_all()
    theirs.close()
    os.close(writer)
    return Generation(number, pid, config, board, listeners, channel, pipe)
