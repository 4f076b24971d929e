"""The short form of the fault matrix, and of its random faults: what they use is in ci/faults."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from target import Target, generated


@pytest.fixture(scope="session")
def sources() -> Iterator[dict[str, Path]]:
    """A generated service with each pool. Not below pytest's own directory, which is closed to other users."""
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield {pool: generated(path / pool, pool) for pool in ("prefork", "threaded")}


@pytest.fixture(params=["prefork", "threaded"])
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def target(sources: dict[str, Path], pool: str) -> Iterator[Target]:
    target = Target(sources[pool], pool)
    yield target
    print(target.log if target.log_path.exists() else "")
    target.close()
