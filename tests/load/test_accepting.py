"""Which worker accepts: the one with the fewest connections; none at --max-connections, or without descriptors."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import psutil
import pytest
from harness import eventually
from load.client import Load, opened
from loaded import Loaded


@pytest.mark.parametrize(("workers", "connections"), [(2, 64), (2, 256), (4, 64), (4, 256)])
def test_balance(service: Loaded, workers: int, connections: int) -> None:
    service.members(workers)
    with Load(service.address, connections, requests=connections * 4) as load:
        load.run()
        counts = service.connections()
    print(counts)
    assert sum(counts) == connections
    # Generous, for a machine that has more to do than cores; without any balance one worker has nearly all.
    assert counts[0] >= 0.2 * connections / workers, counts
    if workers > 2:
        assert counts[-1] <= 2.5 * connections / workers, counts


GET = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UNREAD = "GET /pieces HTTP/1.1\r\nHost: a\r\n\r\n"  # the client does not read it: none of the idle, which make room


def test_accepting_pauses_at_max_connections(service: Loaded) -> None:
    service.members(2, "--max-connections", "20")
    service.wait_members(2)
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(service.wire()) for _ in range(20)]
        for wire in wires:
            assert wire.send(UNREAD).more()
        late = [stack.enter_context(service.wire()) for _ in range(10)]
        for wire in late:
            wire.send(GET)
        service.log.wait_for(r"20 connections held \(--max-connections\): accepting pauses")
        assert wires[0].answer().status == 200  # those inside are served
        for wire in late:  # those outside wait in the queue, but for one per worker: both may look at the same time
            wire.socket.settimeout(0.05)
        waiting = [wire for wire in late if not answered(wire.socket)]
        assert len(waiting) >= 7  # the one that was answered above may have made room for another
        for wire in wires:
            wire.close()
        for wire in waiting:
            wire.socket.settimeout(20)
            assert wire.socket.recv(1000).startswith(b"HTTP/1.1 200")
    lines = service.log.find("accepting pauses")
    assert len(lines) <= 2, lines  # once per worker, not once per look


def test_term_for_all_at_once_empties_the_queue(service: Loaded) -> None:
    """A process group's TERM, or a control group's, can reach a worker before its server has learned that all end: it
    must not leave the accept queue to siblings that leave as well. Here the server learns it last."""
    service.expect_errors = True  # who stands still is named
    service.members(2, "--drain-timeout", "20")
    workers, server = service.workers, service.server
    with contextlib.ExitStack() as stack:
        for pid in (server, *workers):
            os.kill(pid, signal.SIGSTOP)
        eventually(lambda: all(stopped(pid) for pid in (server, *workers)), "they stand still")
        wires = [stack.enter_context(service.wire()) for _ in range(20)]
        for wire in wires:
            wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for pid in (*workers, server):
            os.kill(pid, signal.SIGTERM)
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        assert [wire.answer().status for wire in wires] == [200] * 20
        service.signal(signal.SIGTERM)
        os.kill(server, signal.SIGCONT)
    assert service.wait() == 0


def stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def answered(one: socket.socket) -> bool:
    try:
        return bool(one.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False


def test_without_descriptors_accepting_pauses(service: Loaded) -> None:
    """EMFILE is no crash and no busy loop: it goes on when there are descriptors again."""
    service.members(1)
    (worker,) = service.wait_members(1)
    with service.wire() as inside:
        inside.get("/full")
        # It is served, but not idle.
        assert inside.send(UNREAD + GET + "GET /enough HTTP/1.1\r\nHost: a\r\n\r\n").more()
        with contextlib.ExitStack() as stack:
            late = [
                stack.enter_context(one) for one in opened(service.address, 5, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            ]
            service.log.wait_for("cannot accept: Too many open files; accepting pauses")
            before = sum(psutil.Process(worker).cpu_times()[:2])
            assert not any(map(answered_now, late))
            assert [inside.answer().status for _ in range(3)] == [200] * 3
            for one in late:
                assert one.recv(1000).startswith(b"HTTP/1.1 200")
            assert sum(psutil.Process(worker).cpu_times()[:2]) - before < 1
    assert len(service.log.find("cannot accept")) == 1
    eventually(lambda: service.connections() == [0], "all connections are closed")


def test_a_drain_without_descriptors_leaves_nobody_behind(service: Loaded) -> None:
    """The listener stays until there are some again, and who waits is served."""
    service.expect_errors = True  # a thread that leaves meanwhile has no descriptor for its worker_exit()
    service.members(1)
    with service.wire() as inside, contextlib.ExitStack() as stack:
        inside.get("/full")
        # It is not idle: the client does not read that.
        assert inside.send("".join(f"GET /{one} HTTP/1.1\r\nHost: a\r\n\r\n" for one in ("big", "enough"))).more()
        request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        late = [stack.enter_context(one) for one in opened(service.address, 5, request)]
        service.log.wait_for("cannot accept: Too many open files; accepting pauses")
        service.signal(signal.SIGTERM)
        eventually(lambda: refused(service.address), "new clients are refused")
        assert [inside.answer().status for _ in range(2)] == [200] * 2
        for one in late:
            assert one.recv(1000).startswith(b"HTTP/1.1 200")
    assert service.wait() == 0


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return True
    return False


def answered_now(one: socket.socket) -> bool:
    one.settimeout(0.01)
    try:
        return answered(one)
    finally:
        one.settimeout(20)
