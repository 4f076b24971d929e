"""HTTP on threads, and what both pools promise of handlers that stall, hang, fail or crash."""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from harness import Service, eventually

Make = Callable[..., Service]

HANDLERS = """
import ctypes, json, os, random, signal, threading, time
from .probe import gate, tell
from .runtime.http import Request, Response, Router

routes = Router()

@routes.get("/")
def index(request):
    return "hello"

@routes.get("/pid")
def pid(request):
    return {"worker": os.getpid(), "thread": threading.get_native_id()}

@routes.get("/gate")
def held(request):
    if dict(request.query):
        gate("gate", query=dict(request.query), thread=threading.get_native_id())
    return "released " + "".join(dict(request.query).values())

@routes.get("/sometimes/{token}/{milliseconds}")
def sometimes(request):
    time.sleep(int(request.params["milliseconds"]) / 1000)
    return request.params["token"]

@routes.post("/echo")
def echo(request):
    return Response(request.body, content_type="application/octet-stream")

@routes.post("/json")
def parse(request):
    return {"type": type(json.loads(request.body)).__name__}

@routes.get("/stream")
def stream(request):
    def pieces():
        yield b"first"
        gate("gate")
        yield b"last"
    return Response(pieces())

@routes.get("/fail")
def fail(request):
    request.worker.fail("on purpose")

@routes.get("/stream-fails")
def stream_fails(request):
    def pieces():
        yield b"first"
        request.worker.fail("on purpose")
    return Response(pieces())

@routes.get("/exit")
def leave(request):
    raise SystemExit("on purpose")

@routes.get("/crash/{how}")
def crash(request):
    gate("gate:crash")
    how = request.params["how"]
    if how == "exit":
        os._exit(3)
    if how == "segv":
        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)

def worker_init(worker):
    worker.token = object()
    tell("worker_init", number=worker.number)

def worker_exit(worker):
    tell("worker_exit", number=worker.number)
"""


@pytest.fixture
def threaded(make: Make) -> Service:
    service = make("threaded", "http", HANDLERS)
    service.start("-n", "3", "-m", "8")
    return service


@pytest.fixture
def either(make: Make, pool: str) -> Service:
    service = make(pool, "http", HANDLERS)
    service.start("-n", "3", "-m", "8")
    return service


def warm(service: Service, path: str = "/gate", times: int = 30) -> None:
    """Make a handler known as fast: the loop's own thread runs it."""
    wire = service.wire()
    for _ in range(times):
        assert wire.get(path).status == 200
    wire.close()


# -- promotion -------------------------------------------------------------------------------------


def test_usually_fast_handler_that_stalls_delays_nobody_else(threaded: Service) -> None:
    """The loop's thread is caught in it: another takes the loop over, with all connections."""
    warm(threaded)
    wires = [threaded.wire() for _ in range(20)]
    stalled = threaded.wire().send("GET /gate?a=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    (arrival,) = threaded.events.wait("gate")
    for wire in wires * 3:
        assert wire.get("/pid").json()["thread"] != arrival.data["thread"]
    stalled.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")  # on the same connection: after its answer
    arrival.release()
    assert stalled.answer().body == b"released 1"
    assert stalled.answer().body == b"hello"


def test_as_many_may_stall_as_there_are_threads(threaded: Service) -> None:
    """And those above wait for one; what is fast goes on in any case."""
    warm(threaded)
    clients = [threaded.background(f"/gate?n={number}") for number in range(12)]
    arrivals = threaded.events.wait("gate", 8)
    fast = threaded.wire()
    for _ in range(50):
        assert fast.get("/").body == b"hello"
    assert len(threaded.events.all("gate")) <= 10  # the ceiling, and one that the leader was caught in
    released = 0
    while released < 12:
        arrivals = threaded.events.wait("gate", released + 1)
        arrivals[released].release()
        released += 1
    assert sorted(client.result().body for client in clients) == sorted(b"released %d" % n for n in range(12))


def test_demoted_threads_come_back(threaded: Service) -> None:
    """Stalls one after the other, many more than there are threads: none is lost, and the pool does not grow for it."""
    warm(threaded)
    for number in range(30):
        client = threaded.background(f"/gate?n={number}")
        arrival = threaded.events.wait("gate", number + 1)[number]
        assert threaded.get("/").status_code == 200
        arrival.release()
        assert client.result().body == b"released %d" % number
        warm(threaded, times=5)
    assert len(threaded.events.all("worker_init")) <= 10


def test_released_all_at_once(threaded: Service) -> None:
    """Many stalled threads give their connections back at the same moment, and again."""
    warm(threaded)
    for turn in range(5):
        clients = [threaded.background(f"/gate?n={number}") for number in range(8)]
        arrivals = threaded.events.wait("gate", 8 * (turn + 1))[-8:]
        barrier = threading.Barrier(8)

        def release(arrival: object, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(20)
            arrival.release()  # type: ignore[attr-defined]

        releasers = [threading.Thread(target=release, args=(arrival,)) for arrival in arrivals]
        for one in releasers:
            one.start()
        assert sorted(client.result().body for client in clients) == [b"released %d" % n for n in range(8)]
        for one in releasers:
            one.join(20)


def test_sometimes_slow(threaded: Service) -> None:
    """A handler about which nothing can be known beforehand: each answer is that of its own request."""
    wrong: list[str] = []
    pauses = [0, 0, 0, 12, 0, 1, 0, 25, 6, 0]

    def client(name: int) -> None:
        wire = threaded.wire()
        for number in range(60):
            token = f"{name}-{number}"
            answer = wire.get(f"/sometimes/{token}/{pauses[(name + number) % 10]}").body.decode()
            if answer != token:
                wrong.append(f"{answer} for {token}")
        wire.close()

    clients = [threading.Thread(target=client, args=(name,)) for name in range(16)]
    for one in clients:
        one.start()
    for one in clients:
        one.join(60)
        assert not one.is_alive()
    assert not wrong


def test_pipelined_requests_to_a_slow_handler_are_answered_in_order(threaded: Service) -> None:
    wire = threaded.wire()
    wire.send("".join(f"GET /sometimes/{n}/{n % 3 * 8} HTTP/1.1\r\nHost: a\r\n\r\n" for n in range(30)))
    assert [wire.answer().body for _ in range(30)] == [b"%d" % n for n in range(30)]


def test_client_that_leaves_a_slow_handler(threaded: Service) -> None:
    warm(threaded)
    wire = threaded.wire().send("GET /gate?a=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    (arrival,) = threaded.events.wait("gate")
    wire.close()
    assert threaded.get("/").status_code == 200
    arrival.release()
    warm(threaded)


def test_streamed_response_that_waits_delays_nobody(threaded: Service) -> None:
    wire = threaded.wire().send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
    (arrival,) = threaded.events.wait("gate")
    warm(threaded, "/")
    arrival.release()
    assert wire.answer().body == b"firstlast"


# -- failures --------------------------------------------------------------------------------------


def test_hostile_nested_json_crashes_nothing(either: Service) -> None:
    """The default stack of a thread is large enough for what the interpreter allows."""
    either.expect_errors = True
    before = either.workers
    for depth in (100, 900, 10_000, 1_000_000):
        for text in (b"[" * depth + b"]" * depth, b"[" * depth, b'{"a":' * depth):
            assert either.post("/json", content=text).status_code in (200, 500)
    assert set(before) <= set(either.workers)
    assert not either.log.find("ended with signal")


@pytest.mark.parametrize("path", ["/fail", "/exit", "/stream-fails"])
def test_worker_that_fails_is_replaced(either: Service, path: str) -> None:
    either.expect_errors = True
    either.events.wait("worker_init", 3)
    if path == "/stream-fails":  # too late for a status: the response is broken off
        with pytest.raises(httpx.TransportError):
            either.get(path)
    else:
        assert either.get(path).status_code == 500
    either.log.wait_for("ERROR .*worker fails: on purpose")
    either.events.wait("worker_exit", 1)
    assert either.get("/").text == "hello"
    either.events.wait("worker_init", 4)


@pytest.mark.parametrize(
    ("how", "said", "trace"),
    [
        ("segv", "signal SIGSEGV", True),
        ("SIGBUS", "signal SIGBUS", True),
        ("SIGKILL", "signal SIGKILL", False),
        ("exit", "exit status 3", False),
    ],
)
def test_process_that_crashes_is_replaced(make: Make, pool: str, how: str, said: str, trace: bool) -> None:
    """Connections that wait are served by its successor; the log names the signal and shows where it was."""
    service = make(pool, "http", HANDLERS)
    service.expect_errors = True
    service.start("-n", "1", "-m", "1")
    client = service.background(f"/crash/{how}")
    (arrival,) = service.events.wait("gate:crash")
    arrival.release()
    with pytest.raises(OSError):  # noqa: PT011  # a reset, or the end before the answer
        client.result()
    assert service.get("/").text == "hello"
    service.log.wait_for(rf"ERROR .*worker {arrival.pid} ended with {said}")
    if trace:
        service.log.wait_for("Fatal Python error")
        service.log.wait_for(r'File ".*handlers\.py", line \d+ in crash')
    assert arrival.pid not in service.workers


def test_connections_that_wait_are_served_after_a_crash(make: Make, pool: str) -> None:
    service = make(pool, "stream", STREAM)
    service.expect_errors = True
    service.start("-n", "1", "-m", "1")
    first = connect(service.address)
    (arrival,) = service.events.wait("gate")
    waiting = [connect(service.address) for _ in range(5)]
    os.kill(arrival.pid, signal.SIGKILL)
    for connection in waiting:
        connection.shutdown(socket.SHUT_WR)
    for number in range(5):
        service.events.wait("gate", number + 2)[number + 1].release()
    for connection in waiting:
        assert connection.recv(10) == b"served"
        connection.close()
    first.close()


STREAM = """
from .probe import gate

def service_connection(stream):
    gate("gate")
    stream.write(b"served")
"""


def connect(address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address, 20)
    connection.settimeout(20)
    return connection


def test_hung_request(make: Make, pool: str) -> None:
    """--request-timeout: 503 or a close, never silence; the stack in the log; others finish; the process replaced."""
    service = make(pool, "http", HANDLERS)
    service.expect_errors = True
    service.start("-n", "2", "-m", "4", "--request-timeout", "1.5")
    warm(service)
    hung = service.background("/gate?a=1")
    (arrival,) = service.events.wait("gate")
    other = service.background("/sometimes/x/1200")
    try:
        assert hung.result().status == 503
    except ConnectionError:
        assert pool == "prefork"
    assert other.result().body == b"x"
    service.log.wait_for(r"ERROR .*more than 1\.5 s \(--request-timeout\)")
    service.log.wait_for(r'File ".*handlers\.py", line \d+ in held')
    service.log.wait_for(rf"ERROR .*worker {arrival.pid} ended with exit status 75")
    assert service.get("/pid").json()["worker"] != arrival.pid


def test_hung_stream_is_cut_off(make: Make) -> None:
    """No 503 in the middle of a body."""
    service = make("threaded", "http", HANDLERS)
    service.expect_errors = True
    service.start("--request-timeout", "0.5")
    wire = service.wire().send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
    service.events.wait("gate")
    data = wire.rest()
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.count(b"HTTP/1.1") == 1
    assert not data.endswith(b"0\r\n\r\n")
    service.log.wait_for("ended with exit status 75")


def test_waiting_for_a_thread_is_not_hanging(make: Make) -> None:
    """What waits in the queue has not begun: only a handler's own time counts."""
    service = make("threaded", "http", HANDLERS)
    service.start("-n", "1", "-m", "1", "--request-timeout", "1.5")
    clients = [service.background(f"/sometimes/{number}/600") for number in range(6)]
    assert sorted(client.result().body for client in clients) == [b"%d" % number for number in range(6)]
    assert not service.log.find("request-timeout")


def test_drain_waits_for_a_busy_thread(either: Service) -> None:
    warm(either)
    client = either.background("/gate?a=1")
    (arrival,) = either.events.wait("gate")
    either.signal(signal.SIGTERM)
    either.log.wait_for("stopping gracefully")
    eventually(either.refuses, "nothing listens")
    arrival.release()
    answer = client.result()
    assert answer.body == b"released 1"
    assert answer.header("connection") == "close"
    assert either.wait() == 0
    assert len(either.events.all("worker_exit")) == len(either.events.all("worker_init"))


# -- stacks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4096, -1, 2**62])
def test_stack_size_that_the_platform_refuses(make: Make, size: int) -> None:
    service = make("threaded", "http", HANDLERS + f"\ndef init(server):\n    server.set_stack_size({size})\n")
    done = service.run("-x", "-p", "0")
    assert done.returncode == 70
    said = [text for text in done.stderr.splitlines() if text.startswith("hello-server: ")]
    assert len(said) == 1
    assert re.search(rf"init\(\) .*set_stack_size\({size}\)", said[0])


def test_stack_size_is_set_in_init_only(make: Make, pool: str) -> None:
    late = """
from .probe import tell
def init(server):
    server.set_stack_size(512 * 1024)
    def later():
        try:
            server.set_stack_size(512 * 1024)
        except RuntimeError as error:
            tell("refused", error=str(error))
    server.set_periodic(later, 0.1)
"""
    service = make(pool, "http", HANDLERS + late)
    service.start()
    (arrival,) = service.events.wait("refused", 1)
    assert "init()" in arrival.data["error"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas of 64 MiB")
def test_threads_share_one_malloc_arena(make: Make) -> None:
    """Else fifteen of them are a gigabyte of address space. A thread in init() must not have made a second one."""
    service = make("threaded", "stream", BURST + "\ndef init(server):\n    server.set_stack_size(131072)\n")
    service.start("-n", "8", "-m", "8")
    (host,) = service.workers

    def threads() -> bool:
        return psutil.Process(host).num_threads() >= 9

    eventually(threads, "eight threads, and the main one")
    reserved = re.findall(r"^(\w+)-(\w+) ---p", Path(f"/proc/{host}/maps").read_text(), re.M)
    assert max(int(end, 16) - int(start, 16) for start, end in reserved) < 2**24


# -- hosts -----------------------------------------------------------------------------------------


def test_several_hosts(make: Make) -> None:
    """-n and -m are totals; both hosts serve."""
    service = make("threaded", "http", HANDLERS)
    service.start("--processes", "2", "-n", "4", "-m", "6")
    hosts = set(service.wait_members(2))
    service.events.wait("worker_init", 4)
    clients = [service.wire() for _ in range(20)]
    seen = {wire.get("/pid").json()["worker"] for wire in clients}
    assert seen == hosts


def test_burst_and_calm(make: Make, pool: str) -> None:
    """From idle to the most and back: first answers come soon, and the pool shrinks to what it was."""
    service = make(pool, "stream", BURST)
    service.start("-n", "2", "-m", "30")
    began = time.monotonic()
    clients = []
    for _ in range(30):
        client = connect(service.address)
        client.sendall(b"x\n")
        clients.append(client)
    for client in clients:
        assert client.recv(10) == b"x\n"
    assert time.monotonic() - began < 5  # the figures are those of ci/load; this machine may be busy
    for client in clients:
        client.close()

    def calm() -> bool:
        if pool == "prefork":
            return len(service.workers) <= 3
        (host,) = service.workers
        with open(f"/proc/{host}/status") as status:
            return int(re.findall(r"Threads:\s+(\d+)", status.read())[0]) <= 4

    eventually(calm, "as few workers as before", 100)


BURST = """
def service_connection(stream):
    while line := stream.readline():
        stream.write(line)
"""
