"""Recycling of a server's members. Those that stand still are killed; those that have served enough, or grown too
large, are replaced one at a time, each by a successor that is ready before it leaves.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from resource import RUSAGE_SELF, getrusage

from ..config.settings import Config
from ..ipc import scoreboard
from ..ipc.scoreboard import Scoreboard
from ..log.records import log
from ..system import cgroups
from .member import Member

MEASURE_INTERVAL = 5.0  # seconds between looks at the members' memory
GRACE = 1.0  # seconds beyond --request-timeout: the member's own stall monitor acts first, and saves what it can
MIB = 2**20
PRESSURE = 0.9  # of the control group's memory limit: above it the worker that has grown most is replaced
LEAST_GROWTH = 32  # if it has grown by this part of the limit


class Recycling:
    """Called by the server's loop."""

    def __init__(
        self, config: Config, board: Scoreboard, members: dict[int, Member], start: Callable[[], Member | None]
    ) -> None:
        """`members` by pid, as the server keeps them; `start` starts one, if that can be done now."""
        self.config = config
        self.board = board
        self.members = members
        self.start = start
        self.old: Member | None = None  # is being replaced
        self.new: Member | None = None  # by this one
        self.next_measure = time.monotonic() + MEASURE_INTERVAL
        self.smallest = 2**62  # bytes of the smallest member ever seen: about what a fresh one has

    def check(self, now: float) -> None:
        """Kill members that do not do what they must in time."""
        for member in self.members.values():
            reason = self.overdue(member, now)
            if reason:
                log.error("worker %d %s: killed", member.pid, reason)
                member.kill(signal.SIGKILL)

    def overdue(self, member: Member, now: float) -> str:
        """What it has failed to do; "" when all is well."""
        config = self.config
        start, request, drain = config.start_timeout, config.request_timeout, config.drain_timeout
        look = self.board.words[self.board.base(member.slot) + scoreboard.MONITOR_BEAT] / 1000
        if start and self.board.states[member.slot] == scoreboard.STARTING and now - member.born > start:
            return f"is not through worker_init() after {start:g} s (--start-timeout)"
        if request and member.stopped and now - member.stopped > request:
            return f"has been stopped for more than {request:g} s (--request-timeout)"
        if request and look and not member.stopped and now - look > request + GRACE:
            return f"has stood still for more than {request:g} s (--request-timeout)"
        if drain and member.asked and now - member.asked > drain:
            return f"was asked to leave and has not for {drain:g} s (--drain-timeout)"
        return ""

    def measure(self, now: float) -> None:
        """Now and then: which members are larger than --max-memory, and is the control group's memory running short?"""
        if now < self.next_measure:
            return
        self.next_measure = now + MEASURE_INTERVAL
        most = self.config.max_memory * MIB
        limit, used = cgroups.memory()
        if not most and not limit:
            return
        sizes = {one.pid: resident(one.pid) for one in self.members.values() if not one.leaving}
        sizes = {pid: size for pid, size in sizes.items() if size}
        for pid, size in sizes.items():
            if most and size > most:
                self.want_replaced(pid, f"has {size // MIB} MiB (--max-memory {self.config.max_memory})")
        if not sizes:
            return
        self.smallest = min(self.smallest, *sizes.values())
        largest = max(sizes, key=lambda pid: sizes[pid])
        grown = sizes[largest] - self.smallest
        if limit and used > limit * PRESSURE and grown > limit // LEAST_GROWTH and self.old is None:
            shares = f"the control group uses {used // MIB} MiB of its {limit // MIB}"
            self.want_replaced(largest, f"has grown by {grown // MIB} MiB, and {shares}")

    def want_replaced(self, pid: int, reason: str) -> None:
        log.info("worker %d %s: replaced", pid, reason)
        self.board.words[self.board.base(self.members[pid].slot) + scoreboard.RECYCLE_WANTED] = 1

    def recycle(self) -> None:
        """Replace one member that wants it: first its successor, then it leaves, then it may be another's turn."""
        members = self.members
        if self.old is not None and self.new is not None:
            if self.old.pid in members and self.new.pid in members:
                if not self.old.asked and self.board.states[self.new.slot] != scoreboard.STARTING:
                    self.old.leave()
                return
            if self.old.pid in members and not self.old.asked:
                self.old.leaving = False  # the successor died: later, once more
            self.old = self.new = None
        words, board = self.board.words, self.board
        for member in members.values():
            if not member.leaving and words[board.base(member.slot) + scoreboard.RECYCLE_WANTED]:
                member.leaving = True  # first: its share of the totals is the successor's
                self.new = self.start()
                member.leaving = self.new is not None
                self.old = member if self.new is not None else None
                return


def resident(pid: int) -> int:
    """Bytes of memory that a process holds, pages that it shares with its server included; 0 when unknown."""
    return counted(pid) or listed(pid)


def own_size() -> int:
    """The same of this process; where there is no Linux /proc the most that it ever had: it may not wait for ps(1)."""
    most = getrusage(RUSAGE_SELF).ru_maxrss
    return counted(os.getpid()) or (most if sys.platform == "darwin" else most * 1024)


def counted(pid: int) -> int:
    """As Linux's proc(5) has it; 0 elsewhere."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def listed(pid: int) -> int:
    """The same as ps(1) says it, where there is no Linux /proc."""
    import subprocess  # only here: Linux pays nothing for it

    try:
        done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, timeout=5, check=True)
        return int(done.stdout) * 1024
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0
