"""How many connections a turn of the loop takes from a listener, and when it takes none."""

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast
from unittest.mock import Mock

import pytest

from {{ cookiecutter.package_name }}.runtime.ipc.scoreboard import ACCEPTED, EVICTED, Scoreboard
from {{ cookiecutter.package_name }}.runtime.loop.accept_balance import (
    FULL_YIELDS,
    YIELD,
    YIELDS,
    AcceptBalance,
)
from {{ cookiecutter.package_name }}.runtime.loop.acceptor import BURST, RECOVERED, SHORTAGE, TURN, Intake
from {{ cookiecutter.package_name }}.runtime.loop.eviction import (
    ALONE,
    CANDIDATES,
    DEFER,
    DEFERRALS,
    IDLE,
    LOOK,
    Eviction,
)
from {{ cookiecutter.package_name }}.runtime.loop.interfaces import Mode, Source
from {{ cookiecutter.package_name }}.runtime.loop.selector import READ
from {{ cookiecutter.package_name }}.runtime.system.binding import bind


class Client(Source):
    """A connection; `first` is what its first request does."""

    def __init__(self, fd: int, first: Callable[[], None]) -> None:
        super().__init__(fd)
        self.first = first

    def ready(self, mask: int) -> None:
        self.first()


class Idle(Client):
    """One that is held."""

    def __init__(self, idle_since: float) -> None:
        self.ours, self.theirs = socket.socketpair()
        super().__init__(self.ours.fileno(), lambda: None)
        self.idle_since = idle_since

    def close(self) -> None:
        self.ours.close()

    @property
    def is_closed(self) -> bool:
        return self.ours.fileno() < 0


class Loop:
    """An AcceptingLoop without a selector, and its engine."""

    def __init__(self) -> None:
        self.board = Scoreboard(2)
        self.words, self.base = self.board.words, self.board.base(0)
        self.engine: Any = self
        self.table: dict[int, Any] = {}
        self.count = 0
        self.is_full = False
        self.now = self.moment = 100.0
        self.next_duty = 1000.0
        self.mode = Mode.SERVING
        self.is_stood_in = False
        self.first: Callable[[], None] = lambda: None
        self.published = 0

    def connect(self, sock: socket.socket, peer: object) -> Client:
        sock.close()
        return Client(-1, self.first)

    def watch(self, item: Any, mask: int) -> None:
        item.mask = mask

    def unwatch(self, item: Any) -> None:
        item.mask = 0

    def guarded(self, item: object, action: Callable[..., None], *values: object) -> None:
        action(*values)

    def admit(self, item: object) -> None:
        pass

    def publish(self) -> None:
        self.published += 1

    postpone = forget = admit


class Turns:
    """An acceptor, clients before it, and how many of them each turn takes."""

    def __init__(self, clients: int, stack: ExitStack) -> None:
        (listener,) = bind("127.0.0.1:0")
        stack.callback(listener.remove)
        listener.listen(1024)
        for _ in range(clients):
            stack.enter_context(socket.create_connection(listener.socket.getsockname(), 20))
        self.loop = Loop()
        end, _ = stack.enter_context(closed(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)))
        end.setblocking(False)
        self.intake = Intake(self.loop, [listener], end, 1000)
        (self.acceptor,) = self.intake.acceptors

    def hold(self, since: float) -> "Idle":
        """A connection that has been idle since then."""
        idle = Idle(since)
        self.loop.table[idle.fd] = idle
        return idle

    def taken(self) -> int:
        before = self.loop.words[self.loop.base + ACCEPTED]
        self.acceptor.ready(READ)
        return int(self.loop.words[self.loop.base + ACCEPTED] - before)


class closed:  # noqa: N801
    """Two sockets, closed at the end."""

    def __init__(self, pair: tuple[socket.socket, socket.socket]) -> None:
        self.pair = pair

    def __enter__(self) -> tuple[socket.socket, socket.socket]:
        return self.pair

    def __exit__(self, *_: object) -> None:
        for one in self.pair:
            one.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_burst_is_accepted_soon(stack: ExitStack) -> None:
    turns = Turns(200, stack)
    assert [turns.taken() for _ in range(9)] == [1, 2, 4, 8, 16, 32, BURST, BURST, 9]
    assert turns.taken() == 0


def test_a_single_client_costs_no_second_look(stack: ExitStack) -> None:
    turns = Turns(1, stack)
    turns.acceptor.socket = Mock(wraps=turns.acceptor.socket)
    assert turns.taken() == 1
    assert turns.acceptor.socket.accept.call_count == 1


@pytest.mark.parametrize("stood_in", [False, True])
def test_long_first_requests_wait_for_the_others_turn(stack: ExitStack, stood_in: bool) -> None:
    """Also where another thread stands in meanwhile: the loop's own thread goes on with another `now`."""
    turns = Turns(20, stack)
    turns.acceptor.most = BURST

    def takes_long() -> None:
        turns.loop.moment += 0.6 * TURN
        if stood_in:
            turns.loop.now = turns.loop.moment

    turns.loop.first = takes_long
    assert turns.taken() == 2
    assert turns.acceptor.most == 1


def test_a_client_that_has_left_does_not_end_the_burst(stack: ExitStack) -> None:
    """accept(2) may say ECONNABORTED of it."""
    turns = Turns(3, stack)
    turns.acceptor.most = BURST
    real = turns.acceptor.socket
    turns.acceptor.socket = Mock(wraps=real)
    turns.acceptor.socket.accept.side_effect = [real.accept(), ConnectionAbortedError, real.accept(), BlockingIOError]
    assert turns.taken() == 2


def test_none_is_taken_from_a_listener_that_was_closed_meanwhile(stack: ExitStack) -> None:
    """By the thread that stands in, while a first request is handled."""
    turns = Turns(20, stack)
    turns.acceptor.most = BURST

    def drain() -> None:
        turns.loop.mode = Mode.DRAINING
        turns.intake.close(empties=False)

    turns.loop.first = drain
    assert turns.taken() == 1
    assert not turns.intake.acceptors
    assert not turns.intake.short_since


def test_a_drain_empties_the_queue_if_it_is_to(stack: ExitStack) -> None:
    turns = Turns(20, stack)
    turns.loop.mode = Mode.DRAINING
    turns.intake.close()
    assert turns.loop.words[turns.loop.base + ACCEPTED] == 20
    assert not turns.intake.acceptors


@pytest.mark.parametrize(("mode", "mask"), [(Mode.DRAINING, READ), (Mode.RETIRING, 0)])
def test_a_drain_ends_a_pause(stack: ExitStack, mode: Mode, mask: int) -> None:
    """What siblings hand over is taken at once, and not when what is held has ended."""
    turns = Turns(0, stack)
    turns.intake.pause(YIELD)
    assert turns.intake.receiver.mask == 0
    turns.loop.mode = mode
    turns.intake.close()
    assert turns.intake.receiver.mask == mask
    assert not turns.intake.paused_until


def test_a_shortage_pauses_accepting_until_it_is_over(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    turns = Turns(3, stack)
    real, loop, intake = turns.acceptor.socket, turns.loop, turns.intake
    turns.acceptor.socket = Mock(wraps=real)
    turns.acceptor.socket.accept.side_effect = [OSError(24, "Too many open files"), *[real.accept() for _ in range(3)]]
    assert turns.taken() == 0
    assert intake.paused_until == loop.now + SHORTAGE == loop.next_duty
    assert turns.acceptor.mask == 0
    loop.now += SHORTAGE
    intake.resume()
    assert turns.taken() == 1
    assert intake.short_since, "it may come back in a moment"
    loop.now += RECOVERED
    loop.moment = loop.now
    assert turns.taken() == 2
    assert not intake.short_since
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "cannot accept: Too many open files; accepting pauses until connections close"
    ]


def test_without_descriptors_an_idle_connection_makes_room(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """Those of EMFILE only: closing one helps neither against ENFILE nor against ENOMEM."""
    turns = Turns(2, stack)
    real = turns.acceptor.socket
    turns.acceptor.socket = Mock(wraps=real)
    idle = [turns.hold(since) for since in (98.0, 97.0)]
    full = OSError(errno.EMFILE, "Too many open files")
    turns.acceptor.socket.accept.side_effect = [full, real.accept(), full, full, OSError(errno.ENFILE, "Table full")]
    assert turns.taken() == 1
    assert [one.is_closed for one in idle] == [False, True]
    assert turns.taken() == 0, "another thread was faster"
    assert all(one.is_closed for one in idle)
    assert turns.intake.paused_until
    turns.hold(90.0)
    turns.intake.resume()
    assert turns.taken() == 0
    assert turns.loop.words[turns.loop.base + EVICTED] == 2
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "no descriptor is free (raise the limit, ulimit -n)",
        "cannot accept",
    ]


def test_at_max_connections_idle_ones_make_room(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    turns = Turns(3, stack)
    idle = [turns.hold(100.0 - seconds) for seconds in (0.4, 20.0, 30.0, 0.7)]
    turns.loop.board.connections[1] = 1000
    assert [turns.taken() for _ in range(2)] == [1, 2]
    assert [one.is_closed for one in idle] == [False, True, True, True]
    assert turns.loop.words[turns.loop.base + EVICTED] == 3
    assert [record.message for record in caplog.records] == [
        "1000 connections held (--max-connections): the longest idle connections make room for new ones"
    ]


def test_none_is_evicted_for_a_connection_that_a_sibling_has_taken(stack: ExitStack) -> None:
    turns = Turns(0, stack)
    idle = turns.hold(50.0)
    turns.loop.board.connections[1] = 1000
    assert turns.taken() == 0
    turns.loop.board.connections[1] = 999
    stack.enter_context(socket.create_connection(turns.acceptor.socket.getsockname(), 20))
    assert turns.taken() == 1
    assert not idle.is_closed


def test_a_sibling_with_longer_idle_ones_comes_first(stack: ExitStack) -> None:
    """But not for long: it may be blocked."""
    turns = Turns(1, stack)
    idle, loop, intake = turns.hold(98.0), turns.loop, turns.intake
    loop.board.connections[1] = 1000
    loop.board.idle_since[1] = 97_000
    for _ in range(DEFERRALS):
        assert turns.taken() == 0
        assert intake.paused_until == loop.now + DEFER
        assert not intake.short_since
        loop.now += DEFER
        intake.resume()
    assert turns.taken() == 1
    assert idle.is_closed


def test_siblings_learn_it_at_the_limit_alone(stack: ExitStack) -> None:
    turns = Turns(0, stack)
    turns.hold(98.5)
    turns.intake.look_for_idle()
    assert turns.loop.board.longest_idle() == 0
    turns.loop.board.connections[1] = 1000
    turns.intake.look_for_idle()
    assert turns.loop.board.longest_idle() == 98.5
    turns.loop.board.connections[1] = 999
    turns.intake.look_for_idle()
    assert turns.loop.board.longest_idle() == 0


def test_at_max_connections_accepting_pauses(stack: ExitStack) -> None:
    turns = Turns(1, stack)
    turns.loop.board.connections[1] = 1000
    assert turns.taken() == 0
    assert turns.intake.paused_until
    turns.loop.board.connections[1] = 999
    turns.intake.resume()
    assert turns.taken() == 1


# ---- the policy ----
@pytest.mark.parametrize(
    ("held", "least", "pause"),
    [(0, 0, 0), (1, 0, 1), (3, 2, 1), (4, 3, 0), (5, 3, 1), (64, 56, 0), (64, 55, 1)],
)
def test_a_worker_that_holds_an_eighth_more_gives_the_others_a_moment(held: int, least: int, pause: int) -> None:
    assert AcceptBalance().pause(held, least) == pause * YIELD


@pytest.mark.parametrize(("held", "least", "pauses"), [(8, 0, YIELDS), (2, 1, 1)])
def test_the_pauses_come_to_an_end(held: int, least: int, pauses: int) -> None:
    """A sibling may have no time."""
    balance = AcceptBalance()
    assert [bool(balance.pause(held, least)) for _ in range(pauses + 2)] == [True] * pauses + [False, True]


def test_while_all_threads_run_handlers_siblings_accept() -> None:
    balance = AcceptBalance()
    assert [balance.pause_full() for _ in range(FULL_YIELDS + 2)] == [YIELD] * FULL_YIELDS + [0.0, YIELD]


def idle_ones(*ages: float) -> dict[int, Any]:
    """Connections by descriptor, that have been idle for so long at 100.0."""
    return {fd: Mock(fd=fd, idle_since=100.0 - age) for fd, age in enumerate(ages)}


def nothing(fd: int) -> bool:
    return False


def test_the_longest_idle_is_chosen_unless_something_has_arrived() -> None:
    table = idle_ones(5.0, 9.0, IDLE / 2, 7.0)
    assert Eviction().choose(table, 100.0, nothing) is table[1]
    assert Eviction().choose(table, 100.0, lambda fd: fd == 1) is table[3]
    assert Eviction().choose(idle_ones(IDLE / 2), 100.0, nothing) is None


def test_a_candidate_is_looked_at_again_when_it_is_used() -> None:
    table = idle_ones(5.0, 9.0, 7.0)
    eviction = Eviction()
    assert eviction.choose(table, 100.0, nothing) is table[1]
    cast(Any, table[1]).idle_since = 100.0  # it was served
    table[2] = Mock(fd=2, idle_since=99.9)  # it was closed, and its descriptor is another's
    assert eviction.choose(table, 100.0, nothing) is table[0]


def test_looks_are_few() -> None:
    """Unless there are more candidates than one of them finds: then each is worth that many evictions."""
    table = idle_ones(*([9.0] * (CANDIDATES + 3)), IDLE / 2)
    looks: list[float] = []

    class Counted(Eviction):
        def look(self, table: Any, now: float) -> None:
            looks.append(now)
            super().look(table, now)

    eviction = Counted()
    for _ in range(CANDIDATES + 3):
        chosen = eviction.choose(table, 100.0, nothing)
        assert chosen is not None
        del table[chosen.fd]
    assert len(looks) == 2
    assert eviction.choose(table, 100.0, nothing) is None
    assert eviction.choose(table, 100.0 + LOOK / 2, nothing) is None
    assert len(looks) == 2
    assert eviction.choose(table, 101.0, nothing) is not None
    full = idle_ones(*([9.0] * (CANDIDATES + 3)))
    assert Eviction().choose(full, 100.0, lambda fd: True) is None, "it comes to an end"


def test_a_sibling_is_waited_for_but_not_again_in_vain() -> None:
    eviction = Eviction()
    assert not eviction.defers(90.0, 0.0, 100.0)
    assert not eviction.defers(90.0, 89.995, 100.0), "as good as the same"
    assert not eviction.defers(0.0, 100.0 - IDLE / 2, 100.0), "it cannot be closed yet"
    assert [eviction.defers(90.0, 80.0, 100.0) for _ in range(DEFERRALS + 2)] == [True] * DEFERRALS + [False] * 2
    assert eviction.defers(0.0, 80.0, 100.0 + ALONE), "it has none of its own"
