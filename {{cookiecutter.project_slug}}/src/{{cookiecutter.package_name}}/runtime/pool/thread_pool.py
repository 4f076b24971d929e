"""A pool of threads in one process. Its threads either wait each for a job of its own (http), or all together at a
source of jobs (stream and line: a job is a connection).

No queue stands between `submit` and an idle thread: the job is put down at the thread, and the thread is woken. Only
when no thread is idle, jobs wait, and for each that waits a thread is started, up to the ceiling. The lock is held for
a few assignments, never while a job or any other user code runs.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

from ..ipc import forks
from ..ipc.crash_throttle import CrashThrottle
from ..log.records import log
from ..process import pool_size
from . import lifecycle
from .worker import Worker

Job = Callable[["PoolThread"], None]

# Seconds after which a thread that waits for the interpreter asks for it, again and again: 10,000 threads with work at
# the same time would spend all processors on asking. So all together ask 50,000 times a second at most.
SWITCH_INTERVAL, SWITCH_INTERVAL_EACH = 0.005, 0.00002
START_RETRY = 1.0  # seconds until the next attempt when the system starts no more threads


class JobSource(Protocol):
    """Where idle threads wait together."""

    def wait(self) -> Job | None:
        """Wait for a job. None: this thread was woken."""

    def wake(self, threads: int = 1) -> None:
        """Let so many threads return from `wait`, now or as soon as they wait."""


class PoolThread(threading.Thread):
    """One thread, with the Worker object that its handlers see."""

    def __init__(self, pool: "ThreadPool", number: int) -> None:
        super().__init__(name=f"worker-{number}", daemon=False)  # as those that handlers start are then too
        self.pool = pool
        self.number = number
        self.worker = Worker(number)
        self.wakeup = threading.Lock()  # released to wake the thread when it is idle
        self.wakeup.acquire()
        self.job: Job | None = None
        self.own: deque[Job] = deque()  # for this thread alone, after `job`
        self.runs = False  # whatever `start` raised: it can fail after the system has made the thread
        self.working = 0.0  # when the job that it runs began; 0 = none, -1 = it leads the loop
        self.born = time.monotonic()
        self.is_able = False  # it has come through worker_init()
        self.has_left = False  # worker_exit() has run
        self.counts = False  # it is one of the pool's `counted`

    @property
    def is_home(self) -> bool:
        """Response bodies that it has made are still being sent."""
        return self.worker._bodies_begun != self.worker._bodies_ended

    def run(self) -> None:
        self.pool.live(self)


class ThreadPool:
    """Grows and shrinks between `floor` idle and `ceiling` in all by the same policy as processes do.

    `on_begin` is called in each thread, and what it returns when that ends; `on_first` is called when the first
    thread has come through worker_init(), `on_hopeless` when none does; `on_tick` by `tick`; `on_shortage` when a
    thread took a job from the source and `resize` should be called by one that is free.
    """

    def __init__(self, handlers: ModuleType, floor: int, ceiling: int, throttle: CrashThrottle) -> None:
        self.handlers = handlers
        self.floor = floor
        self.ceiling = ceiling
        self.throttle = throttle
        self.lock = threading.Lock()
        self.all: dict[int, PoolThread] = {}
        self.idle: dict[PoolThread, None] = {}  # in the order in which they became idle
        self.source: JobSource | None = None
        self.retiring = 0  # so many of those that wait at the source are to end
        self.waiting: deque[Job] = deque()
        self.starting = 0
        self.counted = 0  # threads that run jobs, or were started for one; the ceiling holds for them
        self.count = 0
        self.not_before = 0.0  # no thread is started earlier
        self.history: list[int] = []
        self.resizing = self.resize_again = False  # threads are being started; there may be more to do
        self.draining = False  # threads end as soon as no job waits; one that comes later has one started for it
        self.stopping = False
        self.empty = threading.Event()  # set when the last thread has ended after `stop`
        self.on_begin: Callable[[], Callable[[], None]] = lambda: lambda: None
        self.on_first: Callable[[], None] = lambda: None
        self.on_hopeless: Callable[[], None] = lambda: None
        self.on_tick: Callable[[], None] = lambda: None
        self.on_shortage: Callable[[], None] = lambda: None
        self.has_worked = False  # a thread has come through worker_init()

    # ---- what a thread does --------------------------------------------------------------------------------------

    def live(self, thread: PoolThread) -> None:
        """A thread's life: worker_init, jobs, worker_exit."""
        with self.lock:
            thread.runs = self.all.get(thread.number) is thread
        if not thread.runs:
            return  # `forget` was faster
        at_end = self.on_begin()
        good = self.enter(thread)
        while good and (job := self.next_job(thread)) is not None:
            thread.working = time.monotonic()
            try:
                job(thread)
            except BaseException:
                forks.returned()
                log.critical("a job of the pool failed", exc_info=True)
                thread.worker.failure = "a job of the pool failed"
            forks.returned()
            thread.working = 0.0
            del job  # what it holds, such as a connection, is not to outlive it
            if thread.worker.failure:
                break
        self.leave(thread, good)
        at_end()

    def enter(self, thread: PoolThread) -> bool:
        """Run worker_init(). False when it failed."""
        if not lifecycle.enter(self.handlers, thread.worker):
            return False
        with self.lock:
            thread.is_able = True
            self.count_in(thread)
            self.starting -= 1
            first, self.has_worked = not self.has_worked, True
        if first:
            self.on_first()
        elif self.throttle.fast:
            self.on_tick()  # it may be the first that is able again
        return True

    def next_job(self, thread: PoolThread) -> Job | None:
        """Wait for work. None: the thread is to end."""
        with self.lock:
            given, thread.job = thread.job, None
            if given is not None:  # it was started for this one
                return given
            if thread.own:
                return thread.own.popleft()
            if self.counted > self.ceiling and not thread.is_home:  # one was started for an urgent job
                self.count_out(thread)
                return None
            job = self.waiting.popleft() if self.waiting else None
            if job is None:
                if self.stopping or (self.draining and not thread.is_home):
                    self.count_out(thread)
                    return None
                self.idle[thread] = None
        if job is not None:
            self.resize()  # no thread is idle: more are needed
            return job
        if self.source is not None:
            return self.wait_at_source(thread, self.source)
        thread.wakeup.acquire()
        given, thread.job = thread.job, None
        return given

    def count_in(self, thread: PoolThread) -> None:
        """It can run jobs from now on, or was started for one. The lock is held."""
        self.counted += not thread.counts
        thread.counts = True

    def count_out(self, thread: PoolThread) -> None:
        """It ends: of two that become free at once above the ceiling, one stays. The lock is held."""
        self.counted -= thread.counts
        thread.counts = False

    def wait_at_source(self, thread: PoolThread, source: JobSource) -> Job | None:
        """Wait for a job of the source, or for one that was submitted. None: the thread is to end."""
        while True:
            job = source.wait()
            with self.lock:
                if job is None and self.waiting:
                    job = self.waiting.popleft()
                if job is None and not (self.retiring or self.stopping):
                    continue  # what this thread was woken for, another one has done
                del self.idle[thread]
                is_short = job is not None and len(self.idle) * 2 < self.floor
                self.retiring = 0 if is_short else max(0, self.retiring - (job is None))
                may_grow = len(self.all) < self.ceiling
            if is_short and may_grow:
                self.on_shortage()
            return job

    def leave(self, thread: PoolThread, good: bool) -> None:
        """Run worker_exit(); a thread that failed is replaced."""
        if good:
            self.end_worker(thread)
        delay: float | None = 0.0
        with self.lock:
            del self.all[thread.number]
            self.count_out(thread)
            self.waiting.extend(thread.own)
            if not good:
                self.starting -= 1
                if thread.job is not None:
                    self.waiting.appendleft(thread.job)
            if not good or thread.worker.failure:
                delay = self.throttle.died(time.monotonic() - thread.born, time.monotonic())
                self.not_before = time.monotonic() + (delay or 0.0)
            if not self.all and self.stopping:
                self.empty.set()
        if delay is None or (not self.has_worked and self.throttle.hopeless):
            self.on_hopeless()
        elif delay:
            log.warning("threads fail too fast: the next one starts in %.1f s", delay)
        self.resize()

    def end_worker(self, thread: PoolThread) -> None:
        """Run worker_exit(), once."""
        if not thread.has_left:
            thread.has_left = True
            lifecycle.leave(self.handlers, thread.worker)

    # ---- what any thread may call --------------------------------------------------------------------------------

    def submit_to(self, number: int, job: Job) -> None:
        """Give a job to this thread, for which it waits if it is busy; to any when that thread has ended."""
        with self.lock:
            thread = self.all.get(number)
            if thread is not None:
                if thread in self.idle:
                    del self.idle[thread]
                    thread.job = job
                    thread.wakeup.release()
                else:
                    thread.own.append(job)
                return
        self.submit(job)

    def choose(self, spread: bool) -> PoolThread:
        """Take the thread that became idle last (its caches are warm), rather one that is not at home to the bodies of
        responses; to `spread` these, one with the fewest. The lock is held."""
        thread = next(reversed(self.idle))
        if thread.is_home or spread:
            thread = min(reversed(self.idle), key=lambda one: one.worker._bodies_begun - one.worker._bodies_ended)
        del self.idle[thread]
        return thread

    def submit(self, job: Job, urgent: bool = False, spread: bool = False) -> None:
        """Give a job to an idle thread or to a new one, or let it wait until a thread is idle. An urgent one does not
        wait: there may be one thread above the ceiling for it."""
        with self.lock:
            at_once = urgent and not self.idle and not self.stopping
            if self.idle and self.source is None:
                thread = self.choose(spread)
                thread.job = job
                thread.wakeup.release()
            elif not at_once:
                self.waiting.append(job)
                if self.source is not None:
                    self.source.wake()
            is_short = bool(self.waiting) or len(self.idle) * 2 < self.floor
        if at_once:
            self.start(job)
        elif is_short:
            self.resize()

    def resize(self) -> None:
        """Start or retire threads as the sizing policy says, and start one for each job that waits. One thread at a
        time does this: each start waits for the new thread, and many that do so keep each other from running."""
        with self.lock:
            self.resize_again = True
            if self.resizing:
                return  # the thread that resizes does it once more
            self.resizing = True
        try:
            while self.resize_once():
                continue
        except BaseException:
            self.resizing = False  # or no thread would ever resize again
            raise

    def resize_once(self) -> bool:
        """False when nothing has changed since the last time."""
        with self.lock:
            if not self.resize_again or self.stopping or time.monotonic() < self.not_before:
                self.resizing = False
                return False
            self.resize_again = False
            starting, idle, total = self.starting, len(self.idle) - self.retiring, len(self.all) - self.retiring
            busy = max(0, total - idle - starting)
            floor = 0 if self.draining else self.floor
            change = pool_size.change(idle, busy, starting, floor, self.ceiling, self.history)
            if self.waiting:
                change = max(change, min(len(self.waiting) - idle - starting, self.ceiling - total))
            if change < 0:
                self.history.clear()
                self.retire(min(-change, idle))
            if self.throttle.hopeless and not self.able:
                change = min(change, max(0, 1 - starting))  # one attempt at a time, until one works
            sys.setswitchinterval(max(SWITCH_INTERVAL, (total + max(0, change)) * SWITCH_INTERVAL_EACH))
        for _ in range(change):
            if not self.start():
                break
        return True

    @property
    def able(self) -> int:
        """How many threads can run any handler: those that have come through worker_init(), without the leader."""
        return sum(one.is_able and one.working >= 0 for one in list(self.all.values()))

    @property
    def is_vacant(self) -> bool:
        """Whether all threads that had come through worker_init(), the leader too, have ended."""
        return self.has_worked and not any(one.is_able for one in list(self.all.values()))

    def withdraw(self, job: Job) -> bool:
        """Take a job back that waits; False when it does not."""
        with self.lock:
            if job not in self.waiting:
                return False
            self.waiting.remove(job)
            return True

    def retire(self, number: int) -> None:
        """Let so many idle threads end. The lock is held."""
        if self.source is not None:
            self.retiring += number
            self.source.wake(number)
            return
        for thread in [one for one in self.idle if self.stopping or not one.is_home][:number]:
            del self.idle[thread]
            thread.wakeup.release()  # without a job: it ends

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
                if job is not None:
                    self.count_in(thread)
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self.forget(thread, job)
            log.error("cannot start a thread: %s; trying again in a second", str(error) or type(error).__name__)
            return False
        return True

    def forget(self, thread: PoolThread | None, job: Job | None) -> None:
        """This thread could not be started, or not even be made."""
        with self.lock:
            self.not_before = time.monotonic() + START_RETRY
            if thread is not None and thread.runs:
                return  # it could after all, and has its job
            if thread is not None and self.all.pop(thread.number, None) is not None:
                self.count_out(thread)
                self.starting -= 1
            if job is not None:
                self.waiting.appendleft(job)

    def tick(self) -> None:
        """Once a second: remember how many are idle, and shrink what is too much."""
        self.on_tick()
        with self.lock:
            self.history = [*self.history[1 - pool_size.CALM :], len(self.idle) - self.retiring]
        self.resize()
        self.on_tick()  # shows what that has changed

    def drain(self) -> None:
        """Let idle threads end now, and the others after their jobs."""
        with self.lock:
            self.draining = True
            self.retire(len(self.idle) - self.retiring)

    def stop(self, timeout: float | None) -> bool:
        """Let all threads end after their jobs; True when they have."""
        with self.lock:
            self.stopping = True
            self.retire(len(self.idle) - self.retiring)
            if not self.all:
                self.empty.set()
        return self.empty.wait(timeout)
