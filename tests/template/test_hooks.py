"""A wrong answer stops the generator with one clear line, and leaves nothing behind."""

import importlib.metadata
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from baking import OPTIONS, REPOSITORY, RUNTIME, TREE, bake, cookiecutter, cookiecutter_at, files
from cookiecutter.environment import StrictEnvironment  # type: ignore[import-untyped]

pytestmark = pytest.mark.anywhere
WRONG = [
    ("project_slug", "Hello", "lower-case letters, digits and single dashes"),
    ("project_slug", "1st", "begin with a letter"),
    ("project_slug", "a--b", "single dashes"),
    ("project_slug", "a/b", "lower-case letters, digits and single dashes"),
    ("project_slug", "../up", "lower-case letters, digits and single dashes"),
    ("project_slug", "", "begin with a letter"),
    ("project_slug", "a" * 41, "at most 40 characters"),
    ("package_name", "class", "a Python keyword; try class_server"),
    ("package_name", "match", "a Python keyword"),
    ("package_name", "json", "hide the module of that name in Python's standard library"),
    ("package_name", "docker", "hide a package that the project's tests or tools import"),
    ("package_name", "2nd", "begin with a letter"),
    ("package_name", "hello-server", "lower-case letters, digits and underscores"),
    ("package_name", "hällo", "lower-case letters, digits and underscores"),
    ("package_name", "__init__", "lower-case letters, digits and underscores"),
    ("package_name", "a__b", "doubled and trailing underscores"),
    ("package_name", "b" * 41, "at most 40 characters"),
    ("port", "0", "a number from 1 to 65534"),
    ("port", "65535", "a number from 1 to 65534"),
    ("port", "http", "a number from 1 to 65534"),
    ("port", "1966\n", "a number from 1 to 65534"),
    ("port", "١٩", "a number from 1 to 65534"),
    ("project_name", " ", "write something"),
    ("project_slug", "con", "a device on Windows; try con-server"),
    ("package_name", "lpt1", "a device on Windows; try lpt1_server"),
    ("package_name", "type", "hide the module of that name"),
    ("package_name", "test", "hide"),
    ("project_name", "two\nlines", "one line, without control characters"),
    ("description", "tab\tbed", "without control characters"),
    ("description", "next\x85line", "without control characters"),
    ("description", "a\u2028b", "without control characters"),
    ("description", "a\u202egnp", "turn the direction of writing"),
    ("description", " a", "white space before and after"),
    ("author", "two\nlines", "one line, without control characters"),
    ("author", "bell\a", "without control characters"),
    ("registry", "a" * 201, "at most 200 characters"),
    ("registry", "Not A Host", "a host and a path in lower case"),
    ("registry", "https://ghcr.io", "a host and a path in lower case"),
]


@pytest.mark.parametrize(("option", "answer", "advice"), WRONG)
def test_wrong_answer(template: Path, tmp_path: Path, option: str, answer: str, advice: str) -> None:
    done = cookiecutter(template, tmp_path, "--no-input", f"{option}={answer}")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"Error: {option} ")
    assert advice in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_names_of_the_tools() -> None:
    """What requirements-dev.txt brings, under the names that it is imported by."""
    lines = (REPOSITORY / TREE / "requirements-dev.txt").read_text().splitlines()
    tools = {tool(line.split("==")[0]) for line in lines if "==" in line}
    names = importlib.metadata.packages_distributions()
    imported = {name for name, whose in names.items() if tools.intersection(map(tool, whose))}
    assert {"pluggy", "xdist", "certifi", "docker"} <= imported
    local = runpy.run_path(str(REPOSITORY / "local_extensions.py"))
    assert [name for name in sorted(imported) if not local["package_name"](name)] == []


def tool(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def test_replayed_wrong_answer(template: Path, tmp_path: Path) -> None:
    """A replayed answer is not asked for, so only the hook sees it."""
    assert cookiecutter_at(tmp_path, template, tmp_path / "good", "--no-input").returncode == 0
    replay = next(tmp_path.glob(".cookiecutter_replay/*.json"))
    answers = json.loads(replay.read_text())
    answers["cookiecutter"]["package_name"] = "class"
    replay.write_text(json.dumps(answers))
    done = cookiecutter_at(tmp_path, template, tmp_path / "wrong", "--replay-file", str(replay))
    assert done.returncode == 1
    assert done.stderr.startswith('package_name "class" cannot be used: it is a Python keyword')
    assert list((tmp_path / "wrong").iterdir()) == []


def test_caches_do_not_come_along(template: Path, project: Path, tmp_path: Path) -> None:
    """cookiecutter takes along whatever tools have left in the template, and would even render it."""
    littered = tmp_path / "template"
    shutil.copytree(template, littered)
    for directory in (littered / RUNTIME, littered / RUNTIME / "..", littered / TREE):
        for name in ("__pycache__", ".mypy_cache/3.11", ".ruff_cache", ".pytest_cache"):
            (directory / name).mkdir(parents=True)
            (directory / name / "file").write_bytes(b"{{ litter }} \x91")
    assert set(files(bake(littered, tmp_path / "baked"))) == set(files(project))


def test_says_what_to_type_next(template: Path, tmp_path: Path) -> None:
    done = cookiecutter(template, tmp_path, "--no-input", "project_slug=other", "package_name=thing")
    assert done.returncode == 0
    commands = [line.split("#")[0].strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert commands == ["cd other", "make run", "make test"]


@pytest.mark.parametrize("hook", sorted(path.name for path in (REPOSITORY / "hooks").glob("*.py")))
def test_hook_is_typed_and_tidy_as_rendered(hook: str, tmp_path: Path) -> None:
    choices = {name: value for name, value in OPTIONS.items() if isinstance(value, list) and not name.startswith("_")}
    answers = OPTIONS | {name: values[0] for name, values in choices.items()}
    text = (REPOSITORY / "hooks" / hook).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    rendered = tmp_path / hook
    environment = StrictEnvironment(context={"cookiecutter": answers}, keep_trailing_newline=True)
    rendered.write_text(environment.from_string(text).render(cookiecutter=answers), encoding="utf-8")
    for command in (
        ["mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path)],
        ["ruff", "check", "--no-cache", "--config", str(REPOSITORY / "pyproject.toml"), "--ignore", "E501"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command, str(rendered)], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
