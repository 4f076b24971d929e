"""Fixtures of the tests of what the service says: a service for each pool and protocol, with its standard output."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "runtime"), str(Path(__file__).parent)]

from said import Make, Said  # noqa: E402  # after the path to it

_spec = util.spec_from_file_location("fixtures_of_both_pools", TESTS / "threads" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
directories, pool, source = _fixtures.directories, _fixtures.pool, _fixtures.source


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture
def make(source: Callable[[str, str], Path], directories: Path) -> Iterator[Make]:
    """Prepare a service of this pool and protocol."""
    made: list[Said] = []

    def prepare(pool: str = "prefork", protocol: str = "http", handlers: str = "") -> Said:
        directory = Path(tempfile.mkdtemp(dir=directories))
        directory.chmod(0o755)
        service = Said(source(pool, protocol), directory)
        made.append(service)
        if handlers:
            service.handlers(handlers)
        return service

    yield prepare
    for service in made:
        service.close()
