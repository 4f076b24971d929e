"""The budget of memory in which bytes are buffered for clients: what they have sent of unfinished requests, and what
they have not read of responses. All workers of a generation share it; the scoreboard has what each uses.
"""

from typing import Protocol

from ..ipc.scoreboard import BUFFERED, FREE, Scoreboard
from ..log.records import log

SMALL = 4096  # bytes of a connection that are not counted
STEP = 65536  # bytes that may be added at least between two looks
QUIET = 60.0  # seconds before the log names it again
MIB = 2**20


class Holder(Protocol):
    """A connection that buffers more than a little."""

    @property
    def held(self) -> int: ...  # bytes
    def shed(self) -> bool: ...  # refuse it, or end it; False when that cannot be done now


class Budget:
    """Connections with more than SMALL bytes are counted exactly only now and then: in each sweep, and after half of
    what was left has been added; so a request that ends costs nothing here."""

    def __init__(self, board: Scoreboard, base: int, most: int) -> None:
        """`most` bytes for all workers, 0 = no limit."""
        self.board = board
        self.base = base
        self.most = most or 2**60
        self.holders: dict[Holder, tuple[float, int]] = {}  # since when each is one, in seconds, and its bytes then
        self.room = STEP  # bytes that may be added before the next look
        self.quiet_until = 0.0

    def add(self, item: Holder, held: int, now: float) -> None:
        """This connection buffers so many bytes by now. It may have ended afterwards."""
        since, before = self.holders.get(item, (now, 0))
        self.holders[item] = since, held
        self.room -= held - before
        if self.room < 0:
            self.look(now)

    def look(self, now: float) -> None:
        """Count exactly. Beyond the budget, and beyond this worker's equal share of it, the largest and slowest go, but
        not the last."""
        self.holders = {item: (since, held) for item, (since, _) in self.holders.items() if (held := item.held) > SMALL}
        workers = max(1, len(self.board.states) - self.board.states.tolist().count(FREE))
        share = self.most // workers
        used, beyond = self.publish()
        if beyond > 0 and used > share:
            self.shed(min(beyond + self.most // 8, used - share * 7 // 8), now)
            used, beyond = self.publish()
        self.room = max(STEP, -beyond // (2 * workers))

    def shed(self, size: int, now: float) -> None:
        """End so many bytes' worth of connections."""
        if now >= self.quiet_until:
            self.quiet_until = now + QUIET
            log.warning("more than %.1f MiB buffered for clients, which is what memory allows: the largest and slowest"
                        " requests are refused", self.most / MIB)  # fmt: skip
        ranked = sorted(self.holders.items(), key=lambda one: one[1][1] * (1.0 + now - one[1][0]), reverse=True)
        for item, (_, held) in ranked[:-1]:
            if size <= 0:
                return
            if item.shed():
                size -= held
                del self.holders[item]

    def publish(self) -> tuple[int, int]:
        """Tell siblings; returns what this worker uses, and by how much all are beyond the budget."""
        used = self.board.words[self.base + BUFFERED] = sum(held for _, held in self.holders.values())
        return used, self.board.total(BUFFERED) - self.most
