"""Issue 18 D 13: what the interpreter imports later is read as the user that the service becomes."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from harness import HANDLERS, PYTHON, ROOT, assert_refused
from trust_process import NEEDS_LINUX, Place

pytestmark = [NEEDS_LINUX, pytest.mark.skipif(not ROOT, reason="starts as root and becomes nobody")]


@pytest.mark.parametrize("way", ["-x", "--check"])
def test_interpreter_that_the_user_cannot_read(pool: str, place: Place, way: str) -> None:
    """77 and one line that names the directory, before the service listens."""
    service = place(pool, HANDLERS)
    prefix = closed_interpreter(service.directory)
    done = service.run(way, "-i", "127.0.0.1", "-p", "0", "-u", "nobody", prefix=prefix)
    assert_refused(done, 77, os.fspath(service.directory / "closed"), "nobody")


def test_user_by_default_cannot_read_the_interpreter(pool: str, place: Place) -> None:
    """--user was not given: the start of a service that may have all that it needs goes on, with one warning."""
    service = place(pool, HANDLERS)
    prefix = closed_interpreter(service.directory)
    done = service.run("--check", "-i", "127.0.0.1", "-p", "0", prefix=prefix)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(f"WARNING .*nobody cannot read {service.directory}/closed", done.stderr)) == 1, done.stderr


def closed_interpreter(directory: Path) -> list[str]:
    """What runs a service by an interpreter that is root's alone."""
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", closed / "venv"], check=True, timeout=60)
    return ["sh", "-c", f'shift; exec "{closed}/venv/bin/python" "$@"', "sh"]


def test_code_that_the_user_cannot_read(pool: str, place: Place) -> None:
    """A directory beside it is warned of: the service may have all that it needs."""
    service = place(pool, HANDLERS)
    closed = service.directory / "closed"
    closed.mkdir(mode=0o700)
    env = {"PYTHONPATH": os.pathsep.join([os.fspath(service.source), os.fspath(closed)])}
    service.start("-n", "1", "-m", "2", "-u", "nobody", env=env)
    assert len(service.log.find(f"WARNING .*{closed}")) == 1, service.log.text
    assert service.get("/").text == "hello"
    service.end()
