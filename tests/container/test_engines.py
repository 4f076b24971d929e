"""Other engines than Docker's, engines elsewhere, and engines that are still starting."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from baking import bake, copy_template
from projects import DECIDES
from trust_process import NIGHTLY

SOCKET = Path("/var/run/docker.sock")
BASE = f"python:{DECIDES}-slim"
ADDRESS = """
import sys
sys.path.insert(0, "tests/integration")
import conftest

class Container:
    attrs = {"NetworkSettings": {"Networks": {"bridge": {"IPAddress": "172.17.0.9"}}}}
    ports = {conftest.PORT: [{"HostPort": "32768"}]}
    reload = staticmethod(lambda: None)

class Engine:
    class api:
        base_url = "http+docker://localhost"

conftest.INSIDE = sys.argv[1] == "inside"
print("%s:%d" % conftest.Service(Container, Engine).address)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return bake(copy_template(tmp_path / "template"), tmp_path / "baked", python_version=DECIDES)


@pytest.mark.parametrize(
    ("where", "surroundings", "address"),
    [
        ("here", {}, "127.0.0.1:32768"),
        ("inside", {}, "172.17.0.9:1966"),
        ("inside", {"TEST_HOST": "host.example"}, "host.example:32768"),
        ("here", {"DOCKER_HOST": "tcp://docker:2375"}, "docker:32768"),
        ("inside", {"DOCKER_HOST": "tcp://docker:2375"}, "docker:32768"),
        ("here", {"DOCKER_HOST": "ssh://me@far.example:22"}, "far.example:32768"),
        ("here", {"DOCKER_HOST": "unix:///run/user/1000/docker.sock"}, "127.0.0.1:32768"),
    ],
)
def test_where_the_port_is(where: str, surroundings: dict[str, str], address: str, project: Path) -> None:
    ours = {name: value for name, value in os.environ.items() if name not in ("DOCKER_HOST", "TEST_HOST")}
    command = [sys.executable, "-c", ADDRESS, where]
    done = subprocess.run(command, cwd=project, env=ours | surroundings, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{address}\n", done.stderr


def test_an_engine_that_is_starting_is_waited_for(project: Path, tmp_path: Path) -> None:
    address = tmp_path / "docker.sock"
    hangs_up = socket.socket(socket.AF_UNIX)
    hangs_up.bind(str(address))
    hangs_up.listen()

    def start() -> None:
        """The engine is there as soon as it was asked once in vain."""
        hangs_up.accept()[0].close()
        address.unlink()
        address.symlink_to(SOCKET)
        hangs_up.close()

    thread = threading.Thread(target=start)
    thread.start()
    command = [sys.executable, "-m", "pytest", "-q", "tests/integration", "-k", "no_such_test"]
    surroundings = {"DOCKER_HOST": f"unix://{address}", "PYTHON_IMAGE": BASE}
    done = subprocess.run(command, cwd=project, env=os.environ | surroundings, capture_output=True, text=True)
    thread.join()
    assert done.returncode == 5, done.stdout + done.stderr  # no tests were run


def test_podman_keeps_the_health_check(project: Path) -> None:
    done = subprocess.run(
        ["make", "-n", "image", "test-integration", "-o", ".venv/installed", "DOCKER=true/podman --remote"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    built = next(line for line in done.stdout.splitlines() if " build " in line)
    assert built.startswith("true/podman --remote build --format docker ")
    assert "DOCKER_HOST=${DOCKER_HOST:-unix://" in done.stdout


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[str]:
    """Its socket. Where limits cannot be raised, containers get those that there are."""
    program = shutil.which("podman") or pytest.skip("podman is not installed")
    settings = tmp_path / "containers.conf"
    settings.write_text('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=8192:8192"]\n')
    address = f"unix://{tmp_path}/podman.sock"
    surroundings = os.environ | {"CONTAINERS_CONF": str(settings)}
    command = [program, "system", "service", "--time=0", address]
    with subprocess.Popen(command, cwd=tmp_path, env=surroundings) as service:  # conmon leaves a file where it runs
        try:
            save = subprocess.Popen(["docker", "save", BASE], stdout=subprocess.PIPE)
            subprocess.run([program, "load", "--quiet"], stdin=save.stdout, check=True)
            assert save.wait() == 0
            yield address
        finally:
            service.terminate()


@NIGHTLY
@pytest.mark.timeout(900)
def test_a_project_passes_with_podman(podman: str, project: Path) -> None:
    base = f"localhost/{BASE}"
    (project / ".venv").symlink_to(sys.prefix)
    surroundings = os.environ | {"DOCKER_HOST": podman, "PYTHON_IMAGE": base}
    for targets in (["image"], ["test-integration", "-o", ".venv/installed"]):
        command = ["make", *targets, "DOCKER=podman", f"PYTHON_IMAGE={base}"]
        done = subprocess.run(command, cwd=project, env=surroundings, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    command = ["podman", "image", "inspect", "hello-server:0.1.0", "--format", "{{.HealthCheck}}"]
    assert "ctl health" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
