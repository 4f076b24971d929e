"""The pool: grows at once, shrinks when it is calm, and goes on when a worker is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from functools import partial

import pytest
from harness import DEADLINE, HANDLERS, Arrival, Background, Service, Wire, eventually

BOTH_POOLS = True  # what is marked as prefork here has its counterpart in tests/threads

CALM = 90.0  # shrinking may take its time


def burst(service: Service, count: int) -> list[Background]:
    return [service.background("/gate") for _ in range(count)]


# -- the size -------------------------------------------------------------------------------------------


def test_starts_with_the_idle_ones(service: Service) -> None:
    service.start("-n", "3", "-m", "9")
    service.wait_workers(3)
    assert len(service.events.wait("worker_init", 3)) == 3


def test_grows_at_once_from_floor_to_ceiling(service: Service) -> None:
    service.start("-n", "2", "-m", "6")
    began = time.monotonic()
    requests = burst(service, 6)
    arrivals = service.events.wait("gate", 6)
    took = time.monotonic() - began
    if service.pool == "prefork":
        assert len({arrival.pid for arrival in arrivals}) == 6  # one request at a time in each
        assert len(service.workers) == 6
    print(f"6 handlers at work after {took * 1000:.0f} ms")
    for arrival in arrivals:
        arrival.release()
    assert [request.result().body for request in requests] == [b"released"] * 6
    # "At once": a pool that looked once a second, adding one, would have needed 4 s.
    assert took < 3.5


@pytest.mark.prefork
def test_ceiling_holds_and_the_rest_waits(service: Service) -> None:
    service.start("-n", "1", "-m", "3")
    requests = burst(service, 5)
    first = service.events.wait("gate", 3)
    assert len(service.workers) == 3
    assert len(service.events.all("gate")) == 3  # the other two are parked
    first[0].release()
    service.events.wait("gate", 4)
    first[1].release()
    arrivals = service.events.wait("gate", 5)
    assert len({arrival.pid for arrival in arrivals}) == 3
    assert len(service.workers) == 3
    for arrival in arrivals:
        arrival.release()
    assert [request.result().status for request in requests] == [200] * 5


@pytest.mark.prefork
def test_more_are_made_when_fewer_than_half_of_the_idle_ones_remain(service: Service) -> None:
    service.start("-n", "4", "-m", "20")
    service.wait_workers(4)
    requests = burst(service, 3)  # one of four remains
    arrivals = service.events.wait("gate", 3)
    eventually(lambda: len(service.workers) >= 5, "more workers, though one was idle")
    for arrival in arrivals:
        arrival.release()
    assert [request.result().status for request in requests] == [200] * 3


@pytest.mark.prefork
@pytest.mark.timeout(180)
def test_shrinks_after_calm(service: Service) -> None:
    service.start("-n", "2", "-m", "6")
    requests = burst(service, 6)
    arrivals = service.events.wait("gate", 6)
    for arrival in arrivals:
        arrival.release()
    assert [request.result().status for request in requests] == [200] * 6
    service.wait_workers(2, deadline=CALM)
    service.events.wait("worker_exit", 4)  # they left in an orderly way
    assert service.get("/").text == "hello"


@pytest.mark.prefork
@pytest.mark.timeout(180)
def test_shrinking_disturbs_nobody(service: Service) -> None:
    """Keep-alive connections that a retiring worker holds live on."""
    service.start("-n", "1", "-m", "6")
    wires = [service.wire() for _ in range(6)]
    asked = [Background(partial(wire.get, "/gate")) for wire in wires]
    for arrival in service.events.wait("gate", 6):
        arrival.release()
    assert [request.result().status for request in asked] == [200] * 6
    service.wait_workers(1, deadline=CALM)
    for wire in wires:
        assert wire.get("/").status == 200
        wire.close()


def test_floor_equal_to_ceiling_stays(service: Service) -> None:
    service.start("-n", "3", "-m", "3")
    workers = sorted(service.wait_workers(3))
    requests = burst(service, 3)
    for arrival in service.events.wait("gate", 3):
        arrival.release()
    assert [request.result().status for request in requests] == [200] * 3
    assert sorted(service.wait_workers(3)) == workers


# -- a worker is killed --------------------------------------------------------------------------------------


def held(service: Service) -> tuple[Background, Arrival]:
    request = service.background("/gate")
    (arrival,) = service.events.wait("gate")
    return request, arrival


def test_kill_9_of_an_idle_worker(service: Service) -> None:
    service.expect_errors = True
    service.start("-n", "2")
    victim = service.events.wait("worker_init", 2)[0].pid
    service.signal(signal.SIGKILL, victim)
    service.log.wait_for(rf"\b{victim}\b.*(SIGKILL|signal 9)")
    service.events.wait("worker_init", 3)
    assert victim not in service.wait_workers(2)
    for _ in range(5):
        assert service.get("/").status_code == 200


@pytest.mark.prefork
def test_kill_9_of_a_busy_worker_loses_its_request_alone(service: Service) -> None:
    service.expect_errors = True
    service.start("-n", "2", "-m", "4")
    requests = burst(service, 2)
    victim, other = service.events.wait("gate", 2)
    service.signal(signal.SIGKILL, victim.pid)
    other.release()
    lost, answered = 0, 0
    for request in requests:
        try:
            assert request.result().body == b"released"
            answered += 1
        except ConnectionResetError:
            lost += 1
    assert (lost, answered) == (1, 1)
    assert service.get("/").status_code == 200
    eventually(lambda: victim.pid not in service.workers, "the dead one is reaped")


def test_kill_9_of_all_workers(service: Service) -> None:
    service.expect_errors = True
    service.start("-n", "3")
    victims = service.wait_workers(3)
    for victim in victims:
        service.signal(signal.SIGKILL, victim)
    assert service.get("/").status_code == 200  # waits in the queue until one is there
    assert set(service.wait_workers(3)).isdisjoint(victims)


def test_kill_9_of_the_server(service: Service) -> None:
    service.expect_errors = True
    service.start("-n", "2")
    victim, old = service.server, service.wait_workers(2)
    request, arrival = held(service)
    began = time.monotonic()
    service.signal(signal.SIGKILL, victim)
    service.wait_ready(2)
    print(f"the next generation was ready after {(time.monotonic() - began) * 1000:.0f} ms")
    assert service.log.find("server.*SIGKILL")
    assert service.get("/pid").json()["server"] == service.server != victim
    arrival.release()
    assert request.result().body == b"released"  # the orphan finished what it had begun
    eventually(lambda: not any(map(service.alive, old)), "the old workers are gone")
    assert len(service.processes()) == 2 + len(service.wait_workers(2))


def test_kill_9_of_the_server_again_and_again(service: Service) -> None:
    """As often as the throttle lets it pass: each time the service comes back."""
    service.expect_errors = True
    service.start("-n", "1")
    for generation in (2, 3):
        service.signal(signal.SIGKILL, service.server)
        service.wait_ready(generation)
        assert service.get("/").status_code == 200


def test_kill_9_of_the_supervisor(service: Service) -> None:
    service.expect_errors = True
    service.start("-n", "2")
    address = service.address
    request, arrival = held(service)
    service.signal(signal.SIGKILL)
    assert service.wait() == -signal.SIGKILL
    assert service.alive(arrival.pid)
    arrival.release()
    assert request.result().body == b"released"
    service.assert_nothing_left()
    with socket.socket() as ours:  # no process keeps the port
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ours.bind(address)
        ours.listen()
    assert len(service.events.all("exit")) == 1  # the server had time for it


def test_kill_9_of_the_supervisor_while_idle(service: Service) -> None:
    service.expect_errors = True
    service.start("-n", "3")
    with service.wire() as idle:
        assert idle.get("/").status == 200
        began = time.monotonic()
        service.signal(signal.SIGKILL)
        service.wait_nothing_runs(deadline=10)
        print(f"nothing was left after {(time.monotonic() - began) * 1000:.0f} ms")
        idle.assert_closed()


def test_kill_9_of_supervisor_and_server(service: Service) -> None:
    service.expect_errors = True
    service.start("-n", "2")
    request, arrival = held(service)
    server = service.server
    os.kill(service.pid, signal.SIGSTOP)  # so that it cannot start another
    os.kill(server, signal.SIGKILL)
    os.kill(service.pid, signal.SIGKILL)
    service.wait()
    arrival.release()
    assert request.result().body == b"released"
    service.assert_nothing_left()


def test_kill_9_of_everybody_but_a_worker_that_never_ends(service: Service) -> None:
    """The stall monitor enforces the drain deadline, though the worker is blocked in its handler."""
    service.expect_errors = True
    service.start("-n", "1", "--drain-timeout", "1")
    request, arrival = held(service)
    service.signal(signal.SIGKILL)
    arrival.wait_gone(deadline=10)
    with pytest.raises(ConnectionResetError):
        request.result()
    service.assert_nothing_left()


def test_kill_9_during_start(service: Service) -> None:
    """The supervisor dies while init() works: the server finds out and leaves."""
    service.expect_errors = True
    service.handlers(HANDLERS.replace('tell("init", uid=os.geteuid())', 'gate("gate:init")'))
    service.launch()
    (arrival,) = service.events.wait("gate:init")
    service.signal(signal.SIGKILL)
    arrival.release()
    service.assert_nothing_left()


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGABRT"])
def test_crash_of_a_worker_is_logged_with_its_traceback(service: Service, name: str) -> None:
    service.expect_errors = True
    service.handlers(f"""{HANDLERS}
import signal

@routes.get("/crash")
def crash(request):
    signal.raise_signal(signal.{name})
""")
    service.start("-n", "2")
    service.events.wait("worker_init", 2)
    with service.wire() as wire, contextlib.suppress(ConnectionResetError):
        wire.get("/crash")
        pytest.fail("an answer from a crashed worker")
    service.log.wait_for(rf"worker.*{name}")
    service.log.wait_for(r'handlers\.py", line \d+ in crash')
    service.events.wait("worker_init", 3)
    assert service.get("/").status_code == 200


def test_crash_of_the_server_is_logged(service: Service) -> None:
    service.expect_errors = True
    service.start("-n", "1")
    service.signal(signal.SIGSEGV, service.server)
    service.log.wait_for("server.*SIGSEGV")
    service.wait_ready(2)
    assert service.get("/").status_code == 200


@pytest.mark.prefork
def test_worker_that_ends_itself(service: Service) -> None:
    """worker.fail(reason) after an unrecoverable error: logged, replaced."""
    service.expect_errors = True
    service.handlers(
        HANDLERS.replace('tell("worker_init")', 'global own; own = worker; tell("worker_init")')
        + """
@routes.get("/fail")
def fail(request):
    own.fail("the database connection is beyond repair")
"""
    )
    service.start("-n", "1")
    (before,) = service.wait_workers(1)
    with service.wire() as wire, contextlib.suppress(ConnectionResetError):
        assert wire.get("/fail").status == 500
    service.log.wait_for("the database connection is beyond repair")
    service.events.wait("worker_init", 2)
    assert before not in service.wait_workers(1)
    assert service.get("/").status_code == 200


def test_handler_that_exits_ends_no_service(service: Service) -> None:
    service.expect_errors = True
    service.handlers(f"""{HANDLERS}
@routes.get("/exit")
def leave(request):
    raise SystemExit(3)

@routes.get("/vanish")
def vanish(request):
    os._exit(0)
""")
    service.start("-n", "1")
    for path in ("/exit", "/vanish"):
        with service.wire() as wire, contextlib.suppress(ConnectionResetError):
            assert wire.get(path).status == 500
        assert service.get("/").status_code == 200
    assert service.running()


def test_no_zombies(service: Service) -> None:
    service.expect_errors = True
    service.start("-n", "3")
    service.events.wait("worker_init", 3)
    for victim in service.wait_workers(3):
        service.signal(signal.SIGKILL, victim)
    service.events.wait("worker_init", 6)
    service.signal(signal.SIGHUP)
    service.wait_ready(2)
    service.wait_workers(3)
    eventually(lambda: not service.zombies(), "no zombies")


def test_descriptors_do_not_pile_up(service: Service) -> None:
    """Many connections, three reloads: supervisor, server and worker hold as many as before."""
    service.start("-n", "1", "-m", "1")
    reload(service, 2)
    before = service.descriptors(service.pid), service.descriptors(service.server)
    for generation in (3, 4, 5):
        for _ in range(20):
            assert service.get("/").status_code == 200
        reload(service, generation)
    after = service.descriptors(service.pid), service.descriptors(service.server)
    assert after == before
    (worker,) = service.wait_workers(1)

    def settled() -> bool:
        return service.descriptors(worker) == fresh

    fresh = service.descriptors(worker)
    for _ in range(100):
        assert service.get("/").status_code == 200
    eventually(settled, "the worker holds no more descriptors than when it was fresh")


def reload(service: Service, generation: int) -> None:
    service.signal(signal.SIGHUP)
    service.wait_ready(generation)
    service.wait_workers(1)


def test_worker_is_replaced_at_the_request_timeout(service: Service) -> None:
    service.expect_errors = True
    service.start("-n", "1", "-m", "2", "--request-timeout", "1")
    request, arrival = held(service)
    arrival.wait_gone(deadline=DEADLINE)
    with contextlib.suppress(ConnectionResetError):
        assert request.result().status in (503, 504)  # told that it was too long, if at all
    service.log.wait_for("--request-timeout")
    service.log.wait_for(r'handlers\.py", line \d+ in held')  # the stacks, dumped
    assert service.get("/").status_code == 200


def test_stopped_worker_is_replaced_at_the_request_timeout(service: Service) -> None:
    """SIGSTOP stops the stall monitor as well: the server must act."""
    service.expect_errors = True
    service.start("-n", "1", "-m", "2", "--request-timeout", "1")
    _, arrival = held(service)
    service.signal(signal.SIGSTOP, arrival.pid)
    arrival.wait_gone(deadline=DEADLINE)
    assert service.get("/").status_code == 200


def test_stopped_worker_is_replaced_without_a_request_timeout(service: Service) -> None:
    service.expect_errors = True
    main = service.package / "__main__.py"
    soon = "from .runtime.process import recycling\n\nrecycling.STILL = 1.0\n"
    main.write_text(main.read_text().replace("SERVICE =", f"{soon}SERVICE =", 1))
    service.start("-n", "1", "-m", "2")
    _, arrival = held(service)
    with Wire(service.address) as parked:
        service.signal(signal.SIGSTOP, arrival.pid)
        arrival.wait_gone(deadline=DEADLINE)
        service.log.wait_for("has been stopped for more than 1 s: killed")
        assert service.get("/").status_code == 200
        with contextlib.suppress(ConnectionError):  # it was the stopped one's, or is not
            assert parked.get("/").status == 200


def test_recycling_after_max_requests(service: Service) -> None:
    service.start("-n", "1", "-m", "1", "--max-requests", "10")
    # A worker that has done its share serves on until its successor is there: by count alone, the
    # first could answer them all on a machine that is slow to fork.
    workers = set()

    def third_worker() -> bool:
        workers.add(service.get("/pid").json()["worker"])
        return len(workers) >= 3

    eventually(third_worker, "a third worker by --max-requests 10")
    eventually(lambda: service.events.all("worker_exit"), "worker_exit of a recycled worker")
