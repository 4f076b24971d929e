"""Issue 18 D 8: what a reload changes, by the manual, is changed by a reload: each row of its table by what it does."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from harness import HANDLERS, ROOT, Log, Wire, eventually
from trust_process import Place, Suspect

CODE = (
    HANDLERS
    + """
import time

if os.path.exists(os.path.join(os.path.dirname(__file__), "slow")):
    time.sleep(30)

@routes.get("/self")
def self(request):
    with open("/proc/self/status") as file:
        forbids = dict(line.split(":", 1) for line in file)["NoNewPrivs"]
    return {"uid": os.getuid(), "gid": os.getgid(), "cwd": os.getcwd(), "forbids": int(forbids)}

@routes.get("/die")
def die(request):
    os._exit(1)
"""
)
MANUAL = Path(__file__).parents[2] / "{{cookiecutter.project_slug}}" / "docs" / "manual.md"
BASE = {"idle": 1, "max": 2, "fast-time": 0, "fast-max": 100, "drain-timeout": 20, "new-privileges": False}
PROVEN: set[str] = set()
Values = dict[str, object]


def proves(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """This test shows what these options do after a reload."""
    PROVEN.update(names)
    return lambda function: function


class Reloaded:
    """A service, its configuration, and where it listens."""

    def __init__(self, service: Suspect, **base: object) -> None:
        self.service = service
        self.values: Values = {**BASE, **base}
        self.file = service.config("")
        self.write()
        service.watch("-f", self.file, address=(), stdout=subprocess.PIPE)
        assert service.process is not None and service.process.stdout is not None
        self.out = Log(service.process.stdout)

    def write(self) -> None:
        texts = {
            name: str(value).lower() if isinstance(value, bool) else repr(value) for name, value in self.values.items()
        }
        self.file.write_text("".join(f"{name} = {text}\n" for name, text in texts.items()))

    def reload(self, **values: object) -> None:
        self.values |= {name.replace("_", "-"): value for name, value in values.items()}
        self.write()
        done = self.service.ctl("reload", deadline=60)
        assert done.returncode == 0, done.stderr

    def wire(self, host: str = "127.0.0.1") -> Wire:
        found = [
            match for one in self.service.log.lines if (match := re.search(rf"listening on \w+://{host}:(\d+)$", one))
        ]
        ports = [port for match in found if (port := int(match[1])) != self.service.admin[1]]
        return Wire((host, ports[-1]), 15)


def test_every_row_has_a_proof() -> None:
    rows = re.findall(r"^\| `(?:-\w, )?--([\w-]+)[^|]*\|[^|]*\| reload \|", MANUAL.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(PROVEN)


@proves("idle", "max", "processes", "root", "user", "group", "new-privileges", "backlog", "max-head", "max-body",
        "request-id", "access-log", "max-requests")  # fmt: skip
def test_processes_and_limits(place: Place) -> None:
    service = place("threaded", CODE)
    path = service.run_directory / "sock"
    reloaded = Reloaded(service, bind=[f"unix:{path}", "127.0.0.1:0"])
    rights = {"user": "54321", "group": "54322"} if ROOT else {}
    reloaded.reload(
        idle=3, max=5, processes=2, root=os.fspath(service.directory), backlog=1500, new_privileges=True,
        max_head=2000, max_body=10, request_id="always", access_log="combined", **rights,
    )  # fmt: skip
    status = service.status()
    assert (status["workers"]["floor"], status["workers"]["max"]) == (3, 5)
    assert len(status["generations"][-1]["workers"]) == 2
    with reloaded.wire() as wire:
        seen = wire.get("/self").json()
        assert (seen["cwd"], seen["forbids"]) == (os.fspath(service.directory), 0)
        if ROOT:
            owner = path.lstat()
            assert (seen["uid"], seen["gid"]) == (owner.st_uid, owner.st_gid) == (54321, 54322)
        assert wire.get("/").header("x-request-id")
        assert wire.get("/", X="x" * 3000).status == 431
    with reloaded.wire() as wire:
        port = wire.socket.getpeername()[1]
        wire.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\n" + b"x" * 11)
        assert wire.answer().status == 413
        reloaded.out.wait_for('"GET / HTTP/1.1" 200')
    if shutil.which("ss"):
        said = subprocess.check_output(["ss", "-Hltn"], text=True)
        most = int(Path("/proc/sys/net/core/somaxconn").read_text())
        assert re.search(rf"LISTEN +\d+ +{min(1500, most)} +127\.0\.0\.1:{port} ", said), said
    reloaded.reload(max_requests=2)
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(reloaded.wire()).get("/")
        service.log.wait_for("has served its --max-requests")
    service.end()


@proves("bind", "listen-unix", "port", "interface", "max-connections", "keep-alive", "header-timeout", "body-timeout",
        "request-timeout", "spool-dir", "fast-time", "fast-max", "max-memory", "log-level")  # fmt: skip
def test_addresses_and_times(place: Place) -> None:
    service = place("threaded", CODE)
    reloaded = Reloaded(service, bind=["127.0.0.1:0"])
    spool = service.directory / "spool"
    spool.mkdir(mode=0o777)
    spool.chmod(0o777)
    path = service.run_directory / "second"
    reloaded.reload(
        bind=["127.0.0.1:0", f"unix:{path}"], keep_alive=0, header_timeout=0.5, body_timeout=0.5,
        request_timeout=0.5, spool_dir=os.fspath(spool), fast_time=1000, fast_max=1,
    )  # fmt: skip
    with Wire(os.fspath(path), 15) as wire:
        assert wire.get("/").header("connection") == "close"
    with reloaded.wire() as head, reloaded.wire() as body:
        body.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 90000\r\n\r\n" + b"x" * 80000)
        eventually(lambda: any(one.startswith(f"{spool}/") for one in open_files(service)), "a spool file")
        head.send(b"GET / HT")
        assert (head.answer().status, body.answer().status) == (408, 408)
    with reloaded.wire() as hangs:
        hangs.send(b"GET /gate HTTP/1.1\r\nHost: test\r\n\r\n")
        assert hangs.answer().status == 503
    with Wire(os.fspath(path), 15) as wire:
        wire.send(b"GET /die HTTP/1.1\r\nHost: test\r\n\r\n").rest()
    service.log.wait_for("workers die too fast")
    del reloaded.values["bind"]
    path = service.run_directory / "third"
    reloaded.reload(listen_unix=os.fspath(path), keep_alive=75, max_connections=3, max_memory=1, request_timeout=0)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(os.fspath(path), 15)) for _ in range(3)]
        assert [wire.get("/").status for wire in wires] == [200] * 3
        stack.enter_context(Wire(os.fspath(path), 15)).send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        eventually(
            lambda: (
                service.log.find("--max-connections") or select.select([wire.socket for wire in wires], [], [], 0)[0]
            ),
            "one too many",
        )
    service.log.wait_for(r"--max-memory 1\)")
    del reloaded.values["listen-unix"]
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = free.getsockname()[1]
    reloaded.reload(interface="127.0.0.2", port=port, log_level="error")
    with Wire(("127.0.0.2", port), 15) as wire:
        assert wire.get("/").status == 200
    reloaded.reload()
    assert not service.log.find("starting generation 5")
    service.end()


def open_files(service: Suspect) -> list[str]:
    found = []
    for process in service.processes():
        for name in os.listdir(f"/proc/{process.pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{process.pid}/fd/{name}"))
            except OSError:
                continue
    return found


@proves("start-timeout", "drain-timeout", "stop-delay")
def test_lives(place: Place) -> None:
    service = place("threaded", CODE)
    reloaded = Reloaded(service, bind=["127.0.0.1:0"])
    (service.package / "slow").touch()
    reloaded.values["start-timeout"] = 1
    reloaded.write()
    done = service.ctl("reload", deadline=60)
    assert done.returncode == 1
    assert "--start-timeout" in done.stderr + done.stdout
    (service.package / "slow").unlink()
    reloaded.reload(start_timeout=30, drain_timeout=1, stop_delay=2)
    with reloaded.wire() as wire:
        wire.send(b"GET /gate HTTP/1.1\r\nHost: test\r\n\r\n")
        service.events.wait("gate")
        reloaded.reload()
        service.log.wait_for("drain took longer than --drain-timeout")
    service.signal(signal.SIGTERM)
    service.log.wait_for("stopping gracefully")
    reloaded.wire().close()  # not refused yet
    assert service.wait(20) == 0


@proves("immediate")
def test_immediate(place: Place) -> None:
    service = place("prefork", CODE)
    reloaded = Reloaded(service, bind=["127.0.0.1:0"])
    reloaded.reload(immediate=True)
    with reloaded.wire() as wire:
        wire.send(b"GET /gate HTTP/1.1\r\nHost: test\r\n\r\n")
        service.events.wait("gate")
        service.signal(signal.SIGTERM)
        assert service.wait(15) == 0  # sooner than the drain's 20 s


@proves("restart-max")
def test_restart_max(place: Place) -> None:
    service = place("prefork", CODE)
    reloaded = Reloaded(service, bind=["127.0.0.1:0"])
    reloaded.reload(restart_max=1)
    with reloaded.wire() as wire:
        wire.send(b"GET /die HTTP/1.1\r\nHost: test\r\n\r\n").rest()
    assert service.wait(15) == 70


LINES = """
def service_line(line, stream):
    return line + b"\\n"
"""


@proves("max-line", "idle-timeout")
def test_lines(pool: str, place: Place) -> None:
    service = place(pool, LINES, "line")
    reloaded = Reloaded(service, bind=["127.0.0.1:0"])
    reloaded.reload(max_line=10, idle_timeout=0.5)
    with reloaded.wire() as long, reloaded.wire() as silent:
        assert long.send(b"x" * 20 + b"\n").rest() == b"line too long\r\n"
        assert silent.send(b"x\n").rest() == b"x\n"
    service.end()
