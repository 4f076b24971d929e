"""The short form of live_fuzz.py; and that it finds something where there is something to find."""

from __future__ import annotations

import live_fuzz
import pytest
from harness import Service
from parser_fuzz import FailureError

HANDLERS = live_fuzz.HANDLERS


def test_some_seconds_find_nothing(http: Service) -> None:
    assert live_fuzz.fuzz(http, 3.0, 20261120) >= 100


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"X-Target": request.target})\n\nfor', '"X-Target": "/"})\n\nfor'),
        ("body = request.body", "body = request.body[:3]"),
        ("body = request.body", "body = request.body; assert len(body) != 5"),
    ],
)
def test_it_is_not_blind(service: Service, right: str, wrong: str) -> None:
    assert right in HANDLERS
    service.handlers(HANDLERS.replace(right, wrong))
    service.expect_errors = True
    service.start("-n", "1", "-m", "1")
    with pytest.raises(FailureError):
        live_fuzz.fuzz(service, 10.0, 1)
