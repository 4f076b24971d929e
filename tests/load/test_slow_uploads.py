"""Slow uploads cost those beside them little. ci/load/slow_uploads.py compares the waits, with ten times as many; here
the bound is generous, because these tests share the machine with others."""

from __future__ import annotations

from harness import PYTHON
from load.slow_uploads import measure

BOUND = 5.0  # seconds


def test_the_others_do_not_wait(pool: str) -> None:
    _, beside = measure(pool, uploads=100, rounds=1, answers=300, python=PYTHON)
    assert beside[0].longest < BOUND, beside
