"""The supervisor's end of the log: reads frames from the pipe (see `frames`) and writes whole lines on: to stdout and
stderr in the foreground; detached to the terminal until the service is ready, and to syslog.

With --log-file that holds until the service is ready. What has been read is kept, and then the logger process reads on.
Output that does not come through `records` arrives as `raw_output`, which becomes lines here too.
"""

import faulthandler
import fcntl
import io
import os
import selectors
import sys
import time
from collections.abc import Callable

from ..config.settings import Config
from . import raw_output, records
from .frames import ACCESS, ERR, MARK, OUT, RECORD, Message, lines_in, split
from .outlet import HELD, Outlet
from .raw_output import RawOutput
from .records import channel, log
from .syslog import Syslog

CAPACITY = 2**20  # bytes wanted in the pipe; systems give less
SET_CAPACITY = getattr(fcntl, "F_SETPIPE_SZ", None)
MUCH = 2**12  # bytes: after a read of more, so many follow that a pause gathers them
PAUSE = 0.05  # seconds for which a pipe of CAPACITY is left alone then
TURN = 2**20  # bytes read before the loop turns to other events
PIECE = 2**18  # bytes asked for in one read
MESSAGES = 2**13  # of one read that are looked at; lines of text are longer, so that only rubbish has more
REPORT_INTERVAL = 10.0  # seconds between two lines about dropped ones


def is_journal(descriptor: int) -> bool:
    """systemd.exec(5): JOURNAL_STREAM names the device and inode of the stream that the journal reads."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def style_of(config: Config) -> str:
    """The look of a record: by --log-format and by what reads it."""
    if config.log_format == "json":
        return "json"
    if config.log_file or not config.foreground:
        return "plain" if config.log_file else "bare"
    if is_journal(2):
        return "systemd"
    # https://no-color.org
    coloured = os.isatty(2) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    return "colour" if coloured else "plain"


def bounded(data: bytes) -> bytes:
    """As much of it as one turn of the supervisor has time for: 29,000 heads would take 80 ms."""
    if data.count(MARK) <= MESSAGES:
        return data
    beyond = data.split(MARK, MESSAGES)[-1]
    channel.dropped(beyond.count(MARK) + 1)
    return data[: len(data) - len(beyond) - len(MARK)]


class PipeReader:
    """See the head of this file. `begin` once, `join` the supervisor's loop, `service_ready` once, `close` at the end.

    `show` shows a line on the terminal of a detached start.
    """

    def __init__(self, config: Config, show: Callable[[str], None] | None) -> None:
        self.config = config
        self.show = show
        self.rest = b""
        self.held: list[bytes] = []  # frames for the logger process
        self.held_size = 0
        self.handed_over = False  # the logger process reads the pipe
        self.selector: selectors.BaseSelector | None = None
        self.syslog = None if config.foreground else Syslog(config.name, config.log_facility)
        self.outlets: tuple[Outlet, ...] = ()
        self.raw: list[RawOutput] = []
        self.pause = 0.0
        self.resume = float("inf")  # when the pipe is watched again
        self.reported = 0  # dropped lines that the log has mentioned
        self.report_after = 0.0
        self.logger = None
        if config.log_file:  # others do without these modules
            from .logger_process import LoggerProcess

            self.logger = LoggerProcess(config, self.syslog)

    def rename(self, name: str) -> None:
        """Set the syslog ident."""
        if self.syslog is not None:
            self.syslog.ident = name

    def begin(self) -> None:
        """From now on this process and its children write here."""
        config = self.config
        while (lowest := os.open(os.devnull, os.O_RDWR)) < 3:  # a standard stream that was closed
            os.set_inheritable(lowest, True)
        os.close(lowest)
        self.reader, channel.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(channel.writer, False)
        if SET_CAPACITY is not None:
            try:
                fcntl.fcntl(channel.writer, SET_CAPACITY, CAPACITY)
                self.pause = PAUSE
            except OSError:
                self.pause = 0.0  # this user's pipes have used up its share: the usual 64 KiB must do
        channel.journal = config.foreground and not config.log_file and is_journal(2)
        together = not config.foreground or os.path.samestat(os.fstat(1), os.fstat(2))  # lines keep their order
        if config.foreground:
            errors = Outlet(os.dup(2))
            self.outlets = errors if together else Outlet(os.dup(1)), errors
            channel.output, channel.errors = (one.descriptor for one in self.outlets)
            faulthandler.enable(channel.errors)  # for this process; a server has its own in the raw output
        else:
            channel.output = channel.errors = -1
        channel.style = style_of(config)
        channel.wrapped = channel.style == "json" or bool(config.log_file)
        most = raw_output.PIECE if self.outlets and not channel.wrapped else raw_output.LINES
        ways = [(ERR, [1, 2])] if together or config.log_file else [(OUT, [1]), (ERR, [2])]
        self.raw = [RawOutput(stream, numbers, most) for stream, numbers in ways]
        channel.make_room = self.read_piece
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(lines, "utf-8", "backslashreplace", write_through=True)  # type: ignore[type-var]
            for lines in records.standard_streams
        )

    def join(self, selector: selectors.BaseSelector, in_logger: Callable[[], None]) -> None:
        """Become part of the supervisor's loop. `in_logger` frees in the logger process what only others need."""
        self.selector = selector
        if self.logger is not None:
            self.logger.in_child = in_logger
        selector.register(self.reader, selectors.EVENT_READ, self.on_frames)
        for raw in self.raw:
            raw.watch(selector)
        for outlet in self.outlets:
            outlet.selector = selector

    def read(self) -> None:
        """Write on what has arrived."""
        if self.handed_over:
            return
        for _ in range(TURN // PIECE):
            if self.read_piece() < PIECE:
                return

    def on_frames(self) -> None:
        if self.handed_over:  # in this turn of the loop: what is there is the logger's
            return
        if self.read_piece() > MUCH and self.pause and self.selector is not None:
            self.selector.unregister(self.reader)
            self.resume = time.monotonic() + self.pause

    def read_piece(self) -> int:
        """Read once, and write on; returns the number of bytes."""
        try:
            data = os.read(self.reader, PIECE)
        except BlockingIOError:
            return 0
        if self.logger is not None and self.held_size < HELD:  # output of init() beyond that is on the terminal only
            self.held.append(data)
            self.held_size += len(data)
        messages, self.rest = split(self.rest + bounded(data), len(data) < PIECE)
        for outlet in {*self.outlets}:
            self.write_out(outlet, [one for one in messages if self.outlets[one[0] not in (OUT, ACCESS)] is outlet])
        if not self.outlets:
            for stream, level, _, lines in messages:
                self.write(stream, level, lines)
        return len(data)

    @staticmethod
    def write_out(outlet: Outlet, messages: list[Message]) -> None:
        """Many small writes in one, as long as none has to be dropped."""
        whole = b"".join(one[3] for one in messages)
        if outlet.size + len(whole) <= HELD:
            if whole:
                outlet.write(whole, 0)
            return
        for stream, _, _, data in messages:
            outlet.write(data, lines_in(stream, data))

    def write(self, stream: int, level: int, data: bytes) -> None:
        if self.show is not None and stream != ACCESS:
            self.show(data.decode("utf-8", "replace").removesuffix("\n"))
        if self.syslog is not None and self.logger is None:
            for line in (data,) if stream == RECORD else data.splitlines(keepends=True):
                self.syslog.write(level, line)

    def flush(self) -> None:
        """Write on what was written up to now, or as much of it as the pipes held."""
        for raw in self.raw:
            raw.flush()
        self.read()

    @property
    def deadline(self) -> float:
        """When `check` has to be called at the latest."""
        restart = self.logger.restart_at if self.logger is not None else float("inf")
        return min(self.resume, restart, *(raw.resume for raw in self.raw))

    def check(self, now: float, dropped: int) -> None:
        """Twice a second: outlets that cannot be polled; a logger that has to start again; dropped lines to report."""
        for outlet in self.outlets:
            if outlet.pending:
                outlet.flush()
        if now >= self.resume:
            self.resume = float("inf")
            if self.selector is not None and not self.handed_over:
                self.selector.register(self.reader, selectors.EVENT_READ, self.on_frames)
        for raw in self.raw:
            if now >= raw.resume and self.selector is not None:
                raw.watch(self.selector)
        if self.logger is not None and now >= self.logger.restart_at:
            self.logger.start()
        if dropped > self.reported and now >= self.report_after and not any(one.pending for one in self.outlets):
            absent = self.syslog is not None and self.logger is None and self.syslog.socket is None
            reason = "no syslog daemon listens; --log-file keeps them" if absent else "its reader is too slow"
            log.warning("%d lines of the log were dropped: %s", dropped - self.reported, reason)
            self.reported, self.report_after = dropped, now + REPORT_INTERVAL

    def service_ready(self) -> None:
        """The terminal has seen enough; from here on the logger process reads, if there is one."""
        if self.show is not None and self.syslog is not None and self.logger is None and not self.syslog.is_there():
            log.warning("no syslog daemon listens (%s): the log is lost from here on; --log-file writes it to a file",
                        Syslog.PATHS[0])  # fmt: skip
        self.flush()
        self.show = None
        self.start_logger()

    def start_logger(self) -> None:
        if self.logger is None or self.handed_over:
            return
        self.read()  # until the pipe is empty: then no frame has been read in part
        self.handed_over = True
        if self.selector is not None and self.reader in self.selector.get_map():
            self.selector.unregister(self.reader)
        self.logger.take_over(self.reader, b"".join(self.held))

    def reaped(self, pid: int, status: int) -> None:
        """A child of the supervisor has ended; perhaps it was the logger process."""
        if self.logger is not None and self.logger.pid == pid:
            self.logger.ended(status)

    @property
    def logger_restarts(self) -> int:
        return self.logger.restarts if self.logger is not None else 0

    def is_terminal(self) -> bool:
        """Whether stderr is one."""
        return bool(self.outlets) and self.outlets[1].is_terminal

    def shed(self, watched: set[int]) -> None:
        """In a child: only the supervisor reads. A pipe without readers tells its writers that the supervisor ended:
        then they write directly, but only to a pipe, with which they can do nothing else."""
        shut = {one.descriptor for one in self.outlets if not one.is_pipe}
        for descriptor in {self.reader, *(one.descriptor for one in self.raw)} - watched | shut:
            os.close(descriptor)
        if channel.output in shut:
            channel.output = -1
        if channel.errors in shut:
            channel.errors = -1
        channel.make_room = lambda: None
        if self.logger is not None:
            self.logger.shed()

    def close(self) -> None:
        """The end, or that of this program before another is executed: descriptors 1 and 2 are what they were."""
        if channel.writer < 0:
            return
        for lines in records.standard_streams:
            lines.finish()
        self.flush()
        for outlet in self.outlets:
            outlet.finish()
        null = os.open(os.devnull, os.O_RDWR)
        for number in (1, 2):
            os.dup2(self.outlets[number - 1].descriptor if self.outlets else null, number)
        os.close(null)
        for raw in self.raw:
            raw.lines.finish()
        if self.logger is not None:
            self.start_logger()
            if not self.logger.pid:
                self.logger.start()
        os.close(channel.writer)  # what this process still writes goes to stderr
        channel.writer = -1
        if self.logger is not None:
            self.logger.finish()
