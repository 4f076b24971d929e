"""Issue 18 D: when periodic functions run, how large a pool is, and lives and ends of servers and workers."""

from __future__ import annotations

import contextlib
import signal
import time

import httpx
import pytest
from harness import eventually
from trust_process import HOSTILE, NIGHTLY, Place

TIMED = (
    HOSTILE
    + """
began, calls = 0.0, []

def init(server):
    global began
    server.set_periodic(note, float(os.environ["SECONDS"]))
    began = time.monotonic()

def note():
    calls.append(time.monotonic() - began)
    if len(calls) == 6:
        tell("calls", calls=calls)
"""
)


@pytest.mark.parametrize("seconds", [0.1, 0.2, pytest.param(0.7, marks=NIGHTLY), 1.5])
def test_periodic_functions_run_when_they_are_due(pool: str, place: Place, seconds: float) -> None:
    """Six calls, the first after one interval: each within 10 ms, but for what a loaded machine adds."""
    service = place(pool, TIMED)
    service.watch("-n", "1", "-m", "2", env={"SECONDS": str(seconds)})
    (arrival,) = service.events.wait("calls")
    calls = arrival.data["calls"]
    late = sorted(calls[n] - calls[n - 1] - seconds for n in range(1, 6))
    print(f"every {seconds} s: {[round(call, 3) for call in calls]}")
    assert abs(late[2]) < 0.05, f"the median interval is {late[2]:+.3f} s off"
    assert max(map(abs, late)) < 0.5
    assert calls[0] < seconds + 0.9, f"first call after {calls[0]:.2f} s"
    service.end()


@pytest.mark.parametrize(("most", "processes"), [pytest.param(2, 4, marks=NIGHTLY), (7, 4), (9, 2), (25, 16), (5, 5)])
def test_most_is_a_total_over_all_processes(place: Place, most: int, processes: int) -> None:
    """-m 7 with four processes serves seven requests at once, not four and not eight."""
    service = place("threaded")
    service.watch("-n", "1", "-m", str(most), "--processes", str(processes))
    clients = [service.background() for _ in range(most + 4)]
    try:
        service.events.wait("gate", most)
        time.sleep(0.5)  # one too many would have come by now
        assert len(service.events.all("gate")) == most
    finally:
        released = 0

        def all_released() -> bool:
            nonlocal released
            arrivals = service.events.all("gate")
            for arrival in arrivals[released:]:
                arrival.release()
            released = len(arrivals)
            return not any(client.is_alive() for client in clients)

        eventually(all_released, "all are answered", 30)
    assert all(client.result().body == b"released" for client in clients)
    service.end()


HELD = """
from .probe import gate, tell

def service_line(line, stream):
    gate()
    return "released"

def service_connection(stream):
    stream.write(service_line(stream.readline(), stream).encode())

def worker_init(worker):
    tell("worker_init")

def worker_exit(worker):
    tell("worker_exit")
"""


def test_idle_threads_leave_at_term(place: Place) -> None:
    """Threaded: while one request goes on, the idle threads have left, and their worker_exit() has run."""
    service = place("threaded")
    service.watch("-n", "4", "-m", "4")
    held = service.background()
    (gate,) = service.events.wait("gate")
    service.events.wait("worker_init", 4)
    service.signal(signal.SIGTERM)
    service.events.wait("worker_exit", 3, deadline=5)
    gate.release()
    assert held.result().body == b"released"
    assert service.wait() == 0
    assert len(service.events.all("worker_exit")) == 4


@pytest.mark.parametrize("protocol", ["line", "stream"])
def test_idle_threads_of_streams_leave_at_term(place: Place, protocol: str) -> None:
    service = place("threaded", HELD, protocol)
    service.watch("-n", "4", "-m", "4")
    with service.wire() as held:
        held.send("x\n")
        (gate,) = service.events.wait("gate")
        service.events.wait("worker_init", 4)
        service.signal(signal.SIGTERM)
        service.events.wait("worker_exit", 3, deadline=5)
        gate.release()
        assert held.rest() == b"released"
    assert service.wait() == 0
    assert len(service.events.all("worker_exit")) == 4


LEAVING = (
    HOSTILE
    + """
calls = 0

def leave(where):
    global calls
    if where != os.environ["WHERE"]:
        return
    calls += 1
    if calls == 3 and not os.path.exists(os.environ["DONE"]):
        open(os.environ["DONE"], "w").close()
        exec(os.environ["HOW"])

def init(server):
    server.set_periodic(lambda: leave("periodic"), 0.1)

def health():
    leave("health")
"""
)


@pytest.mark.parametrize(
    "how",
    [
        "sys.exit(0)",
        pytest.param("sys.exit(5)", marks=NIGHTLY),
        pytest.param("sys.exit('x')", marks=NIGHTLY),
        "raise KeyboardInterrupt",
        pytest.param("raise GeneratorExit", marks=NIGHTLY),
        "os._exit(0)",
        pytest.param("os.kill(os.getpid(), 9)", marks=NIGHTLY),
    ],
)
@pytest.mark.parametrize("where", ["periodic", "health"])
def test_server_that_leaves_unasked_is_replaced(pool: str, place: Place, where: str, how: str) -> None:
    """Whatever its status: the service goes on, and the log says what happened."""
    service = place(pool, LEAVING)
    done = service.directory / "done"
    service.directory.chmod(0o777)
    service.watch("-n", "1", "-m", "2", "--drain-timeout", "1", env={"WHERE": where, "HOW": how, "DONE": str(done)})
    eventually(done.exists, "it has left")

    def goes_on() -> bool:
        assert service.running(), f"the service has ended with {service.wait()}"
        return bool(service.log.find(r"ready: generation 2|Z ERROR .*(failed|exit)|Traceback"))

    eventually(goes_on, "replaced, or reported")
    service.answers("/livez")

    def served() -> bool:
        assert service.running(), f"the service has ended with {service.wait()}"
        with contextlib.suppress(httpx.TransportError):  # the worker may be about to leave with its server
            return service.get("/").text == "hello"
        return False

    eventually(served, "it serves")
    service.end()


def test_term_to_the_server(pool: str, place: Place) -> None:
    """What the supervisor has not asked for: the server is replaced although one of its requests goes on, newcomers
    are served at once, and the log says so."""
    service = place(pool)
    service.watch("-n", "1", "-m", "2")
    held = service.background()
    (gate,) = service.events.wait("gate")
    before = service.server
    service.signal(signal.SIGTERM, before)
    service.log.wait_for("ready: generation 2", deadline=10)
    with service.wire() as wire:
        wire.socket.settimeout(5)
        assert wire.get("/").body == b"hello"
    assert service.log.find(rf"\b{before}\b"), "nothing names the server that got a TERM"
    service.answers()
    gate.release()
    assert held.result().body == b"released"
    service.wait_alone()
    service.end()


def test_term_to_a_member(pool: str, place: Place) -> None:
    """A worker or a host that somebody else sends away is replaced, and named in the log."""
    service = place(pool)
    service.watch("-n", "1", "-m", "2")
    (member, *_) = service.wait_workers(1)
    service.signal(signal.SIGTERM, member)
    eventually(lambda: not service.alive(member), "it has left")
    eventually(lambda: [pid for pid in service.workers if pid != member], "replaced")
    assert service.get("/").text == "hello"
    service.log.wait_for(rf"\b{member}\b", deadline=3)
    service.end()


def test_old_generations_are_visible(pool: str, place: Place) -> None:
    """D 12: a generation that stays because a request goes on is named by `ctl status`."""
    service = place(pool)
    service.watch("-n", "1", "-m", "2")
    held = service.background()
    (gate,) = service.events.wait("gate")
    old = service.server
    assert service.ctl("reload").returncode == 0
    said = service.ctl("status").stdout
    assert str(old) in said or "generation 1" in said, said
    gate.release()
    assert held.result().body == b"released"
    service.end()
