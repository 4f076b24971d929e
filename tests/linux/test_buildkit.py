"""BuildKit, in an engine of Debian's testing release: the same sources give the same image, to the last bit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import buildkit
import pytest
from baking import bake, copy_template

BASE = "python:3.13-bare"
SERVICE = "hello-server"

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("buildkit")]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        advice = "this test needs root and mmdebstrap: it starts a second Docker engine"
        pytest.fail(advice) if os.environ.get("REQUIRE_TOOLS") else pytest.skip(advice)
    with buildkit.engine() as environment:
        buildkit.copy_image(BASE, environment)
        yield environment


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return bake(copy_template(tmp_path / "template"), tmp_path / "baked", python_version="3.13")


def docker(environment: dict[str, str], project: Path, *arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def digest(environment: dict[str, str], project: Path) -> str:
    """Of an image that is made from the beginning, as `make publish` makes it."""
    arguments = ["buildx", "build", "--no-cache", "--quiet", "--provenance=false", "--metadata-file", "metadata.json"]
    for setting in (f"PYTHON_IMAGE={BASE}", "SOURCE_DATE_EPOCH=1700000000", "VERSION=1.2.3"):
        arguments += ["--build-arg", setting]
    docker(environment, project, *arguments, "--output", "type=oci,dest=image.tar,rewrite-timestamp=true", ".")
    (project / "image.tar").unlink()
    return str(json.loads((project / "metadata.json").read_text())["containerimage.digest"])


def test_same_sources_same_digest(environment: dict[str, str], project: Path) -> None:
    """Whenever, by whomever and with whatever umask they were checked out."""
    first = digest(environment, project)
    for path in (project / "src").rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))
        path.chmod(0o700 if path.is_dir() else 0o600)
    assert digest(environment, project) == first
    with (project / "src/hello_server/handlers.py").open("a") as handlers:
        handlers.write("# changed\n")
    assert digest(environment, project) != first


def test_image_works(environment: dict[str, str], project: Path) -> None:
    docker(environment, project, "build", "--quiet", "--build-arg", f"PYTHON_IMAGE={BASE}", "--tag", SERVICE, ".")
    said = docker(
        environment, project, "run", "--rm", "--read-only", "--cap-drop=ALL", "--user=4711:0", SERVICE, "--check"
    )
    assert said == "hello-server: configuration and handlers are good\n"


def test_compose_file_is_read_as_meant(environment: dict[str, str], project: Path) -> None:
    said = docker(environment, project, "compose", "--profile", "dev", "config", "--format", "json")
    services = json.loads(said)["services"]
    assert set(services) == {SERVICE, f"{SERVICE}-dev"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert int(service["mem_limit"]) == 256 * 2**20
        assert service["cpus"] == 1
        assert [port["host_ip"] for port in service["ports"]] == ["127.0.0.1"]
    (mounted,) = services[f"{SERVICE}-dev"]["volumes"]
    assert (mounted["source"], mounted["target"]) == (str(project / "src"), "/app")
    assert "volumes" not in services[SERVICE]
