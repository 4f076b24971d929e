"""Fixtures of the load tests: the service is driven by harness.py, the load made by ci/load/client.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import HANDLERS
from loaded import Loaded
from services import Source, directories, generated, make, placed, pool

__all__ = ["directories", "generated", "make", "pool"]

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

@routes.get("/pieces")
def pieces(request):
    return Response(bytes(2**19) for _ in range(24))

@routes.get("/big")
def big(request):
    return b"x" * 20_000_000

@routes.post("/size")
def size(request):
    return f"{len(request.body)}"
"""


def served(source: Path, directories: Path) -> Iterator[Loaded]:
    service = placed(Loaded, source, directories)
    service.handlers(HANDLERS + MORE)
    yield service
    service.close()


@pytest.fixture
def service(pool: str, generated: Source, directories: Path) -> Iterator[Loaded]:
    """Each pool in turn."""
    yield from served(generated(pool, "http"), directories)


@pytest.fixture
def prefork(generated: Source, directories: Path) -> Iterator[Loaded]:
    """For what is about a process that is busy in one handler: a host never is."""
    yield from served(generated("prefork", "http"), directories)
