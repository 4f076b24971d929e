"""The launcher: the process that the shell waits for, and the ready pipe that brings it messages and the verdict."""

import os
import select
import sys
import time
from typing import NoReturn

from ..config.errors import SOFTWARE
from ..config.text import cleaned
from ..ipc.waker import wait_for

HELD = 2**18  # bytes
FINISH_TIMEOUT = 5.0  # seconds for the last lines


class ReadyPipe:
    """The supervisor's end of the pipe: messages for the terminal, then one verdict (an exit status). What a launcher
    with a slow terminal does not take yet waits here; of messages HELD bytes at most, the rest is in the log alone."""

    def __init__(self, writer: int) -> None:
        self.writer = writer
        self.decided = False  # the verdict is known
        self.pending = b""

    def say(self, text: str) -> None:
        """Show a line on the terminal that the service was started from."""
        if not self.decided and len(self.pending) < HELD:
            self.pending += b"m" + text.replace("\n", "\0").encode("utf-8", "backslashreplace") + b"\n"
            self.flush()

    def verdict(self, status: int) -> None:
        """Report the exit status and release the launcher. Later calls do nothing."""
        if not self.decided:
            self.decided = True
            self.pending += b"v%d\n" % status
            self.flush()

    def flush(self) -> None:
        try:
            while self.pending and self.writer >= 0:
                self.pending = self.pending[os.write(self.writer, self.pending) :]
        except BlockingIOError:
            return
        except OSError:  # the launcher was killed: the service goes on without it
            self.close()
        if self.decided:
            self.close()

    def finish(self) -> None:
        """The supervisor ends: wait for the launcher, but not for long."""
        end = time.monotonic() + FINISH_TIMEOUT
        while self.writer >= 0 and time.monotonic() < end:
            self.flush()
            time.sleep(0.01 if self.writer >= 0 else 0.0)
        self.close()

    def close(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1


def wait_for_verdict(reader: int, timeout: float | None, name: str) -> NoReturn:
    """In the launcher: print messages until the verdict, then exit with it. After `timeout` seconds of silence (None:
    no limit) or at end-of-file without a verdict, exit with 70."""
    deadline = None if timeout is None else time.monotonic() + timeout
    rest = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not wait_for(reader, select.POLLIN, left):
            show(f"{name}: not ready and silent after {timeout:g} s; it may still be starting")
            os._exit(SOFTWARE)
        data = os.read(reader, 65536)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line[:1] == b"v":
                sys.stderr.flush()
                os._exit(int(line[1:]))
            show(cleaned(line[1:].replace(b"\0", b"\n").decode("utf-8", "replace")))
        if not data:
            show(f"{name}: the supervisor ended before it was ready, without a word")
            os._exit(SOFTWARE)


def show(line: str) -> None:
    """Write a line on the terminal, however slow that is: a starter may have made it non-blocking."""
    data = line.encode("utf-8", "backslashreplace") + b"\n"
    while data:
        try:
            data = data[os.write(2, data) :]
        except BlockingIOError:
            wait_for(2, select.POLLOUT, None)
        except OSError:  # the terminal is gone
            return
