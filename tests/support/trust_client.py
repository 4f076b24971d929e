"""What the tests of hostile clients and of handlers' results share."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from harness import Answer, Service, Wire
from services import Source, placed
from watched import Watched

Prepare = Callable[..., Watched]
SOON = 5.0  # seconds: generous for what takes milliseconds, and far below every timeout of the service

# The beginning of most handlers.py here.
BEGIN = """
from .probe import gate, tell
from .runtime.http import HTTPError, Request, Response, Router
import os, sys, threading, time

routes = Router()

@routes.get("/")
def index(request):
    return "hello"

@routes.get("/gate")
def held(request):
    gate("gate")
    return "released"

@routes.post("/gate")
def held_with_body(request):
    gate("gate")
    return "released %d" % len(request.body)

@routes.post("/count")
def count(request):
    return str(len(request.body))
"""


@pytest.fixture
def prepare(generated: Source, directories: Path) -> Iterator[Prepare]:
    """Prepare a service that can be watched, of this pool and protocol, with these handlers."""
    made: list[Watched] = []

    def prepare(pool: str, handlers: str, protocol: str = "http") -> Watched:
        service = placed(Watched, generated(pool, protocol), directories)
        made.append(service)
        service.handlers(handlers)
        return service

    yield prepare
    for service in made:
        service.close()


def request(service: Service, data: bytes | str, deadline: float = SOON) -> Answer:
    """The answer to these bytes on a connection of its own. Raises TimeoutError and ConnectionResetError."""
    with Wire(service.address, deadline) as wire:
        return wire.send(data).answer()


def get(service: Service, path: str = "/", deadline: float = SOON, **headers: str) -> Answer:
    """The answer on a connection of its own. Raises TimeoutError and ConnectionResetError."""
    with Wire(service.address, deadline) as wire:
        return wire.get(path, **headers)


def served(service: Service, path: str = "/", times: int = 10, deadline: float = SOON) -> float:
    """The longest wait of so many clients, one after the other, each of which is answered 200."""
    longest = 0.0
    for _ in range(times):
        began = time.monotonic()
        assert get(service, path, deadline).status == 200
        longest = max(longest, time.monotonic() - began)
    return longest


@contextlib.contextmanager
def crowd(service: Service, count: int, data: bytes | str) -> Iterator[list[Wire]]:
    """So many clients that have sent this and wait."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(service.address)) for _ in range(count)]
        for wire in wires:
            wire.send(data)
        yield wires


@contextlib.contextmanager
def parked(service: Service, count: int = 12) -> Iterator[list[Wire]]:
    """Idle keep-alive connections, held by all workers."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(service.address, SOON)) for _ in range(count)]
        for wire in wires:
            assert wire.get("/").status == 200
        yield wires


def lost(wires: list[Wire]) -> int:
    """The number of these idle connections that are no longer served."""
    count = 0
    for wire in wires:
        try:
            count += wire.get("/").status != 200
        except OSError:
            count += 1
    return count


def members(service: Service) -> list[int]:
    """The processes that hold connections, sorted."""
    return sorted(service.workers)


def peak_memory(service: Service) -> int:
    """Bytes: what the largest member has had resident at most. Linux; elsewhere what it has now."""
    found = [0]
    for pid in service.workers:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
            found.append(int(text.partition("VmHWM:")[2].split()[0]) * 1024)
        except (OSError, IndexError):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid).memory_info().rss)
    return max(found)


def drain(sock: socket.socket, deadline: float = SOON) -> tuple[bytes, bool]:
    """All bytes until the end, and whether that end is orderly: a FIN, not a reset. Raises TimeoutError."""
    sock.settimeout(deadline)
    data: list[bytes] = []
    for _ in itertools.repeat(None, 100_000):
        try:
            piece = sock.recv(65536)
        except ConnectionResetError:
            return b"".join(data), False
        if not piece:
            return b"".join(data), True
        data.append(piece)
    raise AssertionError("the stream has no end")
