"""The poller: one loop that waits for all clients of a worker, so that a connection costs a worker only while one
of its requests is being handled.

It accepts, watches, sweeps deadlines, and runs handlers one at a time. While a handler runs, the sentry thread may
stand in for the loop (see `sentry`); `started` and `shared` are the two words by which they agree who owns it.
"""

import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from ..config.settings import Config
from ..http.access_log import AccessLog, Combined, Json
from ..http.bodies import Body, Stream
from ..http.connection import BODY, GREETING, HANDLING, HEAD, SENDING, Connection
from ..http.response_head import Clock
from ..http.routes import NO_ROUTE, Router
from ..http.trace_context import Sent, always, asked
from ..http1.parser import Head, Limits
from ..ipc import fd_passing, scoreboard
from ..ipc.scoreboard import BUCKETS, CONNECTIONS, ERRORS, HANDED_OVER, LOAD, NO_CAPACITY, Scoreboard
from ..log.records import log
from ..pool.worker import Worker
from ..system.listeners import Listener
from .acceptor import HANDED_HEAD, HANDED_MOST, Acceptor, Receiver
from .selector import READ, WRITE, multiplexer

SWEEP = 0.25  # seconds between looks at the deadlines
PARTING = 0.01  # the same while a retiring worker hands over its connections, a few at a time
RESTS = 5  # how often in a row it does so while a sibling holds fewer by two, beyond an eighth; by one: once
LONG = 0.002  # seconds: after a turn that took so long, whoever was served longest ago comes first
REST = 0.002  # seconds for which the busier worker lets go of the listener
SCARCE = 0.1  # seconds for which accepting pauses when descriptors or memory have run out
NOTES = 10  # lines about clients that a worker logs in a second: a flood of bad ones must not flood the log
LIVING = {scoreboard.STARTING, scoreboard.IDLE, scoreboard.BUSY}  # states of those that are not on their way out
QUIET = 60.0  # seconds before the log hears again that accepting pauses
FOREVER = 1e12


class Pollable(Protocol):
    """What the loop keeps in its table, by descriptor."""

    fd: int
    mask: int

    def ready(self, mask: int) -> None: ...


class Signals:
    """The wake-up pipe in the loop."""

    def __init__(self, fd: int, action: Callable[[], None]) -> None:
        self.fd = fd
        self.mask = 0
        self.action = action

    def ready(self, mask: int) -> None:
        self.action()


class EventLoop:
    """One worker's poller. `worker` is the object that handlers see."""

    def __init__(self, config: Config, board: Scoreboard, slot: int, router: Router, worker: Worker) -> None:
        self.config = config
        self.board = board
        self.words = board.words
        self.base = board.base(slot)
        first = self.base + scoreboard.LATENCY
        self.latency = self.words[first : first + BUCKETS]
        # Counted here; the sentry writes them to the scoreboard. They go on from those of the slot's last owner.
        self.received, self.sent, self.microseconds = (
            self.words[self.base + word] for word in (scoreboard.RECEIVED, scoreboard.SENT, scoreboard.MICROSECONDS)
        )
        self.worker = worker
        self.router = router
        self.literal = router.literal
        self.limits = Limits(head=config.max_head)
        # 0 switches a limit off, except for keep-alive, where it means: one request per connection.
        self.header_timeout = config.header_timeout or FOREVER
        self.body_timeout = config.body_timeout or FOREVER
        self.keep_alive = config.keep_alive
        self.parting = not config.keep_alive  # connections are closed after their next answer
        self.clock = Clock(config.name)
        # By the field lines of a head: is its request to have ids even if nobody asks for them?
        self.traced: Callable[[bytes], Sent] = asked if config.request_id == "asked" else always
        self.connect: type[Connection] = Connection
        self.flush_log: Callable[[], None] = lambda: None  # of the access log
        if config.access_log != "off":
            self.access = AccessLog()
            self.connect, self.flush_log = Json if config.access_log == "json" else Combined, self.access.flush
        self.mux = multiplexer()
        self.table: dict[int, Pollable] = {}
        self.count = 0  # connections held
        self.now = self.moment = time.monotonic()  # as the turn began; as the latest handler ended
        self.next_sweep = 0.0
        self.draining = False
        self.empties = False  # whether it then takes what waits in the queues
        self.acceptors: list[Acceptor] = []
        self.receiver: Receiver | None = None
        self.pair: socket.socket | None = None  # where connections for siblings go
        self.resting = 0.0  # until when the listeners are let go; 0 = they are watched
        self.rests = 0  # times in a row that this worker has let go of the listeners
        self.short = 0.0  # when accepting had to pause last, for want of descriptors or of permission; 0 = it need not
        self.told = False  # the log has heard of it
        self.quiet = 0.0  # until when it need not hear of it again
        self.later: deque[Connection] = deque()  # requests of theirs are in their buffers, to be served next turn
        self.notes = 0  # lines about clients in this second
        self.notes_end = 0.0
        self.retiring = False  # leaves alone, not with its whole generation
        self.last_event = 0.0  # when something last happened
        self.started = 0.0  # when the running handler was started; 0 = none runs
        self.shared = False  # the sentry stands in
        self.baton = threading.Lock()  # held by whoever touches the loop while it is shared
        self.telling = threading.Lock()
        self.muted: list[Pollable] = []
        self.wake_monitor: Callable[[], None] = lambda: None
        self.monitor_asleep = False
        # Requests left before this worker is replaced, 0 = no limit; spread, so that not all are replaced at once.
        self.quota = config.max_requests and config.max_requests + random.randrange(config.max_requests // 10 + 1)
        self.on_leaving: Callable[[], None] = lambda: None  # tells the server that a successor is wanted
        self.failure = ""  # why the worker ends, if it failed

    # ---- set-up ------------------------------------------------------------------------------------------------

    def listen(self, listeners: list[Listener], ends: tuple[socket.socket, socket.socket] | None) -> None:
        """CodeWatcher the listeners, and the pair through which siblings hand connections over."""
        for listener in listeners:
            acceptor = Acceptor(self, listener)
            self.acceptors.append(acceptor)
            self.add(acceptor)
        if ends is not None:
            self.pair, receiving = ends
            self.receiver = Receiver(self, receiving)
            self.add(self.receiver)

    def add(self, item: Pollable) -> None:
        self.table[item.fd] = item
        self.watch(item, READ)

    # ---- registrations -----------------------------------------------------------------------------------------

    def watch(self, item: Pollable, mask: int) -> None:
        """CodeWatcher for READ or WRITE; costs nothing when that is what is watched already."""
        if item.mask != mask:
            (self.mux.modify if item.mask else self.mux.register)(item.fd, mask)
            item.mask = mask

    def unwatch(self, item: Pollable) -> None:
        if item.mask:
            self.mux.unregister(item.fd)
            item.mask = 0

    def mute(self, item: Pollable) -> None:
        """Stop watching until the running handler returns."""
        self.unwatch(item)
        self.muted.append(item)

    def admit(self, connection: Connection) -> None:
        self.table[connection.fd] = connection
        self.count += 1
        self.publish()

    def forget(self, connection: Connection) -> None:
        """The connection is about to be closed, by us or by somebody it was handed to."""
        del self.table[connection.fd]
        if connection.mask:
            self.mux.closing(connection.fd)
            connection.mask = 0
        self.count -= 1
        self.publish()

    def publish(self) -> None:
        """Tell siblings how loaded this worker is."""
        self.words[self.base + CONNECTIONS] = self.count
        self.words[self.base + LOAD] = NO_CAPACITY if self.shared or self.draining or self.short else self.count

    def count_error(self) -> None:
        self.words[self.base + ERRORS] += 1

    def note(self, text: str, *values: object) -> None:
        """Log a line about a client, unless there have been many in this second."""
        now = time.monotonic()
        if now >= self.notes_end:
            if self.notes > NOTES:
                log.info("%d more lines like these", self.notes - NOTES)
            self.notes, self.notes_end = 0, now + 1.0
        self.notes += 1
        if self.notes <= NOTES:
            log.info(text, *values)

    def tell(self) -> None:
        """Write to the scoreboard what was counted: called by the sentry, and at the end."""
        words, base = self.words, self.base
        with self.telling:  # or an older sum could overwrite the last one
            words[base + scoreboard.RECEIVED] = self.received
            words[base + scoreboard.SENT] = self.sent
            words[base + scoreboard.MICROSECONDS] = self.microseconds

    # ---- the loop ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until a drain has come to its end."""
        poll, table, clock = self.mux.poll, self.table, self.clock
        while not (self.draining and self.drained()):
            events = poll(self.patience())
            last = self.now
            self.now = self.moment = now = time.monotonic()
            if now - last > LONG and len(events) > 1:
                self.be_fair(events)
            if events:
                self.last_event = now  # this order: Dekker again, with the sentry about to fall asleep
                if self.monitor_asleep:
                    self.wake_monitor()
            clock.tick()
            for fd, mask in events:
                item = table.get(fd)
                if item is not None:  # it may have been closed or handed over since
                    item.ready(mask)
            for _ in range(len(self.later)):
                connection = self.later.popleft()
                if connection.state == HEAD:  # it may have been closed or handed over since
                    self.watch(connection, READ)
                    connection.go_on()
            if self.resting and now >= self.resting:
                self.resume()
            if now >= self.next_sweep:
                self.sweep()
        self.tell()
        self.flush_log()

    def be_fair(self, events: list[tuple[int, int]]) -> None:
        """Handlers are slow. Whoever was served longest ago comes first: in epoll's own order, one of three clients has
        every second turn. And the last one goes to a sibling that holds fewer connections by two."""
        events.sort(key=self.last_served)
        item = self.table.get(events[-1][0])
        if isinstance(item, Connection) and item.state == HEAD and self.count - min(self.board.loads) > 1:
            self.hand_over(item)

    def last_served(self, event: tuple[int, int]) -> float:
        """When the latest request of an event's connection began; what is no connection comes first."""
        return getattr(self.table.get(event[0]), "began", 0.0)

    def patience(self) -> float | None:
        """How long the next poll may take, in seconds; None = until something happens."""
        if self.later:
            return 0.0
        if self.resting:
            return max(0.0, self.resting - self.now)
        if self.count or self.draining:
            return max(0.0, self.next_sweep - self.now)
        self.flush_log()
        return None

    def sweep(self) -> None:
        """Look at all deadlines. A walk over 10,000 connections costs half a millisecond, four times a second;
        exact timers would cost more on every request."""
        now = self.now
        self.next_sweep = now + SWEEP
        self.flush_log()
        if self.draining and self.acceptors:
            self.close_listeners()
        if self.retiring:
            self.next_sweep = now + PARTING
            self.let_go()
        late = [c for c in self.table.values() if isinstance(c, Connection) and c.deadline <= now]
        for connection in late:
            # With the sentry, a generator has to wait: closing it would run user code.
            if connection.state != HANDLING and not (self.shared and isinstance(connection.source, Stream)):
                connection.expire()

    # ---- handlers ----------------------------------------------------------------------------------------------

    def serve(self, connection: Connection, head: Head, body: bytes | None, source: Body | None) -> None:
        """Run one handler and send its answer."""
        connection.state = HANDLING
        route = self.literal.get(head.target)  # without a query, the target is the path
        params: dict[str, str] = {}
        if route is None:
            route, params = self.router.match(head.path) or (NO_ROUTE, {})
        self.started = self.moment  # `guarded` in line: a call less
        result = connection.handle(head, body, source, route, params, self.worker)
        self.started = 0.0
        if self.shared:
            self.reclaim()
        connection.answer(head, result, source)
        if self.worker.failure:
            self.fail()

    def fail(self) -> None:
        """The worker has failed: finish what is begun, then end."""
        self.failure = self.worker.failure
        self.words[self.base + scoreboard.RETIRING] = 1
        self.drain()

    def count_down(self) -> None:
        """One request less until this worker is replaced."""
        self.quota -= 1
        if not self.quota:
            log.info("worker has served its --max-requests: replaced")
            self.words[self.base + scoreboard.RECYCLE_WANTED] = 1  # the server replaces one at a time
            self.on_leaving()

    def put_off(self, connection: Connection) -> None:
        """Serve the rest of what it has sent in the next turn; until then read no more from it."""
        self.unwatch(connection)
        self.later.append(connection)

    def next_piece(self, connection: Connection) -> bytes | None:
        """The next piece of a streamed response; None when it will come later."""
        piece: bytes = self.guarded(connection.make_piece, self.worker)
        if self.worker.failure:
            self.fail()
        return piece

    def guarded(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run user code under the sentry's eyes: it stands in for the loop when this takes long."""
        self.started = time.monotonic()
        try:
            return function(*arguments)
        finally:
            # This order, and the opposite one in the sentry (`shared` first, then `started`), make sure that at
            # least one of the two sees what the other has written: Dekker's algorithm.
            self.started = 0.0
            if self.shared:
                self.reclaim()

    def reclaim(self) -> None:
        """Take the loop back from the sentry."""
        self.wake_monitor()
        with self.baton:  # the sentry lets go between any two connections
            self.now = time.monotonic()
            self.shared = False
            muted, self.muted = self.muted, []
            for item in muted:
                if self.table.get(item.fd) is item and not item.mask:
                    sending = isinstance(item, Connection) and item.state == SENDING
                    if not (self.draining and isinstance(item, Acceptor)):
                        self.watch(item, WRITE if sending else READ)
            self.publish()

    # ---- accepting ---------------------------------------------------------------------------------------------

    def may_accept(self) -> bool:
        """False when a sibling should take it (it holds fewer connections), or when all are taken."""
        connections = self.board.connections
        most = self.config.max_connections
        if sum(connections) >= most:
            self.scarce(f"{most} connections held (--max-connections): accepting pauses until some close")
            return False
        return self.is_turn()

    def is_turn(self) -> bool:
        """May this worker take one more connection? Not yet when a sibling holds fewer by more than an eighth: that one
        gets a moment for it. (If any difference counted, a crowd would come in one by one, with a rest after each.)"""
        surplus = self.count - min(self.board.loads) - ((self.count + 4) >> 3)
        if surplus > 0 and self.rests < (RESTS if surplus > 1 else 1):
            self.rests += 1
            self.rest(REST)
            return False
        self.rests = 0
        return True

    def rest(self, seconds: float) -> None:
        """Let go of the listeners and of the pair for a moment; then take what is still there."""
        self.resting = self.now + seconds
        for acceptor in self.acceptors:
            self.unwatch(acceptor)
        if self.receiver is not None:
            self.unwatch(self.receiver)

    def resume(self) -> None:
        self.resting = 0.0
        for acceptor in self.acceptors:
            self.watch(acceptor, READ)
        if self.receiver is not None and not self.retiring:
            self.watch(self.receiver, READ)

    def scarce(self, message: str) -> None:
        """Pause accepting, and taking over; the log hears of it once in a while."""
        if self.now >= self.quiet:
            log.warning(message)
            self.told, self.quiet = True, self.now + QUIET
        self.short = self.now
        self.publish()
        self.rest(SCARCE)

    def plenty(self) -> None:
        if self.short and self.now - self.short > 10 * SCARCE:  # else it may well be scarce again in a moment
            self.short = 0.0
            self.publish()
            if self.told:
                self.told = False
                log.info("accepting again")

    # ---- hand-over ---------------------------------------------------------------------------------------------

    def hand_over(self, connection: Connection) -> bool:
        """Give a waiting connection to an idle sibling: unregister, then send, then close. False: it stays here."""
        if self.pair is None or connection.state > BODY or len(connection.buffer) > HANDED_MOST:
            return False
        mask = connection.mask
        self.unwatch(connection)
        deadline = connection.deadline
        if self.retiring and connection.state == HEAD and not connection.buffer:  # ours is the drain's, not its own
            deadline = self.now + (self.config.keep_alive if connection.served else self.header_timeout)
        head = HANDED_HEAD.pack(connection.served, deadline, bool(connection.seen))
        if not fd_passing.send(self.pair, head + connection.buffer, connection.fd):
            if mask:
                self.watch(connection, mask)
            return False
        self.words[self.base + HANDED_OVER] += 1
        connection.close()
        return True

    def siblings(self) -> int:
        """How many siblings are idle."""
        states = self.board.states.tolist()
        own = states[self.base // scoreboard.WORDS - 1]
        return states.count(scoreboard.IDLE) - (own == scoreboard.IDLE)

    def succeeded(self) -> bool:
        """Whether siblings live on when this one leaves."""
        return self.words[scoreboard.PHASE] == scoreboard.RUN and not LIVING.isdisjoint(self.board.states)

    # ---- the end -----------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Accept what waits in the queue, then no more; finish what is begun. A worker that retires alone hands its
        waiting connections to its siblings."""
        if self.draining:
            return
        self.empties = self.board.empties_queue(self.base)
        self.draining = True
        self.parting = True
        self.keep_alive = min(self.keep_alive, GREETING)  # for those that are still finishing something
        self.board.states[self.base // scoreboard.WORDS - 1] = scoreboard.LEAVING
        retiring = self.retiring = self.succeeded()  # asked after that: of two that leave at once, one sees the other
        self.publish()
        self.on_leaving()
        self.close_listeners()
        self.next_sweep = 0.0
        if retiring and self.receiver is not None:  # or it would take back what it hands over
            self.unwatch(self.receiver)
            del self.table[self.receiver.fd]
        for item in list(self.table.values()):
            if isinstance(item, Connection):
                item.drain()
        self.let_go()

    def close_listeners(self) -> None:
        """In a drain, each as soon as its queue is empty. If descriptors run out before, sweeps take the rest."""
        for acceptor in list(self.acceptors):
            self.short = 0.0
            while self.empties and acceptor.accept(serve=False):
                continue
            self.unwatch(acceptor)
            if not (self.empties and self.short):
                del self.table[acceptor.fd]
                acceptor.socket.close()
                self.acceptors.remove(acceptor)
        self.resting = 0.0

    def let_go(self) -> None:
        """Hand waiting connections to siblings, as many as the pair takes; the next sweep goes on with it."""
        if self.retiring and self.siblings():
            for item in list(self.table.values()):
                if isinstance(item, Connection) and item.state <= BODY and not self.hand_over(item):
                    return

    def drained(self) -> bool:
        """Nothing is held and nothing waits in the pair. Whoever sends into it is a sibling that will look itself."""
        if self.count or self.acceptors:
            return False
        if self.retiring and self.succeeded():
            return True  # they take what this one has handed over
        return self.receiver is None or not self.receiver.receive()
