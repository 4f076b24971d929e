"""Fixtures of the black-box tests; the work is done in tests/support/harness.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from baking import OPTIONS
from harness import free_ports
from services import Source, directories, generated, make, pool, service

__all__ = ["directories", "generated", "make", "pool", "service"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with BOTH_POOLS is run with each pool, but for its tests that are marked as one pool's own: `prefork` is
    about worker processes, `threaded` its counterpart for threads. All others are run with prefork."""
    if "source" in metafunc.fixturenames:
        pools = OPTIONS["pool"] if getattr(metafunc.module, "BOTH_POOLS", False) else ["prefork"]
        own = [pool for pool in pools if metafunc.definition.get_closest_marker(pool)]
        metafunc.parametrize("source", own or pools, indirect=True, scope="session")


@pytest.fixture(scope="session")
def source(request: pytest.FixtureRequest, generated: Source) -> Path:
    """The source directory of a project with the defaults but for the pool."""
    return generated(request.param, "http")


@pytest.fixture(scope="session")
def ports() -> Iterator[int]:
    """An iterator: next(ports) is a port that no other test will use."""
    return free_ports()
