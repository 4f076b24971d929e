"""The logger process of --log-file: it reads everybody's frames from the pipe and writes whole lines to a file.

The file's name is made by strftime(3) for each batch. Another name, or a file that was moved or removed, means a new
file, so logrotate needs to tell nobody. The supervisor holds both ends of the pipe: when the logger dies, what is in it
waits for the next one. What it had read already lies in memory that both share, with all that the next one needs to
write each line exactly once: the time that the batch was begun at, and the size of the file then.
"""

import glob
import mmap
import os
import re
import select
import signal
import time
from typing import TYPE_CHECKING, NoReturn

from ..config.errors import NOPERM, StartError
from ..config.settings import Config
from ..ipc import signals
from ..ipc.crash_throttle import CrashThrottle
from .records import HEADER, channel, log

if TYPE_CHECKING:
    from .pipe_reader import PipeReader


# Words of the shared memory. SEQUENCE: number of the batch; even ones lie in the first area, odd ones in the second.
# STARTED: number of the batch, plus one, whose writing has begun; NOW (microseconds) and OFFSET (the file's size) are
# its own. LEFT: bytes of unfinished records at the beginning of each of the two areas. STUCK: the file cannot be
# written.
SEQUENCE, STARTED, NOW, OFFSET, LEFT, STUCK = 0, 1, 2, 3, 4, 6
WORDS = 8
AREA = 2**22  # bytes: more than the pipe holds, so that one read takes whole frames; and what was left over
RETRY = 0.5  # seconds until the next attempt to write
LOOK = 1.0  # seconds between looks at whether the file is still there
MUCH = 2**12  # bytes after which the pipe is left alone for PAUSE seconds
PAUSE = 0.01
PARTING = 2.0  # seconds that the last lines may take
SHORT = {"F": "%Y-%m-%d", "T": "%H:%M:%S", "R": "%H:%M"}
DIGITS = {"Y": 4, "G": 4, "j": 3, "u": 1, "w": 1, **dict.fromkeys("mdHIMSyUWVg", 2)}


def file_name(pattern: str, now: float) -> str:
    return time.strftime(pattern, time.localtime(now))


def open_file(name: str, pattern: str) -> int:
    """Open a log file to append to. Not through a symbolic link: who may write to its directory may not choose what
    root appends to. Raises OSError."""
    if "%" in os.path.dirname(pattern):
        os.makedirs(os.path.dirname(name), exist_ok=True)
    return os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)


def check(config: Config) -> None:
    """Can it be written? Raises StartError (77)."""
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
                continue  # somebody else tidies up as well
    return [name for _, name in sorted(times, reverse=True)]


def extent(area: bytes | memoryview) -> int:
    """How many bytes of whole frames there are; zeros follow."""
    at = 0
    while at + HEADER.size <= len(area):
        pid, _, size = HEADER.unpack_from(area, at)
        if not pid:
            break
        at += HEADER.size + size
    return at


class Logger:
    """The logger's work; `run` never returns."""

    def __init__(self, config: Config, reader: int, memory: mmap.mmap) -> None:
        self.config = config
        self.reader = reader
        whole = memoryview(memory)
        self.words = whole[: WORDS * 8].cast("Q")
        self.areas = [whole[WORDS * 8 + n * AREA : WORDS * 8 + (n + 1) * AREA] for n in range(2)]
        self.used = [AREA, AREA]  # bytes that may not be zero
        self.name = ""
        self.file = -1
        self.checked = 0.0

    def run(self) -> NoReturn:
        """Until no process is left that could say something."""
        status = 1
        try:
            poller = select.poll()
            poller.register(self.reader, select.POLLIN)
            sequence = self.words[SEQUENCE]
            self.work(extent(self.areas[sequence & 1]))  # what the last logger did not finish
            while True:
                parity = self.words[SEQUENCE] & 1
                left = self.words[LEFT + parity]
                poller.poll()
                size = os.readv(self.reader, [self.areas[parity][left:]])
                if not size:
                    break
                self.work(left + size)
                if size > MUCH:
                    time.sleep(PAUSE)  # where much comes, more comes at once
            status = 0
        except BaseException:
            log.critical("the logger failed", exc_info=True)
        finally:
            os._exit(status)

    def work(self, size: int) -> None:
        """Write the batch in the current area, and prepare the other one for the next."""
        from .pipe_reader import split

        words = self.words
        sequence = words[SEQUENCE]
        messages, rest = split(bytes(self.areas[sequence & 1][:size]))
        if messages:
            again = words[STARTED] == sequence + 1
            now = words[NOW] / 1e6 if again else time.time()
            self.turn_over(now)
            length = os.fstat(self.file).st_size
            if not again:
                words[NOW], words[OFFSET] = int(now * 1e6), length
                now = words[NOW] / 1e6  # a successor sees just this
                words[STARTED] = sequence + 1
            written = max(0, length - words[OFFSET])
            prefix = time.strftime(self.config.log_prefix, time.localtime(now)).encode()
            lines = b"".join(self.lines(data, prefix) for _, _, _, data in messages)
            self.write(lines[written:])
        parity = (sequence + 1) & 1
        self.used[1 - parity] = max(size, self.used[1 - parity])
        self.areas[parity][: self.used[parity]] = bytes(self.used[parity])
        self.areas[parity][: len(rest)] = rest
        self.used[parity] = 0
        words[LEFT + parity] = len(rest)
        words[SEQUENCE] = sequence + 1  # from here on that batch is done

    @staticmethod
    def lines(data: bytes, prefix: bytes) -> bytes:
        """What a message is in the file."""
        if not data.endswith(b"\n"):
            data += b"\n"
        if not prefix:
            return data
        return b"".join(prefix + line for line in data.splitlines(keepends=True))

    def write(self, data: bytes) -> None:
        """All of it, however long it takes: until then the pipe fills up, and then others drop and count."""
        since = 0.0
        while data:
            try:
                data = data[os.write(self.file, data) :]
            except OSError as error:
                since = since or self.stuck(error)
                time.sleep(RETRY)
        if since:
            self.goes_on(since)

    def turn_over(self, now: float) -> None:
        """Open the file that lines of this time belong to, if it is not open."""
        name = file_name(self.config.log_file, now)
        if name == self.name and abs(now - self.checked) < LOOK:
            return
        self.checked = now
        since = 0.0
        while True:
            try:
                if self.file >= 0 and name == self.name and same(self.file, name):
                    break
                file = open_file(name, self.config.log_file)
            except OSError as error:
                since = since or self.stuck(error)
                time.sleep(RETRY)
                continue
            if self.file >= 0:
                os.close(self.file)
            self.file, self.name = file, name
            self.tidy()
            break
        if since:
            self.goes_on(since)

    def tidy(self) -> None:
        """--log-keep."""
        if self.config.log_keep:
            for name in files_of(self.config.log_file)[self.config.log_keep :]:
                try:
                    if name != self.name:
                        os.unlink(name)
                except OSError as error:
                    log.warning("cannot remove the old log file %s: %s", name, error.strerror)

    def stuck(self, error: OSError) -> float:
        """Say that the file cannot be written, where that can be said; since when."""
        self.words[STUCK] = 1
        log.error("the log file %s cannot be written: %s; trying again, and the service goes on",
                  self.name or self.config.log_file, error.strerror)  # fmt: skip
        return time.monotonic()

    def goes_on(self, since: float) -> None:
        """It can again; say so in the file too."""
        self.words[STUCK] = 0
        log.warning("the log file %s can be written again, after %.1f s", self.name, time.monotonic() - since)


def same(file: int, name: str) -> bool:
    """Is this open file still the one of this name?"""
    try:
        there = os.stat(name, follow_symlinks=False)
    except FileNotFoundError:
        return False
    ours = os.fstat(file)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


class LoggerProcess:
    """The supervisor's view of the logger process: starts it, and starts it again when it has died."""

    def __init__(self, config: Config, relay: "PipeReader") -> None:
        self.config = config
        self.relay = relay
        self.memory = mmap.mmap(-1, WORDS * 8 + 2 * AREA)
        self.words = memoryview(self.memory)[: WORDS * 8].cast("Q")
        self.throttle = CrashThrottle(config.fast_time, config.fast_max, 0)
        self.pid = 0
        self.born = 0.0
        self.due = float("inf")  # when the next one starts
        self.restarts = 0

    def take_over(self) -> None:
        """The service is ready: from here on the logger reads, and begins with what has been said so far."""
        if not self.relay.handed:
            held = self.relay.hand_over()
            start = WORDS * 8
            self.memory[start : start + len(held)] = held
            self.start()

    def start(self) -> None:
        """Fork a logger. Without a process for it, the pipe holds the lines until there is one."""
        self.due = float("inf")
        self.born = time.monotonic()
        try:
            with signals.blocked():
                self.pid = os.fork()
                if not self.pid:
                    self.become()
        except OSError as error:
            log.error("cannot start the logger: %s; trying again", error.strerror)
            self.due = self.born + RETRY

    def become(self) -> NoReturn:
        """The child's side: it needs nothing of the supervisor but the pipe, and stderr for its own troubles."""
        try:
            signal.set_wakeup_fd(-1)  # signals do nothing here: the end of all writers is its end
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            last = 3
            for keep in (*sorted({self.relay.reader, channel.errors} - {-1}), 65536):
                os.closerange(last, keep)
                last = keep + 1
            channel.writer, channel.role = -1, "logger"
            syslog = self.relay.syslog
            if syslog is not None:
                syslog.socket = None  # closed above, by its number

                def say(stream: int, level: int, data: bytes) -> bool:
                    syslog(level, data)
                    return True

                channel.write_directly = say
        except BaseException:
            os._exit(1)
        Logger(self.config, self.relay.reader, self.memory).run()

    def ended(self, status: int) -> None:
        """It has died: the next one goes on where it was."""
        self.pid = 0
        self.restarts += 1
        delay = self.throttle.died(time.monotonic() - self.born) or 0.0
        self.due = time.monotonic() + delay
        log.error("the logger ended with %s; the next one starts%s", signals.name(status),
                  f" in {delay:.1f} s" if delay else "")  # fmt: skip

    def finish(self) -> None:
        """Wait until it has written everything; it ends when nobody is left who could say something."""
        self.take_over()
        if not self.pid:
            self.start()
        self.relay.leave_pipe()
        end = time.monotonic() + PARTING
        while self.pid:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                return
            if pid and status and time.monotonic() < end:
                self.start()  # somebody killed it
            elif pid:
                return
            elif time.monotonic() >= end:
                if self.words[STUCK]:
                    os.kill(self.pid, signal.SIGKILL)
                    log.error("the log file %s cannot be written: its last lines are lost", self.config.log_file)
                return
            else:
                time.sleep(0.005)
