"""The service in its container answers HTTP."""

import json
from typing import Any

from talk import ask


def test_answers(service: Any) -> None:
    status, body = ask(service.address, "/")
    assert status == 200
    assert body


def test_echoes(service: Any) -> None:
    sent = json.dumps({"text": "héllo"}).encode()
    assert ask(service.address, "/echo", sent, **{"Content-Type": "application/json"}) == (200, sent)
