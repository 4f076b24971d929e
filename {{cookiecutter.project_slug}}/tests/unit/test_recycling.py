"""Recycling by memory: the policy, with members that exist on paper only."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from {{ cookiecutter.package_name }}.runtime.ipc.scoreboard import RECYCLE_WANTED, Scoreboard
from {{ cookiecutter.package_name }}.runtime.process import recycling
from {{ cookiecutter.package_name }}.runtime.process.member import Member
from {{ cookiecutter.package_name }}.runtime.process.recycling import MEASURE_INTERVAL, Recycling
from {{ cookiecutter.package_name }}.runtime.system import cgroups

MIB = 2**20


class Pool:
    """Members with a size each, in MiB, in a control group."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, max_memory: int = 0) -> None:
        self.sizes: dict[int, int] = {}
        self.limit = self.used = 0
        self.board = Scoreboard(8)
        self.members: dict[int, Member] = {}
        self.config = SimpleNamespace(max_memory=max_memory)
        self.recycling = Recycling(cast(Any, self.config), self.board, self.members, lambda: None)
        self.now = self.recycling.next_measure
        monkeypatch.setattr(recycling, "resident", lambda pid: self.sizes[pid] * MIB)
        monkeypatch.setattr(cgroups, "memory", lambda: (self.limit * MIB, self.used * MIB))

    def wishes(self, **sizes: int) -> list[str]:
        """Which members are to be replaced once these are their sizes."""
        for slot, size in enumerate(sizes.values()):
            self.members.setdefault(slot + 100, Member(slot + 100, slot, slot, self.board))
            self.sizes[slot + 100] = size
        self.recycling.measure(self.now)
        self.now += MEASURE_INTERVAL
        names = list(sizes)
        words = [self.board.base(member.slot) + RECYCLE_WANTED for member in self.members.values()]
        found = [names[i] for i, word in enumerate(words) if self.board.words[word]]
        for word in words:
            self.board.words[word] = 0
        return found


def test_no_member_is_too_large_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Pool(monkeypatch).wishes(a=10, b=5000) == []


def test_members_above_max_memory_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Pool(monkeypatch, max_memory=100).wishes(a=101, b=100, c=300) == ["a", "c"]


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
    assert pool.wishes(a=70, b=72, c=71) == []


def test_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch)
    pool.limit, pool.used = 256, 250
    assert pool.wishes(a=20, b=90) == ["b"]
    pool.recycling.old = pool.members[101]  # it is being replaced
    assert pool.wishes(a=60, b=90) == []
