"""The text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..ipc.metrics import BOUNDS


class Family(NamedTuple):
    """A metric with all its samples."""

    kind: str
    name: str
    help: str
    samples: Iterable[tuple[str, float]]  # what follows the name, such as {state="idle"}; and the value


def histogram(name: str, text: str, counts: Sequence[int], seconds: float) -> Family:
    """Counts within each of BOUNDS and beyond, as a histogram of Prometheus: cumulated."""
    samples: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(repr, BOUNDS), "+Inf"), counts, strict=True):
        total += count
        samples.append((f'_bucket{{le="{bound}"}}', total))
    return Family("histogram", name, text, [*samples, ("_sum", seconds), ("_count", total)])


def escaped(text: str, quotes: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def labels(**values: str) -> str:
    """{name="value",…}, escaped."""
    return "{" + ",".join(f'{name}="{escaped(value, quotes=True)}"' for name, value in values.items()) + "}"


def number(value: float) -> str:
    """A sample's value: whole numbers without a fraction, others exactly; what is no number as Go writes it."""
    if not math.isfinite(value):
        return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if abs(value) < 2**63 and value == int(value) else repr(float(value))


def render(families: Iterable[Family]) -> str:
    lines = []
    for one in families:
        lines += [f"# HELP {one.name} {escaped(one.help)}", f"# TYPE {one.name} {one.kind}"]
        lines += [f"{one.name}{suffix} {number(value)}" for suffix, value in one.samples]
    return "\n".join(lines) + "\n"
