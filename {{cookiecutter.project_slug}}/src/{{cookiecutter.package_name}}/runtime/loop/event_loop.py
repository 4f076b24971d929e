"""The event loop of a worker: it waits for all of the worker's connections, so that a connection costs a worker only
while one of its requests is being handled. It knows no protocol: see `interfaces`.

It accepts, watches, sweeps deadlines, hands over, and drains. While a handler runs in the loop's thread, another thread
may stand in: see `leadership`.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ..ipc import fd_passing, forks, scoreboard
from ..ipc.scoreboard import CONNECTIONS, ERRORS, HANDED_OVER, LOAD, NO_CAPACITY, Phase
from ..log.records import log
from ..process.member import Context
from .acceptor import Intake
from .interfaces import Engine, Mode, Pollable, Registration, Source
from .leadership import Demoted, Leadership, State
from .selector import READ, multiplexer

SWEEP = 0.25  # seconds between looks at the deadlines
RETIRE = 0.01  # the same while a retiring worker hands over its connections, a few at a time
LONG = 0.002  # seconds: after a turn that took so long, the connection served longest ago comes first
LIVING = {scoreboard.STARTING, scoreboard.IDLE, scoreboard.BUSY}  # states of workers that are not about to leave


class Wakeup(Source):
    """A pipe in the loop whose other end another thread, or a signal, writes to."""

    def __init__(self, fd: int, action: Callable[[], None]) -> None:
        super().__init__(fd)
        self.action = action

    def ready(self, mask: int) -> None:
        self.action()


class EventLoop:
    """One worker's loop. `slot` is the worker's on the scoreboard."""

    def __init__(self, context: Context, slot: int, engine: Engine) -> None:
        self.context = context
        self.board = context.board
        self.slot = slot
        self.words = self.board.words
        self.base = self.board.base(slot)
        self.engine = engine
        self.leadership = Leadership()
        self.selector = multiplexer()
        self.table: dict[int, Pollable] = {}
        self.count = 0  # connections held
        self.is_full = False  # all threads run handlers: siblings with free ones accept
        self.now = self.moment = time.monotonic()  # as the turn began; as the latest handler ended
        self.next_sweep = self.next_tick = 0.0
        self.next_duty = 0.0  # when something is to be done that no event tells of: one look instead of five per turn
        self.mode = Mode.SERVING
        self.postponed: deque[Pollable] = deque()
        self.calls: deque[Callable[[], None]] = deque()  # user code that the leader runs in its next turn
        self.last_event = 0.0  # when something last happened
        self.monitor_asleep = False
        self.wake_monitor: Callable[[], None] = lambda: None
        self.intake = Intake(self, context.listeners, context.pair[1], context.config.max_connections)
        self.publish()
        forks.withhold(lambda: [self.selector.fileno(), *self.table])
        forks.on_child.append(self.leadership.give_up)

    @property
    def is_stood_in(self) -> bool:
        return self.leadership.is_stood_in

    # ---- registrations -----------------------------------------------------------------------------------------

    def add(self, source: Source) -> None:
        self.table[source.fd] = source
        self.watch(source, READ)

    def watch(self, item: Registration, mask: int) -> None:
        """Watch for READ or WRITE; costs nothing when that is what is watched already."""
        if item.mask != mask:
            (self.selector.modify if item.mask else self.selector.register)(item.fd, mask)
            item.mask = mask

    def unwatch(self, item: Registration) -> None:
        if item.mask:
            self.selector.unregister(item.fd)
            item.mask = 0

    def admit(self, item: Pollable) -> None:
        """Take a connection into the table."""
        self.table[item.fd] = item
        self.count += 1
        self.publish()

    def forget(self, item: Registration) -> None:
        """The connection is about to be closed, here or because it was handed over."""
        del self.table[item.fd]
        if item.mask:
            self.selector.closing(item.fd)
            item.mask = 0
        self.count -= 1
        self.publish()

    def postpone(self, item: Pollable) -> None:
        """Resume it in the next turn; until then read no more from it."""
        self.unwatch(item)
        self.postponed.append(item)
        self.next_duty = 0.0

    def call(self, action: Callable[[], None]) -> None:
        """Have the leader run user code that is on behalf of no connection."""
        self.calls.append(action)
        self.next_duty = 0.0

    def publish(self) -> None:
        """Tell siblings how loaded this worker is."""
        self.words[self.base + CONNECTIONS] = self.count
        leader = self.leadership.leader
        is_stood_in = leader is not None and leader.state is State.STOOD_IN
        has_none = self.mode or self.is_full or is_stood_in or self.intake.short_since
        self.words[self.base + LOAD] = NO_CAPACITY if has_none else self.count

    # ---- the loop ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until a drain has come to its end."""
        poll, table, tick = self.selector.poll, self.table, self.engine.tick
        now = self.now
        while not (self.mode and self.is_drained()):
            events = poll(self.timeout())
            last = now  # not `self.now`, which moves when another thread stands in
            self.now = self.moment = now = time.monotonic()
            if now - last > LONG and len(events) > 1:
                self.order(events)
            if events:
                self.last_event = now  # this order: Dekker again, with the monitor about to fall asleep
                if self.monitor_asleep:
                    self.wake_monitor()
            if now >= self.next_tick:
                self.next_tick = tick(now)
            for fd, mask in events:
                item = table.get(fd)
                if item is not None:  # it may have been closed or handed over since
                    try:
                        item.ready(mask)
                    except Demoted:
                        raise
                    except BaseException:
                        self.fail(item)
            if now >= self.next_duty:
                self.attend()
        self.engine.publish()
        self.engine.flush()

    def attend(self) -> None:
        """What no event tells of: what a turn has left for later, the end of a pause, deadlines."""
        if self.postponed or self.calls:
            self.go_on()
        pause = self.intake.paused_until
        if pause and self.now >= pause:
            self.intake.resume()
        if self.now >= self.next_sweep:
            self.sweep()
        pause = self.intake.paused_until or self.next_sweep
        self.next_duty = 0.0 if self.postponed or self.calls else min(pause, self.next_sweep)

    def go_on(self) -> None:
        """What the last turn has left for this one; what is added meanwhile waits for the next."""
        for _ in range(len(self.postponed)):
            item = self.postponed.popleft()
            if item.is_parked:  # it may have been closed or handed over since
                self.watch(item, READ)
                self.guarded(item, item.resume)
        for _ in range(len(self.calls)):
            self.calls.popleft()()

    def fail(self, item: Pollable) -> None:
        """In an `except` clause. Serving this connection has raised: it is reset, and nothing else ends."""
        if isinstance(item, Source):
            raise
        log.exception("serving a connection failed: it is reset")
        self.words[self.base + ERRORS] += 1
        try:
            item.abort()
        except BaseException:
            log.exception("resetting a connection failed")

    def guarded(self, item: Pollable, action: Callable[..., None], *values: Any) -> None:
        """Do something on behalf of a connection, which is reset if that raises."""
        try:
            action(*values)
        except Demoted:
            raise
        except BaseException:
            self.fail(item)

    def order(self, events: list[tuple[int, int]]) -> None:
        """Handlers are slow: begin with the connection that was served longest ago (in epoll's own order, one of three
        clients has every second turn), and hand the last one to a sibling that holds fewer connections by two."""
        events.sort(key=self.last_served)
        item = self.table.get(events[-1][0])
        if item is not None and item.is_parked and self.count - min(self.board.loads) > 1:
            self.hand_over(item)

    def last_served(self, event: tuple[int, int]) -> float:
        """When the latest request of an event's connection began; 0.0 of what is no connection."""
        item = self.table.get(event[0])
        return item.began if item is not None else 0.0

    def timeout(self) -> float | None:
        """How long the next poll may take, in seconds; None = until something happens."""
        left = self.next_duty - self.now
        if self.count or self.mode or self.postponed or self.calls or self.intake.paused_until:
            return left if left > 0.0 else 0.0
        self.engine.flush()
        return None

    def sweep(self) -> None:
        """Look at all deadlines. A walk over 10,000 connections costs half a millisecond, four times a second;
        exact timers would cost more on every request."""
        now = self.now
        self.next_sweep = now + SWEEP
        self.engine.flush()
        if self.mode and self.intake.acceptors:
            self.intake.close()
        self.intake.look_for_idle()
        if self.mode == Mode.RETIRING:
            self.next_sweep = now + RETIRE
            self.hand_over_parked()
        for item in [item for item in self.table.values() if item.deadline <= now]:
            self.guarded(item, item.expire)

    # ---- hand-over ---------------------------------------------------------------------------------------------

    def hand_over(self, item: Pollable) -> bool:
        """Hand a parked connection to an idle sibling: unregister, then send, then close. False: it stays here."""
        parcel = item.parcel()
        if parcel is None:
            return False
        mask = item.mask
        self.unwatch(item)
        if not fd_passing.send(self.context.pair[0], parcel, item.fd, *item.files):
            if mask:
                self.watch(item, mask)
            return False
        self.words[self.base + HANDED_OVER] += 1
        item.release()
        return True

    def hand_over_parked(self) -> None:
        """Hand parked connections to siblings, as many as the pair takes; the next sweep goes on with it."""
        if self.mode == Mode.RETIRING and self.idle_siblings():
            for item in list(self.table.values()):
                if item.is_parked and not self.hand_over(item):
                    return

    def idle_siblings(self) -> int:
        states = self.board.states.tolist()
        return states.count(scoreboard.IDLE) - (states[self.slot] == scoreboard.IDLE)

    def has_successors(self) -> bool:
        """Whether siblings live on when this worker leaves."""
        return self.board.phase == Phase.RUNNING and not LIVING.isdisjoint(self.board.states)

    # ---- the end -----------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Accept what waits in the queue, then no more; finish what is begun. A worker that retires alone hands its
        parked connections to its siblings."""
        if self.mode:
            return
        empties = self.board.empties_queue(self.base)
        self.mode = Mode.DRAINING
        self.board.states[self.slot] = scoreboard.LEAVING
        if self.has_successors():  # asked after that, so that one of two concurrent retirees sees the other
            self.mode = Mode.RETIRING
        self.publish()
        self.engine.drain()
        self.context.wake_server()  # a successor may be wanted
        self.intake.close(empties)
        self.next_sweep = self.next_duty = 0.0
        for item in list(self.table.values()):
            self.guarded(item, item.drain)
        self.hand_over_parked()

    def is_drained(self) -> bool:
        """Nothing is held and nothing waits in the pair. A sibling that sends into it later looks there itself."""
        if self.count > self.engine.abandoned or self.intake.acceptors or self.calls:
            return False
        if self.mode == Mode.RETIRING and self.has_successors():
            return True  # they take what this worker has handed over
        return not self.intake.receiver.receive()
