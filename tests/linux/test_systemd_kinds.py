"""Every protocol and pool under a real systemd, with the handlers that the template gives; test_systemd.py tries one of
them through and through."""

from __future__ import annotations

import itertools
import runpy
from pathlib import Path

import docker
import pytest
from baking import OPTIONS, bake, copy_template
from machines import SERVICE, SOURCES, archive
from systemd_machine import base, started

# Each version of systemd in turn: every kind on one, every protocol and every pool on both.
KINDS = [
    pytest.param(protocol, pool, version, marks=pytest.mark.xdist_group(f"systemd-{version}"))
    for (row, protocol), (column, pool) in itertools.product(enumerate(OPTIONS["protocol"]), enumerate(OPTIONS["pool"]))
    for version in [(252, 257)[(row + column) % 2]]
]


@pytest.mark.parametrize(("protocol", "pool", "version"), KINDS)
def test_start_reload_crash_and_stop(
    engine: docker.DockerClient, protocol: str, pool: str, version: int, tmp_path: Path
) -> None:
    project = bake(copy_template(tmp_path / "template"), tmp_path / "baked", protocol=protocol, pool=pool)
    talk = runpy.run_path(str(project / "tests/integration/talk.py"))
    with started(engine, base(engine, version), version) as machine:
        assert machine.container.put_archive("/", archive({SOURCES: project}))
        machine.run("make", "-C", SOURCES, "install")
        done = machine.try_("systemd-analyze", "verify", "--man=no", f"{SERVICE}.service", f"{SERVICE}.socket")
        assert (done.status, done.stdout, done.stderr) == (0, "", "")

        machine.run("systemctl", "enable", "--now", SERVICE)
        assert talk["answers"](machine.address())
        supervisor = machine.pid

        machine.run("systemctl", "reload", SERVICE)
        machine.logged("ready: generation 2")
        assert talk["answers"](machine.address())
        assert machine.pid == supervisor

        machine.kill("SIGKILL", supervisor)
        machine.eventually(
            "started again", lambda: machine.show("NRestarts") == "1" and talk["answers"](machine.address())
        )

        machine.run("systemctl", "stop", SERVICE)
        assert (machine.show("ActiveState"), machine.show("Result")) == ("inactive", "success")
        assert not talk["answers"](machine.address())
