"""A machine whose PID 1 is systemd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import ImageNotFound
from docker.models.containers import Container
from machines import SERVICE, Machine, booted

# Its journal stays in memory, and nothing of it outlives the test.
OPTIONS: dict[str, Any] = {
    "cap_add": ["SYS_ADMIN", "SYS_PTRACE"],
    "security_opt": ["seccomp=unconfined", "apparmor=unconfined"],
    "tmpfs": {"/run": "", "/run/lock": "", "/tmp": ""},
    "environment": {"container": "docker"},
    "cgroupns": "host",
}


class Systemd(Machine):
    def __init__(self, container: Container, version: int) -> None:
        super().__init__(container)
        self.version = version

    def drop_in(self, text: str, unit: str = f"{SERVICE}.service") -> None:
        """A drop-in of the administrator's."""
        self.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
        self.run("systemctl", "daemon-reload")

    def example(self, name: str) -> None:
        """Use a drop-in that was installed as an example."""
        directory = f"/etc/systemd/system/{SERVICE}.service.d"
        self.run("mkdir", "-p", directory)
        self.run("cp", f"/usr/local/share/examples/{SERVICE}/{name}", directory)
        self.run("systemctl", "daemon-reload")

    def log(self) -> str:
        return self.try_("journalctl", "--no-pager", "-o", "cat", "-u", SERVICE, "-u", f"{SERVICE}.socket").stdout

    def logged(self, text: str) -> None:
        """Wait until the journal has it: journald is a process of its own."""
        self.eventually(f"{text!r} in the journal", lambda: text in self.log())

    def entries(self) -> list[dict[str, Any]]:
        lines = self.ask("journalctl", "--no-pager", "-o", "json", "-u", SERVICE).splitlines()
        return [json.loads(line) for line in lines]

    def show(self, name: str) -> str:
        """A property of the service's unit."""
        return self.ask("systemctl", "show", "--property", name, SERVICE).strip().removeprefix(name + "=")

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))


def base(engine: docker.DockerClient, version: int) -> str:
    """The image with this version of systemd, and nothing of ours in it."""
    image = f"systemd:{version}"
    try:
        engine.images.get(image)
    except ImageNotFound:
        pytest.fail(f"no image {image}: make it with `python3 ci/systemd_image.py {version}`", pytrace=False)
    return image


@contextmanager
def started(engine: docker.DockerClient, image: str, version: int) -> Iterator[Systemd]:
    """A machine that has booted from an image with this version of systemd."""
    # Debian 12's systemd uses what is mounted, of both versions; that of Debian 13 wants the unified hierarchy alone.
    unified = Path("/sys/fs/cgroup/unified")
    groups = unified if version >= 256 and unified.is_dir() else Path("/sys/fs/cgroup")
    with booted(engine, image, ["/sbin/init"], volumes=[f"{groups}:/sys/fs/cgroup:rw"], **OPTIONS) as container:
        machine = Systemd(container, version)
        machine.eventually("booted", lambda: machine.try_("systemctl", "is-system-running").stdout == "running\n")
        yield machine
        print(machine.log())
