"""The self-pipe: how another thread, a signal or a forked process wakes a loop that sleeps in its selector; and how a
thread waits for one descriptor.
"""

import os
import select


def wait_for(fd: int, mask: int, seconds: float | None) -> bool:
    """Wait for one descriptor, None = without a limit. (select.select cannot wait for those above 1023.)"""
    poller = select.poll()
    poller.register(fd, mask)
    return bool(poller.poll(None if seconds is None else max(0.0, seconds) * 1000))


class Waker:
    """A pipe; neither end blocks. The loop polls `fileno()`, and calls `clear()` before it looks for what there is to
    do: what is added later wakes it again."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)

    def fileno(self) -> int:
        return self.reader

    def wake(self) -> None:
        """Wake the loop: from any thread of this process, or from a process forked from it."""
        try:
            os.write(self.writer, b"w")
        except OSError:
            return  # full: a wake-up is pending already; closed or without a reader: no loop is left to wake

    def clear(self) -> bytes:
        """Take what has been written since the last call, at most 4096 bytes of it: of more, the rest wakes again."""
        try:
            return os.read(self.reader, 4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)
