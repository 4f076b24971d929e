"""Engine of prefork and stream or line: a worker process serves one connection at a time, and a sentry thread does
what a worker in a handler cannot: begin a drain, and end the process when a handler hangs or nobody is left to end it.

A drain empties the kernel's queue at once, though all workers may be busy, so that the listeners can be closed and
newcomers are refused. What waited goes into the generation's pair, and each worker that gets free serves some of it.
"""

import os
import select
import socket
import threading
import time
from collections import deque
from typing import NoReturn

from ..config.errors import SOFTWARE
from ..ipc import fd_passing, scoreboard
from ..ipc.scoreboard import BUSY, BUSY_SINCE, CONNECTIONS, ERRORS, IDLE, LEAVING, WAITING
from ..ipc.signals import SignalPipe
from ..log.records import log
from ..pool.worker import Worker
from ..process.member import Context
from ..system.listeners import peer_of
from . import serve
from .stream import Stream

LOOK = 0.25  # seconds between the sentry's looks at the handler
OFFER = 0.02  # the same while connections wait for a place in the pair


class Single:
    """A worker: waits for a connection, serves it, and so on. `lock` is held to take connections, and to stop that."""

    def __init__(self, context: Context, slot: int, worker: Worker, wakeup: SignalPipe) -> None:
        self.context = context
        self.config = context.config
        self.slot = slot
        self.worker = worker
        self.wakeup = wakeup
        self.words, self.base = context.board.words, context.board.base(slot)
        self.service = context.service.protocol.service(context.handlers, context.config)
        self.queue = serve.Queue(context, slot)
        self.order = deque(context.listeners)
        self.waiting: deque[serve.Taken] = deque()  # of a drain: connections for which the pair has no place yet
        self.stream: Stream | None = None  # that is being served
        self.quota = context.config.max_requests
        self.draining = False
        self.lock = threading.Lock()
        self.reader, self.writer = os.pipe()  # readable as soon as a drain has begun

    # ---- the worker --------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Serve until drained. False when the worker failed (worker.fail)."""
        poller = select.poll()
        poller.register(self.reader, select.POLLIN)
        with self.lock:
            for listener in self.context.listeners if not self.draining else ():
                poller.register(listener.socket, select.POLLIN)
        self.show(IDLE)
        self.context.wake_server()
        while not (self.draining or self.worker.failure or self.quota < 0):
            taken = self.accept()
            if taken is not None:
                self.serve(taken)
            elif self.queue.short:
                time.sleep(serve.PAUSE)
            else:
                poller.poll()
        while self.draining and not self.worker.failure and (taken := self.left()) is not None:
            self.serve(taken)
        with self.lock:
            self.offer()  # a worker that has failed leaves them to others
        return not self.worker.failure

    def accept(self) -> serve.Taken | None:
        """A connection from one of the listeners: each is the first in its turn, so that none starves another."""
        with self.lock:
            for listener in list(self.order) if not self.draining else ():
                self.order.rotate(-1)
                if (taken := self.queue.take(listener)) is not None:
                    return taken
        return None

    def left(self) -> serve.Taken | None:
        """The next connection of those that waited when the drain began. None: this worker may leave."""
        while True:
            with self.lock:
                self.empty()
                if self.waiting:
                    own = self.waiting.popleft()
                    self.offer()
                    return own
            try:
                taken = received(self.context.pair[1])
            except OSError as error:
                self.queue.scarce(error)
                time.sleep(serve.PAUSE)
                continue
            # Whoever puts more into the pair from now on is a sibling that will look itself.
            if taken is not None or not (self.queue.listening or self.context.board.total(WAITING)):
                return taken
            time.sleep(OFFER)

    def serve(self, taken: serve.Taken) -> None:
        """One connection, to its end."""
        words, base = self.words, self.base
        began = time.monotonic()
        words[base + CONNECTIONS] = 1
        words[base + BUSY_SINCE] = int(began * 1000)
        self.show(BUSY)
        if self.context.board.needs_workers(self.config.max):
            self.context.wake_server()
        self.stream = serve.opened(taken, self.config, self.worker)
        good = serve.serve(self.stream, self.service, self.worker)
        self.stream = None
        words[base + ERRORS] += not good
        self.context.board.record(base, time.monotonic() - began)
        words[base + BUSY_SINCE] = 0
        words[base + CONNECTIONS] = 0
        self.show(IDLE)
        if self.quota:
            self.quota -= 1
            self.quota = self.quota or -1

    def show(self, state: int) -> None:
        """Publish what this worker does."""
        self.context.board.states[self.slot] = LEAVING if self.draining else state

    # ---- the sentry --------------------------------------------------------------------------------------------

    def guard(self) -> None:
        """`watch` in a thread of its own: without it a worker could outlive its service."""
        try:
            self.watch()
        except BaseException:
            log.critical("the sentry failed", exc_info=True)
            os._exit(SOFTWARE)

    def watch(self) -> NoReturn:
        """Wait for the signal to drain, and for end-of-file of the parent pipe, which is another; watch the handler."""
        limit, parent, deadline = self.config.request_timeout, self.context.parent, 0.0
        poller = select.poll()
        poller.register(parent, select.POLLIN)
        poller.register(self.wakeup.fileno(), select.POLLIN)
        while True:
            unplaced = self.draining and (self.waiting or self.queue.listening)
            look = OFFER if unplaced else LOOK if limit or deadline else None
            ready = {fd for fd, _ in poller.poll(None if look is None else look * 1000)}
            if parent in ready:  # the server is gone: do not outlive the drain's time limit
                poller.unregister(parent)
                deadline = time.monotonic() + (self.config.drain_timeout or 1e9)
                self.words[scoreboard.PHASE] = scoreboard.DRAIN
            if "drain" in self.wakeup.take() or parent in ready:
                self.drain()
            now, stream = time.monotonic(), self.stream
            if unplaced and stream is not None:
                with self.lock:
                    self.empty()
            if limit and stream is not None and serve.hangs(stream, limit, now):
                serve.expire([stream], limit, "this worker ends")
                os._exit(serve.TIMED_OUT)
            if deadline and now >= deadline:
                log.warning("drain took longer than --drain-timeout: a connection is cut off")
                os._exit(1)

    def drain(self) -> None:
        """Begin to."""
        with self.lock:
            if self.draining:
                return
            self.draining = True
            self.show(LEAVING)
            self.empty()
        os.write(self.writer, b"d")
        self.context.wake_server()

    # ---- both, with the lock -----------------------------------------------------------------------------------

    def empty(self) -> None:
        """Take what waits in the kernel's queue."""
        if self.queue.listening:
            self.waiting.extend(self.queue.close())
        self.offer()

    def offer(self) -> None:
        """Let siblings have what waits here, as much as the pair takes."""
        while self.waiting and fd_passing.send(self.context.pair[0], b"c", self.waiting[0][0].fileno()):
            self.waiting.popleft()[0].close()
        self.words[self.base + WAITING] = len(self.waiting)


def received(end: socket.socket) -> serve.Taken | None:
    """A connection that a sibling has put into the pair. Raises OSError when no descriptor is free."""
    while (taken := fd_passing.receive(end, 1)) is not None:
        sock = taken[1]
        if sock is not None:
            try:
                return sock, peer_of(sock.getpeername())
            except OSError:
                sock.close()  # the client left on the way
    return None


def work(context: Context, slot: int, worker: Worker, wakeup: SignalPipe) -> bool:
    """Serve until drained. False when the worker failed."""
    single = Single(context, slot, worker, wakeup)
    threading.Thread(target=single.guard, name="monitor", daemon=True).start()
    return single.run()
