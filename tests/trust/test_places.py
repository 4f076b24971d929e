"""Issue 18 A 6, 28.6: a place among --max-connections, or a descriptor, belongs to a connection that is used."""

from __future__ import annotations

import contextlib
import socket
import time
from contextlib import ExitStack

import pytest
from harness import Wire, eventually
from trust_client import BEGIN, SOON, Prepare
from trust_process import NEEDS_LINUX, NIGHTLY

HANDLERS = (
    BEGIN
    + """
import resource

@routes.get("/full/{spare}")
def full(request):
    # From now on the process has so many free descriptors.
    spare = [os.dup(0) for _ in range(int(request.params["spare"]) + 1)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for fd in spare:
        os.close(fd)
    return ""
"""
)
GET = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
POST = "POST /count HTTP/1.1\r\nHost: test\r\n"
# What each idle client has sent, and whether that is answered.
IDLE = {
    "kept after a request": (GET, 200),
    "silent": ("", 0),
    "an empty line": ("\r\n", 0),
    "half a head": ("GET / HTTP/1.1\r\nHost: t", 0),
    "half a head after a request": (GET + "GET /", 200),
    "a small body missing": (POST + "Content-Length: 10\r\n\r\nhalf", 0),
    "a large body missing": (POST + "Content-Length: 100000\r\n\r\nhalf", 0),
    "refused, and never closed": ("no request\r\n\r\n", 400),
}
SIMILAR = {"an empty line", "half a head", "half a head after a request", "a small body missing"}
MOST = 40


def has_ended(wire: Wire) -> bool:
    """Whether its end, or something else, is there already."""
    wire.socket.setblocking(False)
    try:
        wire.socket.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        wire.socket.settimeout(SOON)
    return True


@pytest.mark.parametrize("case", [pytest.param(case, marks=NIGHTLY if case in SIMILAR else ()) for case in IDLE])
def test_idle_connections_make_room(prepare: Prepare, pool: str, case: str) -> None:
    """At --max-connections the longest idle one is closed, one for each that comes, and the newest stay."""
    text, status = IDLE[case]
    service = prepare(pool, HANDLERS)
    hosts = ("--processes", "2") if pool == "threaded" else ()
    service.watch("-n", "2", "-m", "2", *hosts, "--max-connections", str(MOST), "--header-timeout", "60", "-t")
    with ExitStack() as stack:
        wires = []
        for _ in range(MOST):
            wires.append(stack.enter_context(Wire(service.address, SOON)).send(text))
            if status:
                assert wires[-1].answer().status == status
            if status == 400:
                wires[-1].more()
        eventually(lambda: service.status()["connections"] >= MOST, "all are held")
        for _ in range(5):
            began = time.monotonic()
            newcomer = stack.enter_context(Wire(service.address, 2 * SOON))
            assert newcomer.get("/").status == 200
            print(f"served after {time.monotonic() - began:.3f} s")
        assert 5 <= service.status()["totals"]["evicted"] <= 6
        assert service.metric("service_evictions_total") == service.status()["totals"]["evicted"]
        if status != 400:
            assert 5 <= sum(has_ended(wire) for wire in wires) <= 6
            assert not any(has_ended(wire) for wire in wires[MOST // 2 :]), "one of the newest was closed"
    lines = service.log.find(f"{MOST} connections held .--max-connections.: the longest idle connections make room")
    assert 1 <= len(lines) <= 2, "once per member, not once per connection"


def test_busy_connections_keep_their_places(prepare: Prepare, pool: str) -> None:
    """A request in flight, and a client that asks again and again: though they are the oldest."""
    service = prepare(pool, HANDLERS)
    service.start("-n", "3", "-m", "3", "--max-connections", "12")
    with ExitStack() as stack:
        busy = stack.enter_context(service.wire()).send("GET /gate HTTP/1.1\r\nHost: test\r\n\r\n")
        (arrival,) = service.events.wait("gate")
        asks = stack.enter_context(service.wire())
        for _ in range(20):
            assert stack.enter_context(Wire(service.address, 2 * SOON)).get("/").status == 200
            assert asks.get("/").status == 200
        arrival.release()
        assert busy.answer().body == b"released"


@NEEDS_LINUX
@pytest.mark.parametrize("kind", ["kept after a request", "silent"])
def test_without_descriptors_idle_connections_make_room(prepare: Prepare, pool: str, kind: str) -> None:
    """All descriptors of a member are held by idle connections."""
    text, status = IDLE[kind]
    service = prepare(pool, HANDLERS)
    service.watch("-n", "1", "-m", "1", "--header-timeout", "60", "-t")
    with ExitStack() as stack:
        with service.wire() as wire:
            assert wire.get("/full/20").status == 200
        wires = []
        for _ in range(20):
            wires.append(stack.enter_context(Wire(service.address, SOON)).send(text))
            if status:
                assert wires[-1].answer().status == status
        eventually(lambda: service.status()["connections"] >= 20, "all are held")
        for _ in range(5):
            assert stack.enter_context(Wire(service.address, SOON)).get("/").status == 200
        assert service.status()["totals"]["evicted"] >= 4
        assert not any(has_ended(wire) for wire in wires[10:])
        service.log.wait_for("no descriptor is free .raise the limit, ulimit -n.: the longest idle connections")


@NIGHTLY
def test_ten_thousand_idle_connections_shut_no_client_out(prepare: Prepare, pool: str) -> None:
    """As issue 18 has it, with as many as this machine allows: a client beyond them is served within a second."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(10_000, hard - 500 if hard != resource.RLIM_INFINITY else 10_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most + 400), hard))
    service = prepare(pool, HANDLERS)
    service.start("-n", "2", "-m", "2", "-q", "4096", "--max-connections", str(most), "-t")
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(most):
            wire = stack.enter_context(contextlib.closing(socket.create_connection(service.address, 20)))
            wire.sendall(GET.encode())
            assert wire.recv(1000)
        waits = []
        for _ in range(100):
            began = time.monotonic()
            assert stack.enter_context(Wire(service.address, 20)).get("/").status == 200
            waits.append(time.monotonic() - began)
        print(f"{most} idle connections: {max(waits):.3f} s at most, median {sorted(waits)[50]:.4f} s")
        assert max(waits) < 1
