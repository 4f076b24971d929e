"""The figures of a service, once: one table makes `/metrics` and `/status`; `ctl status` shows the latter."""

import math
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .. import PYTHON
from ..ipc import scoreboard
from ..ipc.metrics import BOUNDS
from ..ipc.scoreboard import STATES, Slot
from ..process.operations import GenerationFacts, Snapshot
from ..system.listeners import Listener
from .exposition import Family, histogram, labels

SHOWN = 200  # workers, and threads of each, that /status lists one by one: those with the oldest requests first
WORKER_STATES = ("idle", "busy", "starting", "leaving")


class Figure(NamedTuple):
    """One figure: a number, or one number for each value of a label."""

    kind: str  # counter or gauge
    metric: str  # its name in /metrics
    help: str
    value: Callable[[Snapshot], float | Mapping[str, float]]
    field: str = ""  # its place in /status, such as totals.requests; "" when it is not there
    label: str = ""  # the label's name


def total(word: int) -> Callable[[Snapshot], float]:
    """The value of a figure that the scoreboards count."""
    return lambda seen: seen.totals.words[word]


# In the order of the manual's table.
FIGURES = (
    Figure("gauge", "service_start_time_seconds", "When the supervisor started, in Unix time.",
           lambda seen: time.time() - (time.monotonic() - seen.started)),
    Figure("gauge", "service_ready", "1 while /readyz answers 200, else 0.", lambda seen: not seen.unready, "ready"),
    Figure("gauge", "service_generation", "Number of the generation that serves, 0 without.",
           lambda seen: seen.serving),
    Figure("counter", "service_generations_total", "Generations started: the first, and one per reload.",
           lambda seen: seen.started_generations, "totals.generations"),
    Figure("counter", "service_failed_reloads_total", "Reloads that failed; the old generation served on.",
           lambda seen: seen.failed_reloads, "totals.failed_reloads"),
    Figure("counter", "service_server_crashes_total", "Server processes that died and were replaced.",
           lambda seen: seen.server_crashes, "crashes"),
    Figure("counter", "service_worker_crashes_total", "Worker processes that died and were replaced.",
           lambda seen: seen.totals.crashes, "totals.worker_crashes"),
    Figure("gauge", "service_workers", "Workers by what they do.",
           lambda seen: {state: seen.workers[state] for state in WORKER_STATES}, "workers", "state"),
    Figure("gauge", "service_workers_floor", "Idle workers that are kept ready (--idle).",
           lambda seen: seen.workers["floor"], "workers.floor"),
    Figure("gauge", "service_workers_limit", "Most workers (--max).", lambda seen: seen.workers["max"], "workers.max"),
    Figure("gauge", "service_jobs_waiting", "Requests that wait for a thread.",
           lambda seen: seen.workers["waiting"], "workers.waiting"),
    Figure("gauge", "service_accept_queue", "Connections in the accept queues (Linux, TCP).",
           lambda seen: sum(accept_queue(one) for one in seen.listeners), "queue"),
    Figure("gauge", "service_connections", "Connections that are held.", lambda seen: seen.connections, "connections"),
    Figure("counter", "service_connections_total", "Connections accepted.",
           total(scoreboard.ACCEPTED), "totals.accepted"),
    Figure("counter", "service_handovers_total", "Connections handed from a busy worker to an idle one.",
           total(scoreboard.HANDED_OVER), "totals.handed_over"),
    Figure("counter", "service_evictions_total", "Idle connections closed to make room for others (http).",
           total(scoreboard.EVICTED), "totals.evicted"),
    Figure("counter", "service_requests_total", "Requests handled (line, stream: connections).",
           lambda seen: seen.totals.requests, "totals.requests"),
    Figure("counter", "service_errors_total", "Requests that failed: status 5xx, and malformed ones.",
           total(scoreboard.ERRORS), "totals.errors"),
    Figure("counter", "service_refused_total", "Of these errors: clients refused as no worker could work.",
           total(scoreboard.REFUSED), "totals.refused"),
    Figure("counter", "service_received_bytes_total", "Bytes received (http).",
           total(scoreboard.RECEIVED), "totals.received_bytes"),
    Figure("counter", "service_sent_bytes_total", "Bytes sent (http).",
           total(scoreboard.SENT), "totals.sent_bytes"),
    Figure("counter", "service_log_lines_dropped_total", "Lines of the log that were dropped: its reader was too slow.",
           lambda seen: seen.dropped_lines, "totals.log_lines_dropped"),
    Figure("counter", "service_logger_restarts_total", "Logger processes (--log-file) that died.",
           lambda seen: seen.logger_restarts, "totals.logger_restarts"),
)  # fmt: skip


def identity(seen: Snapshot) -> dict[str, str]:
    """What runs: the labels of service_info, and the first fields of /status."""
    return {
        "name": seen.name, "version": seen.version, "python": PYTHON, "pool": seen.pool, "protocol": seen.protocol,
    }  # fmt: skip


def families(seen: Snapshot) -> list[Family]:
    found = [Family("gauge", "service_info", "Always 1; its labels say what runs.", [(labels(**identity(seen)), 1)])]
    for figure in FIGURES:
        value = figure.value(seen)
        samples = [("", value)] if not isinstance(value, Mapping) else [
            (labels(**{figure.label: name}), number) for name, number in value.items()
        ]  # fmt: skip
        found.append(Family(figure.kind, figure.metric, figure.help, samples))
    seconds = seen.totals.words[scoreboard.MICROSECONDS] / 1e6
    text = "Time from a request's arrival to its answer."
    found.append(histogram("service_request_duration_seconds", text, seen.totals.histogram(), seconds))
    for one, value in seen.totals.own.values():
        found.append(Family(one.kind, one.name + "_total" * (one.kind == "counter"), one.help, [("", value)]))
    return found


def status(seen: Snapshot) -> dict[str, Any]:
    """Everything that the supervisor knows, as plain data."""
    now = time.monotonic()
    tree: dict[str, Any] = {
        **identity(seen),
        "pid": seen.pid,
        "uptime_seconds": round(now - seen.started, 3),
        "reason": seen.unready,
        "listeners": [one.shown(seen.protocol) for one in seen.listeners],
        "throttled_seconds": round(seen.throttled_seconds, 3),
    }
    for figure in FIGURES:
        if figure.field:
            parent, _, name = figure.field.rpartition(".")
            (tree.setdefault(parent, {}) if parent else tree)[name] = figure.value(seen)
    tree["latency"] = {
        "bounds_seconds": BOUNDS,
        "counts": seen.totals.histogram(),
        "sum_seconds": seen.totals.words[scoreboard.MICROSECONDS] / 1e6,
    }
    tree["metrics"] = [
        {**one._asdict(), "value": value if math.isfinite(value) else None} for one, value in seen.totals.own.values()
    ]
    tree["generations"] = [generation_status(generation, now) for generation in seen.generations]
    return tree


def generation_status(generation: GenerationFacts, now: float) -> dict[str, Any]:
    board = generation.board
    slots = sorted(board.slots(), key=lambda slot: slot.since or float("inf"))
    return {
        "number": generation.number,
        "server_pid": generation.pid,
        "phase": board.phase.name.lower(),
        "age_seconds": round(now - generation.born, 3),
        "requests": sum(board.latency()),
        "errors": board.total(scoreboard.ERRORS),
        "accepted": board.total(scoreboard.ACCEPTED),
        "handed_over": board.total(scoreboard.HANDED_OVER),
        "connections": board.total(scoreboard.CONNECTIONS),
        "unlisted": max(0, len(slots) - SHOWN),
        "workers": [worker_status(generation, slot, now) for slot in slots[:SHOWN]],
    }


def worker_status(generation: GenerationFacts, slot: Slot, now: float) -> dict[str, Any]:
    threads = sorted(generation.board.shown_threads(slot.number), key=lambda row: row[1] or float("inf"))
    return {
        "slot": slot.number,
        "pid": slot.pid,
        "state": STATES[slot.state],
        "connections": slot.connections,
        "requests": slot.requests,
        "errors": slot.errors,
        "accepted": slot.accepted,
        "received_bytes": slot.received,
        "sent_bytes": slot.sent,
        "request_seconds": age(slot.since, now),
        "threads": [
            {"id": number, "state": "busy" if since else "idle", "request_seconds": age(since, now)}
            for number, since in threads[:SHOWN]
        ],
    }


def age(since: int, now: float) -> float | None:
    """Seconds for which the current request has run; None without one, or when it has just begun."""
    return round(max(0.0, now - since / 1000), 3) if since else None


def accept_queue(listener: Listener) -> int:
    """Connections in the kernel's accept queue; 0 where the system does not tell. tcp(7): of a listening socket,
    tcpi_unacked (bytes 24 to 27 of struct tcp_info) is that number."""
    if sys.platform != "linux" or listener.socket.family == socket.AF_UNIX:
        return 0
    try:
        return int(struct.unpack_from("I", listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0])
    except OSError:  # the listener is closed already: the service stops
        return 0
