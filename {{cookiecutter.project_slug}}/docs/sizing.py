"""How many replicas a load needs, and what gets tight next. docs/sizing.md explains it.

python docs/sizing.py --rate 2000 --cpu 2 --wait 20 --workers 25 --database 500
"""

import argparse
import math
from collections.abc import Sequence

# Milliseconds of processor time that the service itself takes for a request, at most: measured, see sizing.md.
OWN = 0.1


class Load:
    """A load, and the replicas that carry it. Times are milliseconds per request, memory is MiB.

    rate         requests per second, at the peak
    cpu, wait    what a handler computes, and what it waits for others
    own          what the service itself computes
    cpus, workers, memory    what a replica has: limit of processors, --max, limit of memory
    base, each   memory of a replica without work, and of each worker
    share        how far a processor or the workers may be used: more makes queues
    spare        replicas that may be missing: rolled, moved, or lost with their node
    database     connections that the database takes, one for each worker; 0 = there is none
    """

    def __init__(
        self,
        rate: float,
        cpu: float,
        wait: float,
        own: float = OWN,
        cpus: float = 1.0,
        workers: int = 25,
        memory: float = 256.0,
        base: float = 20.0,
        each: float = 6.0,
        share: float = 0.7,
        spare: int = 1,
        database: int = 0,
    ) -> None:
        self.rate, self.cpu, self.wait, self.own = rate, cpu, wait, own
        self.cpus, self.memory, self.base, self.each = cpus, memory, base, each
        self.share, self.spare, self.database = share, spare, database
        # The service starts no more than memory has room for; it leaves a tenth free.
        self.workers = max(1, min(workers, int((0.9 * memory - base) // each)))

    def capacity(self) -> dict[str, float]:
        """Requests per second that one replica carries, by what holds it back."""
        return {
            "processors": self.share * self.cpus * 1000 / (self.own + self.cpu),
            # Little's law: as many requests are being handled as come in the time that one takes.
            "workers": self.share * self.workers * 1000 / (self.own + self.cpu + self.wait),
        }

    def replicas(self) -> int:
        return math.ceil(self.rate / min(self.capacity().values())) + self.spare

    def most(self) -> dict[str, float]:
        """Requests per second that these replicas carry when the spare ones are missing; smallest first."""
        working = self.replicas() - self.spare
        found = {what: working * each for what, each in self.capacity().items()}
        if self.database:
            # Spare replicas hold their connections too: no more replicas than this can start at all.
            room = max(0, self.database // self.workers - self.spare)
            found["database"] = room * min(self.capacity().values())
        return dict(sorted(found.items(), key=lambda pair: pair[1]))

    def lines(self) -> list[str]:
        most = self.most()
        first, *others = most
        lines = [f"{self.replicas()} replicas ({self.spare} spare) of {self.workers} workers"]
        lines += [f"{what:10}  up to {rate:8.0f} requests/s with them" for what, rate in most.items()]
        if most[first] < self.rate:
            lines.append(f"the {first} cannot carry {self.rate:g} requests/s: fewer workers, or more of it")
        else:
            lines.append(f"tight first: {first}; then {', then '.join(others)}")
        return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How many replicas a load needs.")
    parser.add_argument("--rate", type=float, required=True, help="requests per second at the peak")
    parser.add_argument("--cpu", type=float, required=True, help="ms that a handler computes")
    parser.add_argument("--wait", type=float, required=True, help="ms that a handler waits")
    parser.add_argument("--own", type=float, default=OWN, help="ms of the service itself (default %(default)s)")
    parser.add_argument("--cpus", type=float, default=1.0, help="processors of a replica (default %(default)s)")
    parser.add_argument("--workers", type=int, default=25, help="its --max (default %(default)s)")
    parser.add_argument("--memory", type=float, default=256.0, help="its MiB (default %(default)s)")
    parser.add_argument("--base", type=float, default=20.0, help="MiB without work (default %(default)s)")
    parser.add_argument("--each", type=float, default=6.0, help="MiB of a worker (default %(default)s)")
    parser.add_argument("--share", type=float, default=0.7, help="highest use (default %(default)s)")
    parser.add_argument("--spare", type=int, default=1, help="replicas that may be missing (default %(default)s)")
    parser.add_argument("--database", type=int, default=0, help="connections of the database (default none)")
    print("\n".join(Load(**vars(parser.parse_args(arguments))).lines()))


if __name__ == "__main__":
    main()
