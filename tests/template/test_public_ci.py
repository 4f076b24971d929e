"""The workflows for a public host, which never run here: they call what the Makefile and the README have."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from baking import OPTIONS, REPOSITORY

WORKFLOWS = REPOSITORY / ".github/workflows"
MAKEFILE = (REPOSITORY / "Makefile").read_text()


def jobs(workflow: str) -> dict[str, Any]:
    return dict(yaml.safe_load((WORKFLOWS / workflow).read_text())["jobs"])


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_every_system_and_every_python() -> None:
    promised = sorted(OPTIONS["python_version"], key=lambda version: int(version.split(".")[1]))
    everywhere = jobs("ci.yml")
    for name, systems in (("python", ["ubuntu", "macos"]), ("windows", None)):
        matrix = everywhere[name]["strategy"]["matrix"]
        assert matrix["python"] == promised
        if systems:
            assert [system.split("-")[0] for system in matrix["os"]] == systems
    assert everywhere["windows"]["runs-on"].startswith("windows-")


def test_commands_are_those_of_the_readme() -> None:
    everywhere = jobs("ci.yml")
    assert commands(everywhere["test"]) == ["sudo make test"]
    assert commands(everywhere["python"]) == ["make test-without-docker"]
    for command in ("make test", "make test-without-docker"):
        assert command in (REPOSITORY / "README.md").read_text()


def test_nights_try_all_inputs() -> None:
    (listed,) = re.findall(r"^VARIANTS := (.*?)\n\n", MAKEFILE, re.MULTILINE | re.DOTALL)
    where = REPOSITORY / "tests"
    files = {
        path.relative_to(where) for path in where.rglob("test_*.py") if re.search(r"\bNIGHTLY\b", path.read_text())
    }
    named = {Path(name) for name in re.findall(r"\w+/test_\w+\.py", listed)}
    assert "tests/trust " in listed
    assert {path for path in files if path.parent.name != "trust"} - {Path("template/test_public_ci.py")} == named


def test_nights_run_what_make_nightly_runs() -> None:
    (parts,) = re.findall(r"^nightly: ([a-z -]+?)  ##", MAKEFILE, re.MULTILINE)
    (job,) = jobs("nightly.yml").values()
    assert job["strategy"]["matrix"]["target"] == parts.split()
    assert 'sudo make "$TARGET"' in commands(job)
    assert job["env"]["TARGET"] == "${{ matrix.target }}"
    for part in parts.split():
        assert re.search(rf"^{part}:.*##", MAKEFILE, re.MULTILINE)


def test_it_is_said_that_they_never_ran() -> None:
    for workflow in WORKFLOWS.iterdir():
        head = re.sub(r"\n# ", " ", workflow.read_text()).splitlines()[0]
        assert re.search("has ever run|was never run", head), workflow
    assert "have never run" in (REPOSITORY / "CONTRIBUTING.md").read_text().replace("\n", " ")


def test_what_windows_runs_needs_no_posix(tool: Callable[[str], str], tmp_path: Path) -> None:
    """The command of the workflow, with some of its tests, where Python has no more than on Windows, and where git is
    the only program. How Windows treats names and modes of files is not tried."""
    install, command = commands(jobs("ci.yml")["windows"])
    assert install == "python -m pip install --requirement requirements-dev.txt"
    program, *arguments = command.replace("-n 4 ", "").split()
    assert program == "python"
    (tmp_path / "git").symlink_to(tool("git"))
    some = "caches_do_not or replayed or says_what or plain or kept or leaves_nothing or MIT-http-prefork-github"
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, *arguments, "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-k", some],
        cwd=REPOSITORY,
        env=surroundings
        | {"PATH": str(tmp_path), "PYTHONUTF8": "1", "PYTHONPATH": str(Path(__file__).with_name("without_posix"))},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert passed and int(passed[1]) >= len(some.split(" or ")), done.stdout
