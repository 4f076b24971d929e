"""Every combination of the options that choose files gives a project in order."""

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
from baking import OPTIONS, RUNTIME, bake, cookiecutter, files, tracked

CHOOSING = ("license", "protocol", "pool", "ci")
COMBINATIONS = [
    dict(zip(CHOOSING, answers, strict=True)) for answers in itertools.product(*(OPTIONS[name] for name in CHOOSING))
]
# Code differs between these only; what takes long is tried once for each, with the other answers in turn.
KINDS = [
    {"license": terms, "protocol": protocol, "pool": pool, "ci": ci}
    for (protocol, pool), terms, ci in zip(
        itertools.product(OPTIONS["protocol"], OPTIONS["pool"]),
        itertools.cycle(OPTIONS["license"]),
        itertools.cycle(OPTIONS["ci"]),
    )
]
COMMON = {
    ".dockerignore",
    ".gitattributes",
    ".gitignore",
    "Dockerfile",
    "LICENSE",
    "Makefile",
    "README.md",
    "compose.yaml",
    "deploy/install",
    "deploy/kubernetes/base/config.toml",
    "deploy/kubernetes/base/deployment.yaml",
    "deploy/kubernetes/base/horizontalpodautoscaler.yaml",
    "deploy/kubernetes/base/kustomization.yaml",
    "deploy/kubernetes/base/networkpolicy.yaml",
    "deploy/kubernetes/base/poddisruptionbudget.yaml",
    "deploy/kubernetes/base/service.yaml",
    "deploy/kubernetes/base/serviceaccount.yaml",
    "deploy/kubernetes/components/servicemonitor/kustomization.yaml",
    "deploy/kubernetes/components/servicemonitor/service.yaml",
    "deploy/kubernetes/components/servicemonitor/servicemonitor.yaml",
    "deploy/kubernetes/components/tls/kustomization.yaml",
    "deploy/kubernetes/overlays/dev/kustomization.yaml",
    "deploy/kubernetes/overlays/dev/namespace.yaml",
    "deploy/kubernetes/overlays/prod/kustomization.yaml",
    "deploy/kubernetes/overlays/prod/namespace.yaml",
    "deploy/rc.d/hello_server",
    "deploy/rc.d/newsyslog.conf",
    "deploy/reference.py",
    "deploy/swarm/config.toml",
    "deploy/swarm/ingress.yaml",
    "deploy/swarm/remove",
    "deploy/swarm/secrets.yaml",
    "deploy/swarm/stack.yaml",
    "deploy/swarm/wait",
    "deploy/systemd/before-253.conf",
    "deploy/systemd/environment",
    "deploy/systemd/hello-server.service",
    "deploy/systemd/hello-server.socket",
    "deploy/systemd/low-port.conf",
    "deploy/systemd/socket-activated.conf",
    "docs/log.schema.json",
    "docs/manual.md",
    "docs/sizing.md",
    "docs/sizing.py",
    "docs/sizing.svg",
    "pyproject.toml",
    "requirements-dev.in",
    "requirements-dev.txt",
    "src/hello_server/__init__.py",
    "src/hello_server/__main__.py",
    "src/hello_server/handlers.py",
    "tests/integration/conftest.py",
    "tests/integration/talk.py",
    "tests/integration/test_deployment.py",
    "tests/integration/test_image.py",
    "tests/integration/test_service.py",
    "tests/unit/test_cgroups.py",
    "tests/unit/test_logs.py",
    "tests/unit/test_handlers.py",
    "tests/unit/test_http1.py",
    "tests/unit/test_sizing.py",
    "tests/unit/test_upkeep.py",
}
# Copied as they are: braces in them are not ours.
VERBATIM = (".github/workflows/ci.yml", "deploy/swarm/remove", "deploy/swarm/wait")
CHOSEN = {"github": {".github/workflows/ci.yml"}, "gitlab": {".gitlab-ci.yml"}, "none": set[str]()}
# Files that a project has only with these protocols and pools; all other modules of the runtime are in every project.
ALL = ("http", "line", "stream"), ("prefork", "threaded")
RAW = ("line", "stream"), ALL[1]
ONLY = {
    "runtime/access_http.py": (("http",), ALL[1]),
    "runtime/bodies.py": (("http",), ALL[1]),
    "runtime/connection.py": (("http",), ALL[1]),
    "runtime/engine_prefork_http.py": (("http",), ("prefork",)),
    "runtime/engine_prefork_raw.py": (RAW[0], ("prefork",)),
    "runtime/engine_threaded_http.py": (("http",), ("threaded",)),
    "runtime/engine_threaded_raw.py": (RAW[0], ("threaded",)),
    "runtime/poller.py": (("http",), ALL[1]),
    "runtime/pool_prefork.py": (ALL[0], ("prefork",)),
    "runtime/pool_threaded.py": (ALL[0], ("threaded",)),
    "runtime/protocol_http.py": (("http",), ALL[1]),
    "runtime/protocol_line.py": (("line",), ALL[1]),
    "runtime/protocol_stream.py": (("stream",), ALL[1]),
    "runtime/raw.py": RAW,
    "runtime/sentry.py": (("http",), ALL[1]),
    "runtime/stream.py": RAW,
    "runtime/threads.py": (ALL[0], ("threaded",)),
    "tests/integration/test_http.py": (("http",), ALL[1]),
    "tests/integration/test_line.py": (("line",), ALL[1]),
    "tests/integration/test_stream.py": (("stream",), ALL[1]),
    "tests/unit/test_stream.py": RAW,
    "tests/unit/test_threads.py": (ALL[0], ("threaded",)),
}
# The first words of each license.
LICENSES = {
    "MIT": "MIT License",
    "BSD-2-Clause": "BSD 2-Clause License",
    "Apache-2.0": "Copyright The Hello Server authors",
    "Proprietary": "Copyright (c) The Hello Server authors. All rights reserved.",
}


@pytest.fixture(scope="session", params=COMBINATIONS, ids=lambda answers: "-".join(answers.values()))
def combination(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(request.param)


@pytest.fixture(scope="session")
def baked(combination: dict[str, str], template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake(template, tmp_path_factory.mktemp("baked"), **combination)


@pytest.fixture(scope="session", params=KINDS, ids=lambda answers: "-".join(answers.values()))
def kind(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(request.param)


@pytest.fixture(scope="session")
def typical(kind: dict[str, str], template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake(template, tmp_path_factory.mktemp("typical"), **kind)


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


def test_files(baked: Path, combination: dict[str, str]) -> None:
    runtime = {f"runtime/{Path(name).name}" for name in tracked(RUNTIME)}
    everywhere = {f"src/hello_server/{name}" for name in runtime - set(ONLY)}
    chosen = {
        f"src/hello_server/{name}" if name in runtime else name
        for name, (protocols, pools) in ONLY.items()
        if combination["protocol"] in protocols and combination["pool"] in pools
    }
    assert set(files(baked)) == COMMON | everywhere | chosen | CHOSEN[combination["ci"]]
    assert (baked / "LICENSE").read_text().startswith(LICENSES[combination["license"]])


def test_nothing_of_the_template_is_left(baked: Path) -> None:
    for name, content in files(baked).items():
        assert "cookiecutter" not in name
        if "/runtime/" not in name and name not in VERBATIM:
            assert re.findall(rb"\{\{|\{%|\{#|cookiecutter", content) == [], name


def test_everything_parses(baked: Path) -> None:
    for name, content in files(baked).items():
        parse(name, content.decode())


def parse(name: str, text: str) -> Any:
    match Path(name).suffix:
        case ".py":
            return compile(text, name, "exec")
        case ".toml":
            return tomllib.loads(text)
        case ".yaml" | ".yml":
            return yaml.safe_load(text)
        case ".json":
            return json.loads(text)
    return text


def test_lines_end_as_they_should(baked: Path) -> None:
    for name, content in files(baked).items():
        assert b"\r" not in content, name
        assert content.endswith(b"\n"), name
        assert not content.endswith(b"\n\n"), name


def test_style(typical: Path) -> None:
    run(typical, "ruff", "check", "--no-cache")
    run(typical, "ruff", "format", "--check", "--no-cache")


def test_types(typical: Path, caches: Path) -> None:
    run(typical, "mypy", "--cache-dir", str(caches))
    for below in ("integration", "unit"):
        tests = [str(path.relative_to(typical)) for path in typical.glob(f"tests/{below}/*.py")]
        run(typical, "mypy", "--cache-dir", str(caches), *tests)


def test_unit_tests(typical: Path) -> None:
    run(typical, "pytest", "-p", "no:cacheprovider", "tests/unit")


def test_service_starts(typical: Path) -> None:
    """Every module that it needs is there."""
    run(typical, "hello_server", "--check", PYTHONPATH="src")


def test_same_answers_give_the_same_bytes(typical: Path, kind: dict[str, str], template: Path, tmp_path: Path) -> None:
    again = bake(template, tmp_path, **kind)
    assert files(again) == files(typical)
    assert modes(again) == modes(typical)


def modes(project: Path) -> dict[str, int]:
    return {str(path.relative_to(project)): path.stat().st_mode for path in project.rglob("*")}


def test_generating_again_over_a_project_changes_nothing(template: Path, tmp_path: Path) -> None:
    project = bake(template, tmp_path)
    before = files(project)
    done = cookiecutter(template, tmp_path, "--no-input", "--overwrite-if-exists")
    assert done.returncode == 0, done.stderr
    assert files(project) == before


# Text that means something to TOML, YAML, Python, a shell, a Dockerfile, a unit or a format string.
AWKWARD = """ "quoted" 'single' \\ %s 100% $HOME `id` # not: [a] <b> & ünï 🎉 """.strip()


@pytest.fixture(scope="session")
def awkward(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    answers = {"project_slug": "z", "package_name": "a1", "port": "1", "registry": "registry.example:5000/team"}
    return bake(template, tmp_path_factory.mktemp("awkward"), description=AWKWARD, author=AWKWARD, **answers)


def test_awkward_text_arrives_unchanged(awkward: Path) -> None:
    project = parse("pyproject.toml", (awkward / "pyproject.toml").read_text())["project"]
    assert project["description"] == AWKWARD
    assert project["authors"] == [{"name": AWKWARD}]
    assert AWKWARD in (awkward / "README.md").read_text()
    assert AWKWARD in (awkward / "LICENSE").read_text()
    for name, content in files(awkward).items():
        parse(name, content.decode())


def test_other_names_are_in_order(awkward: Path, caches: Path) -> None:
    run(awkward, "ruff", "check", "--no-cache")
    run(awkward, "ruff", "format", "--check", "--no-cache")
    run(awkward, "mypy", "--cache-dir", str(caches))
    run(awkward, "pytest", "-p", "no:cacheprovider", "tests/unit")
    assert "image: registry.example:5000/team/z\n" in (awkward / "compose.yaml").read_text()


@pytest.mark.parametrize("protocol", OPTIONS["protocol"])
def test_longest_names_fit(protocol: str, template: Path, tmp_path: Path) -> None:
    project = bake(template, tmp_path, project_slug="slug" * 10, package_name="name" * 10, protocol=protocol)
    run(project, "ruff", "check", "--no-cache")
    run(project, "ruff", "format", "--check", "--no-cache")
