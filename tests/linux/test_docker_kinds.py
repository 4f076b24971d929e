"""Every protocol and pool passes its own container tests, also on an image without a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from baking import bake, copy_template

KINDS = [("http", "threaded", "bare"), ("line", "threaded", "bare"), ("stream", "prefork", "bare")]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("protocol", "pool", "variant"), KINDS)
def test_kind_passes_its_own_tests(protocol: str, pool: str, variant: str, tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template")
    project = bake(template, tmp_path / "baked", protocol=protocol, pool=pool, python_version="3.13")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "3", "tests/integration"],
        cwd=project,
        env=environment | {"PYTHON_IMAGE": f"python:3.13-{variant}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
