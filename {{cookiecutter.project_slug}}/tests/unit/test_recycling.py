"""Recycling by memory: the policy, with members that exist on paper only."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from {{ cookiecutter.package_name }}.runtime.ipc.scoreboard import (
    BUSY,
    IDLE,
    MONITOR_BEAT,
    RECYCLE_WANTED,
    Phase,
    Scoreboard,
)
from {{ cookiecutter.package_name }}.runtime.process import recycling
from {{ cookiecutter.package_name }}.runtime.process.member import Member
from {{ cookiecutter.package_name }}.runtime.process.recycling import Forecast, Recycling
from {{ cookiecutter.package_name }}.runtime.system import cgroups

MIB = 2**20
FRESH = 20  # MiB of a member that has done nothing yet


class Pool:
    """Members with a size each, in MiB, in a control group."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, max_memory: int = 0, state: int = BUSY) -> None:
        self.sizes: dict[int, int] = {}
        self.limit = self.used = 0
        self.board = Scoreboard(8)
        self.board.phase = Phase.RUNNING
        self.members: dict[int, Member] = {}
        self.config = SimpleNamespace(max_memory=max_memory)
        self.recycling = Recycling(cast(Any, self.config), self.board, self.members, lambda: None)
        self.now = self.recycling.next_look
        self.state = state
        self.left: list[int] = []
        monkeypatch.setattr(recycling, "resident", lambda pid: self.sizes.get(pid, 0) * MIB)
        monkeypatch.setattr(cgroups, "memory", lambda: (self.limit * MIB, self.used * MIB))
        monkeypatch.setattr(Member, "kill", lambda member, number: self.left.append(member.pid))

    def look(self) -> None:
        self.recycling.measure(self.now)
        self.now = self.recycling.next_look

    def wishes(self, **sizes: int) -> list[str]:
        """Which members are to be replaced once these are their sizes, for a second."""
        names = list(sizes)
        for slot in range(len(sizes)):
            if slot + 100 not in self.members:
                self.members[slot + 100] = Member(slot + 100, slot, slot, self.board)
                self.sizes[slot + 100] = FRESH
                self.board.states[slot] = self.state
        self.look()
        self.sizes.update({slot + 100: size for slot, size in enumerate(sizes.values())})
        end = self.now + 1
        while self.now < end:
            self.look()
        words = [self.board.base(member.slot) + RECYCLE_WANTED for member in self.members.values()]
        return [name for name, word in zip(names, words, strict=True) if self.board.words[word]]


def test_no_member_is_too_large_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Pool(monkeypatch).wishes(a=20, b=5000) == []


def test_members_above_max_memory_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch, max_memory=100)
    pool.wishes(a=20, b=20, c=20)
    pool.now += recycling.MEASURE_INTERVAL
    assert pool.wishes(a=101, b=100, c=300) == ["a", "c"]


def test_the_member_that_has_grown_most_is_replaced_under_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch)
    pool.limit, pool.used = 256, 200
    assert pool.wishes(a=20, b=20, c=20) == []
    assert pool.wishes(a=60, b=90, c=20) == []  # 56 MiB are left
    pool.used = 240
    assert pool.wishes(a=60, b=90, c=20) == ["b"]


def test_no_member_is_replaced_that_has_not_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would not help: a fresh one would be as large."""
    pool = Pool(monkeypatch)
    pool.limit, pool.used = 256, 250
    assert pool.wishes(a=21, b=28, c=20) == []


def test_as_many_as_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What those give back that are asked already is waited for."""
    pool = Pool(monkeypatch)
    pool.limit, pool.used = 256, 250  # 20 MiB above nine tenths
    assert pool.wishes(a=30, b=36, c=32, d=24) == ["b", "c"]


def test_what_does_not_come_back_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch)
    pool.limit, pool.used = 256, 250
    assert pool.wishes(a=90, b=60) == ["a"]
    pool.now += recycling.SLOWEST
    assert pool.wishes(a=90, b=60) == ["a", "b"]


@pytest.mark.parametrize(("members", "left"), [({"a": 90}, []), ({"a": 90, "b": 20}, [100])])
def test_leaves_at_once_where_another_is_idle(
    members: dict[str, int], left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool(monkeypatch, state=IDLE)
    pool.limit, pool.used = 256, 250
    assert pool.wishes(**members) == ["a"]
    assert pool.left == left


def test_a_generation_that_ends_replaces_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch)
    pool.board.phase = Phase.REPLACED
    pool.limit, pool.used = 256, 250
    assert pool.wishes(a=90, b=20) == []


@pytest.mark.parametrize(("limit", "ends_at"), [(0.0, 31.0), (60.0, 61.0)])
def test_a_member_that_stands_still(limit: float, ends_at: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stall monitor looks no more: after 10 s its siblings accept, later it is killed. A pause of all processes is
    not its fault."""
    pool = Pool(monkeypatch)
    pool.config.start_timeout, pool.config.drain_timeout, pool.config.request_timeout = 30.0, 30.0, limit
    member = pool.members[100] = Member(100, 0, 0, pool.board)
    now = start = pool.recycling.checked
    word = pool.board.base(0) + MONITOR_BEAT
    pool.board.states[0], pool.board.loads[0] = BUSY, 3
    while now < start + 100:  # it looks, or sleeps
        now += 1
        pool.board.words[word] = int(now * 1000) if now < start + 50 else 0
        pool.recycling.check(now)
    pool.board.words[word] = int(now * 1000)
    pool.recycling.check(now)
    now += 1000  # all were paused
    pool.recycling.check(now)
    assert member.still <= recycling.LAPSE
    began = now - member.still
    while not pool.left:
        now += 1
        pool.recycling.check(now)
        assert (pool.board.loads[0] == 3) == (now <= began + 10)
    assert began + ends_at < now <= began + ends_at + 1


class Group:
    """Uses of memory as a forecast sees them."""

    def __init__(self, limit: int, used: float) -> None:
        self.forecast = Forecast()
        self.limit = limit
        self.used = used
        self.now = 0.0

    def missing(self, horizon: float = 1.0, has_ended: bool = False) -> float:
        """MiB, at a look that is made when the last one said."""
        found = self.forecast.missing(self.now, self.limit * MIB, int(self.used * MIB), horizon, has_ended) / MIB
        self.now += recycling.pause(self.limit, int(self.used))
        return found


@pytest.mark.parametrize("rate", [1, 5, 25])
@pytest.mark.parametrize("limit", [64, 96, 1024])
@pytest.mark.parametrize("granule", [0.01, 0.2])
def test_growth_is_met_in_time(limit: int, rate: float, granule: float) -> None:
    """`rate` in hundredths of the limit each second, a piece of it every `granule` seconds."""
    group, rate = Group(limit, limit * 0.4), limit * rate / 100
    begun = 2.0
    while group.missing() <= 0:
        assert group.used < limit, "too late"
        group.used = limit * 0.4 + max(0.0, group.now - begun) // granule * granule * rate
    left = limit - group.used
    assert left >= min(0.25 * rate, 0.08 * limit)
    assert left <= max(2.2 * rate, 0.1 * limit), "too early"


def test_a_steady_use_is_no_growth() -> None:
    group = Group(100, 89)
    assert max(group.missing() for _ in range(50)) <= 0
    group.used = 91
    assert [group.missing() > 0 for _ in range(50)][-1]


def test_what_requests_take_and_give_back_is_no_growth() -> None:
    group = Group(256, 150)
    for _ in range(100):
        assert group.missing() <= 0
        group.used = 150 if group.now % 0.4 < 0.2 else 230


def test_what_ended_members_give_back_does_not_hide_growth() -> None:
    """50 MiB/s, of which every half second 25 are given back."""
    group = Group(256, 100)
    given_back = 0
    for _ in range(60):
        has_ended = int(group.now / 0.5) > given_back
        given_back += has_ended
        group.used = 100 + 50 * group.now - 25 * given_back
        group.missing(has_ended=has_ended)
    assert 35 < group.forecast.rate / MIB < 60
