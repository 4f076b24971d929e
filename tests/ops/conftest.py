"""Services with an admin address and a control socket, of both pools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from services import Source, directories, generated, placed, pool
from tools import tool
from watched import Watched

__all__ = ["directories", "generated", "pool", "tool"]


def served(source: Path, directories: Path) -> Iterator[Watched]:
    service = placed(Watched, source, directories)
    yield service
    service.close()


@pytest.fixture
def service(generated: Source, directories: Path) -> Iterator[Watched]:
    """Prefork."""
    yield from served(generated("prefork", "http"), directories)


@pytest.fixture
def either(pool: str, generated: Source, directories: Path) -> Iterator[Watched]:
    """Each pool in turn."""
    yield from served(generated(pool, "http"), directories)
