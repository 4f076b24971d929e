"""Fixtures of the black-box tests; the work is done in harness.py."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from baking import OPTIONS, bake, copy_template
from harness import PYTHON, Service, free_ports


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(scope="session")
def directories() -> Iterator[Path]:
    """Where everything is kept. pytest's own directory is closed to the user that a service becomes,
    and its paths are too long for a socket."""
    path = Path(tempfile.mkdtemp(prefix="service-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with BOTH_POOLS is run with each pool, but for its tests that are marked as one pool's own: `prefork` is
    about worker processes, `threaded` its counterpart for threads. All others are run with prefork."""
    if "source" in metafunc.fixturenames:
        pools = OPTIONS["pool"] if getattr(metafunc.module, "BOTH_POOLS", False) else ["prefork"]
        own = [pool for pool in pools if metafunc.definition.get_closest_marker(pool)]
        metafunc.parametrize("source", own or pools, indirect=True, scope="session")


@pytest.fixture(scope="session")
def baked(directories: Path) -> Callable[[str], Path]:
    template = copy_template(directories / "template")

    @functools.cache
    def find(pool: str) -> Path:
        source = bake(template, directories / pool, pool=pool) / "src"
        # As installed: each start of a test then costs what a real start costs, not a compilation.
        subprocess.run([PYTHON, "-m", "compileall", "-q", source], check=True, timeout=120)
        return source

    return find


@pytest.fixture(scope="session")
def source(request: pytest.FixtureRequest, baked: Callable[[str], Path]) -> Path:
    """The source directory of a project with the defaults but for the pool, baked once."""
    return baked(request.param)


@pytest.fixture
def service(source: Path, directories: Path) -> Iterator[Service]:
    directory = Path(tempfile.mkdtemp(dir=directories))
    directory.chmod(0o755)
    service = Service(source, directory)
    yield service
    service.close()


@pytest.fixture(scope="session")
def ports() -> Iterator[int]:
    """An iterator: next(ports) is a port that nobody else will use."""
    return free_ports()
