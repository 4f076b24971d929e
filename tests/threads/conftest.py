"""Fixtures of the tests of both pools and all protocols: those of the black-box tests, and a service for each kind."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "runtime"), str(Path(__file__).parent)]

from baking import OPTIONS, bake, copy_template  # noqa: E402  # after the path to harness
from harness import PYTHON, Service  # noqa: E402

_spec = util.spec_from_file_location("fixtures_of_the_runtime", TESTS / "runtime" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
directories = _fixtures.directories

Make = Callable[..., Service]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(params=OPTIONS["pool"])
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def source(directories: Path) -> Callable[[str, str], Path]:
    """The source directory of a project with this pool and protocol, baked once."""
    baked: dict[tuple[str, str], Path] = {}

    def find(pool: str, protocol: str) -> Path:
        if not baked:
            copy_template(directories / "template")
        if (pool, protocol) not in baked:
            target = directories / f"{pool}-{protocol}"
            found = bake(directories / "template", target, pool=pool, protocol=protocol) / "src"
            # As installed: each start of a test then costs what a real start costs, not a compilation.
            subprocess.run([PYTHON, "-m", "compileall", "-q", found], check=True, timeout=120)
            baked[pool, protocol] = found
        return baked[pool, protocol]

    return find


@pytest.fixture
def make(source: Callable[[str, str], Path], directories: Path) -> Iterator[Make]:
    """Prepare a service of this pool and protocol, with these handlers."""
    made: list[Service] = []

    def prepare(pool: str, protocol: str, handlers: str) -> Service:
        directory = Path(tempfile.mkdtemp(dir=directories))
        directory.chmod(0o755)
        service = Service(source(pool, protocol), directory)
        made.append(service)
        service.handlers(handlers)
        return service

    yield prepare
    for service in made:
        service.close()
