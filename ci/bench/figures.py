"""What is read out of results.json."""

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "docs/benchmarks/results.json"
Rows = dict[str, list[dict[str, float]]]


def results() -> dict[str, Any]:
    """The figures of the committed report."""
    return dict(json.loads(RESULTS.read_text()))


def median(figures: list[dict[str, float]], name: str) -> float:
    return statistics.median(figure[name] for figure in figures)


def ratio(ours: list[dict[str, float]], other: list[dict[str, float]], name: str) -> tuple[float, float, float]:
    """Quartiles of other/ours, round by round."""
    values = [b[name] / a[name] for a, b in zip(ours, other, strict=True) if a[name]]
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
