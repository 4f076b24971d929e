"""The stall monitor: the thread of a process that watches what a thread blocked in a handler cannot watch.

Asleep in a poll on the parent pipe while nothing happens; while requests come, it looks every 10 ms. What it does about
a slow handler is said in `stalled`. At end-of-file of the parent pipe it makes the process drain, and ends it when the
drain takes too long.
"""

import os
import select
import signal
import time

from ..config.errors import SOFTWARE
from ..ipc import scoreboard
from ..ipc.scoreboard import Phase
from ..ipc.waker import Waker
from ..log.records import log
from ..process.member import Context
from .event_loop import EventLoop

LOOK = 0.010  # seconds between looks; a handler that takes longer is slow
CALM = 100  # looks without a request before it falls asleep
SATURATED = 8  # of the last 10 looks met a running handler: the worker counts as busy


class StallMonitor:
    """Watches a loop."""

    def __init__(self, loop: EventLoop, context: Context) -> None:
        self.loop = loop
        self.leadership = loop.leadership
        self.config = context.config
        self.context = context
        self.waker = Waker()
        self.poller = select.poll()
        self.poller.register(context.parent, select.POLLIN)
        self.poller.register(self.waker.fileno(), select.POLLIN)
        self.deadline = 0.0  # when an orphan ends at the latest
        self.is_done = False
        loop.wake_monitor = self.wake

    # What a variant defines.

    def stalled(self, started: float) -> None:
        """The leader's handler, started at `started`, has run for longer than LOOK."""
        raise NotImplementedError

    def look(self) -> bool:
        """Called at each look. True when there is something to watch even though no request comes."""
        return False

    # What all have in common.

    def wake(self) -> None:
        """Called by the loop: requests come again, or a handler has returned."""
        self.loop.monitor_asleep = False
        self.loop.words[self.loop.base + scoreboard.MONITOR_BEAT] = int(self.loop.now * 1000)
        self.waker.wake()

    def guard(self) -> None:
        """`run` in a thread of its own: without its monitor a worker could outlive its service."""
        try:
            self.run()
        except BaseException:
            log.critical("the stall monitor failed", exc_info=True)
            os._exit(SOFTWARE)

    def run(self) -> None:
        """Until the process ends, or `is_done`."""
        loop, running = self.loop, self.leadership.running
        calm, looks, last = 0, 0, 0.0
        while not self.is_done:
            if calm >= CALM and not self.deadline:
                self.show(scoreboard.IDLE)
                loop.words[loop.base + scoreboard.MONITOR_BEAT] = 0
                loop.monitor_asleep = True
                if loop.last_event == last and not running():
                    self.wait(self.poller, None)
                loop.monitor_asleep = False
                calm = looks = 0
            self.wait(self.poller, LOOK)
            started = running()
            calm = 0 if self.look() or started or loop.last_event != last else calm + 1
            last = loop.last_event
            looks = (looks << 1 | bool(started)) & 0x3FF
            if started and time.monotonic() - started > LOOK:
                self.stalled(started)
                looks = 0
            elif not loop.mode:
                self.show(scoreboard.BUSY if looks.bit_count() >= SATURATED else scoreboard.IDLE)

    def wait(self, poller: select.poll, seconds: float | None) -> None:
        """Sleep until something happens, `seconds` at most."""
        self.loop.engine.publish()
        if seconds is not None:  # the server kills a process whose monitor cannot look
            self.loop.words[self.loop.base + scoreboard.MONITOR_BEAT] = int(time.monotonic() * 1000)
        for fd, _ in poller.poll(None if seconds is None else seconds * 1000):
            if fd == self.waker.fileno():
                self.waker.clear()
            elif fd == self.context.parent:
                self.orphaned()
        if self.deadline and time.monotonic() >= self.deadline:
            log.warning("drain took longer than --drain-timeout: %d connections cut off", self.loop.count)
            os._exit(1)

    def orphaned(self) -> None:
        """The server is gone: drain, and do not outlive the drain's time limit."""
        self.forget_parent()
        limit = self.config.drain_timeout
        self.deadline = time.monotonic() + limit if limit else float("inf")
        self.loop.board.phase = Phase.DRAINING
        os.kill(os.getpid(), signal.SIGTERM)

    def forget_parent(self) -> None:
        self.poller.unregister(self.context.parent)

    def show(self, state: int) -> None:
        """Publish idle or busy, and tell the server when that may call for more workers."""
        states = self.loop.board.states
        if self.loop.mode or states[self.loop.slot] == state:
            return
        states[self.loop.slot] = state
        if state == scoreboard.BUSY:
            self.context.wake_server()
