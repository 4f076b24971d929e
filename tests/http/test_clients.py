"""Real clients and proxies: the short form of ci/clients/run.py, for each that is installed."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path

import pytest
from harness import Service

_path = Path(__file__).resolve().parents[2] / "ci" / "clients" / "run.py"
_spec = util.spec_from_file_location("real_clients", _path)
assert _spec is not None and _spec.loader is not None
clients = util.module_from_spec(_spec)
sys.modules[_spec.name] = clients
_spec.loader.exec_module(clients)

HANDLERS = clients.HANDLERS
FLAGS = ("-n", "2", "-m", "2")


@pytest.mark.parametrize("name", clients.CLIENTS)
def test_client(http: Service, name: str) -> None:
    try:
        said = clients.CLIENTS[name](http.url(""), 2000)
    except clients.MissingError as missing:
        pytest.skip(f"{missing} is not installed")
    assert said
