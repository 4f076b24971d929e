"""What git checks before a commit is what `make lint` checks, by the same programs, without a network."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from baking import REPOSITORY, TREE, bake, copy_template

CONFIG = ".pre-commit-config.yaml"
WRONG = {
    "notes.txt": ("one line \n", "trailing-whitespace"),
    "more.txt": ("no newline", "end-of-file"),
    "windows.txt": ("one\r\ntwo\r\n", "line-endings"),
    "merged.txt": ("<<<<<<< HEAD\n1\n=======\n2\n>>>>>>> other\n", "merge-conflict"),
    "settings.yaml": ("a: [1\n", "yaml"),
    "settings.toml": ("a = [1\n", "toml"),
    "src/hello_server/one.py": ("import os\n", "ruff-check"),
    "src/hello_server/two.py": ("A = {  1:2}\n", "ruff-format"),
    "src/hello_server/three.py": ("A: int = ''\n", "mypy"),
}


def hooks(directory: Path) -> list[dict[str, Any]]:
    (repository,) = yaml.safe_load((directory / CONFIG).read_text())["repos"]
    assert repository["repo"] == "local"  # from elsewhere they would have a version of their own, and want a network
    return list(repository["hooks"])


def git(directory: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=directory, check=True, timeout=60)


def pre_commit(project: Path, **other: str) -> subprocess.CompletedProcess[str]:
    """All checks of all files. What it keeps is kept beside the project; an address would lead nowhere."""
    if not (project / ".venv").exists():
        (project / ".venv").symlink_to(sys.prefix)  # the tools that `make` would have installed
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PRE_COMMIT_"))}
    return subprocess.run(
        [project / ".venv/bin/python", "-m", "pre_commit", "run", "--all-files", "--color=never"],
        cwd=project,
        env=surroundings | {"PRE_COMMIT_HOME": str(project / "../kept"), "https_proxy": "http://127.0.0.1:9"} | other,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_a_fresh_project_passes_and_each_check_finds_something(template: Path, tmp_path: Path) -> None:
    project = bake(template, tmp_path)
    git(project, "init", "--quiet")
    git(project, "add", "--all")
    done = pre_commit(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"\.(\w+)$", done.stdout, re.MULTILINE) == ["Passed"] * len(hooks(project))

    for name, (content, _) in WRONG.items():
        (project / name).write_bytes(content.encode())
    (project / ".git/MERGE_MSG").write_text("Merge\n")
    (project / ".git/MERGE_HEAD").write_text("0" * 40 + "\n")
    git(project, "-c", "core.safecrlf=false", "add", "--all")
    done = pre_commit(project)
    assert done.returncode == 1
    failed = re.findall(r"^- hook id: (\S+)$", done.stdout, re.MULTILINE)
    assert failed == [check for _, check in WRONG.values()] == [hook["id"] for hook in hooks(project)]


def test_the_template_passes(tmp_path: Path) -> None:
    """All but its last check, `make lint`, which was run before these tests."""
    template = copy_template(tmp_path / "template")
    git(template, "init", "--quiet")
    git(template, "add", "--all")
    done = pre_commit(template, SKIP="lint")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"(Passed|Skipped)$", done.stdout, re.MULTILINE) == ["Passed"] * 8 + ["Skipped"]


def test_programs_are_those_of_make_lint(template: Path, tmp_path: Path) -> None:
    makefile = (bake(template, tmp_path) / "Makefile").read_text()
    (lint,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    ours = re.findall(r"^\t\$\(bin\)/python -m (ruff \w+|mypy)", lint, re.MULTILINE)
    entries = [hook["entry"].removeprefix(".venv/bin/python -m ") for hook in hooks(REPOSITORY / TREE)]
    assert ours == ["ruff check", "ruff format", "mypy"]
    assert [" ".join(entry.split()[: len(one.split())]) for one, entry in zip(ours, entries[-3:], strict=True)] == ours


def test_template_and_project_check_alike() -> None:
    """The template's last word is `make lint`, which knows how to look at what is not rendered yet."""
    ours, theirs = hooks(REPOSITORY), hooks(REPOSITORY / TREE)
    assert [hook["id"] for hook in ours[:-1]] == [hook["id"] for hook in theirs[:-1]]
    assert ours[-1]["entry"] == "make lint"
    for mine, other in zip(ours[:-1], theirs[:-1], strict=True):
        assert mine["entry"].replace(" --config pyproject.toml", "") == other["entry"]


def test_configurations_are_valid() -> None:
    files = [str(REPOSITORY / CONFIG), str(REPOSITORY / TREE / CONFIG)]
    command = [sys.executable, "-m", "pre_commit", "validate-config", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
