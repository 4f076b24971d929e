"""The prefork pool: worker processes that handle one request at a time, each with a monitor thread."""

from ..config.errors import OK, SOFTWARE
from ..config.settings import Config
from ..process.member import Context
from . import lifecycle
from .worker import Worker

MEMORY = 4 * 2**20  # bytes that a fresh worker has of its own, rounded up


def bounds(config: Config) -> tuple[int, int]:
    """Fewest idle and most processes."""
    return config.idle, config.max


def slots(config: Config) -> int:
    """Slots of the scoreboard: one per worker, and a few for workers that drain while their successors start."""
    return config.max + max(2, config.max // 8)


def floor(config: Config, wanted: int) -> int:
    """Idle processes to keep when so many idle workers are wanted."""
    return wanted


def rows(config: Config) -> int:
    """Threads of a slot that the scoreboard shows one by one: none, a worker has one for user code."""
    return 0


def prepare() -> None:
    """Called in the server before the handlers are imported. Does nothing: a worker has two threads."""


def run(context: Context, slot: int) -> int:
    """A worker's life, from the fork to its exit status."""
    wakeup = lifecycle.set_up(context, slot, "worker")
    worker = Worker(slot)
    if not lifecycle.enter(context.handlers, worker):
        return SOFTWARE
    good = context.service.engine.work(context, slot, worker, wakeup)
    lifecycle.leave(context.handlers, worker)
    return OK if good else SOFTWARE
