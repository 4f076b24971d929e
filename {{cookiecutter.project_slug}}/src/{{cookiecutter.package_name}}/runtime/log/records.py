"""Logs: user code just uses `logging` or `print`; each record is one line, or one block of indented lines.

Every process writes its lines, as `frames`, into one pipe; the supervisor (`pipe_reader`), or with --log-file the
logger process (`file_writer`), reads them whole and writes them on. Nothing here ever blocks the service: what cannot
be written is dropped and counted. Before the pipe is made, and when its reader is dead, lines go to stderr directly.
"""

import io
import json
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..config.settings import Config
from ..config.text import cleaned, one_line
from ..ipc.waker import wait_for
from .frames import ACCESS, ERR, OUT, RECORD, encode, lines_in


class RuntimeLogger(logging.Logger):
    """The logger of the runtime. What user code does to `logging` neither silences it nor shows its lines twice: it has
    a handler and a level of its own, and cannot be disabled."""

    disabled = property(lambda self: False, lambda self, value: None)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # logging's name
        return level >= self.getEffectiveLevel()


log = logging.getLogger("runtime")
log.__class__ = RuntimeLogger  # which is registered: modules of the layers below know it by its name

# Syslog's severities (RFC 5424 6.2.1) for logging's levels.
SEVERITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
INFO = 6
COLOUR = {7: "2", 6: "32", 4: "33", 3: "31", 2: "1;31"}  # of severities (ECMA-48 SGR)
PIECE = 4096  # bytes; PIPE_BUF on Linux: a pipe that polls writable takes this much without blocking
LONGEST = 24576  # characters of a message or traceback; of a longer one the middle is left out
INDENT = "\n    "  # only a new record begins at the beginning of a line
COMPACT = (",", ":")  # between the fields of JSON
ORDINARY = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}  # attributes that each record has


def log_stacks() -> None:
    """Log where the threads of this process are, 100 at most, innermost call first: a record for each. (faulthandler
    writes line by line and past the pipe: records of other processes would come in between.)"""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, innermost in list(sys._current_frames().items())[:100]:
        lines, frame = [f"thread {names.get(ident, ident)} is here:"], innermost
        while frame is not None:
            lines.append(f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}')
            frame = frame.f_back  # type: ignore[assignment]
        log.error("%s", "\n".join(lines))


def severity(level: int) -> int:
    return SEVERITY.get(level // 10 * 10, INFO)


def stamp(seconds: float) -> str:
    """A time in UTC with milliseconds, as RFC 3339 writes it."""
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03d}Z"


def shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


this_thread = threading.local()  # its `worker`, if it is one: log lines name the request that it handles


def current_trace() -> Any:
    """The ids of the request that this thread handles; None without."""
    worker = getattr(this_thread, "worker", None)
    request = worker._request if worker is not None else None
    return request.trace if request is not None else None


class Channel:
    """How lines leave this process. There is one; the supervisor sets it up, and every fork inherits it.

    `style` is plain, colour, systemd (`<N>` first, sd-daemon(3)), bare (no time: syslog has its own) or json.
    """

    def __init__(self) -> None:
        self.style = "plain"
        self.wrapped = False  # what is printed becomes records, as it goes where records go
        self.journal = False  # stderr is the journal's: JSON too gets `<N>` in front
        self.role = "supervisor"
        self.pid = os.getpid()
        self.writer = -1  # of the pipe; it does not block. -1: write directly
        self.output, self.errors = 1, 2  # where lines go directly; -1 nowhere
        self.write_directly: Callable[[int, int, bytes], bool] = self.to_descriptor
        self.unlock()
        self.make_room: Callable[[], object] = lambda: None  # in the reader's own process: read, when the pipe is full
        self.words: memoryview[int] | list[int] = [0]  # lines dropped by this process: words[index]
        self.index = 0

    def unlock(self) -> None:
        """No thread of this process is in `send`: at the beginning, and after a fork. A destructor may log while its
        thread is there, so the lock is reentrant, and what is sent within waits for the end."""
        self.lock = threading.RLock()
        self.sending = False
        self.waiting: list[tuple[int, int, bytes]] = []

    def count_in(self, words: "memoryview[int] | list[int]", index: int) -> None:
        """Count dropped lines there from now on."""
        self.words, self.index = words, index

    def dropped(self, lines: int) -> None:
        self.words[self.index] += lines

    def send(self, stream: int, level: int, data: bytes) -> None:
        """Send whole lines; never wait."""
        with self.lock:
            self.waiting.append((stream, level, data))
            if self.sending:
                return
            self.sending = True
            try:
                while self.waiting:
                    self.send_now(*self.waiting.pop(0))
            finally:
                self.sending = False

    def send_now(self, stream: int, level: int, data: bytes) -> None:
        if self.writer >= 0 and self.write_frames(stream, level, data):
            return
        if not self.write_directly(stream, level, data):
            self.dropped(lines_in(stream, data))

    def to_descriptor(self, stream: int, level: int, data: bytes) -> bool:
        """Without the pipe. False when the reader is too slow or has ended."""
        descriptor = self.output if stream in (OUT, ACCESS) else self.errors
        try:
            while data:
                if descriptor < 0 or not wait_for(descriptor, select.POLLOUT, 0):
                    return False
                data = data[os.write(descriptor, data[:PIECE]) :]
        except OSError:  # a log is no reason to fail
            return False
        return True

    def write_frames(self, stream: int, level: int, data: bytes) -> bool:
        """Through the pipe; when it is full, drop and count. False when it has no reader any more."""
        try:
            for frame in encode(os.getpid(), stream, level, data):
                try:
                    os.write(self.writer, frame)
                except BlockingIOError:
                    self.make_room()
                    os.write(self.writer, frame)
        except BlockingIOError:
            self.dropped(lines_in(stream, data))
        except OSError:
            return False
        return True

    def send_printed(self, stream: int, data: bytes) -> None:
        """Lines that were printed, without the end of the last one."""
        if not self.wrapped:
            self.send(stream, INFO, data + b"\n")
            return
        name = "stdout" if stream == OUT else "stderr"
        for text in data.decode("utf-8", "replace").split("\n"):
            now, is_json = time.time(), self.style == "json"
            line = self.as_json(now, logging.INFO, name, text) if is_json else self.as_text(now, logging.INFO, text)
            self.send(stream, INFO, line)

    def as_text(self, when: float, level: int, message: str) -> bytes:
        """A record as a line for people, or a block of lines."""
        message = cleaned(shortened(message).rstrip("\n")).replace("\n", INDENT)
        current = current_trace()
        if current is not None:
            message = f"[{current.request_id}] {message}"
        line = f"{self.role}[{os.getpid()}] {message}"
        number = severity(level)
        if self.style == "systemd":
            line = f"<{number}>{line}".replace("\n", f"\n<{number}>")
        elif self.style != "bare":
            name = f"{logging.getLevelName(level):<7}"
            if self.style == "colour":
                name = f"\x1b[{COLOUR[number]}m{name}\x1b[0m"
            line = f"{stamp(when)} {name} {line}"
        return (line + "\n").encode("utf-8", "backslashreplace")

    def as_json(self, when: float, level: int, logger: str, message: str, **more: Any) -> bytes:
        """A record as a line of JSON. Its fields are those of docs/log.schema.json."""
        fields: dict[str, Any] = {
            "time": stamp(when),
            "level": logging.getLevelName(level).lower(),
            "logger": logger,
            "role": self.role,
            "pid": os.getpid(),
            "message": shortened(message),
            **more,
        }
        current = current_trace()
        if current is not None:
            fields.update(request_id=current.request_id, trace_id=current.trace_id, span_id=current.span_id)
        prefix = f"<{severity(level)}>" if self.journal else ""
        return f"{prefix}{json.dumps(fields, separators=COMPACT)}\n".encode()


channel = Channel()
if hasattr(os, "register_at_fork"):  # another thread may hold the lock while user code forks
    os.register_at_fork(after_in_child=channel.unlock)


class Records(logging.Handler):
    """The handler of the root logger."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if channel.style == "json":
                data = self.as_json(record)
            else:
                data = channel.as_text(record.created, record.levelno, self.format(record))
        except Exception:  # a wrong format string in user code must not end a worker
            self.handleError(record)
            return
        channel.send(RECORD, severity(record.levelno), data)

    def as_json(self, record: logging.LogRecord) -> bytes:
        more: dict[str, Any] = {}
        if record.threadName and record.threadName != "MainThread":
            more["thread"] = record.threadName
        if record.exc_info and record.exc_info[0] is not None:
            more["exception"] = shortened((self.formatter or logging.Formatter()).formatException(record.exc_info))
        if record.stack_info:
            more["stack"] = shortened(record.stack_info)
        extra = {name: json_value(value) for name, value in vars(record).items() if name not in ORDINARY}
        if extra:
            more["extra"] = extra
        return channel.as_json(record.created, record.levelno, record.name, record.getMessage(), **more)


def json_value(value: Any) -> Any:
    """A value of `extra` as JSON can express it, else its repr."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return shortened(repr(value))
    return value


class LineStream(io.BufferedIOBase):
    """Under sys.stdout and sys.stderr: sends whole lines, each thread's own, and never blocks."""

    def __init__(self, stream: int) -> None:
        super().__init__()
        self.stream = stream
        self.parts: dict[int, bytes | None] = {}  # lines without an end, by thread; None: only the end is to come

    def fileno(self) -> int:
        return 1 if self.stream == OUT else 2

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        thread = threading.get_ident()
        before, text = self.parts.pop(thread, b""), bytes(data)
        text = text.removeprefix(b"\n") if before is None else before + text
        whole, end, rest = text.rpartition(b"\n")
        if end:
            channel.send_printed(self.stream, whole)
        if len(rest) > LONGEST:
            channel.send_printed(self.stream, rest)
            self.parts[thread] = None
        elif rest:
            self.parts[thread] = rest
        return len(data)

    def finish(self) -> None:
        """The process ends: send lines without an end too."""
        while self.parts:
            if rest := self.parts.popitem()[1]:
                channel.send_printed(self.stream, rest)


standard_streams = (LineStream(OUT), LineStream(ERR))


def flush() -> None:
    """Send what os._exit would lose."""
    for lines in standard_streams:
        lines.finish()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def setup(role: str, config: Config) -> None:
    """Make `logging` of this process write here, before any user code runs."""
    take_role(role)
    for logger in (logging.getLogger(), log):
        if not any(isinstance(one, Records) for one in logger.handlers):
            logger.addHandler(Records())
    log.propagate = False
    set_level(config)
    logging.captureWarnings(True)


def set_level(config: Config) -> None:
    for logger in (logging.getLogger(), log):
        logger.setLevel(config.log_level.upper())


def take_role(role: str) -> None:
    """After a fork. What user code has done to `logging` stays."""
    channel.role, channel.pid = role, os.getpid()


def last_words(name: str, reason: str) -> None:
    """Write the one line that says why the service could not start, or gave up."""
    reason = one_line(reason, LONGEST)
    data = f"{name}: {reason}\n".encode("utf-8", "backslashreplace")
    if channel.style == "json":
        data = channel.as_json(time.time(), logging.CRITICAL, "runtime", reason)
    channel.send(ERR, SEVERITY[logging.CRITICAL], data)
