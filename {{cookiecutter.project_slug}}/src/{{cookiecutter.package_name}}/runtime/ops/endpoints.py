"""The supervisor's pages: what probes, `ctl` and the status page ask, and what `ctl` may order."""

import json
import os
import selectors
import socket
from collections.abc import Callable, Iterator
from typing import Any

from ..config.errors import NOPERM, USAGE, StartError
from ..config.settings import Config
from ..log.records import log
from ..process.operations import Done, Operations, Snapshot
from ..system import binding
from ..system.listeners import remove
from . import exposition, figures
from .admin_http import AdminServer, Answer, Page, Reply

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class Endpoints:
    """The --admin and --control endpoints of one supervisor."""

    operations: Operations
    selector: selectors.BaseSelector

    def __init__(self, config: Config) -> None:
        self.config = config
        self.servers: list[AdminServer] = []
        self.made: dict[Callable[..., Answer], Answer] = {}  # in this turn of the loop, for all that ask

    def open(self, operations: Operations, selector: selectors.BaseSelector) -> None:
        """Bind and serve. Raises StartError when --admin, or --control of a flag or a file, cannot be bound."""
        self.operations, self.selector = operations, selector
        config = self.config
        questions: dict[tuple[str, str], Page] = {
            ("GET", "/livez"): lambda *_: Answer(200, "ok\n"),
            ("GET", "/readyz"): self.readyz,
            ("GET", "/status"): lambda *_: self.once(status),
            ("GET", "/metrics"): lambda *_: self.once(metrics),
        }
        orders: dict[tuple[str, str], Page] = {
            ("POST", "/reload"): lambda _, reply: operations.reload(outcome(reply)),
            ("POST", "/reloaded"): lambda _, reply: operations.reload_outcome(outcome(reply)),
            ("POST", "/stop"): self.stop,
            ("POST", "/restart"): self.restart,
            ("POST", "/workers"): self.workers,
            ("POST", "/stacks"): self.stacks,
        }
        if config.admin:
            # pkgutil and importlib.resources do the same, also in a zip file, but are a millisecond to import.
            file = os.path.join(os.path.dirname(__file__), "status.html")
            text = __spec__.loader.get_data(file).decode()  # type: ignore[union-attr]  # every loader of files has it
            page = Answer(200, text, "text/html; charset=utf-8", PAGE_POLICY)
            self.bind(config.admin, {**questions, ("GET", "/"): lambda *_: page}, False)
            for server in self.servers:
                log.info("admin endpoint on %s", server.listener.shown("http"))
        if config.control:
            try:
                self.bind("unix:" + config.control, {**questions, **orders}, True)
            except StartError as error:
                # By the environment an image or a unit gives it to every container and service, wherever they run.
                if config.source["control"] not in ("default", "environment"):
                    raise
                log.warning("no control socket, so no ctl: %s: give --control a path where one can be made", error)

    def bind(self, address: str, pages: dict[tuple[str, str], Page], private: bool) -> None:
        mode = 0o600 if private else 0o770  # only the owner gives orders
        listeners = binding.bind(address, os.geteuid(), os.getegid(), mode)
        try:
            if os.geteuid() == 0 and not all(one.inherited or one.is_local() for one in listeners):
                raise StartError(f"--admin {address}: as root only a loopback address or unix:path is allowed", USAGE)
            self.servers += [AdminServer(self.selector, one, pages, private) for one in listeners]
        except (StartError, OSError) as error:
            remove(listeners)
            if isinstance(error, StartError):
                raise
            raise StartError(f"{address}: {error.strerror}", NOPERM) from None

    def expire(self, now: float) -> None:
        self.made.clear()
        for server in self.servers:
            server.expire(now)

    def sockets(self) -> Iterator[socket.socket]:
        for server in self.servers:
            yield from server.sockets()

    def close(self) -> None:
        for server in self.servers:
            server.close()

    def once(self, make: Callable[[Snapshot], Answer]) -> Answer:
        if make not in self.made:
            self.made[make] = make(self.operations.snapshot())
        return self.made[make]

    def readyz(self, *_: Any) -> Answer:
        reason = self.operations.unready()
        return Answer(503, f"not ready: {reason}\n") if reason else Answer(200, "ready\n")

    def stop(self, *_: Any) -> Answer:
        self.operations.stop("ctl")
        return Answer(202, "stopping\n")

    def restart(self, *_: Any) -> Answer:
        refusal = self.operations.restart()
        return Answer(409, refusal + "\n") if refusal else Answer(202, "restarting\n")

    def stacks(self, *_: Any) -> Answer:
        self.operations.stacks()
        return Answer(202, "each process logs where its threads are\n")

    def workers(self, query: str, *_: Any) -> Answer:
        """Raise or lower the idle floor: the query is the change, with its sign."""
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


def status(seen: Snapshot) -> Answer:
    return Answer(200, json.dumps(figures.status(seen)) + "\n", "application/json")


def metrics(seen: Snapshot) -> Answer:
    return Answer(200, exposition.render(figures.families(seen)), TEXT_FORMAT)


def outcome(reply: Reply) -> Done:
    """Replies when a reload has ended."""
    return lambda worked, text: reply(Answer(200 if worked else 409, text + "\n"))
