"""What a deployment does to the service, in its container, under load: reload, broken code, a dead worker, a stop."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from talk import EXTRA, answers, hog, keep, slow

Run = Callable[..., Any]

# The youngest process of the service: a worker, or the host that holds the threads.
KILL = """
import os, signal
pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]
status = {pid: open(f"/proc/{pid}/status").read() for pid in pids}
parents = {pid: int(text.split("PPid:\\t")[1].split()[0]) for pid, text in status.items()}
servers = [pid for pid, parent in parents.items() if parent == 1]
victim = max(pid for pid, parent in parents.items() if parent in servers)
os.kill(victim, signal.SIGKILL)
print(victim)
"""


class Clients:
    """Clients that ask all the time, each request on a connection of its own, and never retry."""

    def __init__(self, service: Any) -> None:
        self.address = service.address
        self.answered = self.failed = 0
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.ask, daemon=True) for _ in range(4)]

    def ask(self) -> None:
        while not self.stopping.is_set():
            answered = answers(self.address)
            with self.changed:
                self.answered += answered
                self.failed += not answered
                self.changed.notify_all()

    def more(self, number: int) -> None:
        """Wait for so many more answers."""
        with self.changed:
            goal = self.answered + number
            assert self.changed.wait_for(lambda: self.answered >= goal, 30), "no answers any more"

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(30)


@contextmanager
def load(service: Any) -> Iterator[Clients]:
    clients = Clients(service)
    for thread in clients.threads:
        thread.start()
    try:
        clients.more(20)
        yield clients
    finally:
        clients.stop()


@pytest.fixture
def changeable(run: Run) -> Any:
    """A container whose code can change, in it."""
    service = run(read_only=False)
    service.eventually("answering", service.answers)
    return service


def test_reload_under_load_loses_nothing(service: Any) -> None:
    with load(service) as clients:
        for generation in (2, 3, 4):
            service.container.kill(signal="HUP")
            service.logged(f"ready: generation {generation}")
            clients.more(20)
    assert clients.failed == 0


def test_broken_code_does_not_replace_what_works(changeable: Any) -> None:
    service = changeable
    with load(service) as clients:
        service.replace_handlers('raise LookupError("broken")\n')
        service.container.kill(signal="HUP")
        service.logged("reload failed: ")
        clients.more(20)
        said = next(line for line in service.logs().splitlines() if "reload failed: " in line)
        assert "LookupError: broken" in said
        assert "generation 1 serves on" in said
    assert clients.failed == 0
    assert service.state()["Status"] == "running"


def test_a_killed_worker_is_replaced(service: Any) -> None:
    victim = service.python(KILL).strip()
    service.logged(f" {victim} ended with signal SIGKILL")
    with load(service) as clients:
        clients.more(50)
    assert clients.failed == 0


def test_a_handler_that_takes_all_memory_ends_alone(run: Run) -> None:
    """The kernel kills the worker; the service, and the container, go on."""
    service = run(extra=EXTRA, mem_limit="96m", memswap_limit="96m")
    service.eventually("answering", service.answers)
    with pytest.raises(OSError):  # noqa: PT011  # however the client learns of it
        hog(service.address)
    service.logged("ended with signal SIGKILL")
    service.eventually("answering", service.answers)
    assert service.state()["Pid"]
    assert service.container.attrs["RestartCount"] == 0


def test_starts_without_a_control_socket(run: Run) -> None:
    """Where no directory for it can be written to, a warning is enough."""
    service = run(ipc_mode="none")
    service.eventually("answering", service.answers)
    service.logged("no control socket, so no ctl: ")


def test_workers_that_keep_memory_leave_in_time(run: Run) -> None:
    """The kernel kills none, and no request is lost."""
    service = run(extra=EXTRA, mem_limit="96m", memswap_limit="96m")
    service.eventually("answering", service.answers)
    address = service.address
    for _ in range(100):  # MiB, and half of 96 are free
        assert keep(address)
        time.sleep(0.1)
    assert "the control group uses" in service.logs()
    assert "SIGKILL" not in service.logs()


def test_stop_under_load_loses_nothing(run: Run) -> None:
    """What a handler has begun is answered. Who comes later is refused."""
    service = run("-n", "8", "-m", "16", extra=EXTRA)
    service.eventually("answering", service.answers)
    address, ended, lock = service.direct(), dict[str, str](), threading.Lock()
    enough = threading.Semaphore(0)

    def ask() -> None:
        ending = "answered"
        while ending == "answered":
            name = uuid4().hex
            try:
                ending = "answered" if slow(address, name) else "another answer"
            except OSError as error:
                ending = repr(error)  # refused, or lost: the log tells which
            with lock:
                ended[name] = ending
            enough.release()

    clients = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
    for client in clients:
        client.start()
    for _ in range(40):
        assert enough.acquire(timeout=30), "no answers any more"
    assert set(ended.values()) == {"answered"}
    service.container.stop(timeout=30)
    for client in clients:
        client.join(30)
    assert service.state()["ExitCode"] == 0  # killed at the end of the time: 137
    service.logged("stopped", running=False)
    begun = set(re.findall(r"\bbegun (\w+)", service.logs()))
    assert len(begun) >= 40
    assert {name: ended[name] for name in begun if ended[name] != "answered"} == {}
    assert not [line for line in service.logs().splitlines() if "ERROR" in line or "Traceback" in line]
