"""Fixtures of the HTTP tests: those of the black-box tests, for each pool that the template offers, and a service that
the tests of one file share."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "runtime"), str(TESTS / "http1"), str(Path(__file__).parent)]

from baking import OPTIONS, bake, copy_template  # noqa: E402  # after the path to harness
from harness import PYTHON, Service  # noqa: E402

_spec = util.spec_from_file_location("fixtures_of_the_runtime", TESTS / "runtime" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
directories, service = _fixtures.directories, _fixtures.service


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture(scope="session", params=OPTIONS["pool"])
def source(request: pytest.FixtureRequest, directories: Path) -> Path:
    """The source directory of a project baked with this pool."""
    template = copy_template(directories / f"{request.param}-template")
    source = bake(template, directories / f"{request.param}-project", pool=request.param) / "src"
    # As installed: each start of a test then costs what a real start costs, not a compilation.
    subprocess.run([PYTHON, "-m", "compileall", "-q", source], check=True, timeout=120)
    return source


@pytest.fixture(scope="module")
def http(source: Path, directories: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service with the handlers of the test's module (HANDLERS) and its FLAGS, for all of its tests."""
    directory = Path(tempfile.mkdtemp(dir=directories))
    directory.chmod(0o755)
    service = Service(source, directory)
    service.handlers(request.module.HANDLERS)
    service.expect_errors = getattr(request.module, "EXPECT_ERRORS", False)
    service.start(*getattr(request.module, "FLAGS", ("-n", "2", "-m", "2")))
    yield service
    service.close()
