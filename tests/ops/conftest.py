"""Services with an admin address and a control socket, of both pools. The harness is that of tests/runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from baking import bake, copy_template

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "runtime"), str(Path(__file__).parent)]

from harness import PYTHON  # noqa: E402  # after the path to it
from watched import Watched  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(scope="session")
def directories() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ops-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def sources(directories: Path) -> Callable[[str], Path]:
    """The source directory of a project with this pool."""
    template = copy_template(directories / "template")
    made: dict[str, Path] = {}

    def source(pool: str) -> Path:
        if pool not in made:
            made[pool] = bake(template, directories / pool, pool=pool) / "src"
            subprocess.run([PYTHON, "-m", "compileall", "-q", made[pool]], check=True, timeout=120)
        return made[pool]

    return source


def served(source: Path, directories: Path) -> Iterator[Watched]:
    directory = Path(tempfile.mkdtemp(dir=directories))
    directory.chmod(0o755)
    service = Watched(source, directory)
    yield service
    service.close()


@pytest.fixture
def service(sources: Callable[[str], Path], directories: Path) -> Iterator[Watched]:
    """Prefork."""
    yield from served(sources("prefork"), directories)


@pytest.fixture(params=["prefork", "threaded"])
def either(request: pytest.FixtureRequest, sources: Callable[[str], Path], directories: Path) -> Iterator[Watched]:
    """Each pool in turn."""
    yield from served(sources(request.param), directories)


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Find a program that may be missing. CI has it (REQUIRE_TOOLS); elsewhere the test is skipped and listed."""

    def find(*names: str) -> str:
        path = next(filter(None, map(shutil.which, names)), None)
        if path is None and os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(f"this test needs {names[0]}, which is not installed")
        if path is None:
            pytest.skip(f"{names[0]} is not installed")
        return path

    return find
