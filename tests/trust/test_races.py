"""Issue 18 D 6 and D 10: signals, destructors, slow terminals and dead supervisors at the wrong moment."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import HANDLERS, eventually
from trust_process import HOSTILE, NEEDS_LINUX, Place, signals_of

FATAL = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}


ORDERS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


@NEEDS_LINUX
@pytest.mark.parametrize("role", ["supervisor", "server", "member"])
def test_many_signals_at_once(pool: str, place: Place, role: str) -> None:
    """All signals that a process catches or ignores, pending at the same time: it lives on."""
    service = place(pool)
    service.watch("-n", "1", "-m", "2")
    (member, *_) = service.wait_workers(1)
    pid = {"supervisor": service.pid, "server": service.server, "member": member}[role]
    safe = (signals_of(pid, "SigCgt") | signals_of(pid, "SigIgn")) - FATAL - {signal.SIGTERM, signal.SIGCONT}
    safe -= {32, 33}  # the C library's own
    if role == "supervisor":
        safe -= ORDERS
    assert len(safe) >= 8
    for _ in range(3):
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: "T (stopped)" in Path(f"/proc/{pid}/status").read_text(), "stopped")
        for number in safe:
            os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)  # for the process to die of it
        assert service.alive(pid), f"{len(safe)} signals at once have ended the {role}:\n{service.log.text}"
        assert service.get("/").text == "hello"
    assert not service.log.find("SIGSEGV|Segmentation")
    service.end()


UNREAD = (
    HOSTILE
    + """
names = 0

def init(server):
    def rename():
        global names
        names += 1
        server.set_name(f"name-{names}")
        tell("renamed")
    server.set_periodic(rename, 0.5)
"""
)


def test_supervisor_that_dies_with_an_unread_report(pool: str, place: Place) -> None:
    """D 10: its server lets the workers finish what they do."""
    service = place(pool, UNREAD)
    service.watch("-n", "1", "-m", "2")
    held = service.background()
    (gate,) = service.events.wait("gate")
    service.signal(signal.SIGSTOP)
    count = len(service.events.all("renamed"))
    service.events.wait("renamed", count + 2)  # it has said something that is not read any more
    service.signal(signal.SIGKILL)
    service.wait()
    time.sleep(0.5)  # for the workers to be killed
    gate.release()
    assert held.result().body == b"released"
    service.wait_nothing_runs()


GARBAGE = (
    HOSTILE
    + """
import gc, logging
log = logging.getLogger("mine")

class Talking:
    def __init__(self):
        self.me = self
    def __del__(self):
        log.warning("gone")

@routes.get("/garbage")
def garbage(request):
    gc.set_threshold(1, 1, 1)
    for _ in range(3000):
        Talking()
        log.warning("here with %s", "x" * 9000)
    gc.set_threshold(700, 10, 10)
    return "done"

class Stubborn:
    def __str__(self):
        log.warning("asked while a line is made")
        return "stubborn"

@routes.get("/nested")
def nested(request):
    for _ in range(100):
        log.warning("%s", Stubborn())
    return "done"

@routes.get("/signal")
def within_a_signal_handler(request):
    return "done"
"""
)


@pytest.mark.parametrize("path", ["/garbage", "/nested"])
def test_records_from_within_a_record(pool: str, place: Place, path: str) -> None:
    """D 10: a destructor that logs while a line is written does not block its thread."""
    service = place(pool, GARBAGE)
    service.watch("-n", "1", "-m", "2")
    with service.wire() as wire:
        wire.socket.settimeout(15)
        assert wire.get(path).body == b"done"
    assert service.get("/").text == "hello"
    service.end()


CHATTY = (
    HOSTILE
    + """
def init(server):
    for number in range(3000):
        print(number, "x" * 200, file=sys.stderr)
"""
)


def test_chatty_init_on_a_slow_terminal(pool: str, place: Place) -> None:
    """D 10: a terminal that takes no more for a while is no failure of the start."""
    service = place(pool, CHATTY)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    command = service.command("--pidfile", service.pidfile, "-i", "127.0.0.1", "-p", "0", "-n", "1", "-m", "2")
    with (
        os.fdopen(reader, "rb", buffering=0) as pipe,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=writer, cwd=service.directory,
            env=service.environment(), start_new_session=True,
        ) as launcher,
    ):  # fmt: skip
        os.close(writer)
        time.sleep(2)  # the slow terminal
        said = b""
        while data := pipe.read(4096):
            said += data
            time.sleep(0.001)
        status = launcher.wait(20)
    assert status == 0, f"status {status}: {said[-300:]!r}"
    service._pid = int(service.pidfile.read_text())
    service.signal(signal.SIGTERM)
    service.assert_nothing_left()


SHUT = (
    HOSTILE
    + """
def init(server):
    server.set_periodic(attack, 1)

attacked = False

def attack():
    global attacked
    if not attacked and os.environ["SHUT"]:
        for end in to_parent():
            end.shutdown(socket.SHUT_WR)
        tell("attacked")
        attacked = True

@routes.get("/sockets")
def sockets(request):
    server = os.getppid()
    return sorted(link[:6] for link in links(server) if link.startswith("socket"))

def links(pid):
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            yield os.readlink(f"/proc/{pid}/fd/{name}")
        except OSError:
            pass
"""
)


@NEEDS_LINUX
def test_closed_channel_leaks_no_descriptor(pool: str, place: Place) -> None:
    """D 10: a server that has closed its end of the reports leaves nothing open in its successor."""

    def sockets_of(pid: int) -> list[str]:
        return [link for link in service.opened(pid).values() if link.startswith("socket")]

    service = place(pool, SHUT)
    service.watch("-n", "1", "-m", "2", env={"SHUT": "yes"})
    before = len(sockets_of(service.server))
    held = service.background()
    (gate,) = service.events.wait("gate")
    service.events.wait("attacked")
    service.handlers(HANDLERS)
    (old,) = service.servers
    service.signal(signal.SIGHUP)
    service.wait_ready(2)
    (new,) = (pid for pid in service.servers if pid != old)
    after = sockets_of(new)
    assert len(after) <= before, f"{before} before, {after} after"
    gate.release()
    held.join(5)
