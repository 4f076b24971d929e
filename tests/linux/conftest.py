"""Machines that have booted, with a generated service installed by `make install`."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest
from baking import bake, copy_template
from machines import HANDLERS, SERVICE, SOURCES, engine, image_with
from systemd_machine import Systemd, base, started

__all__ = ["engine"]


# Each version's image is made by one process of pytest (--dist loadgroup).
@pytest.fixture(
    scope="session", params=[pytest.param(n, marks=pytest.mark.xdist_group(f"systemd-{n}")) for n in (252, 257)]
)
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="session")
def installed(engine: docker.DockerClient, version: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image with systemd and the service, put in place by `make install`."""
    directory = tmp_path_factory.mktemp("project")
    project = bake(copy_template(directory / "template"), directory / "baked")
    (project / "src/hello_server/handlers.py").write_text(HANDLERS)
    with image_with(
        engine, base(engine, version), {SOURCES: project}, f"make -C {SOURCES} install", directory / "lock"
    ) as tag:
        yield tag


@pytest.fixture
def machine(engine: docker.DockerClient, installed: str, version: int) -> Iterator[Systemd]:
    """A machine that has booted."""
    with started(engine, installed, version) as machine:
        yield machine


@pytest.fixture
def service(machine: Systemd) -> Systemd:
    """A machine on which the service runs."""
    machine.run("systemctl", "enable", "--now", SERVICE)
    assert machine.pid > 1
    return machine
