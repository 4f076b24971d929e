"""A service under load: baked, started, measured (CPU time and memory of its whole tree), stopped."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/support"))
from baking import bake, copy_template

PYTHON = os.environ.get("TEST_PYTHON", "/usr/bin/python3")
HANDLERS = '''
import os, time
from .runtime.http import Request, Response, Router

routes = Router()

@routes.get("/")
def hello(request):
    return b"hello"

@routes.get("/n/{number}")
def number(request):
    return f"{request.params['number']} {os.getpid()}"

@routes.get("/sleep/{seconds}/{number}")
def sleep(request):
    time.sleep(float(request.params["seconds"]))
    return f"{request.params['number']} {os.getpid()}"

@routes.get("/burn/{seconds}/{number}")
def burn(request):
    end = time.monotonic() + float(request.params["seconds"])
    while time.monotonic() < end:
        pass
    return f"{request.params['number']} {os.getpid()}"

@routes.get("/moody/{number}")
def moody(request):
    """Fast a thousand times, and then for once not."""
    calls = request.worker.__dict__.get("calls", 0)
    request.worker.calls = calls + 1
    if calls == 1000:
        time.sleep(5)
    return f"{request.params['number']} {os.getpid()}"
'''


class Service:
    """Started in `with`; `prefix` is put before the command (strace)."""

    def __init__(self, *flags: str, prefix: tuple[str, ...] = ()) -> None:
        self.directory = tempfile.TemporaryDirectory()
        where = Path(self.directory.name)
        source = bake(copy_template(where / "template"), where / "project") / "src"
        (source / "hello_server" / "handlers.py").write_text(HANDLERS)
        self.command = [*prefix, PYTHON, "-m", "hello_server", "-x", "-i", "127.0.0.1", "-p", "0", *flags]
        self.environment = {**os.environ, "PYTHONPATH": str(source)}

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self.command, env=self.environment, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.said = []
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"listening on http://[^:]*:(\d+)", line):
                self.address = ("127.0.0.1", int(found[1]))
            if "ready: generation" in line:
                break
        else:
            raise SystemExit("the service did not start:\n" + "".join(self.said))
        os.set_blocking(self.process.stderr.fileno(), False)
        self.pid = self.process.pid
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGTERM)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.directory.cleanup()

    def children(self, pid: int) -> list[int]:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def tree(self) -> list[int]:
        """All processes."""
        found, todo = [], [self.pid]
        while todo:
            found.append(todo.pop())
            todo += self.children(found[-1])
        return found

    @property
    def workers(self) -> list[int]:
        return self.children(self.children(self.pid)[0])

    def cpu(self) -> float:
        """Seconds of CPU, user and system, of all processes."""
        ticks = 0
        for pid in self.tree():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes of PSS of all processes."""
        total = 0
        for pid in self.tree():
            found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
            assert found is not None
            total += int(found[1]) * 1024
        return total

    def connections(self) -> dict[int, int]:
        """Sockets of each worker, its own few included."""
        counts = {}
        for pid in self.workers:
            counts[pid] = 0
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    counts[pid] += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
        return counts


def raise_limit() -> int:
    """As many descriptors as the machine allows; how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
