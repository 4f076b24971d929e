"""Real clients and proxies: the short form of ci/clients/run.py, for each that is installed."""

from __future__ import annotations

import pytest
from clients import run as clients
from harness import Service

HANDLERS = clients.HANDLERS
FLAGS = ("-n", "2", "-m", "2")


@pytest.mark.parametrize("name", clients.CLIENTS)
def test_client(http: Service, name: str) -> None:
    try:
        said = clients.CLIENTS[name](http.url(""), 2000)
    except clients.MissingError as missing:
        pytest.skip(f"{missing} is not installed")
    assert said
