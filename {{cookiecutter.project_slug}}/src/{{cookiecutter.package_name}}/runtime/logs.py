"""Logs: user code just uses `logging`; each record leaves in one write.

In the foreground every process writes to stderr itself. Detached, the stderr of all processes is a pipe to the
supervisor (`Relay`), which passes lines on to the terminal until the service is ready and to syslog after that.
Nothing here ever blocks the service: what cannot be written is dropped and counted.
"""

import logging
import os
import select
import socket
import sys
import time
from collections.abc import Callable

log = logging.getLogger("runtime")

# Syslog's severities (RFC 5424 6.2.1) for logging's levels.
SEVERITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
FACILITY = {"user": 1, "daemon": 3, **{f"local{n}": 16 + n for n in range(8)}}
NEWLINE = "\0"  # stands for a line break inside a record on its way through the relay
PIECE = 4096  # PIPE_BUF on Linux: a pipe that polls writable takes this much without blocking


def severity(level: int) -> int:
    """The syslog severity of a logging level."""
    return SEVERITY.get(level // 10 * 10, 6)


class Stderr(logging.Handler):
    """Writes records to descriptor 2: `plain` for a terminal or container, `systemd` and `relay` with `<N>` first."""

    def __init__(self, role: str, style: str) -> None:
        super().__init__()
        self.role = role
        self.style = style
        self.dropped = 0

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if self.style != "plain":
            prefix = f"<{severity(record.levelno)}>"
            mark = NEWLINE if self.style == "relay" else "\n" + prefix
            return f"{prefix}{self.role}[{os.getpid()}] {message}".replace("\n", mark)
        whole = int(record.created)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        millis = int((record.created - whole) * 1000)
        return f"{stamp}.{millis:03d}Z {record.levelname:<7} {self.role}[{os.getpid()}] {message}"

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        except Exception:  # a wrong format string in user code must not end a worker
            self.handleError(record)
            return
        if not put(2, data):
            self.dropped += 1


def put(descriptor: int, data: bytes) -> bool:
    """Write without blocking; False when the reader is too slow or gone."""
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    try:
        while data:
            if not poller.poll(0):
                return False
            data = data[os.write(descriptor, data[:PIECE]) :]
    except OSError:  # nobody reads: a log is no reason to fail
        return False
    return True


def setup(role: str, level: str, detached: bool) -> None:
    """Make `logging` of this process write as said above. Called again after each fork with the new role."""
    style = "relay" if detached else "systemd" if "JOURNAL_STREAM" in os.environ else "plain"
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, Stderr)]:
        root.removeHandler(old)
    root.addHandler(Stderr(role, style))
    root.setLevel(level.upper())
    logging.captureWarnings(True)


class Syslog:
    """The local syslog daemon: a datagram per line (RFC 3164), never blocking. `dropped` counts what is lost."""

    PATHS = ("/dev/log", "/var/run/log", "/var/run/syslog")

    def __init__(self, ident: str, facility: str) -> None:
        self.ident = ident
        self.facility = FACILITY[facility] * 8
        self.dropped = 0
        self.socket: socket.socket | None = None

    def __call__(self, level: int, text: str) -> None:
        stamp = time.strftime("%b %e %H:%M:%S")
        for line in text.splitlines():
            data = f"<{self.facility + level}>{stamp} {self.ident}[{os.getpid()}]: {line}".encode()
            for _attempt in range(2):  # the second one after a restart of the daemon
                self.socket = self.socket or self.connect()
                try:
                    if self.socket is not None:
                        self.socket.send(data[:8192])
                        break
                except BlockingIOError:
                    self.dropped += 1
                    break
                except OSError:
                    self.socket = None
            else:
                self.dropped += 1

    def connect(self) -> socket.socket | None:
        for path in self.PATHS:
            found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                found.connect(path)
            except OSError:
                found.close()
            else:
                found.setblocking(False)
                return found
        return None


class Relay:
    """The supervisor's end of everybody's stdout and stderr once detached. Whole lines go to
    `target(severity, text)`."""

    def __init__(self, target: Callable[[int, str], None]) -> None:
        self.target = target
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.rest = b""

    def fileno(self) -> int:
        return self.reader

    def attach(self) -> None:
        """From now on this process and its children write here."""
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(self.writer, 1)
        os.dup2(self.writer, 2)
        os.close(self.writer)

    def read(self) -> None:
        """Pass on what has arrived; called by the loop, and once more at the end."""
        while True:
            try:
                data = os.read(self.reader, 65536)
            except BlockingIOError:
                return
            if not data:
                return
            *lines, self.rest = (self.rest + data).split(b"\n")
            if len(self.rest) > 65536:  # one endless line
                lines, self.rest = [*lines, self.rest], b""
            for line in lines:
                text = line.decode("utf-8", "replace")
                level = 6
                if text[:1] == "<" and text[1:2].isdigit() and text[2:3] == ">":
                    level, text = int(text[1]), text[3:]
                self.target(level, text.replace(NEWLINE, "\n"))
