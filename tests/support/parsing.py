"""Drive the parser as the event loop of the runtime does, and write down what came of it.

The parser is loaded straight from the template: it is plain Python, needs no rendering and imports nothing of ours.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "{{cookiecutter.project_slug}}" / "src" / "{{cookiecutter.package_name}}" / "runtime" / "http1"


def _load() -> Any:
    """The names of the modules of http1/, in one namespace."""
    names: dict[str, Any] = {}
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the template's tree stays clean
    try:
        for name in ("__init__", "parser", "chunked"):
            package = "http1_of_the_template"
            spec = importlib.util.spec_from_file_location(
                package if name == "__init__" else f"{package}.{name}",
                SOURCE / f"{name}.py",
                submodule_search_locations=[str(SOURCE)] if name == "__init__" else None,
            )
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            names.update(vars(module))
    finally:
        sys.dont_write_bytecode = keep
    return SimpleNamespace(**names)


http1 = _load()
LIMITS = http1.Limits()
FOLLOW_UP = b"GET /follow-up HTTP/1.1\r\nHost: a\r\n\r\n"


class Request(NamedTuple):
    """A request that a handler would have been given: complete, its body decoded."""

    method: str
    target: str
    minor: int
    host: str
    keep_alive: bool
    expect: bool
    fields: tuple[tuple[str, str], ...]
    body: bytes
    trailers: tuple[tuple[str, str], ...]


class Outcome(NamedTuple):
    """What a stream of bytes came to."""

    requests: tuple[Request, ...]
    status: int | None  # of the error that ended it
    state: str  # "idle": between requests, "head" or "body": in the middle of one, "closed"

    @property
    def targets(self) -> list[str]:
        return [request.target for request in self.requests]


class Engine:
    """One connection: bytes in, requests out, until an error or a request that closes it."""

    def __init__(self, limits: Any = LIMITS) -> None:
        self.limits = limits
        self.requests: list[Request] = []
        self.status: int | None = None
        self.reason = ""
        self.closed = False
        self._buffer = bytearray()
        self._seen = 0
        self._head: Any = None
        self._body = b""
        self._decoder: Any = None

    def feed(self, data: bytes) -> None:
        if self.closed:
            return  # no process reads any more
        self._buffer += data
        try:
            while not self.closed and self._step():
                pass
        except http1.ProtocolError as error:
            self.status, self.reason = error.status, error.reason
            self.closed = True

    def _step(self) -> bool:
        """Take one thing from the buffer; False if it holds no complete one."""
        if self._head is None:
            found = http1.parse_head(self._buffer, self.limits, 0, self._seen)
            if found is None:
                self._seen = len(self._buffer)
                return False
            self._head, end = found
            del self._buffer[:end]
            self._seen = 0
            self._body = b""
            self._decoder = http1.Chunked(self.limits) if self._head.length == http1.CHUNKED else None
            return True
        if self._decoder is not None:
            payload, rest = self._decoder.feed(bytes(self._buffer))
            self._body += payload
            self._buffer[:] = rest
            if not self._decoder.done:
                assert not rest
                return False
        elif len(self._buffer) < self._head.length:
            return False
        else:
            self._body = bytes(self._buffer[: self._head.length])
            del self._buffer[: self._head.length]
        self._finish()
        return True

    def _finish(self) -> None:
        head = self._head
        self.requests.append(
            Request(
                head.method,
                head.target,
                head.minor,
                head.host,
                head.keep_alive,
                head.expect,
                tuple(head.fields()),
                self._body,
                tuple(self._decoder.trailers) if self._decoder is not None else (),
            )
        )
        self._head = self._decoder = None
        self.closed = not head.keep_alive

    def outcome(self) -> Outcome:
        if self.closed:
            state = "closed"
        elif self._head is not None:
            state = "body"
        else:
            state = "head" if self._buffer else "idle"
        return Outcome(tuple(self.requests), self.status, state)


def run(pieces: bytes | Iterable[bytes], limits: Any = LIMITS) -> Outcome:
    """Feed a whole connection, in one piece or in the given ones."""
    engine = Engine(limits)
    for piece in [pieces] if isinstance(pieces, bytes) else pieces:
        engine.feed(piece)
    return engine.outcome()


def single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The pieces of data between these places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]
