"""Write the tables of measured figures into the pages that quote them: `python ci/bench/pages.py`, which `make bench`
does too. A test compares."""

import statistics
from pathlib import Path
from typing import Any

from figures import median, ratio, results

REPOSITORY = Path(__file__).resolve().parents[2]
COMPARISON = REPOSITORY / "docs/why-no-gunicorn.md"
SIZING = REPOSITORY / "{{cookiecutter.project_slug}}/docs/sizing.md"
BEGIN, END = "<!-- begin {}: made by ci/bench/pages.py of the template -->\n", "<!-- end {} -->"
# What each is, for who reads the comparison.
PEERS = {
    "ours-prefork": "this, processes",
    "ours-threaded": "this, threads",
    "gunicorn-sync": "gunicorn, sync workers",
    "gunicorn-gthread": "gunicorn, gthread workers",
    "waitress": "waitress",
    "cheroot": "cheroot",
    "uvicorn-h11": "uvicorn, h11 (Python)",
    "uvicorn-httptools": "uvicorn, httptools and uvloop (C)",
    "granian": "granian (Rust), WSGI",
    "uwsgi": "uWSGI (C)",
    "bjoern": "bjoern (C)",
    "nginx": "nginx alone, a fixed answer",
}
LOADS = {
    "browser": "GET with a browser's head",
    "json": "JSON in and out",
    "connection": "a connection for each request",
    "large": "a large answer",
    "sleep-5ms": "a handler that waits 5 ms",
}


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def small(measured: dict[str, Any]) -> str:
    """All servers under the simplest load, least CPU first."""
    rows = measured["workloads"]["small"]
    ours = rows["ours-prefork"]
    lines = [
        "| server | CPU µs per request | of ours | requests/s | p99 ms | memory MiB | start ms |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for server in sorted((one for one in PEERS if one in rows), key=lambda one: median(rows[one], "cpu")):
        start = measured["start"].get(server)
        lines.append(
            row(
                [
                    PEERS[server],
                    f"{median(rows[server], 'cpu'):.1f}",
                    f"{ratio(ours, rows[server], 'cpu')[1]:.2f}",
                    f"{median(rows[server], 'requests'):,.0f}",
                    f"{median(rows[server], 'p99'):.1f}",
                    f"{median(rows[server], 'pss'):.0f}",
                    f"{statistics.median(start):.0f}" if start else "",
                ]
            )
        )
    return "\n".join(lines) + "\n"


def others(measured: dict[str, Any]) -> str:
    """CPU per request under other loads, of those that were measured there."""
    columns = ["ours-prefork", "ours-threaded", "gunicorn-sync", "gunicorn-gthread", "uvicorn-httptools", "granian",
               "bjoern"]  # fmt: skip
    lines = [row(["CPU µs per request", *(PEERS[one] for one in columns)]), "|---|" + "---:|" * len(columns)]
    for load, words in LOADS.items():
        rows = {name.removesuffix("-32"): figures for name, figures in measured["workloads"][load].items()}
        cells = [f"{median(rows[one], 'cpu'):.0f}" if one in rows else "" for one in columns]
        lines.append(row([words, *cells]))
    return "\n".join(lines) + "\n"


def own(measured: dict[str, Any]) -> str:
    """What the service itself takes, for who works out how many replicas there have to be."""

    def span(digits: int, scale: float, *values: float) -> str:
        low, high = (f"{value * scale:.{digits}f}" for value in (min(values), max(values)))
        return low if low == high else f"{low} to {high}"

    def both(load: str, what: str, suffix: str = "") -> list[float]:
        rows = measured["workloads"][load]
        return [median(rows[f"ours-{pool}{suffix}"], what) for pool in ("prefork", "threaded")]

    slow = measured["workloads"]["sleep-5ms"]
    two, many = median(measured["workloads"]["small"]["ours-prefork"], "pss"), median(slow["ours-prefork-32"], "pss")
    rows = {
        "own, connections that are kept, a fast handler": f"{span(3, 0.001, *both('browser', 'cpu'))} ms,"
        " with a browser's head of 12 fields",
        "own, a connection for each request": f"{span(3, 0.001, *both('connection', 'cpu'))} ms",
        "own, handlers that wait (`--own 0.1`, the default)": f"{span(3, 0.001, *both('sleep-5ms', 'cpu', '-32'))} ms",
        "a replica without work (`--base 20`)": f"{span(0, 1, *both('small', 'pss'))} MiB, with two workers",
        "a worker process (`--each 6`)": f"{(many - two) / 30:.1f} MiB of its own; the rest is for your handlers",
        "a worker thread": "too little to see: a process with 32 of them, and all else, took "
        f"{median(slow['ours-threaded-32'], 'pss'):.1f} MiB",
    }
    return "| | |\n|---|---|\n" + "".join(f"{row(list(cells))}\n" for cells in rows.items())


def trust(measured: dict[str, Any]) -> str:
    """The formula beside what was measured: of 32 workers whose handler waits 5 ms."""
    expected = 32 * 1000 / (0.1 + 5)
    slow = measured["workloads"]["sleep-5ms"]
    prefork, threaded = (median(slow[f"ours-{pool}-32"], "requests") for pool in ("prefork", "threaded"))
    return (
        f"Measured were {prefork:,.0f} (prefork) and {threaded:,.0f} (threaded):"
        f" {100 * prefork / expected:.0f} and {100 * threaded / expected:.0f} of 100.\n"
    )


PAGES = {COMPARISON: {"small": small, "others": others}, SIZING: {"own": own, "trust": trust}}


def written(page: Path, measured: dict[str, Any]) -> str:
    """The page with its tables as they should be."""
    text = page.read_text(encoding="utf-8")
    for name, table in PAGES[page].items():
        before, _, rest = text.partition(BEGIN.format(name))
        _, end, after = rest.partition(END.format(name))
        if not end:
            raise ValueError(f"{page.name} has no place for {name}")
        text = before + BEGIN.format(name) + table(measured) + end + after
    return text


def main() -> None:
    measured = results()
    for page in PAGES:
        page.write_text(written(page, measured), encoding="utf-8")


if __name__ == "__main__":
    main()
