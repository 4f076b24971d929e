"""The threaded pool: worker threads that share memory, in one host process or a few (--processes)."""

import os
import threading
from functools import partial

from ..config.errors import OK, SOFTWARE
from ..config.settings import Config
from ..ipc import libc, scoreboard, signals
from ..ipc.crash_throttle import LONGEST_MEMBER_DELAY, CrashThrottle
from ..log.records import log
from ..process.member import Context
from . import lifecycle
from .thread_pool import ThreadPool

MEMORY = 256 * 1024  # bytes that a thread needs at least, of its stack and elsewhere
LEAVE = 5.0  # seconds for threads that run no handler
CRASH_STACK = 65536  # bytes: faulthandler can write no traceback on a stack that is full
# glibc makes an arena per thread up to 8 per processor; they fragment, and each reserves 64 MiB of address space.
MALLOPT_ARENA_MAX = -8


def bounds(config: Config) -> tuple[int, int]:
    """Fewest and most host processes: their number is fixed, the threads in them grow and shrink."""
    return hosts(config), hosts(config)


def hosts(config: Config) -> int:
    """How many host processes there are: each has one thread at least, and -m is the total."""
    return min(config.processes, config.max)


def part(total: int, number: int, share: int) -> int:
    """What host `share` of so many has of a total: one more where it does not divide evenly."""
    return total // number + (share % number < total % number)


def slots(config: Config) -> int:
    """Slots of the scoreboard: one per host, and one each for a successor."""
    return 2 * hosts(config) + 2


def floor(config: Config, wanted: int) -> int:
    """Host processes, however many threads are wanted."""
    return hosts(config)


def rows(config: Config) -> int:
    """Threads of a host that the scoreboard shows one by one: all, up to 256."""
    return min(256, config.max + 2)


def prepare() -> None:
    """Called in the server before any thread runs and while every file can be read: one malloc arena, so that with ten
    thousand threads the virtual size stays that of their stacks. glibc only; children inherit it."""
    libc.call("mallopt", MALLOPT_ARENA_MAX, 1)  # others than glibc have no such arenas


def run(context: Context, slot: int) -> int:
    """A host's life, from the fork to its exit status. Its main thread is the monitor; user code runs in the others."""
    config = context.config
    wakeup = lifecycle.set_up(context, slot, "host")
    threading.stack_size(context.stack_size)
    number, share = hosts(config), context.share
    ceiling = part(config.max, number, share)
    floor = min(ceiling, max(1, part(config.idle, number, share)))
    throttle = CrashThrottle(config.fast_time, config.fast_max, config.restart_max, LONGEST_MEMBER_DELAY)
    threads = ThreadPool(context.handlers, floor, ceiling, throttle)

    def hopeless() -> None:
        log.critical("no thread can work: this host ends")
        os._exit(SOFTWARE)

    failed = False  # no thread could run a handler, when it was published last

    def exchange() -> None:
        """Publish the threads on the scoreboard, and read from it how many are to be idle."""
        workers = [one for one in list(threads.all.values()) if one.working >= 0]
        rows = [(one.native_id or 0, int(one.working * 1000)) for one in workers]
        # Without a failure, the first threads are on their way.
        failing = not threads.able and (throttle.fast > 0 or threads.is_vacant)
        context.board.words[context.board.base(slot) + scoreboard.NO_THREADS] = failing
        nonlocal failed
        failed, before = failing, failed
        if before and not failing:
            context.wake_server()  # clients need not be refused any more
        context.board.show_threads(slot, rows, sum(since > 0 for _, since in rows), len(threads.waiting))
        threads.floor = min(ceiling, max(1, part(context.board.words[scoreboard.FLOOR], number, share)))

    threads.on_begin, threads.on_tick = partial(signals.use_stack, CRASH_STACK), exchange
    threads.on_hopeless = hopeless
    good = context.service.engine.work(context, slot, threads, wakeup)
    if not threads.stop(LEAVE):
        context.ends_at, context.limit = 0.0, "worker_init() or worker_exit() does not return"
    return OK if good else SOFTWARE
