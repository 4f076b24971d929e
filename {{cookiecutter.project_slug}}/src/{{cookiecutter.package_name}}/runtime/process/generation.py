"""The supervisor's view of one generation: a server and its members."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

from ..config.errors import CONFIG, NOPERM, SOFTWARE, UNAVAILABLE, USAGE
from ..config.service import Service
from ..config.settings import Config
from ..config.text import one_line
from ..ipc import signals
from ..ipc.scoreboard import Scoreboard
from ..log import records
from ..log.records import log
from ..system.daemonize import read_nothing
from ..system.listeners import Listener, State
from ..system.privileges import Identity
from .server import LONGEST_REPORT, ServerProcess
from .states import Event, GenerationLife, GenerationState

REPORTED = 65536  # bytes of reports in a second, at most; a server has some ten lines to say in its life
UNFINISHED = 16384  # bytes of a report without an end, of which a server writes LONGEST_REPORT
STATUSES = frozenset((USAGE, UNAVAILABLE, SOFTWARE, NOPERM, CONFIG))  # with which a service can fail


class UntrustedError(Exception):
    """What no server of ours says: the message says what."""


class Generation:
    """What the supervisor knows of it. `channel` carries commands to its server and reports from it; `pipe` reads
    end-of-file when its last process has ended, and is -1 from then on.

    Its processes run code that is not ours, most often as another user: what they report is bounded in length and rate,
    and what they write on the scoreboard is believed as far as it harms only themselves."""

    def __init__(
        self, number: int, pid: int, config: Config, board: Scoreboard, listeners: list[Listener],
        channel: socket.socket, pipe: int,
    ) -> None:  # fmt: skip
        self.number = number
        self.pid = pid  # of its server, 0 when that is reaped
        self.session = pid  # of all its processes: the server has begun it
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
        self.reported, self.reported_since = 0, self.born  # bytes, in a second that began then
        self.distrusted = False  # it has done what no generation does, and is killed

    def send(self, command: str) -> None:
        try:
            self.channel.send(command.encode() + b"\n")
        except OSError:
            return  # it has ended, which SIGCHLD tells, or does not read, which a deadline ends

    def reports(self) -> Iterator[tuple[str, str]]:
        """What the server has reported, as much of it as one turn of the loop has time for: a word and the rest of its
        line. The word "closed" comes last, when there will be no more. Raises UntrustedError."""
        if self.channel.fileno() < 0 or self.distrusted:
            return  # the generation was forgotten in this turn of the loop, or is not listened to any more
        try:
            data = self.channel.recv(LONGEST_REPORT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.monotonic()
        if now - self.reported_since > 1:
            self.reported, self.reported_since = 0, now
        self.reported += len(data)
        *lines, self.unread = (self.unread + data).split(b"\n")
        if len(self.unread) > UNFINISHED or self.reported > REPORTED:
            raise UntrustedError("its server reports without end")
        for line in lines:
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            yield word, one_line(rest, LONGEST_REPORT)
        if not data:
            yield "closed", ""

    def failed(self, text: str) -> None:
        """Note a report of failure: an exit status and the reason. What is no status of a failure is a failure too."""
        number, _, reason = text.partition(" ")
        status = int(number) if number.isascii() and number.isdecimal() and len(number) < 4 else SOFTWARE
        self.failure = (status if status in STATUSES else SOFTWARE, reason or "its server gave no reason")

    def on_listening(self, scheme: str) -> None:
        if not self.life.on(Event.LISTEN, time.monotonic()):
            return  # it is ending already
        for listener in self.listeners:
            if listener.change(State.LISTENING) or self.number == 1:
                log.info("listening on %s", listener.shown(scheme))

    def expire(self, now: float) -> None:
        """It has had its time: kill it."""
        if self.life.is_starting:
            self.failure = (SOFTWARE, self.lateness())
        elif self.pid and not self.life.has_served:
            log.info("generation %d was still starting: killed", self.number)
        elif self.pid:
            log.error("generation %d does not end: killed", self.number)
        self.life.on(Event.KILL, now)
        self.kill()

    def distrust(self, reason: str) -> None:
        """Kill it, and do not listen to it any more."""
        log.error("generation %d is killed: %s", self.number, reason)
        self.distrusted = True
        with suppress(OSError):
            self.channel.shutdown(socket.SHUT_RDWR)
        if not self.life.has_served:
            self.failure = (SOFTWARE, reason)
        if self.life.state is not GenerationState.SERVING:
            self.life.on(Event.KILL, time.monotonic())
        self.kill()

    def lateness(self) -> str:
        """Why it is not ready yet, when --start-timeout has passed."""
        listens = self.life.state is GenerationState.LISTENING
        waited = "worker_init()" if listens else "importing the handlers, or init(),"
        return f"not ready within {self.config.start_timeout:g} s (--start-timeout): {waited} did not return"

    def kill(self) -> None:
        """SIGKILL to every process of it that is known: its server, which is our child, and of what stands on the
        scoreboard the processes of its session, which only its server's descendants can be in."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
        for slot in self.board.slots():
            kill_member(slot.pid, self.session)


def kill_member(pid: int, session: int) -> None:
    """SIGKILL, if this process is one of the session. A pidfd, where the system has them, keeps the number from
    becoming another process's between the question and the signal."""
    handle = -1
    try:
        with suppress(AttributeError, PermissionError):  # not Linux, or a sandbox refuses it
            handle = os.pidfd_open(pid)
        if pid > 1 and os.getsid(pid) == session:
            if handle >= 0:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGKILL)
    except OSError:  # it has ended, or is another's
        return
    finally:
        if handle >= 0:
            os.close(handle)


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
        records.flush()
        with signals.blocked():
            pid = os.fork()
            if not pid:
                os.setsid()  # what marks its processes as ours; and no terminal is theirs
                read_nothing()
                close_in_server(listeners)
                channel.close()
                os.close(pipe)
                ServerProcess(service, config, board, listeners, theirs, identity).run()
        undo.pop_all()
    theirs.close()
    os.close(writer)
    return Generation(number, pid, config, board, listeners, channel, pipe)
