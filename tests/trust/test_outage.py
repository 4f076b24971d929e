"""Issue 18 D 11: an outage of what worker_init() needs."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack

import pytest
from harness import Wire, eventually
from trust_process import HOSTILE, Place, Suspect

AWAY = (
    HOSTILE
    + """
def away():
    return os.path.exists(os.environ["AWAY"])

def worker_init(worker):
    if away():
        raise ConnectionError("the database is away")

@routes.get("/row")
def row(request):
    if away():
        request.worker.fail("the database is away")
    return "a row"

@routes.get("/held")
def held(request):
    time.sleep(0.05)
    while os.path.exists(os.environ["AWAY"] + ".hold"):
        time.sleep(0.01)
    return row(request)

@routes.get("/slow")
def slow(request):
    time.sleep(0.05)
    return row(request)
"""
)
CONNECTIONS = """
import os

def away():
    return os.path.exists(os.environ["AWAY"])

def worker_init(worker):
    if away():
        raise ConnectionError("the database is away")

def service_line(line, stream):
    if away():
        stream.worker.fail("the database is away")
    return "a row\\n"

def service_connection(stream):
    if away():
        stream.worker.fail("the database is away")
    stream.write(b"a row\\n")
"""
GET = b"GET /row HTTP/1.1\r\nHost: test\r\n"
REQUESTS = {"http": "GET /row HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", "line": "row\n", "stream": ""}


def test_an_outage_is_seen_and_soon_over(pool: str, place: Place) -> None:
    """D 11: worker_init() fails while a database is away, and handlers end their workers. /readyz says so with a
    reason, each flip is one line; 3 s after the database is back the service is ready."""
    service = place(pool, AWAY)
    away = service.directory / "away"
    service.watch("-n", "4", "-m", "5", env={"AWAY": str(away)})
    service.wait_workers(4)
    away.touch()
    for _ in range(6):
        asked = service.background("/row")
        asked.join(3)  # answered, reset, or waiting
        if service.page("/readyz")[0] == 503:
            break
    eventually(lambda: service.page("/readyz")[0] == 503, "not ready", 10)
    code, body = service.page("/readyz")
    print(code, body)
    time.sleep(5)  # the outage lasts
    assert service.page("/readyz")[0] == 503
    away.unlink()
    began = time.monotonic()
    eventually(lambda: service.page("/readyz")[0] == 200, "ready again", 15)
    took = time.monotonic() - began
    assert took < 4, f"ready {took:.1f} s after the end of the outage"
    assert service.get("/row").text == "a row"
    assert len(service.log.find("(?i)not ready")) == 1, "one line when readiness goes"
    service.end()


@pytest.mark.parametrize("protocol", ["http", "line", "stream"])
def test_clients_are_refused_in_an_outage(pool: str, protocol: str, place: Place) -> None:
    """D 11: nobody waits for workers that there are not: after 3 s what waits is answered 503 with Retry-After (line,
    stream: closed), counted, with a line in the log at each end; 2 s after the outage clients are served."""
    service = place(pool, CONNECTIONS if protocol != "http" else AWAY, protocol)
    away = service.directory / "away"
    service.watch("-n", "2", "-m", "3", env={"AWAY": str(away)})
    service.wait_workers(2)
    away.touch()
    with ExitStack() as stack:
        eventually(lambda: ask(service, protocol) and service.page("/readyz")[0] == 503, "no worker", 60)
        waiting = [stack.enter_context(Wire(service.address, 30)).send(REQUESTS[protocol]) for _ in range(5)]
        for wire in waiting:
            data = wire.rest()
            if protocol == "http":
                head = data.partition(b"\r\n\r\n")[0].lower()
                assert head.startswith(b"http/1.1 503 ") and b"\r\nretry-after: 2" in head, data
            else:
                assert data == b""
    assert service.status()["totals"]["refused"] >= 5
    assert service.status()["totals"]["errors"] >= 5
    service.log.wait_for("clients are refused until one can")
    began = time.monotonic()
    assert ask(service, protocol)
    assert time.monotonic() - began < 3, "one that comes later does not wait as long"
    away.unlink()
    eventually(lambda: not ask(service, protocol), "served again", 15)  # 2 s, and what a busy machine takes
    service.log.wait_for("clients are refused no longer")
    assert len(service.log.find("clients are refused")) == 2, "one line at each end"
    service.end()


def ask(service: Suspect, protocol: str) -> bool:
    """Whether a client is not served, be it late."""
    with Wire(service.address, 30) as wire:
        wire.send(REQUESTS[protocol])
        if protocol == "line":
            wire.socket.shutdown(socket.SHUT_WR)
        return b" row" not in wire.rest()


def test_kept_connections_are_refused_in_an_outage(place: Place) -> None:
    """D 11, of a host whose threads have all ended: what it holds is answered too, also requests that wait for a
    thread, and those that come with a body; and it is served again."""
    service = place("threaded", AWAY)
    away, hold = service.directory / "away", service.directory / "away.hold"
    service.watch("-n", "2", "-m", "3", env={"AWAY": str(away)})
    service.wait_workers(2)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(service.address, 10)) for _ in range(6)]
        for wire in wires:
            assert wire.get("/slow").body == b"a row"
        assert wires[0].get("/held").body == b"a row"
        hold.touch()
        waiting = [stack.enter_context(Wire(service.address, 15)) for _ in range(10)]
        for wire in waiting:
            wire.send(GET.replace(b"/row", b"/held") + b"\r\n")
        eventually(lambda: service.status()["workers"]["waiting"] > 4, "threads are busy")
        away.touch()
        hold.unlink()
        assert sorted({wire.answer().status for wire in waiting}) == [500, 503]
        eventually(lambda: ask(service, "http") and service.page("/readyz")[0] == 503, "no worker", 10)
        requests = [GET, GET.replace(b"/row", b"/slow"), GET.replace(b"GET", b"POST") + b"Content-Length: 70000\r\n"]
        for wire, request in zip(wires, [*requests, GET.replace(b"GET", b"HEAD")], strict=False):
            wire.send(request + b"\r\n")
        for wire, method in zip(wires, ["GET", "GET", "POST", "HEAD"], strict=False):
            answer = wire.answer(method)
            assert (answer.status, answer.header("retry-after")) == (503, "2")
            wire.assert_closed()
        away.unlink()
        eventually(lambda: not ask(service, "http"), "served again", 15)
        assert [wire.get("/slow").body for wire in wires[4:]] == [b"a row"] * 2, "idle ones stay"
    service.end()


def test_clients_are_refused_without_a_server(pool: str, place: Place) -> None:
    """A server was killed, and init() fails: the supervisor answers, until the next one serves."""
    service = place(pool, AWAY + "\ndef init(server):\n    if away():\n        raise ConnectionError('away')\n")
    away = service.directory / "away"
    service.watch("-n", "2", "-m", "3", env={"AWAY": str(away)})
    service.wait_workers(2)
    away.touch()
    os.kill(service.status()["generations"][0]["server_pid"], signal.SIGKILL)
    service.log.wait_for("clients are refused until one can")
    with Wire(service.address, 30) as wire:
        assert (answer := wire.get("/row")).status == 503, answer
        assert answer.header("retry-after") == "2"
    away.unlink()
    eventually(lambda: not ask(service, "http"), "served again", 30)
    assert service.status()["totals"]["refused"] >= 1
    service.end()
