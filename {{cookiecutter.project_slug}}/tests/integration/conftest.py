"""The image, and containers of it, for the tests beside this file. They may run in parallel (`pytest -n 4`)."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import docker
import pytest
import talk
from docker.errors import BuildError, DockerException, ImageNotFound
from docker.models.containers import Container

PROJECT = Path(__file__).parents[2]
PORT = "{{ cookiecutter.port }}/tcp"
LABEL = "{{ cookiecutter.project_slug }}.test"
# Of this process, so that runs do not disturb each other.
TAG = f"{{ cookiecutter.project_slug }}:test-{uuid4().hex[:12]}"
PYTHON_IMAGE = os.environ.get("PYTHON_IMAGE") or "python:{{ cookiecutter.python_version }}-slim"
# Where the engine publishes ports: on this machine, or on the one that DOCKER_HOST names.
REMOTE = urlsplit(os.environ.get("DOCKER_HOST", "")).hostname
DEADLINE = 30.0

# As a careful operator would run it. Every test does.
HARDENED: dict[str, Any] = {
    "cap_drop": ["ALL"],
    "mem_limit": "256m",
    "pids_limit": 128,
    "read_only": True,
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/tmp": ""},
}


class Service:
    """A container of the image, and how a test talks to it."""

    def __init__(self, container: Container) -> None:
        self.container = container

    @property
    def address(self) -> tuple[str, int]:
        """Where the engine has published its port."""
        self.container.reload()
        published = self.container.ports[PORT] or [{"HostPort": "0"}]  # nothing is published once it has ended
        return REMOTE or "127.0.0.1", int(published[0]["HostPort"])

    def logs(self) -> str:
        return str(self.container.logs().decode())

    def state(self) -> dict[str, Any]:
        self.container.reload()
        return dict(self.container.attrs["State"])

    def eventually(self, what: str, happened: Callable[[], bool], running: bool = True) -> None:
        """Wait until something has happened; fail at once, with the log, if the container ends instead."""
        deadline = time.monotonic() + DEADLINE
        while not happened():
            state = self.state()
            if (running and state["Status"] == "exited") or time.monotonic() > deadline:
                pytest.fail(f"not {what}: {state}\n{self.logs()}", pytrace=False)
            time.sleep(0.02)

    def answers(self) -> bool:
        return talk.answers(self.address)


def pytest_configure(config: pytest.Config) -> None:
    """Say what is missing in one line, once, instead of failing in each test."""
    if not config.option.collectonly and not hasattr(config, "workerinput"):
        try:
            client = docker.from_env()
            client.ping()
        except DockerException as error:
            pytest.exit(f"these tests need a Docker engine, and none answers: {error}", 1)
        try:
            client.images.get(PYTHON_IMAGE)
        except ImageNotFound:
            try:
                client.images.pull(PYTHON_IMAGE)
            except DockerException as error:
                pytest.exit(f"the base image {PYTHON_IMAGE} is not here and cannot be pulled: {error}", 1)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    for container in client.containers.list(all=True, filters={"label": LABEL}):
        if abandoned(container.attrs):
            container.remove(force=True, v=True)
    for built in client.images.list(filters={"label": LABEL}):
        if abandoned(built.attrs):
            built.remove(force=True)
    yield client
    client.close()


def abandoned(attributes: dict[str, Any]) -> bool:
    """Left by a run that was killed: none takes an hour."""
    created = datetime.fromisoformat(attributes["Created"][:19]).replace(tzinfo=UTC)
    return datetime.now(UTC) - created > timedelta(hours=1)


@pytest.fixture(scope="session")
def image(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    options: dict[str, Any] = {"buildargs": {"PYTHON_IMAGE": PYTHON_IMAGE}, "labels": {LABEL: ""}}
    with (tmp_path_factory.getbasetemp().parent / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first process builds, the others find its layers in the cache
        try:
            engine.images.build(path=str(PROJECT), tag=TAG, rm=True, forcerm=True, **options)
        except BuildError as error:
            pytest.fail("".join(line.get("stream", "") for line in error.build_log) + str(error), pytrace=False)
    yield TAG
    engine.images.remove(TAG)


@pytest.fixture
def run(engine: docker.DockerClient, image: str) -> Iterator[Callable[..., Service]]:
    """Start containers; each is removed when its test ends."""
    started = []

    def start(*arguments: str, **options: Any) -> Service:
        publish = {PORT: (None if REMOTE else "127.0.0.1", None)}
        options = {**HARDENED, "labels": {LABEL: ""}, "ports": publish, **options}
        container = engine.containers.run(image, list(arguments), detach=True, **options)
        started.append(container)
        return Service(container)

    yield start
    for container in started:
        container.remove(force=True, v=True)


@pytest.fixture
def service(run: Callable[..., Service]) -> Service:
    """A container that answers."""
    started = run()
    started.eventually("answering", started.answers)
    return started
