"""Every combination of the options that choose files gives a project in order."""

import functools
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from baking import OPTIONS, bake, bake_anew, combinations, cookiecutter, files, modes
from inventory import expected

# Code differs between these only; what takes long is tried once for each, with the other answers in turn.
KINDS = [
    {"license": terms, "protocol": protocol, "pool": pool, "ci": ci}
    for (protocol, pool), terms, ci in zip(
        itertools.product(OPTIONS["protocol"], OPTIONS["pool"]),
        itertools.cycle(OPTIONS["license"]),
        itertools.cycle(OPTIONS["ci"]),
    )
]
# Copied as they are: braces in them are not ours.
VERBATIM = ("src/hello_server/runtime/", ".github/", "deploy/swarm/remove", "deploy/swarm/wait", "docs/sizing.")
# The first words of each license.
LICENSES = {
    "MIT": "MIT License",
    "BSD-2-Clause": "BSD 2-Clause License",
    "Apache-2.0": "Copyright The Hello Server authors",
    "Proprietary": "Copyright (c) The Hello Server authors. All rights reserved.",
}


@pytest.fixture(params=combinations(), ids=lambda answers: "-".join(answers.values()))
def combination(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(request.param)


@pytest.fixture(scope="session", params=KINDS, ids=lambda answers: "-".join(answers.values()))
def kind(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(request.param)


@pytest.fixture(scope="session")
def typical(kind: dict[str, str], template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake(template, tmp_path_factory.mktemp("typical"), **kind)


@pytest.fixture(scope="session")
def judged_kinds(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    where = tmp_path_factory.mktemp("kinds")
    return {
        f"{kind['protocol']} {kind['pool']}": judged(bake(template, where / str(number), **kind))
        for number, kind in enumerate(KINDS)
    }


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy learned of one project helps it with the next."""
    return tmp_path_factory.mktemp("caches")


def run(project: Path, *command: str, **surroundings: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | surroundings
    done = subprocess.run(
        [sys.executable, "-B", "-m", *command],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.anywhere
def test_combination(combination: dict[str, str], judged_kinds: dict[str, str], template: Path, tmp_path: Path) -> None:
    """What must hold for each. Code is judged below, once for each protocol and pool; here it proves to be the same."""
    baked = bake(template, tmp_path / "kept", **combination)
    seen, wanted = modes(baked), expected(combination)
    if os.name == "nt":  # where files have no modes, their names alone are compared
        seen, wanted = dict.fromkeys(seen, ""), dict.fromkeys(wanted, "")
    if seen != wanted:
        pytest.fail(
            "files or modes are not those of tests/template/files.txt; `make files` writes it, `git diff` shows why"
        )
    for name, content in files(baked).items():
        assert "cookiecutter" not in name.removeprefix(".cookiecutter"), name
        if not name.startswith(VERBATIM):
            assert re.findall(rb"cookiecutter\.(?!yaml)|\{\{|\{%|\{#", content) == [], name
        parse(name, content.decode())
        assert b"\r" not in content, name
        assert content.endswith(b"\n"), name
        assert not content.endswith(b"\n\n"), name
    assert (baked / "LICENSE").read_text().startswith(LICENSES[combination["license"]])
    assert judged(baked) == judged_kinds[f"{combination['protocol']} {combination['pool']}"]


@pytest.mark.anywhere
def test_same_answers_same_bytes(typical: Path, kind: dict[str, str], template: Path, tmp_path: Path) -> None:
    again = bake_anew(template, tmp_path / "again", **kind)
    assert files(again) == files(typical)
    assert modes(again) == modes(typical)


def judged(project: Path) -> str:
    """A digest of all that linters, types and unit tests look at: code, and what the tools are told."""
    code = {name: content for name, content in files(project).items() if name.endswith(".py")}
    told = tomllib.loads((project / "pyproject.toml").read_text())["tool"]
    return hashlib.sha256(repr((sorted(code.items()), told)).encode()).hexdigest()


@functools.cache
def parse(name: str, text: str) -> Any:
    match Path(name).suffix:
        case ".py":
            return compile(text, name, "exec")
        case ".toml":
            return tomllib.loads(text)
        case ".yaml" | ".yml":
            return list(yaml.safe_load_all(text))
        case ".json":
            return json.loads(text)
    return text


def test_style(typical: Path) -> None:
    run(typical, "ruff", "check", "--no-cache")
    run(typical, "ruff", "format", "--check", "--no-cache")


def test_types(typical: Path, caches: Path) -> None:
    run(typical, "mypy", "--cache-dir", str(caches))


def test_unit_tests(typical: Path) -> None:
    run(typical, "pytest", "-p", "no:cacheprovider", "tests/unit", PYTHONPATH=os.environ.get("ELSEWHERE", ""))


def test_whole_suite_is_collected_at_once(typical: Path) -> None:
    """`pytest` alone: files of one name in two directories are no obstacle."""
    run(typical, "pytest", "-p", "no:cacheprovider", "--collect-only", "--quiet")


def test_service_starts(typical: Path) -> None:
    """Every module that it needs is there."""
    run(typical, "hello_server", "--check", PYTHONPATH="src")


# Other defaults, as an owner would write them into __main__.py; each is legal.
OWNED = {"name": "orders", "defaults": {"port": 8080, "idle": 40, "max": 900, "backlog": 4096, "drain_timeout": 1.5}}


@pytest.mark.parametrize(("protocol", "pool"), [("http", "threaded"), ("line", "prefork"), ("stream", "threaded")])
def test_unit_tests_hold_for_other_defaults(protocol: str, pool: str, template: Path, tmp_path: Path) -> None:
    project = bake(template, tmp_path, protocol=protocol, pool=pool)
    main = project / "src/hello_server/__main__.py"
    text = main.read_text()
    for argument, value in OWNED.items():
        text, found = re.subn(rf"^    {argument}=.*,$", f"    {argument}={value!r},", text, flags=re.MULTILINE)
        assert found == 1, argument
    main.write_text(text)
    run(project, "hello_server", "--check", PYTHONPATH="src")
    run(project, "pytest", "-p", "no:cacheprovider", "tests/unit")


@pytest.mark.anywhere
def test_generating_again_over_a_project_changes_nothing(template: Path, tmp_path: Path) -> None:
    project = bake(template, tmp_path)
    before = files(project)
    done = cookiecutter(template, tmp_path, "--no-input", "--overwrite-if-exists")
    assert done.returncode == 0, done.stderr
    assert files(project) == before
