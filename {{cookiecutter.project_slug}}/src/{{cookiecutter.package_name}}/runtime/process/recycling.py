"""Recycling of a server's members. Those that stand still are killed; those that have served enough, or grown too
large, are replaced one at a time, each by a successor that is ready before it leaves. Where the control group's memory
runs short, those that have grown most leave in time, before the kernel kills one in the middle of a request.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from resource import RUSAGE_SELF, getrusage

from ..config.settings import Config
from ..ipc import scoreboard
from ..ipc.scoreboard import Phase, Scoreboard
from ..log.records import log
from ..system import cgroups
from .member import Member

MEASURE_INTERVAL = 5.0  # seconds between looks at the members' memory, where the control group has no limit
STILL = 30.0  # seconds that a member may stand still without --request-timeout
LAPSE = 2.0  # seconds that count between two looks at most: this process may have been paused with all others
GRACE = 1.0  # seconds beyond --request-timeout: the member's own stall monitor acts first, and saves what it can
MIB = 2**20
PRESSURE = 0.9  # of the control group's memory limit: above it the worker that has grown most is replaced
LEAST_GROWTH = 32  # if it has grown by this part of the limit
# Seconds between looks at the control group: half the part of the limit that is free, so that growth at any rate is
# met by more looks the nearer the limit is. A look takes 0.15 ms.
SHORTEST_LOOK, LONGEST_LOOK = 0.1, 0.5
STAYS = 0.5  # seconds: memory that is given back sooner is a request's, and no growth
SPAN = 1.0  # seconds over which growth is measured
QUICKEST, SLOWEST = 1.0, 10.0  # seconds that the replacement of a member is expected to take


class Forecast:
    """Whether the memory of a control group will last, from one look after the other: a policy without I/O."""

    def __init__(self) -> None:
        self.looks: list[tuple[int, float]] = []  # bytes used, and given back by members that have ended; when
        self.returned = 0  # bytes given back: what has ended does not hide how fast the others grow
        self.rate = 0.0  # bytes per second

    def missing(self, now: float, limit: int, used: int, horizon: float, has_ended: bool) -> int:
        """Bytes that must be given back to stay below the limit for `horizon` seconds, and below PRESSURE now; zero or
        less when there is enough. `has_ended`: a member has, since the last look."""
        if has_ended and self.looks:
            last, then = self.looks[-1]  # since when the others went on as before
            self.returned += max(0, int(last - self.returned + self.rate * (now - then)) - used)
        self.looks.append((used + self.returned, now))
        while len(self.looks) > 1 and self.looks[1][1] <= now - SPAN - STAYS:
            del self.looks[0]
        kept, at = min(look for look in self.looks if look[1] >= now - STAYS)
        before, then = min((look for look in self.looks if look[1] <= now - SPAN), default=(kept, at))
        self.rate = max(0.0, (kept - before) / max(SPAN, at - then))
        return int(kept - self.returned + max(self.rate * (now - at + horizon), limit * (1 - PRESSURE)) - limit)


def pause(limit: int, used: int) -> float:
    """Seconds until the next look at a control group that uses so much."""
    return min(LONGEST_LOOK, max(SHORTEST_LOOK, (limit - used) / limit / 2))


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
        self.next_measure = self.next_look = time.monotonic() + SHORTEST_LOOK
        self.smallest = 2**62  # bytes of the smallest member ever seen: about what a fresh one has
        self.seen: set[int] = set()  # members whose size that was, when they began to work
        self.relieving: dict[int, float] = {}  # members that were asked to give their memory back, and when
        self.takes = QUICKEST  # seconds, until they have
        self.forecast = Forecast()
        self.checked = time.monotonic()

    def check(self, now: float) -> None:
        """Kill members that do not do what they must in time."""
        lapse, self.checked = min(now - self.checked, LAPSE), now
        for member in self.members.values():
            look = self.board.words[self.board.base(member.slot) + scoreboard.MONITOR_BEAT] / 1000
            member.observe(look, lapse)
            reason = self.overdue(member, now)
            if reason:
                log.error("worker %d %s: killed", member.pid, reason)
                member.kill(signal.SIGKILL)

    def overdue(self, member: Member, now: float) -> str:
        """What it has failed to do; "" when all is well."""
        config = self.config
        start, drain, request = config.start_timeout, config.drain_timeout, config.request_timeout or STILL
        by = " (--request-timeout)" if config.request_timeout else ""
        if start and self.board.states[member.slot] == scoreboard.STARTING and now - member.born > start:
            return f"is not through worker_init() after {start:g} s (--start-timeout)"
        if member.stopped and now - member.stopped > request:
            return f"has been stopped for more than {request:g} s{by}"
        if not member.stopped and member.still > request + GRACE:
            return f"has stood still for more than {request:g} s{by}"
        if drain and member.asked and now - member.asked > drain:
            return f"was asked to leave and has not for {drain:g} s (--drain-timeout)"
        return ""

    def measure(self, now: float) -> None:
        """At `next_look`: is the control group's memory running short? Every MEASURE_INTERVAL: which members are larger
        than --max-memory?"""
        limit, used = cgroups.memory()
        self.next_look = now + (pause(limit, used) if limit else MEASURE_INTERVAL)
        if self.board.phase is not Phase.RUNNING:
            return
        if limit:
            self.relieve(now, limit, used)
            self.recycle()
        if not self.config.max_memory or now < self.next_measure:
            return
        self.next_measure = now + MEASURE_INTERVAL
        for member in self.members.values():
            size = 0 if member.leaving else resident(member.pid)
            if size > self.config.max_memory * MIB:
                self.want_replaced(member, f"has {size // MIB} MiB (--max-memory {self.config.max_memory})")

    def relieve(self, now: float, limit: int, used: int) -> None:
        """Replace those that have grown most, as many as the forecast asks. Where another is idle they leave at once:
        a successor that is made first would take memory first."""
        states, members = self.board.states, self.members
        has_ended = not members.keys() >= self.seen
        self.seen &= members.keys()
        for pid in [pid for pid in self.relieving if pid not in members or not resident(pid)]:
            self.takes = min(SLOWEST, max(QUICKEST, self.takes * 0.9, now - self.relieving.pop(pid)))
            has_ended = True
        for member in members.values():
            if member.pid not in self.seen and states[member.slot] in (scoreboard.IDLE, scoreboard.BUSY):
                self.seen.add(member.pid)
                self.smallest = min(self.smallest, resident(member.pid) or self.smallest)
        missing = self.forecast.missing(now, limit, used, self.takes, has_ended)
        if missing <= 0:
            return
        grown = {pid: resident(pid) - self.smallest for pid in members}
        missing -= sum(max(0, grown[pid]) for pid, since in self.relieving.items() if now - since < SLOWEST)
        staying = [one for one in members.values() if not one.leaving and one.pid not in self.relieving]
        idle = [one for one in staying if states[one.slot] == scoreboard.IDLE]
        for member in sorted(staying, key=lambda one: -grown[one.pid]):
            size = grown[member.pid]
            if missing <= 0 or size <= limit // LEAST_GROWTH:
                return
            missing -= size
            self.relieving[member.pid] = now
            idle = [one for one in idle if one is not member]
            shares = f"the control group uses {used // MIB} MiB of its {limit // MIB}"
            rate = f", {self.forecast.rate / MIB:.1f} more each second" if self.forecast.rate >= MIB / 10 else ""
            self.want_replaced(member, f"has grown by {size // MIB} MiB, and {shares}{rate}")
            if idle:
                member.leave()

    def want_replaced(self, member: Member, reason: str) -> None:
        log.info("worker %d %s: replaced", member.pid, reason)
        self.board.words[self.board.base(member.slot) + scoreboard.RECYCLE_WANTED] = 1

    def recycle(self) -> None:
        """Replace one member that wants it: first its successor, then it leaves, then it may be another's turn."""
        members = self.members
        if self.old is not None and self.new is not None:
            if self.old.pid in members and self.new.pid in members:
                if not self.old.asked and self.board.states[self.new.slot] != scoreboard.STARTING:
                    self.old.leave()
                if not self.old.asked or self.old.pid not in self.relieving:  # that one's end is not waited for
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
