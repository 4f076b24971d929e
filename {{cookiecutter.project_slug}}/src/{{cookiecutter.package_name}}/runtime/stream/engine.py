"""Serves the connections of `stream` and `line` in one member of the pool.

Each connection holds a thread from accept to close, and a thread in a handler watches nothing else. So the engine has
two sides. The runner (`runner_prefork`, `runner_threaded`) has the threads that run user code, one in a worker and many
in a host: an idle one accepts a connection and calls `serve`. The monitor is the thread that never runs user code: it
calls `turn` in a loop, which acts on signals, on the end of the server, on handlers that hang, and on the drain.

The life of a member is SERVING, then DRAINING, then DRAINED:

    SERVING   Idle threads accept.
    DRAINING  Entered once, by any thread: a signal, the end of the server, --max-requests or --request-timeout asks for
              it. The listeners are closed; what waited in their queues has been accepted, if it is this member's to
              serve. The member serves what it holds, without a time limit but --drain-timeout.
    DRAINED   Nothing is held but by handlers that hang. The process ends.
"""

import os
import select
import threading
import time
from enum import Enum
from typing import Any, Protocol

from ..ipc import forks
from ..ipc.scoreboard import CONNECTIONS, ERRORS, LEAVING, RETIRING, Phase
from ..ipc.signals import SignalPipe
from ..ipc.waker import Waker
from ..log.records import log
from ..pool.worker import Worker
from ..process.member import Context
from ..system.listeners import Listener
from . import connection
from .accept_queue import PAUSE, Accepted, AcceptQueue
from .stream import Drain, Stream

INTERVAL = 0.25  # seconds between two looks for handlers that exceed --request-timeout
GRACE = 0.5  # seconds that an idle connection of `line` lives on in a drain: a line may be on its way


class Life(Enum):
    """What a member does about connections; see above."""

    SERVING = "serving"
    DRAINING = "draining"
    DRAINED = "drained"


SERVING, DRAINING, DRAINED = Life
NEXT = {SERVING: DRAINING, DRAINING: DRAINED}


class Runner(Protocol):
    """Runs user code: in this thread, or in others."""

    def run(self) -> bool:
        """Serve until drained. False when the worker failed (worker.fail)."""

    def attend(self, now: float) -> float:
        """Called by the monitor in each turn, at `now`. Seconds until it wants to be called again at the latest."""

    def submit(self, accepted: Accepted) -> None:
        """Have a connection served that waited in the accept queue when the drain began."""

    def stop_accepting(self) -> None:
        """Called once, when the drain begins."""

    def is_idle(self) -> bool:
        """Whether no connection is on its way from `submit` to `Engine.serve`, and none will be."""


class Engine:
    """One member's connections. `lock` is held to accept and to change `life`, so no connection is accepted from a
    listener that a drain closes. `counting` is held for a few assignments, after `lock` if both are needed: a thread
    that has served must not wait for a system call of another one that accepts."""

    def __init__(self, context: Context, slot: int, wakeup: SignalPipe) -> None:
        self.context = context
        self.config = context.config
        self.board = context.board
        self.slot = slot
        self.base = context.board.base(slot)
        self.service = context.service.protocol.service(context.handlers, context.config)
        self.runner: Runner
        self.life = SERVING
        self.lock = threading.RLock()
        self.counting = threading.Lock()
        self.queue = AcceptQueue(context, slot)
        self.held = 0  # connections for which a thread is spoken for
        self.served = 0
        self.streams: dict[Stream, int] = {}  # with the idents of their threads
        self.hung: set[Stream] = set()  # of those: their handlers exceeded --request-timeout
        self.deadline = float("inf")  # when a member without a server ends at the latest
        self.drained = Drain()  # for handlers
        self.cut_after = 0.0  # when idle connections of `line` are ended
        self.waker = Waker()  # of the monitor
        self.wakeup = wakeup
        self.poller = select.poll()
        for fd in (wakeup.fileno(), context.parent, self.waker.fileno()):
            self.poller.register(fd, select.POLLIN)
        forks.withhold(self.descriptors)

    def descriptors(self) -> list[int]:
        """Those that no child of user code gets; it has the stream of the handler that forks it."""
        streams = [stream for stream, thread in list(self.streams.items()) if thread != threading.get_ident()]
        pipes = (self.waker.reader, self.waker.writer, self.drained.reader, self.drained.writer)
        return [*pipes, *(stream.socket.fileno() for stream in streams)]

    # ---- the threads that run user code --------------------------------------------------------------------------

    def accept(self, listener: Listener) -> Accepted | None:
        """One connection. None when there is none, or no descriptor, or the member drains."""
        with self.lock:
            return self.queue.accept(listener) if self.life is SERVING else None

    def hold(self) -> None:
        """Count a connection that will be served. A drain waits for it."""
        with self.counting:
            self.held += 1
            self.board.words[self.base + CONNECTIONS] = self.held

    def serve(self, accepted: Accepted, worker: Worker) -> None:
        """Serve a connection that is held to its end, in the thread of this worker."""
        stream = connection.opened(accepted, self.config, worker, self.drained)
        self.streams[stream] = threading.get_ident()
        good = False
        try:
            good = connection.serve(stream, self.service, worker)
        finally:
            self.release(stream, good)

    def release(self, stream: Stream, good: bool) -> None:
        """Count a connection that has ended."""
        with self.counting:
            self.streams.pop(stream, None)
            self.hung.discard(stream)
            self.held -= 1
            self.board.words[self.base + CONNECTIONS] = self.held
            self.board.words[self.base + ERRORS] += not good
            self.board.record(self.base, time.monotonic() - stream.born)
            self.served += 1
            served_enough = self.served == self.config.max_requests
        if served_enough:
            self.retire()
        elif self.life is not SERVING:
            self.waker.wake()

    def show(self, state: int) -> None:
        """Publish what this member does, unless it drains."""
        with self.lock:
            self.board.states[self.slot] = state if self.life is SERVING else LEAVING

    # ---- the drain: by any thread --------------------------------------------------------------------------------

    def move(self, life: Life) -> None:
        """Enter the next state of the table. Raises ValueError for any other."""
        if NEXT.get(self.life) is not life:
            raise ValueError(f"a member that is {self.life.value} cannot become {life.value}")
        self.life = life

    def retire(self) -> None:
        """Drain as the only member to leave: what waits in the accept queue is for the others."""
        self.board.words[self.base + RETIRING] = 1
        self.drain()

    def drain(self) -> None:
        """Accept no more, and let the process end when all connections have ended."""
        with self.lock:
            if self.life is not SERVING:
                return
            self.move(DRAINING)
            self.cut_after = time.monotonic() + GRACE
            self.context.drains()
            Worker.draining = True
            self.show(LEAVING)
            self.runner.stop_accepting()
            self.empty_queue()
        self.drained.begin()
        self.context.wake_server()
        self.waker.wake()

    def empty_queue(self) -> None:
        """Take over what waits in the kernel. The lock is held."""
        for accepted in self.queue.drain():
            self.runner.submit(accepted)

    # ---- the monitor ---------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Wait for something to happen, and act on it."""
        seconds = self.runner.attend(time.monotonic())
        if self.config.request_timeout or self.life is DRAINING:
            seconds = min(seconds, INTERVAL)
        if self.life is DRAINING and self.queue.is_open:
            seconds = min(seconds, PAUSE)
        seconds = min(seconds, max(0.0, self.deadline - time.monotonic()))
        ready = {fd for fd, _ in self.poller.poll(None if seconds == float("inf") else seconds * 1000)}
        self.waker.clear()
        if self.context.parent in ready:
            self.on_server_gone()
        asked = self.wakeup.take()
        if "look" in asked:
            self.context.look()
        if "drain" in asked:
            self.drain()
        now = time.monotonic()
        if now >= self.deadline:
            log.warning("drain took longer than --drain-timeout: %d connections cut off", self.held)
            os._exit(1)
        if self.config.request_timeout:
            self.expire(now)
        if self.life is DRAINING and now >= self.cut_after:
            for stream in list(self.streams):
                if stream.waits_for_line and now - stream.born >= GRACE:
                    stream.cut()
        with self.lock:
            if self.life is DRAINING and self.queue.is_open:
                self.empty_queue()
            if self.life is DRAINING and self.is_empty():
                self.move(DRAINED)

    def is_empty(self) -> bool:
        """Whether nothing has to be waited for."""
        return not self.queue.is_open and self.held == len(self.hung) and self.runner.is_idle()

    def on_server_gone(self) -> None:
        """End-of-file of the parent pipe: drain, and do not outlive the time limit that the server would enforce."""
        self.poller.unregister(self.context.parent)
        self.board.phase = Phase.DRAINING
        if self.config.drain_timeout:
            self.deadline = time.monotonic() + self.config.drain_timeout
        self.drain()

    def expire(self, now: float) -> None:
        """--request-timeout: close the connections of handlers that hang, and have this process replaced. The process
        ends when the others have ended."""
        limit = self.config.request_timeout
        with self.counting:  # one that returns meanwhile waits in `release`, and is removed from `hung` there
            late = [one for one in set(self.streams) - self.hung if connection.hangs(one, limit, now)]
            self.hung.update(late)
        if late:
            connection.expire(late, limit)
            self.retire()


def work(context: Context, slot: int, worker: Any, wakeup: SignalPipe) -> bool:
    """Serve until drained; `worker` is what the pool runs user code with: a Worker, or a ThreadPool. False when the
    worker failed."""
    engine = Engine(context, slot, wakeup)
    engine.runner = context.service.runner.Runner(engine, worker)
    return engine.runner.run()
