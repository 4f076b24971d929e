"""What connections that do nothing cost those that work: CPU per request of the others, and memory of each.

    .venv/bin/python ci/load/idle_connections.py [seconds of each measurement] [rounds]

Two workers. 32 connections work, beside 1,000 idle keep-alive ones, 1,000 silent ones, 1,000 that send a byte a second,
and as many idle ones as the machine's descriptor limit allows, 10,000 at most. Measurements with and without the crowd
alternate; what is compared is the median of the pairs' ratios. Exits with 1 when a limit of the design is exceeded.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from load.client import Load, opened
from load.measured import Service, raise_limit

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
NUMBER = 1000
ENDLESS = 10_000  # the service's own --max-connections has to be above
MOST_CPU = 1.10
MOST_MEMORY = 1024


def measure(service: Service, seconds: float) -> tuple[float, int]:
    """Microseconds of CPU per request of 32 busy connections, and how many there were."""
    before = service.cpu()
    host, port = service.address
    command = ["wrk", "-t1", "-c32", f"-d{seconds:g}", f"http://{host}:{port}/"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    if "Socket errors" in said or "Non-2xx" in said:
        raise SystemExit(f"a client was dropped:\n{said}")
    answered = int(said.partition(" requests in")[0].split()[-1])
    return (service.cpu() - before) / answered * 1e6, answered


class Dripping(threading.Thread):
    """Sends a byte a second on each connection, evenly spread."""

    def __init__(self, crowd: list[socket.socket]) -> None:
        super().__init__(daemon=True)
        self.crowd = crowd
        self.enough = threading.Event()

    def run(self) -> None:
        pause = 0.05
        share = max(1, int(len(self.crowd) * pause))
        at = 0
        while not self.enough.wait(pause):
            for one in (self.crowd[at:] + self.crowd[:at])[:share]:
                one.send(b"x")
            at = (at + share) % len(self.crowd)


@contextlib.contextmanager
def crowd(service: Service, kind: str, number: int) -> Iterator[list[socket.socket]]:
    data = {"idle": GET, "silent": b"", "dripping": b"GET / HTTP/1.1\r\nX: "}[kind]
    held = list(opened(service.address, number, data))
    if kind == "idle":
        for one in held:
            while b"hello" not in one.recv(1000):
                continue
    dripping = Dripping(held)
    if kind == "dripping":
        dripping.start()
    yield held
    dripping.enough.set()
    if kind == "dripping":
        dripping.join()
    for one in held:
        one.setblocking(False)
        try:
            if not one.recv(1, socket.MSG_PEEK):
                raise SystemExit("a connection of the crowd was dropped")
        except BlockingIOError:
            one.close()


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    limit = raise_limit()
    many = min(ENDLESS, limit - 200)
    print(f"descriptor limit {limit}: {many} connections at most")
    flags = ["-n", "2", "-m", "2", "--header-timeout", "600", "--keep-alive", "600", "--max-connections", "20000"]
    good = True
    with Service(*flags) as service:
        measure(service, 1)
        for kind, number in (("idle", NUMBER), ("silent", NUMBER), ("dripping", NUMBER), ("idle", many)):
            ratios, costs, rates = [], [], []
            for _ in range(rounds):
                alone, first = measure(service, seconds)
                with crowd(service, kind, number):
                    beside, second = measure(service, seconds)
                ratios.append(beside / alone)
                costs.append((alone, beside))
                rates.append(second / first)
                with Load(service.address, 8, requests=100) as load:
                    assert not load.run().lost
            ratio = statistics.median(ratios)
            good = good and ratio < MOST_CPU
            print(
                f"{number:6} {kind:9} CPU per request {statistics.median(c[0] for c in costs):.1f} us alone,"
                f" {statistics.median(c[1] for c in costs):.1f} us beside them: x{ratio:.3f}"
                f" (of {', '.join(f'{r:.3f}' for r in sorted(ratios))}); requests x{statistics.median(rates):.2f}",
                flush=True,
            )
    for kind in ("idle", "silent"):
        with Service(*flags) as service:
            with crowd(service, "idle", 100):  # so that what is there once is not counted
                time.sleep(0.5)
            before = service.memory()
            with crowd(service, kind, many):
                each = (service.memory() - before) / many
            good = good and each < MOST_MEMORY
            print(f"{many} {kind}: {each:.0f} bytes of PSS each", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
