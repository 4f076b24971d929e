"""Rows of the fault matrix with few repetitions; `make faults` runs all of them, and longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from matrix import ROWS, run
from random_faults import run as random_faults
from trust_process import NIGHTLY

LONG = (
    "STOP of the server",
    "STOP of a member without --request-timeout",
    "broken reload: worker_init, endless",
)  # half a minute: only in the whole matrix


# What the supervisor does alone is the same with both pools; the whole matrix tries it with both.
SUPERVISOR = ("broken reload: configuration", "broken reload: import", "broken reload: init",
              "reload to other listeners",
              "two HUPs at once", "HUP while stopping", "SEGV of the supervisor", "STOP of the supervisor",
              "reload below a limit of processes that has become lower", "no place for a control socket",
              "log on a full disk", "full log pipe")  # fmt: skip
NIGHTLY_ROW = "25 MiB kept every second in a control group"
CASES = [pytest.param(pool, row.name, marks=NIGHTLY if row.name == NIGHTLY_ROW else ())
         for row in ROWS if row.name not in LONG for pool in ("prefork", "threaded")
         if pool == "prefork" or row.name not in SUPERVISOR]  # fmt: skip


@pytest.mark.parametrize(("pool", "name"), CASES)
def test_row(sources: dict[str, Path], pool: str, name: str) -> None:
    (row,) = [row for row in ROWS if row.name == name]
    result = run(row, sources[pool], pool, 1)
    assert result["verdict"] == "ok", result


def test_random_faults(sources: dict[str, Path], pool: str) -> None:
    assert random_faults(pool, sources[pool], seed=1, count=15) == []
