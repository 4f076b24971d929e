"""The relay: the supervisor's end of everybody's log. It reads frames (see `logs`) and writes whole lines on: to stdout
and stderr in the foreground; detached to the terminal until the service is ready, and to syslog.

With --log-file all that is only so until the service is ready. What has been read is kept, and then the logger process
reads on. Whatever does not come through `logs` (a dump of faulthandler, a program that user code starts) arrives in
descriptors 1 and 2; where lines must be told apart, these are a second pipe, the strays, which the supervisor reads.
"""

import fcntl
import io
import os
import selectors
import sys
import time

from ..config.settings import Config
from ..system.launcher import ReadyPipe
from . import records
from .file_writer import MUCH, LoggerProcess, extent
from .outlet import HELD, Outlet
from .records import ACCESS, ERR, GOES_ON, HEADER, MORE, OUT, RECORD, channel, log
from .syslog import Syslog

CAPACITY = 2**20  # bytes wanted in the pipe; systems give less
SET_CAPACITY = getattr(fcntl, "F_SETPIPE_SZ", None)
UNFINISHED = 2**19  # bytes of records that are not complete
PAUSE = 0.05  # seconds for which a pipe of CAPACITY is left alone after a read of MUCH
ONCE = 2**20  # bytes read before others get their turn
PIECE = 2**18  # bytes asked for in one read
QUIET = 10.0  # seconds between two lines about dropped ones
Message = tuple[int, int, int, bytes]  # stream, severity, pid, lines


def split(data: bytes) -> tuple[list[Message], bytes]:
    """The messages in a sequence of frames, and the frames that are left over: of records that are not complete."""
    found: list[Message] = []
    open_: dict[int, list[bytes]] = {}  # frames of records that go on, by sender
    at, end = 0, len(data)
    while end - at >= HEADER.size:
        pid, kind, size = HEADER.unpack_from(data, at)
        if at + HEADER.size + size > end:
            break
        frame = data[at : at + HEADER.size + size]
        at += len(frame)
        if not kind & (MORE | GOES_ON):
            open_.pop(pid, None)  # that one was dropped on its way
            found.append((kind & 3, kind >> 2 & 7, pid, frame[HEADER.size :]))
        elif not kind & GOES_ON:
            open_[pid] = [frame]
        elif pid in open_:
            open_[pid].append(frame)
            if not kind & MORE:
                payload = b"".join(one[HEADER.size :] for one in open_.pop(pid))
                found.append((kind & 3, kind >> 2 & 7, pid, payload))
    left = [b"".join(frames) for frames in open_.values()]
    while sum(map(len, left)) > UNFINISHED:
        del left[0]  # its sender was killed in the middle
    return found, b"".join(left) + data[at:]


def is_journal(descriptor: int) -> bool:
    """systemd.exec(5): JOURNAL_STREAM names the device and inode of the stream that the journal reads."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def style_of(config: Config) -> str:
    """How a record looks: --log-format, and who will read it."""
    if config.log_format == "json":
        return "json"
    if config.log_file or not config.foreground:
        return "plain" if config.log_file else "bare"
    if is_journal(2):
        return "systemd"
    # https://no-color.org
    coloured = os.isatty(2) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    return "colour" if coloured else "plain"


class PipeReader:
    """See the head of this file. `begin` once, then `read` whenever there is something, `close` at the end."""

    def __init__(self, config: Config, ready: ReadyPipe | None) -> None:
        self.config = config
        self.ready = ready
        self.rest = b""
        self.stray_rest = b""
        self.held: list[bytes] = []  # frames for the logger process
        self.held_size = 0
        self.handed = False  # the logger process reads the pipe
        self.selector: selectors.BaseSelector | None = None
        self.syslog = None if config.foreground else Syslog(config.name, config.log_facility)
        self.outlets: tuple[Outlet, ...] = ()
        self.strays = -1
        self.pause = 0.0
        self.resume = float("inf")  # when the pipe is looked at again
        self.told = 0  # dropped lines that the log has heard of
        self.quiet = 0.0  # until when it need not hear of more
        self.logger = LoggerProcess(config, self) if config.log_file else None

    def rename(self, name: str) -> None:
        """What syslog has from now on bears this name."""
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
                self.pause = 0.0  # others have used up what this user may have: the usual 64 KiB must do
        channel.journal = config.foreground and not config.log_file and is_journal(2)
        if config.foreground:
            self.outlets = Outlet(os.dup(1)), Outlet(os.dup(2))
            channel.output, channel.errors = (one.descriptor for one in self.outlets)
        else:
            channel.output = channel.errors = -1
        channel.style = style_of(config)
        channel.wrapped = channel.style == "json" or bool(config.log_file)
        if channel.style in ("json", "bare") or config.log_file:
            self.strays, writer = os.pipe()
            os.set_blocking(self.strays, False)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            os.close(writer)
        channel.make_room = self.read
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(lines, "utf-8", "backslashreplace", write_through=True)  # type: ignore[type-var]
            for lines in records.printed
        )

    def join(self, selector: selectors.BaseSelector) -> None:
        """Become part of the supervisor's loop."""
        self.selector = selector
        selector.register(self.reader, selectors.EVENT_READ, self.on_frames)
        if self.strays >= 0:
            selector.register(self.strays, selectors.EVENT_READ, self.read_strays)
        for outlet in self.outlets:
            outlet.selector = selector

    def read(self) -> None:
        """Pass on what has arrived."""
        if self.handed:
            return
        for _ in range(ONCE // PIECE):
            if self.read_piece() < PIECE:
                return

    def on_frames(self) -> None:
        """The pipe is readable. Where much comes, more follows: each of the supervisor's turns is to be worth it."""
        if self.read_piece() > MUCH and self.pause and self.selector is not None:
            self.selector.unregister(self.reader)
            self.resume = time.monotonic() + self.pause

    def read_piece(self) -> int:
        """How many bytes there were."""
        try:
            data = os.read(self.reader, PIECE)
        except BlockingIOError:
            return 0
        if self.logger is not None and self.held_size < HELD:  # what init() says beyond that is on the terminal only
            self.held.append(data)
            self.held_size += len(data)
        messages, self.rest = split(self.rest + data if self.rest else data)
        requests = [one[3] for one in messages if one[0] == ACCESS]
        if requests:  # many small writes into one
            self.deliver(ACCESS, records.INFO, 0, b"".join(requests))
        for message in messages:
            if message[0] != ACCESS:
                self.deliver(*message)
        return len(data)

    def deliver(self, stream: int, level: int, pid: int, data: bytes) -> None:
        """Lines, to whoever reads them."""
        if self.outlets:
            self.outlets[0 if stream in (OUT, ACCESS) else 1].write(data, data.count(b"\n") if stream == ACCESS else 1)
            return
        if self.ready is not None and self.ready.writer >= 0 and stream != ACCESS:
            self.ready.say(data.decode("utf-8", "replace").removesuffix("\n"))
        if self.syslog is not None and self.logger is None:
            for line in (data,) if stream == RECORD else data.splitlines(keepends=True):
                self.syslog(level, line)

    def read_strays(self) -> None:
        """What came through descriptors 1 and 2 is made a line of the log, like all others."""
        while True:
            try:
                data = os.read(self.strays, PIECE)
            except BlockingIOError:
                return
            if not data:
                return
            whole, end, self.stray_rest = (self.stray_rest + data).rpartition(b"\n")
            if len(self.stray_rest) > records.LONGEST:
                whole, end, self.stray_rest = self.stray_rest, b"\n", b""
            if end:
                channel.say(ERR, whole)

    def flush(self) -> None:
        """Everything that has been said up to now."""
        if self.strays >= 0:
            self.read_strays()
        self.read()

    @property
    def due(self) -> float:
        """When `check` has to be called at the latest."""
        return min(self.resume, self.logger.due if self.logger is not None else float("inf"))

    def check(self, now: float, dropped: int) -> None:
        """Twice a second: outlets that cannot be polled; a logger that is to be started; lines that were dropped."""
        for outlet in self.outlets:
            if outlet.pending:
                outlet.flush()
        if now >= self.resume:
            self.resume = float("inf")
            if self.selector is not None and not self.handed:
                self.selector.register(self.reader, selectors.EVENT_READ, self.on_frames)
        if self.logger is not None and now >= self.logger.due:
            self.logger.start()
        if dropped > self.told and now >= self.quiet and not any(outlet.pending for outlet in self.outlets):
            log.warning("%d lines of the log were dropped: whoever reads it is too slow", dropped - self.told)
            self.told, self.quiet = dropped, now + QUIET

    def hand_over(self) -> bytes:
        """The logger process reads from now on; what it has missed."""
        while self.read_piece():
            continue  # until the pipe is empty: then no frame has been read in part
        self.handed = True
        if self.selector is not None and self.reader in self.selector.get_map():
            self.selector.unregister(self.reader)
        held = b"".join(self.held)
        return held[: extent(held)]

    def shed(self, watched: set[int]) -> None:
        """In a child: only the supervisor reads. A pipe without readers is how the others learn that it is gone."""
        for descriptor in {self.reader, self.strays} - watched - {-1}:
            os.close(descriptor)
        channel.make_room = lambda: None

    def close(self) -> None:
        """The end, or that of this program before another is executed: descriptors 1 and 2 are what they were."""
        if channel.writer < 0:
            return
        for lines in records.printed:
            lines.finish()
        self.flush()
        for outlet in self.outlets:
            outlet.finish()
        if self.strays >= 0:
            null = os.open(os.devnull, os.O_RDWR)
            for number in (1, 2):
                os.dup2(self.outlets[number - 1].descriptor if self.outlets else null, number)
            os.close(null)
            if self.stray_rest:
                channel.say(ERR, self.stray_rest)
                self.stray_rest = b""
        if self.logger is not None:
            self.logger.finish()
        else:
            self.leave_pipe()

    def leave_pipe(self) -> None:
        """This process has said all: what it still says goes to stderr."""
        os.close(channel.writer)
        channel.writer = -1
