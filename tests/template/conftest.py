import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from baking import bake, copy_template


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of this repository."""
    return copy_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def project(template: Path) -> Iterator[Path]:
    """What the defaults give."""
    with tempfile.TemporaryDirectory() as directory:
        yield bake(template, Path(directory))


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Find a program that may be missing. CI has it (REQUIRE_TOOLS); elsewhere the test is skipped and listed."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None and os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(f"this test needs {name}, which is not installed")
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path

    return find
