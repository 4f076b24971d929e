"""A machine that looks like FreeBSD to an rc.d script: its files where FreeBSD has them, dash as sh, and rc.subr.

rc.subr, ps, limits and pwait are stand-ins of our own. RC_SUBR=/path/rc.subr takes a real rc.subr instead; none is kept
here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from baking import bake, copy_template
from docker.errors import DockerException, ImageNotFound
from freebsd_machine import FreeBSD
from machines import HANDLERS, SOURCES, booted, engine, image_with

__all__ = ["engine"]
BASE = "python:3.13-slim"
HERE = Path(__file__).parent
# FreeBSD's nobody has a group of that name.
SET_UP = f"""
set -e
echo nobody:x:65533: >>/etc/group
INIT=rc.d PYTHON=python {SOURCES}/deploy/install install
"""
# PID 1: collects the dead, or wait_for_pids would wait for their zombies.
INIT = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
while True:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    signal.sigwait([signal.SIGCHLD])
"""


@pytest.fixture(scope="session")
def installed(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        engine.images.get(BASE)
    except ImageNotFound:
        try:
            engine.images.pull(BASE)
        except DockerException:
            pytest.fail(f"no image {BASE}: make it with `python3 ci/base_image.py 3.13`", pytrace=False)
    directory = tmp_path_factory.mktemp("project")
    project = bake(copy_template(directory / "template"), directory / "baked")
    (project / "src/hello_server/handlers.py").write_text(HANDLERS)
    real = os.environ.get("RC_SUBR")
    contents: dict[str, Any] = {SOURCES: project, "etc/rc.subr": Path(real) if real else HERE / "rc.subr"}
    contents |= {f"usr/bin/{path.name}": path for path in (HERE / "freebsd").iterdir()}
    with image_with(engine, BASE, contents, SET_UP, tmp_path_factory.getbasetemp().parent / "rcd.lock") as tag:
        yield tag


@pytest.fixture
def machine(engine: docker.DockerClient, installed: str) -> Iterator[FreeBSD]:
    with booted(engine, installed, ["python", "-c", INIT]) as container:
        machine = FreeBSD(container)
        machine.rc_conf()
        yield machine


@pytest.fixture
def running(machine: FreeBSD) -> FreeBSD:
    machine.works("start")
    return machine
