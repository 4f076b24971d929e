"""docs/tutorial.md is true: its commands run as they stand, one after the other, and answer what it says."""

import contextlib
import itertools
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import docker
import pytest
from baking import REPOSITORY, copy_template
from docker.errors import ImageNotFound, NotFound

PAGE = (REPOSITORY / "docs/tutorial.md").read_text(encoding="utf-8")
PYTHON_IMAGE = "python:3.13-slim"  # the one that decides in these tests
STEP = "step of the tutorial: "


def steps(page: str) -> list[tuple[str, str]]:
    """The commands, by the headings above them."""
    found = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
        if blocks:
            found.append((section.partition("\n")[0], "".join(blocks)))
    return found


def two_free_ports() -> int:
    """A port that is free, and the next one too. Not of those that clients get: it stays free for minutes, and a client
    that tries again and again does not meet itself."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as one, socket.socket() as two, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            return port


def kubectl() -> str:
    """Where it is. CI has it (REQUIRE_TOOLS); elsewhere the test is skipped."""
    command = [sys.executable, str(REPOSITORY / "ci/kubectl.py"), "find"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        pytest.fail(done.stderr) if os.environ.get("REQUIRE_TOOLS") else pytest.skip(done.stderr)
    return done.stdout.strip()


@pytest.mark.timeout(900)
def test_every_command_does_what_the_page_says(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    name, port = f"shop{uuid4().hex[:10]}", two_free_ports()
    places = {
        "path/to/servertemplate": str(copy_template(tmp_path / "template")),
        r"\bshop\b": name,
        r"\b8080\b": str(port),
        r"\b8081\b": str(port + 1),
    }
    parts = steps(PAGE)
    script = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n"  # what is left would hold the pipe open
    for title, commands in parts:
        script += f"echo '{STEP}{title}'\n{commands}"
    script += f"echo '{STEP}the end'\n"
    for placeholder, real in places.items():
        assert re.search(placeholder, script), placeholder
        script = re.sub(placeholder, real, script)

    (tmp_path / "cookiecutter.yaml").write_text(f"replay_dir: {tmp_path}/replay\ncookiecutters_dir: {tmp_path}/none\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/kubectl").symlink_to(kubectl())
    (tmp_path / "empty").mkdir()
    theirs = ("PYTEST_", "MAKE", "MFLAGS", "TEST_", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)} | {
        "COOKIECUTTER_CONFIG": str(tmp_path / "cookiecutter.yaml"),
        "PATH": os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHON_IMAGE": PYTHON_IMAGE,
    }
    shell = subprocess.Popen(
        [shutil.which("bash") or "bash", "-c", script],
        cwd=tmp_path / "empty",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said, began = "", {}
    try:
        assert shell.stdout
        for line in shell.stdout:
            if line.startswith(STEP):
                began[line.removeprefix(STEP).strip()] = time.monotonic()
            said += line
        status = shell.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, 9)
        shell.wait()
        if shell.stdout:
            shell.stdout.close()
        with contextlib.closing(docker.from_env()) as engine:
            with contextlib.suppress(NotFound):
                engine.containers.get(name).remove(force=True, v=True)
            for tag in ("0.1.0", "latest"):
                with contextlib.suppress(ImageNotFound):
                    engine.images.remove(f"{name}:{tag}")
    assert status == 0, said

    lines = iter(said.splitlines())
    answers = re.findall(r"^curl .*?  # (.+)$", script, re.MULTILINE)
    assert len(answers) == len(re.findall(r"^curl ", script, re.MULTILINE))
    for answer in answers:
        assert answer in lines, f"nothing answered {answer!r}:\n{said}"
    assert "ready: generation 2" in said
    assert "kind: Deployment\n" in (tmp_path / f"empty/{name}/{name}.yaml").read_text()

    times = list(began.values())
    for title, (start, end) in zip(began, itertools.pairwise(times), strict=False):
        record_property(STEP + title, end - start)


def test_a_new_user_paths_path() -> None:
    """Three commands to a running service, one more to a tested container."""
    commands = {title: text.strip().splitlines() for title, text in steps(PAGE)}
    first, tested = (text for title, text in commands.items() if "command" in title)
    assert [line.split()[0] for line in first if not line.startswith("curl")] == ["cookiecutter", "cd", "make"]
    assert tested == ["make test"]
