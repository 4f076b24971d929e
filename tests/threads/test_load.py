"""Short forms of the load scripts: the same promises, smaller numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness import PYTHON

LOAD = Path(__file__).resolve().parents[2] / "ci" / "load"


def passes(script: str, *arguments: str) -> None:
    command = [sys.executable, str(LOAD / script), *arguments, "--python", PYTHON]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("scenario", ["held", "parked"])
def test_many_connections(scenario: str) -> None:
    passes("ten_thousand.py", scenario, "--connections", "1500")


def test_nothing_grows() -> None:
    passes("soak.py", "--connections", "3000", "--stops", "0")


def test_stops_under_load() -> None:
    passes("soak.py", "--connections", "0", "--stops", "5")
