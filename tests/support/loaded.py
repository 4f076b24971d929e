"""A service of either pool under load."""

from __future__ import annotations

import psutil
from harness import Service, eventually


class Loaded(Service):
    """A service with one of the pools, and the words for what the two have in common: a member is a process with a
    loop of its own, a worker or a host; a slot is what runs one handler at a time, a worker or a thread."""

    def slots(self, number: int, *flags: str) -> list[int]:
        """Start so many, threads in one host; the pids of the members."""
        if self.pool == "prefork":
            self.members(number, *flags)
        else:
            self.start("-n", f"{number}", "-m", f"{number}", *flags)
        return self.workers

    def members(self, number: int, *flags: str) -> set[int]:
        """Start so many processes, with one slot each, and wait until all are up: the service is ready as soon as one
        is. When they are, and hold no connection, they have the same number of descriptors; returns it."""
        hosts = ("--processes", f"{number}") if self.pool == "threaded" else ()
        self.start("-n", f"{number}", "-m", f"{number}", *hosts, *flags)
        self.wait_members(number)

        looks: list[list[int]] = []

        def same() -> set[int] | None:
            looks.append([self.descriptors(pid) for pid in self.workers])
            counts = looks[-1]
            if looks[-3:] != [counts] * 3:  # two that begin together open theirs at the same time, too
                return None
            return set(counts) if len(counts) == number and len(set(counts)) == 1 and counts[0] > 10 else None

        return eventually(same, "as many descriptors in each member") or set()

    def wait_left(self, member: int) -> None:
        eventually(lambda: member not in self.workers, f"{member} has left")

    def connections(self) -> list[int]:
        """Those that each member holds, fewest first."""
        members = (psutil.Process(pid) for pid in self.workers)
        return sorted(sum(bool(one.raddr) for one in member.net_connections("tcp")) for member in members)
