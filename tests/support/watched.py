"""A service with an admin address and a control socket."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from harness import Service


class Watched(Service):
    """A service that can be asked: --admin on any free port, and --control."""

    def __init__(self, source: Path, directory: Path) -> None:
        super().__init__(source, directory)
        self.control = self.run_directory / "ctl"

    def watch(self, *flags: str | Path, **options: Any) -> Watched:
        self.start("--admin", "127.0.0.1:0", "--control", self.control, *flags, **options)
        return self

    @property
    def admin(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.log.wait_for(r"admin endpoint on http://127\.0\.0\.1:(\d+)")[1])

    def page(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the admin address."""
        host, port = self.admin
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{host}:{port}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def status(self) -> Any:
        code, body = self.page("/status")
        assert code == 200, body
        return json.loads(body)

    def metric(self, line: str) -> float:
        """The sample with this name and these labels."""
        found = [text for text in self.page("/metrics")[1].splitlines() if text.rsplit(" ", 1)[0] == line]
        assert len(found) == 1, f"{line}: {found}"
        return float(found[0].rsplit(" ", 1)[1])

    def ctl(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run("ctl", *arguments, "--control", self.control, **options)
