"""Fixtures of the load tests: the service is driven by tests/runtime/harness.py, the load made by ci/load/client.py."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from baking import OPTIONS, bake, copy_template

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / part) for part in ("tests/runtime", "tests/load", "ci/load")]

from harness import HANDLERS, PYTHON  # noqa: E402
from loaded import Loaded  # noqa: E402

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
def source(directories: Path) -> Callable[[str], Path]:
    """The source directory of a project with this pool, baked once."""
    template = copy_template(directories / "template")

    @functools.cache
    def find(pool: str) -> Path:
        source = bake(template, directories / pool, pool=pool) / "src"
        subprocess.run([PYTHON, "-m", "compileall", "-q", source], check=True, timeout=120)
        return source

    return find


def served(source: Path, directories: Path) -> Iterator[Loaded]:
    directory = Path(tempfile.mkdtemp(dir=directories))
    directory.chmod(0o755)
    service = Loaded(source, directory)
    service.handlers(HANDLERS + MORE)
    yield service
    service.close()


@pytest.fixture(params=OPTIONS["pool"])
def service(request: pytest.FixtureRequest, source: Callable[[str], Path], directories: Path) -> Iterator[Loaded]:
    """Each pool in turn."""
    yield from served(source(request.param), directories)


@pytest.fixture
def prefork(source: Callable[[str], Path], directories: Path) -> Iterator[Loaded]:
    """For what is about a process that is busy in one handler: a host never is."""
    yield from served(source("prefork"), directories)
