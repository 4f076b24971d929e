"""Bursts from no connection to --max at once: how long until the first answers, and how many workers when?

    burst.py [--most N ...] [--rounds N] [--python PATH] [--plot FILE.svg]

For each pool and size: all clients connect and say something at the same time, and leave as soon as all are answered;
then the pool shrinks to what it was. Fails when fewer than 95% of the first answers come within 100 ms, over all
rounds, or when the pool stays larger. --plot draws the number of workers over time, of the last round at each size.
"""

from __future__ import annotations

import argparse
import select
import socket
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from load.service import Service, verdict  # after its path

ECHO = """
def service_connection(stream):
    while line := stream.readline():
        stream.write(line)
"""
IDLE = 5  # --idle, its default
SOON = 0.1  # seconds
PATIENCE = 120.0  # seconds for the pool to shrink
Line = list[tuple[float, int]]  # seconds since the burst began, workers


class Watch(threading.Thread):
    """Counts the workers of a service every few milliseconds."""

    def __init__(self, service: Service, pool: str) -> None:
        super().__init__(daemon=True)
        server = service.children(service.process.pid)[0]
        self.path = f"/proc/{server}/task/{server}/children"
        if pool == "threaded":
            (host,) = service.children(server)
            self.path = f"/proc/{host}/status"
        self.pause = 0.002
        self.line: Line = []
        self.enough = threading.Event()

    def count(self) -> int:
        text = Path(self.path).read_text()
        return int(text.partition("Threads:")[2].split()[0]) - 1 if "Threads:" in text else len(text.split())

    def run(self) -> None:
        while not self.enough.wait(self.pause):
            self.line.append((time.monotonic(), self.count()))

    def settled(self, most: int) -> bool:
        """Wait until there are so many, or fewer."""
        deadline = time.monotonic() + PATIENCE
        while self.count() > most and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.count() <= most

    def since(self, began: float) -> Line:
        self.enough.set()
        self.join()
        return [(at - began, count) for at, count in self.line]


def burst(service: Service, most: int) -> list[float]:
    """Seconds until each of so many clients had its first answer."""
    poller, clients, sent = select.epoll(), {}, {}
    for number in range(most):
        client = socket.socket()
        client.setblocking(False)
        sent[client.fileno()] = time.monotonic()
        client.connect_ex(("127.0.0.1", service.port))
        clients[client.fileno()] = client, b"%d\n" % number
        poller.register(client, select.EPOLLOUT)
    took: list[float] = []
    while len(took) < most:
        events = poller.poll(30)
        if not events:
            sys.exit(f"{most - len(took)} of {most} clients got no answer")
        for fd, mask in events:
            client, said = clients[fd]
            if mask & select.EPOLLIN:
                if client.recv(100) != said:
                    sys.exit("a wrong answer, or none")
                took.append(time.monotonic() - sent[fd])
                poller.unregister(fd)
            else:
                client.sendall(said)
                poller.modify(fd, select.EPOLLIN)
    poller.close()
    for client, _ in clients.values():
        client.close()
    return took


def measure(pool: str, most: int, rounds: int, python: str) -> tuple[bool, Line]:
    took: list[float] = []
    good = True
    with Service(pool, "stream", ECHO, "-n", f"{IDLE}", "-m", f"{most}", python=python) as service:
        for _ in range(rounds):
            watch = Watch(service, pool)
            while watch.count() < IDLE:
                time.sleep(0.01)  # it is ready as soon as one is
            watch.start()
            began = time.monotonic()
            took += burst(service, most)
            watch.pause = 0.05
            good &= watch.settled(IDLE + 1)  # fewer than half of one are not worth a change
            line = watch.since(began)
    took.sort()
    p95 = took[int(len(took) * 0.95)]
    peak = max(count for _, count in line)
    print(
        f"{pool}, -m {most}, {rounds} bursts: first answers: median {statistics.median(took) * 1000:.0f} ms,"
        f" 95% within {p95 * 1000:.0f} ms, last {took[-1] * 1000:.0f} ms; {peak} workers at most,"
        f" {line[-1][1]} after {line[-1][0]:.0f} s"
    )
    good = verdict(f"{pool}, -m {most}: as few workers as before", good)
    return verdict(f"{pool}, -m {most}: 95% of the first answers within 100 ms", p95 < SOON) and good, line


def plot(lines: dict[tuple[str, int], Line], path: str) -> None:
    """The burst, and the calm after it."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "burst"  # the same figures give the same file
    import matplotlib.pyplot as plt

    figure, (first, later) = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for (pool, most), line in lines.items():
        for axes, factor in ((first, 1000), (later, 1)):
            axes.step(
                [at * factor for at, _ in line], [count for _, count in line], where="post", label=f"{pool}, -m {most}"
            )
    first.set(xlim=(0, 150), xlabel="milliseconds since the burst began", ylabel="workers")
    later.set(xlim=(0, None), xlabel="seconds since the burst began")
    for axes in (first, later):
        axes.grid(alpha=0.3)
        axes.set_ylim(0, None)
    later.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, nargs="+", default=[25], help="of --max; 25 is the service's default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default="/usr/bin/python3", help="that runs the service")
    parser.add_argument("--plot", help="the file to draw it in")
    given = parser.parse_args()
    good, lines = True, {}
    for most in given.most:
        for pool in ("prefork", "threaded"):
            kept, lines[pool, most] = measure(pool, most, given.rounds, given.python)
            good &= kept
    if given.plot:
        plot(lines, given.plot)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
