"""Machines: containers with a whole system in them, on which a generated service is installed and operated."""

from __future__ import annotations

import fcntl
import io
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import pytest
from docker.errors import DockerException
from docker.models.containers import Container

LABEL = "servertemplate.machine"
DEADLINE = 60.0  # seconds; how long an event that is sure to come may take on a loaded machine
SERVICE = "hello-server"
SOURCES = "/root/project"
HANDLERS = '''
import os, time
from .runtime.http import Router

routes = Router()


@routes.get("/")
def hello(request):
    return "hello"


@routes.get("/held")
def held(request):
    """Waits until the test opens the gate."""
    while not os.path.exists(os.path.join(os.environ.get("STATE_DIRECTORY", "/tmp"), "open")):
        time.sleep(0.02)
    return "done"


@routes.get("/who")
def who(request):
    return {"worker": os.getpid(), "uid": os.getuid()}


@routes.get("/broken")
def broken(request):
    raise LookupError("deliberate")
'''
BROKEN = "raise LookupError('deliberate')\n"
PORTS: dict[str, Any] = {f"{port}/tcp": ("127.0.0.1", None) for port in (80, 1966, 1967)}


class Done:
    """A command that has ended."""

    def __init__(self, command: tuple[str, ...], status: int, output: tuple[bytes | None, bytes | None]) -> None:
        self.command = command
        self.status = status
        self.stdout, self.stderr = ((part or b"").decode() for part in output)

    def __repr__(self) -> str:
        return f"{self.command} ended with {self.status}\n{self.stdout}\n{self.stderr}"


class Machine:
    """A running container, and what an operator does to it."""

    def __init__(self, container: Container) -> None:
        self.container = container

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

    def log(self) -> str:
        """What the service has said, as far as there is a place where it is kept."""
        return ""

    def write(self, path: str, text: str) -> None:
        self.run("mkdir", "-p", os.path.dirname(path))
        assert self.container.put_archive(os.path.dirname(path), archive({os.path.basename(path): text}))

    def handlers(self, text: str) -> None:
        self.write(f"/usr/local/lib/{SERVICE}/hello_server/handlers.py", text)

    def kill(self, signal: str, pid: int) -> None:
        self.run("python3", "-c", f"import os, signal; os.kill({pid}, signal.{signal})")

    def address(self, inside: int = 1966) -> tuple[str, int]:
        """Where a port of the machine is published."""
        if not self.container.ports:
            self.container.reload()
        published = self.container.ports[f"{inside}/tcp"]
        assert published, "the machine is down"
        return "127.0.0.1", int(published[0]["HostPort"])

    def connect(self, inside: int = 1966) -> HTTPConnection:
        """To a port of the machine."""
        return HTTPConnection(*self.address(inside), timeout=DEADLINE)

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

    @contextmanager
    def held(self, gate: str) -> Iterator[list[str]]:
        """A request that is in flight until this file is made, which happens here at the end; then its answer is in
        the list."""
        answer: list[str] = []
        thread = threading.Thread(target=lambda: answer.append(self.get("/held")), daemon=True)
        thread.start()
        status = (f"/usr/local/bin/{SERVICE}", "ctl", "status")
        self.eventually("the request is in flight", lambda: " 1 busy," in self.try_(*status).stdout)
        yield answer
        self.run("touch", gate)
        thread.join(DEADLINE)

    def serves(self, inside: int = 1966) -> bool:
        try:
            return self.get("/", inside) == "hello"
        except (OSError, HTTPException):
            return False

    def eventually(self, what: str, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not happened():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {DEADLINE:g} s: {what}\n{self.log()}", pytrace=False)
            time.sleep(0.05)


def archive(contents: dict[str, str | Path]) -> bytes:
    """A tar file with these texts (mode 0755), files and directories."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in contents.items():
            if isinstance(content, Path):
                tar.add(content, name)
                continue
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(content.encode()), int(time.time()), 0o755
            tar.addfile(entry, io.BytesIO(content.encode()))
    return data.getvalue()


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The Docker engine; what a run that was killed has left there is removed."""
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        pytest.fail(f"these tests need a Docker engine, and none answers: {error}", pytrace=False)
    for container in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
        if abandoned(container.attrs):
            container.remove(force=True, v=True)
    for image in client.images.list(filters={"label": LABEL}):
        if abandoned(image.attrs):
            client.images.remove(str(image.id), force=True)
    yield client
    client.close()


def abandoned(attributes: dict[str, Any]) -> bool:
    """Left by a run that was killed: none takes an hour."""
    created = datetime.fromisoformat(attributes["Created"][:19]).replace(tzinfo=UTC)
    return datetime.now(UTC) - created > timedelta(hours=1)


@contextmanager
def image_with(
    engine: docker.DockerClient, base: str, contents: dict[str, str | Path], command: str, lock: Path
) -> Iterator[str]:
    """An image: `base`, with these files in it, and what this command of the shell has made of them."""
    tag = f"{LABEL}:{uuid4().hex[:12]}"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one after the other: each process of pytest makes its own
        container = engine.containers.create(base, ["sh", "-c", command], network_mode="none", labels={LABEL: ""})
        try:
            assert container.put_archive("/", archive(contents))
            container.start()
            status = container.wait(timeout=300)["StatusCode"]
            assert status == 0, container.logs().decode()
            container.commit(*tag.split(":"))
        finally:
            container.remove(force=True, v=True)
    yield tag
    engine.images.remove(tag, force=True)


@contextmanager
def booted(engine: docker.DockerClient, image: str, command: list[str], **options: Any) -> Iterator[Container]:
    """A container of it, which is removed at the end."""
    container = engine.containers.create(image, command, labels={LABEL: ""}, ports=PORTS, **options)
    try:
        container.start()
        yield container
    finally:
        container.remove(force=True, v=True)
