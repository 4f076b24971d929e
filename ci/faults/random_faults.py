"""Random faults in a row against one service under load; in the end it must be as it was in the beginning.

    python ci/faults/random_faults.py --seed 1 --count 500 [--pool prefork|threaded]

The seed is printed, and the same seed breaks the same things in the same order. Exit status 1 when something leaks,
when an answer is wrong, or when the service does not come back.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from target import HANDLERS, Target, eventually, generated
from traffic import Load

BROKEN = "raise LookupError('broken')\n"


class Faults:
    """What can be done to a service; each leaves it able to recover."""

    def __init__(self, target: Target, rng: random.Random) -> None:
        self.target = target
        self.rng = rng

    def kill_member(self) -> None:
        self.target.send("member", self.rng.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT]))

    def kill_server(self) -> None:
        self.target.send("server", self.rng.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]))

    def term_member(self) -> None:
        self.target.send("member", signal.SIGTERM)

    def stop_and_go(self) -> None:
        pid = self.target.send(self.rng.choice(["member", "server", "supervisor"]), signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.0, 0.2))  # this is the fault itself
        self.target.kill(pid, signal.SIGCONT)

    def reload(self) -> None:
        for _ in range(self.rng.choice([1, 1, 1, 2, 3])):
            self.target.send("supervisor", signal.SIGHUP)

    def broken_reload(self) -> None:
        self.target.handlers(BROKEN)
        at = len(self.target.log)
        self.target.send("supervisor", signal.SIGHUP)
        try:
            self.target.said("reload failed|cannot be imported", at)
        finally:
            self.target.handlers(HANDLERS)

    def respawn(self) -> None:
        self.target.send("supervisor", signal.SIGUSR1)

    def floor(self) -> None:
        self.target.send("supervisor", self.rng.choice([signal.SIGTTIN, signal.SIGTTOU]))

    def ignored(self) -> None:
        number = self.rng.choice(
            [signal.SIGPIPE, signal.SIGALRM, signal.SIGURG, signal.SIGIO, signal.SIGTSTP, signal.SIGXFSZ]
        )
        self.target.send(self.rng.choice(["member", "server", "supervisor"]), number)

    def all(self) -> list[Callable[[], None]]:
        return [self.kill_member, self.kill_member, self.kill_server, self.term_member, self.stop_and_go, self.reload,
                self.broken_reload, self.respawn, self.floor, self.ignored]  # fmt: skip


def run(pool: str, source: Path, seed: int, count: int) -> list[str]:
    """The things that are wrong in the end."""
    rng = random.Random(seed)
    target = Target(source, pool)
    wrong: list[str] = []
    done: Counter[str] = Counter()
    try:
        target.start("-n", "3", "-m", "6", "--fast-time", "0", "--drain-timeout", "5")
        eventually(lambda: len(target.members()) >= (3 if pool == "prefork" else 1), "the pool")
        before = target.descriptors()
        load = Load(target.port, 8).start()
        faults = Faults(target, rng)
        slowest = 0.0
        for number in range(count):
            fault = rng.choice(faults.all())
            done[fault.__name__] += 1
            load.mark()
            fault()
            try:
                eventually(lambda: load.recovered is not None, "an answer", 20)
            except TimeoutError:
                wrong.append(f"no answer after fault {number}, {fault.__name__}")
                break
            slowest = max(slowest, load.recovered or 0.0)
        load.stop()
        eventually(target.settled, "one generation, no member leaving", 60)
        if target.zombies():
            wrong.append(f"{target.zombies()} zombies")
        # A reload more: its server is a new one, whose descriptors can be compared with those of the first.
        at = len(target.log)
        target.send("supervisor", signal.SIGHUP)
        target.said("ready: generation", at)
        eventually(target.settled, "one generation, no member leaving", 60)
        try:  # the supervisor closes those of a generation when it hears of its end, which may be a moment later
            eventually(lambda: target.descriptors() == before, "as many descriptors as before")
        except TimeoutError:
            wrong.append(f"descriptors: {before} before, {target.descriptors()} after")
        account = load.account
        if account.total("wrong") or account.total("late"):
            wrong.append(f"wrong or late answers: {account.examples}")
        status = target.stop()
        left = target.left()
        if status or any(left.values()):
            wrong.append(f"exit status {status}, left behind: {left}")
        said = [line for line in target.log.splitlines() if "supervisor failed" in line or "server failed" in line]
        wrong += said
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(done.items()))
        print(f"{pool}: seed {seed}, {sum(done.values())} faults ({kinds});"
              f" requests: {load.sent} sent, {account.total('answered')} answered, {account.total('reset')} reset,"
              f" {account.total('refused')} refused; slowest recovery {slowest * 1000:.0f} ms;"
              f" {'; '.join(wrong) or 'nothing leaked'}", flush=True)  # fmt: skip
        if wrong:
            print(target.log[-4000:], file=sys.stderr)
    finally:
        target.close()
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--pool", choices=("prefork", "threaded"), action="append")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(2**32)
    print(f"--seed {seed}", flush=True)
    wrong = []
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        for pool in options.pool or ("prefork", "threaded"):
            wrong += run(pool, generated(Path(directory) / pool, pool), seed, options.count)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
