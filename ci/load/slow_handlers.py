"""Slow handlers beside fast ones: how long do the others wait?

    .venv/bin/python ci/load/slow_handlers.py [rounds]

64 keep-alive connections; one handler sleeps for 5 s, sleeps as a surprise after a thousand fast calls, or computes for
5 s: p99 of the others below 50 ms. Then all sleep 5 ms, on 32 workers: at least 0.9 of the ideal 6,400/s, p99 below
25 ms. Exits with 1 when a limit of the design is exceeded.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from load.client import Load
from load.measured import Service


def beside(path: str) -> bool:
    """63 connections ask for numbers while one waits for this."""
    with Service("-n", "4", "-m", "4") as service, Load(service.address, 63, requests=2000) as load:
        load.run()
        with Load(service.address, 1, lambda n: path.format(n), requests=1100 if "moody" in path else 1) as slow:
            thread = threading.Thread(target=slow.run)
            load.requests, load.until = 0, lambda: not thread.is_alive()
            load.result.took.clear()
            thread.start()
            result = load.run()
            thread.join()
            good = result.percentile(0.99) < 0.050 and not (result.lost or result.wrong or result.reconnected)
            print(f"{path:18} {result}; the slow one {max(slow.result.took):.1f} s", flush=True)
            return good and not slow.result.lost and max(slow.result.took) > 4.9


def sleepers(seconds: int) -> bool:
    """64 connections, 32 workers, 5 ms: the ideal is 6,400 in a second."""
    with Service("-n", "32", "-m", "32") as service:
        host, port = service.address
        while len(rest := service.connections()) < 32 or len(set(rest.values())) > 1:
            time.sleep(0.05)  # it is ready as soon as one worker is
        command = ["wrk", "-t1", "-c64", f"-d{seconds}", "--latency", f"http://{host}:{port}/sleep/0.005/1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
            time.sleep(seconds / 2)
            held = service.connections()
            said = wrk.communicate(timeout=seconds + 30)[0]
        rate = float(said.partition("Requests/sec:")[2].split()[0])
        p99 = said.partition("99%")[2].split()[0]
        value = float(p99.removesuffix("us").removesuffix("ms").removesuffix("s"))
        p99_ms = value / 1000 if p99.endswith("us") else value if p99.endswith("ms") else value * 1000
        print(f"5 ms, 32 workers, 64 connections: {rate:.0f}/s ({rate / 6400:.2f} of the ideal), p99 {p99}", flush=True)
        print("  connections of each worker:", *sorted(held[pid] - rest[pid] for pid in held), flush=True)
        return rate > 0.9 * 6400 and p99_ms < 25


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    results = []
    for _ in range(rounds):
        results += [beside(path) for path in ("/sleep/5/{}", "/moody/{}", "/burn/5/{}")]
        results.append(sleepers(8))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
