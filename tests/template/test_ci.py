"""The parts of ci/ that can be tested without an engine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from baking import REPOSITORY
from base_image import Source, codename, mirror, sources

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

DEB822 = f"""\
# a comment
Types: deb deb-src
# another
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: {KEYRING}

Types: deb
URIs: https://other.example/debian
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBFxyz
"""
LIST = f"""\
# deb http://commented.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib  # trailing
deb [ arch=amd64 signed-by={KEYRING} ] https://signed.example/debian trixie main
"""


def test_deb822_sources(tmp_path: Path) -> None:
    write(tmp_path, "sources.list.d/debian.sources", DEB822)
    assert list(sources(tmp_path)) == [
        Source("http://mirror.example/debian", ["bookworm", "bookworm-updates"], ["main", "contrib"], KEYRING),
        Source("https://other.example/debian", ["bookworm-security"], ["main"], ""),
    ]


def test_disabled_deb822_sources(tmp_path: Path) -> None:
    write(tmp_path, "sources.list.d/debian.sources", "Enabled: no\n" + DEB822.split("\n\n")[0])
    assert list(sources(tmp_path)) == []


@pytest.mark.parametrize("name", ["sources.list", "sources.list.d/debian.list"])
def test_one_line_sources(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, LIST)
    assert list(sources(tmp_path)) == [
        Source("http://mirror.example/debian", ["bookworm"], ["main", "contrib"], ""),
        Source("https://signed.example/debian", ["trixie"], ["main"], KEYRING),
    ]


def test_mirror_is_that_of_this_release(tmp_path: Path) -> None:
    write(tmp_path, "sources.list", "deb cdrom:[Debian]/ bookworm main\ndeb http://tools.example/apt stable main\n")
    assert mirror(sources(tmp_path), "bookworm") is None
    write(tmp_path, "sources.list.d/debian.sources", DEB822)
    found = mirror(sources(tmp_path), "bookworm")
    assert found is not None
    assert found.uri == "http://mirror.example/debian"


def test_codename_is_one_word() -> None:
    assert " " not in codename()


def write(directory: Path, name: str, text: str) -> None:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text)


def test_missing_engine_is_named(tmp_path: Path) -> None:
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none"}
    command = [sys.executable, str(REPOSITORY / "ci/dockerd.py"), "check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("no Docker engine answers: start one")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("tools", [False, True])
def test_the_demo_needs_cookiecutter_alone(tools: bool, tmp_path: Path) -> None:
    """On a fresh machine it installs no more; where the tools are, nothing."""
    for name in ("Makefile", "requirements-dev.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nmkdir -p .venv/bin && cp pip .venv/bin/pip && cp pip .venv/bin/python\n")
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@" >>said\n')
    for program in (python, tmp_path / "pip"):
        program.chmod(0o755)
    if tools:
        subprocess.run([python], cwd=tmp_path, check=True)
        (tmp_path / ".venv/installed").touch()
    for _ in range(2):
        subprocess.run(["make", "demo", f"PYTHON={python}"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    install = ["install --quiet --constraint requirements-dev.txt cookiecutter"]
    assert (tmp_path / "said").read_text().splitlines() == ([] if tools else install) + ["ci/demo.py"] * 2
