"""Turn results.json into the benchmark report: a table for each workload and a few plots. Of the committed report the
pages that quote it are written too (`pages`)."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pages
from figures import RESULTS, Rows, median, ratio

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "bench"  # the same figures give the same file
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

# What is wanted: workload, ours, another, how many times its CPU per request is ours at least, and its requests/s aim.
TARGETS: tuple[tuple[str, str, str, float, float], ...] = (
    *(
        ("small", ours, peer, cpu, rate)
        for ours in ("ours-prefork", "ours-threaded")
        for peer, cpu, rate in (
            ("limit", 0.65, 0.8), ("bjoern", 0.7, 0.9), ("gunicorn-gthread", 7, 5), ("gunicorn-sync", 9, 9),
            ("waitress", 8, 8), ("cheroot", 7, 6), ("uvicorn-httptools", 1.9, 1.6), ("granian", 1.4, 1.2),
            ("node", 1.3, 1.2),
        )
    ),
    *(
        ("browser", ours, peer, cpu, rate)
        for ours in ("ours-prefork", "ours-threaded")
        for peer, cpu, rate in (
            ("uvicorn-httptools", 1.4, 1), ("granian", 1.5, 1), ("node", 1.2, 1), ("limit", 0.45, 0.6),
        )
    ),
    *(
        ("json", ours, peer, cpu, rate)
        for ours in ("ours-prefork", "ours-threaded")
        for peer, cpu, rate in (("uvicorn-httptools", 1.6, 1.5), ("granian", 1.3, 1.1), ("bjoern", 0.7, 0.85))
    ),
    *(
        ("connection", ours, peer, cpu, rate)
        for ours in ("ours-prefork", "ours-threaded")
        for peer, cpu, rate in (("gunicorn-sync", 3, 2.5), ("uvicorn-httptools", 1.6, 1.2), ("limit-close", 0.75, 0.85))
    ),
    ("one-process", "ours-threaded-1", "limit-1", 0.6, 0.75),
    ("one-process", "ours-threaded-1", "gunicorn-gthread-1", 6, 5),
    ("small", "ours-threaded", "ours-prefork", 0.8, 0.8),
    *(
        ("echo-oneshot", ours, peer, cpu, rate)
        for ours in ("line-prefork-2", "line-threaded-2")
        for peer, cpu, rate in (("socketserver-threading", 2, 1.5), ("socketserver-forking", 4, 4))
    ),
    *(
        (load, f"ours-{pool}-{form}", bare, share, 0)
        for load, pool in (("own-costs", "prefork"), ("own-costs-threaded", "threaded"))
        for form, bare, share in (
            ("text", f"ours-{pool}", 0.85), ("json", f"ours-{pool}", 0.7),
        )
    ),
    ("own-costs", "ours-prefork", "ours-prefork-uncounted", 0.95, 0),
    ("own-costs-threaded", "ours-threaded", "ours-threaded-uncounted", 0.95, 0),
)  # fmt: skip


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


def targets(results: dict[str, Any]) -> str:
    """What was wanted and what was reached."""
    lines = [
        "\n## Wanted and reached\n",
        "CPU: how many times ours the other needs for a request. Requests/s: ours to the other's.\n",
        "| workload | ours | against | CPU wanted | CPU reached | | requests/s aim | reached |",
        "|---|---|---|---:|---:|---|---:|---:|",
    ]
    for load, ours, other, cpu, rate in TARGETS:
        rows = results["workloads"].get(load, {})
        if ours not in rows or other not in rows:
            continue
        low, reached, high = ratio(rows[ours], rows[other], "cpu")
        faster = 1 / ratio(rows[ours], rows[other], "requests")[1]
        verdict = "yes" if reached >= cpu else "**no**"
        lines.append(
            f"| {load} | {ours} | {other} | {cpu:g} | {reached:.2f} ({low:.2f} to {high:.2f}) | {verdict}"
            f" | {f'{rate:g}' if rate else ''} | {faster:.2f} |"
        )
    for name, wanted, values in (
        ("memory of two workers after load, of gunicorn-gthread's PSS", 0.5,
         {server: median(rows, "pss") for server, rows in results["workloads"].get("small", {}).items()}),
        ("start to first answer, of gunicorn-gthread's", 0.8,
         {server: statistics.median(times) for server, times in results["start"].items()}),
    ):  # fmt: skip
        for ours in ("ours-prefork", "ours-threaded"):
            if ours in values and "gunicorn-gthread" in values:
                share = values[ours] / values["gunicorn-gthread"]
                lines.append(f"| {name} | {ours} | | at most {wanted:g} | {share:.2f} |"
                             f" {'yes' if share <= wanted else '**no**'} | | |")  # fmt: skip
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
    text.append(targets(results))
    for name, rows in results["workloads"].items():
        text += [table(name, rows), f"![{name}]({name}.svg)\n"]
        plot(name, rows, directory)
    if results["start"]:
        text += ["\n## Start to first answer\n", "| server | ms |", "|---|---:|"]
        text += [f"| {server} | {statistics.median(times):.0f} |" for server, times in results["start"].items()]
    (directory / "README.md").write_text("\n".join(text) + "\n")
    if directory.resolve() == RESULTS.parent:
        pages.main()


if __name__ == "__main__":
    main()
