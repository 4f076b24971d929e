"""A pool of threads in one process: idle ones wait each at a gate of its own, and jobs go straight to one of them. Or
all wait at one door (see `door`), through which connections come as jobs, too.

No queue stands between the loop and a thread: a job is put down and a gate opened. Only when no thread is idle, jobs
wait, and each that waits has a thread started for it up to the ceiling. The lock is held for a few assignments, never
while a job or any other user code runs.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

from ..ipc.crash_throttle import CrashThrottle
from ..log.records import log
from ..process import pool_size
from . import lifecycle
from .worker import Worker

Job = Callable[["PoolThread"], None]

# Seconds after which a thread that waits for the interpreter asks for it, again and again: 10,000 threads with work at
# the same time would spend all processors on asking. So all together ask 50,000 times a second at most.
SWITCH, SWITCH_EACH = 0.005, 0.00002
RETRY = 1.0  # seconds until the next attempt when the system starts no more threads


class SharedEpoll(Protocol):
    """Where idle threads wait together: for what comes in there, and for the bell."""

    def wait(self) -> Job | None: ...
    def ring(self, times: int = 1) -> None: ...


class PoolThread(threading.Thread):
    """One thread, with the Worker object that its handlers see."""

    def __init__(self, pool: "ThreadPool", number: int) -> None:
        super().__init__(name=f"worker-{number}", daemon=True)
        self.pool = pool
        self.number = number
        self.worker = Worker(number)
        self.gate = threading.Lock()
        self.gate.acquire()
        self.job: Job | None = None
        self.begun = False  # it runs, whatever `start` said: that can fail after the system has made the thread
        self.since = 0.0  # when the handler that it runs as the loop's thread began; 0 = none
        self.working = 0.0  # when the job that it runs began; 0 = none, -1 = it leads the loop
        self.born = time.monotonic()

    def run(self) -> None:
        self.pool.live(self)


class ThreadPool:
    """Grows and shrinks between `floor` idle and `ceiling` in all by the same policy as processes do.

    `on_first` is called when the first thread has come through worker_init(), `on_hopeless` when none does; `on_tick`
    once a second, `on_short` when a job came through the door and `resize` should be called by who has time for it.
    """

    def __init__(self, handlers: ModuleType, floor: int, ceiling: int, throttle: CrashThrottle) -> None:
        self.handlers = handlers
        self.floor = floor
        self.ceiling = ceiling
        self.throttle = throttle
        self.lock = threading.Lock()
        self.all: dict[int, PoolThread] = {}
        self.idle: dict[PoolThread, None] = {}  # in the order in which they became idle
        self.door: SharedEpoll | None = None
        self.leaving = 0  # of those that wait at the door, so many are to leave
        self.waiting: deque[Job] = deque()
        self.starting = 0
        self.count = 0
        self.not_before = 0.0
        self.history: list[int] = []
        self.resizing = self.unsettled = False  # threads are being started; there may be more to do
        self.stopping = False
        self.empty = threading.Event()  # set when the last thread has gone
        self.on_first: Callable[[], None] = lambda: None
        self.on_hopeless: Callable[[], None] = lambda: None
        self.on_tick: Callable[[], None] = lambda: None
        self.on_short: Callable[[], None] = lambda: None
        self.ever = False  # some thread has come through worker_init()

    # ---- what a thread does ------------------------------------------------------------------------------------

    def live(self, thread: PoolThread) -> None:
        """A thread's life: worker_init, jobs, worker_exit."""
        with self.lock:
            thread.begun = self.all.get(thread.number) is thread
        if not thread.begun:
            return  # forgotten
        good = self.enter(thread)
        while good:
            job = self.next_job(thread)
            if job is None:
                break
            thread.working = time.monotonic()
            try:
                job(thread)
            except BaseException:
                log.critical("a job of the pool failed", exc_info=True)
                thread.worker.failure = "a job of the pool failed"
            thread.working = 0.0
            del job  # what it holds, such as a connection, is not to outlive it
            if thread.worker.failure:
                break
        self.leave(thread, good)

    def enter(self, thread: PoolThread) -> bool:
        if not lifecycle.enter(self.handlers, thread.worker):
            return False
        with self.lock:
            self.starting -= 1
            first, self.ever = not self.ever, True
        if first:
            self.on_first()
        return True

    def next_job(self, thread: PoolThread) -> Job | None:
        """Wait for work. None: the thread is to leave."""
        with self.lock:
            if thread.job is not None:  # it was started for this one
                job, thread.job = thread.job, None
                return job
            if len(self.all) - self.starting > self.ceiling:  # started for an urgent job
                return None
            waited = self.waiting.popleft() if self.waiting else None
            if waited is None:
                if self.stopping:
                    return None
                self.idle[thread] = None
        if waited is not None:
            self.resize()  # no thread is idle: more are needed
            return waited
        if self.door is not None:
            return self.at_door(thread, self.door)
        thread.gate.acquire()
        given, thread.job = thread.job, None
        return given

    def at_door(self, thread: PoolThread, door: SharedEpoll) -> Job | None:
        """Wait for a connection, or for a job of those that wait. None: the thread is to leave."""
        while True:
            job = door.wait()
            with self.lock:
                if job is None and self.waiting:
                    job = self.waiting.popleft()
                if job is None and not (self.leaving or self.stopping):
                    continue  # the bell rang for somebody who is busy now
                del self.idle[thread]
                short = job is not None and len(self.idle) * 2 < self.floor
                self.leaving = 0 if short else max(0, self.leaving - (job is None))
                short = short and len(self.all) < self.ceiling
            if short:
                self.on_short()
            return job

    def leave(self, thread: PoolThread, good: bool) -> None:
        if good:
            lifecycle.leave(self.handlers, thread.worker)
        delay: float | None = 0.0
        with self.lock:
            del self.all[thread.number]
            if not good:
                self.starting -= 1
                if thread.job is not None:
                    self.waiting.appendleft(thread.job)
            if not good or thread.worker.failure:
                delay = self.throttle.died(time.monotonic() - thread.born)
                self.not_before = time.monotonic() + (delay or 0.0)
            if not self.all and self.stopping:
                self.empty.set()
        if delay is None or (not self.ever and self.throttle.hopeless):
            self.on_hopeless()
        elif delay:
            log.warning("threads fail too fast: the next one starts in %.1f s", delay)
        self.resize()

    # ---- what the loop does ------------------------------------------------------------------------------------

    def submit(self, job: Job, urgent: bool = False) -> None:
        """Give a job to an idle thread, to a new one, or let it wait until one is free. An urgent one does not wait:
        there may be one thread above the ceiling for it."""
        with self.lock:
            at_once = urgent and not self.idle and not self.stopping
            if self.idle and self.door is None:
                thread, _ = self.idle.popitem()
                thread.job = job
                thread.gate.release()
            elif not at_once:
                self.waiting.append(job)
                if self.door is not None:
                    self.door.ring()
            short = bool(self.waiting) or len(self.idle) * 2 < self.floor
        if at_once:
            self.start(job)
        elif short:
            self.resize()

    def resize(self) -> None:
        """Start or retire threads as the sizing policy says, and start one for each job that waits. One thread at a
        time does this: each start waits for the new thread, and many that do so keep each other from running."""
        with self.lock:
            self.unsettled = True
            if self.resizing:
                return  # whoever is at it looks once more
            self.resizing = True
        try:
            while self.settle():
                continue
        except BaseException:
            self.resizing = False  # or nobody would ever do it again
            raise

    def settle(self) -> bool:
        """One step of it. False when nothing has changed since the last one."""
        with self.lock:
            if not self.unsettled or self.stopping or time.monotonic() < self.not_before:
                self.resizing = False
                return False
            self.unsettled = False
            starting, idle, total = self.starting, len(self.idle) - self.leaving, len(self.all) - self.leaving
            busy = max(0, total - idle - starting)
            change = pool_size.change(idle, busy, starting, self.floor, self.ceiling, self.history)
            if self.waiting:
                change = max(change, min(len(self.waiting) - idle - starting, self.ceiling - total))
            if change < 0:
                self.history.clear()
                self.dismiss(min(-change, idle))
            sys.setswitchinterval(max(SWITCH, (total + max(0, change)) * SWITCH_EACH))
        for _ in range(change):
            if not self.start():
                break
        return True

    def dismiss(self, number: int) -> None:
        """Let so many idle threads leave. The lock is held."""
        if self.door is not None:
            self.leaving += number
            self.door.ring(number)
            return
        for thread in list(self.idle)[:number]:
            del self.idle[thread]
            thread.gate.release()  # without a job: it leaves

    def start(self, job: Job | None = None) -> bool:
        """Start one more thread, for this job if there is one. False at the system's or the container's limit of
        threads or memory: then the job waits for another thread."""
        thread = None
        try:
            with self.lock:
                thread = PoolThread(self, self.count + 1)
                thread.job = job
                self.count += 1
                self.all[thread.number] = thread
                self.starting += 1
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self.forget(thread, job)
            log.error("cannot start a thread: %s; trying again in a second", str(error) or type(error).__name__)
            return False
        return True

    def forget(self, thread: PoolThread | None, job: Job | None) -> None:
        """This thread could not be started, or not even be made."""
        with self.lock:
            self.not_before = time.monotonic() + RETRY
            if thread is not None and thread.begun:
                return  # it could after all, and has its job
            if thread is not None and self.all.pop(thread.number, None) is not None:
                self.starting -= 1
            if job is not None:
                self.waiting.appendleft(job)

    def tick(self) -> None:
        """Once a second: remember how many are idle, and shrink what is too much."""
        self.on_tick()
        with self.lock:
            self.history = [*self.history[1 - pool_size.CALM :], len(self.idle) - self.leaving]
        self.resize()
        self.on_tick()  # shows what that has changed

    def stop(self, timeout: float | None) -> bool:
        """Let all threads leave after their jobs; True when they have."""
        with self.lock:
            self.stopping = True
            self.dismiss(len(self.idle) - self.leaving)
            if not self.all:
                self.empty.set()
        return self.empty.wait(timeout)
