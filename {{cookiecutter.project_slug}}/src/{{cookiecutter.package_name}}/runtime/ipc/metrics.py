"""Metrics: the user's counters and gauges, the totals of a service, and the text format of Prometheus.

Every process counts in its own slot of the scoreboard, so nothing is locked between processes and no file is needed;
the supervisor adds up when asked. What a generation counted is kept when it has ended: totals never fall.
See https://prometheus.io/docs/instrumenting/exposition_formats/ and .../practices/naming/.
"""

import math
import re
import threading
from typing import NamedTuple

from ..config.text import cleaned
from . import scoreboard
from .scoreboard import BUCKETS, CRASHES, OWN, OWN_MOST, TEXT, Scoreboard

NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
RESERVED = ("service_", "process_")  # what the service itself measures
COUNTED = (scoreboard.ERRORS, scoreboard.ACCEPTED, scoreboard.HANDED_OVER, scoreboard.EVICTED, scoreboard.RECEIVED,
           scoreboard.SENT, scoreboard.MICROSECONDS, scoreboard.DROPPED, scoreboard.REFUSED)  # fmt: skip
FIRST, LAST = 6, 26  # of the bounds shown: 2^6 µs (64 µs) to 2^26 µs (67 s); what is finer or coarser is joined
BOUNDS = tuple(2**bits / 1e6 for bits in range(FIRST, LAST + 1))


class Declared(NamedTuple):
    """One of the user's metrics, as the server declares it to the supervisor."""

    kind: str  # counter or gauge
    name: str
    help: str


class Gauge:
    """A number that goes up and down, from `server.gauge(name, help)`. Usable in handlers, in any worker or thread.

    What is shown is the sum over the workers that live, plus what the server itself (init, periodic functions,
    health) has set. A worker's part goes when it goes.
    """

    def __init__(self, board: Scoreboard, number: int) -> None:
        self._board = board
        self._values = board.values
        self._offset = OWN + number
        self._lock = threading.Lock()  # `+=` is no atomic step for threads of one process; 0.1 µs

    def add(self, amount: float = 1) -> None:
        """Raise this worker's part, or lower it with a negative amount. Raises ValueError when the sum is no finite
        number."""
        with self._lock:
            self._values[self._board.own + self._offset] = finite(self._values[self._board.own + self._offset] + amount)

    def set(self, value: float) -> None:
        """Set this worker's part. For one number of the whole service call it in a periodic function. Raises
        ValueError for what is no finite number."""
        self._values[self._board.own + self._offset] = finite(value)


class Counter(Gauge):
    """A number that only grows, from `server.counter(name, help)`. Usable in handlers, in any worker or thread."""

    def add(self, amount: float = 1) -> None:
        """Count one, or `amount` (fractions allowed). Raises ValueError when it is negative."""
        if not amount >= 0:
            raise ValueError(f"a counter only grows: {amount!r}; a gauge goes both ways")
        super().add(amount)

    def set(self, value: float) -> None:
        """Not for counters. Raises TypeError."""
        raise TypeError("a counter only grows: use add(), or a gauge")


def finite(value: float) -> float:
    """The value. Raises ValueError for what JSON cannot say, and what would spoil every later sum."""
    if not math.isfinite(value):
        raise ValueError(f"a metric is a finite number, not {value!r}")
    return value


class Registry:
    """The metrics that one generation declares."""

    def __init__(self, board: Scoreboard) -> None:
        self.board = board
        self.declared: list[Declared] = []

    def declare(self, kind: str, name: str, text: str) -> int:
        """The number of a new metric. Raises ValueError for a name or text that will not do, or too many."""
        name = name.removesuffix("_total") if kind == "counter" else name  # added when it is shown
        if NAME.fullmatch(name) is None or name.startswith(RESERVED):
            raise ValueError(f"metric {name!r}: letters, digits and underscores, not beginning with service_, process_")
        if not text or not text.isprintable():
            raise ValueError(f"metric {name!r}: needs a help text of one line")
        if any(one.name == name for one in self.declared):
            raise ValueError(f"metric {name!r} is there already")
        if len(self.declared) == OWN_MOST:
            raise ValueError(f"metric {name!r}: there can be {OWN_MOST} at most")
        self.declared.append(Declared(kind, name, text))
        data = "\n".join("\t".join(one) for one in self.declared).encode()
        if len(data) >= TEXT:
            raise ValueError(f"metric {name!r}: all help texts together have {TEXT} bytes at most")
        self.board.text[: len(data)] = data
        number = len(self.declared) - 1
        if kind == "gauge":
            self.board.gauges.append(number)
        return number


def declared(board: Scoreboard) -> list[tuple[int, Declared]]:
    """What the server of this generation has declared, each with its number. Workers can write there too: what is no
    declaration is left out, and the rest holds nothing that steers a terminal."""
    found = []
    lines = bytes(board.text).rstrip(b"\0").decode("utf-8", "replace").split("\n")
    for number, line in enumerate(lines[:OWN_MOST]):
        kind, name, text = (*line.split("\t"), "", "")[:3]
        if kind in ("counter", "gauge") and NAME.fullmatch(name) and not name.startswith(RESERVED):
            found.append((number, Declared(kind, name, cleaned(text))))
    return found


class Figures:
    """Totals of a service: ended generations (`keep`), and with `add` those that live."""

    def __init__(self) -> None:
        self.words = dict.fromkeys(COUNTED, 0)
        self.crashes = 0  # of workers
        self.latency = [0] * BUCKETS
        self.own: dict[str, tuple[Declared, float]] = {}

    def copy(self) -> "Figures":
        other = Figures()
        other.words, other.latency, other.own = self.words.copy(), self.latency.copy(), self.own.copy()
        other.crashes = self.crashes
        return other

    def add(self, board: Scoreboard, current: bool) -> None:
        """Add a living generation. What its server has set as gauges counts if it is the current one."""
        for word in COUNTED:
            self.words[word] += board.total(word)
        self.words[scoreboard.DROPPED] += board.words[scoreboard.DROPPED]  # the server's own
        self.refuse(board.words[scoreboard.REFUSED])
        self.crashes += board.words[CRASHES]
        self.latency = [a + b for a, b in zip(self.latency, board.latency(), strict=True)]
        for number, one in declared(board):
            value = board.value(number)
            if one.kind == "counter" and not 0 <= value < math.inf:
                value = 0.0  # written by no counter; it would spoil the total for good
            if one.kind == "gauge" and not current:
                value -= board.values[OWN + number]
            before = self.own.get(one.name)
            if before is not None and before[0].kind == one.kind:
                value += before[1]
            self.own[one.name] = (one, value)

    def refuse(self, number: int = 1) -> None:
        """Add clients that were refused: an error each."""
        self.words[scoreboard.REFUSED] += number
        self.words[scoreboard.ERRORS] += number

    def keep(self, board: Scoreboard) -> None:
        """A generation has ended: its counts stay, its gauges go."""
        self.add(board, False)
        for name, (one, _) in list(self.own.items()):
            if one.kind == "gauge":
                del self.own[name]

    @property
    def requests(self) -> int:
        return sum(self.latency)

    def histogram(self) -> list[int]:
        """Requests within each of BOUNDS, and beyond the last; not cumulated."""
        return [sum(self.latency[: FIRST + 1]), *self.latency[FIRST + 1 : LAST + 1], sum(self.latency[LAST + 1 :])]
