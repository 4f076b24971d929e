"""Engine of prefork and http: one poller per worker process, handlers run in its loop, a sentry stands in.

When a handler takes longer than 10 ms, the sentry looks after the worker's other connections: it hands readable ones
to idle siblings, keeps slow responses going and enforces deadlines, until the handler returns. At --request-timeout
it logs all stacks, saves what it can and ends the worker.
"""

import os
import select
import sys
import threading
import time

from ..ipc import scoreboard
from ..ipc.scoreboard import BUSY_SINCE, LOAD, NO_CAPACITY
from ..ipc.signals import SignalPipe
from ..log.records import channel, log, log_stacks
from ..loop.event_loop import EventLoop, Signals
from ..loop.stall_monitor import TIMED_OUT, StallMonitor
from ..pool.worker import Worker
from ..process.member import Context
from .bodies import Stream
from .connection import BODY, HANDLING, HEAD, SENDING, Connection
from .messages import error_page
from .response_head import head_of
from .trace_context import current

CROWDED = 0.005  # seconds to wait when no sibling is idle
SAVING = 0.25  # seconds for siblings to take the connections of a worker that has to end
# Seconds after which a handler that computes lets the sentry have the interpreter. Python's own 5 ms, waited for after
# each of three system calls, would make a hand-over of ten connections last 150 ms.
SWITCH = 0.0002


class StandIn(StallMonitor):
    """The sentry of a prefork worker."""

    def __init__(self, loop: EventLoop, context: Context) -> None:
        super().__init__(loop, context)
        self.crowd = select.poll()  # what the sentry polls, and the loop's own events
        self.crowd.register(self.parent, select.POLLIN)
        self.crowd.register(self.reader, select.POLLIN)
        self.fileno = loop.mux.fileno()
        if self.fileno >= 0:
            self.crowd.register(self.fileno, select.POLLIN)

    def forget_parent(self) -> None:
        super().forget_parent()
        self.crowd.unregister(self.parent)

    def slow(self, started: float) -> None:
        """A handler is slow: look after everything else until it returns."""
        loop = self.loop
        limit = loop.config.request_timeout
        loop.shared = True
        usual = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        loop.words[loop.base + BUSY_SINCE] = int(started * 1000)
        self.show(scoreboard.BUSY)
        crowded = False
        while True:
            with loop.baton:
                if loop.started != started:
                    loop.shared = False
                    loop.words[loop.base + LOAD] = NO_CAPACITY if loop.draining else loop.count
                    break
                loop.words[loop.base + LOAD] = NO_CAPACITY
                loop.now = time.monotonic()
                crowded = not self.tend()
                if loop.now >= loop.next_sweep:
                    loop.sweep()
            if limit and time.monotonic() - started > limit:
                self.give_up(started)
            left = started + limit - time.monotonic() if limit else 0.25
            if crowded or self.fileno < 0:
                self.wait(self.poller, CROWDED)
            else:
                self.wait(self.crowd, max(0.001, min(0.25, left)))
        loop.words[loop.base + BUSY_SINCE] = 0
        sys.setswitchinterval(usual)
        self.show(scoreboard.IDLE)

    def tend(self) -> bool:
        """Handle the loop's events without running user code. False when a connection finds no idle sibling."""
        loop = self.loop
        free = loop.siblings()
        placed = True
        for fd, mask in loop.mux.poll(0):
            item = loop.table.get(fd)
            if item is None:
                continue
            if isinstance(item, Signals):
                item.ready(mask)  # a drain lets go of the listeners now, and not when the handler returns
            elif not isinstance(item, Connection) or item.state == HANDLING:
                loop.mute(item)
            elif item.state <= BODY:
                if free and loop.hand_over(item):
                    free -= 1
                else:
                    placed = False
            elif item.state == SENDING and isinstance(item.source, Stream):
                loop.mute(item)
            else:
                item.ready(mask)
        for item in list(loop.later):  # they have requests in their buffers
            if item.state == HEAD and free and loop.hand_over(item):
                free -= 1
            elif item.state == HEAD:
                placed = False
        return placed

    def give_up(self, started: float) -> None:
        """--request-timeout: say where the handler hangs, save the other connections, end this worker."""
        loop = self.loop
        log.error("a request runs for more than %g s (--request-timeout): worker ends", loop.config.request_timeout)
        log_stacks()
        with loop.baton:
            if loop.started != started:
                return
            response = error_page(503, "the request took too long", "")
            data = response.body
            assert isinstance(data, bytes)
            waiting = []
            for item in list(loop.table.values()):
                if not isinstance(item, Connection):
                    continue
                if item.state == HANDLING:
                    item.given_up()
                    try:
                        item.sock.send(head_of(response, loop.clock, len(data), b"Connection: close\r\n", False) + data)
                        item.sock.shutdown(1)
                    except OSError:
                        continue
                elif item.state <= BODY:
                    waiting.append(item)
                elif item.source is not None:
                    item.break_off()
            end = time.monotonic() + SAVING
            while (waiting := [item for item in waiting if not loop.hand_over(item)]) and time.monotonic() < end:
                time.sleep(CROWDED)  # the pair is full
            loop.flush_log()
            loop.tell()
            os._exit(TIMED_OUT)


def work(context: Context, slot: int, worker: Worker, wakeup: SignalPipe) -> bool:
    """Serve until drained. False when the worker failed (worker.fail)."""
    loop = EventLoop(context.config, context.board, slot, context.handlers.routes, worker)
    monitor = StandIn(loop, context)

    def on_signal() -> None:
        if "drain" in wakeup.take():
            loop.drain()

    channel.trace = current
    loop.on_leaving = context.wake_server
    loop.add(Signals(wakeup.fileno(), on_signal))
    loop.listen(context.listeners, context.pair)
    loop.publish()
    threading.Thread(target=monitor.guard, name="monitor", daemon=True).start()
    context.board.states[slot] = scoreboard.IDLE
    context.wake_server()
    loop.run()
    return not loop.failure
