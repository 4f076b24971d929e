"""How many connections a turn of the loop takes from a listener."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from unittest.mock import Mock

import pytest

from {{ cookiecutter.package_name }}.runtime.http.connection import CLOSED
from {{ cookiecutter.package_name }}.runtime.ipc.scoreboard import ACCEPTED
from {{ cookiecutter.package_name }}.runtime.loop.acceptor import CROWD, ENOUGH, Acceptor
from {{ cookiecutter.package_name }}.runtime.loop.event_loop import REST, EventLoop
from {{ cookiecutter.package_name }}.runtime.loop.selector import READ
from {{ cookiecutter.package_name }}.runtime.system.listeners import bind


class Turns:
    """An acceptor, a crowd before it, and how many of it each turn takes."""

    def __init__(self, crowd: int, stack: ExitStack) -> None:
        listener = bind("127.0.0.1:0")
        stack.callback(listener.remove)
        listener.listen(1024)
        for _ in range(crowd):
            stack.enter_context(socket.create_connection(listener.socket.getsockname(), 20))
        self.loop = Mock(words=[0] * (ACCEPTED + 1), base=0, now=0.0, moment=0.0)
        self.loop.connect.return_value.state = CLOSED
        self.first_request = self.loop.connect.return_value.ready
        self.acceptor = Acceptor(self.loop, listener)
        self.acceptor.mask = READ

    def taken(self) -> int:
        before = self.loop.words[ACCEPTED]
        self.acceptor.ready(READ)
        return int(self.loop.words[ACCEPTED] - before)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_crowd_comes_in_soon(stack: ExitStack) -> None:
    turns = Turns(200, stack)
    assert [turns.taken() for _ in range(9)] == [1, 2, 4, 8, 16, 32, CROWD, CROWD, 9]
    assert turns.taken() == 0


def test_who_comes_alone_costs_no_second_look(stack: ExitStack) -> None:
    turns = Turns(1, stack)
    accept = turns.acceptor.accept = Mock(wraps=turns.acceptor.accept)  # type: ignore[method-assign]
    assert turns.taken() == 1
    assert accept.call_count == 1


@pytest.mark.parametrize("stood_in", [False, True])
def test_long_requests_of_newcomers_wait_for_the_others_turn(stack: ExitStack, stood_in: bool) -> None:
    """Also where somebody stands in for the loop meanwhile: its own thread goes on with another `now`."""
    turns = Turns(20, stack)
    turns.acceptor.most = CROWD

    def takes_long(mask: int) -> None:
        turns.loop.moment += 0.6 * ENOUGH
        if stood_in:
            turns.loop.now = turns.loop.moment

    turns.first_request.side_effect = takes_long
    assert turns.taken() == 2
    assert turns.acceptor.most == 1


def test_a_client_that_has_left_does_not_end_the_crowd(stack: ExitStack) -> None:
    """accept(2) may say ECONNABORTED of it."""
    turns = Turns(3, stack)
    turns.acceptor.most = CROWD
    real = turns.acceptor.socket
    turns.acceptor.socket = Mock(wraps=real)
    turns.acceptor.socket.accept.side_effect = [real.accept(), ConnectionAbortedError, real.accept(), BlockingIOError]
    assert turns.taken() == 2


def test_none_is_taken_from_a_listener_that_was_let_go_meanwhile(stack: ExitStack) -> None:
    """By the thread that stands in, while a first request is handled: for a drain the listener is closed."""
    turns = Turns(20, stack)
    turns.acceptor.most = CROWD

    def drain(mask: int) -> None:
        turns.acceptor.mask = 0
        turns.acceptor.socket.close()

    turns.first_request.side_effect = drain
    assert turns.taken() == 1
    turns.loop.scarce.assert_not_called()


@pytest.mark.parametrize(
    ("held", "least", "turn"),
    [(0, 0, True), (1, 0, False), (3, 2, False), (4, 3, True), (5, 3, False), (64, 56, True), (64, 55, False)],
)
def test_whoever_holds_an_eighth_more_gives_the_others_a_moment(held: int, least: int, turn: bool) -> None:
    loop = Mock(count=held, rests=0)
    loop.board.loads = [held, least]
    assert EventLoop.is_turn(loop) is turn
    assert loop.rest.call_args_list == ([] if turn else [((REST,),)])


def test_a_moment_comes_to_an_end() -> None:
    """A sibling may have no time."""
    loop = Mock(count=8, rests=0)
    loop.board.loads = [8, 0]
    assert [EventLoop.is_turn(loop) for _ in range(7)] == [False] * 5 + [True] + [False]
