"""Fixtures of the tests of what the service says: a service for each pool and protocol, with its standard output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from said import Make, Said
from services import Source, directories, generated, placed, pool

__all__ = ["directories", "generated", "pool"]


@pytest.fixture
def make(generated: Source, directories: Path) -> Iterator[Make]:
    """Prepare a service of this pool and protocol."""
    made: list[Said] = []

    def prepare(pool: str = "prefork", protocol: str = "http", handlers: str = "") -> Said:
        service = placed(Said, generated(pool, protocol), directories)
        made.append(service)
        if handlers:
            service.handlers(handlers)
        return service

    yield prepare
    for service in made:
        service.close()
