"""A generated service passes its own tests, by its own command, in an image that Docker builds here."""

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import docker
import pytest
from baking import OPTIONS, bake, copy_template, generate
from docker.errors import ImageNotFound, NotFound
from projects import DECIDES, assert_passed, make, make_with_our_tools

BARE = f"python:{DECIDES}-bare"


@pytest.mark.timeout(900)
def test_defaults_pass_lint_and_test_untouched(tmp_path: Path) -> None:
    """What a new user types, in an environment that its Makefile makes; Docker takes the default's Python if it can."""
    project = generate(copy_template(tmp_path / "template"), tmp_path / "here")
    assert_passed(make(project, "lint", "test-unit"), DECIDES)
    assert_passed(make(project, "test"), OPTIONS["python_version"][0])


@pytest.mark.timeout(600)
def test_project_passes_its_own_tests(tmp_path: Path) -> None:
    project = bake(copy_template(tmp_path / "template"), tmp_path / "baked", python_version=DECIDES)
    assert_passed(make_with_our_tools(project, "test"), DECIDES)


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    with contextlib.closing(docker.from_env()) as client:
        yield client


def here(engine: docker.DockerClient, image: str) -> str:
    """The name of a base image that has to be here. CI has it (REQUIRE_TOOLS); elsewhere the test is skipped."""
    try:
        engine.images.get(image)
    except ImageNotFound:
        advice = f"{image} is missing: `python3 ci/base_image.py {image.partition(':')[2]}` makes it"
        pytest.fail(advice) if os.environ.get("REQUIRE_TOOLS") else pytest.skip(advice)
    return image


@pytest.mark.parametrize("variant", ["slim", "bare"])
def test_image_is_small(variant: str, engine: docker.DockerClient, tmp_path: Path) -> None:
    """Less than 2 MiB above its base; tests/template/test_image_parts.py compares the answers."""
    base = here(engine, f"python:{DECIDES}-{variant}")
    project = bake(copy_template(tmp_path / "template"), tmp_path / "baked")
    name = f"servertemplate-small-{uuid4().hex[:12]}"
    try:
        done = make(project, "image", IMAGE=name, PYTHON_IMAGE=base)
        assert done.returncode == 0, done.stdout
        ours, theirs = (engine.images.get(tag).attrs["Size"] for tag in (f"{name}:0.1.0", base))
        print(f"{(ours - theirs) / 1e3:.0f} kB above {base} ({theirs / 1e6:.0f} MB)")
        assert 0 < ours - theirs < 2 * 2**20
        labels = engine.images.get(f"{name}:0.1.0").labels
        assert labels["org.opencontainers.image.version"] == "0.1.0"
    finally:
        for tag in ("0.1.0", "latest"):
            with contextlib.suppress(ImageNotFound):
                engine.images.remove(f"{name}:{tag}")


def test_bare_image_has_no_shell(engine: docker.DockerClient) -> None:
    look = "import glob; print(*glob.glob('/bin/*sh') + glob.glob('/usr/bin/*') + glob.glob('/usr/sbin/*'))"
    said = engine.containers.run(here(engine, BARE), ["python", "-c", look], remove=True)
    assert {Path(path).name for path in said.decode().split()} == {"python3", f"python{DECIDES}"}


def test_context_is_honoured(tmp_path: Path) -> None:
    """Docker Desktop and rootless engines are found by `docker context`, not by a fixed socket."""
    project = bake(copy_template(tmp_path / "template"), tmp_path / "baked")
    metadata = tmp_path / "config/contexts/meta" / hashlib.sha256(b"elsewhere").hexdigest() / "meta.json"
    metadata.parent.mkdir(parents=True)
    endpoint = {"docker": {"Host": f"unix://{tmp_path}/elsewhere.sock", "SkipTLSVerify": False}}
    metadata.write_text(json.dumps({"Name": "elsewhere", "Metadata": {}, "Endpoints": endpoint}))
    (tmp_path / "config/config.json").write_text(json.dumps({"currentContext": "elsewhere"}))
    environment = {name: value for name, value in os.environ.items() if name not in ("DOCKER_HOST", "DOCKER_CONTEXT")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/integration"],
        cwd=project,
        env=environment | {"DOCKER_CONFIG": str(tmp_path / "config")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "these tests need a Docker engine, and none answers" in done.stderr


def test_a_killed_run_is_tidied_up_by_the_next(engine: docker.DockerClient, tmp_path: Path) -> None:
    project = bake(copy_template(tmp_path / "template"), tmp_path / "baked", project_slug=f"tidy-{uuid4().hex[:8]}")
    label = f"{project.name}.test"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    options = {"command": ["python", "-c", "import time; time.sleep(600)"], "detach": True}
    names = [f"{socket.gethostname()}:{pid}:{uuid4().hex[:12]}" for pid in (gone.pid, os.getpid())]
    dead, alive = (
        engine.containers.run(here(engine, BARE), labels={label: name}, **options)  # type: ignore[call-overload]
        for name in names
    )
    try:
        command = [sys.executable, "-m", "pytest", "-q", "tests/integration", "-k", "no_such_test"]
        environment = {name: value for name, value in os.environ.items() if name != "TEST_RUN"}
        environment["PYTHON_IMAGE"] = BARE
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 5, done.stdout + done.stderr  # no tests were run
        left = {container.id for container in engine.containers.list(all=True, filters={"label": label})}
        assert left == {alive.id}
    finally:
        for container in (dead, alive):
            with contextlib.suppress(NotFound):
                container.remove(force=True, v=True)


def test_missing_engine_is_named(tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template")
    project = bake(template, tmp_path / "baked")
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/integration"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "these tests need a Docker engine, and none answers" in done.stderr
