"""How the tests bake projects: from what git would commit, so that no cache or stray file comes along.

What was baked is kept below build/baked, under a name made of the template's content and the answers: each project is
generated once, whichever test or process asks first, and copied to all others.
"""

import hashlib
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cookiecutter.main import cookiecutter as generator  # type: ignore[import-untyped]
from filelock import FileLock

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
CONTEXT: Any = multiprocessing.get_context(METHOD)
if METHOD == "forkserver":
    multiprocessing.set_forkserver_preload(["baking"])

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS: dict[str, Any] = json.loads((REPOSITORY / "cookiecutter.json").read_text())
TREE = "{{cookiecutter.project_slug}}"
# The options that decide which files a project has.
CHOOSING = ("license", "protocol", "pool", "ci")
CACHE = REPOSITORY / "build/baked"
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


def cookiecutter_at(
    home: Path, template: Path, target: Path, *arguments: str, said: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cookiecutter", str(template), "--output-dir", str(target), *arguments],
        cwd=home,  # not this repository: `python -m` would take local_extensions.py from there
        env={**os.environ, "HOME": str(home), "USERPROFILE": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        input=said,
        capture_output=True,
        text=True,
        timeout=120,
    )


def generate(template: Path, target: Path, *flags: str, **answers: str) -> Path:
    """Generate a project, for sure; returns its directory."""
    given = [f"{option}={answer}" for option, answer in answers.items()]
    done = cookiecutter(template, target, "--no-input", *flags, *given)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(target.iterdir())


def bake(template: Path, target: Path, **answers: str) -> Path:
    """Generate a project, or copy one that was generated from the same template and answers; returns its directory."""
    directory = CACHE / digest(template)
    kept = directory / hashlib.sha256(json.dumps(answers, sort_keys=True).encode()).hexdigest()[:16]
    make_room(directory)
    # One process bakes it; one that dies lets go of it. What another kind of lock leaves behind is a lock to this kind.
    with FileLock(kept.with_suffix(f".{FileLock.__name__}")):
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=directory) as fresh:
                bake_anew(template, Path(fresh), **answers)
                (Path(fresh) / "baked").rename(kept)
    shutil.copytree(kept, target, dirs_exist_ok=True)
    return target / next(kept.iterdir()).name


def bake_anew(template: Path, directory: Path, **answers: str) -> Path:
    """Generate a project below a directory, whether one was kept or not; returns the project's own."""
    directory.mkdir(parents=True, exist_ok=True)
    # cookiecutter is imported once: the server that this process forks from has it.
    child = CONTEXT.Process(target=baker, args=(template, directory, answers))
    child.start()
    child.join()
    assert child.exitcode == 0, f"{child.exitcode}: {(directory / 'said').read_text()}"
    return next((directory / "baked").iterdir())


def baker(template: Path, fresh: Path, answers: dict[str, str]) -> None:
    """The process that generates a project for the cache."""
    config = fresh / "config.yaml"
    config.write_text(json.dumps({"replay_dir": str(fresh / "replay"), "cookiecutters_dir": str(fresh / "templates")}))
    with (fresh / "said").open("w") as said:
        for fd in (1, 2):
            os.dup2(said.fileno(), fd)
    sys.dont_write_bytecode = True
    sys.path[:] = [path for path in sys.path if path and Path(path) != REPOSITORY]
    os.chdir(fresh)
    generator(
        str(template), no_input=True, extra_context=answers, output_dir=str(fresh / "baked"), config_file=str(config)
    )


def digest(template: Path) -> str:
    """Names, modes and content of a template, and what generates from it."""
    seen = hashlib.sha256(importlib.metadata.version("cookiecutter").encode())
    parts = [template / "cookiecutter.json", *template.glob("*.py")]
    below = [path for part in ("hooks", TREE) for path in (template / part).rglob("*")]
    for path in sorted(path for path in parts + below if path.is_file()):
        seen.update(f"{path.relative_to(template)}\0{path.stat().st_mode}\0".encode())
        seen.update(hashlib.sha256(path.read_bytes()).digest())
    return seen.hexdigest()[:16]


def make_room(directory: Path, most: int = 8) -> None:
    """Make a directory of the cache, and remove the oldest ones beyond a number."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.touch()
    others = sorted(CACHE.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in others[most:]:
        shutil.rmtree(old, ignore_errors=True)


def combinations() -> list[dict[str, str]]:
    """All answers to the options that choose files."""
    answers = itertools.product(*(OPTIONS[option] for option in CHOOSING))
    return [dict(zip(CHOOSING, one, strict=True)) for one in answers]


def files(project: Path) -> dict[str, bytes]:
    """Every file below a directory, by its path there."""
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in project.rglob("*") if path.is_file()}


def modes(project: Path) -> dict[str, str]:
    """As git keeps them, whatever the umask: 755 of what may be executed by all that may read it, 644 of the rest."""

    def mode(bits: int) -> str:
        execute, read = bits & 0o111, bits >> 2 & 0o111
        return "644" if not execute else "755" if execute == read else f"{bits:o}"

    found = (path for path in project.rglob("*") if path.is_file())
    return {path.relative_to(project).as_posix(): mode(path.stat().st_mode & 0o7777) for path in found}
