"""Engine of threads and stream or line: the main thread accepts, each connection is held by a thread."""

import os
import select
import signal
import time
from functools import partial

from . import raw, scoreboard
from .listeners import Listener
from .logs import log
from .scoreboard import ALONE, CONNECTIONS, ERRORS, IDLE, LEAVING
from .server import Context
from .signals import Wakeup
from .stream import Stream
from .threads import PoolThread, Threads

TICK = 1.0
LAST_WORDS = 1.0  # seconds for worker_exit() beside threads that hang


class Front:
    """What the main thread does: accept while a thread is free, count, and end in order."""

    def __init__(self, context: Context, slot: int, threads: Threads, wakeup: Wakeup) -> None:
        self.context = context
        self.config = context.config
        self.threads = threads
        self.wakeup = wakeup
        self.board = context.board
        self.slot = slot
        self.base = context.board.base(slot)
        self.service = context.service.protocol.service(context.handlers, context.config)
        self.queue = raw.Queue(context, slot)
        self.held = 0  # connections; changed by this thread and the others, under the pool's lock
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
        self.threads.resize()
        tick = time.monotonic() + TICK
        look = self.config.request_timeout / 4 or TICK
        while self.queue.listening or self.held > len(self.hung):
            now = time.monotonic()
            pause = self.queue.short
            self.watch(self.held < self.threads.ceiling and now >= pause and not self.draining)
            limit = min(tick, pause if pause > now else tick, now + look)
            ready = {fd for fd, _ in self.poller.poll(max(0.0, limit - now) * 1000)}
            if self.reader in ready:
                os.read(self.reader, 4096)
            if self.context.parent in ready:
                self.orphaned()
            if "drain" in self.wakeup.take():
                self.drain()
            if self.draining and self.queue.listening:
                self.empty()
            for listener in self.context.listeners if not self.draining else ():
                if listener.socket.fileno() in ready:
                    self.accept(listener)
            self.publish()
            now = time.monotonic()
            if self.deadline and now >= self.deadline:
                log.warning("drain took longer than --drain-timeout: %d connections are cut off", self.held)
                os._exit(1)
            if self.config.request_timeout:
                self.expire(now)
            if now >= tick:
                tick = now + TICK
                self.threads.tick()
        self.publish()
        if self.hung:
            log.error("%d handlers never returned: the host ends without them", len(self.hung))
            self.threads.stop(LAST_WORDS)
            os._exit(raw.TIMED_OUT)
        return True

    def expire(self, now: float) -> None:
        """--request-timeout: close the connections of handlers that hang, and replace this host."""
        limit = self.config.request_timeout
        with self.threads.lock:  # what returns meanwhile waits here, and takes itself out in `done`
            late = [one for one in self.streams if one not in self.hung and raw.hangs(one, limit, now)]
            self.hung.update(late)
        if late:
            raw.expire(late, limit, "this host is replaced")
            self.board.words[self.base + ALONE] = 1
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

    def hold(self, taken: raw.Taken) -> None:
        """Give a connection to a thread."""
        with self.threads.lock:
            self.held += 1
        self.threads.submit(partial(self.serve, taken, time.monotonic()))

    def publish(self) -> None:
        """Show how many connections are held: this thread alone writes that."""
        self.board.words[self.base + CONNECTIONS] = self.held

    def serve(self, taken: raw.Taken, came: float, thread: PoolThread) -> None:
        """What a thread does with a connection."""
        stream, good = raw.opened(taken, self.config, thread.worker), False
        with self.threads.lock:
            self.streams.add(stream)
        try:
            good = raw.serve(stream, self.service, thread.worker)
        finally:
            self.done(stream, good, time.monotonic() - came)

    def done(self, stream: Stream, good: bool, took: float) -> None:
        """A connection has ended, after so many seconds; called by its thread."""
        with self.threads.lock:
            self.streams.discard(stream)
            self.hung.discard(stream)
            self.held -= 1
            self.served += 1
            full = self.served == self.quota
            self.board.record(self.base, took)
            self.board.words[self.base + ERRORS] += not good
            wake = self.held + 1 >= self.threads.ceiling or self.draining
        if full:
            self.board.words[self.base + ALONE] = 1
            os.kill(os.getpid(), signal.SIGTERM)
        if wake:
            try:
                os.write(self.writer, b"w")
            except BlockingIOError:
                return  # it has wake-ups enough

    def drain(self) -> None:
        """Empty the queue, then take no more."""
        if self.draining:
            return
        self.draining = True
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


def work(context: Context, slot: int, threads: Threads, wakeup: Wakeup) -> bool:
    """Serve until drained."""
    return Front(context, slot, threads, wakeup).run()
