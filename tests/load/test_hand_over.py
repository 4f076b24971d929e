"""Connections that change hands: each request is answered exactly once, no descriptor leaks, none is forgotten."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import psutil
import pytest
from harness import Background, eventually
from load.client import Load, opened
from loaded import Loaded


def sockets(service: Loaded) -> int:
    """TCP connections that the workers hold, each counted once however often it is open."""
    return len({c.raddr for pid in service.workers for c in psutil.Process(pid).net_connections("tcp") if c.raddr})


def descriptors(service: Loaded) -> set[int]:
    return {service.descriptors(pid) for pid in service.workers}


def assert_nothing_leaks(service: Loaded, before: set[int]) -> None:
    # Not at once: a socket that was reset is no connection any more, until its worker closes it.
    eventually(lambda: sockets(service) == 0 and descriptors(service) == before, f"descriptors as before: {before}")


def test_every_request_is_answered_exactly_once(service: Loaded) -> None:
    """10,000 requests on 32 connections, one in a hundred slow: connections wander, nothing is lost or said twice."""
    before = service.members(3)
    with Load(
        service.address, 32, lambda n: f"/sleep/0.03/{n}" if n % 100 == 0 else f"/n/{n}", requests=10_000
    ) as load:
        result = load.run()
    print(result, f"{len(result.moved)} connections moved")
    assert (result.sent, result.answered, result.wrong, result.lost) == (10_000, 10_000, [], [])
    assert result.reconnected == 0
    if service.pool == "prefork":  # in a host another thread takes the loop over, with all its connections
        assert len(result.moved) >= 8, "hardly a connection was handed over"
    assert_nothing_leaks(service, before)


def test_a_killed_worker_loses_one_request_per_connection(service: Loaded) -> None:
    service.expect_errors = True  # the server says that a worker was killed
    service.members(4)
    victim = service.workers[0]
    killed: list[float] = []

    def kill() -> bool:
        if load.result.answered > 2000 and not killed:
            os.kill(victim, signal.SIGKILL)
            killed.append(load.result.answered)
        return False

    with Load(service.address, 32, requests=10_000, until=kill) as load:
        held = {client.number for client in load.all}
        result = load.run()
    print(result)
    assert killed
    assert result.wrong == []
    assert result.sent == result.answered + len(result.lost)
    assert {connection for connection, _ in result.lost} <= held
    assert len(result.lost) == len({connection for connection, _ in result.lost}), "more than one on a connection"
    assert result.left == {b"%d" % victim}, "only the victim's connections have ended"
    service.wait_members(4)


def test_a_worker_that_retires_alone_hands_over_what_it_has(service: Loaded) -> None:
    """No idle connection is dropped, and the worker does not wait for them."""
    service.members(2, "--keep-alive", "60")
    victim = service.workers[0]
    with Load(service.address, 100, requests=1000) as load:
        load.run()
        assert sockets(service) == 100
        began = time.monotonic()
        os.kill(victim, signal.SIGTERM)
        eventually(lambda: victim not in service.workers, "the worker has left")
        assert time.monotonic() - began < 5  # and not 60
        service.wait_members(2)
        load.requests += 1000
        result = load.run()
    print(result)
    assert (result.wrong, result.lost) == ([], [])
    assert result.reconnected <= 20, "connections were closed that could have been handed over"


def test_the_header_timeout_travels_along(service: Loaded) -> None:
    """A connection that is handed over does not begin its --header-timeout anew: it would never end."""
    service.members(3, "--header-timeout", "2")
    with service.wire() as wire:
        began = time.monotonic()
        wire.send("GET / HTTP/1.1\r\nX: ")
        answer = Background(lambda: (wire.answer().status, time.monotonic() - began))
        pid = service.workers
        moves = 0
        while time.monotonic() - began < 1.5:  # replaced again and again, it goes from hand to hand
            held = [w for w in pid if any(c.raddr for c in psutil.Process(w).net_connections("tcp"))]
            if held:
                os.kill(held[0], signal.SIGTERM)
                service.wait_left(held[0])
                moves += 1
            pid = service.wait_members(3)
        assert moves
        status, took = answer.result()
        assert status == 408
        assert took < 2 + 1.5


def test_a_drain_does_not_wait_for_a_client_that_has_read_its_answer(service: Loaded) -> None:
    """Its connection was in the middle of an answer that promised keep-alive when the drain began."""
    service.members(1, "--drain-timeout", "20")
    with service.wire() as wire:
        wire.send("GET /big HTTP/1.1\r\nHost: test\r\n\r\n")
        assert wire.socket.recv(100).startswith(b"HTTP/1.1 200")
        service.signal(signal.SIGTERM)
        eventually(service.refuses, "it drains")
        began = time.monotonic()
        left = 20_000_000
        while left > 1000:
            left -= len(wire.socket.recv(262144))
        assert service.wait() == 0
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("kind", ["asleep", "burning"])
def test_request_timeout_saves_the_other_connections(service: Loaded, kind: str) -> None:
    """The worker is ended; what it has parked goes on elsewhere, what it runs gets a 503."""
    service.expect_errors = True
    service.members(2, "--request-timeout", "1")
    service.wait_members(2)
    with Load(service.address, 64, requests=640) as load, service.wire() as wire:
        load.run()
        slow = Background(lambda: wire.get(f"/told/{kind}/30"))
        (arrival,) = service.events.wait("slow")
        assert slow.result().status == 503
        eventually(lambda: arrival.pid not in service.workers, "the worker has ended")
        load.requests += 640
        result = load.run()
    print(result)
    assert (result.wrong, result.lost) == ([], [])
    assert result.reconnected == 0


def test_a_full_process_takes_nothing_over(prefork: Loaded) -> None:
    """A sibling without a free descriptor must leave a connection in the pair: the kernel would drop it."""
    prefork.members(2)
    one, other = prefork.wire(), prefork.wire()
    while (pid := other.get("/pid").json()["worker"]) == one.get("/pid").json()["worker"]:
        other.close()
        other = prefork.wire()
    with Load(prefork.address, 16, requests=160) as load:
        load.run()
        other.get("/full")
        slow = Background(lambda: one.get("/told/asleep/2"))
        prefork.events.wait("slow")
        load.requests += 160
        running = Background(load.run)
        said = prefork.log.wait_for(r"worker\[(\d+)\] cannot take over a connection: Too many open files")
        assert int(said[1]) == pid
        assert other.get("/pid").json()["worker"] == pid
        other.get("/enough")
        result = running.result()
        assert slow.is_alive(), "answered only when the sleeper had woken"
        assert slow.result().status == 200
    one.close()
    other.close()
    assert (result.wrong, result.lost, result.reconnected) == ([], [], 0)
    assert result.answered == 320


def test_stopped_for_a_while(service: Loaded) -> None:
    """SIGSTOP and SIGCONT: a worker that is not scheduled keeps no client of another worker waiting."""
    service.members(3)
    victim = service.workers[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        took = []
        for _ in range(20):
            began = time.monotonic()
            with service.wire() as wire:
                assert wire.get("/").body == b"hello"
            took.append(time.monotonic() - began)
        assert max(took) < 1, took
    finally:
        os.kill(victim, signal.SIGCONT)
    with Load(service.address, 30, requests=3000) as load:
        result = load.run()
    assert (result.wrong, result.lost, result.reconnected) == ([], [], 0)


def test_vanished_while_they_are_handed_over(service: Loaded) -> None:
    """Clients that leave at the worst moment: nothing leaks."""
    before = service.members(2)
    for _ in range(3):
        held = list(opened(service.address, 40))
        with service.wire() as wire:
            slow = Background(partial(wire.get, "/told/asleep/0.2"))
            while slow.is_alive():
                for one in held:
                    one.close()
                held = list(opened(service.address, 20, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
            assert slow.result().status == 200
        for one in held:
            one.close()
    assert_nothing_leaks(service, before)
