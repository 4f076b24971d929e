"""The launcher: the process that the shell waits for, and the ready pipe that brings it messages and the verdict."""

import os
import select
import sys
import time
from typing import NoReturn

from ..config.errors import SOFTWARE


class ReadyPipe:
    """The supervisor's end of the pipe: messages for the terminal, then one verdict (an exit status)."""

    def __init__(self, writer: int) -> None:
        self.writer = writer

    def say(self, text: str) -> None:
        """Show a line on the terminal that the service was started from."""
        self.write(b"m" + text.replace("\n", "\0").encode("utf-8", "backslashreplace") + b"\n")

    def verdict(self, status: int) -> None:
        """Report the exit status and release the launcher. Later calls do nothing."""
        if self.writer >= 0:
            self.write(b"v%d\n" % status)
            self.close()

    def write(self, data: bytes) -> None:
        if self.writer < 0:
            return
        try:
            os.write(self.writer, data)
        except OSError:  # the launcher was killed: the service goes on without it
            self.close()

    def close(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1


def wait_for_verdict(reader: int, timeout: float | None, name: str) -> NoReturn:
    """In the launcher: print messages until the verdict, then exit with it. After `timeout` seconds of silence (None:
    no limit) or at end-of-file without a verdict, exit with 70."""
    deadline = None if timeout is None else time.monotonic() + timeout
    selector = select.poll()
    selector.register(reader, select.POLLIN)
    rest = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not selector.poll(None if left is None else left * 1000):
            print(f"{name}: not ready and silent after {timeout:g} s; it may still be starting", file=sys.stderr)
            os._exit(SOFTWARE)
        data = os.read(reader, 65536)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line[:1] == b"v":
                sys.stderr.flush()
                os._exit(int(line[1:]))
            print(line[1:].replace(b"\0", b"\n").decode("utf-8", "replace"), file=sys.stderr, flush=True)
        if not data:
            print(f"{name}: the supervisor ended before it was ready, without a word", file=sys.stderr)
            os._exit(SOFTWARE)
