"""The supervisor answers when no other process can, and no client holds it up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from harness import HANDLERS, ROOT, Wire, eventually
from watched import Watched

ASLEEP = (
    HANDLERS
    + """
import threading
forever = threading.Event()

@routes.get("/sleep")
def sleep(request):
    forever.wait()
"""
)


@contextlib.contextmanager
def clients(address: tuple[str, int], number: int, data: bytes) -> Iterator[list[socket.socket]]:
    """So many connections, each with this much sent; none reads."""
    found: list[socket.socket] = []
    try:
        for _ in range(number):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            found.append(sock)
        for sock in found:
            with contextlib.suppress(OSError):  # still being connected, or refused: the others do
                sock.send(data)
        yield found
    finally:
        for sock in found:
            sock.close()


def ask(address: tuple[str, int], path: str) -> tuple[float, int, bytes]:
    """Seconds, status and body."""
    began = time.monotonic()
    wire = Wire(address)
    with wire:
        answer = wire.get(path)
    return time.monotonic() - began, answer.status, answer.body


QUEUE = Path("/proc/sys/net/unix/max_dgram_qlen")
PAIR = 2 * (int(QUEUE.read_text()) if QUEUE.exists() else 10) + 10  # connections between workers, generously


def test_answers_while_everything_sleeps(either: Watched) -> None:
    """Every worker in a handler, and as many connections waiting as the descriptors of this test allow."""
    either.handlers(ASLEEP)
    either.watch("-n", "2", "-m", "4", "-t")
    with (
        clients(either.address, 4, b"GET /sleep HTTP/1.1\r\nHost: t\r\n\r\n"),
        clients(either.address, 800, b"GET /sleep HTTP/1.1\r\nHost: t\r\n\r\n"),
    ):
        eventually(lambda: either.status()["workers"]["busy"] >= 4, "all are busy")
        for path in ("/livez", "/readyz", "/metrics", "/status"):
            took = []
            for _ in range(15):
                seconds, status, body = ask(either.admin, path)
                took.append(seconds)
                assert status == 200, body
            print(f"{path}: median {statistics.median(took) * 1000:.1f} ms, most {max(took) * 1000:.1f} ms")
            assert statistics.median(took) < 0.020, took
        status = json.loads(ask(either.admin, "/status")[2])
        assert status["workers"]["busy"] >= 4 and status["workers"]["idle"] == 0
        # But for those on their way from a worker to one that fell asleep before it took them: the pair holds a few.
        assert status["queue"] + status["connections"] + status["workers"]["waiting"] >= 804 - PAIR
        units = [
            unit
            for generation in status["generations"]
            for worker in generation["workers"]
            for unit in (worker["threads"] or [worker])
        ]
        assert sum(unit["request_seconds"] is not None for unit in units) >= 4
        assert either.metric('service_workers{state="busy"}') >= 4
    either.signal(signal.SIGTERM)
    assert either.wait() == 0


HOSTILE = {
    "silent": b"",
    "half a head": b"GET /status HTTP/1.1\r\nHost: t\r\n",
    "much and no end": b"GET /status HTTP/1.1\r\nX: " + b"x" * 9000,
    "asks and does not read": b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


ATTACK = """
import selectors, socket, sys
host, port, number, data = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), bytes.fromhex(sys.argv[4])
selector = selectors.DefaultSelector()

def connect():
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex((host, port))
    selector.register(sock, selectors.EVENT_WRITE)

for _ in range(number):
    connect()
rounds = 0
while True:
    for key, events in selector.select():
        try:
            if events & selectors.EVENT_WRITE:
                if data:
                    key.fileobj.send(data)
                selector.modify(key.fileobj, selectors.EVENT_READ)
                continue
            if len(key.fileobj.recv(1)):
                continue
        except OSError:
            pass
        selector.unregister(key.fileobj)
        key.fileobj.close()
        connect()
        rounds += 1
        if rounds == number:
            print("all have been thrown out once", flush=True)
"""


def born() -> float:
    """Now, on the clock that says when a process was born."""
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as process:
        return psutil.Process(process.pid).create_time()


def comes_through(address: tuple[str, int]) -> bool:
    """Whether a probe was answered; it may be pushed out by the crowd and has to come again."""
    try:
        return ask(address, "/livez")[1] == 200
    except OSError:
        return False


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_clients_do_not_delay_the_supervisor(service: Watched, data: bytes) -> None:
    """1,000 of them, who come back when they are thrown out, while workers and then the server are killed. The times
    are the system's: when the successor was born."""
    service.expect_errors = True
    service.watch("-n", "2", "-m", "4", "--fast-max", "100")
    host, port = service.admin
    command = [sys.executable, "-c", ATTACK, host, str(port), "1000", data.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attacker:
        try:
            assert attacker.stdout is not None and attacker.stdout.readline() == "all have been thrown out once\n"
            took = []
            for _ in range(5):
                before = service.wait_workers(2)
                mark = born()
                os.kill(before[0], signal.SIGKILL)
                service.log.wait_for(f"worker {before[0]} ended with signal SIGKILL")
                (new,) = set(service.wait_workers(2)) - set(before)
                took.append(psutil.Process(new).create_time() - mark)
            print(f"replaced after {[f'{seconds * 1000:.0f} ms' for seconds in took]}")
            assert statistics.median(took) < 0.3, took
            mark = born()
            os.kill(service.server, signal.SIGKILL)
            service.wait_ready(2)
            took_server = psutil.Process(service.servers[-1]).create_time() - mark
            print(f"server replaced after {took_server * 1000:.0f} ms")
            assert took_server < 1
            eventually(lambda: comes_through(service.admin), "a probe comes through")
        finally:
            attacker.kill()


def test_limits_of_one_client(service: Watched) -> None:
    service.watch()
    with Wire(service.admin) as wire:
        assert wire.send(b"GET / HTTP/1.1\r\nHost: t\r\nX: " + b"x" * 8200).answer().status == 431
    with Wire(service.admin) as wire:
        began = time.monotonic()
        wire.send(b"GET /status HTTP/1.1\r\n")
        assert wire.rest() == b""
        assert 4 < time.monotonic() - began < 15
    with clients(service.admin, 64, b""):
        assert ask(service.admin, "/livez")[1] == 200
    assert ask(service.admin, "/nothing")[1] == 404
    with Wire(service.admin) as wire:
        assert wire.send(b"POST /stop HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n").answer().status == 404
    with Wire(service.admin) as wire:
        assert wire.send(b"HEAD /metrics HTTP/1.1\r\nHost: t\r\n\r\n").answer("HEAD").status == 200


def test_reasons_of_not_ready(service: Watched) -> None:
    service.handlers(
        HANDLERS
        + """
import os.path
HERE = os.path.dirname(__file__)

def health():
    if os.path.exists(HERE + "/stuck"):
        gate("gate")
    return not os.path.exists(HERE + "/ill")
"""
    )
    service.expect_errors = True
    service.launch("--admin", "127.0.0.1:0", "--control", service.control, "--stop-delay", "30")
    service.wait_ready(1)
    assert service.page("/readyz") == (200, "ready\n")
    (service.package / "ill").touch()
    eventually(lambda: service.page("/readyz") == (503, "not ready: health() says no\n"), "it says no")
    assert service.page("/livez") == (200, "ok\n")
    assert service.metric("service_ready") == 0
    (service.package / "ill").unlink()
    eventually(lambda: service.page("/readyz")[0] == 200, "it says yes again")
    (service.package / "stuck").touch()
    (arrival,) = service.events.wait("gate")
    eventually(lambda: "has not been heard of for" in service.page("/readyz")[1], "its word is too old")
    (service.package / "stuck").unlink()
    arrival.release()
    eventually(lambda: service.page("/readyz")[0] == 200, "it runs again")
    service.signal(signal.SIGTERM)
    eventually(lambda: service.page("/readyz") == (503, "not ready: stopping\n"), "it stops")
    service.signal(signal.SIGTERM)
    assert service.wait() == 0


def test_not_ready_before_the_first_worker(service: Watched) -> None:
    service.handlers(HANDLERS.replace("def worker_init(worker):", 'def worker_init(worker):\n    gate("gate")'))
    service.launch("--admin", "127.0.0.1:0", "-n", "1", "-m", "1")
    (arrival,) = service.events.wait("gate")
    assert service.page("/readyz") == (503, "not ready: starting\n")
    assert service.page("/livez")[0] == 200
    arrival.release()
    service.wait_ready(1)
    assert service.page("/readyz")[0] == 200


@pytest.mark.skipif(not ROOT, reason="the rule is for root")
def test_root_listens_on_loopback_only(service: Watched) -> None:
    done = service.run("-x", "-p", "0", "-i", "127.0.0.1", "--admin", "0.0.0.0:0")
    assert done.returncode == 2
    assert "only a loopback address" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="sets the limit of another process")
def test_without_descriptors_accepting_pauses(service: Watched) -> None:
    """And without visitors whose descriptors it could take: no spinning, one line, and those who wait are answered."""
    import resource  # not on every system

    service.expect_errors = True
    service.watch("-n", "1")
    supervisor = psutil.Process(service.pid)
    before = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{service.pid}/fd")}
    free = min(set(range(len(used) + 1)) - used)
    resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (free, before[1]))
    with clients(service.admin, 3, b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n") as waiting:
        service.log.wait_for("cannot accept: Too many open files")
        began, busy = time.monotonic(), sum(supervisor.cpu_times()[:2])
        time.sleep(2)  # the stretch of time that is measured
        share = (sum(supervisor.cpu_times()[:2]) - busy) / (time.monotonic() - began)
        assert share < 0.2, f"{share:.0%} of a processor"
        assert len(service.log.find("cannot accept")) == 1
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, before)
        service.signal(signal.SIGHUP)  # the new server must not get hold of the paused socket
        for sock in waiting:
            sock.settimeout(10)
            assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
    service.log.wait_for("ready: generation 2")
    listening = {
        one.laddr.port for one in psutil.Process(service.servers[-1]).net_connections() if one.status == "LISTEN"
    }
    assert service.admin[1] not in listening
