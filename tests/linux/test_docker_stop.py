"""`docker stop` under load, again and again: nothing that the service has taken is lost.

The clients talk to the container's own address, not through the engine's proxy, so what they see is what the service
does: once a connection is made the kernel has queued it for the service, and what is sent on it must be answered.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import pytest
from baking import OPTIONS, bake, copy_template

STOPS = 10  # for each pool
CLIENTS = 8  # with a connection per request, and as many that keep theirs
DEADLINE = 60.0
LABEL = "servertemplate.test"
IMAGE = os.environ.get("PYTHON_IMAGE") or "python:3.13-slim"
HANDLERS = """
import random
import time

from .runtime.http import Request, Router

routes = Router()


@routes.get("/")
def some_work(request: Request) -> str:
    time.sleep(random.random() * 0.05)
    return "done"
"""


SEAM = "from .runtime.system import listeners\n\nlisteners.HANDSHAKE = 3.0\n"  # time enough for a slow machine


@contextlib.contextmanager
def image(engine: docker.DockerClient, place: Path, pool: str, seam: str = "") -> Iterator[str]:
    """The tag of a project's image; what `__main__.py` does before `run` begins with `seam`."""
    project = bake(copy_template(place / "template"), place / "baked", pool=pool)
    (project / "src/hello_server/handlers.py").write_text(HANDLERS)
    main = project / "src/hello_server/__main__.py"
    main.write_text(main.read_text().replace("SERVICE =", f"{seam}SERVICE =", 1))
    tag = f"servertemplate-stop:{uuid4().hex[:12]}"
    # Without the cache: an image that another run removes meanwhile takes the layers that both have with it.
    options: dict[str, Any] = {"labels": {LABEL: "stop"}, "buildargs": {"PYTHON_IMAGE": IMAGE}, "nocache": True}
    engine.images.build(path=str(project), tag=tag, rm=True, forcerm=True, **options)
    try:
        yield tag
    finally:
        engine.images.remove(tag)


@contextlib.contextmanager
def running(engine: docker.DockerClient, tag: str, *flags: str) -> Iterator[Any]:
    """A container that is ready."""
    container: Any = engine.containers.run(tag, list(flags), detach=True, labels={LABEL: "stop"})
    try:
        wait_for(container, b"ready: generation 1")
        yield container
    finally:
        container.remove(force=True, v=True)


class Load:
    """Clients of two kinds. `counts` says how their requests ended."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.counts: Counter[str] = Counter()
        self.changed = threading.Condition()
        kinds = [self.one_each] * CLIENTS + [self.keep] * CLIENTS
        self.threads = [threading.Thread(target=kind, daemon=True) for kind in kinds]
        for thread in self.threads:
            thread.start()

    def count(self, ending: str) -> None:
        with self.changed:
            self.counts[ending] += 1
            self.changed.notify_all()

    def wait_for(self, answers: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.counts["answered"] >= answers, DEADLINE), self.counts

    def connect(self) -> socket.socket | None:
        """None once nothing listens there any more, or the address itself is gone."""
        try:
            connection = socket.create_connection(self.address, 5.0)
        except OSError:
            self.count("refused")
            return None
        connection.settimeout(DEADLINE)
        return connection

    def ask(self, connection: socket.socket) -> tuple[str, bool]:
        """One request: how it ended, and whether the connection goes on."""
        answer = b""
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            while not answer.endswith(b"done"):
                piece = connection.recv(4096)
                if not piece:
                    return f"lost: end of file after {len(answer)} bytes", False
                answer += piece
        except OSError as error:
            return f"lost: {error!r} after {len(answer)} bytes", False
        assert answer.startswith(b"HTTP/1.1 200 ")
        return "answered", b"connection: close" not in answer.lower()

    def one_each(self) -> None:
        while connection := self.connect():
            with connection:
                self.count(self.ask(connection)[0])

    def keep(self) -> None:
        """As clients do that keep connections: they look whether the server has closed it before they ask again."""
        while connection := self.connect():
            with connection:
                first = goes_on = True
                while goes_on and (first or not closed(connection)):
                    ending, goes_on = self.ask(connection)
                    # RFC 9112 9.3.1: who asks again while the server closes an idle connection has to ask once more.
                    crossed = not first and ending.startswith("lost") and ending.endswith("after 0 bytes")
                    self.count("crossed" if crossed else ending)
                    first = False

    def end(self) -> None:
        for thread in self.threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()


def closed(connection: socket.socket) -> bool:
    """Whether it is, as far as can be known now: nothing else comes before the next request."""
    return bool(select.select([connection], [], [], 0)[0])


def address(container: Any) -> tuple[str, int]:
    container.reload()
    (network,) = container.attrs["NetworkSettings"]["Networks"].values()
    return network["IPAddress"], 1966


def wait_for(container: Any, text: bytes) -> None:
    """Until its log has a line with this."""
    for line in container.logs(stream=True, follow=True):
        if text in line:
            return
    raise AssertionError(f"the log has no {text!r}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pool", OPTIONS["pool"])
def test_stop_under_load(engine: docker.DockerClient, tmp_path: Path, pool: str) -> None:
    total: Counter[str] = Counter()
    with image(engine, tmp_path, pool) as tag:
        for number in range(STOPS):
            with running(engine, tag, "-n", "6", "-m", "24") as container:
                load = Load(address(container))
                load.wait_for(100 + 7 * number)
                container.stop(timeout=30)
                load.end()
                container.reload()
                log = container.logs().decode()
                assert container.attrs["State"]["ExitCode"] == 0, log
                lost = {ending: times for ending, times in load.counts.items() if ending.startswith("lost")}
                assert lost == {}, f"stop {number}: {load.counts}\n{log}"
                total += load.counts
    print(f"{STOPS} stops: {dict(total)}")


@pytest.mark.parametrize("pool", OPTIONS["pool"])
def test_stop_in_the_middle_of_a_handshake(engine: docker.DockerClient, tmp_path: Path, pool: str) -> None:
    """The client knows that it is connected; the service hears of it only after TERM."""
    with image(engine, tmp_path, pool, SEAM) as tag, running(engine, tag) as container:
        host, port = address(container)
        last_step = f"OUTPUT -p tcp -d {host} --dport {port} --tcp-flags SYN,ACK,RST,FIN ACK -j DROP".split()
        subprocess.run(["iptables", "-w", "-I", *last_step], check=True, timeout=60)
        try:
            client = socket.create_connection((host, port), DEADLINE)
            container.kill("SIGTERM")
            wait_for(container, b"stopping gracefully")
        finally:
            subprocess.run(["iptables", "-w", "-D", *last_step], check=True, timeout=60)
        with client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert container.wait(timeout=DEADLINE)["StatusCode"] == 0
