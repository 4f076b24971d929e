"""The service where there is no Linux: `elsewhere/sitecustomize.py` takes away what only Linux has.

The unit tests run so, and a service from start to stop. The suite of tests/runtime does too, by hand:
`ELSEWHERE=$PWD/tests/portability/elsewhere pytest tests/runtime`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from baking import bake, copy_template
from harness import Service, eventually

ELSEWHERE = Path(__file__).parent / "elsewhere"
KINDS = [("http", "threaded"), ("line", "prefork"), ("stream", "threaded")]  # together they have every unit test
# What is still there, as the service sees it.
TAKEN = """
import json, os, select, selectors, signal, socket
found = [name for module, name in (
    (select, "epoll"), (os, "sched_getaffinity"), (os, "pidfd_open"), (socket, "SO_PEERCRED"), (os, "setresuid"),
) if hasattr(module, name)]
try:
    open("/proc/self/stat")
    found.append("/proc")
except FileNotFoundError:
    pass
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    try:
        sock.bind("\\0name")
        found.append("abstract")
    except OSError:
        pass
found.append(selectors.DefaultSelector.__name__)
"""
HANDLERS = (
    """
import os, tempfile, time
from .probe import gate
from .runtime.http import Response, Router

routes = Router()
"""
    + TAKEN
    + """

@routes.get("/found")
def what_is_found(request):
    return {"found": found, "pid": os.getpid()}


@routes.get("/file")
def file(request):
    data = tempfile.TemporaryFile()
    data.write(bytes(range(256)) * 8192)
    data.seek(0)
    return Response(data)


@routes.post("/echo")
def echo(request):
    return Response(request.body)


@routes.get("/gate")
def held(request):
    gate("held")
    return "done"
"""
)


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Path]]:
    """A project of each kind, baked when it is asked for. Not below pytest's directory, closed to other users."""
    template = copy_template(tmp_path_factory.mktemp("portability"))
    directory = Path(tempfile.mkdtemp(prefix="elsewhere-"))
    directory.chmod(0o755)

    class Projects(dict[tuple[str, str], Path]):
        def __missing__(self, kind: tuple[str, str]) -> Path:
            protocol, pool = kind
            self[kind] = bake(template, directory / f"{protocol}-{pool}", protocol=protocol, pool=pool)
            return self[kind]

    yield Projects()
    shutil.rmtree(directory)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_unit_tests_pass(kind: tuple[str, str], projects: dict[tuple[str, str], Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit"],
        cwd=projects[kind],
        env={**os.environ, "PYTHONPATH": str(ELSEWHERE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^(?:=+ )?[1-9]\d* passed", done.stdout, re.MULTILINE), done.stdout


@pytest.fixture(params=["prefork", "threaded"])
def service(
    request: pytest.FixtureRequest, projects: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    monkeypatch.setattr("harness.ELSEWHERE", [str(ELSEWHERE)])
    directory = Path(tempfile.mkdtemp(prefix="elsewhere-"))
    directory.chmod(0o755)
    service = Service(projects["http", request.param] / "src", directory)
    service.handlers(HANDLERS)
    yield service
    service.close()  # with its directory


def test_everything_works_without(service: Service) -> None:
    """Start with an admin address and a control socket, requests of all sorts, crash, reload, stop."""
    reader, writer = os.pipe()
    service.start("-n", "2", "--admin", "127.0.0.1:0", "--control", service.run_directory / "ctl", pass_fds=[writer])
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"", "the starter's descriptors are closed"
    found = json.loads(service.get("/found").text)
    assert found["found"] == ["PollSelector"]
    assert service.get("/file").content == bytes(range(256)) * 8192
    body = os.urandom(300_000)
    assert service.client.post(service.url("/echo"), content=body).content == body

    def ctl(*command: str) -> str:
        done = service.run("ctl", *command, "--control", service.run_directory / "ctl")
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "ready" in ctl("status")
    os.kill(found["pid"], signal.SIGKILL)  # a worker, or the host of all threads
    service.log.wait_for(rf"\b{found['pid']}\b.* ended with signal SIGKILL")
    service.expect_errors = True
    eventually(lambda: json.loads(service.get("/found").text)["pid"] != found["pid"], "another worker answers")
    assert ctl("reload") == "generation 2 serves\n"
    waiting = service.background("/gate")
    (arrival,) = service.events.wait("held")
    service.signal(signal.SIGTERM)
    service.log.wait_for("stopping gracefully")
    arrival.release()
    assert waiting.result().body == b"done"
    assert service.wait() == 0
