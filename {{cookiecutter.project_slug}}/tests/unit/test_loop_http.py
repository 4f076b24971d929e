"""The event loop without HTTP: which thread owns it, its life, and what it does with what is in it."""

import itertools
import os
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from {{ cookiecutter.package_name }}.runtime.ipc import scoreboard
from {{ cookiecutter.package_name }}.runtime.ipc.scoreboard import NO_CAPACITY, Phase, Scoreboard
from {{ cookiecutter.package_name }}.runtime.loop import interfaces, leadership
from {{ cookiecutter.package_name }}.runtime.loop.event_loop import EventLoop
from {{ cookiecutter.package_name }}.runtime.loop.interfaces import Mode, Source
from {{ cookiecutter.package_name }}.runtime.loop.leadership import Leader, Leadership, State
from {{ cookiecutter.package_name }}.runtime.loop.selector import READ
from {{ cookiecutter.package_name }}.runtime.pool.worker import Worker


class Watched(Leader):
    """Its steps are checked against the table."""

    seen: set[tuple[State, State]] = set()  # noqa: RUF012

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "state" and hasattr(self, "state") and value != self.state:
            assert value in leadership.TRANSITIONS[self.state], (self.state, value)
            self.seen.add((self.state, value))
        super().__setattr__(name, value)


def test_all_ways_of_the_ownership() -> None:
    owner, leader = Leadership(), Watched(Worker(1))
    back: list[int] = []
    owner.on_return = lambda: back.append(1)
    assert not owner.running()
    assert not owner.seize(0.0)
    owner.lead(leader)

    leader.started = 1.0
    assert not owner.seize(0.5), "that handler has returned"
    assert leader.state == State.HELD
    assert owner.seize(1.0) is leader, "this one runs"
    assert owner.is_stood_in
    owner.release()
    assert owner.seize(1.0), "still"
    owner.release()
    leader.started = 0.0
    assert leader.state, "the leader sees that it has to ask"
    assert owner.regain(leader)
    assert leader.state == State.HELD
    assert back == [1]
    assert not owner.seize(1.0), "the monitor sees that it has to stop"

    leader.started = 2.0
    assert owner.seize(2.0)
    owner.depose(leader)
    leader.started = 0.0
    other = Leader(Worker(2))
    owner.lead(other)
    other.started = 3.0
    assert leader.state, "a deposed leader sees that it has to ask, also when another leads"
    assert not owner.regain(leader)
    assert owner.running() == 3.0
    assert back == [1]
    owner.resign()
    assert not owner.running()
    assert leader.seen == {(one, other) for one, others in leadership.TRANSITIONS.items() for other in others}


def test_the_leader_comes_back_between_two_steps_only() -> None:
    owner, leader = Leadership(), Leader(Worker(1))
    owner.lead(leader)
    leader.started = 1.0
    assert owner.seize(1.0)
    regained = threading.Event()

    def handler_returns() -> None:
        leader.started = 0.0
        assert owner.regain(leader)
        regained.set()

    thread = threading.Thread(target=handler_returns)
    thread.start()
    assert not regained.wait(0.05), "the monitor has the baton"
    owner.release()
    assert regained.wait(10)
    thread.join()


def test_two_threads_never_own_the_loop_at_once() -> None:
    """Many handlers and many looks of the monitor: one of the two always sees the other."""
    owner, leader = Leadership(), Leader(Worker(1))
    owner.lead(leader)
    owners: list[int] = []
    broken: list[int] = []
    done = threading.Event()

    def use(number: int) -> None:
        owners.append(number)
        if len(owners) != 1:
            broken.append(number)
        owners.remove(number)

    def monitor() -> None:
        while not done.is_set():
            started = owner.running()
            if started and owner.seize(started):
                use(2)
                owner.release()

    thread = threading.Thread(target=monitor)
    thread.start()
    for number in range(1, 20_000):
        leader.started = float(number)
        leader.started = 0.0
        if leader.state:
            assert owner.regain(leader)
        use(1)
    done.set()
    thread.join()
    assert not broken


# ---- the loop ----
class Client(Source):
    """A connection."""

    def __init__(self, name: str, began: float = 0.0) -> None:
        self.ours, self.theirs = socket.socketpair()
        super().__init__(self.ours.fileno())
        self.name = name
        self.began = began
        self.log: list[str] = []
        self.loop: EventLoop
        self.is_parked = True

    def parcel(self) -> bytes | None:
        return self.name.encode() if self.is_parked else None

    def resume(self) -> None:
        self.log.append("resume")

    def expire(self) -> None:
        self.log.append("expire")

    def drain(self) -> None:
        self.log.append("drain")

    def close(self) -> None:
        self.loop.forget(self)
        self.ours.close()

    release = close


class Engine:
    """Counts what the loop asks for."""

    def __init__(self) -> None:
        self.abandoned = 0
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.calls.append(name)


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in pair:
        end.setblocking(False)
    board = Scoreboard(3)
    context: Any = SimpleNamespace(
        board=board, listeners=[], pair=pair, config=SimpleNamespace(max_connections=100), wake_server=lambda: None
    )
    board.phase = Phase.RUNNING
    board.states[0] = scoreboard.IDLE
    yield EventLoop(context, 0, Engine())
    for end in pair:
        end.close()


def admit(loop: EventLoop, client: Client) -> Client:
    client.loop = loop
    loop.admit(client)
    loop.watch(client, READ)
    return client


def test_a_whole_generation_drains(loop: EventLoop) -> None:
    client = admit(loop, Client("a"))
    loop.board.phase = Phase.DRAINING
    loop.drain()
    assert loop.mode == Mode.DRAINING
    assert loop.board.states[0] == scoreboard.LEAVING
    assert loop.board.loads[0] == NO_CAPACITY
    assert client.log == ["drain"]
    assert "drain" in loop.engine.calls  # type: ignore[attr-defined]
    assert not loop.is_drained()
    client.close()
    loop.run()


def test_a_retiring_worker_hands_its_parked_connections_over(loop: EventLoop) -> None:
    loop.board.states[1] = scoreboard.IDLE
    parked, busy = admit(loop, Client("parked")), admit(loop, Client("busy"))
    busy.is_parked = False
    loop.drain()
    assert loop.mode == Mode.RETIRING
    assert loop.count == 1
    data, fds, _, _ = socket.recv_fds(loop.context.pair[1], 100, 1)
    assert data == b"parked"
    os.close(fds[0])
    assert parked.fd not in loop.table
    busy.is_parked = True
    loop.sweep()
    assert not loop.count
    assert loop.is_drained(), "siblings take what is in the pair"


def test_a_retiring_worker_without_siblings_keeps_them(loop: EventLoop) -> None:
    loop.board.states[1] = scoreboard.LEAVING
    admit(loop, Client("a"))
    loop.drain()
    assert loop.mode == Mode.DRAINING
    assert loop.count == 1


def test_modes_have_a_table(loop: EventLoop) -> None:
    assert set(interfaces.TRANSITIONS) == set(Mode)
    loop.board.states[1] = scoreboard.IDLE
    steps = [loop.mode]
    loop.on_step = steps.append  # type: ignore[attr-defined]
    cls = type("Stepping", (EventLoop,), {"__setattr__": step})
    loop.__class__ = cls
    loop.drain()
    loop.drain()
    assert steps == [Mode.SERVING, Mode.DRAINING, Mode.RETIRING]
    for one, other in itertools.pairwise(steps):
        assert other in interfaces.TRANSITIONS[one]


def step(self: Any, name: str, value: Any) -> None:
    if name == "mode":
        self.on_step(value)
    object.__setattr__(self, name, value)


def test_the_connection_served_longest_ago_comes_first(loop: EventLoop) -> None:
    late, early = admit(loop, Client("late", 2.0)), admit(loop, Client("early", 1.0))
    loop.board.loads[1] = 2
    events = [(late.fd, READ), (early.fd, READ)]
    loop.order(events)
    assert [fd for fd, _ in events] == [early.fd, late.fd]
    assert loop.count == 2
    loop.board.loads[1] = 0
    loop.order(events)
    assert list(loop.table.values())[-1] is early, "the last one went to the sibling"
    assert loop.count == 1


def test_deadlines(loop: EventLoop) -> None:
    late, early = admit(loop, Client("late")), admit(loop, Client("early"))
    late.deadline, early.deadline = loop.now + 1, loop.now
    loop.sweep()
    assert (late.log, early.log) == ([], ["expire"])
