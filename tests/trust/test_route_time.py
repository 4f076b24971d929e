"""Any pattern that the router accepts matches in linear time, or is refused with a reason."""

from __future__ import annotations

import time

import pytest
from harness import Wire
from trust_client import BEGIN, SOON, Prepare

PATTERNS = {
    "/{y}-{m}-{d}/x": "-",
    "/{a}.{b}.{c}.{d}/x": ".",
    "/{a}{b}/x": "a",
    "/{a}{b}{c}{d}{e}/x": "a",
    "/{a}x{b}x{c}x{d}": "x",
    "/{a}xx{b}xx{c}/x": "x",
    "/v{a}/{b}-{c}-{d}-{e}/x": "v-",
    "/{a}-{b}-{c}/{rest:path}": "-",
    "/{a}-{b}-{c}{rest:path}": "-",
    "/{a}%2E{b}%2E{c}%2E{d}/x": ".",
    "/{a}%2D{b}-{c}%2D{d}/x": "%2D",
    "/{a}-{b}/{c}-{d}-{e}/{f}-{g}-{h}/x": "-",
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_route_matches_in_linear_time(prepare: Prepare, pool: str, pattern: str) -> None:
    """A path of the pattern's separators alone, with an end that does not fit: answered in less than a second."""
    service = prepare(
        pool,
        BEGIN
        + f"""
def told(request):
    return dict(request.params)

def init(server):
    try:
        routes.add("GET", {pattern!r}, told)
    except ValueError as error:
        tell("refused", reason=str(error))
""",
    )
    # init() is in the process from which all workers are forked.
    service.start("-n", "1", "-m", "1", "-t", "--request-timeout", "10")
    refused = service.events.all("refused")
    if refused:
        assert refused[0].data["reason"]
        return
    unit = PATTERNS[pattern]
    fitting = "/" + f"{unit * 20}/" * max(0, pattern.count("/") - 2)  # as many segments as the pattern has
    service.expect_errors = True
    for size in (100, 400, 6000):
        began = time.monotonic()
        with Wire(service.address, SOON) as wire:
            wire.get(fitting + (unit * size)[:size] + "/y")
        took = time.monotonic() - began
        print(f"{size} bytes: {took:.3f} s")
        assert took < 1, f"{size} bytes: {took:.3f} s"


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("/{y}-{m}-{d}/x", "/2026-11-28/x", {"y": "2026", "m": "11", "d": "28"}),
        ("/{a}.{b}.{c}.{d}/x", "/10.0.0.1/x", {"a": "10", "b": "0", "c": "0", "d": "1"}),
        ("/{name}.{format}", "/report.json", {"name": "report", "format": "json"}),
        ("/{a}-{b}/{rest:path}", "/1-2/3/4-5", {"a": "1", "b": "2", "rest": "3/4-5"}),
    ],
)
def test_unambiguous_paths_mean_what_they_did(prepare: Prepare, pattern: str, path: str, found: dict[str, str]) -> None:
    """A pattern that is refused instead says why, in one line and before the service starts."""
    service = prepare(
        "prefork", f'{BEGIN}\n@routes.get("{pattern}")\ndef told(request):\n    return dict(request.params)\n'
    )
    checked = service.run("--check")
    if checked.returncode:
        assert checked.returncode == 70
        assert pattern in checked.stderr
        return
    service.start("-n", "1")
    with service.wire() as wire:
        assert wire.get(path).json() == found
