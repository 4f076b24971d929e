"""Turn results.json into the benchmark report: a table for each workload and a few plots."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "bench"  # the same figures give the same file
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

Rows = dict[str, list[dict[str, float]]]


def median(figures: list[dict[str, float]], name: str) -> float:
    return statistics.median(figure[name] for figure in figures)


def ratio(ours: list[dict[str, float]], other: list[dict[str, float]], name: str) -> tuple[float, float, float]:
    """Quartiles of other/ours, round by round."""
    values = [b[name] / a[name] for a, b in zip(ours, other, strict=True) if a[name]]
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def table(name: str, rows: Rows) -> str:
    ours = next(iter(rows.values()))
    lines = [
        f"\n## {name}\n",
        "| server | requests/s | CPU µs per request | p50 ms | p99 ms | PSS MiB | errors | CPU / ours (quartiles) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for server, figures in rows.items():
        low, middle, high = ratio(ours, figures, "cpu")
        cells = [
            f"{median(figures, 'requests'):,.0f}",
            *(f"{median(figures, key):.{digits}f}" for key, digits in (("cpu", 1), ("p50", 2), ("p99", 2), ("pss", 1))),
            f"{sum(f['errors'] for f in figures):.0f}",
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
        ]
        lines.append(f"| {server} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(name: str, rows: Rows, directory: Path) -> None:
    """CPU per request, least first."""
    order = sorted(rows, key=lambda server: median(rows[server], "cpu"))
    figure, axes = plt.subplots(figsize=(8, 0.4 * len(order) + 1))
    colors = ["#2563eb" if server.startswith("ours") else "#94a3b8" for server in order]
    axes.barh(order, [median(rows[server], "cpu") for server in order], color=colors)
    axes.invert_yaxis()
    axes.set_xlabel("CPU microseconds per request, whole server tree (less is better)")
    axes.set_title(name)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    directory = Path(sys.argv[1])
    results: dict[str, Any] = json.loads((directory / "results.json").read_text())
    machine = results["machine"]
    peers = ", ".join(machine["peers"].split("\n"))
    cpu = f"{machine['processors']} processors ({machine['processor']})"
    text = [
        "# Benchmark\n",
        f"{machine['python']}, kernel {machine['kernel']}, {cpu},",
        "shared with the load generator (wrk, one thread).",
        f"{machine['rounds']} interleaved rounds of {machine['seconds']} s each.\n",
        f"Peers: {peers}.\n",
        "What decides is the CPU time per request of the whole server tree; requests per second swing with the",
        "machine. Ratios are taken round by round. `make bench` measures anew.\n",
    ]
    for name, rows in results["workloads"].items():
        text += [table(name, rows), f"![{name}]({name}.svg)\n"]
        plot(name, rows, directory)
    if results["start"]:
        text += ["\n## Start to first answer\n", "| server | ms |", "|---|---:|"]
        text += [f"| {server} | {statistics.median(times):.0f} |" for server, times in results["start"].items()]
    (directory / "README.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
