"""Issue 18 C: whatever floods the log harms only the log, and is counted."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from harness import eventually
from trust_process import HOSTILE, NIGHTLY, Asking, Place

FLOODING = (
    HOSTILE
    + """
@routes.get("/flood")
def flood(request):
    subprocess.Popen(["timeout", "5", "sh", "-c", request.query["command"]])
    return "begun"
"""
)
COMMANDS = {
    "lines on stderr": "yes >&2",
    "lines on stdout": "yes",
    "no lines on stderr": "cat /dev/zero >&2",
    "long lines on both": "yes $(head -c 9000 /dev/zero | tr '\\0' x) | tee /dev/fd/2",
}
KINDS = {"text": (), "json": ("--log-format", "json"), "file": ("--log-file",)}


@pytest.mark.parametrize("kind", ["text", "file", pytest.param("json", marks=NIGHTLY)])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_child_that_writes_without_end(pool: str, place: Place, command: str, kind: str) -> None:
    """A handler's child writes as much as it can for 5 s: the supervisor answers meanwhile, clients are served, and a
    stop is heard at once."""
    service = place(pool, FLOODING)
    directory = service.directory / "logs"
    directory.mkdir()
    flags: list[str | Path] = [*KINDS[kind]]
    if kind == "file":
        flags.append(directory / "log")
    service.watch("-n", "2", "-m", "3", "--drain-timeout", "2", *flags)
    address = service.admin
    worst = 0.0
    with Asking(address, limit=10) as asking:
        assert service.get("/flood", params={"command": command}).text == "begun"
        end = time.monotonic() + 3
        while time.monotonic() < end:
            began = time.monotonic()
            assert service.get("/").text == "hello"
            worst = max(worst, time.monotonic() - began)
    print(f"/livez took {asking.worst:.2f} s at worst of {asking.count}, a client's request {worst:.2f} s")
    assert asking.worst < 1.5, f"/livez took {asking.worst:.1f} s"
    began = time.monotonic()
    service.signal(signal.SIGTERM)
    status = service.wait(15)
    took = time.monotonic() - began
    assert status == 0 and took < 5, f"status {status} after {took:.1f} s"
    service.wait_nothing_runs()


@pytest.mark.skipif(os.path.exists("/dev/log"), reason="a syslog daemon listens here")
def test_no_syslog_names_the_file_option(pool: str, place: Place) -> None:
    """Detached without a syslog daemon: the start says that nobody reads the log, and how to have one."""
    service = place(pool)
    done = service.start_detached("-n", "1", "-m", "2")
    assert "--log-file" in done.stderr, done.stderr
    service.signal(signal.SIGTERM)
    service.assert_nothing_left()


LATE = (
    HOSTILE
    + """
import logging

def worker_init(worker):
    threading.Thread(target=talk, daemon=True).start()
    tell("worker_init")

def talk():
    log = logging.getLogger("mine")
    for number in range(4000):
        log.warning("number %d of %d", number, os.getpid())
        if number % 10 == 0:
            time.sleep(0.002)
    tell("talked")
"""
)


def test_no_line_is_lost_when_the_logger_takes_over(place: Place) -> None:
    """D 10: lines that are written while the service gets ready, and the logger takes its pipe over, are in the file,
    each once."""
    service = place("prefork", LATE)
    directory = service.directory / "logs"
    directory.mkdir()
    file = directory / "log"
    for _ in range(3):
        service.watch("-n", "1", "-m", "1", "--log-file", file)
        (talked,) = service.events.wait("talked")
        assert talked
        service.end()
        text = file.read_text()
        mine = [line.rpartition("number ")[2] for line in text.splitlines() if "number " in line]
        wanted = [f"{number} of {talked.pid}" for number in range(4000)]
        missing = sorted(set(wanted) - set(mine), key=wanted.index)
        assert not missing, f"{len(missing)} lines are missing: {missing[:5]}"
        assert len(mine) == len(wanted), f"{len(mine) - len(wanted)} lines come twice"
        file.unlink()
        service.events._all.clear()
        service.forget()


ROTATED = (
    HOSTILE
    + """
import logging
log = logging.getLogger("mine")

@routes.get("/say/{number}")
def say(request):
    log.warning("number %s.", request.params["number"])
    return ""
"""
)


@pytest.mark.parametrize("compress", [True, False])
def test_no_line_is_lost_by_rotation(pool: str, place: Place, compress: bool) -> None:
    """E 10: the file is renamed and its copy compressed and removed, as logrotate does, while lines are written."""
    service = place(pool, ROTATED)
    directory = service.directory / "logs"
    directory.mkdir()
    file = directory / "log"
    service.watch("-n", "1", "-m", "2", "--log-file", file)
    service.events.wait("worker_init")
    eventually(lambda: file.exists() and "ready" in file.read_text(), "ready")
    kept = ""
    for turn in range(4):
        for number in range(100):
            service.get(f"/say/{turn}-{number}-before")
        moved = directory / f"log.{turn}"
        file.rename(moved)
        if compress:
            kept += moved.read_text()  # what gzip reads; then it removes the file
            moved.unlink()
        for number in range(100):
            service.get(f"/say/{turn}-{number}-after")
    service.end()
    texts = [path.read_text() for path in directory.iterdir()]
    text = kept + "".join(texts)
    wanted = [f"number {t}-{n}-{w}." for t in range(4) for n in range(100) for w in ("before", "after")]
    missing = [one for one in wanted if one not in text]
    assert not missing, f"{len(missing)} of {len(wanted)} lines are lost: {missing[:3]}"
