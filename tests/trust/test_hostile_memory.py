"""Issue 18 B 1 to 3: whatever a worker writes into shared memory ends its own generation at most."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from harness import eventually
from trust_process import HOSTILE, NEEDS_LINUX, NIGHTLY, Place, asked_quietly, shared_inodes

pytestmark = NEEDS_LINUX

SCRIBBLING = (
    HOSTILE
    + """
@routes.get("/scribble")
def write(request):
    scribble(int(request.query["value"]), request.query["extent"])
    tell("scribbled")
    return ""
"""
)


@pytest.mark.parametrize("extent", ["zeros", "everything", "head"])
@pytest.mark.parametrize("value", [99, pytest.param(2**40, marks=NIGHTLY), 2**64 - 1])
def test_scribbled_memory_never_ends_the_supervisor(pool: str, place: Place, value: int, extent: str) -> None:
    """A worker fills the memory that it shares: states, process ids and counts of impossible values. The supervisor
    answers, a reload heals the service, a stop ends it."""
    service = place(pool, SCRIBBLING)
    service.watch("-n", "2", "-m", "3", "--drain-timeout", "1")
    asked_quietly(service, f"/scribble?value={value}&extent={extent}")
    service.events.wait("scribbled")
    for _ in range(3):
        service.answers()
    done = service.ctl("status")
    assert done.returncode in (0, 1), done.stderr
    assert service.running()
    service.serves_again()
    service.end(40)


METRICS = (
    SCRIBBLING
    + """
def init(server):
    server.counter("harmless", "Counts what does no harm.")

@routes.get("/text")
def text(request):
    old = b"Counts what does no harm."
    new = bytes.fromhex(request.query["text"])
    replace_bytes(old, new.ljust(len(old), new[-1:])[: len(old)])
    tell("scribbled")
    return ""
"""
)
TEXTS = {
    "no UTF-8": b"\xff\xfe\xc3\x28",
    "a line too many": b"a\nb",
    "many fields": b"a\tb\tc\td",
    "zeros": b"\0",
    "half a character": b"\xe2\x82",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_scribbled_metric_texts(pool: str, place: Place, text: bytes) -> None:
    """The names and texts of the metrics are memory that a worker can write to."""
    service = place(pool, METRICS)
    service.watch("-n", "1", "-m", "2", "--drain-timeout", "1")
    asked_quietly(service, f"/text?text={text.hex()}")
    service.events.wait("scribbled")
    service.answers()
    assert service.ctl("status").returncode == 0
    service.serves_again()
    service.answers()
    service.end()


CLAIMING = (
    HOSTILE
    + """
def worker_init(worker):
    scribble(int(os.environ["VICTIM"]), "zeros")
    threading.Event().wait()  # never ready: its generation is killed
"""
)


@pytest.mark.parametrize("victim", ["a process of another", "the supervisor", "beyond any pid", "minus one"])
def test_only_own_processes_are_killed(pool: str, place: Place, victim: str) -> None:
    """A worker writes a process id into free entries of the shared memory, then its generation is killed because it
    does not get ready in time: the process of that id lives on."""
    service = place(pool, CLAIMING)
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            number = {"a process of another": other.pid, "beyond any pid": 2**40, "minus one": 2**64 - 1}.get(victim)
            if number is None:  # its own: the shell that it was puts it into the environment
                service.launch(
                    "-n", "1", "-m", "4", "--start-timeout", "2",
                    prefix=["sh", "-c", 'VICTIM=$$ exec "$@"', "sh"],
                )  # fmt: skip
            else:
                service.launch("-n", "1", "-m", "4", "--start-timeout", "2", env={"VICTIM": str(number)})
            status = service.wait(30)
            assert other.poll() is None, f"killed by {-(other.returncode or 0)}"
            assert status == 70, f"the service has ended with {status}"
        finally:
            other.kill()
    assert "Traceback" not in service.log.text
    service.wait_nothing_runs()


def test_generations_do_not_share_memory(pool: str, place: Place) -> None:
    """A worker of the next generation cannot write into the scoreboard of the one that serves."""
    service = place(pool)
    service.watch("-n", "1", "-m", "1")
    (first,) = service.events.wait("worker_init")
    service.handlers(HOSTILE.replace('tell("worker_init")', 'gate("gate:worker_init")'))
    service.signal(signal.SIGHUP)
    (second,) = service.events.wait("gate:worker_init")
    assert not shared_inodes(first.pid) & shared_inodes(second.pid)
    second.release()
    service.wait_ready(2)
    service.end()


def test_members_do_not_share_the_loggers_memory(pool: str, place: Place) -> None:
    """What the logger, which may be root, reads back after a crash is out of the members' reach: also for those of a
    second generation, and after the logger has been replaced."""
    service = place(pool)
    directory = Path(service.directory) / "logs"
    directory.mkdir()
    file = directory / "log"
    service.watch("-n", "1", "-m", "2", "--log-file", file)
    service.events.wait("worker_init")

    def loggers() -> list[int]:
        return [
            process.pid
            for process in service.processes()
            if process.pid != service.pid and str(file) in service.opened(process.pid).values()
        ]

    (logger,) = eventually(loggers, "the logger has its file open")

    def members() -> list[int]:
        below = psutil.Process(service.pid).children(recursive=True)
        return [process.pid for process in below if process.pid not in loggers()]

    eventually(lambda: len(members()) >= 2, "a server and its workers")
    both = {pid: shared for pid in members() if (shared := shared_inodes(pid) & shared_inodes(logger))}
    assert not both, f"the logger's memory is in reach of {both}"
    service.signal(signal.SIGHUP)
    service.events.wait("worker_init", 2)
    both = {pid: shared for pid in members() if (shared := shared_inodes(pid) & shared_inodes(logger))}
    assert not both, f"after a reload: {both}"
    os.kill(service.pid, signal.SIGTERM)
    assert service.wait() == 0
