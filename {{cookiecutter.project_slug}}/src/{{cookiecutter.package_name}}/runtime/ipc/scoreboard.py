"""The scoreboard: anonymous shared memory in which each worker writes its own slot, and all read.

One board per generation, made by the supervisor before it forks the generation's server. A slot has one writer (its
worker), so nothing is locked; a reader may see one word newer than another, which is good enough for counting.

Every process of the generation can write all of it. So nothing here raises for what it reads: a word that is no pid, no
state, no phase is read as one that harms nothing, and `damage` names it for the supervisor.
"""

import mmap
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

# Words of 64 bits in a slot. A multiple of 8 (a cache line), so that neighbours do not share one.
WORDS = 128
(PID, STATE, CONNECTIONS, ERRORS, ACCEPTED, HANDED_OVER, BUSY_SINCE, LIVES, LOAD, RECEIVED, SENT, MICROSECONDS, THREADS,
 THREADS_BUSY, WAITING, MONITOR_BEAT, RECYCLE_WANTED, RETIRING) = range(18)  # fmt: skip
# BUSY_SINCE: when the current request began, in monotonic milliseconds; 0 = none runs, or not for long (see
# `stall_monitor`).
# MONITOR_BEAT: when its stall monitor looked last, in monotonic milliseconds; 0 = asleep, with nothing to watch.
# RECYCLE_WANTED: 1 when it has served its --max-requests, or grown above --max-memory, and wants to be replaced.
# RETIRING: 1 when it is the only one to leave: the server has asked it to, or it has a reason of its own.
# MICROSECONDS: the time that all requests together took; RECEIVED and SENT are bytes.

# Then how long requests took: word LATENCY + n counts those of n bits of microseconds, that is of less than 2^n and
# at least 2^(n-1). Each request is counted here and nowhere else, so their sum is the number of requests.
LATENCY, BUCKETS = 18, 33
# Then the user's counters and gauges, as doubles: exact for whole numbers up to 2^53.
OWN, OWN_MOST = 51, 64
# STREAMING: requests whose handlers read a body while it comes, or may.
STREAMING = 117
REFUSED = 118  # clients that were refused, as no worker could work; the server counts its own in the header
# EVICTED: idle connections that were closed to make room for others. IDLE_SINCE: since when the longest idle one that
# it holds is idle, in monotonic milliseconds; 0 = none is, or fewer than --max-connections are held.
EVICTED, IDLE_SINCE = 119, 120
BUFFERED = 121  # bytes that its connections have buffered
NO_THREADS = 116  # 1 while no thread of a host can run a handler: they do not come through worker_init()
DROPPED = 115  # lines of the log that were dropped; the server counts its own in this word of the header
# After all slots: the names of the user's metrics, as the server has declared them; then a few words per thread.
TEXT = 16384  # bytes
ROW = 2  # words: the thread's number in the system, and when its current request began as in BUSY_SINCE

# States of a worker.
FREE, STARTING, IDLE, BUSY, LEAVING = range(5)
STATES = ("free", "starting", "idle", "busy", "leaving")

# Words of the header.
# BEAT: monotonic milliseconds of the latest tick of the server. FLOOR: idle workers that it keeps ready.
# CRASHES: workers that died. THROTTLED_UNTIL: end of the crash throttle's pause, in monotonic milliseconds.
# STACKS: how often every process was asked to log its stacks (`ctl stacks`).
PHASE, HEALTH, BEAT, FLOOR, CRASHES, THROTTLED_UNTIL, STACKS = range(7)


class Phase(IntEnum):
    """Of a generation, as its members see it. Only its server writes it; its members do once it is gone."""

    STARTING = 0
    RUNNING = 1
    DRAINING = 2  # it ends, and empties the accept queue first
    REPLACED = 3  # it ends, and its successor takes over the accept queue


PHASES = dict(enumerate(Phase))
PID_LIMIT = 2**31  # no system has a process of this number
THREADS_LIMIT = 2**20  # nor a process that has so many threads

NO_CAPACITY = 2**32  # LOAD of a free slot or of a worker that is stuck: it takes no connections, so none wait for it


class Slot(NamedTuple):
    """One worker as a reader sees it."""

    number: int
    pid: int
    state: int
    connections: int
    requests: int
    errors: int
    accepted: int
    handed: int
    since: int
    received: int
    sent: int
    threads: int
    threads_busy: int
    waiting: int


class Scoreboard:
    """A header and `size` slots, each with `threads` rows. Free slots have state FREE."""

    def __init__(self, size: int, threads: int = 0) -> None:
        self.size = size
        self.threads = threads
        slots = (1 + size) * WORDS * 8
        self.memory = mmap.mmap(-1, slots + TEXT + size * threads * ROW * 8)
        whole = memoryview(self.memory)
        self.text = whole[slots : slots + TEXT]
        self.rows = whole[slots + TEXT :].cast("Q")
        self.words = whole[:slots].cast("Q")
        self.values = whole[:slots].cast("d")  # the same memory, for the user's counters and gauges
        self.own = 0  # where this process counts: base of its slot in a worker, the header in the server
        self.gauges: list[int] = []  # which of the user's metrics are gauges
        whole.release()
        # Strided views over one word of all slots: `min(board.connections)` is one C loop.
        self.connections = self.words[WORDS + CONNECTIONS :: WORDS]
        self.loads = self.words[WORDS + LOAD :: WORDS]
        self.states = self.words[WORDS + STATE :: WORDS]
        self.pids = self.words[WORDS + PID :: WORDS]
        self.idle_since = self.words[WORDS + IDLE_SINCE :: WORDS]
        for index in range(size):
            self.loads[index] = NO_CAPACITY

    def base(self, index: int) -> int:
        """Where slot `index` begins in `words`: a worker writes `words[base + ERRORS] += 1`."""
        return (1 + index) * WORDS

    def claim(self) -> int | None:
        """A free slot, marked as starting; its counts go on from those of its last owner. None when all are taken."""
        for index, state in enumerate(self.states):
            if state == FREE:
                self.states[index] = STARTING
                self.words[self.base(index) + LIVES] += 1
                return index
        return None

    def release(self, index: int) -> None:
        """The worker of this slot is gone. What it counted stays: totals never fall. What it measured goes."""
        base = self.base(index)
        self.connections[index] = 0
        self.loads[index] = NO_CAPACITY
        for word in (PID, BUSY_SINCE, THREADS, THREADS_BUSY, WAITING, MONITOR_BEAT, RECYCLE_WANTED, RETIRING,
                     NO_THREADS, STREAMING, IDLE_SINCE, BUFFERED):  # fmt: skip
            self.words[base + word] = 0
        for gauge in self.gauges:
            self.values[base + OWN + gauge] = 0.0
        self.words[base + STATE] = FREE

    @property
    def phase(self) -> Phase:
        return PHASES.get(self.words[PHASE], Phase.DRAINING)

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self.words[PHASE] = phase

    def damage(self) -> str:
        """What stands here and is written by no part of the runtime; "" when all is well."""
        if self.words[PHASE] not in PHASES:
            return f"phase {self.words[PHASE]}"
        state, pid = max(self.states), max(self.pids)
        if state > LEAVING:
            return f"state {state} of a worker"
        return f"process id {pid} of a worker" if pid >= PID_LIMIT else ""

    def empties_queue(self, base: int) -> bool:
        """Whether a member that drains takes what waits in the accept queue: when its generation ends, and also when it
        got a TERM from outside, which may have reached all members (a process group's, a control group's) before
        the server has said so. One that leaves alone leaves the queue to its siblings."""
        phase = self.phase
        return phase is Phase.DRAINING or (phase is Phase.RUNNING and not self.words[base + RETIRING])

    def record(self, base: int, seconds: float) -> None:
        """Count a request that took so long. (The event loop has this code in line.)"""
        took = int(seconds * 1e6)
        self.words[base + LATENCY + min(took.bit_length(), BUCKETS - 1)] += 1
        self.words[base + MICROSECONDS] += took

    def slots(self) -> Iterator[Slot]:
        """All slots that have a worker; the requests of its past owners are included."""
        for index in range(self.size):
            base = self.base(index)
            word = self.words[base : base + LATENCY + BUCKETS].tolist()
            if word[STATE] != FREE:
                pid = word[PID] if word[PID] < PID_LIMIT else 0
                threads = min(word[THREADS], THREADS_LIMIT)
                yield Slot(
                    index, pid, min(word[STATE], LEAVING), word[CONNECTIONS], sum(word[LATENCY:]), word[ERRORS],
                    word[ACCEPTED], word[HANDED_OVER], word[BUSY_SINCE], word[RECEIVED], word[SENT], threads,
                    min(word[THREADS_BUSY], threads), word[WAITING],
                )  # fmt: skip

    def total(self, word: int) -> int:
        """The sum of one word over all slots, past workers included."""
        return sum(self.words[WORDS + word :: WORDS])

    def latency(self) -> list[int]:
        """Requests by bits of microseconds; BUCKETS numbers."""
        return [self.total(LATENCY + bits) for bits in range(BUCKETS)]

    def value(self, number: int) -> float:
        """The sum of one of the user's metrics over all slots; what the server itself counted included."""
        return sum(self.values[OWN + number :: WORDS])

    def tally(self) -> tuple[int, int, int]:
        """How many workers are idle, busy and starting. Those that leave count as neither."""
        states = self.states.tolist()
        return states.count(IDLE), states.count(BUSY), states.count(STARTING)

    def longest_idle(self) -> float:
        """Since when the longest idle connection is idle, in monotonic seconds; 0.0 = none is known."""
        return min((since for since in self.idle_since if since), default=0) / 1000

    def has_workers(self) -> bool:
        """Whether one at least has come through worker_init() and lives."""
        return any(
            state in (IDLE, BUSY) and not self.words[self.base(index) + NO_THREADS]
            for index, state in enumerate(self.states)
        )

    def refuse(self) -> None:
        """In the server: count a client that was refused."""
        self.words[REFUSED] += 1

    def needs_workers(self, most: int) -> bool:
        """Is fewer than half of the idle floor left, and may there be more than these? Then the server has work."""
        idle, busy, starting = self.tally()
        return idle * 2 < self.words[FLOOR] and idle + busy + starting < most

    def are_all_busy(self, most: int) -> bool:
        """Whether all workers are busy, of which there can be so many."""
        idle, busy, starting = self.tally()
        return self.total(THREADS_BUSY) >= most if self.threads else not idle + starting and busy >= most

    def show_threads(self, index: int, threads: list[tuple[int, int]], busy: int, waiting: int) -> None:
        """Publish the threads of a host: the system's number and BUSY_SINCE of each (as many as there are rows), how
        many are busy, and how many jobs wait for one."""
        base, start = self.base(index), index * self.threads * ROW
        for row, (number, since) in enumerate(threads[: self.threads]):
            self.rows[start + row * ROW] = number
            self.rows[start + row * ROW + 1] = since
        self.words[base + THREADS] = len(threads)
        self.words[base + THREADS_BUSY] = busy
        self.words[base + WAITING] = waiting
        self.words[base + BUSY_SINCE] = min((since for _, since in threads if since), default=0)

    def shown_threads(self, index: int) -> list[tuple[int, int]]:
        start = index * self.threads * ROW
        number = min(self.words[self.base(index) + THREADS], self.threads)
        words = self.rows[start : start + number * ROW].tolist()
        return list(zip(words[::ROW], words[1::ROW], strict=True))

    def close(self) -> None:
        strided = (self.connections, self.loads, self.states, self.pids, self.idle_since)
        for view in (*strided, self.values, self.words, self.rows, self.text):
            view.release()
        self.memory.close()
