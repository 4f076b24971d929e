"""The supervisor's pages: what probes, `ctl` and the status page ask, and what they may order."""

import os
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from .. import PYTHON
from ..config.errors import NOPERM, USAGE, StartError
from ..config.settings import Config
from ..ipc import scoreboard
from ..ipc.metrics import BOUNDS
from ..ipc.scoreboard import Slot
from ..log.records import log
from ..process.operations import Done, GenerationFacts, Operations
from ..system import listeners as sockets
from ..system.listeners import Listener
from . import exposition
from .admin_http import AdminServer, Answer, Later, Page, as_json
from .exposition import Family, family, labels

LOOPBACK = ("127.", "[::1]", "localhost", "::1")
SHOWN = 200  # workers, and threads of each, that /status lists one by one: those with the oldest requests first
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class Endpoints:
    """The --admin and --control endpoints of one supervisor."""

    operations: Operations
    selector: selectors.BaseSelector

    def __init__(self, config: Config) -> None:
        self.config = config
        self.desks: list[AdminServer] = []
        self.made: dict[str, Answer] = {}  # in this turn of the loop: those who ask at once share a page

    def open(self, operations: Operations, selector: selectors.BaseSelector) -> None:
        """Raises StartError when --admin or an explicit --control cannot be bound."""
        self.operations, self.selector = operations, selector
        config = self.config
        questions: dict[tuple[str, str], Page] = {
            ("GET", "/livez"): lambda _: Answer(200, "ok\n"),
            ("GET", "/readyz"): self.readyz,
            ("GET", "/status"): lambda _: self.once("status", lambda: as_json(self.status())),
            ("GET", "/metrics"): lambda _: self.once("metrics", self.metrics),
        }
        orders: dict[tuple[str, str], Page] = {
            ("POST", "/reload"): self.reload,
            ("POST", "/reloaded"): self.reloaded,
            ("POST", "/stop"): self.stop,
            ("POST", "/restart"): self.restart,
            ("POST", "/workers"): self.workers,
        }
        if config.admin:
            if os.geteuid() == 0 and not config.admin.startswith(("unix:", "fd:", *LOOPBACK)):
                raise StartError(
                    f"--admin {config.admin}: as root only a loopback address or unix:path is allowed", USAGE
                )
            with open(os.path.join(os.path.dirname(__file__), "status.html"), encoding="utf-8") as file:
                page = Answer(200, file.read(), "text/html; charset=utf-8", PAGE_POLICY)
            self.bind(config.admin, {**questions, ("GET", "/"): lambda _: page}, False)
            log.info("admin endpoint on %s", self.desks[0].listener.shown("http"))
        if config.control:
            try:
                self.bind("unix:" + config.control, {**questions, **orders}, True)
            except StartError as error:
                if config.source["control"] != "default":
                    raise
                log.warning("no control socket, so no ctl: %s", error)

    def bind(self, address: str, pages: dict[tuple[str, str], Page], private: bool) -> None:
        listener = sockets.bind(address, os.geteuid(), os.getegid())
        if listener.temporary and private:
            os.chmod(listener.temporary, 0o600)  # only the owner gives orders
        try:
            self.desks.append(AdminServer(self.selector, listener, pages, private))
        except StartError:
            listener.remove()
            raise
        except OSError as error:
            listener.remove()
            raise StartError(f"{address}: {error.strerror}", NOPERM) from None

    def once(self, name: str, make: Callable[[], Answer]) -> Answer:
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    # ---- questions ---------------------------------------------------------------------------------------------

    def readyz(self, query: str) -> Answer:
        reason = self.operations.unready()
        return Answer(503, f"not ready: {reason}\n") if reason else Answer(200, "ready\n")

    def status(self) -> dict[str, Any]:
        """Everything that the supervisor knows, as plain data."""
        seen, now = self.operations.snapshot(), time.monotonic()
        figures, words = seen.totals, seen.totals.words
        return {
            "name": seen.name,
            "version": seen.version,
            "python": PYTHON,
            "pool": seen.pool,
            "protocol": seen.protocol,
            "pid": seen.pid,
            "uptime_seconds": round(now - seen.started, 3),
            "ready": not seen.unready,
            "reason": seen.unready,
            "listeners": [one.shown(seen.protocol) for one in seen.listeners],
            "queue": sum(waiting(one) for one in seen.listeners),
            "workers": seen.workers,
            "connections": seen.connections,
            "crashes": seen.server_crashes,
            "throttled_seconds": round(seen.throttled_seconds, 3),
            "totals": {
                "requests": figures.requests,
                "errors": words[scoreboard.ERRORS],
                "accepted": words[scoreboard.ACCEPTED],
                "handed_over": words[scoreboard.HANDED_OVER],
                "received_bytes": words[scoreboard.RECEIVED],
                "sent_bytes": words[scoreboard.SENT],
                "worker_crashes": figures.crashes,
                "generations": seen.started_generations,
                "failed_reloads": seen.failed_reloads,
                "log_lines_dropped": seen.dropped_lines,
                "logger_restarts": seen.logger_restarts,
            },
            "latency": {
                "bounds_seconds": BOUNDS,
                "counts": figures.histogram(),
                "sum_seconds": words[scoreboard.MICROSECONDS] / 1e6,
            },
            "metrics": [{**one._asdict(), "value": value} for one, value in figures.own.values()],
            "generations": [shown(generation, now) for generation in seen.generations],
        }

    def metrics(self) -> Answer:
        """The text format of Prometheus."""
        return Answer(200, exposition.render(self.families()), TEXT_FORMAT)

    def families(self) -> list[Family]:
        """All metrics; the manual's table is compared with these by a test."""
        seen = self.operations.snapshot()
        figures, words, pool = seen.totals, seen.totals.words, seen.workers
        known = labels(
            name=seen.name, version=seen.version, python=PYTHON, pool=seen.pool, protocol=seen.protocol,
        )  # fmt: skip
        started = time.time() - (time.monotonic() - seen.started)
        return [
            Family("gauge", "service_info", "Always 1; its labels say what runs.", [(known, 1)]),
            family("gauge", "service_start_time_seconds", "When the supervisor started, in Unix time.", started),
            family("gauge", "service_ready", "1 while /readyz answers 200, else 0.", not seen.unready),
            family("gauge", "service_generation", "Number of the generation that serves, 0 without.",
                   seen.serving),
            family("counter", "service_generations_total", "Generations started: the first, and one per reload.",
                   seen.started_generations),
            family("counter", "service_failed_reloads_total", "Reloads that failed; the old generation served on.",
                   seen.failed_reloads),
            family("counter", "service_server_crashes_total", "Server processes that died and were replaced.",
                   seen.server_crashes),
            family("counter", "service_worker_crashes_total", "Worker processes that died and were replaced.",
                   figures.crashes),
            Family("gauge", "service_workers", "Workers by what they do.",
                   [(labels(state=state), pool[state]) for state in ("idle", "busy", "starting", "leaving")]),
            family("gauge", "service_workers_floor", "Idle workers that are kept ready (--idle).", pool["floor"]),
            family("gauge", "service_workers_limit", "Most workers (--max).", pool["max"]),
            family("gauge", "service_jobs_waiting", "Requests that wait for a thread.", pool["waiting"]),
            family("gauge", "service_accept_queue", "Connections that nobody has accepted yet (Linux, TCP).",
                   sum(waiting(one) for one in seen.listeners)),
            family("gauge", "service_connections", "Connections that are held.", seen.connections),
            family("counter", "service_connections_total", "Connections accepted.", words[scoreboard.ACCEPTED]),
            family("counter", "service_handovers_total", "Connections handed from a busy worker to an idle one.",
                   words[scoreboard.HANDED_OVER]),
            family("counter", "service_requests_total", "Requests handled (line, stream: connections).",
                   figures.requests),
            family("counter", "service_errors_total", "Requests that failed: status 5xx, and malformed ones.",
                   words[scoreboard.ERRORS]),
            family("counter", "service_received_bytes_total", "Bytes received (http).", words[scoreboard.RECEIVED]),
            family("counter", "service_sent_bytes_total", "Bytes sent (http).", words[scoreboard.SENT]),
            family("counter", "service_log_lines_dropped_total", "Lines of the log that nobody took in time.",
                   seen.dropped_lines),
            family("counter", "service_logger_restarts_total", "Logger processes (--log-file) that died.",
                   seen.logger_restarts),
            exposition.histogram(
                "service_request_duration_seconds", "Time from a request's arrival to its answer.",
                figures.histogram(), words[scoreboard.MICROSECONDS] / 1e6,
            ),
            *(
                family(one.kind, one.name + "_total" * (one.kind == "counter"), one.help, value)
                for one, value in figures.own.values()
            ),
        ]  # fmt: skip

    # ---- orders ------------------------------------------------------------------------------------------------

    def reload(self, query: str) -> Later:
        """Answers when the reload has worked or failed."""
        later = Later()
        self.operations.reload(outcome(later))
        return later

    def reloaded(self, query: str) -> Later:
        """How the reload ends that a HUP has begun, or how the latest one ended."""
        later = Later()
        self.operations.reload_outcome(outcome(later))
        return later

    def stop(self, query: str) -> Answer:
        self.operations.stop("ctl")
        return Answer(202, "stopping\n")

    def restart(self, query: str) -> Answer:
        """Stop, and start again by the same command."""
        refusal = self.operations.restart()
        return Answer(409, refusal + "\n") if refusal else Answer(202, "restarting\n")

    def workers(self, query: str) -> Answer:
        """Raise or lower the idle floor by so many."""
        sign, digits = query[:1], query[1:]
        if sign not in ("+", "-") or not (digits.isascii() and digits.isdigit() and len(digits) < 6):
            return Answer(400, "needs a number with its sign: +2 or -2\n")
        floors = self.operations.change_floor(int(query))
        if floors is None:
            return Answer(409, f"{self.operations.unready()}\n")
        before, after = floors
        most = self.operations.snapshot().workers["max"]
        note = "" if after == before + int(query) else f" (the bounds are 1 and --max {most})"
        return Answer(200, f"idle floor {before} -> {after}{note}; a reload sets it back to --idle\n")

    def expire(self, now: float) -> None:
        """Once per turn of the loop."""
        self.made.clear()
        for desk in self.desks:
            desk.expire(now)

    def sockets(self) -> Iterator[socket.socket]:
        """All that are open."""
        for desk in self.desks:
            yield from desk.sockets()

    def close(self) -> None:
        for desk in self.desks:
            desk.close()


def outcome(later: Later) -> Done:
    """Answers somebody who waits for the end of a reload."""

    def ended(worked: bool, text: str) -> None:
        later.answer(Answer(200 if worked else 409, text + "\n"))

    return ended


def shown(generation: GenerationFacts, now: float) -> dict[str, Any]:
    """A generation as plain data."""
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
        "workers": [
            {
                "slot": slot.number,
                "pid": slot.pid,
                "state": scoreboard.STATES[slot.state],
                "connections": slot.connections,
                "requests": slot.requests,
                "errors": slot.errors,
                "accepted": slot.accepted,
                "received_bytes": slot.received,
                "sent_bytes": slot.sent,
                "request_seconds": age(slot.since, now),
                "threads": [
                    {"id": number, "state": "busy" if since else "idle", "request_seconds": age(since, now)}
                    for number, since in threads_of(generation, slot)
                ],
            }
            for slot in slots[:SHOWN]
        ],
    }


def threads_of(generation: GenerationFacts, slot: Slot) -> list[tuple[int, int]]:
    rows = generation.board.shown_threads(slot.number)
    return sorted(rows, key=lambda row: row[1] or float("inf"))[:SHOWN]


def age(since: int, now: float) -> float | None:
    """For how long the current request has run; None when there is none, or not for long."""
    return round(max(0.0, now - since / 1000), 3) if since else None


def waiting(listener: Listener) -> int:
    """Connections in the kernel's accept queue; 0 where it does not tell. tcp(7): of a listening socket, tcpi_unacked
    (bytes 24 to 27 of struct tcp_info) is that number."""
    if sys.platform != "linux" or listener.socket.family == socket.AF_UNIX:
        return 0
    try:
        return int(struct.unpack_from("I", listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0])
    except OSError:  # it is closed already: we are stopping
        return 0
