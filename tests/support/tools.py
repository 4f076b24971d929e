"""Programs that a test needs and a machine may lack. CI has them all (REQUIRE_TOOLS)."""

import os
import shutil
from collections.abc import Callable

import pytest

Tool = Callable[..., str]


@pytest.fixture(scope="session")
def tool() -> Tool:
    """Find a program, by the first of these names that is there. Where it is missing, the test is skipped and listed;
    in CI it fails."""

    def find(*names: str) -> str:
        path = next(filter(None, map(shutil.which, names)), None)
        if path is None and os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(f"this test needs {names[0]}, which is not installed")
        if path is None:
            pytest.skip(f"{names[0]} is not installed")
        return path

    return find
