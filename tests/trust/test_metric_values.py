"""Issue 18 A 7: a metric is a number."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from trust_client import BEGIN, Prepare, get


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e308 * 10", "10**400", "'7'", "None", "1j", "True"])
@pytest.mark.parametrize("kind", ["gauge.set", "gauge.add", "counter.add"])
def test_status_is_json_whatever_a_metric_is_set_to(prepare: Prepare, kind: str, value: str) -> None:
    """Refused where it is set, or shown as JSON and as Prometheus can say it."""
    service = prepare(
        "prefork",
        BEGIN
        + f"""
from math import inf, nan

def init(server):
    global gauge, counter
    gauge = server.gauge("heat", "How hot it is.")
    counter = server.counter("events", "How many came.")

@routes.get("/set")
def change(request):
    {kind}({value})
    return "set"
""",
    )
    service.expect_errors = True
    service.watch("-n", "1", "-t")
    assert get(service, "/set").status in (200, 500)

    def no_json(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    code, body = service.page("/status")
    assert code == 200
    json.loads(body, parse_constant=no_json)
    code, body = service.page("/metrics")
    assert code == 200
    for line in body.splitlines():
        if line and not line.startswith("#"):
            float(line.rsplit(" ", 1)[1])  # NaN, +Inf and -Inf are numbers there
    assert service.run("ctl", "status", "--control", service.control).returncode == 0


def test_counter_never_becomes_nan(prepare: Prepare) -> None:
    """One bad value does not spoil a counter for good."""
    service = prepare(
        "prefork",
        BEGIN
        + """
def init(server):
    global counter
    counter = server.counter("events", "How many came.")

@routes.get("/add/{value}")
def add(request):
    counter.add(float(request.params["value"]))
    return "added"
""",
    )
    service.expect_errors = True
    service.watch("-n", "1", "-t")
    for value in ("1", "nan", "inf", "2"):
        get(service, f"/add/{value}")
    samples = [line for line in service.page("/metrics")[1].splitlines() if line.startswith("events")]
    assert samples
    assert all(math.isfinite(float(line.rsplit(" ", 1)[1])) for line in samples), samples
