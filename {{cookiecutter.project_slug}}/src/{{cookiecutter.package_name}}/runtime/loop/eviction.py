"""Eviction: which idle connection makes room for a new one, at --max-connections or without a free descriptor."""

from collections.abc import Callable, Mapping
from heapq import nsmallest
from operator import itemgetter

from .interfaces import FOREVER, Pollable

IDLE = 0.5  # seconds: on a connection that has been idle for less, a request may be on its way
CANDIDATES = 128  # found in one look, which is a walk over all connections: 3 ms with 10,000
LOOK = 0.1  # seconds between looks, when the last one has found fewer
DEFER = 0.02  # seconds for which a worker leaves it to a sibling whose connection has been idle for longer
DEFERRALS = 10  # in a row at most: that sibling may be blocked
OLDER = 0.01  # seconds by which it has to be
ALONE = 2.0  # seconds for which siblings are not asked, after one of them was waited for in vain

since = itemgetter(0)


class Eviction:
    """A policy without I/O. It chooses the longest idle connection of this worker, and knows when to leave that to a
    sibling."""

    def __init__(self) -> None:
        # Since when each is idle, the longest idle at the end. All others have become idle later.
        self.candidates: list[tuple[float, Pollable]] = []
        self.next_look = 0.0
        self.deferrals = 0  # in a row
        self.alone_until = 0.0

    @property
    def oldest(self) -> float:
        """Since when the longest idle connection is idle, as far as is known; 0.0 = there is none."""
        return self.candidates[-1][0] if self.candidates else 0.0

    def look(self, table: Mapping[int, Pollable], now: float) -> None:
        """Find the candidates anew."""
        found = [(moment, item) for item in table.values() if (moment := item.idle_since) < FOREVER]
        self.candidates = sorted(nsmallest(CANDIDATES, found, key=since), key=since, reverse=True)
        self.next_look = now + LOOK if len(found) <= CANDIDATES else 0.0

    def choose(self, table: Mapping[int, Pollable], now: float, is_readable: Callable[[int], bool]) -> Pollable | None:
        """The connection to close; None when none has been idle for long enough. `is_readable` says whether something
        has arrived on a descriptor that is not read yet: then it is idle no more."""
        for is_fresh in (False, True):
            if is_fresh:
                self.look(table, now)
            while self.candidates:
                idle_since, item = self.candidates[-1]
                if table.get(item.fd) is item and item.idle_since == idle_since and not is_readable(item.fd):
                    return item if idle_since <= now - IDLE else None
                self.candidates.pop()
            if now < self.next_look:
                return None
        self.next_look = now + LOOK
        return None

    def defers(self, own: float, siblings: float, now: float) -> bool:
        """Is it a sibling's turn? `own` and `siblings`: since when this worker's longest idle connection and that of
        all workers are idle; 0.0 = there is none."""
        if now < self.alone_until or not 0 < siblings <= min(now - IDLE, own - OLDER if own else now):
            self.deferrals = 0
            return False
        self.deferrals += 1
        if self.deferrals <= DEFERRALS:
            return True
        self.deferrals = 0
        self.alone_until = now + ALONE
        return False
