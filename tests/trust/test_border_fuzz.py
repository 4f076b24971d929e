"""The short form of border_fuzz.py: nothing that a server or a worker writes ends, blocks or grows the supervisor."""

from __future__ import annotations

import re
from typing import Any

import border_fuzz
import pytest
from trust_process import NIGHTLY


@pytest.mark.parametrize(("check", "strategies"), border_fuzz.FUZZ, ids=["frames", "reports", "scoreboard"])
def test_nothing_is_found(check: Any, strategies: tuple[Any, ...]) -> None:
    border_fuzz.fuzz(check, strategies, 60, repeatable=True)


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=NIGHTLY), 2], ids=["frames", "reports", "scoreboard"])
def test_it_is_not_blind(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the mark, without a bound, without a range: each is found."""
    monkeypatch.setattr(border_fuzz.frames, "HEAD", re.compile(rb"(?=.{9})", re.DOTALL))
    monkeypatch.setattr(border_fuzz.generation, "STATUSES", frozenset({0}))
    monkeypatch.setattr(border_fuzz.scoreboard, "LEAVING", 2**64)
    with pytest.raises(BaseException):  # noqa: B017, PT011  # whatever hypothesis makes of it
        border_fuzz.fuzz(*border_fuzz.FUZZ[number], 300 if number != 1 else 5000)
