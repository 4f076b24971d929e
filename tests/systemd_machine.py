"""A machine whose PID 1 is systemd."""

from __future__ import annotations

import json
from typing import Any

from docker.models.containers import Container
from machines import SERVICE, Machine

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
