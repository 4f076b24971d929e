"""Runs user code in the threads of a host process. Idle threads accept; the main thread is the monitor."""

import os
from functools import partial

from ..config.errors import TIMED_OUT
from ..ipc.scoreboard import IDLE
from ..log.records import log
from ..pool.thread_pool import Job, PoolThread, ThreadPool
from ..system.listeners import Listener
from .accept_queue import Accepted
from .engine import DRAINED, Engine
from .shared_poller_threaded import SharedPoller

TICK = 1.0  # seconds between two looks at the size of the pool
PARTING = 1.0  # seconds for worker_exit() beside threads that hang


class Runner:
    """A host: its threads wait for connections together, each serves one."""

    def __init__(self, engine: Engine, pool: ThreadPool) -> None:
        self.engine = engine
        self.pool = pool
        self.next_tick = 0.0
        self.is_paused = False  # the listeners are not armed: descriptors or memory had run out
        self.source = SharedPoller(self.accept, engine.lock)
        pool.source = self.source
        pool.on_first = self.on_first
        pool.on_shortage = engine.waker.wake

    def run(self) -> bool:
        self.source.add(self.engine.context.listeners)
        while self.engine.life is not DRAINED:
            self.engine.turn()
        if self.engine.hung:
            log.error("%d handlers never returned: the host ends without them", len(self.engine.hung))
            self.pool.stop(PARTING)
            os._exit(TIMED_OUT)
        return True

    def on_first(self) -> None:
        """A thread can work: so can this host."""
        self.engine.show(IDLE)
        self.engine.context.wake_server()

    def accept(self, listener: Listener) -> Job | None:
        """In an idle thread, with the engine's lock: accept the connection for which it was woken."""
        accepted = self.engine.queue.accept(listener)
        if self.engine.queue.paused_until:
            self.is_paused = True
            self.engine.waker.wake()
        else:
            self.source.arm(listener)
        return self.job(accepted) if accepted is not None else None

    def job(self, accepted: Accepted) -> Job:
        self.engine.hold()
        return partial(self.serve, accepted)

    def serve(self, accepted: Accepted, thread: PoolThread) -> None:
        self.engine.serve(accepted, thread.worker)

    def attend(self, now: float) -> float:
        if not self.engine.queue.is_open:
            self.pool.drain()
        if now >= self.next_tick:
            self.next_tick = now + TICK
            self.pool.tick()
        else:
            self.pool.resize()
        pause = self.engine.queue.paused_until - now if self.is_paused else 0.0
        if self.is_paused and pause <= 0:
            self.is_paused = False
            self.source.arm_all()
        throttle = max(0.01, self.pool.not_before - now) if self.pool.not_before > now else TICK
        return min(self.next_tick - now, throttle, pause if self.is_paused else TICK)

    def submit(self, accepted: Accepted) -> None:
        self.pool.submit(self.job(accepted))

    def stop_accepting(self) -> None:
        self.source.close()

    def is_idle(self) -> bool:
        return True
