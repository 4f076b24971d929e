"""Machines that have booted, with a generated service installed by `make install`."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import pytest
from baking import bake, copy_template
from docker.errors import DockerException, ImageNotFound
from machine import HANDLERS, LABEL, MACHINE, SERVICE, SOURCES, Machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        pytest.fail(f"these tests need a Docker engine, and none answers: {error}", pytrace=False)
    yield client
    client.close()


# Each version's image is made by one process of pytest (--dist loadgroup).
@pytest.fixture(
    scope="session", params=[pytest.param(n, marks=pytest.mark.xdist_group(f"systemd-{n}")) for n in (252, 257)]
)
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="session")
def installed(engine: docker.DockerClient, version: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image with systemd and the service, put in place by `make install`."""
    base = f"systemd:{version}"
    try:
        engine.images.get(base)
    except ImageNotFound:
        pytest.fail(f"no image {base}: make it with `python3 ci/systemd_image.py {version}`", pytrace=False)
    directory = tmp_path_factory.mktemp("project")
    project = bake(copy_template(directory / "template"), directory / "baked")
    (project / "src/hello_server/handlers.py").write_text(HANDLERS)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(project, SOURCES)
    options: dict[str, Any] = {"network_mode": "none", "labels": {LABEL: ""}}
    container = engine.containers.create(base, ["make", "-C", SOURCES, "install"], **options)
    tag = f"{LABEL}:{version}-{uuid4().hex[:12]}"
    try:
        container.put_archive("/", archive.getvalue())
        container.start()
        status = container.wait(timeout=300)["StatusCode"]
        assert status == 0, container.logs().decode()
        container.commit(*tag.split(":"), changes='CMD ["/sbin/init"]')
    finally:
        container.remove(force=True, v=True)
    yield tag
    engine.images.remove(tag, force=True)


@pytest.fixture
def machine(engine: docker.DockerClient, installed: str, version: int) -> Iterator[Machine]:
    """A machine that has booted."""
    # Debian 12's systemd uses what is mounted, of both versions; that of Debian 13 wants the unified hierarchy alone.
    unified = Path("/sys/fs/cgroup/unified")
    groups = unified if version >= 256 and unified.is_dir() else Path("/sys/fs/cgroup")
    container = engine.containers.run(
        installed,
        detach=True,
        labels={LABEL: ""},
        volumes=[f"{groups}:/sys/fs/cgroup:rw"],
        **MACHINE,
    )
    machine = Machine(container, version)
    try:
        machine.eventually("booted", lambda: machine.try_("systemctl", "is-system-running").stdout == "running\n")
        yield machine
        print(machine.journal())
    finally:
        container.remove(force=True, v=True)


@pytest.fixture
def service(machine: Machine) -> Machine:
    """A machine on which the service runs."""
    machine.run("systemctl", "enable", "--now", SERVICE)
    assert re.fullmatch("[1-9][0-9]*", str(machine.pid))
    return machine
