"""Slow uploads beside a steady GET: how long do the others wait?

    slow_uploads.py [--uploads N] [--rounds N] [--answers N] [--pool prefork|threaded] [--python PATH]

For each pool: 1,000 clients send bodies that never come to an end (byte by byte, stalled, in chunks, after
100-continue); those that are refused come back at once. Eight others ask for a small answer a hundred times a second
each. Their waits without and with the uploads are measured in turn, five times; the median of the ratios of p99 is at
most 1.5, and no request is lost.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
from load.crowd import Crowd, Kind
from load.service import Service, raise_limits, verdict
from traffic import Load

MOST = 1.5  # times p99 without the uploads
CLIENTS = 8
PAUSE = 0.01  # seconds between two requests of each
HANDLERS = """
from .runtime.http import Router

routes = Router()

@routes.get("/number/{number}")
def number(request):
    return request.params["number"]

@routes.post("/upload")
def upload(request):
    return str(len(request.body))
"""


def kind(fields: str, first: bytes = b"", piece: bytes = b"") -> Kind:
    """A byte, or a chunk of one, every second."""
    return Kind(f"POST /upload HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n".encode() + first, piece, 1.0 if piece else 0)


KINDS = (
    kind("Content-Length: 1000000", b"x" * 1000, b"x"),
    kind("Content-Length: 100000", b"x" * 70_000),
    kind("Content-Length: 10\r\nExpect: 100-continue"),
    kind("Content-Length: 1000000\r\nExpect: 100-continue", b"", b"x"),
    kind("Transfer-Encoding: chunked", b"", b"1\r\nx\r\n"),
    kind("Transfer-Encoding: chunked", b"8000\r\n" + b"x" * 0x8000 + b"\r\n"),
)


class Waits(NamedTuple):
    """Seconds."""

    p50: float
    p99: float
    longest: float


def waits(load: Load, answers: int) -> Waits:
    """Of so many requests from now on."""
    load.taken()
    load.until(answers)
    took = sorted(load.taken())
    return Waits(statistics.median(took), took[int(len(took) * 0.99)], took[-1])


def measure(pool: str, uploads: int, rounds: int, answers: int, python: str) -> tuple[list[Waits], list[Waits]]:
    """The waits of each round, without and with the uploads. Raises AssertionError when a request is lost."""
    without, beside = [], []
    with Service(pool, "http", HANDLERS, python=python) as service:
        load = Load(service.port, CLIENTS, PAUSE).start()
        try:
            load.until(answers // 2)
            for _ in range(rounds):
                without.append(waits(load, answers))
                with Crowd(service.port, uploads, *KINDS, insists=0.1) as crowd:
                    load.until(answers // 4)  # how they come, and leave, is the business of burst.py
                    beside.append(waits(load, answers))
                load.until(answers // 4)
                print(
                    f"{pool}: p50 {without[-1].p50 * 1e3:.2f} then {beside[-1].p50 * 1e3:.2f} ms, p99"
                    f" {without[-1].p99 * 1e3:.2f} then {beside[-1].p99 * 1e3:.2f} ms, longest"
                    f" {without[-1].longest * 1e3:.1f} then {beside[-1].longest * 1e3:.1f} ms;"
                    f" the uploads were told {dict(sorted(crowd.told.items()))}",
                    flush=True,
                )
        finally:
            account = load.stop()
    lost = account.failed + account.total("refused")
    assert not lost, f"{lost} requests of others were lost: {account.examples}"
    return without, beside


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=3000, help="of the others, in each measurement")
    parser.add_argument("--pool", choices=("prefork", "threaded"), action="append")
    parser.add_argument("--python", default="/usr/bin/python3", help="that runs the service")
    given = parser.parse_args()
    uploads = raise_limits(given.uploads)
    good = True
    for pool in given.pool or ("prefork", "threaded"):
        without, beside = measure(pool, uploads, given.rounds, given.answers, given.python)
        p50, p99 = (
            statistics.median(with_them[at] / alone[at] for alone, with_them in zip(without, beside, strict=True))
            for at in (0, 1)
        )
        said = f"{pool}, {uploads} slow uploads: p50 {p50:.2f}, p99 {p99:.2f} times that without (at most {MOST})"
        good &= verdict(said, p99 <= MOST)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
