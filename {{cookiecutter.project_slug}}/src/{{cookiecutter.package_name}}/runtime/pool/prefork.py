"""The prefork pool: worker processes that handle one request at a time, each with a sentry thread."""

import faulthandler
import os
import signal

from ..config.errors import OK, SOFTWARE
from ..config.settings import Config
from ..ipc import scoreboard, signals
from ..log import records
from ..log.records import log
from ..process.member import Context
from .worker import Worker, WorkerFailed

NAME = "prefork"
MEMORY = 4 * 2**20  # bytes that a fresh worker has of its own, rounded up


def bounds(config: Config) -> tuple[int, int]:
    """Fewest idle and most processes."""
    return config.idle, config.max


def slots(config: Config) -> int:
    """Slots of the scoreboard: one per worker, and a few for those that leave while their successors start."""
    return config.max + max(2, config.max // 8)


def floor(config: Config, wanted: int) -> int:
    """Idle processes to keep when so many idle workers are wanted."""
    return wanted


def rows(config: Config) -> int:
    """ThreadPool of a slot that the scoreboard shows one by one: none, a worker has one."""
    return 0


def prepare() -> None:
    """In the server, before the handlers are imported: nothing, a worker has two threads."""


def run(context: Context, slot: int) -> int:
    """A worker's life, from the fork to its exit status."""
    words, base = context.board.words, context.board.base(slot)
    context.board.own = base
    words[base + scoreboard.PID] = os.getpid()
    wakeup = signals.SignalPipe(signals.MEMBER)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    records.setup("worker", context.config)
    records.channel.count_in(words, base + scoreboard.DROPPED)
    faulthandler.enable()
    worker = Worker(slot)
    try:
        function = getattr(context.handlers, "worker_init", None)
        if function is not None:
            function(worker)
    except WorkerFailed as failure:
        log.error("worker_init() gave up: %s", failure)
        return SOFTWARE
    except Exception:
        log.exception("worker_init() failed")
        return SOFTWARE
    good = context.service.engine.work(context, slot, worker, wakeup)
    function = getattr(context.handlers, "worker_exit", None)
    if function is not None:
        try:
            function(worker)
        except Exception:
            log.exception("worker_exit() failed")
    return OK if good else SOFTWARE
