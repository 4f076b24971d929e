"""Feed the supervisor's readers hostile bytes: `python tests/support/border_fuzz.py [seconds]`, or for a test.

What the supervisor reads from its servers and workers are frames of the log, reports, and the scoreboard. Looked for:
an exception, more than 100 ms of processor time for what one turn of its loop reads, memory beyond a bound, a page that
is no JSON, a control character on its way to a terminal.
"""

from __future__ import annotations

import gc
import importlib
import json
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "{{cookiecutter.project_slug}}" / "src" / "{{cookiecutter.package_name}}"
SLOW = 0.1  # seconds of processor time for one turn of the loop
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def load(*names: str) -> list[Any]:
    """Modules of the template's runtime, in place: it is plain Python."""
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(PACKAGE))
    try:
        return [importlib.import_module(f"runtime.{name}") for name in names]
    finally:
        sys.path.remove(str(PACKAGE))
        sys.dont_write_bytecode = keep


frames, text, scoreboard, metrics, figures, exposition, ctl, generation, generations, control = load(
    "log.frames", "config.text", "ipc.scoreboard", "ipc.metrics", "ops.figures", "ops.exposition", "ops.ctl",
    "process.generation", "process.generations", "process.control",
)  # fmt: skip
service_of, states = load("config.settings", "process.states")


@contextmanager
def quick() -> Iterator[None]:
    gc.disable()  # what hypothesis holds is not to be looked through
    began = time.process_time()
    try:
        yield
        took = time.process_time() - began
    finally:
        gc.enable()
    assert took < SLOW, f"{took:.3f} s of processor time"


def no_json(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


# ---- frames of the log --------------------------------------------------------------------------------------------

pids = st.integers(0, 2**32 - 1)
heads = st.builds(
    frames.HEADER.pack, st.just(frames.MARK), pids | st.just(7), st.integers(0, 255), st.integers(0, 65535)
)
legal = st.builds(
    lambda pid, kind, level, data: b"".join(frames.encode(pid, kind, level, data)),
    pids, st.integers(0, 3), st.integers(0, 7), st.binary(max_size=9000),
)  # fmt: skip
pieces = st.lists(
    legal | heads | st.binary(max_size=40) | st.just(frames.MARK)
    | st.builds(lambda piece, times: piece * times, heads | st.binary(min_size=1, max_size=9), st.integers(1, 30000)),
    max_size=12,
)  # fmt: skip


def check_frames(parts: list[bytes], cut: int) -> None:
    """Whatever has come before, the next read that begins a record is understood."""
    data = b"".join(parts)[: 2**18]
    rest, said = b"", frames.HEADER.pack(frames.MARK, 9, 0, 5) + b"said\n"
    cut = min(cut, len(data))
    for piece, whole in ((data[:cut], False), (data[cut:], True), (said, True)):
        with quick():
            messages, rest = frames.split(rest + piece, whole)
        assert len(rest) <= frames.UNFINISHED + frames.ROOM + frames.HEADER.size
    assert (0, 0, 9, b"said\n") in messages


# ---- reports of a server ------------------------------------------------------------------------------------------

reports = st.lists(
    st.sampled_from([b"ready\n", b"listening\n", b"failed ", b"name ", b"\n", b" ", b"0", b"256", b"-1", b"9" * 5000])
    | st.binary(max_size=50) | st.binary(min_size=1, max_size=3).map(lambda piece: piece * 3000),
    max_size=20,
)  # fmt: skip


def a_generation() -> tuple[Any, socket.socket]:
    ours, theirs = socket.socketpair()
    config = service_of.Config()
    for name, value in {"name": "x", "start_timeout": 30.0, "drain_timeout": 30.0, "max": 5, "idle": 1}.items():
        config.set(name, value, "default")
    made = generation.Generation(1, 0, config, scoreboard.Scoreboard(3, 2), [], ours, -1)
    return made, theirs


def check_reports(parts: list[bytes]) -> None:
    """Each word and rest is short and steers no terminal, a failure has the status of a failure."""
    made, theirs = a_generation()
    with theirs, made.channel:
        theirs.setblocking(False)
        try:
            for part in parts:
                theirs.send(part)
                with quick():
                    for word, rest in made.reports():
                        assert not STEERING.search(rest) and len(rest) <= 4 * generation.LONGEST_REPORT
                        if word == "failed":
                            made.failed(rest)
                            assert made.failure[0] in generation.STATUSES
                assert len(made.unread) <= generation.UNFINISHED
        except generation.UntrustedError:
            assert sum(map(len, parts)) > generation.UNFINISHED
        finally:
            made.board.close()


# ---- the scoreboard -----------------------------------------------------------------------------------------------

words = st.sampled_from([0, 1, 3, 5, 99, 2**31, 2**32, 2**40, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
doubles = st.floats().map(lambda value: struct.unpack("Q", struct.pack("d", value))[0])
scribbles = st.lists(st.tuples(st.integers(0, 10**6), words | doubles), max_size=60)
texts = st.binary(max_size=200) | st.lists(
    st.tuples(st.sampled_from([b"counter", b"gauge", b""]), st.binary(max_size=9) | st.just(b"a"), st.binary()),
    max_size=70,
).map(lambda lines: b"\n".join(b"\t".join(line) for line in lines))  # fmt: skip


class Operated:
    """As much of a supervisor as its pages ask."""

    def __init__(self, made: Any) -> None:
        self.life = states.ServiceLife(0.0)
        self.generations = generations.Generations(self.life)
        made.life.on(states.Event.LISTEN, 0.0)
        made.life.on(states.Event.READY, 0.0)
        self.generations.add(made)
        self.service = SimpleNamespace(version="1", pool_name="prefork", protocol_name="http")
        self.config, self.restart_at, self.reloads = made.config, float("inf"), states.Reloads()
        self.heartbeat = SimpleNamespace(stalled=0.0, UNREADY=3.0, vacant=0.0, VACANT=0.5)
        self.relay = SimpleNamespace(logger=None, logger_restarts=0)
        self.throttle = SimpleNamespace(crashes=0)


def check_scoreboard(changes: list[tuple[int, int]], text_of_metrics: bytes, fill: int | None) -> None:
    """All pages can be made, and what they say is legal."""
    made, theirs = a_generation()
    board = made.board
    with theirs, made.channel:
        if fill is not None:
            for at in range(len(board.words)):
                board.words[at] = fill
            for at in range(len(board.rows)):
                board.rows[at] = fill
        for at, value in changes:
            board.words[at % len(board.words)] = value
        text_of_metrics = text_of_metrics[: len(board.text)]
        board.text[: len(text_of_metrics)] = text_of_metrics
        operations = control.Control(Operated(made))
        with quick():
            board.damage()
            operations.summary()
            seen = operations.snapshot()
            status = json.dumps(figures.status(seen))
            page = exposition.render(figures.families(seen))
        shown = text.cleaned(ctl.table(json.loads(status, parse_constant=no_json), None))
        assert not STEERING.search(shown) and not STEERING.search(page)
        for line in page.splitlines():
            assert line.startswith("#") or float(line.rsplit(" ", 1)[1]) is not None
        operations.generations.remove(made)


FUZZ: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
    (check_frames, (pieces, st.integers(0, 2**18))),
    (check_reports, (reports,)),
    (check_scoreboard, (scribbles, texts, st.none() | words)),
]


def fuzz(check: Callable[..., None], strategies: tuple[Any, ...], examples: int, repeatable: bool = False) -> None:
    """Raises what the check raises. `repeatable`: the same examples each time."""
    decorate: Any = given(*strategies)
    run: Any = decorate(check)
    phases = (Phase.explicit, Phase.generate)  # shrinking would take the clock's word for a fault
    settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=phases,
        derandomize=repeatable,
    )(run)()  # fmt: skip


def main() -> None:
    end = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 600)
    count = 0
    while time.monotonic() < end:
        for check, strategies in FUZZ:
            fuzz(check, strategies, 500)
            count += 500
    print(f"{count} inputs, nothing found")


if __name__ == "__main__":
    main()
