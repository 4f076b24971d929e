"""The heartbeat of the server that serves: a word of the scoreboard that its loop changes."""

import os
import signal
import time

from ..ipc import scoreboard
from ..log.records import log
from .generation import Generation

LONGEST_STEP = 1.0  # seconds counted between two looks at most: a stall of the supervisor itself does not count


class Heartbeat:
    """For how long the loop of the server that serves has stood still."""

    REPORTED = 1.0  # seconds without a beat until the log says so
    UNREADY = 3.0  # seconds until the service is not ready any more
    VACANT = 0.5  # seconds without a worker until it is not: a replacement takes less
    REPLACED = 30.0  # seconds until the server is replaced

    def __init__(self) -> None:
        self.checked = time.monotonic()
        self.beat = 0  # as last seen
        self.vacant = 0.0  # seconds without a worker that is through worker_init(), in the same time
        self.stalled = 0.0  # seconds without a change, while the supervisor was awake

    def check(self, generation: Generation | None) -> None:
        """Look at the beat; None while no server is expected to have one."""
        now = time.monotonic()
        awake, self.checked = min(now - self.checked, LONGEST_STEP), now
        self.vacant = 0.0 if generation is None or generation.board.has_workers() else self.vacant + awake
        beat = generation.board.words[scoreboard.BEAT] if generation is not None else 0
        if generation is None or beat != self.beat:
            if self.stalled > self.REPORTED:
                log.info("the server's loop runs again")
            self.beat, self.stalled = beat, 0.0
            return
        before, self.stalled = self.stalled, self.stalled + awake
        if before <= self.REPORTED < self.stalled:
            log.error("the server (pid %d) stands still: it was stopped, or a periodic function or health() does not"
                      " return", generation.pid)  # fmt: skip
        if before <= self.REPLACED < self.stalled:
            log.error("the server (pid %d) has stood still for %.0f s: replaced", generation.pid, self.stalled)
            os.kill(generation.pid, signal.SIGKILL)  # its workers finish what they have
