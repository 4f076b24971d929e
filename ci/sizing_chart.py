"""Draw docs/sizing.svg of the generated project: how many replicas a rate needs, by what its handlers wait for.

sizing_chart.py FILE

The same formula gives the same file; a test compares them.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "sizing"
matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

DOCS = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_slug}}" / "docs"
RATES = [100 * 1.05**step for step in range(109)]  # to 20,000 requests/s
WORKERS, DATABASE = 25, 500  # of a replica; connections
# Milliseconds that a handler computes and waits.
LINES = ((0.2, 0.0), (2.0, 20.0), (2.0, 200.0))


def formula() -> ModuleType:
    """docs/sizing.py, as a module."""
    spec = importlib.util.spec_from_file_location("sizing", DOCS / "sizing.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(file: Path) -> None:
    load = formula().Load
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for cpu, wait in LINES:
        loads = [load(rate, cpu, wait, workers=WORKERS) for rate in RATES]
        tight = min(loads[-1].capacity().items(), key=lambda pair: pair[1])[0]
        label = f"computes {cpu:g} ms, waits {wait:g} ms; tight first: {tight}"
        axes.step(RATES, [one.replicas() for one in loads], where="post", label=label)
    most = DATABASE // WORKERS
    axes.axhline(most, color="grey", linestyle=":")
    axes.text(RATES[0], most * 1.05, f"{DATABASE} connections of a database are used up", va="bottom", color="grey")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="requests per second at the peak",
        ylabel="replicas, one of them spare",
        title=f"Replicas of one processor and {WORKERS} workers, by what a handler does",
    )
    axes.set_xticks([100, 1000, 10000], ["100", "1,000", "10,000"])
    axes.set_yticks([2, 5, 10, 20, 50, 100, 200], ["2", "5", "10", "20", "50", "100", "200"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    draw(Path(sys.argv[1]))
