"""A generated project's own commands, as its owner types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Debian's stable Python decides; that of its testing release, the template's default, is tried and reported.
DECIDES, TRIED = "3.13", "3.14"


def make(project: Path, *targets: str, **surroundings: str) -> subprocess.CompletedProcess[str]:
    """Run targets of its Makefile; with all that they say."""
    ours = ("PYTEST_", "MAKE", "MFLAGS", "TEST_", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        ["make", *targets],
        cwd=project,
        env=environment | surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )


def make_with_our_tools(project: Path, *targets: str, **surroundings: str) -> subprocess.CompletedProcess[str]:
    """The same, without a virtual environment of its own: the tools are the same ones (a test compares)."""
    tools = Path(sys.executable).parent
    return make(project, "-o", ".venv/installed", f"bin={tools}", *targets, **surroundings)


def assert_passed(done: subprocess.CompletedProcess[str], version: str) -> None:
    """It has ended well; with the Python that does not decide, a failure is reported."""
    if version == TRIED and done.returncode != 0:
        print(done.stdout)
        wrong = re.findall(r"^(?:FAILED|ERROR|Exit:) .*", done.stdout, re.MULTILINE) or done.stdout.splitlines()[-1:]
        pytest.xfail(f"Python {version}, which does not decide: {'; '.join(wrong)}")
    assert done.returncode == 0, done.stdout
