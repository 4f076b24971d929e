"""A machine whose PID 1 is systemd: a container, and what an operator does to it."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any

import pytest
from docker.models.containers import Container

LABEL = "servertemplate.linux"
DEADLINE = 60.0  # seconds; how long an event that is sure to come may take on a loaded machine
SERVICE = "hello-server"
SOURCES = "/root/project"
HANDLERS = """
import os, time
from .runtime.http import Router

routes = Router()


@routes.get("/")
def hello(request):
    return "hello"


@routes.get("/slow/{seconds}")
def slow(request):
    time.sleep(float(request.params["seconds"]))
    return "done"


@routes.get("/who")
def who(request):
    return {"worker": os.getpid(), "uid": os.getuid()}


@routes.get("/broken")
def broken(request):
    raise LookupError("deliberate")
"""
# Of a machine: its journal stays in memory, and nothing of it outlives the test.
MACHINE: dict[str, Any] = {
    "cap_add": ["SYS_ADMIN", "SYS_PTRACE"],
    "security_opt": ["seccomp=unconfined", "apparmor=unconfined"],
    "tmpfs": {"/run": "", "/run/lock": "", "/tmp": ""},
    "environment": {"container": "docker"},
    "cgroupns": "host",
    "ports": {f"{port}/tcp": ("127.0.0.1", None) for port in (80, 1966, 1967)},
}


class Done:
    """A command that has ended."""

    def __init__(self, command: tuple[str, ...], status: int, output: tuple[bytes | None, bytes | None]) -> None:
        self.command = command
        self.status = status
        self.stdout, self.stderr = ((part or b"").decode() for part in output)

    def __repr__(self) -> str:
        return f"{self.command} ended with {self.status}\n{self.stdout}\n{self.stderr}"


class Machine:
    """A booted container, and what an operator does to it."""

    def __init__(self, container: Container, version: int) -> None:
        self.container = container
        self.version = version

    def try_(self, *command: str, **options: Any) -> Done:
        ended: Any = self.container.exec_run(list(command), demux=True, **options)
        return Done(command, ended.exit_code, ended.output)

    def run(self, *command: str, **options: Any) -> str:
        """Run a command that has to work; what it wrote to its standard output."""
        done = self.try_(*command, **options)
        assert done.status == 0, done
        return done.stdout

    def ask(self, *command: str) -> str:
        """What a command says that has to work, changes nothing and always says something. The engine can lose the
        output of a short command on a loaded machine; then it is asked again."""
        for _attempt in range(5):
            if said := self.run(*command):
                return said
        pytest.fail(f"{command} says nothing", pytrace=False)

    def write(self, path: str, text: str) -> None:
        self.run("mkdir", "-p", os.path.dirname(path))
        data = text.encode()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo(os.path.basename(path))
            entry.size, entry.mtime = len(data), int(time.time())
            tar.addfile(entry, io.BytesIO(data))
        assert self.container.put_archive(os.path.dirname(path), archive.getvalue())

    def handlers(self, text: str) -> None:
        self.write(f"/usr/local/lib/{SERVICE}/hello_server/handlers.py", text)

    def kill(self, signal: str, pid: int) -> None:
        self.run("python3", "-c", f"import os, signal; os.kill({pid}, signal.{signal})")

    def drop_in(self, text: str, unit: str = f"{SERVICE}.service") -> None:
        """A drop-in of the administrator's."""
        self.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
        self.run("systemctl", "daemon-reload")

    def example(self, name: str) -> None:
        """Use a drop-in that was installed as an example."""
        directory = f"/etc/systemd/system/{SERVICE}.service.d"
        self.run("mkdir", "-p", directory)
        self.run("cp", f"/usr/local/share/examples/{SERVICE}/{name}", directory)
        self.run("systemctl", "daemon-reload")

    def journal(self, unit: str = SERVICE) -> str:
        return self.ask("journalctl", "--no-pager", "-o", "cat", "-u", unit, "-u", f"{unit}.socket")

    def logged(self, text: str) -> None:
        """Wait until the journal has it: journald is a process of its own."""
        self.eventually(f"{text!r} in the journal", lambda: text in self.journal())

    def entries(self, unit: str = SERVICE) -> list[dict[str, Any]]:
        lines = self.ask("journalctl", "--no-pager", "-o", "json", "-u", unit).splitlines()
        return [json.loads(line) for line in lines]

    def show(self, name: str, unit: str = SERVICE) -> str:
        return self.ask("systemctl", "show", "--property", name, unit).strip().removeprefix(name + "=")

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    def port(self, inside: int = 1966) -> int:
        if not self.container.ports:
            self.container.reload()
        published = self.container.ports[f"{inside}/tcp"]
        assert published, "the machine is down"
        return int(published[0]["HostPort"])

    def connect(self, inside: int = 1966) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port(inside), timeout=DEADLINE)

    def get(self, path: str = "/", inside: int = 1966) -> str:
        """The body of an answer that has status 200."""
        connection = self.connect(inside)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, (response.status, body)
            return body
        finally:
            connection.close()

    def serves(self, inside: int = 1966) -> bool:
        try:
            return self.get("/", inside) == "hello"
        except (OSError, HTTPException):
            return False

    def eventually(self, what: str, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not happened():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {DEADLINE:g} s: {what}\n{self.journal()}", pytrace=False)
            time.sleep(0.05)
