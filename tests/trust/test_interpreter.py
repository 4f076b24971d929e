"""Issue 18 D 13: what the interpreter imports later is read as the user that the service becomes."""

from __future__ import annotations

import os
import subprocess

import pytest
from harness import HANDLERS, PYTHON, ROOT, assert_refused
from trust_process import NEEDS_LINUX, Place

pytestmark = [NEEDS_LINUX, pytest.mark.skipif(not ROOT, reason="starts as root and becomes nobody")]


@pytest.mark.parametrize("way", ["-x", "--check"])
def test_interpreter_that_the_user_cannot_read(pool: str, place: Place, way: str) -> None:
    """77 and one line that names the directory, before the service listens."""
    service = place(pool, HANDLERS)
    closed = service.directory / "closed"
    closed.mkdir(mode=0o700)
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", closed / "venv"], check=True, timeout=60)
    prefix = ["sh", "-c", f'shift; exec "{closed}/venv/bin/python" "$@"', "sh"]
    done = service.run(way, "-i", "127.0.0.1", "-p", "0", "-u", "nobody", prefix=prefix)
    assert_refused(done, 77, os.fspath(closed), "nobody")


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
