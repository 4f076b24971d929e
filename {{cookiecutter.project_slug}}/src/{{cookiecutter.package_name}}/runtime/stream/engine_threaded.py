"""Engine of threads and stream or line: each connection is held by a thread, which has accepted it at the door.

The main thread watches, and ends in order. Where there is no such door, it accepts.
"""

import os
import select
import signal
import time
from functools import partial

from ..ipc import scoreboard
from ..ipc.scoreboard import CONNECTIONS, ERRORS, IDLE, LEAVING, RETIRING
from ..ipc.signals import SignalPipe
from ..log.records import log
from ..pool.thread_pool import Job, PoolThread, ThreadPool
from ..process.member import Context
from ..system.listeners import Listener
from . import serve, shared_epoll
from .stream import Stream

TICK = 1.0
LAST_WORDS = 1.0  # seconds for worker_exit() beside threads that hang


class Front:
    """What the main thread does: see that threads can accept, or accept while one is free, and end in order."""

    def __init__(self, context: Context, slot: int, threads: ThreadPool, wakeup: SignalPipe) -> None:
        self.context = context
        self.config = context.config
        self.threads = threads
        self.wakeup = wakeup
        self.board = context.board
        self.slot = slot
        self.base = context.board.base(slot)
        self.service = context.service.protocol.service(context.handlers, context.config)
        self.queue = serve.Queue(context, slot)
        self.held = 0  # connections; changed by this thread and the others, under the pool's lock
        self.door = shared_epoll.SharedEpoll(self.take) if shared_epoll.AVAILABLE else None
        self.paused = False  # the door is not armed: descriptors or memory had run out
        self.streams: set[Stream] = set()  # that are being served
        self.hung: set[Stream] = set()  # those whose handlers exceeded --request-timeout: nobody waits for them
        self.served = 0
        self.quota = context.config.max_requests
        self.draining = False
        self.deadline = 0.0
        self.watching = False
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)
        self.poller = select.poll()
        for fd in (wakeup.fileno(), context.parent, self.reader):
            self.poller.register(fd, select.POLLIN)

    def run(self) -> bool:
        """Until drained."""
        self.threads.on_first = self.first
        self.threads.on_short = self.wake
        self.threads.door = self.door
        if self.door is not None:
            self.door.admit(self.context.listeners)
        self.threads.resize()
        tick = time.monotonic() + TICK
        look = self.config.request_timeout / 4 or TICK
        while self.queue.listening or self.held > len(self.hung):
            now = time.monotonic()
            pause = self.queue.short
            if self.door is None:
                self.watch(self.held < self.threads.ceiling and now >= pause and not self.draining)
            elif self.paused and now >= pause:
                self.paused = False
                self.door.arm_all()
            limit = min(tick, pause if pause > now else tick, now + look)
            ready = {fd for fd, _ in self.poller.poll(max(0.0, limit - now) * 1000)}
            if self.reader in ready:
                os.read(self.reader, 4096)
                self.threads.resize()
            if self.context.parent in ready:
                self.orphaned()
            if "drain" in self.wakeup.take():
                self.drain()
            if self.draining and self.queue.listening:
                self.empty()
            for listener in self.context.listeners if not self.draining else ():
                if listener.socket.fileno() in ready:
                    self.accept(listener)
            now = time.monotonic()
            if self.deadline and now >= self.deadline:
                log.warning("drain took longer than --drain-timeout: %d connections are cut off", self.held)
                os._exit(1)
            if self.config.request_timeout:
                self.expire(now)
            if now >= tick:
                tick = now + TICK
                self.threads.tick()
        if self.hung:
            log.error("%d handlers never returned: the host ends without them", len(self.hung))
            self.threads.stop(LAST_WORDS)
            os._exit(serve.TIMED_OUT)
        return True

    def expire(self, now: float) -> None:
        """--request-timeout: close the connections of handlers that hang, and replace this host."""
        limit = self.config.request_timeout
        with self.threads.lock:  # what returns meanwhile waits here, and takes itself out in `done`
            late = [one for one in self.streams if one not in self.hung and serve.hangs(one, limit, now)]
            self.hung.update(late)
        if late:
            serve.expire(late, limit, "this host is replaced")
            self.board.words[self.base + RETIRING] = 1
            self.drain()

    def first(self) -> None:
        """A thread can work: so can this host."""
        if not self.draining:
            self.board.states[self.slot] = IDLE
        self.context.wake_server()

    def watch(self, wanted: bool) -> None:
        """Poll the listeners only while a connection could be served: others wait in the kernel's queue."""
        if wanted != self.watching:
            self.watching = wanted
            for listener in self.context.listeners:
                if wanted:
                    self.poller.register(listener.socket, select.POLLIN)
                else:
                    self.poller.unregister(listener.socket)

    def accept(self, listener: Listener) -> None:
        """Take connections from the queue, 64 at most before looking at anything else."""
        for _ in range(64):
            taken = self.queue.take(listener) if self.held < self.threads.ceiling else None
            if taken is None:
                return
            self.hold(taken)

    def hold(self, taken: serve.Taken) -> None:
        """Give a connection to a thread."""
        self.threads.submit(self.job(taken))

    def job(self, taken: serve.Taken) -> Job:
        """Count a connection, and say what there is to do with it."""
        with self.threads.lock:
            self.held += 1
            self.board.words[self.base + CONNECTIONS] = self.held
        return partial(self.serve, taken, time.monotonic())

    def take(self, listener: Listener) -> Job | None:
        """The same, of an idle thread at the door."""
        assert self.door is not None
        taken = self.queue.take(listener)
        if self.queue.short:
            self.paused = True
            self.wake()
        else:
            self.door.arm(listener)
        return self.job(taken) if taken is not None else None

    def wake(self) -> None:
        """Let the main thread look what there is to do."""
        try:
            os.write(self.writer, b"w")
        except BlockingIOError:
            return  # it has wake-ups enough

    def serve(self, taken: serve.Taken, came: float, thread: PoolThread) -> None:
        """What a thread does with a connection."""
        stream, good = serve.opened(taken, self.config, thread.worker), False
        with self.threads.lock:
            self.streams.add(stream)
        try:
            good = serve.serve(stream, self.service, thread.worker)
        finally:
            self.done(stream, good, time.monotonic() - came)

    def done(self, stream: Stream, good: bool, took: float) -> None:
        """A connection has ended, after so many seconds; called by its thread."""
        with self.threads.lock:
            self.streams.discard(stream)
            self.hung.discard(stream)
            self.held -= 1
            self.board.words[self.base + CONNECTIONS] = self.held
            self.served += 1
            full = self.served == self.quota
            self.board.record(self.base, took)
            self.board.words[self.base + ERRORS] += not good
            wake = self.draining or (self.door is None and self.held + 1 >= self.threads.ceiling)
        if full:
            self.board.words[self.base + RETIRING] = 1
            if self.door is not None:
                self.door.shut()  # who comes from now on is its successor's
            os.kill(os.getpid(), signal.SIGTERM)
        if wake:
            self.wake()

    def drain(self) -> None:
        """Empty the queue, then take no more."""
        if self.draining:
            return
        self.draining = True
        if self.door is not None:
            self.door.shut()
        self.watch(False)
        self.board.states[self.slot] = LEAVING
        self.context.wake_server()
        self.empty()

    def empty(self) -> None:
        for taken in self.queue.close():
            self.hold(taken)

    def orphaned(self) -> None:
        """The server is gone: drain, and do not outlive the drain's time limit."""
        self.poller.unregister(self.context.parent)
        self.board.words[scoreboard.PHASE] = scoreboard.DRAIN
        if self.config.drain_timeout:
            self.deadline = time.monotonic() + self.config.drain_timeout
        self.drain()


def work(context: Context, slot: int, threads: ThreadPool, wakeup: SignalPipe) -> bool:
    """Serve until drained."""
    return Front(context, slot, threads, wakeup).run()
