"""The pool of threads: no job is lost, none waits while a thread is idle, and the pool follows the load."""

import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from {{ cookiecutter.package_name }}.runtime.ipc.crash_throttle import CrashThrottle
from {{ cookiecutter.package_name }}.runtime.pool.thread_pool import PoolThread, ThreadPool

DEADLINE = 10.0


class Handlers(ModuleType):
    """What a user's module has of interest here."""

    def __init__(self) -> None:
        super().__init__("handlers")
        self.entered: list[int] = []
        self.left: list[int] = []
        self.refusals = 0

    def worker_init(self, worker: object) -> None:
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("no database")
        self.entered.append(worker.number)  # type: ignore[attr-defined]

    def worker_exit(self, worker: object) -> None:
        self.left.append(worker.number)  # type: ignore[attr-defined]


Make = Callable[[int, int], ThreadPool]


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def make(handlers: Handlers) -> Iterator[Make]:
    pools = []

    def make(floor: int, ceiling: int) -> ThreadPool:
        pools.append(ThreadPool(handlers, floor, ceiling, CrashThrottle(5.0, 5, 0)))
        return pools[-1]

    yield make
    for pool in pools:
        assert pool.stop(DEADLINE)
        assert not pool.all


class Jobs:
    """Jobs that run until the test releases them."""

    def __init__(self) -> None:
        self.running = threading.Semaphore(0)
        self.release = threading.Event()
        self.done = threading.Semaphore(0)

    def __call__(self, thread: PoolThread) -> None:
        self.running.release()
        assert self.release.wait(DEADLINE)
        self.done.release()

    def wait_running(self, count: int) -> None:
        for _ in range(count):
            assert self.running.acquire(timeout=DEADLINE)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_each_job_has_a_thread_up_to_the_ceiling(make: Make) -> None:
    pool, jobs = make(2, 6), Jobs()
    for _ in range(8):
        pool.submit(jobs)
    jobs.wait_running(6)
    assert not jobs.running.acquire(blocking=False)
    assert len(pool.all) == 6
    jobs.release.set()
    jobs.wait_running(2)


def test_urgent_job_does_not_wait(make: Make) -> None:
    pool, jobs = make(1, 1), Jobs()
    pool.submit(jobs)
    jobs.wait_running(1)
    pool.submit(jobs, urgent=True)
    jobs.wait_running(1)
    jobs.release.set()
    for _ in range(2):
        assert jobs.done.acquire(timeout=DEADLINE)
    probe = Jobs()
    probe.release.set()
    pool.submit(probe)
    assert probe.done.acquire(timeout=DEADLINE)


def test_an_urgent_job_and_growth_start_no_thread_too_many(make: Make, handlers: Handlers) -> None:
    """Both threads are on their way: the one that was started to be idle ends, although the urgent one is not there."""
    pool, jobs, gates = make(1, 2), Jobs(), {number: threading.Event() for number in (1, 2, 3)}
    enter = handlers.worker_init

    def enter_at_gate(worker: object) -> None:
        assert gates[worker.number].wait(DEADLINE)  # type: ignore[attr-defined]
        enter(worker)

    handlers.worker_init = enter_at_gate  # type: ignore[method-assign]
    pool.submit(jobs)
    gates[1].set()
    jobs.wait_running(1)  # thread 2 has been started to be idle
    wait_until(lambda: len(pool.all) == 2)
    pool.submit(jobs, urgent=True)
    pool.submit(jobs)
    gates[2].set()
    wait_until(lambda: handlers.left == [2] or jobs.running.acquire(blocking=False))
    assert handlers.left == [2], "three jobs run at once"
    gates[3].set()
    jobs.wait_running(1)
    assert not jobs.running.acquire(blocking=False)
    assert pool.counted == 2
    jobs.release.set()
    jobs.wait_running(1)


def test_shrinks_after_calm(make: Make) -> None:
    pool, jobs = make(1, 8), Jobs()
    for _ in range(8):
        pool.submit(jobs)
    jobs.wait_running(8)
    jobs.release.set()
    wait_until(lambda: len(pool.idle) == 8)
    for _ in range(60):
        pool.tick()
    assert len(pool.idle) == 1
    wait_until(lambda: len(pool.all) == 1)


def test_every_thread_enters_and_leaves(make: Make, handlers: Handlers) -> None:
    pool, jobs = make(3, 3), Jobs()
    jobs.release.set()
    for _ in range(30):
        pool.submit(jobs)
    jobs.wait_running(30)
    assert pool.stop(DEADLINE)
    assert sorted(handlers.left) == sorted(handlers.entered)
    assert len(handlers.entered) == 3


def test_a_drain_ends_idle_threads_and_serves_late_jobs(make: Make, handlers: Handlers) -> None:
    pool, jobs = make(3, 3), Jobs()
    pool.resize()
    pool.submit(jobs)
    jobs.wait_running(1)
    wait_until(lambda: len(pool.idle) == 2)
    pool.drain()
    wait_until(lambda: len(handlers.left) == 2)
    pool.tick()
    assert len(pool.all) == 1, "it does not grow again"
    pool.submit(jobs)
    jobs.wait_running(1)
    jobs.release.set()
    wait_until(lambda: not pool.all)
    assert sorted(handlers.left) == sorted(handlers.entered)


def test_thread_that_fails_is_replaced(make: Make) -> None:
    pool, jobs = make(1, 1), Jobs()
    jobs.release.set()

    def fail(thread: PoolThread) -> None:
        thread.worker.failure = "on purpose"

    pool.submit(fail)
    pool.submit(jobs)
    jobs.wait_running(1)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_job_that_fails_does_not_cost_a_thread(make: Make, error: type[BaseException]) -> None:
    pool, jobs = make(1, 1), Jobs()
    jobs.release.set()

    def fail(thread: PoolThread) -> None:
        raise error("on purpose")

    pool.submit(fail)
    pool.submit(jobs)
    jobs.wait_running(1)


def test_worker_init_may_fail_now_and_then(make: Make, handlers: Handlers) -> None:
    handlers.refusals = 2
    pool, jobs, first = make(1, 1), Jobs(), threading.Event()
    pool.on_first = first.set
    jobs.release.set()
    pool.submit(jobs)
    jobs.wait_running(1)
    assert first.is_set()
    assert len(handlers.entered) == 1


def test_worker_init_that_always_fails_is_hopeless(make: Make, handlers: Handlers) -> None:
    handlers.refusals = 10**6
    pool, hopeless = make(1, 1), threading.Event()

    def give_up() -> None:
        hopeless.set()
        pool.stopping = True

    pool.on_hopeless = give_up
    pool.resize()
    assert hopeless.wait(DEADLINE)


@pytest.mark.parametrize("late", [False, True], ids=["before it runs", "while it runs"])
@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()], ids=repr)
def test_system_limit(make: Make, monkeypatch: pytest.MonkeyPatch, error: Exception, late: bool) -> None:
    """Where no more threads can be started, jobs wait for those that are there; and later more are started again.
    What `Thread.start` raises may come when the thread runs already."""
    pool, jobs = make(1, 4), Jobs()
    pool.submit(jobs)
    jobs.wait_running(1)
    with monkeypatch.context() as patch:
        real, attempts = threading.Thread.start, []

        def refuse(thread: threading.Thread) -> None:
            if late:
                real(thread)
            attempts.append(thread)
            raise error

        patch.setattr(threading.Thread, "start", refuse)
        pool.submit(jobs)
        pool.submit(jobs, urgent=True)
        assert attempts
    pool.not_before = 0.0  # a second later
    pool.submit(jobs)
    jobs.wait_running(3)
    jobs.release.set()
    for _ in range(4):
        assert jobs.done.acquire(timeout=DEADLINE)
    wait_until(lambda: pool.starting == 0 and not pool.resizing)


def test_thread_that_runs_after_its_start_failed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was made, but did not run yet when the start failed: its job is another's, and it does nothing."""
    pool, jobs = make(1, 4), Jobs()
    jobs.release.set()
    late: list[threading.Thread] = []
    with monkeypatch.context() as patch:

        def refuse(thread: threading.Thread) -> None:
            late.append(thread)
            raise MemoryError

        patch.setattr(threading.Thread, "start", refuse)
        pool.submit(jobs, urgent=True)
    (thread,) = late
    thread.start()
    thread.join(DEADLINE)
    pool.not_before = 0.0
    pool.resize()
    assert jobs.done.acquire(timeout=DEADLINE)
    assert jobs.running.acquire(blocking=False)
    assert not jobs.running.acquire(blocking=False)  # it ran once
    assert thread not in pool.all.values()


def test_many_submitters_lose_nothing(make: Make) -> None:
    """Threads are started, retired and fail, and jobs wait, all at once."""
    pool, counted, lock = make(2, 8), [0], threading.Lock()
    finished = threading.Event()

    def job(thread: PoolThread) -> None:
        with lock:
            counted[0] += 1
            if counted[0] == 4000:
                finished.set()
            thread.worker.failure = "now and then" if counted[0] % 500 == 0 else ""

    def submit() -> None:
        for number in range(1000):
            pool.submit(job, urgent=number % 100 == 0)
            if number % 50 == 0:
                pool.tick()

    pool.throttle = CrashThrottle(0.0, 10**6, 0)
    submitters = [threading.Thread(target=submit) for _ in range(4)]
    for one in submitters:
        one.start()
    for one in submitters:
        one.join(DEADLINE)
    assert finished.wait(DEADLINE)
    assert counted[0] == 4000


def test_threads_that_fail_together_are_one_crash_in_the_row() -> None:
    throttle = CrashThrottle(1.0, 2, 0, 1.6)
    assert [throttle.died(0.5, 100.0 + n / 100) for n in range(5)] == [0.0] * 5
    assert [throttle.died(0.1, 101.0 + n / 100) for n in range(5)] == [0.1] * 5  # born after those had died
    assert throttle.crashes == 10
    assert [throttle.died(0.1, 102.0 + n) for n in range(6)] == [0.2, 0.4, 0.8, 1.6, 1.6, 1.6]
