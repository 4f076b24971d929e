"""The parts of ci/ that can be tested without an engine."""

import os
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
