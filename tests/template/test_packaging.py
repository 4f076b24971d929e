"""As a package, in a worktree, in another place: what people type there works."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from baking import REPOSITORY, TREE
from trust_process import NIGHTLY

SITE = sysconfig.get_path("purelib")
USES = """\
from hello_server.runtime.http.response import Response

Response.json({}).status = "fine"
"""


def run(*command: str | Path, at: Path, **surroundings: str) -> str:
    done = subprocess.run(
        command, cwd=at, env=os.environ | surroundings, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(project: Path, at: Path) -> Path:
    """The programs of an environment with the wheel that pip has made of the sdist, and with nothing else."""
    copy = shutil.copytree(project, at / "project")
    pip = (sys.executable, "-m", "pip", "--quiet")
    run(*pip, "install", "--target", at / "builder", "setuptools>=77", at=at)
    builder = {"PYTHONPATH": str(at / "builder")}
    run(sys.executable, "-c", "from setuptools.build_meta import *; build_sdist('../dist')", at=copy, **builder)
    run(sys.executable, "-m", "venv", "--without-pip", at / "venv", at=at)
    (sdist,) = (at / "dist").iterdir()
    command = ("--python", at / "venv/bin/python", "install", "--no-deps", "--no-build-isolation", sdist)
    run(*pip, *command, at=at, **builder)
    return at / "venv/bin"


def test_wheel_of_the_sdist(project: Path, tmp_path: Path) -> None:
    programs = installed(project, tmp_path)
    assert run(programs / "hello-server", "--version", at=tmp_path).startswith("hello-server 0.1.0 ")
    command = [str(programs / "hello-server"), "-x", "-i", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        said = []
        while line := service.stderr.readline():
            said.append(line)
            if "ready: " in line:
                service.send_signal(signal.SIGTERM)
    assert service.returncode == 0, said
    (package,) = tmp_path.glob("venv/lib/*/site-packages/hello_server")
    packed = {path.relative_to(package) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert packed == {path.relative_to(project / "src/hello_server") for path in sources(project)}
    if "NIGHTLY" not in os.environ:
        return
    (tmp_path / "uses.py").write_text(USES)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(programs / "python"), "uses.py"]
    done = subprocess.run(mypy, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert "uses.py:3: error: Incompatible types in assignment" in done.stdout


def sources(project: Path) -> list[Path]:
    return [path for path in (project / "src/hello_server").rglob("*") if path.is_file() and path.suffix != ".pyc"]


def test_group_of_tools_is_that_of_make(project: Path) -> None:
    group = tomllib.loads((project / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    lines = (project / "requirements-dev.in").read_text().splitlines()
    assert group == [line for line in lines if not line.startswith("#")]


@pytest.fixture
def ours(tmp_path: Path) -> dict[str, str]:
    """Surroundings in which `python3 -m venv` gives an environment that has our tools."""
    stand_in = tmp_path / "bin/python3"
    stand_in.parent.mkdir()
    site = Path(SITE).relative_to(sys.prefix)
    stand_in.write_text(
        f'#!/bin/sh\nset -e\n[ "$2" = venv ] || exec {sys.executable} "$@"\n'
        f"{sys.executable} -m venv --without-pip .venv\necho {SITE} >.venv/{site}/ours.pth\n"
    )
    stand_in.chmod(0o755)
    identity = {f"GIT_{role}_{what}": "owner" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{stand_in.parent}:{os.environ['PATH']}"
    skipped = "yaml,toml,ruff-format,mypy,line-endings,end-of-file,merge-conflict"
    return identity | {"PATH": path, "SKIP": skipped, "PRE_COMMIT_HOME": str(tmp_path / "kept")}


def test_hooks_follow_a_project_and_its_worktrees(project: Path, tmp_path: Path, ours: dict[str, str]) -> None:
    before = shutil.copytree(project, tmp_path / "before")
    run("git", "init", "--quiet", at=before)
    run("git", "add", "--all", at=before)
    run("make", "pre-commit", at=before, **ours)
    moved = before.rename(tmp_path / "moved here")
    run("git", "commit", "--quiet", "--no-verify", "--message", "All", at=moved, **ours)
    assert commit(moved, ours, "import os\n") == "ruff-check"
    run("git", "worktree", "add", "--quiet", "../another", at=moved)
    another = tmp_path / "another"
    assert commit(another, ours, "import os\n") == "ruff-check"
    run(another / ".venv/bin/python", "-c", "", at=another)


def commit(project: Path, ours: dict[str, str], code: str) -> str:
    """Commit a module; returns which check has refused it."""
    (project / "src/hello_server/added.py").write_text(code)
    run("git", "add", "--all", at=project)
    done = subprocess.run(
        ["git", "commit", "--message", "Add it"], cwd=project, env=os.environ | ours, capture_output=True, text=True
    )
    found = re.findall(r"^- hook id: (\S+)$", done.stderr, re.MULTILINE)
    assert len(found) == done.returncode, done.stderr
    return "".join(found)


@pytest.mark.parametrize("tree", [REPOSITORY, REPOSITORY / TREE], ids=["template", "project"])
def test_no_tool_is_called_by_a_path_that_moves(tree: Path) -> None:
    """The first line of a program that pip has installed names the place where it was then; a Python does not."""
    for name in ("Makefile", ".pre-commit-config.yaml"):
        text = (tree / name).read_text()
        called = [word for word in text.replace("$(bin)/", ".venv/bin/").split() if ".venv/bin/" in word]
        programs = {word.rpartition("/")[2].strip("|';]") for word in called}
        assert programs <= {"python", "pip"}, name  # whether pip is there is looked at, it is not called


@NIGHTLY
def test_uv(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "project")
    run(sys.executable, "-m", "venv", tmp_path / "uv", at=tmp_path)
    run(tmp_path / "uv/bin/python", "-m", "pip", "install", "--quiet", "uv", at=tmp_path)
    uv = tmp_path / "uv/bin/uv"
    run(uv, "sync", at=copy)
    assert run(uv, "run", "hello-server", "--version", at=copy).startswith("hello-server 0.1.0 ")
    assert " passed" in run(uv, "run", "pytest", "-q", "tests/unit/test_handlers.py", at=copy)
    run("make", "test-unit", at=copy)
