"""The engine of stream and line: the life of a member, without its pool; a fake runner says what the threads would."""

import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import cast

import pytest

from {{ cookiecutter.package_name }}.runtime.config.service import Service
from {{ cookiecutter.package_name }}.runtime.config.settings import load
from {{ cookiecutter.package_name }}.runtime.ipc import scoreboard
from {{ cookiecutter.package_name }}.runtime.ipc.scoreboard import (
    IDLE,
    LEAVING,
    RETIRING,
    STACKS,
    Phase,
    Scoreboard,
)
from {{ cookiecutter.package_name }}.runtime.ipc.signals import SignalPipe
from {{ cookiecutter.package_name }}.runtime.ipc.waker import Waker
from {{ cookiecutter.package_name }}.runtime.pool.worker import Worker
from {{ cookiecutter.package_name }}.runtime.process.member import Context
from {{ cookiecutter.package_name }}.runtime.stream.accept_queue import Accepted
from {{ cookiecutter.package_name }}.runtime.stream.engine import (
    DRAINED,
    DRAINING,
    NEXT,
    SERVING,
    Engine,
    Life,
)
from {{ cookiecutter.package_name }}.runtime.stream.stream import Stream
from {{ cookiecutter.package_name }}.runtime.system.binding import bind

SERVICE = Service("test", "test", "0", pool="{{ cookiecutter.pool }}", protocol="{{ cookiecutter.protocol }}")


class Signals(Waker):
    """Signals that have come."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def send(self, action: str) -> None:
        self.asked.append(action)
        self.wake()

    def take(self) -> list[str]:
        self.clear()
        asked, self.asked = self.asked, []
        return asked


class FakeRunner:
    """No thread accepts, and what was submitted waits."""

    def __init__(self) -> None:
        self.submitted: list[Accepted] = []
        self.stopped = 0

    def run(self) -> bool:
        return True

    def attend(self, now: float) -> float:
        return 0.01

    def submit(self, accepted: Accepted) -> None:
        self.submitted.append(accepted)

    def stop_accepting(self) -> None:
        self.stopped += 1

    def is_idle(self) -> bool:
        return not self.submitted


class Member:
    """An engine with one listener, and what lies around it."""

    def __init__(self, *flags: str) -> None:
        (self.listener,) = bind("127.0.0.1:0")
        self.listener.listen(8)
        self.address = self.listener.socket.getsockname()
        self.parent, self.server = os.pipe()
        self.board = Scoreboard(2)
        self.board.phase = Phase.RUNNING
        self.signals, self.runner = Signals(), FakeRunner()
        handlers = ModuleType("handlers")
        handlers.service_connection = handlers.service_line = self.handle  # type: ignore[attr-defined]
        pair = socket.socketpair()
        self.closing: list[Callable[[], None]] = [end.close for end in pair]
        context = Context(
            SERVICE, load(SERVICE, flags, {}), self.board, handlers, [self.listener], pair, self.parent, Waker(), 0, 0
        )
        self.engine = Engine(context, 0, cast(SignalPipe, self.signals))
        self.engine.runner = self.runner
        self.engine.service = self.handle
        self.during: Callable[[Stream], None] = lambda stream: None

    def handle(self, stream: Stream) -> None:
        self.during(stream)

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.address, 10)
        self.closing.append(client.close)
        return client

    def serve(self, during: Callable[[Stream], None] = lambda stream: None) -> None:
        """One connection, as a thread does it."""
        self.during = during
        self.connect()
        accepted = None
        while accepted is None:
            accepted = self.engine.accept(self.listener)
        self.engine.hold()
        self.engine.serve(accepted, Worker(0))

    @property
    def state(self) -> int:
        return self.board.states[0]

    def close(self) -> None:
        for close in (*self.closing, *(sock.close for sock, _ in self.runner.submitted), self.listener.socket.close):
            close()


Make = Callable[..., Member]


@pytest.fixture
def make() -> Iterator[Make]:
    members: list[Member] = []

    def make(*flags: str) -> Member:
        members.append(Member(*flags))
        return members[-1]

    yield make
    for member in members:
        member.close()


@pytest.mark.parametrize(("before", "after"), [*itertools.product(Life, Life)])
def test_every_pair_of_states(make: Make, before: Life, after: Life) -> None:
    engine = make().engine
    engine.life = before
    if (before, after) in ((SERVING, DRAINING), (DRAINING, DRAINED)):
        engine.move(after)
        assert engine.life is after
    else:
        with pytest.raises(ValueError, match="cannot become"):
            engine.move(after)
    assert set(NEXT) == {SERVING, DRAINING}


def test_a_signal_begins_the_drain_once(make: Make) -> None:
    """The listener is closed, what waited there is the runner's, and the member waits for it."""
    member = make()
    member.engine.show(IDLE)
    assert member.state == IDLE
    member.connect()
    for _ in range(2):
        member.signals.send("drain")
        member.engine.turn()
    assert member.engine.life is DRAINING
    assert (member.runner.stopped, len(member.runner.submitted)) == (1, 1)
    assert member.listener.socket.fileno() == -1
    member.engine.show(IDLE)
    assert member.state == LEAVING
    member.runner.submitted.pop()[0].close()
    member.engine.turn()
    assert member.engine.life is DRAINED


def test_a_member_that_leaves_alone_leaves_the_queue_to_others(make: Make) -> None:
    member = make()
    member.connect()
    member.engine.retire()
    assert member.board.words[member.engine.base + RETIRING] == 1
    assert not member.runner.submitted


def test_nothing_is_accepted_in_a_drain(make: Make) -> None:
    member = make()
    member.engine.drain()
    assert member.engine.accept(member.listener) is None


def test_a_drain_waits_for_what_is_held(make: Make) -> None:
    member = make()

    def during(stream: Stream) -> None:
        member.engine.drain()
        member.engine.turn()
        assert member.engine.life is DRAINING

    member.serve(during)
    member.engine.turn()
    assert member.engine.life is DRAINED


def test_queue_is_emptied_as_soon_as_descriptors_are_free(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    member = make()
    member.connect()
    refuse, accept = [OSError(24, "Too many open files")], socket.socket.accept

    def scarce(sock: socket.socket) -> object:
        if refuse:
            raise refuse.pop()
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", scarce)
    member.engine.drain()
    assert member.engine.queue.is_open
    assert not member.runner.submitted
    member.engine.turn()
    assert not member.engine.queue.is_open
    assert len(member.runner.submitted) == 1


def test_end_of_the_server(make: Make) -> None:
    member = make("--drain-timeout", "60")
    os.close(member.server)
    member.engine.turn()
    assert member.engine.life is DRAINED
    assert member.board.phase is Phase.DRAINING
    assert 50 < member.engine.deadline - time.monotonic() <= 60


def test_max_requests(make: Make) -> None:
    member = make("--max-requests", "3")
    for served in range(3):
        assert member.engine.life is SERVING
        assert sum(member.board.latency()) == served
        member.serve()
    assert member.engine.life is DRAINING
    assert member.board.words[member.engine.base + RETIRING] == 1


def test_a_handler_that_hangs_is_not_waited_for(make: Make) -> None:
    """Its connection is ended, and the member is replaced; if it returns after all, it counts as any other."""
    member = make("--request-timeout", "0.01")

    def during(stream: Stream) -> None:
        time.sleep(0.02)
        member.engine.turn()
        assert member.engine.hung == {stream}
        assert stream.socket.recv(1) == b""
        assert member.engine.life is DRAINED

    member.serve(during)
    assert not member.engine.hung
    assert member.engine.held == 0


def test_a_handler_that_waits_for_its_client_does_not_hang(make: Make) -> None:
    member = make("--request-timeout", "0.01")

    def during(stream: Stream) -> None:
        time.sleep(0.02)
        stream.running_since = 0.0  # as in a read
        member.engine.turn()

    member.serve(during)
    assert member.engine.life is SERVING


def test_counts(make: Make) -> None:
    member = make()

    def fail(stream: Stream) -> None:
        assert member.board.connections[0] == 1
        raise RuntimeError("on purpose")

    member.serve()
    member.serve(fail)
    words, base = member.board.words, member.engine.base
    assert member.board.connections[0] == 0
    errors, accepted = words[base + scoreboard.ERRORS], words[base + scoreboard.ACCEPTED]
    assert (sum(member.board.latency()), errors, accepted) == (2, 1, 2)


def test_stacks_are_logged_once_when_asked(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    member = make()
    member.board.words[STACKS] += 1
    with caplog.at_level(logging.ERROR, "runtime"):
        for _ in range(2):
            member.signals.send("look")
            member.engine.turn()
    assert caplog.text.count("in test_stacks_are_logged_once_when_asked") == 1
