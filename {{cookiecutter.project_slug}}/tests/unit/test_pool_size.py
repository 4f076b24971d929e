"""How the pool grows and shrinks: the policy alone, without a process."""

import pytest

from {{ cookiecutter.package_name }}.runtime.process.pool_size import CALM, change

FLOOR, CEILING = 5, 25


def of(idle: int, busy: int = 0, starting: int = 0, history: list[int] | None = None) -> int:
    return change(idle, busy, starting, FLOOR, CEILING, history or [])


def test_starts_with_the_floor() -> None:
    assert of(idle=0) == FLOOR


def test_nothing_while_half_of_the_floor_is_idle() -> None:
    assert of(idle=3, busy=2) == 0


def test_grows_when_fewer_than_half_of_the_floor_are_idle() -> None:
    assert of(idle=2, busy=3) == 3  # back to the floor


def test_grows_with_the_burst() -> None:
    assert of(idle=0, busy=5) == 5
    assert of(idle=0, busy=10) == 10


def test_waits_for_those_that_start() -> None:
    assert of(idle=0, busy=5, starting=5) == 0


def test_stops_at_the_ceiling() -> None:
    assert of(idle=0, busy=20) == 5
    assert of(idle=0, busy=CEILING) == 0


def test_shrinks_to_a_lowered_ceiling_by_idle_ones_only() -> None:
    assert change(idle=2, busy=6, starting=0, floor=1, ceiling=4, history=[]) == -2


def test_shrinks_by_half_of_what_was_always_spare() -> None:
    assert of(idle=15, history=[15] * CALM) == -5
    assert of(idle=6, history=[6] * CALM) == -1
    assert of(idle=5, history=[5] * CALM) == 0


def test_one_busy_tick_keeps_the_pool() -> None:
    assert of(idle=15, history=[15] * (CALM - 1) + [FLOOR]) == 0
    assert of(idle=15, history=[15] * (CALM - 1)) == 0


@pytest.mark.parametrize("busy", range(0, 40, 7))
def test_settles(busy: int) -> None:
    """With a steady load the pool comes to rest, within its bounds and with idle workers if there is room."""
    total, history = FLOOR, list[int]()
    for _ in range(200):
        at_work = min(busy, total)
        history.append(total - at_work)
        step = change(total - at_work, at_work, 0, FLOOR, CEILING, history)
        total += step
        assert FLOOR <= total <= CEILING
    assert step == 0
    assert total == CEILING or total - busy >= FLOOR / 2
