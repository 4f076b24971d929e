"""Hostile clients and hostile workers: what each does to those beside it, and to the supervisor, with figures.

    python ci/faults/hostile.py [--pool prefork|threaded] [--row TEXT] [--short] [--write FILE]

Exit status 1 when a row fails. `--short` is what CI runs: one row of some kinds, for a moment.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import hostile_clients
import hostile_workers
from beside import run
from matrix import table, write
from target import generated

TABLES = {"hostile clients": hostile_clients.ROWS, "hostile workers": hostile_workers.ROWS}
POOLS = ("prefork", "threaded")
COLUMNS = ("pool", "line", "what it does", "sent", "answered", "lost", "p50 ms", "longest ms", "/livez ms",
           "/readyz ms", "supervisor MiB", "member MiB", "refused", "verdict")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", choices=POOLS, action="append")
    parser.add_argument("--row", default="", help="only rows whose line or deed contains this")
    parser.add_argument("--short", action="store_true", help="for a moment; without --row, some rows")
    parser.add_argument("--write", type=Path, help="write the tables into this file, between their markers")
    options = parser.parse_args()
    good = True
    results: dict[str, list[dict[str, object]]] = {name: [] for name in TABLES}
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        for pool in options.pool or POOLS:
            source = generated(Path(directory) / pool, pool)
            for name, rows in TABLES.items():
                for entry in rows:
                    if options.row in f"{entry.line} {entry.does}" and (
                        entry.short or options.row or not options.short
                    ):
                        result = run(entry, source, pool, options.short)
                        results[name].append(result)
                        good &= not str(result["verdict"]).startswith("FAILED")
                        print(" | ".join(f"{result[column]}" for column in COLUMNS), flush=True)
    for name, found in results.items():
        print(f"\n{name}\n\n{table(found, COLUMNS)}")
        if options.write:
            write(options.write, table(found, COLUMNS), name)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
