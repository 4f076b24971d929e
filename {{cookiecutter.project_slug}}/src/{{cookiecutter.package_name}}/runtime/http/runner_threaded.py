"""Runs user code of http in many threads: one at a time leads the loop, and runs fast handlers itself.

A handler whose runs take longer than INLINE on average is given, with its connection, to another thread. When a
usually fast one blocks the leader, the monitor (the main thread, which runs no user code) makes another thread the
leader; the deposed one gives its result back when its handler returns, and is an ordinary thread from then on. So there
is no queue and no lock on the way of a fast request, only the leader touches the loop, and a connection is in one
thread's hands at any time.
"""

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..config.errors import SOFTWARE, TIMED_OUT
from ..http1.parser import Head
from ..http1.states import HANDLING
from ..ipc import forks, scoreboard
from ..ipc.waker import Waker
from ..log.records import log, log_stacks
from ..loop.event_loop import Wakeup
from ..loop.interfaces import Mode
from ..loop.leadership import Demoted, Leader
from ..loop.selector import READ
from ..loop.stall_monitor import StallMonitor
from ..pool.thread_pool import PoolThread, ThreadPool
from ..system.refusal import BOUND, RETRY_AFTER, UNABLE
from ..web.response import Response, error_page
from ..web.routes import Route
from .bodies import BROKEN, Body, Stream, UserBody
from .connection import Connection
from .engine import INLINE, Engine, handle
from .protocol_http import REFUSAL

RETRY = 1.0  # seconds after which a slow handler is tried in the loop once: it may have become fast
WEIGHT = 0.1  # of the latest run in the moving average
STALL = 0.005  # seconds: no average needed
TICK = 1.0  # seconds between two looks at the size of the pool
LAST_WORDS = 1.0  # seconds for worker_exit() beside threads that hang


class Job(NamedTuple):
    """User code that runs in a thread that does not lead."""

    connection: Connection | None  # None: the body of a response is closed
    head: Head | None  # of the request; None: a piece of its response is made
    since: float


class Runner:
    """See engine.Runner."""

    def __init__(self, engine: Engine, threads: ThreadPool) -> None:
        self.engine = engine
        self.context = engine.context
        self.loop = engine.loop
        self.leadership = engine.leadership
        self.threads = threads
        self.most = threads.ceiling  # handlers at once
        self.measure = measure
        self.leading: PoolThread | None = None
        self.jobs: dict[int | None, Job] = {}  # by the thread's ident
        # Of those, and of jobs that wait for a thread, by descriptor: the job of a request, and what refuses it.
        self.taken: dict[int, tuple[Callable[[PoolThread], None], Callable[[], None]] | None] = {}
        self.returned: deque[tuple[Connection | None, Callable[[], None]]] = deque()  # for the leader to go on with
        self.waker = Waker()
        self.loop.add(Wakeup(self.waker.fileno(), self.collect))
        self.monitor = Monitor(self)

    def run(self) -> bool:
        """In the main thread."""
        self.threads.on_first = self.begin
        self.threads.ceiling += 1  # the leader
        self.threads.resize()
        self.monitor.run()
        if self.engine.abandoned:
            log.error("%d requests never ended: the host ends without them", self.engine.abandoned)
            self.threads.stop(LAST_WORDS)  # those that can leave run worker_exit()
            os._exit(TIMED_OUT)
        return True

    def begin(self) -> None:
        """The first thread has come through worker_init()."""
        if not self.loop.mode:
            self.loop.board.states[self.loop.slot] = scoreboard.IDLE
        self.context.wake_server()
        self.threads.submit(self.lead)

    # ---- the leader --------------------------------------------------------------------------------------------

    def lead(self, thread: PoolThread) -> None:
        """A job of the pool: become the leader and run the loop, until drained or demoted."""
        thread.working = -1.0
        self.leading = thread
        self.leadership.lead(Leader(thread.worker))
        self.waker.wake()  # the last leader may have left something in `returned`
        try:
            self.loop.run()
        except Demoted:
            return
        except BaseException:
            log.critical("the loop failed", exc_info=True)
            os._exit(SOFTWARE)
        self.monitor.is_done = True
        self.loop.wake_monitor()

    def is_leader_idle(self) -> bool:
        """In a drain: all that is held is with other threads, and will be closed after its response; no other process
        can hand something over. So the leader runs no handler any more."""
        loop, thread = self.loop, self.leading
        if thread is None or thread.has_left or thread.is_home or loop.mode != Mode.DRAINING or loop.intake.acceptors:
            return False
        return bool(loop.count) and loop.count == len(self.taken) and sum(map(bool, loop.board.states)) == 1

    def end_leaders_worker(self) -> None:
        """In the leader, which goes on with the loop."""
        if self.is_leader_idle() and self.leading is not None:
            self.threads.end_worker(self.leading)

    def failed(self, leader: Leader) -> None:
        """This thread ends, and another leads."""
        self.leadership.resign()
        self.threads.submit(self.lead, urgent=True)
        raise Demoted

    def promote(self, started: float) -> None:
        """In the monitor: have another thread lead, if the leader is still in the handler that it began then."""
        leader, thread = self.leadership.seize(started), self.leading
        if leader is not None and thread is not None:
            request = thread.worker._request
            if not (leader.serving or request):  # its handler has not begun yet, or has returned
                self.leadership.release()
                return
            connection, head = (leader.serving[0], None) if leader.serving else (request._connection, request.head)
            thread.working = started
            self.jobs[thread.ident] = Job(connection, head, started)
            self.take_room(connection)
            if head is not None:
                measure(request._route, time.monotonic() - started)  # it must not block the next leader too
            self.leadership.depose(leader)
            self.threads.submit(self.lead, urgent=True)

    def collect(self) -> None:
        """Go on with what threads have given back."""
        self.waker.clear()
        for _ in range(len(self.returned)):
            connection, action = self.returned.popleft()
            if connection is None:
                action()
            else:
                self.loop.guarded(connection, action)

    # ---- the other threads -------------------------------------------------------------------------------------

    def take(
        self, connection: Connection, head: Head, body: bytes | None, source: Body | None, route: Route,
        params: dict[str, str],
    ) -> bool:  # fmt: skip
        """A slow handler is tried in the loop now and then, but only while another thread could lead at once."""
        if source is None and self.loop.now >= route.retry and self.threads.idle and not route.streams:
            return False

        def run(thread: PoolThread) -> None:
            started = time.monotonic()
            self.jobs[thread.ident] = Job(connection, head, started)
            result = handle(connection, head, body, source, route, params, thread.worker)
            route.streams = type(result) is Response and isinstance(result.body, Stream)
            route.took += (time.monotonic() - started - route.took) * WEIGHT
            self.give_back(connection, partial(self.engine.finish, connection, head, result, source))

        def refuse() -> None:
            connection.server.words[connection.server.base + scoreboard.REFUSED] += 1
            connection.close_after = True
            connection.answer(head, error_page(503, UNABLE, head.get("accept", ""), RETRY_AFTER), source)

        self.loop.unwatch(connection)
        self.take_room(connection)
        self.taken[connection.fd] = run, refuse
        self.threads.submit(run, spread=route.streams)
        return True

    def take_piece(self, connection: Connection) -> bool:
        """A generator runs in the thread that has made it: what it holds may belong to that thread."""
        source = connection.source
        assert isinstance(source, Stream)
        if self.is_leaders(source):
            return False
        worker = source.worker
        connection.state = HANDLING

        def run(thread: PoolThread) -> None:
            self.jobs[thread.ident] = Job(connection, None, time.monotonic())
            piece = connection.make_piece(worker) if thread.worker is worker else BROKEN  # that thread has failed
            self.give_back(connection, partial(self.engine.send_piece, connection, piece))

        self.loop.unwatch(connection)
        self.take_room(connection)
        self.threads.submit_to(worker.number, run)
        return True

    def take_closing(self, body: UserBody) -> bool:
        if self.is_leaders(body):
            return False

        def run(thread: PoolThread) -> None:
            self.jobs[thread.ident] = Job(None, None, time.monotonic())
            body.worker = thread.worker  # another one when that thread has ended
            body.close()
            self.jobs.pop(thread.ident, None)

        self.threads.submit_to(body.worker.number, run)
        return True

    def refuse_waiting(self) -> None:
        """In the leader: no other thread can work, so answer 503 to each request that waits for one."""
        for fd, taken in list(self.taken.items()):
            connection = self.loop.table.get(fd)
            if taken is not None and connection is not None and self.threads.withdraw(taken[0]):
                del self.taken[fd]
                self.loop.guarded(connection, taken[1])
        self.show_room()

    def refuse(self) -> None:
        """In the monitor, which leads for a moment if no thread can: answer 503 to each request that has come."""
        if not self.threads.withdraw(self.lead):
            self.give_back(None, self.refuse_waiting)
            return
        loop = self.loop
        loop.now = time.monotonic()
        self.refuse_waiting()
        for fd, mask in loop.selector.poll(0):
            item = loop.table.get(fd)
            if isinstance(item, Connection) and item.is_parked:
                loop.guarded(item, refuse, item)
            elif item is not None and not item.runs_user_code:
                loop.guarded(item, item.ready, mask)
        if loop.now >= loop.next_sweep:
            loop.sweep()
        self.threads.submit(self.lead)

    def is_leaders(self, body: UserBody) -> bool:
        """Whether the thread that has made this body leads the loop."""
        leader = self.leadership.leader
        return leader is not None and leader.worker is body.worker

    def give_back(self, connection: Connection | None, action: Callable[[], None]) -> None:
        """User code has returned: have the leader go on with its connection."""
        forks.returned()
        self.jobs.pop(threading.get_ident(), None)
        if connection is not None:
            self.taken.pop(connection.fd, None)
            self.show_room()
        self.returned.append((connection, action))
        self.waker.wake()

    def take_room(self, connection: Connection | None) -> None:
        """This connection's user code runs in another thread, or will."""
        if connection is not None:
            self.taken[connection.fd] = None
            self.show_room()

    def show_room(self) -> None:
        """Tell siblings whether this host can run one more handler. Any thread may call it."""
        is_full = len(self.taken) >= self.most
        if is_full != self.loop.is_full:
            self.loop.is_full = is_full
            self.loop.publish()


def refuse(connection: Connection) -> None:
    """A parked connection is readable."""
    try:
        has_left = not connection.sock.recv(1, socket.MSG_PEEK)
    except OSError:
        has_left = True
    if has_left:
        connection.ready(READ)
    else:
        connection.server.words[connection.server.base + scoreboard.REFUSED] += 1
        connection.server.count_error()
        connection.drop_upload()
        connection.buffer, connection.head, connection.close_after = b"", None, True
        connection.transmit(REFUSAL)  # without a body, as nothing is known of the request


def measure(route: Route, took: float) -> None:
    """What a run in the loop says of a route. It is the better witness: in another thread, waiting for the
    interpreter's lock counts as time. Two long runs in a row are enough to be slow, one short one to be fast again:
    a single one of a fast handler often means that the system gave the processor to another process."""
    before = route.took
    if took <= STALL and before <= INLINE:
        route.took = before + (took - before) * WEIGHT
        if route.took <= INLINE:
            return
    else:
        route.took = took
    # Of the first run of all nothing is known, so it counts.
    route.retry = 0.0 if 0 < before <= INLINE else time.monotonic() + RETRY


class Monitor(StallMonitor):
    """The stall monitor of a host: its main thread."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.loop, runner.context)
        self.runner = runner
        self.threads = runner.threads
        self.next_tick = 0.0
        self.expired: set[Job] = set()
        self.able = time.monotonic()  # when a thread was able to do what waits

    def look(self) -> bool:
        now = time.monotonic()
        if self.loop.mode:
            self.threads.drain()
            if self.runner.is_leader_idle():
                self.runner.give_back(None, self.runner.end_leaders_worker)
        if now >= self.next_tick:
            self.next_tick = now + TICK
            self.threads.tick()
        elif 0 < self.threads.not_before <= now:
            self.threads.not_before = 0.0
            self.threads.resize()
        if self.threads.able or not self.threads.waiting:
            self.able = now
        elif now - self.able > BOUND:
            self.runner.refuse()
        limit = self.config.request_timeout
        if limit:
            late = {job for job in self.runner.jobs.copy().values() if now - job.since > limit} - self.expired
            if late:
                self.expire(late)
        size, floor = len(self.threads.all), self.threads.floor
        # It may have to shrink (the leader counts as busy), to replace what failed, or to watch running handlers.
        return not floor <= size <= floor + 1 or bool(self.runner.jobs) or self.able < now

    def stalled(self, started: float) -> None:
        self.runner.promote(started)

    def expire(self, late: set[Job]) -> None:
        """--request-timeout: say where they hang, answer their clients, replace this host when the others are done."""
        self.expired |= late
        log.error("%d requests run for more than %g s (--request-timeout): this host is replaced",
                  len(late), self.config.request_timeout)  # fmt: skip
        log_stacks()
        self.runner.give_back(None, lambda: self.leave(late))

    def leave(self, late: set[Job]) -> None:
        """In the leader: answer for handlers that still run, and drain; only hung requests are not waited for."""
        for job in late & set(self.runner.jobs.values()):
            if job.connection is not None:
                self.loop.engine.abandoned += 1
                job.connection.abandon(job.head)
        self.loop.words[self.loop.base + scoreboard.RETIRING] = 1
        self.loop.drain()
