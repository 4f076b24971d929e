"""Handlers that all take a while: no connection is served more often than its neighbours, and no worker keeps more of
them than its siblings."""

from __future__ import annotations

import contextlib
import signal
import threading

from harness import Wire, eventually
from load.client import Load
from loaded import Loaded


def test_connections_of_one_worker_take_turns(service: Loaded) -> None:
    """epoll's own order gives one of three clients every second turn."""
    service.members(1)
    over, counts = threading.Event(), [0, 0, 0]

    def ask(wire: Wire, number: int) -> None:
        while not over.is_set():
            assert wire.get("/sleep/0.005/1").status == 200
            counts[number] += 1
            if sum(counts) >= 300:
                over.set()

    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(service.wire()) for _ in counts]
        clients = [threading.Thread(target=ask, args=(wire, number)) for number, wire in enumerate(wires)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(50)
    assert min(counts) > 0.8 * max(counts), counts


def test_waiting_connections_move_to_siblings_that_hold_fewer(service: Loaded) -> None:
    """One worker has accepted them all, because its siblings were stopped; then they work again."""
    service.members(4, "--header-timeout", "60")  # the connections wait until the test has seen them
    others = sorted(service.workers)[1:]
    for pid in others:
        service.signal(signal.SIGSTOP, pid)
    service.log.wait_for("was stopped by SIGSTOP", count=len(others))  # until then it may still accept
    with Load(service.address, 8, lambda n: f"/sleep/0.005/{n}", requests=8) as load:
        eventually(lambda: service.connections() == [0, 0, 0, 8], "one worker holds all")
        for pid in others:
            service.signal(signal.SIGCONT, pid)
        load.requests, load.until = 0, lambda: service.connections() == [2, 2, 2, 2] or load.result.answered > 4000
        result = load.run()
        assert service.connections() == [2, 2, 2, 2]
    assert (result.wrong, result.lost, result.reconnected) == ([], [], 0)
