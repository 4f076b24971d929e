"""Issue 18 E 9: work in the background at the end of a worker."""

from __future__ import annotations

import os
import signal
import time

import pytest
from harness import ROOT, eventually
from trust_process import HOSTILE, NIGHTLY, Place

BACKGROUND = (
    HOSTILE
    + """
import atexit, concurrent.futures
executor = None

def later(tag, seconds=1.0):
    time.sleep(seconds)
    tell(tag)

@routes.get("/thread")
def thread(request):
    threading.Thread(target=later, args=("done", float(request.query["seconds"])), name="of-the-handler").start()
    return "begun"

@routes.get("/executor")
def submit(request):
    global executor
    executor = executor or concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="of-the-handler")
    executor.submit(later, "done", float(request.query["seconds"]))
    return "begun"

@routes.get("/atexit")
def register(request):
    atexit.register(later, "done", float(request.query["seconds"]))
    return "begun"
"""
)
ENDS = {"TERM": signal.SIGTERM, "HUP": signal.SIGHUP}


@pytest.mark.parametrize(
    ("kind", "end"),
    [("thread", "TERM"), ("executor", "HUP"), ("atexit", "max-requests"),
     *(pytest.param(*one, marks=NIGHTLY) for one in [
         ("thread", "HUP"), ("thread", "max-requests"), ("executor", "TERM"), ("executor", "max-requests"),
         ("atexit", "TERM"), ("atexit", "HUP")])],
)  # fmt: skip
def test_background_work_is_waited_for(pool: str, place: Place, kind: str, end: str) -> None:
    """What Python would wait for at the end of a process is waited for when a worker leaves."""
    service = place(pool, BACKGROUND)
    flags = ["--max-requests", "1"] if end == "max-requests" else []
    service.watch("-n", "1", "-m", "2", "--drain-timeout", "10", *flags)
    assert service.get(f"/{kind}?seconds=1").text == "begun"
    if end in ENDS:
        service.signal(ENDS[end])
    service.events.wait("done", deadline=8)
    if end != "TERM":
        assert service.get("/").text == "hello"
        service.end()
    else:
        assert service.wait() == 0


@pytest.mark.parametrize("kind", ["thread", *(pytest.param(one, marks=NIGHTLY) for one in ("executor", "atexit"))])
def test_background_work_that_is_cut_off_is_named(pool: str, place: Place, kind: str) -> None:
    """At --drain-timeout what still runs is ended, and a line of the log names it."""
    service = place(pool, BACKGROUND)
    service.watch("-n", "1", "-m", "2", "--drain-timeout", "1")
    assert service.get(f"/{kind}?seconds=60").text == "begun"
    began = time.monotonic()
    service.signal(signal.SIGTERM)
    assert service.wait(15) == 0
    took = time.monotonic() - began
    assert 0.8 < took < 10, f"ended after {took:.1f} s"
    assert service.log.find("of-the-handler|atexit|background"), service.log.text


INHERITED = (
    HOSTILE
    + """
import atexit, tempfile
atexit.register(lambda: tell("of the server"))
directory = tempfile.TemporaryDirectory()

def worker_init(worker):
    worker.own = tempfile.TemporaryDirectory()
    atexit.register(lambda: tell("of the worker"))
    tell("worker_init", shared=directory.name, own=worker.own.name)
"""
)


def test_what_the_server_has_begun_is_the_servers(pool: str, place: Place) -> None:
    """A worker ends what it has begun itself, and leaves to its server what that has begun before it was forked."""
    service = place(pool, INHERITED)
    service.watch("-n", "1", "-m", "1", *(["-u", "root"] if ROOT else []))
    first = service.events.wait("worker_init")[0]
    service.signal(signal.SIGTERM, first.pid)
    assert service.events.wait("of the worker")[0].pid == first.pid
    service.events.wait("worker_init", 2)
    eventually(lambda: not service.alive(first.pid), "the worker has left")
    assert not os.path.exists(first.data["own"])
    assert os.path.exists(first.data["shared"])
    assert not service.events.all("of the server")
    service.end()
    assert len(service.events.all("of the server")) == 1
    assert len({arrival.pid for arrival in service.events.all("of the worker")}) == 2
    assert not os.path.exists(first.data["shared"])
