"""An outlet of the log: stdout or stderr, written to without blocking."""

import os
import select
import selectors
import stat
import time
from collections import deque

from ..config.text import coloured
from ..ipc.waker import wait_for
from . import records
from .records import channel

HELD = 2**20  # bytes that wait for a slow reader, or for the logger process, before lines are dropped
FINISH_TIMEOUT = 1.0  # seconds for the last lines


class Outlet:
    """A descriptor that other programs may share, so its flags stay as they are (no O_NONBLOCK). What its reader does
    not take yet waits here; above HELD bytes it is dropped and counted."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.pending: deque[bytes] = deque()
        self.size = 0
        self.selector: selectors.BaseSelector | None = None
        self.watched = False
        mode = os.fstat(descriptor).st_mode
        self.is_pipe = stat.S_ISFIFO(mode)
        self.piece = 2**30 if stat.S_ISREG(mode) else records.PIECE
        self.is_terminal = os.isatty(descriptor)

    def write(self, data: bytes, lines: int) -> None:
        """Write whole lines, so many by the count of dropped ones. On a terminal nothing of them steers it."""
        if self.is_terminal:
            data = coloured(data)
        if self.size + len(data) > HELD:
            channel.dropped(lines)
            return
        self.pending.append(data)
        self.size += len(data)
        if not self.watched:
            self.flush()

    def flush(self) -> None:
        """Write what the reader takes now; the selector calls again when it takes more."""
        try:
            while self.pending and wait_for(self.descriptor, select.POLLOUT, 0):
                data = self.pending[0]
                done = os.write(self.descriptor, data[: self.piece])
                self.size -= done
                if done < len(data):
                    self.pending[0] = data[done:]
                else:
                    self.pending.popleft()
        except OSError:  # no reader, or the disk is full: a log is no reason to stop
            channel.dropped(len(self.pending))
            self.pending.clear()
            self.size = 0
        self.watch(bool(self.pending))

    def watch(self, wanted: bool) -> None:
        if wanted == self.watched or self.selector is None:
            return
        try:
            if wanted:
                self.selector.register(self.descriptor, selectors.EVENT_WRITE, self.flush)
            else:
                self.selector.unregister(self.descriptor)
            self.watched = wanted
        except (OSError, ValueError, KeyError):
            return  # it cannot be polled: `PipeReader.check` tries again

    def finish(self) -> None:
        """Write the rest, while the reader takes it, for a second at most."""
        end = time.monotonic() + FINISH_TIMEOUT
        while self.pending and time.monotonic() < end:
            wait_for(self.descriptor, select.POLLOUT, 0.05)
            self.flush()
        self.watch(False)
