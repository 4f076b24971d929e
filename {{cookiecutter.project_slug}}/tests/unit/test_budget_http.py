"""The budget of what is buffered for clients: which connections it sheds, and when."""

import pytest

from {{ cookiecutter.package_name }}.runtime.http.budget import MIB, SMALL, STEP, Budget
from {{ cookiecutter.package_name }}.runtime.ipc.scoreboard import BUFFERED, IDLE, Scoreboard

MOST = 8 * MIB


class Client:
    """One that has so many bytes buffered."""

    def __init__(self, held: int, is_busy: bool = False) -> None:
        self.held = held
        self.is_busy = is_busy

    def shed(self) -> bool:
        if not self.is_busy:
            self.held = 0
        return not self.is_busy


def budget(board: Scoreboard, slot: int = 0, most: int = MOST) -> Budget:
    board.states[slot] = IDLE
    return Budget(board, board.base(slot), most)


def fill(one: Budget, clients: list[Client], now: float = 0.0) -> None:
    for client in clients:
        one.add(client, client.held, now)


def test_never_more_than_the_budget() -> None:
    one, clients = budget(Scoreboard(1)), [Client(MIB // 10) for _ in range(1000)]
    for number, client in enumerate(clients):
        one.add(client, client.held, number * 0.001)
        assert sum(client.held for client in clients[: number + 1]) < MOST + STEP + MIB // 10
    assert sum(client.held for client in clients) > MOST * 3 // 4


def test_growth_counts_once_and_ended_requests_do_not() -> None:
    one = budget(Scoreboard(1))
    for _ in range(1000):
        client = Client(0)
        for size in range(SMALL + 1, MIB, MIB // 8):
            client.held = size
            one.add(client, size, 0.0)
        assert client.held
        client.held = 0  # its request is complete
    assert len(one.holders) < 20


@pytest.mark.parametrize(("large", "slow"), [(2, 0.0), (1, 10.0), (2, 10.0)], ids=["large", "slow", "both"])
def test_the_largest_and_slowest_go_first(large: int, slow: float) -> None:
    one, others = budget(Scoreboard(1)), [Client(MIB // 2) for _ in range(14)]
    victim = Client(large * MIB // 2)
    one.add(victim, victim.held, 10.0 - slow)
    fill(one, others, 10.0)
    newest = [Client(MIB // 8) for _ in range(16)]
    fill(one, newest, 10.0)
    assert not victim.held
    assert all(client.held for client in newest)


def test_what_cannot_be_shed_stays_counted_and_others_go() -> None:
    one, busy, other = budget(Scoreboard(1)), Client(6 * MIB, is_busy=True), [Client(MIB) for _ in range(4)]
    fill(one, [busy, *other])
    assert busy.held
    assert sum(not client.held for client in other) >= 2
    assert one.holders[busy][1] == 6 * MIB


def test_the_last_one_stays() -> None:
    """One response that is larger than the budget is sent all the same."""
    one, client = budget(Scoreboard(1)), Client(3 * MOST)
    fill(one, [client])
    one.look(1.0)
    assert client.held


def test_a_worker_gives_up_what_is_beyond_its_share_alone() -> None:
    board = Scoreboard(2)
    one, two = budget(board, 0), budget(board, 1)
    many, few = [Client(MIB) for _ in range(8)], [Client(MIB) for _ in range(3)]
    fill(one, many)
    fill(two, few)
    assert all(client.held for client in few)
    one.look(1.0)
    assert all(client.held for client in few)
    assert board.total(BUFFERED) <= MOST
    assert board.words[board.base(0) + BUFFERED] == sum(client.held for client in many) >= 3 * MIB


@pytest.mark.parametrize("most", [0, 100 * MIB])
def test_below_the_budget_nothing_is_shed(most: int) -> None:
    one, clients = budget(Scoreboard(1), most=most), [Client(MIB // 2) for _ in range(150)]
    fill(one, clients)
    assert all(client.held for client in clients)


def test_looks_are_few() -> None:
    """Not one walk over all connections for each that grows."""

    class Counting(Budget):
        looks = 0

        def look(self, now: float) -> None:
            self.looks += 1
            super().look(now)

    board = Scoreboard(1)
    one = Counting(board, board.base(0), MOST)
    fill(one, [Client(2 * SMALL) for _ in range(100000)])
    assert 0 < one.looks < 5000
