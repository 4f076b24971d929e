"""Engine of prefork and stream or line: a worker process serves one connection at a time, and a sentry thread ends
it when a handler hangs or nobody is left to end it.
"""

import os
import select
import signal
import threading
import time
from typing import NoReturn

from . import raw, scoreboard
from .listeners import Listener
from .logs import log
from .scoreboard import ACCEPTED, BUSY, CONNECTIONS, ERRORS, IDLE, LEAVING, SINCE
from .server import Context
from .signals import Wakeup
from .stream import Stream
from .worker import Worker

LOOK = 0.25  # seconds between the sentry's looks at the handler


class Single:
    """A worker: waits for a connection, serves it, and so on."""

    def __init__(self, context: Context, slot: int, worker: Worker, wakeup: Wakeup) -> None:
        self.context = context
        self.slot = slot
        self.worker = worker
        self.wakeup = wakeup
        self.words, self.base = context.board.words, context.board.base(slot)
        self.service = context.service.protocol.service(context.handlers, context.config)
        self.stream: Stream | None = None  # that is being served
        self.quota = context.config.max_requests
        self.draining = False
        self.queue = context.config.backlog  # what a drain takes at most: more cannot have waited when it began
        self.short = False  # descriptors ran out

    def run(self) -> bool:
        """Serve until drained. False when the worker failed (worker.fail)."""
        poller = select.poll()
        poller.register(self.wakeup.fileno(), select.POLLIN)
        for listener in self.context.listeners:
            poller.register(listener.socket, select.POLLIN)
        self.show(IDLE)
        self.nudge()
        while True:
            # A drain first empties the queue. A worker that retires alone leaves it to its siblings.
            ready = {fd for fd, _ in poller.poll(0 if self.draining else None)}
            if "drain" in self.wakeup.take():
                self.draining = True
                self.show(LEAVING)
                self.nudge()
            retiring = self.draining and self.words[scoreboard.PHASE] == scoreboard.RUN
            if retiring or (self.draining and (self.queue <= 0 or not ready - {self.wakeup.fileno()})):
                return True
            for listener in self.context.listeners:
                if listener.socket.fileno() in ready and self.take(listener):
                    break  # a signal may have come meanwhile
            if self.worker.failure:
                return False
            if self.quota < 0:
                return True

    def take(self, listener: Listener) -> bool:
        """Serve one connection of this listener; False when there is none."""
        try:
            taken = raw.accept(listener)
        except OSError as error:
            if error.errno not in raw.SCARCE:
                raise
            if not self.short:
                log.warning("cannot accept: %s; accepting pauses", error.strerror)
            self.short = True
            time.sleep(raw.PAUSE)
            return False
        if taken is None:
            return False
        self.short = False
        self.queue -= self.draining
        words, base = self.words, self.base
        began = time.monotonic()
        words[base + ACCEPTED] += 1
        words[base + CONNECTIONS] = 1
        words[base + SINCE] = int(began * 1000)
        self.show(BUSY)
        self.nudge()  # one fewer is idle
        self.stream = raw.opened(taken, self.context.config, self.worker)
        good = raw.serve(self.stream, self.service, self.worker)
        self.stream = None
        words[base + ERRORS] += not good
        self.context.board.record(base, time.monotonic() - began)
        words[base + SINCE] = 0
        words[base + CONNECTIONS] = 0
        self.show(IDLE)
        if self.quota:
            self.quota -= 1
            self.quota = self.quota or -1
        return True

    def show(self, state: int) -> None:
        """Publish what this worker does."""
        self.context.board.states[self.slot] = LEAVING if self.draining else state

    def nudge(self) -> None:
        """Wake the server: the numbers of idle and busy workers have changed."""
        try:
            os.write(self.context.nudge, b"b")
        except OSError:
            return  # full: it has nudges enough; closed: there is no server to tell

    def watch(self) -> NoReturn:
        """The sentry. At end-of-file of the parent pipe the server is gone: drain, and do not outlive the limit."""
        config, parent = self.context.config, self.context.parent
        poller = select.poll()
        poller.register(parent, select.POLLIN)
        deadline = float("inf")
        while True:
            if poller.poll(LOOK * 1000 if config.request_timeout or deadline < float("inf") else None):
                poller.unregister(parent)
                deadline = time.monotonic() + (config.drain_timeout or 1e9)
                self.words[scoreboard.PHASE] = scoreboard.DRAIN
                os.kill(os.getpid(), signal.SIGTERM)
            now, stream = time.monotonic(), self.stream
            if config.request_timeout and stream is not None and raw.hangs(stream, config.request_timeout, now):
                raw.expire([stream], config.request_timeout, "this worker ends")
                os._exit(raw.TIMED_OUT)
            if now >= deadline:
                log.warning("drain took longer than --drain-timeout: a connection is cut off")
                os._exit(1)


def work(context: Context, slot: int, worker: Worker, wakeup: Wakeup) -> bool:
    """Serve until drained. False when the worker failed."""
    single = Single(context, slot, worker, wakeup)
    threading.Thread(target=single.watch, name="sentry", daemon=True).start()
    return single.run()
