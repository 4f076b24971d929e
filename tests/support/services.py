"""Fixtures of all tests that run a generated service (harness.py): a conftest.py imports those it needs."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from baking import OPTIONS, bake, copy_template
from harness import PYTHON, Service

Source = Callable[[str, str], Path]
Make = Callable[..., Service]
Kind = TypeVar("Kind", bound=Service)


@pytest.fixture(scope="session")
def directories() -> Iterator[Path]:
    """Where everything is kept. pytest's own directory is closed to the user that a service becomes, and its paths are
    too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="service-") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="session")
def generated(directories: Path) -> Source:
    """The source directory of a project with this pool and protocol, generated once."""
    template = copy_template(directories / "template")

    @functools.cache
    def find(pool: str, protocol: str) -> Path:
        source = bake(template, directories / f"{pool}-{protocol}", pool=pool, protocol=protocol) / "src"
        # As installed: each start of a test then costs what a real start costs, not a compilation.
        subprocess.run([PYTHON, "-m", "compileall", "-q", source], check=True, timeout=120)
        return source

    return find


@pytest.fixture(params=OPTIONS["pool"])
def pool(request: pytest.FixtureRequest) -> str:
    """Each pool in turn."""
    return str(request.param)


def placed(kind: type[Kind], source: Path, directories: Path) -> Kind:
    """A service from these sources, in a directory of its own; not started."""
    directory = Path(tempfile.mkdtemp(dir=directories))
    directory.chmod(0o755)
    return kind(source, directory)


@pytest.fixture
def service(source: Path, directories: Path) -> Iterator[Service]:
    """A service from the sources that the conftest.py chooses."""
    service = placed(Service, source, directories)
    yield service
    service.close()


@pytest.fixture
def make(generated: Source, directories: Path) -> Iterator[Make]:
    """Prepare a service of this pool and protocol, with these handlers."""
    made: list[Service] = []

    def prepare(pool: str, protocol: str, handlers: str) -> Service:
        service = placed(Service, generated(pool, protocol), directories)
        made.append(service)
        service.handlers(handlers)
        return service

    yield prepare
    for service in made:
        service.close()
