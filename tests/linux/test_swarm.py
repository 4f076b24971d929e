"""A Swarm of two nodes, three replicas, and clients that never ask twice: rolled, undone, scaled, and a node lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from baking import REPOSITORY, bake, copy_template
from projects import make
from swarm import Node, Swarm, groups, leftovers, swarm

pytestmark = [pytest.mark.xdist_group("swarm"), pytest.mark.timeout(600)]

BASE = "python:3.13-bare"
DEADLINE = 120.0
SERVICE = "hello-server_hello-server"
HANDLERS = """
import random, socket, time
from . import __version__
from .runtime.http import Router

routes = Router()


def init(server):
    if __version__ == "0.3.0":
        raise LookupError("deliberate")


def health():
    return __version__ != "0.4.0"


@routes.get("/")
def work(request):
    time.sleep(random.random() * 0.1)
    with open("/run/secrets/token") as file:
        return {"version": __version__, "host": socket.gethostname(), "token": file.read()}


@routes.get("/slow")
def slow(request):
    time.sleep(4)
    return work(request)
"""
GOOD, BETTER, CRASHES, SICK = "0.1.0", "0.2.0", "0.3.0", "0.4.0"


class Load:
    """What the clients have written."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = self.file.read_bytes() if self.file.exists() else b""
        return [json.loads(line) for line in lines[: lines.rfind(b"\n") + 1].splitlines()]

    def answered(self, after: float = 0.0) -> list[dict[str, Any]]:
        return [event for event in self.events if "answer" in event and event["began"] > after]

    def more(self, count: int = 100) -> list[dict[str, Any]]:
        """That many answers to questions that are asked from now on."""
        now = time.monotonic()
        eventually(f"{count} more answers", lambda: len(self.answered(now)) >= count)
        return self.answered(now)


def eventually(what: str, happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < deadline, f"not within {DEADLINE:g} s: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module", autouse=True)
def needed() -> None:
    """CI has it (REQUIRE_TOOLS); elsewhere the tests are skipped."""
    advice = ""
    if os.geteuid() != 0:
        advice = "namespaces and engines need root"
    elif subprocess.run(["docker", "image", "inspect", BASE], capture_output=True, timeout=60).returncode != 0:
        advice = f"{BASE} is missing: `python3 ci/base_image.py {BASE.partition(':')[2]}` makes it"
    if advice:
        pytest.fail(advice) if os.environ.get("REQUIRE_TOOLS") else pytest.skip(advice)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("swarm")
    project = bake(copy_template(directory / "template"), directory / "baked", python_version="3.13")
    (project / "src/hello_server/handlers.py").write_text(HANDLERS)
    stack = project / "deploy/swarm/stack.yaml"
    # Asked more often, a new replica is found healthy sooner; asked with patience, a busy machine is not a sick one.
    text = stack.read_text()
    for shipped, here in (
        ("interval: 5s", "interval: 2s"),
        ("timeout: 3s", "timeout: 10s"),
        ("period: 30s", "period: 10s"),
    ):
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, here)
    stack.write_text(text)
    return project


def version(project: Path, text: str) -> None:
    file = project / "src/hello_server/__init__.py"
    file.write_text(re.sub(r'(__version__ = ").*"', rf'\g<1>{text}"', file.read_text()))


@pytest.fixture(scope="module")
def image(project: Path) -> Iterator[str]:
    """An image of each version, in this machine's engine. Their name without the tag."""
    name = f"servertemplate-swarm-{uuid4().hex[:12]}"
    try:
        for text in (GOOD, BETTER, CRASHES, SICK):
            version(project, text)
            typed(project, "image", IMAGE=name, PYTHON_IMAGE=BASE)
        yield name
    finally:
        tags = [f"{name}:{text}" for text in (GOOD, BETTER, CRASHES, SICK, "latest")]
        subprocess.run(["docker", "rmi", *tags], capture_output=True, timeout=60)


def typed(project: Path, target: str, ok: bool = True, **surroundings: str) -> str:
    """One of the project's own commands; what it says."""
    done = make(project, target, **surroundings)
    assert (done.returncode == 0) == ok, done.stdout
    return done.stdout


def running(node: Node) -> list[dict[str, Any]]:
    """The replicas' containers on a node."""
    found = node.docker("ps", "--quiet", "--filter", f"label=com.docker.swarm.service.name={SERVICE}").split()
    return list(json.loads(node.docker("inspect", *found))) if found else []


def addresses(node: Node) -> set[str]:
    networks = [container["NetworkSettings"]["Networks"]["hello-server_service"] for container in running(node)]
    return {network["IPAddress"] for network in networks}


def test_nothing_is_lost(project: Path, image: str, tmp_path: Path) -> None:
    began = time.monotonic()
    times: dict[str, float] = {}
    with swarm() as made, told(made):
        times["made"] = time.monotonic() - began
        made.load(BASE, *(f"{image}:{text}" for text in (GOOD, BETTER, CRASHES, SICK)))
        files = "deploy/swarm/stack.yaml deploy/swarm/secrets.yaml"
        given: dict[str, Any] = {"DOCKER_HOST": made.manager.host, "IMAGE": image, "SWARM_FILES": files}
        (tmp_path / "token").write_text("secret")
        made.manager.docker("secret", "create", "hello-server-token", str(tmp_path / "token"))
        version(project, GOOD)
        typed(project, "swarm-up", **given)
        assert len(running(made.manager)) + len(running(made.worker)) == 3
        times["up"] = time.monotonic() - began

        load = start_clients(made, made.directory / "clients")
        assert {event["answer"]["version"] for event in load.more()} == {GOOD}
        eventually("three replicas answer", lambda: len({event["answer"]["host"] for event in load.answered()}) == 3)
        assert {event["answer"]["token"] for event in load.answered()} == {"secret"}

        version(project, BETTER)
        typed(project, "swarm-roll", **given)
        assert {event["answer"]["version"] for event in load.more()} == {BETTER}
        times["rolled"] = time.monotonic() - began

        for broken in (CRASHES, SICK):
            version(project, broken)
            said = typed(project, "swarm-roll", ok=False, **given)
            assert "the update failed and was undone; the version before it serves" in said
            assert {event["answer"]["version"] for event in load.more()} == {BETTER}
            times[f"{broken} undone"] = time.monotonic() - began

        made.manager.docker("service", "scale", f"{SERVICE}=5")
        eventually("five replicas answer", lambda: len({e["answer"]["host"] for e in load.answered()[-200:]}) == 5)
        made.manager.docker("service", "scale", f"{SERVICE}=3")
        eventually("three are left", lambda: len(running(made.manager)) + len(running(made.worker)) == 3)
        load.more()
        times["scaled"] = time.monotonic() - began

        # So far no client was refused, and nothing was lost.
        events = load.events
        bad = [event for event in events if "error" in event or "elsewhere" in event]
        assert bad == [], f"{len(bad)} of {len(events)}: {bad[:5]}"

        lost = addresses(made.worker)
        assert lost
        made.worker.lose()
        gone = time.monotonic()
        eventually("three replicas on the other node", lambda: len(running(made.manager)) == 3)
        eventually("all three answer", lambda: len({e["answer"]["host"] for e in load.answered()[-100:]}) == 3)
        eventually("answers to what was in flight", lambda: time.monotonic() > gone + 16)
        load.more()
        failed = [event for event in load.events if "error" in event]
        for event in failed:
            assert event["tried"][-1] in lost and event["began"] < gone, event
        elsewhere = [event for event in load.events if "elsewhere" in event]
        assert all(set(event["tried"][:-1]) <= lost for event in elsewhere if "error" not in event)
        times["a node lost"] = time.monotonic() - began
        print(f"{len(load.events)} requests, {len(failed)} lost: in flight on the lost node")

        made.manager.docker("service", "rm", "clients")
        typed(project, "swarm-down", **given)
        times["down"] = time.monotonic() - began
        assert made.manager.docker("service", "ls", "--quiet") == made.manager.docker("config", "ls", "--quiet") == ""
        directory = made.directory
    times["nothing left"] = time.monotonic() - began
    print({what: round(seconds, 1) for what, seconds in times.items()})
    assert not directory.exists()
    assert groups(directory.name + "*") == []


@contextmanager
def told(made: Swarm) -> Iterator[None]:
    """Show, after a failure, what became of the replicas."""
    try:
        yield
    except BaseException:
        command = ["docker", "--host", made.manager.host, "service", "ps", "--no-trunc", SERVICE]
        print(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout)
        raise


def start_clients(made: Swarm, directory: Path) -> Load:
    """As a service of the swarm: all containers on the network can look the names up."""
    directory.mkdir()
    shutil.copy(Path(__file__).with_name("swarm_client.py"), directory)
    options = ["--network", "hello-server_service", "--constraint", "node.role==manager", "--restart-condition", "none"]
    mount = f"type=bind,source={directory},target=/clients"
    command = ["python", "/clients/swarm_client.py", "tasks.hello-server", "1966", "/clients/log"]
    made.manager.docker(
        "service", "create", "--detach", "--name", "clients", *options, "--mount", mount, BASE, *command
    )
    return Load(directory / "log")


def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    """Its engines die with it; its files are removed by the next run."""
    command = [sys.executable, str(REPOSITORY / "ci/swarm.py"), "run", "sh", "-c", "echo $PPID; exec cat"]
    run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert run.stdout is not None
        assert int(run.stdout.readline()) == run.pid
        engines = processes(f"servertemplate-swarm-{run.pid}")
        assert len(engines) >= 4  # two engines, two containerds
    finally:
        run.kill()
        run.communicate()
    eventually("all ended", lambda: not processes(f"servertemplate-swarm-{run.pid}"))
    assert leftovers() != []
    with swarm():
        assert leftovers() == []


def processes(text: str) -> list[int]:
    """Those that have this in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # it has ended
            continue
        if text.encode() in command:
            found.append(int(path.parent.name))
    return found
