"""Engine of threads and http: one thread at a time is the loop's (the leader); it runs fast handlers itself.

A handler whose runs take longer than INLINE on average is given, with its connection, to another thread. When a
usually fast one stalls, the sentry (the main thread, which runs no user code) promotes another thread to leader;
the stalled one gives its result back when it returns, and is an ordinary thread from then on. So there is no queue
and no lock on the way of a fast request, only the leader touches the loop, and a connection is in one thread's
hands at any time.
"""

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from ..config.errors import SOFTWARE
from ..http1.parser import Head
from ..ipc import scoreboard
from ..ipc.signals import SignalPipe
from ..log.records import channel, log, log_stacks
from ..loop.event_loop import EventLoop, Pollable, Signals
from ..loop.stall_monitor import TIMED_OUT, StallMonitor
from ..pool.thread_pool import PoolThread, ThreadPool
from ..pool.worker import Worker
from ..process.member import Context
from .bodies import Body
from .connection import HANDLING, HEAD, READ, SENDING, Connection
from .messages import error_page
from .response_head import head_of
from .routes import NO_ROUTE, Route
from .trace_context import current

INLINE = 0.0005  # seconds: a handler that takes longer on average is run by another thread
RETRY = 1.0  # seconds after which a slow handler is tried in the loop once: it may have become fast
WEIGHT = 0.1  # of the latest run in the moving average
STALL = 0.005  # seconds: no average needed
TICK = 1.0
LAST_WORDS = 1.0  # seconds for worker_exit() beside threads that hang


class Demoted(BaseException):
    """This thread is no longer the leader: leave the loop's frames and touch nothing of it."""


class ThreadedLoop(EventLoop):
    """The loop, run by one of the pool's threads at a time."""

    def __init__(self, context: Context, slot: int, threads: ThreadPool) -> None:
        super().__init__(context.config, context.board, slot, context.handlers.routes, Worker(-1))
        self.threads = threads
        self.leader: PoolThread | None = None
        self.returned: deque[Callable[[], None]] = deque()  # what threads give back, for the leader to go on with
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)
        self.inline: Connection | None = None  # whose request the leader runs, or ran last
        self.route = NO_ROUTE  # of that request
        self.in_threads: dict[int, tuple[Connection, float]] = {}  # by descriptor: since when other threads run it
        self.add(Signals(self.reader, self.collect))
        self.finished = threading.Event()
        self.hung: set[Connection] = set()  # exceeded --request-timeout: a drain does not wait for them

    # ---- the leader --------------------------------------------------------------------------------------------

    def lead(self, thread: PoolThread) -> None:
        """A job of the pool: become the leader and run the loop, until drained or demoted."""
        thread.working = -1.0
        with self.baton:
            self.leader = thread
        self.wake()  # the last leader may have left something in `returned`
        try:
            self.run()
        except Demoted:
            return
        except BaseException:
            log.critical("the loop failed", exc_info=True)
            os._exit(SOFTWARE)
        self.finished.set()
        self.wake_monitor()

    def drained(self) -> bool:
        if self.count > len(self.hung) or self.acceptors:
            return False
        return self.receiver is None or not self.receiver.receive()

    def mute(self, item: Pollable) -> None:
        """A connection that a thread has: it is watched again when it comes back."""
        self.unwatch(item)

    def serve(self, connection: Connection, head: Head, body: bytes | None, source: Body | None) -> None:
        leader = self.leader
        assert leader is not None
        route = self.literal.get(head.target)  # without a query, the target is the path
        params: dict[str, str] = {}
        if route is None:
            route, params = self.router.match(head.path) or (NO_ROUTE, {})
        connection.state = HANDLING
        # A slow one is tried again here now and then, but only while somebody could take the loop over at once.
        if source is not None or (route.took > INLINE and (self.now < route.retry or not self.threads.idle)):
            self.unwatch(connection)
            self.threads.submit(partial(self.run_handler, connection, head, body, source, route, params))
            return
        self.inline, self.route = connection, route
        started = leader.since = self.moment
        result = connection.handle(head, body, source, route, params, leader.worker)
        leader.since = 0.0
        # This order, and the opposite one in the sentry, make sure that one of the two sees the other (Dekker).
        if self.shared:
            with self.baton:  # a promotion is being decided
                pass
        if self.leader is not leader:
            self.give_back(partial(self.go_on, connection, head, result, source))
            raise Demoted
        connection.answer(head, result, source)
        measure_inline(route, self.moment - started)
        if leader.worker.failure:
            self.depose()  # this thread ends, and another leads
            raise Demoted

    def promote(self, started: float) -> None:
        """Let another thread lead, if this one is still in the handler that it began at `started`. Called by the
        sentry."""
        self.shared = True
        with self.baton:
            leader = self.leader
            if leader is not None and leader.since == started and self.inline is not None:
                leader.working = started
                self.in_threads[self.inline.fd] = (self.inline, started)
                measure_inline(self.route, time.monotonic() - started)  # the next leader is not to be caught in it too
                self.depose()
            self.shared = False

    def depose(self) -> None:
        """Let another thread lead. The baton is held, or this is the leader itself."""
        self.leader = None
        self.threads.submit(self.lead, urgent=True)

    def collect(self) -> None:
        """Go on with what threads have given back."""
        os.read(self.reader, 4096)
        while self.returned:
            self.returned.popleft()()

    def go_on(self, connection: Connection, head: Head, result: Any, source: Body | None) -> None:
        """A thread has run this connection's handler: send the answer, serve what was sent after the request."""
        self.in_threads.pop(connection.fd, None)
        self.hung.discard(connection)
        connection.answer(head, result, source)
        if connection.state == HEAD:
            self.watch(connection, READ)
            if connection.buffer:
                connection.advance(connection.buffer)

    # ---- the other threads -------------------------------------------------------------------------------------

    def run_handler(
        self, connection: Connection, head: Head, body: bytes | None, source: Body | None, route: Route,
        params: dict[str, str], thread: PoolThread,
    ) -> None:  # fmt: skip
        """A job: run the handler, and let the leader go on with what it returns."""
        started = time.monotonic()
        self.in_threads[connection.fd] = (connection, started)
        result = connection.handle(head, body, source, route, params, thread.worker)
        route.took += (time.monotonic() - started - route.took) * WEIGHT
        self.give_back(partial(self.go_on, connection, head, result, source))

    def give_back(self, action: Callable[[], None]) -> None:
        """Let the leader go on with a connection."""
        self.returned.append(action)
        self.wake()

    def wake(self) -> None:
        try:
            os.write(self.writer, b"w")
        except BlockingIOError:
            return  # it has wake-ups enough

    def next_piece(self, connection: Connection) -> bytes | None:
        """A generator is user code that may wait: a thread runs it."""
        connection.state = HANDLING
        self.unwatch(connection)

        def run(thread: PoolThread) -> None:
            self.in_threads[connection.fd] = (connection, time.monotonic())
            piece = connection.make_piece(thread.worker)
            self.give_back(lambda: self.send_piece(connection, piece))

        self.threads.submit(run)
        return None

    def send_piece(self, connection: Connection, piece: bytes) -> None:
        self.in_threads.pop(connection.fd, None)
        self.hung.discard(connection)
        connection.state = SENDING
        connection.take_piece(piece)
        if connection.state == SENDING:
            connection.pump()
            connection.go_on()


def measure_inline(route: Route, took: float) -> None:
    """What a run in the loop says of a route. It is the better witness: in another thread, waiting for the
    interpreter's lock counts as time. Two long runs in a row are enough to be slow, one short one to be fast again:
    a single one of a fast handler often means that the system gave the processor to somebody else."""
    before = route.took
    if took <= STALL and before <= INLINE:
        route.took = before + (took - before) * WEIGHT
        if route.took <= INLINE:
            return
    else:
        route.took = took
    # Of the first run of all nothing is known, so it counts.
    route.retry = 0.0 if 0 < before <= INLINE else time.monotonic() + RETRY


class Promoter(StallMonitor):
    """The sentry of a host: its main thread."""

    loop: ThreadedLoop

    def __init__(self, loop: ThreadedLoop, context: Context) -> None:
        super().__init__(loop, context)
        self.threads = loop.threads
        self.next_tick = 0.0
        self.expired: set[Connection] = set()

    def running(self) -> float:
        leader = self.loop.leader
        return leader.since if leader is not None else 0.0

    def look(self) -> bool:
        now = time.monotonic()
        if self.loop.finished.is_set():
            self.done = True
        if now >= self.next_tick:
            self.next_tick = now + TICK
            self.threads.tick()
        limit = self.loop.config.request_timeout
        if limit:
            running = self.loop.in_threads.copy().values()
            late = [c for c, since in running if now - since > limit and c not in self.expired]
            if late:
                self.expire(late)
        size, floor = len(self.threads.all), self.threads.floor
        # It may have to shrink (the leader counts as busy), to replace what failed, or to watch running handlers.
        return not floor <= size <= floor + 1 or bool(self.loop.in_threads)

    def slow(self, started: float) -> None:
        """The leader is caught in a handler: another thread takes the loop over."""
        self.loop.promote(started)

    def expire(self, late: list[Connection]) -> None:
        """--request-timeout: say where they hang, answer their clients, replace this host when the others are done."""
        loop = self.loop
        self.expired.update(late)
        log.error("%d requests run for more than %g s (--request-timeout): this host is replaced",
                  len(late), loop.config.request_timeout)  # fmt: skip
        log_stacks()
        loop.give_back(lambda: self.leave(late))

    def leave(self, late: list[Connection]) -> None:
        """In the leader: answer for handlers that still run, and drain; only hung requests are not waited for."""
        loop = self.loop
        response = error_page(503, "the request took too long", "")
        assert isinstance(response.body, bytes)
        data = head_of(response, loop.clock, len(response.body), b"Connection: close\r\n", False) + response.body
        for connection in late:
            if connection.fd in loop.in_threads:  # else it has returned after all
                loop.hung.add(connection)
                connection.given_up()
                try:
                    if connection.source is None:  # of a streamed response the head is out already
                        connection.sock.send(data)
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        loop.words[loop.base + scoreboard.RETIRING] = 1
        loop.drain()


def work(context: Context, slot: int, threads: ThreadPool, wakeup: SignalPipe) -> bool:
    """Serve until drained."""
    loop = ThreadedLoop(context, slot, threads)
    monitor = Promoter(loop, context)

    def on_signal() -> None:
        if "drain" in wakeup.take():
            loop.drain()

    def first() -> None:
        if not loop.draining:
            context.board.states[slot] = scoreboard.IDLE
        context.wake_server()
        threads.submit(loop.lead)

    channel.trace = current
    loop.on_leaving = context.wake_server
    loop.add(Signals(wakeup.fileno(), on_signal))
    loop.listen(context.listeners, context.pair)
    loop.publish()
    threads.on_first = first
    threads.ceiling += 1  # the leader
    threads.resize()
    monitor.run()
    if loop.hung:
        log.error("%d requests never ended: the host ends without them", len(loop.hung))
        threads.stop(LAST_WORDS)  # those that can leave run worker_exit()
        os._exit(TIMED_OUT)
    return True
