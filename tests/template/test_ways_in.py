"""Every way that leads to a project gives the same one: from an archive, a monorepo, a URL, without git or modes."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from baking import OPTIONS, bake, files, modes
from trust_process import NIGHTLY

# The oldest that serves, and one in between; the newest is the one that all tests use.
OLDER = ("2.1.1", "2.6.0")


def git(directory: Path, *command: str) -> str:
    identity = ("-c", "user.name=owner", "-c", "user.email=owner@example.org")
    done = subprocess.run(["git", *identity, *command], cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """The template, as a commit."""
    directory = shutil.copytree(template, tmp_path / "servertemplate")
    git(directory, "init", "--quiet", "--initial-branch", "main")
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message", "All")
    return directory


def archive(repository: Path, at: Path) -> list[str]:
    git(repository, "archive", "--format=zip", "--prefix=servertemplate-main/", f"--output={at}/main.zip", "HEAD")
    return [f"{at}/main.zip"]


def without_modes(repository: Path, at: Path) -> list[str]:
    shutil.copytree(repository, at / "plain")
    for path in (at / "plain").rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            path.chmod(0o644)
    git(at / "plain", "config", "core.fileMode", "false")
    return [f"{at}/plain"]


def part_of_another(repository: Path, at: Path) -> list[str]:
    shutil.copytree(repository, at / "mono/templates/service", ignore=shutil.ignore_patterns(".git"))
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "All"]):
        git(at / "mono", *command)
    return [f"git+file://{at}/mono", "--directory", "templates/service"]


def spaces(repository: Path, at: Path) -> list[str]:
    return [str(repository.rename(at / "Vorlage für Dienste"))]


WAYS: dict[str, Callable[[Path, Path], list[str]]] = {
    "zip": archive,
    "without modes": without_modes,
    "directory": part_of_another,
    "file": lambda repository, at: [f"git+file://{repository}"],
    "gh": lambda repository, at: ["gh:acme/servertemplate"],
    "spaces": spaces,
    "umask": lambda repository, at: [str(repository)],
    "without git": lambda repository, at: [str(repository)],
}


def generated(way: str, repository: Path, tmp_path: Path, python: str = sys.executable) -> Path:
    commit = git(repository, "rev-parse", "HEAD")
    at = tmp_path / "at"
    at.mkdir()
    (tmp_path / "gitconfig").write_text(f'[url "file://{tmp_path}/"]\n\tinsteadOf = https://github.com/acme/\n')
    (repository.parent / "servertemplate.git").symlink_to(repository)
    alone = {"HOME": str(at), "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"), "PYTHONDONTWRITEBYTECODE": "1"}
    if way == "without git":
        alone["PATH"] = str(at)
    where = WAYS[way](repository, at)
    target = tmp_path / "Dienste für alle"
    done = subprocess.run(
        [python, "-m", "cookiecutter", *where, "--no-input", "--output-dir", str(target)],
        cwd=at,
        env=os.environ | alone,
        umask=0o077 if way == "umask" else 0o022,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    project = target / "hello-server"
    known = {"without git": ""}.get(way, git(at / "mono", "rev-parse", "HEAD") if way == "directory" else commit)
    seen = re.findall(r'^commit: "(.*?)(?:-dirty)?"$', (project / ".cookiecutter.yaml").read_text(), re.MULTILINE)
    assert seen == [known]
    return project


@pytest.mark.parametrize("way", WAYS)
def test_way(way: str, repository: Path, project: Path, tmp_path: Path) -> None:
    made = generated(way, repository, tmp_path)
    same = {name: text for name, text in files(project).items() if name != ".cookiecutter.yaml"}
    assert {name: text for name, text in files(made).items() if name != ".cookiecutter.yaml"} == same
    assert modes(made) == modes(project)
    if way in ("umask", "spaces"):
        surroundings = {"DESTDIR": str(tmp_path / "installed here"), "PYTHON": sys.executable, "INIT": "none"}
        done = subprocess.run(
            ["make", "install"], cwd=made, env=os.environ | surroundings, umask=0o077, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        command = tmp_path / "installed here/usr/local/bin/hello-server"
        assert command.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("target", ["install", "swarm-down"])
def test_scripts_need_no_mode(target: str, project: Path, tmp_path: Path) -> None:
    """A clone of the project with core.fileMode=false."""
    clone = shutil.copytree(project, tmp_path / "clone")
    for script in ("install", "swarm/wait", "swarm/remove"):
        (clone / "deploy" / script).chmod(0o644)
    (tmp_path / "docker").write_text("#!/bin/sh\n")
    (tmp_path / "docker").chmod(0o755)
    surroundings = {"DESTDIR": str(tmp_path), "PYTHON": sys.executable, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["make", target], cwd=clone, env=os.environ | surroundings, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@NIGHTLY
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", OLDER)
def test_way_with_an_older_cookiecutter(
    version: str, way: str, repository: Path, project: Path, tmp_path: Path
) -> None:
    made = generated(way, repository, tmp_path, str(older(tmp_path, version)))
    assert set(files(made)) == set(files(project))
    assert modes(made) == modes(project)


@NIGHTLY
def test_too_old_a_cookiecutter(template: Path, tmp_path: Path) -> None:
    """1.7.3, which Debian 12 has, looks for no extension in a template: it can say a module's name, and no more."""
    command: list[str | Path] = [
        older(tmp_path, "1.7.3"),
        "-m",
        "cookiecutter",
        template,
        "--no-input",
        "--output-dir",
        tmp_path / "out",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "needs_cookiecutter_2_1_1_or_newer" in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()


def older(tmp_path: Path, version: str) -> Path:
    """A Python that has this cookiecutter."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / version], check=True)
    python = tmp_path / version / "bin/python"
    packages = [f"cookiecutter=={version}", "setuptools<81"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def test_says_which_cookiecutter_it_needs(template: Path, tmp_path: Path) -> None:
    """Those that look for extensions here, and are too old."""
    code = (
        "import cookiecutter, sys; cookiecutter.__version__ = '2.0.2'\n"
        "from cookiecutter.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(template), "--no-input", "--output-dir", str(tmp_path / "out")],
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    wanted = "Error: this template needs cookiecutter 2.1.1 or newer; this is 2.0.2: pipx install cookiecutter\n"
    assert (done.returncode, done.stderr) == (1, wanted)


def test_every_python_version_of_the_answers(template: Path, tmp_path: Path) -> None:
    assert OPTIONS["python_version"][0] == "3.14"
    made = bake(template, tmp_path, python_version="3.15")
    assert "ARG PYTHON_IMAGE=python:3.15-slim\n" in (made / "Dockerfile").read_text()


def test_an_old_python_is_told_in_one_line(project: Path, tmp_path: Path) -> None:
    """What it runs before it can say so is code that it can read; the Makefile says so before it makes a .venv."""
    package = project / "src/hello_server"
    for name in ("__init__", "__main__"):
        code = ["import ast, sys", "ast.parse(open(sys.argv[1]).read(), feature_version=(3, 7))"]
        subprocess.run([sys.executable, "-c", "\n".join(code), str(package / f"{name}.py")], check=True)
    code = [
        "import runpy, sys",
        "sys.version_info, sys.version = (3, 9, 1), '3.9.1 (main)'",
        "sys.path.insert(0, 'src')",
    ]
    code += ["runpy.run_module('hello_server', run_name='__main__')"]
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], cwd=project, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "hello-server needs Python 3.11 or newer, not 3.9.1\n")
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "test-unit", f"PYTHON={old}"],
        cwd=shutil.copytree(project, tmp_path / "p"),
        capture_output=True,
        text=True,
    )
    assert f"PYTHON={old}: give Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "p/.venv").exists()
