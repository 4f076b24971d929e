"""The writer of --log-file: in a process of its own it reads frames from the pipe and writes whole lines to a file.

The file's name is made by strftime(3) for each batch. Another name, or a file that was moved or removed, means a new
file, so logrotate needs no `postrotate`. Memory shared with the supervisor holds what was read, and all that the next
writer needs to write each line exactly once when this one is killed: the time at which the batch was begun, and the
size of the file then.
"""

import errno
import glob
import mmap
import os
import re
import select
import stat
import time
from collections.abc import Callable
from typing import NoReturn

from ..config.directories import closing, is_at, open_directory
from ..config.errors import NOPERM, StartError
from ..config.settings import Config
from ..ipc.waker import wait_for
from .frames import extent, split
from .records import log

# Words of the shared memory. SEQUENCE: number of the batch; even ones lie in the first area, odd ones in the second.
# STARTED: number of the batch, plus one, whose writing has begun; NOW (microseconds) and OFFSET (the file's size) are
# its own. LEFT: bytes of unfinished records at the beginning of each of the two areas. STUCK: the file cannot be
# written.
SEQUENCE, STARTED, NOW, OFFSET, LEFT, STUCK = 0, 1, 2, 3, 4, 6
WORDS = 8
AREA = 2**22  # bytes: more than the pipe holds, so that one read takes whole frames; and what was left over
RETRY = 0.5  # seconds until the next attempt to write
MUCH = 2**12  # bytes: after a read of more, so many follow that a pause gathers them
PAUSE = 0.01  # seconds
SHORT = {"F": "%Y-%m-%d", "T": "%H:%M:%S", "R": "%H:%M"}
DIGITS = {"Y": 4, "G": 4, "j": 3, "u": 1, "w": 1, **dict.fromkeys("mdHIMSyUWVg", 2)}


def file_name(pattern: str, now: float) -> str:
    return time.strftime(pattern, time.localtime(now))


def open_file(name: str, pattern: str) -> int:
    """Open a log file to append to. Not through a symbolic link: a user with write access to the directory must not
    choose what root appends to. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with closing(open_directory(os.path.dirname(name), "%" in os.path.dirname(pattern))) as directory:
        file = os.open(os.path.basename(name), flags, 0o640, dir_fd=directory)
    if stat.S_ISFIFO(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.ENXIO, "it is a FIFO, no file")
    return file


def check(config: Config) -> None:
    """Raises StartError (77) when the log file cannot be opened."""
    try:
        os.close(open_file(file_name(config.log_file, time.time()), config.log_file))
    except OSError as error:
        raise StartError(f"--log-file {config.log_file}: cannot open it: {error.strerror}", NOPERM) from None


def files_of(pattern: str) -> list[str]:
    """The files that this pattern may have named, and no others; the newest first."""
    for letter, long in SHORT.items():
        pattern = pattern.replace("%" + letter, long)
    pieces = re.split(r"%(.)", pattern)
    expression = "".join(
        re.escape(piece) if number % 2 == 0 else "%" if piece == "%"
        else rf"\d{{{DIGITS[piece]}}}" if piece in DIGITS else r"\d+" if piece == "s" else "[^/]+"
        for number, piece in enumerate(pieces)
    )  # fmt: skip
    found = glob.glob("".join(glob.escape(piece) if n % 2 == 0 else "*" for n, piece in enumerate(pieces)))
    times = []
    for name in found:
        if re.fullmatch(expression, name):
            try:
                times.append((os.stat(name, follow_symlinks=False).st_mtime_ns, name))
            except FileNotFoundError:
                continue  # another program removes old files as well
    return [name for _, name in sorted(times, reverse=True)]


class FileWriter:
    """The work of the logger process; `run` never returns."""

    def __init__(self, config: Config, reader: int, memory: mmap.mmap) -> None:
        self.config = config
        self.reader = reader
        whole = memoryview(memory)
        self.words = whole[: WORDS * 8].cast("Q")
        self.areas = [whole[WORDS * 8 + n * AREA : WORDS * 8 + (n + 1) * AREA] for n in range(2)]
        self.used = [AREA, AREA]  # bytes that may not be zero
        self.name = ""
        self.file = -1
        self.unwritten = b""

    def run(self) -> NoReturn:
        """Until the pipe has no writer any more."""
        status = 1
        try:
            sequence = self.words[SEQUENCE]
            self.write_batch(extent(self.areas[sequence & 1]))  # what the last logger did not finish
            while True:
                parity = self.words[SEQUENCE] & 1
                left = self.words[LEFT + parity]
                wait_for(self.reader, select.POLLIN, None)
                size = os.readv(self.reader, [self.areas[parity][left:]])
                if not size:
                    break
                self.write_batch(left + size)
                if size > MUCH:
                    time.sleep(PAUSE)
            status = 0
        except BaseException:
            log.critical("the logger failed", exc_info=True)
        finally:
            os._exit(status)

    def write_batch(self, size: int) -> None:
        """Write the batch in the current area, and prepare the other one for the next."""
        words = self.words
        sequence = words[SEQUENCE]
        messages, rest = split(bytes(self.areas[sequence & 1][:size]))
        if messages:
            again = words[STARTED] == sequence + 1
            now = words[NOW] / 1e6 if again else time.time()
            self.choose_file(now)
            length = os.fstat(self.file).st_size
            if not again:
                words[NOW], words[OFFSET] = int(now * 1e6), length
                now = words[NOW] / 1e6  # exactly what a successor reads
                words[STARTED] = sequence + 1
            written = max(0, length - words[OFFSET])
            prefix = time.strftime(self.config.log_prefix, time.localtime(now)).encode()
            self.unwritten = b"".join(file_lines(data, prefix) for _, _, _, data in messages)[written:]
            self.insist(self.write)
        parity = (sequence + 1) & 1
        self.used[1 - parity] = max(size, self.used[1 - parity])
        self.areas[parity][: self.used[parity]] = bytes(self.used[parity])
        self.areas[parity][: len(rest)] = rest
        self.used[parity] = 0
        words[LEFT + parity] = len(rest)
        words[SEQUENCE] = sequence + 1  # from here on the batch counts as written

    def write(self) -> None:
        while self.unwritten:
            self.unwritten = self.unwritten[os.write(self.file, self.unwritten) :]

    def choose_file(self, now: float) -> None:
        """Open the file that lines of this time belong to, if it is not open."""
        name = file_name(self.config.log_file, now)
        if self.file < 0 or not is_at(name, self.file):  # for each batch: a file that was renamed may soon be removed
            self.insist(lambda: self.open(name))

    def open(self, name: str) -> None:
        file = open_file(name, self.config.log_file)
        if self.file >= 0:
            os.close(self.file)
        self.file, self.name = file, name
        self.remove_old()

    def remove_old(self) -> None:
        """Of the files that the pattern may have named keep the newest (--log-keep)."""
        if self.config.log_keep:
            for name in files_of(self.config.log_file)[self.config.log_keep :]:
                try:
                    if name != self.name:
                        with closing(open_directory(os.path.dirname(name))) as directory:
                            os.unlink(os.path.basename(name), dir_fd=directory)
                except OSError as error:
                    log.warning("cannot remove the old log file %s: %s", name, error.strerror)

    def insist(self, action: Callable[[], None]) -> None:
        """Call until it raises no OSError. Until then the pipe fills up, and then the other processes drop and count
        lines. Reports on stderr, or to syslog, when that begins and ends."""
        since = 0.0
        while True:
            try:
                action()
                break
            except OSError as error:
                if not since:
                    since = time.monotonic()
                    self.words[STUCK] = 1
                    log.error("the log file %s cannot be written: %s; trying again, and the service goes on",
                              self.name or self.config.log_file, error.strerror)  # fmt: skip
                time.sleep(RETRY)
        if since:
            self.words[STUCK] = 0
            log.warning("the log file %s can be written again, after %.1f s", self.name, time.monotonic() - since)


def file_lines(data: bytes, prefix: bytes) -> bytes:
    if not data.endswith(b"\n"):
        data += b"\n"
    return b"".join(prefix + line for line in data.splitlines(keepends=True)) if prefix else data
