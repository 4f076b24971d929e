"""100,000 requests, one in a hundred slow, on connections that change hands: every one answered exactly once.

    .venv/bin/python ci/load/hand_over.py [requests] [--strace]

Descriptors are audited: none open in the end that was not open at rest, and with --strace (slower) every close() of
every worker is checked: none returns EBADF, which is what closing twice does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from load.client import Load
from load.measured import Service


def at_rest(service: Service) -> Counter[int]:
    """How many descriptors each worker has, once it is the same number twice."""
    last: Counter[int] = Counter()
    for _ in range(100):
        now = Counter({pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in service.workers})
        if now == last:
            return now
        last = now
        time.sleep(0.2)
    raise SystemExit(f"descriptors keep changing: {last}")


def main() -> int:
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    requests = numbers[0] if numbers else 100_000
    traced = "--strace" in sys.argv
    with tempfile.TemporaryDirectory() as directory:
        prefix = (
            ("strace", "-ff", "-qq", "-e", "trace=close,sendmsg,recvmsg", "-o", f"{directory}/trace") if traced else ()
        )
        with Service("-n", "4", "-m", "4", prefix=prefix) as service:
            if traced:  # the service is strace's child
                service.pid = service.children(service.pid)[0]
            before = at_rest(service)
            with Load(
                service.address, 64, lambda n: f"/sleep/0.03/{n}" if n % 100 == 0 else f"/n/{n}", requests=requests
            ) as load:
                result = load.run(60)
            after = at_rest(service)
        print(result)
        print(f"{len(result.moved)} of 64 connections changed hands; descriptors {dict(before)}, then {dict(after)}")
        good = result.answered == requests and not (result.wrong or result.lost or result.reconnected)
        if traced:
            lines = [line for file in Path(directory).iterdir() for line in file.read_text("latin-1").splitlines()]
            closes = [line for line in lines if line.startswith("close(")]
            twice = [line for line in closes if "EBADF" in line]
            passed = sum("SCM_RIGHTS" in line and line.startswith("sendmsg") for line in lines)
            print(f"{len(closes)} close(), {len(twice)} of what was closed already; {passed} descriptors passed on")
            good = good and not twice and passed > 0
    return 0 if good and before == after and result.moved else 1


if __name__ == "__main__":
    sys.exit(main())
