"""Well-behaved clients beside a hostile one: how long they wait, without the fault and with it, and what it costs."""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from target import HANDLERS, Target, eventually
from traffic import Account, Load

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as `python ci/faults/hostile.py` is called

from load.crowd import Crowd, Kind
from trust_process import Asking

CLIENTS = 8
PAUSE = 0.01  # seconds between two requests of a client: a service that has time is what is measured
WHILE = 30.0  # seconds for all these answers
SUPERVISOR = 32  # MiB that it may grow by
MEMBER = 64  # MiB that the largest member may grow by: what a hostile client sends is kept somewhere


class Row(NamedTuple):
    """A fault: the line of issue 18, what the hostile side does, and what it may cost others at most."""

    line: str
    does: str
    run: Callable[[Case], None]
    lost: int = 0  # requests of others
    longer: float = 0.0  # seconds that others may wait beyond the bound of all rows
    short: bool = False  # part of the short form
    root: bool = False  # only where the service is started by root


Rows = list[Row]


def adding(rows: Rows, line: str, does: str, **costs: float) -> Callable[[Callable[[Case], None]], None]:
    """A decorator for a row that is alone of its kind."""

    def add(function: Callable[[Case], None]) -> None:
        rows.append(Row(line, does, function, **costs))  # type: ignore[arg-type]

    return add


class Case:
    """One row with one pool."""

    def __init__(self, target: Target, short: bool) -> None:
        self.target = target
        self.short = short
        self.bound = 5.0 if short else 2.0  # seconds that others may wait; the short form runs beside tests
        self.answers = 150 if short else 2000  # of others, while the fault lasts
        self.sent = 0
        self.account = Account()
        self.waits: dict[str, list[float]] = {"without": [], "with": []}
        self.pages: dict[str, float] = {}
        self.grown: dict[str, float] = {}
        self.told: Counter[str] = Counter()  # to the hostile side

    def handlers(self, text: str) -> None:
        """What the next generation imports, beside what the others ask for."""
        self.target.handlers(HANDLERS + text)

    def start(self, handlers: str, *flags: str, prefix: tuple[str, ...] = ()) -> Target:
        self.handlers(handlers)
        return self.target.start("--admin", "127.0.0.1:0", "--drain-timeout", "5", *flags, prefix=prefix)

    @property
    def admin(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.target.said(r"admin endpoint on http://127\.0\.0\.1:(\d+)")[1])

    @contextmanager
    def others(self) -> Iterator[Load]:
        """Well-behaved clients: quietly for a while, then beside what happens within the `with`."""
        load = Load(self.target.port, CLIENTS, PAUSE).start()
        try:
            load.until(self.answers // 3)
            self.waits["without"] = load.taken()
            before = self.memory()
            load.mark()
            live, ready = Asking(self.admin, "/livez"), Asking(self.admin, "/readyz")
            try:
                with live, ready:
                    yield load
            finally:
                self.pages = {"/livez": live.worst, "/readyz": ready.worst}
                self.grown = {name: now - before[name] for name, now in self.memory().items()}
        finally:
            load.stop()
            self.waits["with"] = load.taken()
            self.sent, self.account = load.sent, load.account

    def hold(self, load: Load) -> None:
        """Until others have got so many answers, and those without a connection their part of them."""
        end = load.account.after["answered"] + self.answers // 10
        load.until(self.answers, WHILE)
        eventually(lambda: load.account.after["answered"] >= end, "new connections are answered", WHILE)

    @contextmanager
    def crowd(self, count: int, *kinds: Kind, insists: float = 0.1) -> Iterator[Crowd]:
        """Hostile clients; what they were told is kept."""
        with Crowd(self.target.port, count, *kinds, insists=insists) as crowd:
            yield crowd
        self.told += crowd.told

    def memory(self) -> dict[str, float]:
        """MiB that the supervisor, and the largest member, have had resident at most."""
        members = [peak(pid) for pid in self.target.members()]
        return {"supervisor": peak(self.target.supervisor), "member": max(members, default=0.0)}

    def lost(self) -> int:
        return self.account.failed + self.account.total("refused")

    def judge(self, row: Row) -> None:
        """What all rows insist on."""
        assert self.lost() <= row.lost, f"{self.lost()} requests of others lost: {self.account.examples}"
        bound = self.bound + row.longer
        for what, worst in {"a request of others": max(self.waits["with"], default=0.0), **self.pages}.items():
            assert worst < bound, f"{what} took {worst:.1f} s, more than {bound:g}"
        for name, most in (("supervisor", SUPERVISOR), ("member", MEMBER)):
            assert self.grown.get(name, 0.0) < most, f"the {name} has grown by {self.grown[name]:.0f} MiB"
        assert "supervisor failed" not in self.target.log, "an error of the supervisor's own"

    def figures(self) -> dict[str, object]:
        """The cells of a table; empty where nothing was measured."""

        def milliseconds(of: Callable[[list[float]], float]) -> str:
            return " / ".join(f"{of(waits) * 1e3:.1f}" for waits in self.waits.values() if waits)

        return {
            "sent": self.sent or "", "answered": self.account.total("answered") or "",
            "lost": self.lost() if self.sent else "",
            "p50 ms": milliseconds(statistics.median), "longest ms": milliseconds(max),
            **{f"{page} ms": f"{self.pages[page] * 1e3:.0f}" if self.pages else "" for page in ("/livez", "/readyz")},
            **{f"{name} MiB": f"+{max(0.0, self.grown[name]):.0f}" if self.grown else ""
               for name in ("supervisor", "member")},
            "refused": ", ".join(f"{what}: {number}" for what, number in sorted(self.told.items())),
        }  # fmt: skip


def peak(pid: int) -> float:
    """MiB; 0 of a process that has ended."""
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()):
            return int(found[1]) / 1024
    return 0.0


def run(row: Row, source: Path, pool: str, short: bool) -> dict[str, object]:
    """One row with one pool: the cells of its line."""
    target = Target(source, pool)
    case = Case(target, short)
    verdict = "ok"
    try:
        if row.root and os.geteuid():
            verdict = "not tried: needs root"
        else:
            row.run(case)
            case.judge(row)
            leave(target)
    except Exception as error:
        verdict = f"FAILED: {type(error).__name__}: {error}".replace("\n", " ").replace("|", "/")
        print(target.log[-3000:], file=sys.stderr)
    finally:
        target.close()
    return {"pool": pool, "line": row.line, "what it does": row.does, **case.figures(), "verdict": verdict}


def leave(target: Target) -> None:
    """A graceful stop of what still runs, after which nothing is left."""
    if target.process is not None and target.process.poll() is None:
        status = target.stop()
        assert status == 0, f"exit status {status}, not 0"
        assert not any((left := target.left()).values()), f"left behind: {left}"


def wait_for(probe: Callable[[], object], what: str, deadline: float = 20.0) -> float:
    """Seconds until it was so."""
    began = time.monotonic()
    eventually(probe, what, deadline)
    return time.monotonic() - began
