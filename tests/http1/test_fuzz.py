"""The short form of parser_fuzz.py; and that it finds something where there is something to find."""

from __future__ import annotations

import random

import parser_fuzz
import pytest
from parsing import http1


def test_some_seconds_find_nothing() -> None:
    inputs = requests = errors = 0
    while inputs < 100:  # a busy machine needs longer for them
        found = parser_fuzz.fuzz(3.0, random.SystemRandom().randrange(1 << 32))
        inputs, requests, errors = inputs + found[0], requests + found[1], errors + found[2]
    assert requests > inputs // 10, "hardly any input is legal: the mutations are too wild"
    assert errors > inputs // 10, "hardly any input is illegal: the mutations are too tame"


@pytest.mark.parametrize("fault", ["exception", "pieces", "status"])
def test_it_is_not_blind(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = http1.parse_head

    def faulty(buffer: bytes, limits: object, start: int = 0, seen: int = 0) -> object:
        if fault == "exception" and b"\xc4" in buffer:
            raise KeyError("a fault")
        if fault == "status" and len(buffer) > 300:
            raise http1.ProtocolError(402, "a fault")
        return original(buffer, limits, start, len(buffer) - 5 if fault == "pieces" and seen else seen)

    monkeypatch.setattr(http1, "parse_head", faulty)
    with pytest.raises(parser_fuzz.FailureError):
        parser_fuzz.fuzz(30.0, 1)
