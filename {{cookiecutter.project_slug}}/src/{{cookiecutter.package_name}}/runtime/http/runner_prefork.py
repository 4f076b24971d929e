"""Runs user code of http in a worker process: all of it in the thread that leads the loop."""

import threading
from typing import Any

from ..ipc import forks, scoreboard
from ..loop.leadership import Leader
from ..loop.stand_in_prefork import StandIn
from ..pool.worker import Worker
from .engine import Engine


class Runner:
    """See engine.Runner."""

    measure = None

    def __init__(self, engine: Engine, worker: Worker) -> None:
        self.loop = engine.loop
        self.context = engine.context
        self.worker = worker
        self.monitor = StandIn(engine.loop, engine.context)

    def run(self) -> bool:
        loop = self.loop
        loop.leadership.lead(Leader(self.worker))
        threading.Thread(target=self.monitor.guard, name="monitor", daemon=True).start()
        loop.board.states[loop.slot] = scoreboard.IDLE
        self.context.wake_server()
        loop.run()
        return not self.worker.failure

    def take(self, *request: Any) -> bool:
        return False

    def take_piece(self, connection: Any) -> bool:
        return False

    def take_closing(self, body: Any) -> bool:
        return False

    def give_back(self, connection: Any, action: Any) -> None:
        forks.returned()
        raise AssertionError("the leader of a worker process never changes")

    def failed(self, leader: Leader) -> None:
        """Finish what is begun, then end."""
        self.loop.words[self.loop.base + scoreboard.RETIRING] = 1
        self.loop.drain()
