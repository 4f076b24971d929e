"""The raw output: what the service's processes write to descriptors 1 and 2 past `records`, such as a program that user
code starts, os.write() and a dump of faulthandler.

These descriptors are pipes, always: what the supervisor's starter gave it as stdout and stderr, perhaps root's terminal
or a log of root's, is no other process's. What arrives becomes lines of the log. A program that writes without end
waits while it has filled its pipe: that costs its own time alone.
"""

import os
import selectors
import time
from collections.abc import Iterable

from .records import LineStream

PIECE = 2**16  # bytes asked for in one read
LINES = 1000  # in one turn of the loop, where each becomes a record or a datagram (15 µs)
TURNS = 16  # of one flush
MUCH = 2**12  # bytes: after more of them in one turn, the pipe is left alone for a pause
PAUSE = 0.05  # seconds


class RawOutput:
    """One pipe, read by the supervisor. `stream` is what its lines count as, `numbers` the descriptors that lead to it
    in this process and in all that it forks; `most` lines are written on in one turn of the loop."""

    def __init__(self, stream: int, numbers: Iterable[int], most: int) -> None:
        self.descriptor, writer = os.pipe()
        os.set_blocking(self.descriptor, False)
        for number in numbers:
            os.dup2(writer, number)
        os.close(writer)
        self.lines = LineStream(stream)
        self.most = most
        self.unwritten = b""  # read, and left for the next turn
        self.resume = float("inf")  # monotonic seconds: when the pipe is watched again

    def on_readable(self, selector: selectors.BaseSelector) -> None:
        if self.read() > MUCH or self.unwritten:
            selector.unregister(self.descriptor)
            self.resume = time.monotonic() + PAUSE

    def watch(self, selector: selectors.BaseSelector) -> None:
        self.resume = float("inf")
        selector.register(self.descriptor, selectors.EVENT_READ, lambda: self.on_readable(selector))

    def read(self) -> int:
        """Write on what one read brings, or what the last one has left. Returns the number of bytes."""
        try:
            data = self.unwritten or os.read(self.descriptor, PIECE)
        except BlockingIOError:
            return 0
        lines = data.split(b"\n", self.most)
        self.unwritten = lines.pop() if len(lines) > self.most else b""
        written = data[: len(data) - len(self.unwritten)]
        self.lines.write(written)
        return len(written)

    def flush(self) -> None:
        """Write on what was written up to now, or as much of it as there is time for."""
        for _ in range(TURNS):
            if not self.read():
                return
