"""Issue 18 E 1: children that handlers fork."""

from __future__ import annotations

import os
import signal
import socket
import time

import psutil
import pytest
from harness import ROOT, eventually
from trust_process import HOSTILE, NEEDS_LINUX, NIGHTLY, Place, Suspect, signals_of

FORKING = (
    HOSTILE
    + """
import atexit, concurrent.futures, multiprocessing
context = multiprocessing.get_context("fork")
kept = []

def sleep(seconds):
    time.sleep(seconds)
    return os.getpid()

def child(daemon=None):
    process = context.Process(target=sleep, args=(60,), daemon=daemon)
    process.start()
    kept.append(process)
    return process

@routes.get("/start")
def start(request):
    return {"child": child(request.query.get("daemon") == "yes").pid, "worker": os.getpid()}

@routes.get("/terminate")
def terminate(request):
    process = child()
    process.terminate()
    process.join(10)
    return {"status": process.exitcode}

@routes.get("/run")
def run(request):
    process = context.Process(target=sleep, args=(0.1,))
    process.start()
    process.join(10)
    return {"status": process.exitcode}

@routes.get("/pool")
def pool(request):
    with context.Pool(2) as workers:
        return {"pids": len(workers.map(sleep, [0.01] * 8))}

@routes.get("/executor")
def executor(request):
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as workers:
        return {"pids": len(list(workers.map(sleep, [0.01] * 8)))}

@routes.get("/fork")
def fork(request):
    pid = os.fork()
    if not pid:
        os.kill(os.getpid(), 15)
        time.sleep(10)
        os._exit(0)
    return {"status": -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}
"""
)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [("/terminate", {"status": -15}), pytest.param("/run", {"status": 0}, marks=NIGHTLY), ("/pool", {"pids": 8}),
     pytest.param("/executor", {"pids": 8}, marks=NIGHTLY), ("/fork", {"status": 15})],
)  # fmt: skip
def test_children_end_as_python_documents_it(pool: str, place: Place, path: str, wanted: object) -> None:
    """A child by fork ends by itself or by its TERM; the worker that made it serves on, and nobody drains."""
    service = place(pool, FORKING)
    service.watch("-n", "1", "-m", "2")
    (member, *_) = service.wait_workers(1)
    for _ in range(2):
        assert service.get(path, timeout=15).json() == wanted
    assert service.get("/").text == "hello"
    assert member in service.workers, f"the member has left:\n{service.log.text}"
    service.answers()
    service.end()


@NEEDS_LINUX
def test_children_have_default_dispositions_and_no_listeners(pool: str, place: Place) -> None:
    """Signals end a child, and it does not hold the port."""
    service = place(pool, FORKING)
    service.watch("-n", "1", "-m", "2")
    pid = service.get("/start").json()["child"]
    handled = {signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM}
    ignored, caught = signals_of(pid, "SigIgn") & handled, signals_of(pid, "SigCgt") & handled
    assert not ignored and not caught, f"ignored {ignored}, caught {caught}"
    heard = [one.laddr.port for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert heard == []
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not service.alive(pid), "the child ends by its TERM", 5)
    assert service.get("/").text == "hello"
    service.end()


@pytest.mark.parametrize("daemon", ["yes", "no"])
def test_children_and_the_stop(pool: str, place: Place, daemon: str) -> None:
    """A daemon child ends with its worker; another may live on, but holds no port: the next start on it works."""
    service = place(pool, FORKING)
    service.watch("-n", "1", "-m", "2", "--drain-timeout", "3")
    address = service.address
    pid = service.get(f"/start?daemon={daemon}").json()["child"]
    service.signal(signal.SIGTERM)
    assert service.wait(20) == 0
    if daemon == "yes":
        eventually(lambda: not service.alive(pid), "the daemon child has ended", 5)
    service.forget()
    service.launch("-n", "1", "-m", "2", address=("-i", "127.0.0.1", "-p", str(address[1])))
    service.wait_ready(1)
    assert service.get("/").text == "hello"


def test_child_that_lives_on_holds_no_connection(pool: str, place: Place) -> None:
    """A connection that is open while a child is forked ends for its client when the service closes it, and costs no
    spinning loop afterwards."""
    service = place(pool, FORKING)
    service.watch("-n", "1", "-m", "1")
    (member, *_) = service.wait_workers(1)
    idle = service.wire()
    assert idle.get("/").body == b"hello"
    old = service.wire()
    old.send("GET / HTTP/1.0\r\nHost: test\r\n\r\n")
    other = service.wire()
    other.send("GET /start HTTP/1.0\r\nHost: test\r\n\r\n")
    other.socket.settimeout(5)
    assert b"child" in other.rest(), "the connection of the request that forked stays open"
    old.socket.settimeout(5)
    assert old.rest().endswith(b"hello")
    idle.close()
    process = psutil.Process(member)
    time.sleep(0.3)
    before, began = process.cpu_times(), time.monotonic()
    time.sleep(1.5)
    after = process.cpu_times()
    busy = (after.user + after.system - before.user - before.system) / (time.monotonic() - began)
    assert busy < 0.10, f"the loop of the member takes {busy:.0%} of a processor"
    assert service.get("/").text == "hello"


SERVER = (
    HOSTILE
    + """
import multiprocessing
context = multiprocessing.get_context("fork")
child = None

def begin(where):
    global child
    if where == os.environ["WHERE"] and child is None:
        child = context.Process(target=time.sleep, args=(60,), daemon=True)
        child.start()
        tell("child", pid=child.pid)

def init(server):
    begin("init")
    server.set_periodic(lambda: begin("periodic"), 0.1)

def worker_init(worker):
    tell("worker_init")

def worker_exit(worker):
    tell("worker_exit")
"""
)


@NEEDS_LINUX
@pytest.mark.parametrize("where", ["init", "periodic"])
def test_children_of_the_server(pool: str, place: Place, where: str) -> None:
    """They have nothing of the service, outlive its workers, and end with their server, if it may signal them: a root's
    child of init() it may not."""
    service = place(pool, SERVER)
    service.watch("-n", "1", "-m", "2", *(["-u", "root"] if ROOT else []), env={"WHERE": where})
    pid = service.events.wait("child")[0].data["pid"]
    handled = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
    assert not signals_of(pid, "SigCgt") & handled
    assert not psutil.Process(pid).net_connections("all")
    member = service.events.wait("worker_init")[0].pid
    service.signal(signal.SIGTERM, member)
    service.events.wait("worker_exit")
    eventually(lambda: not service.alive(member), "the worker has left")
    assert service.alive(pid), "a worker has ended a child of its server"
    service.end()
    eventually(lambda: not service.alive(pid), "the daemon child has ended", 5)


RETURNING = """
import os, sys
from .probe import tell

def fork(how):
    if os.fork():
        return "parent"
    if how == "exit":
        sys.exit(0)
    if how == "raise":
        raise LookupError("in the child")
    return "child"

def worker_init(worker):
    if os.environ.get("HOW"):
        fork(os.environ["HOW"])
    tell("worker_init")

def service_connection(stream):
    stream.write(fork(stream.readline().decode().strip()).encode())
"""
ROUTES = """
from .runtime.http import Router
routes = Router()

@routes.get("/")
def index(request):
    return "hello"

@routes.get("/fork/{how}")
def forking(request):
    return fork(request.params["how"])
"""


def wait_childless(service: Suspect) -> None:
    eventually(
        lambda: (
            not any(
                child.status() != psutil.STATUS_ZOMBIE
                for member in service.workers
                for child in psutil.Process(member).children()
            )
        ),
        "the child has ended",
        10,
    )


@pytest.mark.parametrize("protocol", ["http", "stream"])
@pytest.mark.parametrize("how", ["exit", "raise", "return"])
def test_child_that_returns_ends(pool: str, place: Place, how: str, protocol: str) -> None:
    """It does not go on as a second worker, and what it does is not the worker's."""
    service = place(pool, RETURNING + (ROUTES if protocol == "http" else ""), protocol)
    service.watch("-n", "1", "-m", "1")
    (member, *_) = service.wait_workers(1)
    for _ in range(2):
        if protocol == "http":
            assert service.get(f"/fork/{how}").text == "parent"
        else:
            with service.wire() as wire:
                assert wire.send(f"{how}\n").rest().endswith(b"parent")
        wait_childless(service)
    assert member in service.workers, f"the member has left:\n{service.log.text}"
    service.answers()
    service.end()


@pytest.mark.parametrize("how", [pytest.param("exit", marks=NIGHTLY), "return"])
def test_child_of_worker_init_that_returns_ends(pool: str, place: Place, how: str) -> None:
    service = place(pool, RETURNING + ROUTES)
    service.watch("-n", "1", "-m", "1", env={"HOW": how})
    assert service.get("/").text == "hello"
    wait_childless(service)
    service.end()


STREAMS = """
import multiprocessing, time
context = multiprocessing.get_context("fork")

def answer(stream):
    stream.write(b"of the child")
    stream.flush()

def service_connection(stream):
    what = stream.read_some()
    if what == b"sleep":
        context.Process(target=time.sleep, args=(60,)).start()
    elif what == b"answer":
        child = context.Process(target=answer, args=(stream,))
        child.start()
        child.join()
    elif what == b"end":
        context.Process(target=time.sleep, args=(60,)).start()
        stream.read()
"""


def test_children_of_a_stream(pool: str, place: Place) -> None:
    """A child of a handler has the handler's own stream, and no other one; its end ends for the client all the same."""
    service = place(pool, STREAMS, "stream")
    service.watch("-n", "2", "-m", "4", "--drain-timeout", "1")
    with service.wire() as other, service.wire() as wire:
        assert wire.send(b"sleep").rest() == b""
        with service.wire() as answered:
            assert answered.send(b"answer").rest() == b"of the child"
        with service.wire() as half:
            half.send(b"end")
            half.socket.shutdown(socket.SHUT_WR)
            assert half.rest() == b""
        other.send(b"x").assert_closed()
    service.end()
