"""`docker stop` under load, again and again: nothing that the service has taken is lost.

The clients talk to the container's own address, not through the engine's proxy, so what they see is what the service
does: once a connection is made the kernel has queued it for the service, and what is sent on it must be answered.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import pytest
from baking import bake, copy_template

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


@pytest.fixture(params=["prefork", "threaded"])
def image(request: pytest.FixtureRequest, engine: docker.DockerClient, tmp_path: Path) -> Iterator[str]:
    project = bake(copy_template(tmp_path / "template"), tmp_path / "baked", pool=request.param)
    (project / "src/hello_server/handlers.py").write_text(HANDLERS)
    tag = f"servertemplate-stop:{uuid4().hex[:12]}"
    options: dict[str, Any] = {"labels": {LABEL: "stop"}, "buildargs": {"PYTHON_IMAGE": IMAGE}}
    engine.images.build(path=str(project), tag=tag, rm=True, forcerm=True, **options)
    yield tag
    engine.images.remove(tag)


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
        """None once nobody listens there any more, or the address itself is gone."""
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
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def address(container: Any) -> tuple[str, int]:
    container.reload()
    (network,) = container.attrs["NetworkSettings"]["Networks"].values()
    return network["IPAddress"], 1966


@pytest.mark.timeout(600)
def test_stop_under_load(engine: docker.DockerClient, image: str) -> None:
    total: Counter[str] = Counter()
    for number in range(STOPS):
        container: Any = engine.containers.run(image, ["-n", "6", "-m", "24"], detach=True, labels={LABEL: "stop"})
        try:
            for line in container.logs(stream=True, follow=True):
                if b"ready: generation 1" in line:
                    break
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
        finally:
            container.remove(force=True, v=True)
    print(f"{STOPS} stops: {dict(total)}")
