"""The supervisor's view of the logger process (--log-file): starts it, and starts it again when it has died.

The supervisor holds both ends of the pipe: when the logger dies, what is in the pipe waits for the next one. What the
logger had read already lies in memory that both share (see `file_writer`).
"""

import mmap
import os
import signal
import time
from collections.abc import Callable
from typing import NoReturn

from ..config.settings import Config
from ..ipc import signals
from ..ipc.crash_throttle import CrashThrottle
from .file_writer import AREA, RETRY, STUCK, WORDS, FileWriter
from .records import channel, log
from .syslog import Syslog

FINISH_TIMEOUT = 2.0  # seconds that the last lines may take


class LoggerProcess:
    """`take_over` once; `ended` when the process was reaped, `start` at `restart_at`; `finish` at the end."""

    def __init__(self, config: Config, syslog: Syslog | None) -> None:
        self.config = config
        self.syslog = syslog
        self.reader = -1  # of the pipe, once the logger reads it
        self.memory = mmap.mmap(-1, WORDS * 8 + 2 * AREA)
        self.words = memoryview(self.memory)[: WORDS * 8].cast("Q")
        self.throttle = CrashThrottle(config.fast_time, config.fast_max, 0)
        self.pid = 0
        self.born = 0.0
        self.restart_at = float("inf")  # monotonic seconds: when the next one starts
        self.restarts = 0
        self.in_child: Callable[[], None] = lambda: None  # called in it first: frees what is not for it

    def take_over(self, reader: int, frames: bytes) -> None:
        """From here on the logger reads the pipe; it begins with these frames, which were read already."""
        self.reader = reader
        self.memory[WORDS * 8 : WORDS * 8 + len(frames)] = frames
        self.start()

    def start(self) -> None:
        """Fork a logger. Without a process for it, the pipe holds the lines until there is one."""
        self.restart_at = float("inf")
        self.born = time.monotonic()
        try:
            with signals.blocked():
                self.pid = os.fork()
                if not self.pid:
                    self.run()
        except OSError as error:
            log.error("cannot start the logger: %s; trying again", error.strerror)
            self.restart_at = self.born + RETRY

    def run(self) -> NoReturn:
        """The child: it keeps nothing of the supervisor but the pipe, and stderr for its own troubles."""
        try:
            self.in_child()
            signal.set_wakeup_fd(-1)  # signals do nothing here: it ends when the pipe has no writer any more
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            last = 3
            for keep in (*sorted({self.reader, channel.errors} - {-1}), 65536):
                os.closerange(last, keep)
                last = keep + 1
            channel.writer, channel.role = -1, "logger"
            syslog = self.syslog
            if syslog is not None:
                syslog.socket = None  # closed above, by its number
                channel.write_directly = lambda _, level, data: syslog.write(level, data)
        except BaseException:
            os._exit(1)
        FileWriter(self.config, self.reader, self.memory).run()

    def shed(self) -> None:
        """In a server: what the logger reads back after a crash, perhaps as root, is not for user code to write."""
        self.words.release()
        self.memory.close()

    def ended(self, status: int) -> None:
        """The logger has died: the next one goes on where it was."""
        self.pid = 0
        self.restarts += 1
        delay = self.throttle.died(time.monotonic() - self.born) or 0.0
        self.restart_at = time.monotonic() + delay
        log.error("the logger ended with %s; the next one starts%s", signals.name(status),
                  f" in {delay:.1f} s" if delay else "")  # fmt: skip

    def finish(self) -> None:
        """Wait until the logger has written everything: it ends when all writers of the pipe are closed."""
        end = time.monotonic() + FINISH_TIMEOUT
        while self.pid:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                return
            if pid and status and time.monotonic() < end:
                self.start()  # it was killed
            elif pid:
                return
            elif time.monotonic() >= end:
                if self.words[STUCK]:
                    os.kill(self.pid, signal.SIGKILL)
                    log.error("the log file %s cannot be written: its last lines are lost", self.config.log_file)
                return
            else:
                time.sleep(0.005)
