"""Fixtures of the HTTP tests: for each pool that the template offers a service, and one that the tests of one file
share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from baking import OPTIONS
from harness import Service
from services import Source, directories, generated, placed, service

__all__ = ["directories", "generated", "service"]


@pytest.fixture(scope="session", params=OPTIONS["pool"])
def source(request: pytest.FixtureRequest, generated: Source) -> Path:
    """The source directory of a project with this pool."""
    return generated(request.param, "http")


@pytest.fixture(scope="module")
def http(source: Path, directories: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service with the handlers of the test's module (HANDLERS) and its FLAGS, for all of its tests."""
    service = placed(Service, source, directories)
    service.handlers(request.module.HANDLERS)
    service.expect_errors = getattr(request.module, "EXPECT_ERRORS", False)
    service.start(*getattr(request.module, "FLAGS", ("-n", "2", "-m", "2")))
    yield service
    service.close()
