"""The page about sizes: what it shows is what its script says, and the chart is drawn from the same formula."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from baking import REPOSITORY, TREE
from sizing_chart import draw, formula

DOCS = REPOSITORY / TREE / "docs"


@pytest.fixture(scope="module")
def sizing() -> ModuleType:
    return formula()


def run(*arguments: str) -> str:
    command = [sys.executable, "-I", str(DOCS / "sizing.py"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_page_shows_what_the_script_says() -> None:
    shown = re.findall(
        r"^\$ python docs/sizing.py (.*)\n((?:.+\n)*?)```", (DOCS / "sizing.md").read_text(), re.MULTILINE
    )
    assert shown
    for arguments, output in shown:
        assert run(*shlex.split(arguments)) == output


def test_page_gives_the_defaults(sizing: ModuleType) -> None:
    page, load = (DOCS / "sizing.md").read_text(), sizing.Load(1, 1, 1)
    for name in ("own", "base", "each"):
        (given,) = re.findall(rf"`--{name} ([\d.]+)", page)
        assert float(given) == getattr(load, name)


def test_chart_is_drawn_from_the_formula(tmp_path: Path) -> None:
    """Otherwise: python ci/sizing_chart.py FILE"""
    draw(tmp_path / "sizing.svg")
    assert (tmp_path / "sizing.svg").read_text() == (DOCS / "sizing.svg").read_text()


@pytest.mark.parametrize(
    ("cpu", "wait", "first"), [(0.2, 0.0, "processors"), (2.0, 20.0, "processors"), (2.0, 200.0, "workers")]
)
@pytest.mark.parametrize("rate", [1, 700, 701, 20_000])
def test_replicas_carry_the_load_and_one_fewer_do_not(
    rate: int, cpu: float, wait: float, first: str, sizing: ModuleType
) -> None:
    load = sizing.Load(rate, cpu, wait)
    most = load.most()
    assert next(iter(most)) == first
    assert min(most.values()) >= rate
    working = load.replicas() - load.spare
    assert working == 1 or (working - 1) * min(load.capacity().values()) < rate


def test_memory_has_room_for_fewer_workers(sizing: ModuleType) -> None:
    assert sizing.Load(1, 1, 1, workers=25, memory=256).workers == 25
    assert sizing.Load(1, 1, 1, workers=25, memory=128).workers == 15  # (115.2 - 20) / 6


def test_a_database_that_is_too_small_is_named() -> None:
    assert "the database cannot carry 2000 requests/s" in run(
        *shlex.split("--rate 2000 --cpu 2 --wait 200 --database 500")
    )
    assert "database" not in run(*shlex.split("--rate 2000 --cpu 2 --wait 200"))
