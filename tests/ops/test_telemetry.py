"""The manual's example of OpenTelemetry, run in a service of its own with the SDK's in-memory exporter."""

from __future__ import annotations

import re
import sys

import httpx
import pytest
from baking import REPOSITORY, TREE
from harness import ROOT
from watched import Watched

# What the example leaves to the reader: where the spans go. Here: to the test, by way of the SDK's own exporter.
MEMORY = """
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from .probe import tell


def exporter():
    class Exporter(InMemorySpanExporter):
        def shutdown(self):
            for span in self.get_finished_spans():
                parent = f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}" if span.parent else ""
                tell("span", name=span.name, kind=span.kind.name, parent=parent, **dict(span.attributes))
            super().shutdown()

    return Exporter()
"""


def test_the_example_makes_a_span_per_request(service: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / TREE / "docs/manual.md").read_text()
    (example,) = re.findall(r"```python\n(from opentelemetry .*?)```", text, re.DOTALL)
    code, number = re.subn(r"\ndef exporter\(\).*?\n\n\n", lambda _: MEMORY + "\n\n", example, flags=re.DOTALL)
    assert number == 1
    service.handlers(code)
    # The SDK is installed where the tests run.
    monkeypatch.setattr("harness.PYTHON", sys.executable)
    service.start("-n", "1", "-m", "1", *(("-u", "root") if ROOT else ()))  # who can read that Python
    caller = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"
    answer = service.get("/orders/7", headers={"traceparent": f"00-{caller}-01"})
    assert (answer.status_code, answer.json()) == (httpx.codes.OK, {"order": "7"})
    assert service.get("/orders/8").json() == {"order": "8"}
    service.stop()
    spans = [arrival.data for arrival in service.events.wait("span", 2)]
    assert [span["order.id"] for span in spans] == ["7", "8"]
    assert [span["parent"] for span in spans] == [caller, ""]
    assert {(span["name"], span["kind"], span["http.request.method"]) for span in spans} == {
        ("GET /orders/{id}", "SERVER", "GET")
    }
