"""The sentry: the thread of a worker process that watches what a thread busy in a handler cannot watch.

Asleep in a poll on the parent pipe while nothing happens; while requests come, it looks every 10 ms. What it does
about a slow handler is the engine's (`slow`). At end-of-file of the parent pipe it makes the process drain, and ends
it when the drain takes too long.
"""

import os
import select
import signal
import time

from ..config.errors import SOFTWARE
from ..ipc import scoreboard
from ..log.records import log
from ..process.member import Context
from .event_loop import EventLoop

LOOK = 0.010  # seconds between looks; a handler that takes longer is slow
CALM = 100  # looks without a request before it falls asleep
SATURATED = 8  # of the last 10 looks met a running handler: the worker counts as busy
TIMED_OUT = 75  # exit status of a process whose handler exceeded --request-timeout (EX_TEMPFAIL)


class StallMonitor:
    """Watches a loop."""

    def __init__(self, loop: EventLoop, context: Context) -> None:
        self.loop = loop
        self.context = context
        self.parent = context.parent
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)
        self.poller = select.poll()
        self.poller.register(self.parent, select.POLLIN)
        self.poller.register(self.reader, select.POLLIN)
        self.deadline = 0.0  # when an orphan ends at the latest
        self.done = False
        loop.wake_monitor = self.wake

    # What an engine defines.

    def running(self) -> float:
        """When the handler that the loop's own thread runs was started; 0 = none."""
        return self.loop.started

    def slow(self, started: float) -> None:
        """That handler has run for longer than LOOK."""
        raise NotImplementedError

    def look(self) -> bool:
        """Called at each look. True when there is something to watch even though no request comes."""
        return False

    # What all have in common.

    def wake(self) -> None:
        """Called by the loop: requests come again, or a handler has returned."""
        self.loop.monitor_asleep = False
        self.loop.words[self.loop.base + scoreboard.MONITOR_BEAT] = int(self.loop.now * 1000)
        try:
            os.write(self.writer, b"w")
        except BlockingIOError:
            return  # it has wake-ups enough

    def guard(self) -> None:
        """`run` in a thread of its own: without a sentry a worker could outlive its service."""
        try:
            self.run()
        except BaseException:
            log.critical("the sentry failed", exc_info=True)
            os._exit(SOFTWARE)

    def run(self) -> None:
        """Until the process ends, or `done`."""
        loop = self.loop
        calm, looks, last = 0, 0, 0.0
        while not self.done:
            if calm >= CALM and not self.deadline:
                self.show(scoreboard.IDLE)
                loop.words[loop.base + scoreboard.MONITOR_BEAT] = 0
                loop.monitor_asleep = True
                if loop.last_event == last and not self.running():
                    self.wait(self.poller, None)
                loop.monitor_asleep = False
                calm = looks = 0
            self.wait(self.poller, LOOK)
            started = self.running()
            calm = 0 if self.look() or started or loop.last_event != last else calm + 1
            last = loop.last_event
            looks = (looks << 1 | bool(started)) & 0x3FF
            if started and time.monotonic() - started > LOOK:
                self.slow(started)
                looks = 0
            elif not loop.draining:
                self.show(scoreboard.BUSY if looks.bit_count() >= SATURATED else scoreboard.IDLE)

    def wait(self, poller: select.poll, seconds: float | None) -> None:
        """Sleep until something happens, `seconds` at most."""
        self.loop.tell()
        if seconds is not None:  # the server kills a process whose sentry cannot look
            self.loop.words[self.loop.base + scoreboard.MONITOR_BEAT] = int(time.monotonic() * 1000)
        for fd, _ in poller.poll(None if seconds is None else seconds * 1000):
            if fd == self.reader:
                try:
                    os.read(self.reader, 4096)
                except BlockingIOError:
                    continue
            elif fd == self.parent:
                self.orphaned()
        if self.deadline and time.monotonic() >= self.deadline:
            log.warning("drain took longer than --drain-timeout: %d connections cut off", self.loop.count)
            os._exit(1)

    def orphaned(self) -> None:
        """The server is gone: drain, and do not outlive the drain's time limit."""
        self.forget_parent()
        limit = self.loop.config.drain_timeout
        self.deadline = time.monotonic() + limit if limit else float("inf")
        self.loop.words[scoreboard.PHASE] = scoreboard.DRAIN
        os.kill(os.getpid(), signal.SIGTERM)

    def forget_parent(self) -> None:
        self.poller.unregister(self.parent)

    def show(self, state: int) -> None:
        """Publish idle or busy, and tell the server when that may call for more workers."""
        slot = self.loop.base // scoreboard.WORDS - 1
        if self.loop.draining or self.loop.board.states[slot] == state:
            return
        self.loop.board.states[slot] = state
        if state == scoreboard.BUSY:
            self.context.wake_server()
