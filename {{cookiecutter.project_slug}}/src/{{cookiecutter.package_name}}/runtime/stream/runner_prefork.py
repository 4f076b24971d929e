"""Runs user code in the main thread of a worker process, one connection at a time; the monitor is a second thread.

A drain empties the accept queue at once, though all workers may be busy, so that the listeners can be closed and later
clients are refused. What waited goes into the generation's pair, and each worker that is idle serves some of it.
"""

import os
import select
import socket
import threading
import time
from collections import deque
from typing import NoReturn

from ..config.errors import SOFTWARE, TIMED_OUT
from ..ipc import fd_passing
from ..ipc.scoreboard import BUSY, BUSY_SINCE, IDLE, WAITING
from ..ipc.waker import Waker
from ..log.records import log
from ..pool.worker import Worker
from ..system.listeners import peer_of
from .accept_queue import PAUSE, Accepted
from .engine import DRAINED, SERVING, Engine

RETRY = 0.02  # seconds until a member that drains tries the pair again


class Runner:
    """A worker: waits for a connection, serves it, and so on."""

    def __init__(self, engine: Engine, worker: Worker) -> None:
        self.engine = engine
        self.worker = worker
        self.context = engine.context
        self.words, self.base = engine.board.words, engine.base
        self.listeners = deque(engine.context.listeners)
        self.waiting: deque[Accepted] = deque()  # of a drain: connections for which the pair has no place yet
        self.stopped = Waker()  # readable as soon as a drain has begun
        self.poller = select.poll()
        self.poller.register(self.stopped, select.POLLIN)
        for listener in self.listeners:
            self.poller.register(listener.socket, select.POLLIN)

    # ---- the worker ----------------------------------------------------------------------------------------------

    def run(self) -> bool:
        threading.Thread(target=self.monitor, name="monitor", daemon=True).start()
        self.engine.show(IDLE)
        self.context.wake_server()
        while not self.worker.failure and (accepted := self.accept() or self.left_over()) is not None:
            self.serve(accepted)
        with self.engine.lock:
            self.hand_over()  # of a worker that has failed
        return not self.worker.failure

    def accept(self) -> Accepted | None:
        """Wait for a connection. None: the member drains."""
        while self.engine.life is SERVING:
            for _ in range(len(self.listeners)):
                self.listeners.rotate(-1)  # none starves: each is the first to be asked in its turn
                if (accepted := self.engine.accept(self.listeners[-1])) is not None:
                    return accepted
            if self.engine.queue.paused_until:
                time.sleep(PAUSE)
            else:
                self.poller.poll()
        return None

    def left_over(self) -> Accepted | None:
        """One of the connections that waited when the drain began, here or at a sibling. None: there are no more."""
        queue = self.engine.queue
        while True:
            with self.engine.lock:
                if self.waiting:
                    accepted = self.waiting.popleft()
                    self.hand_over()
                    return accepted
            try:
                handed = received(self.context.pair[1])
            except OSError as error:
                queue.pause(error)
                time.sleep(PAUSE)
                continue
            # What comes into the pair from now on comes from a sibling, which will look into it itself.
            if handed is not None or not (queue.is_open or self.engine.board.total(WAITING)):
                return handed
            time.sleep(RETRY)

    def serve(self, accepted: Accepted) -> None:
        engine = self.engine
        engine.hold()
        self.words[self.base + BUSY_SINCE] = int(time.monotonic() * 1000)
        engine.show(BUSY)
        if engine.board.needs_workers(engine.config.max):
            self.context.wake_server()
        engine.serve(accepted, self.worker)
        self.words[self.base + BUSY_SINCE] = 0
        engine.show(IDLE)

    # ---- the monitor ---------------------------------------------------------------------------------------------

    def monitor(self) -> NoReturn:
        """Until the process ends: without a monitor it could outlive its service."""
        try:
            while self.engine.life is not DRAINED:
                self.engine.turn()
        except BaseException:
            log.critical("the monitor failed", exc_info=True)
            os._exit(SOFTWARE)
        os._exit(TIMED_OUT)

    def attend(self, now: float) -> float:
        with self.engine.lock:
            self.hand_over()
            return RETRY if self.waiting else float("inf")

    # ---- both, with the engine's lock ----------------------------------------------------------------------------

    def stop_accepting(self) -> None:
        self.stopped.wake()

    def submit(self, accepted: Accepted) -> None:
        self.waiting.append(accepted)
        self.hand_over()

    def hand_over(self) -> None:
        """Let siblings have what waits here, as much as the pair takes."""
        while self.waiting and fd_passing.send(self.context.pair[0], b"c", self.waiting[0][0].fileno()):
            self.waiting.popleft()[0].close()
        self.words[self.base + WAITING] = len(self.waiting)

    def is_idle(self) -> bool:
        """The worker's own thread ends the process, unless its handler hangs."""
        return bool(self.engine.hung) and not self.waiting


def received(end: socket.socket) -> Accepted | None:
    """A connection that a sibling has put into the pair. Raises OSError when no descriptor is free."""
    while (handed := fd_passing.receive(end, 1)) is not None:
        sock = handed[1]
        if sock is not None:
            try:
                return sock, peer_of(sock.getpeername())
            except OSError:
                sock.close()  # its client has reset it on the way
    return None
