"""An update reaches a project that its owner has changed: cruft merges what the template has become into it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from baking import REPOSITORY, RUNTIME, TREE, files

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


def run(directory: Path, *command: str) -> str:
    identity = {
        f"GIT_{who}_{what}": "owner@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(directory), "PYTHONPATH": "src"}
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, cwd=directory, env=surroundings | identity | alone, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def commit(directory: Path, message: str) -> None:
    run(directory, "git", "add", "--all")
    run(directory, "git", "commit", "--quiet", "--message", message)


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{old!r} in {file}"
    file.write_text(text.replace(old, new))


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """The template in a repository, at a commit older than what it is now: other filters, an old runtime, a file less,
    a file more, other words in files that owners edit."""
    now = shutil.copytree(template, tmp_path / "template")
    old = shutil.copytree(template, tmp_path / "old")
    (old / RUNTIME / "__init__.py").write_text('"""An old runtime."""\n\n__version__ = "0.0.1"\n')
    (old / RUNTIME / "process/pool_size.py").unlink()
    (old / RUNTIME / "gone.py").write_text("GONE = True\n")
    edit(old / "local_extensions.py", "(checked, problems, quoted, label, unit)", "(checked, problems, quoted, label)")
    for unit in (old / TREE / "deploy/systemd").glob("*"):
        unit.write_text(unit.read_text().replace("| unit", "| replace('%', '')"))
    edit(old / TREE / "compose.yaml", "restart: unless-stopped", "restart: always")
    run(old, "git", "init", "--quiet", "--initial-branch", "main")
    commit(old, "As it was")
    for path in old.iterdir():
        if path.name != ".git":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(now, old, dirs_exist_ok=True)
    return old


def test_update(repository: Path, project: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    cruft = [sys.executable, "-m", "cruft"]
    run(
        home,
        *cruft,
        "create",
        str(repository),
        "--no-input",
        "--extra-context",
        json.dumps({"project_name": "Hello Server"}),
    )
    mine = home / "hello-server"
    before = (mine / "src/hello_server/runtime/__init__.py").read_text()
    assert '"0.0.1"' in before

    # What an owner does: own code and its test, own settings, an own file; and all of it is committed.
    (mine / "src/hello_server/handlers.py").write_text(HANDLERS)
    (mine / "tests/unit/test_handlers.py").write_text(TESTS)
    (mine / "src/hello_server/orders.py").write_text("PRICES = {1: 2}\n")
    edit(mine / "compose.yaml", "mem_limit: 256m", "mem_limit: 512m")
    edit(mine / "src/hello_server/__main__.py", 'defaults={"port": 1966', 'defaults={"backlog": 2048, "port": 1966')
    run(mine, "git", "init", "--quiet", "--initial-branch", "main")
    commit(mine, "My service")
    owned = files(mine / "src/hello_server")

    commit(repository, "As it is")
    assert "has been updated" in run(mine, *cruft, "update", "--skip-apply-ask")
    assert not list(mine.rglob("*.rej"))
    assert "<<<<<<<" not in run(mine, "git", "diff", "HEAD")

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
