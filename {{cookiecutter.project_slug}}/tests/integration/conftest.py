"""The image, and containers of it, for the tests beside this file. They may run in parallel (`pytest -n 4`).

The engine is the one that the command `docker` talks to: DOCKER_HOST, or else the current `docker context`. Over ssh://
that needs `pip install docker[ssh]`. Its ports are looked for at its machine; TEST_HOST names another one.
All that a test makes (containers, volumes, the image) carries a label with the name of the run, and is removed by it;
what a run that was killed has left is removed by the next one.
"""

import contextlib
import fcntl
import io
import os
import re
import socket
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

import docker
import pytest
import talk
from docker.errors import APIError, BuildError, DockerException, ImageNotFound, NotFound

PROJECT = Path(__file__).parents[2]
PACKAGE = "{{ cookiecutter.package_name }}"
HANDLERS = PROJECT / "src" / PACKAGE / "handlers.py"
PORT = "{{ cookiecutter.port }}/tcp"
LABEL = "{{ cookiecutter.project_slug }}.test"
PYTHON_IMAGE = os.environ.get("PYTHON_IMAGE") or "python:{{ cookiecutter.python_version }}-slim"
# HOST:PID:CHANCE of the pytest that was called; its workers inherit it.
RUN = os.environ.setdefault("TEST_RUN", f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:12]}")
TAG = f"{{ cookiecutter.project_slug }}:test-{RUN.rpartition(':')[2]}"
DEADLINE = 30.0
# These tests run in a container, where 127.0.0.1 is not the engine's.
INSIDE = any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv")))

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

    def __init__(self, container: Any, engine: docker.DockerClient) -> None:
        self.container = container  # docker.models.containers.Container
        self.remote = remote(engine)

    @property
    def address(self) -> tuple[str, int]:
        """Where the engine has published its port; in a container beside it, that is its own address."""
        self.container.reload()
        if INSIDE and not self.remote and (beside := self.own_address()):
            return beside, int(PORT.removesuffix("/tcp"))
        published = self.container.ports[PORT] or [{"HostPort": "0"}]  # nothing is published once it has ended
        return self.remote or "127.0.0.1", int(published[0]["HostPort"])

    def direct(self) -> tuple[str, int]:
        """Its own address, for tests that look at the very end of a connection: the engine's proxy dies with the
        container, and with it what it has not passed on. Where that cannot be reached (Docker Desktop, rootless, an
        engine elsewhere) the test is skipped."""
        self.container.reload()
        address = self.own_address(), int(PORT.removesuffix("/tcp"))
        if sys.platform == "linux" and address[0] and not self.remote:
            with contextlib.suppress(OSError), socket.create_connection(address, 10.0):
                return address
        pytest.skip("the container's own address cannot be reached from here")

    def own_address(self) -> str:
        networks = self.container.attrs["NetworkSettings"]["Networks"].values()
        return next((str(one["IPAddress"]) for one in networks if one["IPAddress"]), "")

    def logs(self) -> str:
        return str(self.container.logs().decode())

    def state(self) -> dict[str, Any]:
        self.container.reload()
        return dict(self.container.attrs["State"])

    def eventually(self, what: str, happened: Callable[[], bool], running: bool = True) -> None:
        """Wait until something has happened; fail at once if the container ends instead."""
        deadline = time.monotonic() + DEADLINE
        while not happened():
            state = self.state()
            if (running and state["Status"] == "exited") or time.monotonic() > deadline:
                hint = f"; asked at {self.address}: TEST_HOST=... may name another place" if what == "answering" else ""
                pytest.fail(f"not {what}: {state}{hint}", pytrace=False)
            time.sleep(0.02)

    def logged(self, text: str, running: bool = True) -> None:
        """Wait until a text is in the log."""
        self.eventually(f"logged: {text}", lambda: text in self.logs(), running)

    def answers(self) -> bool:
        return talk.answers(self.address)

    def python(self, code: str, **options: Any) -> str:
        """What a Python program says inside the container; it must end well."""
        done = self.container.exec_run(["python", "-c", code], **options)
        assert done.exit_code == 0, done.output.decode()
        return str(done.output.decode())

    def ctl(self, *arguments: str) -> str:
        """What `ctl` says inside the container."""
        done = self.container.exec_run(["python", "-m", PACKAGE, "ctl", *arguments])
        assert done.exit_code == 0, done.output.decode()
        return str(done.output.decode())

    def replace_handlers(self, code: str) -> None:
        """Put another handlers.py into the container (which must not be read-only); it need not run yet."""
        data, file = io.BytesIO(), tarfile.TarInfo(f"app/{PACKAGE}/handlers.py")
        file.mode, file.size, file.mtime = 0o644, len(code.encode()), int(time.time())
        with tarfile.open(fileobj=data, mode="w") as archive:
            archive.addfile(file, io.BytesIO(code.encode()))
        assert self.container.put_archive("/", data.getvalue())


def remote(client: docker.DockerClient) -> str:
    """The machine of an engine that is reached over TCP or ssh; "" when it is this one."""
    url = urlsplit(os.environ.get("DOCKER_HOST") or client.api.base_url)
    return os.environ.get("TEST_HOST") or (url.scheme in ("http", "https", "ssh", "tcp") and url.hostname) or ""


def connect() -> docker.DockerClient:
    """The engine. One that is being started may have an address that refuses, or hangs up, for a while."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            client = docker.from_env()
            client.ping()
            return client
        except DockerException as error:
            starting = re.search("ConnectionRefused|ConnectionReset|RemoteDisconnected", str(error))
            if not starting or time.monotonic() > deadline:
                pytest.exit(f"these tests need a Docker engine, and none answers: {error}", 1)
            time.sleep(0.2)


def pytest_configure(config: pytest.Config) -> None:
    """Say what is missing in one line, once, not in each test; and tidy up after runs that were killed."""
    if config.option.collectonly or hasattr(config, "workerinput"):
        return
    client = connect()
    try:
        client.images.get(PYTHON_IMAGE)
    except ImageNotFound:
        try:
            client.images.pull(PYTHON_IMAGE)
        except DockerException as error:
            pytest.exit(f"the base image {PYTHON_IMAGE} is not here and cannot be pulled: {error}", 1)
    with alone():
        sweep(client, abandoned)
    client.close()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not config.option.collectonly and not hasattr(config, "workerinput"):
        with contextlib.suppress(DockerException), contextlib.closing(docker.from_env()) as client, alone():
            sweep(client, lambda labels, _: labels.get(LABEL) == RUN)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Meanwhile no other test run of this user builds or removes an image. Two that build at the same time share
    layers, and who removes its image removes the layers that no image uses yet."""
    with (Path(tempfile.gettempdir()) / f"image-tests-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep(client: docker.DockerClient, chosen: Callable[[dict[str, str], str], bool]) -> None:
    """Remove what carries our label, if it is chosen by its labels and the time of its creation."""
    everything: dict[str, Any] = {"filters": {"label": LABEL}}
    for container in client.containers.list(all=True, ignore_removed=True, **everything):
        if chosen(container.labels, container.attrs["Created"]):
            gone(container.remove, force=True, v=True)
    for volume in client.volumes.list(**everything):
        if chosen(volume.attrs["Labels"], volume.attrs["CreatedAt"]):
            gone(volume.remove)
    for built in client.images.list(**everything):
        if chosen(built.labels, built.attrs["Created"]):
            gone(client.images.remove, built.id, force=True)


def gone(remove: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Remove something that another run may be removing, too."""
    try:
        remove(*arguments, **options)
    except NotFound:
        return
    except APIError as error:
        if error.status_code != 409:  # «already in progress», or still in use by a run that goes on
            raise


def abandoned(labels: dict[str, str], created: str) -> bool:
    """Left by a run that was killed: its process is gone, or it is older than any run gets."""
    host, _, rest = labels.get(LABEL, "").partition(":")
    pid = rest.partition(":")[0]
    if host == socket.gethostname() and pid.isdigit():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
    born = datetime.fromisoformat(created[:19]).replace(tzinfo=UTC)
    return datetime.now(UTC) - born > timedelta(hours=1)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="session")
def podman(engine: docker.DockerClient) -> bool:
    """Its API leaves out the health check, which it has systemd make: `podman healthcheck run` asks too."""
    return any("Podman" in part["Name"] for part in engine.version().get("Components", ()))


@pytest.fixture(scope="session")
def image(engine: docker.DockerClient) -> str:
    """Built once per run, by the process that comes first."""
    # Without the cache: an image that another run removes meanwhile takes the layers that both have with it.
    options: dict[str, Any] = {"buildargs": {"PYTHON_IMAGE": PYTHON_IMAGE}, "labels": {LABEL: RUN}, "nocache": True}
    with alone():
        try:
            engine.images.get(TAG)
        except ImageNotFound:
            try:
                _, said = engine.images.build(path=str(PROJECT), tag=TAG, rm=True, forcerm=True, **options)
            except BuildError as error:
                pytest.fail("".join(line.get("stream", "") for line in error.build_log) + str(error), pytrace=False)
            stages = "".join(str(dict(line).get("stream", "")) for line in cast(Any, said)).split(" : FROM ")
            for stage in stages[1:-1]:  # the classic builder leaves them, without a name
                gone(engine.images.remove, re.findall(r"(?m)^ ---> ([0-9a-f]{12})$", stage)[-1])
    return TAG


@pytest.fixture
def run(engine: docker.DockerClient, image: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Service]]:
    """Start containers; each is removed when its test ends. `extra` is appended to handlers.py."""
    started: list[Service] = []
    request.node.stash[SERVICES] = started

    def start(*arguments: str, extra: str = "", **options: Any) -> Service:
        publish = {PORT: (None if remote(engine) else "127.0.0.1", None)}
        if extra:
            options = {"read_only": False, **options}
        options = {**HARDENED, "labels": {LABEL: RUN}, "ports": publish, **options}
        service = Service(engine.containers.create(image, list(arguments), **options), engine)
        started.append(service)
        if extra:
            service.replace_handlers(HANDLERS.read_text() + extra)
        service.container.start()
        return service

    yield start
    for service in started:
        gone(service.container.remove, force=True, v=True)


@pytest.fixture
def service(run: Callable[..., Service]) -> Service:
    """A container that answers."""
    started = run()
    started.eventually("answering", started.answers)
    return started


@pytest.fixture
def volume(engine: docker.DockerClient, image: str) -> Iterator[Callable[..., str]]:
    """Write files into a new volume, or into one that this has made before; returns its name. A directory of this
    machine would do only where the engine is here, too."""
    made = []

    def write(name: str = "", **files: str) -> str:
        if not name:
            made.append(engine.volumes.create(labels={LABEL: RUN}))
            name = made[-1].name
        code = f"for name, text in {files!r}.items(): open('/mnt/' + name.replace('_', '.'), 'w').write(text)"
        options: dict[str, Any] = {"entrypoint": ["python", "-c", code], "labels": {LABEL: RUN}, "user": "0:0"}
        engine.containers.run(image, remove=True, volumes={name: {"bind": "/mnt"}}, **options)
        return name

    yield write
    for one in made:
        gone(one.remove)


SERVICES = pytest.StashKey[list[Service]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows the log and the state of its containers."""
    report = yield
    if report.failed:
        for service in item.stash.get(SERVICES, []):
            with contextlib.suppress(DockerException):
                text = f"{service.container.logs(timestamps=True).decode()}\n{service.state()}"
                report.sections.append((f"container {service.container.short_id}", text))
    return report
