import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from baking import bake, copy_template
from tools import tool

__all__ = ["tool"]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of this repository."""
    return copy_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def project(template: Path) -> Iterator[Path]:
    """What the defaults give."""
    with tempfile.TemporaryDirectory() as directory:
        yield bake(template, Path(directory))
