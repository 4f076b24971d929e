"""An update reaches a project that its owner has changed: `make update` or cruft merges what the template became."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from baking import REPOSITORY, RUNTIME, TREE, cookiecutter, files, generate
from projects import make_with_our_tools

HANDLERS = '''"""An owner's handlers."""

from .runtime.http import Request, Router

routes = Router()


@routes.get("/orders/{id}")
def order(request: Request) -> dict[str, str]:
    """What was ordered."""
    return {"order": request.params["id"]}
'''
TESTS = """from hello_server import handlers


def test_order() -> None:
    assert handlers.order
"""


def attempt(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    identity = {
        f"GIT_{who}_{what}": "owner@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(directory), "PYTHONPATH": "src"}
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        command, cwd=directory, env=surroundings | identity | alone, capture_output=True, text=True, timeout=120
    )


def run(directory: Path, *command: str) -> str:
    done = attempt(directory, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def commit(directory: Path, message: str) -> None:
    run(directory, "git", "add", "--all")
    run(directory, "git", "commit", "--quiet", "--message", message)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{old!r} in {file}"
    file.write_text(text.replace(old, new))


def clear(directory: Path) -> None:
    for path in directory.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def as_it_was(template: Path, old: Path) -> Path:
    """The template in a repository, at a commit three versions older than what it is now: other filters, an old
    runtime, a file less, a file more, one under another name, other words in files that owners edit, another stub."""
    shutil.copytree(template, old)
    (old / RUNTIME / "__init__.py").write_text('"""An old runtime."""\n\n__version__ = "0.0.1"\n')
    (old / RUNTIME / "process/pool_size.py").unlink()
    (old / RUNTIME / "gone.py").write_text("GONE = True\n")
    edit(old / "local_extensions.py", "quoted, label, unit)\n", "quoted, label)\n")
    for unit in (old / TREE / "deploy/systemd").glob("*"):
        unit.write_text(unit.read_text().replace("| unit", "| replace('%', '')"))
    edit(old / TREE / "compose.yaml", "restart: unless-stopped", "restart: always")
    edit(old / TREE / "src/{{cookiecutter.package_name}}/handlers_http.py", '"/healthz"', '"/health"')
    edit(old / TREE / "docs/sizing.md", "# How many replicas\n", "# As it was\n")
    (old / TREE / "docs/debugging.md").rename(old / TREE / "docs/finding-faults.md")
    run(old, "git", "init", "--quiet", "--initial-branch", "main")
    commit(old, "As it was")
    return old


def go_on(repository: Path, template: Path) -> None:
    """Two versions in between, and what the template is now."""
    for number in (2, 3):
        (repository / RUNTIME / "__init__.py").write_text(f'"""An old runtime."""\n\n__version__ = "0.0.{number}"\n')
        commit(repository, f"Version {number}")
    clear(repository)
    shutil.copytree(template, repository, dirs_exist_ok=True)
    commit(repository, "As it is")


def own(mine: Path) -> None:
    """What an owner does: own code and its test, own settings, an own file, one less; and all of it is committed."""
    (mine / "src/hello_server/handlers.py").write_text(HANDLERS)
    (mine / "tests/unit/test_handlers.py").write_text(TESTS)
    (mine / "src/hello_server/orders.py").write_text("PRICES = {1: 2}\n")
    edit(mine / "compose.yaml", "mem_limit: 256m", "mem_limit: 512m")
    edit(mine / "src/hello_server/__main__.py", 'defaults={"port": 1966', 'defaults={"backlog": 2048, "port": 1966')
    (mine / "docs/finding-faults.md").write_text((mine / "docs/finding-faults.md").read_text() + "\nAsk Ada.\n")
    (mine / "docs/sizing.md").unlink()
    run(mine, "git", "init", "--quiet", "--initial-branch", "main")
    commit(mine, "My service")


def update(mine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return attempt(mine, sys.executable, "tools/update.py", *arguments)


@pytest.fixture(scope="session")
def made(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the oldest version, since when three have come; for all tests, which work on copies."""
    directory = tmp_path_factory.mktemp("made")
    repository = as_it_was(template, directory / "repository")
    own(generate(repository, directory / "mine"))
    go_on(repository, template)
    return directory


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Path:
    project = shutil.copytree(made / "mine/hello-server", tmp_path / "mine")
    assert '"0.0.1"' in (project / "src/hello_server/runtime/__init__.py").read_text()
    return project


def made_by_cruft(repository: Path, home: Path) -> Path:
    home.mkdir()
    answers = json.dumps({"project_name": "Hello Server"})
    run(home, sys.executable, "-m", "cruft", "create", str(repository), "--no-input", "--extra-context", answers)
    own(home / "hello-server")
    return home / "hello-server"


@pytest.mark.parametrize("way", ["make update", "cruft"])
def test_update(way: str, made: Path, mine: Path, template: Path, project: Path, tmp_path: Path) -> None:
    repository = made / "repository"
    if way == "cruft":
        repository = as_it_was(template, tmp_path / "repository")
        mine = made_by_cruft(repository, tmp_path / "home")
        go_on(repository, template)
    owned = files(mine / "src/hello_server")
    if way == "cruft":
        assert "has been updated" in run(mine, sys.executable, "-m", "cruft", "update", "--skip-apply-ask")
    else:
        done = make_with_our_tools(mine, "update", GIT_CONFIG_GLOBAL=os.devnull, HOME=str(tmp_path))
        assert done.returncode == 0, done.stdout
        assert "stays deleted: docs/sizing.md" in done.stdout
        assert "Ask Ada." in (mine / "docs/debugging.md").read_text()
        assert not (mine / "docs/finding-faults.md").exists()
    assert not list(mine.rglob("*.rej"))
    assert "<<<<<<<" not in run(mine, "git", "diff", "HEAD")
    assert not (mine / "docs/sizing.md").exists()
    head = run(repository, "git", "rev-parse", "HEAD").strip()
    assert f'commit: "{head}"' in (mine / ".cookiecutter.yaml").read_text()

    now = files(mine / "src/hello_server")
    for name in ("handlers.py", "orders.py", "__main__.py"):
        assert now[name] == owned[name]
    new = {
        name: content for name, content in files(project / "src/hello_server").items() if name.startswith("runtime/")
    }
    assert {name: content for name, content in now.items() if name.startswith("runtime/")} == new
    compose = (mine / "compose.yaml").read_text()
    assert "mem_limit: 512m" in compose and "restart: unless-stopped" in compose
    assert (mine / "tests/unit/test_handlers.py").read_text() == TESTS
    run(mine, sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit")
    assert "configuration and handlers are good" in run(mine, sys.executable, "-B", "-m", "hello_server", "--check")
    version = re.findall(r'^__version__ = "(.*)"', (REPOSITORY / RUNTIME / "__init__.py").read_text(), re.MULTILINE)
    assert f"(runtime {version[0]}," in run(mine, sys.executable, "-B", "-m", "hello_server", "--version")


def test_nothing_new(mine: Path) -> None:
    assert update(mine).returncode == 0
    commit(mine, "Updated")
    done = update(mine)
    assert (done.returncode, run(mine, "git", "status", "--porcelain")) == (0, "")
    assert "Nothing changes" in done.stdout


def test_only_shown(mine: Path) -> None:
    before = files(mine)
    done = update(mine, "--show")
    assert done.returncode == 0, done.stderr
    assert "Version 3" in done.stdout
    assert "compose.yaml" in done.stdout
    assert "handlers.py" not in done.stdout
    assert run(mine, "git", "status", "--porcelain") == ""
    assert files(mine / "src") == {
        name.removeprefix("src/"): text for name, text in before.items() if name.startswith("src/")
    }


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda mine: (mine / "new.txt").write_text("x"), "not committed"),
        (lambda mine: (mine / "README.md").write_text("x"), "not committed"),
        (lambda mine: shutil.rmtree(mine / ".git"), "in no git repository"),
        (lambda mine: said_otherwise(mine, r"commit: .*", 'commit: ""'), "give --old COMMIT"),
        (lambda mine: said_otherwise(mine, r"(commit: .*)\"", r'\1-dirty"'), "give --old COMMIT"),
        (lambda mine: said_otherwise(mine, r"template: .*", 'template: ""'), "give --template URL"),
    ],
    ids=["untracked", "edited", "no git", "no commit", "uncommitted template", "no template"],
)
def test_stops(spoil: Callable[[Path], object], said: str, mine: Path) -> None:
    """In one line, with nothing changed."""
    spoil(mine)
    before = {name: text for name, text in files(mine).items() if not name.startswith(".git/")}
    done = update(mine)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert said in done.stderr
    assert {name: text for name, text in files(mine).items() if not name.startswith(".git/")} == before


def said_otherwise(mine: Path, pattern: str, text: str) -> None:
    file = mine / ".cookiecutter.yaml"
    file.write_text(re.sub(f"(?m)^{pattern}$", text, file.read_text()))
    commit(mine, "Otherwise")


def test_conflict(mine: Path) -> None:
    """Is left as git leaves it, and taken back with `git reset --hard`."""
    edit(mine / "compose.yaml", "restart: always", "restart: on-failure")
    commit(mine, "Mine")
    done = update(mine)
    assert (done.returncode, done.stderr) == (1, "")
    assert "\n  compose.yaml\n" in done.stdout
    text = (mine / "compose.yaml").read_text()
    assert "<<<<<<< HEAD\n    restart: on-failure\n=======\n    restart: unless-stopped\n>>>>>>> " in text
    assert "UU compose.yaml" in run(mine, "git", "status", "--porcelain")
    run(mine, "git", "reset", "--hard", "--quiet")
    assert run(mine, "git", "status", "--porcelain") == ""


@pytest.mark.parametrize("way", ["edited", "given"])
def test_other_answers(way: str, mine: Path) -> None:
    """Files of other answers come, those of the former ones go, the owner's stay."""
    answers = {"ci": "gitlab", "python_version": "3.13"}
    if way == "edited":
        for option, answer in answers.items():
            said_otherwise(mine, f'  {option}: ".*"', f"  {option}: '{answer}' # mine")
    done = update(mine, *(f"{option}={answer}" for option, answer in answers.items() if way == "given"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (mine / ".github").exists()
    assert "make test" in (mine / ".gitlab-ci.yml").read_text()
    assert '  python_version: "3.13"' in (mine / ".cookiecutter.yaml").read_text()
    assert '  ci: "gitlab"' in (mine / ".cookiecutter.yaml").read_text()
    assert "PYTHON_IMAGE=python:3.13-slim\n" in (mine / "Dockerfile").read_text()
    assert (mine / "src/hello_server/handlers.py").read_text() == HANDLERS


def test_part_of_a_larger_repository(template: Path, tmp_path: Path) -> None:
    """Both may be: the template (`--directory`), and the project."""
    repository = tmp_path / "templates"
    shutil.copytree(template, repository / "templates/service")
    run(repository, "git", "init", "--quiet", "--initial-branch", "main")
    commit(repository, "All")
    done = cookiecutter(repository, tmp_path / "all/our services", "--no-input", "--directory", "templates/service")
    assert done.returncode == 0, done.stderr
    mine = tmp_path / "all/our services/hello-server"
    assert '\ndirectory: "templates/service"\n' in (mine / ".cookiecutter.yaml").read_text()
    (mine / "docs/sizing.md").unlink()
    run(tmp_path / "all", "git", "init", "--quiet")
    commit(tmp_path / "all", "All")
    edit(repository / "templates/service" / TREE / "docs/sizing.md", "# How many replicas\n", "# New\n")
    page = repository / "templates/service" / TREE / "docs/debugging.md"
    page.write_text(f"{page.read_text()}\nMore.\n")
    commit(repository, "More")
    done = update(mine)
    assert done.returncode == 0, done.stdout + done.stderr
    changed = run(tmp_path / "all", "git", "status", "--porcelain", "-z").split("\0")[:-1]
    assert [one[3:] for one in changed] == [
        f"our services/hello-server/{name}" for name in (".cookiecutter.yaml", "docs/debugging.md")
    ]
