"""What a deployment does to the service, in its container, under load: reload, broken code, a dead worker, a stop."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from talk import answers

Run = Callable[..., Any]

HANDLERS = "import glob; name, = glob.glob('/app/*/handlers.py')"
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
    """A container whose code root can change, in it."""
    service = run(read_only=False)
    service.eventually("answering", service.answers)
    return service


def change(service: Any, code: str) -> None:
    """Run a line of Python that changes handlers.py; `name` is its path."""
    done = service.container.exec_run(["python", "-c", f"{HANDLERS}; {code}"], user="root")
    assert done.exit_code == 0, done.output


def test_reload_under_load_loses_nothing(service: Any) -> None:
    with load(service) as clients:
        for generation in (2, 3, 4):
            service.container.kill(signal="HUP")
            service.eventually("reloaded", lambda: f"ready: generation {generation}" in service.logs())  # noqa: B023
            clients.more(20)
    assert clients.failed == 0, service.logs()


def test_broken_code_does_not_replace_what_works(changeable: Any) -> None:
    service = changeable
    with load(service) as clients:
        change(service, "open(name, 'a').write('\\nraise LookupError(\"broken\")\\n')")
        service.container.kill(signal="HUP")
        service.eventually("refused", lambda: "reload failed: " in service.logs())
        clients.more(20)
        said = next(line for line in service.logs().splitlines() if "reload failed: " in line)
        assert "LookupError: broken" in said
        assert "generation 1 serves on" in said
    assert clients.failed == 0, service.logs()
    assert service.state()["Status"] == "running"


def test_a_killed_worker_is_replaced(service: Any) -> None:
    done = service.container.exec_run(["python", "-c", KILL])
    assert done.exit_code == 0, done.output
    victim = done.output.decode().strip()
    service.eventually("replaced", lambda: f" {victim} ended with signal SIGKILL" in service.logs())
    with load(service) as clients:
        clients.more(50)
    assert clients.failed == 0, service.logs()


def test_stop_under_load_is_clean(service: Any) -> None:
    with load(service) as clients:
        clients.more(50)
        assert clients.failed == 0, service.logs()
        service.container.stop(timeout=10)
    assert service.state()["ExitCode"] == 0, service.logs()  # killed at the end of the time: 137
    assert "stopped" in service.logs().splitlines()[-1]
    assert not [line for line in service.logs().splitlines() if "Z ERROR" in line or "Traceback" in line]
