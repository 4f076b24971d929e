"""A generated service for the load scripts: generate, start, measure, stop. Needs cookiecutter, and Linux for /proc."""

import atexit
import functools
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/support"))
from baking import bake, copy_template  # noqa: E402  # after its path

PACKAGE = "hello_server"
DEADLINE = 30.0
TROUBLE = re.compile(r"Traceback|Z (ERROR|CRITICAL)\b")


def raise_limits(connections: int) -> int:
    """Each connection is a descriptor, here and in the service: raise the soft limit, as far as the hard one lets us.
    Returns how many connections there can be, and says what it did."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 200
    ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < ceiling:
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
    print(
        f"descriptors (RLIMIT_NOFILE): {soft} raised to {max(soft, ceiling)}, for one per connection; hard limit {hard}"
    )
    possible = connections if max(soft, ceiling) >= wanted else ceiling - 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    for name, value in (
        ("RLIMIT_NPROC", soft),
        ("kernel.threads-max", number("/proc/sys/kernel/threads-max")),
        ("kernel.pid_max", number("/proc/sys/kernel/pid_max")),
        ("vm.max_map_count", number("/proc/sys/vm/max_map_count") // 2),  # a stack and its guard page
    ):
        if 0 <= value < possible + 300:
            print(f"{name} allows only {value} threads")
            possible = min(possible, value - 300)
    if possible < connections:
        print(f"this machine allows {possible} connections, not {connections}: that is what is tried")
    return possible


@functools.cache
def generated(pool: str, protocol: str) -> Path:
    """The sources of a project, generated once in a run."""
    root = Path(tempfile.mkdtemp(prefix="load-"))
    atexit.register(shutil.rmtree, root)
    return bake(copy_template(root / "template"), root / "project", pool=pool, protocol=protocol) / "src"


def number(path: str) -> int:
    return int(Path(path).read_text())


class Service:
    """One service, until the end of the `with` block, which insists on a clean end."""

    def __init__(self, pool: str, protocol: str, handlers: str, *flags: str, python: str = sys.executable) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="load-")
        os.chmod(self.directory.name, 0o755)
        root = Path(self.directory.name)
        source = shutil.copytree(generated(pool, protocol), root / "src")
        (source / PACKAGE / "handlers.py").write_text(handlers)
        self.log_path = root / "log"
        self.log_file = self.log_path.open("ab")
        self.process = subprocess.Popen(
            [python, "-m", PACKAGE, "-x", "-i", "127.0.0.1", "-p", "0", *flags],
            env={**os.environ, "PYTHONPATH": str(source)},
            stderr=self.log_file,
        )
        self.port = int(self.wait_for(r"listening on \w+://\S*:(\d+)")[1])
        self.wait_for("ready: ")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def forget_log(self) -> None:
        """Empty the log, if it holds no error."""
        text = self.log()
        if TROUBLE.search(text):
            sys.exit(f"the service said:\n{text[-5000:]}")
        os.truncate(self.log_path, 0)

    def wait_for(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self.log())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the service did not say /{pattern}/:\n{self.log()}")
            time.sleep(0.01)
        return found

    def children(self, pid: int) -> list[int]:
        found: list[int] = []
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, children.read_text().split())
        return found

    def pids(self) -> list[int]:
        """All processes of the service."""
        found = [self.process.pid]
        for pid in found:
            found += self.children(pid)
        return found

    def measure(self) -> dict[str, int]:
        """Sums over all processes: memory in KiB, threads, descriptors. `vsz` is that of the largest one."""
        total = dict.fromkeys(("pss", "threads", "descriptors", "processes", "vsz"), 0)
        for pid in self.pids():
            status = Path(f"/proc/{pid}/status").read_text()
            total["pss"] += int(re.findall(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[0])
            total["vsz"] = max(total["vsz"], int(re.findall(r"VmSize:\s+(\d+)", status)[0]))
            total["threads"] += int(re.findall(r"Threads:\s+(\d+)", status)[0])
            total["descriptors"] += len(os.listdir(f"/proc/{pid}/fd"))
            total["processes"] += 1
        return total

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def stop(self) -> int:
        """TERM; the exit status. Kills what does not end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            pids = self.pids()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            sys.exit(f"the service did not stop; its processes were {pids}:\n{self.log()[-5000:]}")

    def __enter__(self) -> "Service":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pids = self.pids()
        status = self.stop()
        self.log_file.close()
        text = self.log()
        self.directory.cleanup()
        if kind is not None:
            print(f"the service said:\n{text[-3000:]}")
        else:
            left = [pid for pid in pids[1:] if Path(f"/proc/{pid}").exists()]
            if status or left or TROUBLE.search(text):
                sys.exit(f"exit status {status}, processes left {left}:\n{text[-5000:]}")


def verdict(name: str, good: bool) -> bool:
    print(f"{'ok    ' if good else 'FAILED'} {name}")
    return good
