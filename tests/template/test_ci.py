"""The parts of ci/ that can be tested without an engine."""

import importlib.metadata
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


@pytest.mark.parametrize(("system", "known"), [("debian", "trixie"), ('"debian"', "trixie"), ("ubuntu", "")])
def test_codename_is_that_of_debian(system: str, known: str, tmp_path: Path) -> None:
    write(tmp_path, "os-release", f'NAME="x"\nID={system}\nID_LIKE=debian\nVERSION_CODENAME=trixie\n')
    assert codename(tmp_path / "os-release") == known
    assert codename(tmp_path / "none") == ""


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
    install = ["-m pip install --quiet --constraint .venv/versions cookiecutter"]
    versions = dict(line.split("==") for line in (tmp_path / ".venv/versions").read_text().splitlines())
    assert versions["cookiecutter"] == importlib.metadata.version("cookiecutter")
    assert (tmp_path / "said").read_text().splitlines() == ([] if tools else install) + ["ci/demo.py"] * 2


STAND_IN = """\
#!/bin/sh
said="$(basename "$0") $*"
case "$*" in */dockerd.pid) said="$(basename "$0") $1 $2 PIDFILE"; [ "$2" = stop ] || touch "$3" ;; esac
case "$0" in */ci/prepare) said="prepare $*" ;; esac
said=${said% }
echo "$said" >>"$SAID"
case "$said" in $FAILS) exit 1 ;; esac
"""
TESTS = "python -m pytest -n 4 tests --ignore tests/linux"
LINUX = "python -m pytest -n 2 --dist loadgroup tests/linux"
NO_ENGINE = "tests/container, tests/linux, tests/rcd: no Docker engine"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine without anything but stand-ins, which write down how they were called."""
    for name in ("bin/python3", "bin/docker", "bin/make", "ci/prepare", ".venv/bin/python"):
        write(tmp_path, name, STAND_IN)
        (tmp_path / name).chmod(0o755)
    shutil.copy(REPOSITORY / "ci/test", tmp_path / "ci")
    return tmp_path


def run_tests(machine: Path, fails: str = "-", **surroundings: str) -> tuple[int, list[str], str]:
    """The status of ci/test, what it called, and what it said."""
    path = {"PATH": f"{machine}/bin:/usr/bin:/bin", "SAID": str(machine / "said"), "FAILS": fails}
    done = subprocess.run([machine / "ci/test"], env=path | surroundings, capture_output=True, text=True, timeout=60)
    return done.returncode, (machine / "said").read_text().splitlines(), done.stderr


def test_one_command_sets_up_and_tests(machine: Path) -> None:
    status, called, said = run_tests(machine, "docker image inspect*", REQUIRE_TOOLS="1")
    started = [line for line in called if not line.startswith("docker ")]
    images = ["base_image.py 3.13", "base_image.py 3.13-bare", "base_image.py 3.14"]
    images += ["systemd_image.py 252", "systemd_image.py 257"]
    first = ["prepare", "python3 ci/dockerd.py start PIDFILE"] + [f"python3 ci/{one}" for one in images]
    last = ["python3 ci/kubectl.py", "make lint PYTHON=python3", TESTS, LINUX, "python3 ci/dockerd.py stop PIDFILE"]
    assert (status, started, said) == (0, first + last, "")


def test_set_up_can_be_refused(machine: Path) -> None:
    status, called, said = run_tests(machine, "docker image inspect systemd:*", SETUP="no")
    assert [line for line in called if line.startswith(("prepare", "python3"))] == [
        "prepare check",
        "python3 ci/dockerd.py check",
        "python3 ci/kubectl.py find",
    ]
    assert called[-2:] == [TESTS, LINUX]
    assert status == 3
    assert said.endswith("left out:\n  tests of systemd 252\n  tests of systemd 257\n")


def test_what_can_run_runs(machine: Path) -> None:
    status, called, said = run_tests(machine, "python3 ci/dockerd.py start*")
    assert called[3:5] == ["make lint PYTHON=python3", TESTS + " --ignore tests/container --ignore tests/rcd"]
    assert LINUX not in called
    assert (status, said) == (3, f"left out:\n  {NO_ENGINE}\n")


@pytest.mark.parametrize("fails", [TESTS, LINUX, "make lint*", "prepare"])
def test_a_failure_is_one(fails: str, machine: Path) -> None:
    status, called, _ = run_tests(machine, fails, REQUIRE_TOOLS="1")
    assert status == 1
    assert (LINUX in called) == (fails in (TESTS, LINUX))  # one failure hides no other


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for name in ("id", "ls"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    command = ["/bin/sh", str(REPOSITORY / "ci/prepare"), "check"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("missing: apache2-utils bmake ") and " wrk. Install them, or " in done.stderr
