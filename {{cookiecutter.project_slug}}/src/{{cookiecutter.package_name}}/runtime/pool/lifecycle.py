"""What both pools do around the work of a member: set the process up, run the user's worker_init and worker_exit."""

import faulthandler
import os
from types import ModuleType

from ..ipc import forks, scoreboard, signals
from ..log import records
from ..log.records import log
from ..process.handlers_module import attempt
from ..process.member import Context
from ..system.background import disown
from .worker import Worker, WorkerFailed


def set_up(context: Context, slot: int, role: str) -> signals.SignalPipe:
    """Make the forked process a member with this slot of the scoreboard; returns the pipe of its signals."""
    board = context.board
    board.own = board.base(slot)
    board.words[board.own + scoreboard.PID] = os.getpid()
    wakeup = signals.SignalPipe(signals.MEMBER)
    records.take_role(role)
    records.channel.count_in(board.words, board.own + scoreboard.DROPPED)
    faulthandler.enable()
    disown()
    forks.begin()
    sockets = (*context.pair, *(one.socket for one in context.listeners))
    pipes = (wakeup.reader, wakeup.writer, context.parent, context.waker.writer)
    forks.withhold(lambda: [*pipes, *(one.fileno() for one in sockets)])
    return wakeup


def enter(handlers: ModuleType, worker: Worker) -> bool:
    """Run worker_init() in the thread of this worker. False, with a line in the log, when it fails."""
    records.this_thread.worker = worker
    function = getattr(handlers, "worker_init", None)
    try:
        if function is not None:
            function(worker)
            forks.returned()
        return True
    except WorkerFailed as failure:
        log.error("worker_init() gave up: %s", failure)
    except BaseException as error:
        log.exception("worker_init() failed")
        forks.returned(error)
    return False


def leave(handlers: ModuleType, worker: Worker) -> None:
    """Run worker_exit(). A failure is a line in the log, and no more: the worker ends in any case."""
    attempt(getattr(handlers, "worker_exit", None), "worker_exit()", worker)
