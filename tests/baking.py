"""How the tests bake projects: from what git would commit, so that no cache or stray file comes along."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
OPTIONS: dict[str, Any] = json.loads((REPOSITORY / "cookiecutter.json").read_text())
TREE = "{{cookiecutter.project_slug}}"
RUNTIME = "{{cookiecutter.project_slug}}/src/{{cookiecutter.package_name}}/runtime"


def tracked(below: str = ".") -> list[str]:
    """The files of the work tree that git has or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", below]
    names = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split("\0")
    return [name for name in names if name and (REPOSITORY / name).is_file()]


def copy_template(target: Path) -> Path:
    for name in tracked():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, target / name)
    return target


def cookiecutter(template: Path, target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the generator as a user would, but with a home of its own: no settings, no answers of earlier runs."""
    with tempfile.TemporaryDirectory() as home:
        return cookiecutter_at(Path(home), template, target, *arguments)


def cookiecutter_at(home: Path, template: Path, target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cookiecutter", str(template), "--output-dir", str(target), *arguments],
        env={**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def bake(template: Path, target: Path, **answers: str) -> Path:
    """Generate a project; returns its directory."""
    given = [f"{option}={answer}" for option, answer in answers.items()]
    done = cookiecutter(template, target, "--no-input", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(target.iterdir())


def files(project: Path) -> dict[str, bytes]:
    """Every file below a directory, by its path there."""
    return {str(path.relative_to(project)): path.read_bytes() for path in project.rglob("*") if path.is_file()}
