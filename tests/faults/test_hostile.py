"""Some rows of hostile clients and hostile workers, for a moment; `make faults` runs all of them, with both pools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from beside import Case, Row, run
from hostile import POOLS, TABLES
from target import Target

ROWS = [row for rows in TABLES.values() for row in rows]
SHORT = [row for row in ROWS if row.short]


@pytest.mark.parametrize("number", range(len(SHORT)), ids=[f"{row.line}-{row.does}" for row in SHORT])
def test_row(sources: dict[str, Path], number: int) -> None:
    """The pools take turns."""
    pool = POOLS[number % 2]
    result = run(SHORT[number], sources[pool], pool, short=True)
    assert result["verdict"] == "ok", result


def test_each_line_has_a_row() -> None:
    """A8 is documentation."""
    lines = [f"{part}{number}" for part, most in (("A", 7), ("B", 9), ("C", 3)) for number in range(1, most + 1)]
    assert sorted({row.line for row in ROWS}) == lines


def lose(case: Case) -> None:
    case.account.after["reset"] += 1


def wait(case: Case) -> None:
    case.waits["with"].append(60.0)


def stall(case: Case) -> None:
    case.pages["/livez"] = 60.0


def grow(case: Case) -> None:
    case.grown["supervisor"] = 1000.0


def crash(case: Case) -> None:
    case.target.log_path.write_text("supervisor failed\n")


@pytest.mark.parametrize("harm", [lose, wait, stall, grow, crash])
def test_harm_fails_a_row(tmp_path: Path, harm: Callable[[Case], None]) -> None:
    (tmp_path / "hello_server").mkdir()
    target = Target(tmp_path, "prefork")
    try:
        case, row = Case(target, short=True), Row("", "", lambda case: None)
        case.judge(row)
        harm(case)
        with pytest.raises(AssertionError):
            case.judge(row)
    finally:
        target.close()
