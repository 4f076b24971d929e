"""Generating over a project: with -s all that exists stays, and without it whatever the template has not written."""

import shutil
import subprocess
from pathlib import Path

import pytest
from baking import OPTIONS, bake, cookiecutter, files, generate

pytestmark = pytest.mark.anywhere
PACKAGE = "src/hello_server"
# What an owner has changed, among it files that cookiecutter copies or renders and the hook renames or prunes.
EDITED = (
    "LICENSE",
    "README.md",
    ".gitignore",
    "requirements-dev.txt",
    ".cookiecutter.yaml",
    f"{PACKAGE}/handlers.py",
    f"{PACKAGE}/runtime/command.py",
    "tests/unit/test_handlers.py",
    "tests/integration/talk.py",
    "tests/integration/test_service.py",
)
# An owner's own files, under names that the template has for other answers or between its steps, or its patterns match.
OWN = (
    ".github/CODEOWNERS",
    ".github/workflows/ci.yml",
    ".github/workflows/deploy.yml",
    ".gitlab-ci.yml",
    "LICENSE.MIT",
    "LICENSE.Apache-2.0",
    f"{PACKAGE}/client_http.py",
    f"{PACKAGE}/handlers_line.py",
    f"{PACKAGE}/handlers_http.py",
    f"{PACKAGE}/__pycache__/kept.pyc",
    f"{PACKAGE}/runtime/http/mine.py",
    f"{PACKAGE}/runtime/stream/mine.py",
    "tests/unit/test_client_http.py",
    "tests/unit/test_stream_of_ours.py",
    "tests/integration/test_more_line.py",
    "notes/today.md",
)
OTHERS = [
    {},
    {"ci": "gitlab", "protocol": "line", "license": "Apache-2.0", "pool": "threaded"},
    {"ci": "none", "protocol": "stream", "license": "Proprietary"},
]


@pytest.fixture
def owned(template: Path, tmp_path: Path) -> Path:
    """A project that its owner has changed."""
    project = bake(template, tmp_path / "there", license="BSD-2-Clause")
    (project / ".github/workflows/ci.yml").unlink()
    for name in EDITED + OWN:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(f"the owner's {name}\n")
    return project


def over(template: Path, project: Path, *flags: str, **answers: str) -> None:
    given = [f"{option}={answer}" for option, answer in {"license": "BSD-2-Clause", **answers}.items()]
    done = cookiecutter(template, project.parent, "--no-input", "-f", *flags, *given)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("answers", OTHERS, ids=lambda answers: "-".join(answers.values()) or "same")
def test_with_s_nothing_that_exists_changes(template: Path, owned: Path, answers: dict[str, str]) -> None:
    (owned / "deploy/install").unlink()
    before = files(owned)
    over(template, owned, "-s", **answers)
    after = files(owned)
    assert {name: after.get(name) for name in before} == before
    assert "deploy/install" in after
    assert not any("UNFINISHED" in name or "kept-by" in name for name in after)


@pytest.mark.parametrize("answers", OTHERS, ids=lambda answers: "-".join(answers.values()) or "same")
def test_without_s_only_the_templates_files_change(
    template: Path, owned: Path, tmp_path: Path, answers: dict[str, str]
) -> None:
    before = files(owned)
    wanted = files(bake(template, tmp_path / "fresh", **{"license": "BSD-2-Clause", **answers}))
    over(template, owned, **answers)
    assert files(owned) == before | wanted


def test_links_are_not_written_through(template: Path, owned: Path, tmp_path: Path) -> None:
    for name in (".gitignore", "LICENSE.MIT", "requirements-dev.txt"):
        (tmp_path / name).write_text("elsewhere\n")
        (owned / name).unlink()
        (owned / name).symlink_to(tmp_path / name)
    shutil.move(owned / PACKAGE / "runtime", tmp_path / "runtime")
    (owned / PACKAGE / "runtime").symlink_to(tmp_path / "runtime")
    elsewhere = files(tmp_path / "runtime")
    over(template, owned, "-s")
    assert files(tmp_path / "runtime") == elsewhere
    for name in (".gitignore", "LICENSE.MIT", "requirements-dev.txt", f"{PACKAGE}/runtime"):
        assert (owned / name).is_symlink(), name
        assert (tmp_path / name).is_dir() or (tmp_path / Path(name).name).exists()
    assert (tmp_path / ".gitignore").read_text() == "elsewhere\n"


def test_a_run_that_was_broken_off(template: Path, owned: Path) -> None:
    """What it has put aside is found by the next one."""
    before = files(owned)
    kept = owned / ".kept-by-cookiecutter"
    for name in ("LICENSE", f"{PACKAGE}/runtime/command.py"):
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(owned / name, kept / name)
    (owned / "LICENSE").write_text("half")
    over(template, owned, "-s")
    after = files(owned)
    assert {name: after.get(name) for name in before} == before


def test_without_hooks(template: Path, tmp_path: Path) -> None:
    """Such a project says what is missing, whatever is asked of it."""
    project = generate(template, tmp_path / "first", "--accept-hooks", "no")
    assert "hooks" in (project / "UNFINISHED.md").read_text()
    done = subprocess.run(["make", "run"], cwd=project, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "UNFINISHED.md says why" in done.stderr
    assert len(OPTIONS["protocol"]) == len(list((project / PACKAGE).glob("handlers_*.py")))
