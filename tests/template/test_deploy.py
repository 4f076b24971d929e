"""The files for Docker, systemd and FreeBSD satisfy the programs that judge them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

Tool = Callable[[str], str]
BESIDE = Path(sys.executable).parent  # programs that pip has installed


def judge(*command: str | Path) -> str:
    """Run a linter; returns what it says, which should be nothing."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@pytest.fixture(scope="session")
def unit(project: Path) -> Path:
    return project / "deploy/systemd/hello-server.service"


@pytest.fixture(scope="session")
def script(project: Path) -> Path:
    return project / "deploy/rc.d/hello_server"


def test_unit_is_right(unit: Path, tool: Tool) -> None:
    assert judge(tool("systemd-analyze"), "verify", "--man=no", unit) == ""  # of unknown keys it only speaks


def test_unit_exposes_little(unit: Path, tool: Tool) -> None:
    judge(tool("systemd-analyze"), "security", "--offline=true", "--threshold=15", unit)


def test_script_is_right(script: Path) -> None:
    assert judge(BESIDE / "shellcheck", "-s", "sh", "-e", "SC1091,SC2034", script) == ""


def test_script_parses(script: Path, tool: Tool) -> None:
    assert judge(tool("dash"), "-n", script) == ""


def test_script_has_its_headers(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/bin/sh"
    for header in ("# PROVIDE: hello_server", "# REQUIRE: LOGIN", "# KEYWORD: shutdown"):
        assert header in lines


def test_script_starts_the_module(script: Path, tool: Tool, tmp_path: Path) -> None:
    """What rc.subr makes of the variables: command and flags."""
    subr = tmp_path / "rc.subr"
    subr.write_text(
        'load_rc_config() { hello_server_flags="-p 8080"; rc_flags=$hello_server_flags; }\n'
        'run_rc_command() { "$start_precmd"; echo "$PYTHONPATH|$command $rc_flags|$procname|$pidfile"; }\n'
    )
    copy = tmp_path / "hello_server"
    copy.write_text(script.read_text().replace(". /etc/rc.subr", f". {subr}"))
    assert judge(tool("dash"), copy, "start").strip().split("|") == [
        "/usr/local/lib/hello-server",
        "/usr/local/bin/python3.11 -m hello_server --pidfile /var/run/hello-server.pid -p 8080",
        "/usr/local/bin/python3.11",
        "/var/run/hello-server.pid",
    ]


def test_dockerfile_is_right(project: Path) -> None:
    assert judge(BESIDE / "hadolint", project / "Dockerfile") == ""


def test_dockerfile_suits_the_classic_builder(project: Path) -> None:
    """No syntax line (it needs a network), no heredoc, no option that only BuildKit knows, no shell."""
    text = (project / "Dockerfile").read_text()
    for absent in ("# syntax=", "<<", "--chmod", "--mount", "--link", "--start-interval"):
        assert absent not in text
    for line in text.splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction in ("RUN", "COPY", "CMD", "ENTRYPOINT"):
            assert rest.removeprefix("--from=build ").startswith("["), line


def test_shell_scripts_of_ci_are_right() -> None:
    repository = Path(__file__).parents[2]
    assert judge(BESIDE / "shellcheck", repository / ".ci/run", repository / "ci/prepare") == ""


def test_every_job_has_a_timeout(project: Path) -> None:
    for file in (project / ".github/workflows/ci.yml", Path(__file__).parents[2] / ".github/workflows/ci.yml"):
        workflow = yaml.safe_load(file.read_text())
        assert workflow["permissions"] == {}
        assert all("timeout-minutes" in job for job in workflow["jobs"].values())
