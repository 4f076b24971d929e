"""Fixtures of the load tests: the service is driven by tests/runtime/harness.py, the load made by ci/load/client.py."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from baking import bake, copy_template

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tests" / "runtime"), str(REPOSITORY / "ci" / "load")]

from harness import HANDLERS, PYTHON, Service, eventually  # noqa: E402

MORE = """
import resource, time

@routes.get("/n/{number}")
def number(request):
    return f"{request.params['number']} {os.getpid()}"

@routes.get("/sleep/{seconds}/{number}")
def sleep(request):
    time.sleep(float(request.params["seconds"]))
    return f"{request.params['number']} {os.getpid()}"

@routes.get("/told/{kind}/{seconds}")
def told(request):
    tell("slow", worker=os.getpid())
    end = time.monotonic() + float(request.params["seconds"])
    if request.params["kind"] == "asleep":
        time.sleep(end - time.monotonic())
    while time.monotonic() < end:
        pass
    return f"{os.getpid()}"

@routes.get("/full")
def full(request):
    # From now on this worker has no free descriptor.
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return ""

@routes.get("/enough")
def enough(request):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1024), hard))
    return ""

@routes.get("/stream")
def stream(request):
    return Response(iter([b"a", b"b"]))

@routes.get("/big")
def big(request):
    return b"x" * 20_000_000

@routes.post("/size")
def size(request):
    return f"{len(request.body)}"
"""


def all_up(service: Service, workers: int) -> set[int]:
    """Wait until all workers are up: the service is ready as soon as one is. When they are, and hold no connection,
    they have the same number of descriptors; returns it."""
    service.wait_workers(workers)

    def same() -> set[int] | None:
        counts = [service.descriptors(pid) for pid in service.workers]
        return set(counts) if len(counts) == workers and len(set(counts)) == 1 and counts[0] > 10 else None

    return eventually(same, "as many descriptors in each worker") or set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(60))


@pytest.fixture(scope="session")
def directories() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="load-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def source(directories: Path) -> Path:
    source = bake(copy_template(directories / "template"), directories / "project") / "src"
    subprocess.run([PYTHON, "-m", "compileall", "-q", source], check=True, timeout=120)
    return source


@pytest.fixture
def up(service: Service) -> Callable[[int], set[int]]:
    return lambda workers: all_up(service, workers)


@pytest.fixture
def service(source: Path, directories: Path) -> Iterator[Service]:
    directory = Path(tempfile.mkdtemp(dir=directories))
    directory.chmod(0o755)
    service = Service(source, directory)
    service.handlers(HANDLERS + MORE)
    yield service
    service.close()
