"""A generated service to be broken: made, started, watched from outside, and searched for what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/support"))

from baking import bake, copy_template
from harness import ELSEWHERE  # after its path

INJECT = Path(__file__).resolve().parent / "inject"
PACKAGE = "hello_server"
PYTHON = os.environ.get("TEST_PYTHON") or (
    "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
)
HANDLERS = """
import os, time
from .runtime.http import Request, Router

routes = Router()


@routes.get("/number/{number}")
def number(request: Request) -> str:
    return request.params["number"]


@routes.get("/slow/{seconds}")
def slow(request: Request) -> str:
    time.sleep(float(request.params["seconds"]))
    return "slow"


@routes.get("/pid")
def pid(request: Request) -> str:
    return str(os.getpid())
"""
T = TypeVar("T")


def eventually(probe: Callable[[], T | None], what: str, deadline: float = 20.0) -> T:
    """The first true value of `probe`."""
    end = time.monotonic() + deadline
    while not (value := probe()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline:g} s: {what}")
        time.sleep(0.005)
    return value


def generated(directory: Path, pool: str) -> Path:
    """Generate a service with this pool; the directory that holds its package."""
    source = bake(copy_template(directory / "template"), directory / "baked", pool=pool) / "src"
    subprocess.run([PYTHON, "-m", "compileall", "-q", source], check=True, timeout=120)
    return source


class Group:
    """A control group with a memory limit, of either version, in which a service is started with `prefix`."""

    V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")

    def __init__(self, limit: int) -> None:
        """Of `limit` MiB. Raises OSError where none can be made."""
        old = (self.V1 / "memory.limit_in_bytes").exists()
        self.events = "memory.oom_control" if old else "memory.events"
        self.path = (self.V1 if old else self.V2) / f"faults-{uuid.uuid4().hex}"
        if not old:
            (self.V2 / "cgroup.subtree_control").write_text("+memory")
        self.path.mkdir()
        for name in ("memory.limit_in_bytes",) if old else ("memory.max", "memory.swap.max"):
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap
                (self.path / name).write_text("0" if "swap" in name else str(limit << 20))
        procs = os.fspath(self.path / "cgroup.procs")
        self.prefix = ("sh", "-c", 'echo $$ > "$0" && exec "$@"', procs)

    def killed(self) -> int:
        """Processes that the kernel has killed because the group was full."""
        found = re.search(r"^oom_kill (\d+)$", (self.path / self.events).read_text(), re.MULTILINE)
        return int(found[1]) if found else 0

    def remove(self) -> None:
        """Once its last process has ended."""
        eventually(lambda: not (self.path / "cgroup.procs").read_text(), "the control group is empty")
        self.path.rmdir()

    @staticmethod
    def can_be_made() -> bool:
        try:
            Group(64).remove()
        except OSError:
            return False
        return True


class Target:
    """One service. `mark` in its environment finds all of its processes, whatever their parent is now."""

    def __init__(self, source: Path, pool: str) -> None:
        self.source = source
        self.pool = pool
        self.member = "worker" if pool == "prefork" else "host"
        self.mark = uuid.uuid4().hex
        self.directory = Path(tempfile.mkdtemp(prefix="faults-"))
        self.directory.chmod(0o755)  # started as root, handlers run as another user
        self.control = self.directory / "ctl"
        self.handlers(HANDLERS)
        self.log_path = self.directory / "log"
        self.log_path.touch()
        self.flags: tuple[str, ...] = ()
        self.injecting = False  # started with the seam of ci/faults/inject
        self.process: subprocess.Popen[bytes] | None = None
        self.group: Group | None = None  # that it is started in

    def handlers(self, text: str) -> None:
        new = self.source / PACKAGE / "handlers.new"
        new.write_text(text)
        new.replace(self.source / PACKAGE / "handlers.py")

    @contextlib.contextmanager
    def failing(self, what: str, error: str) -> Iterator[None]:
        """Inside, every `accept` or `fork` of the service fails with this error (ENOMEM); see inject/."""
        file, new = self.directory / what, self.directory / "new"
        new.write_text(error)
        new.replace(file)
        try:
            yield
        finally:
            file.unlink()

    @property
    def environment(self) -> dict[str, str]:
        path = [*ELSEWHERE, os.fspath(self.source)]
        seam = {}
        if self.injecting:
            path.insert(0, os.fspath(INJECT))
            seam = {"FAULT_INJECT": os.fspath(self.directory)}
        return {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": os.pathsep.join(path),
                "FAULT_MARK": self.mark, "LANG": "C.UTF-8", **seam}  # fmt: skip

    def launch(self, *flags: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """In the foreground, with these flags alone; does not wait."""
        command = [*prefix, PYTHON, "-m", PACKAGE, "-x", *flags]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=self.directory, env=self.environment, stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
        return self.process

    def start(self, *flags: str, port: int = 0, prefix: tuple[str, ...] = ()) -> Target:
        """In the foreground; returns when it is ready."""
        self.flags = flags
        process = self.launch("-i", "127.0.0.1", "-p", str(port), "--control", os.fspath(self.control), *flags,
                              prefix=prefix)  # fmt: skip
        eventually(lambda: re.search(r"ready: ", self.log) or process.poll() is not None, "ready")
        if process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode}:\n{self.log}")
        return self

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="backslashreplace")

    def said(self, pattern: str, after: int = 0, deadline: float = 20.0) -> re.Match[str]:
        return eventually(lambda: re.search(pattern, self.log[after:]), f"/{pattern}/ in the log", deadline)

    @property
    def port(self) -> int:
        return int(self.said(r"listening on \w+://\S*:(\d+)")[1])

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [PYTHON, "-m", PACKAGE, "ctl", *words, "--control", os.fspath(self.control)]
        return subprocess.run(
            command, env=self.environment, cwd=self.directory, capture_output=True, text=True, timeout=60
        )

    # processes

    @property
    def supervisor(self) -> int:
        assert self.process is not None
        return self.process.pid

    def tree(self) -> dict[int, tuple[int, str]]:
        """All living processes of this service: {pid: (parent, state)}."""
        found = {}
        needle = f"FAULT_MARK={self.mark}".encode()
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    if needle in Path(f"/proc/{entry}/environ").read_bytes():
                        fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                        if fields[0] not in "ZX":
                            found[int(entry)] = (int(fields[1]), fields[0])
        return found

    def servers(self) -> list[int]:
        return sorted(pid for pid, (parent, _) in self.tree().items() if parent == self.supervisor)

    def members(self) -> list[int]:
        tree = self.tree()
        servers = {pid for pid, (parent, _) in tree.items() if parent == self.supervisor}
        return sorted(pid for pid, (parent, _) in tree.items() if parent in servers)

    def pick(self, level: str) -> int:
        """The pid of one process of a level: supervisor, server, worker or host."""
        if level == "supervisor":
            return self.supervisor
        found = eventually(self.servers if level == "server" else self.members, f"a {level}")
        return found[-1]

    @staticmethod
    def kill(pid: int, number: signal.Signals) -> None:
        """One of our processes, which may be gone by now."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def send(self, level: str, number: signal.Signals) -> int:
        pid = self.pick(level)
        self.kill(pid, number)
        return pid

    def zombies(self) -> int:
        """Children of the supervisor that are not reaped."""
        count = 0
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                    count += fields[0] == "Z" and int(fields[1]) == self.supervisor
        return count

    def descriptors(self) -> dict[str, int]:
        """Open descriptors of supervisor and current server: what a leak makes grow."""
        server = self.pick("server")
        return {
            name: len(os.listdir(f"/proc/{pid}/fd"))
            for name, pid in (("supervisor", self.supervisor), ("server", server))
        }

    def settled(self) -> bool:
        """One generation, and no member is leaving."""
        tree = self.tree()
        servers = [pid for pid, (parent, _) in tree.items() if parent == self.supervisor]
        return len(servers) == 1 and all(parent in (self.supervisor, servers[0]) or pid == self.supervisor
                                         for pid, (parent, _) in tree.items())  # fmt: skip

    # the end

    def stop(self, number: signal.Signals = signal.SIGTERM, deadline: float = 40.0) -> int:
        assert self.process is not None
        os.kill(self.supervisor, number)
        return self.process.wait(deadline)

    def left(self, deadline: float = 5.0) -> dict[str, int]:
        """What a service that has ended leaves behind: processes, listening sockets, files."""
        port = self.port
        with contextlib.suppress(TimeoutError):
            eventually(lambda: not self.tree(), "no process", deadline)
        files = [path for path in self.directory.iterdir() if path != self.log_path]
        return {"processes": len(self.tree()), "sockets": listening(port), "files": len(files)}

    def close(self) -> None:
        """End whatever is left of this service, by its mark, and its files."""
        for _ in range(20):
            tree = self.tree()
            for pid in tree:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not tree:
                break
            time.sleep(0.05)
        if self.process is not None:
            self.process.wait(10)
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()
        if self.group is not None:
            self.group.remove()


def listening(port: int) -> int:
    """Sockets that listen on this port."""
    found = 0
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(name).read_text().splitlines()[1:]:
                fields = line.split()
                found += fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
    return found
