"""The pulse of the server that serves: does its loop still turn?"""

import os
import signal
import time

from ..ipc import scoreboard
from ..log.records import log
from .generation import Generation

APART = 1.0  # seconds at most between two looks; if we stood still ourselves, the rest is not held against the server


class Heartbeat:
    """How long the current server's loop has stood still. Its beat is a word of the scoreboard that changes."""

    NAMED = 1.0  # seconds without a beat: the log says that it stands still
    SILENCE = 3.0  # then the service is not ready any more
    STANDSTILL = 30.0  # then the server is replaced

    def __init__(self) -> None:
        self.checked = time.monotonic()
        self.beat = 0  # as last seen
        self.stalled = 0.0  # seconds for which it has not changed while we were awake

    def check(self, generation: Generation | None) -> None:
        """Look at it; None while nothing is expected to beat."""
        now = time.monotonic()
        awake, self.checked = min(now - self.checked, APART), now
        beat = generation.board.words[scoreboard.BEAT] if generation is not None else 0
        if generation is None or beat != self.beat:
            if self.stalled > self.NAMED:
                log.info("the server's loop runs again")
            self.beat, self.stalled = beat, 0.0
            return
        before, self.stalled = self.stalled, self.stalled + awake
        if before <= self.NAMED < self.stalled:
            log.error("the server (pid %d) stands still: it was stopped, or a periodic function or health() does not"
                      " return", generation.pid)  # fmt: skip
        if before <= self.STANDSTILL < self.stalled:
            log.error("the server (pid %d) has stood still for %.0f s: replaced", generation.pid, self.stalled)
            os.kill(generation.pid, signal.SIGKILL)  # its workers finish what they have
