"""What the stall monitor of a worker process does about a slow handler: it stands in for the loop until the handler
returns. It hands readable connections to idle siblings, keeps slow responses going and enforces deadlines. At
--request-timeout it logs all stacks, saves what it can and ends the worker.
"""

import os
import select
import sys
import time

from ..config.errors import TIMED_OUT
from ..ipc import scoreboard
from ..ipc.scoreboard import BUSY_SINCE
from ..log.records import log, log_stacks
from ..process.member import Context
from .event_loop import EventLoop
from .interfaces import Pollable
from .stall_monitor import StallMonitor

NO_SIBLING = 0.005  # seconds to wait when no sibling is idle
SAVING = 0.25  # seconds for siblings to take the connections of a worker that has to end
STEP = 0.25  # seconds between two steps without events, at most
# Seconds after which a handler that computes lets the monitor have the interpreter. Python's own 5 ms, waited for after
# each of three system calls, would make a hand-over of ten connections last 150 ms.
SWITCH = 0.0002


class StandIn(StallMonitor):
    """The stall monitor of a worker process. The leader's thread never changes."""

    def __init__(self, loop: EventLoop, context: Context) -> None:
        super().__init__(loop, context)
        self.all_events = select.poll()  # what the monitor polls, and the loop's own events
        own = loop.selector.fileno()
        self.can_poll = own >= 0
        for fd in (context.parent, self.waker.fileno(), *([own] if self.can_poll else [])):
            self.all_events.register(fd, select.POLLIN)
        self.muted: list[Pollable] = []  # unwatched, because they need the leader
        self.leadership.on_return = self.put_back

    def forget_parent(self) -> None:
        super().forget_parent()
        self.all_events.unregister(self.context.parent)

    def put_back(self) -> None:
        """In the leader, which has regained its loop."""
        self.wake()
        loop = self.loop
        loop.now = time.monotonic()
        muted, self.muted = self.muted, []
        for item in muted:
            if loop.table.get(item.fd) is item and not item.mask and item.interest:
                loop.watch(item, item.interest)
        loop.publish()

    def stalled(self, started: float) -> None:
        """A handler is slow: look after everything else until it returns."""
        loop, limit, usual = self.loop, self.config.request_timeout, sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        loop.words[loop.base + BUSY_SINCE] = int(started * 1000)
        self.show(scoreboard.BUSY)
        while self.leadership.seize(started):
            try:
                loop.publish()
                all_placed = self.step()
                if limit and time.monotonic() - started > limit:
                    self.give_up()
            finally:
                self.leadership.release()
            left = started + limit - time.monotonic() if limit else STEP
            if all_placed and self.can_poll:
                self.wait(self.all_events, max(0.001, min(STEP, left)))
            else:
                self.wait(self.poller, NO_SIBLING)
        loop.words[loop.base + BUSY_SINCE] = 0
        sys.setswitchinterval(usual)
        self.show(scoreboard.IDLE)

    def step(self) -> bool:
        """Handle the loop's events without running user code. False when a connection finds no idle sibling."""
        loop = self.loop
        loop.now = time.monotonic()
        free, all_placed = loop.idle_siblings(), True
        waiting: list[Pollable] = []
        for fd, mask in loop.selector.poll(0):
            item = loop.table.get(fd)
            if item is None:
                continue
            if item.is_parked:
                waiting.append(item)
            elif item.runs_user_code:
                loop.unwatch(item)
                self.muted.append(item)
            else:
                # A signal to drain closes the listeners now, and not when the handler returns.
                loop.guarded(item, item.ready, mask)
        for item in [*waiting, *loop.postponed]:
            if item.is_parked and free and loop.hand_over(item):
                free -= 1
            elif item.is_parked:
                all_placed = False
        if loop.now >= loop.next_sweep:
            loop.sweep()
        return all_placed

    def give_up(self) -> None:
        """--request-timeout: say where the handler hangs, save the other connections, end this worker."""
        loop = self.loop
        log.error("a request runs for more than %g s (--request-timeout): worker ends", self.config.request_timeout)
        log_stacks()
        items = list(loop.table.values())
        waiting = [item for item in items if item.is_parked]
        for item in items:
            if not item.is_parked:
                loop.guarded(item, loop.engine.abandon, item)
        end = time.monotonic() + SAVING
        while (waiting := [item for item in waiting if not loop.hand_over(item)]) and time.monotonic() < end:
            time.sleep(NO_SIBLING)  # the pair is full
        loop.engine.flush()
        loop.engine.publish()
        os._exit(TIMED_OUT)
