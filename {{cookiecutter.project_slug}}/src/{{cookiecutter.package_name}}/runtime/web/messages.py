"""What handlers see of a request."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from ..http1.parser import Head, separator
from .fields import unescape
from .response import HTTPError
from .trace_context import Trace


class DisconnectedError(ConnectionError):
    """The client has left while its handler was reading the body. No response can reach it."""


class BodySource(Protocol):
    """Where a request's body comes from when it was not complete as the handler started."""

    trailers: list[tuple[str, str]]

    def read(self, size: int) -> bytes: ...


class Headers(Mapping[str, str]):
    """The request's fields by name, in any case; several lines of one name are joined by ", " (RFC 9110 5.3), of
    Cookie by "; " (RFC 9113 8.2.3)."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._all: dict[str, str] | None = None

    def __getitem__(self, name: str) -> str:
        value = self._head.get(name)  # one search: no mapping is built for a field or two
        if value is None:
            raise KeyError(name)
        return value

    def _names(self) -> dict[str, str]:
        if self._all is None:
            self._all = {}
            for name, value in self._head.fields():
                self._all[name] = f"{self._all[name]}{separator(name)}{value}" if name in self._all else value
        return self._all

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())


class Request:
    """One request. `method`, `params`, `peer` and `worker` are plain attributes; the rest is made
    when asked for."""

    __slots__ = ("_body", "_headers", "_query", "_source", "_trace", "head", "method", "params", "peer", "worker")

    def __init__(
        self, head: Head, body: bytes | None, source: BodySource | None, peer: Any, worker: Any,
        params: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.head = head
        self.method = head.method
        self.params = {} if params is None else params  # of the route
        self.peer = peer  # (address, port), or "" on a UNIX socket
        self.worker = worker  # the object that worker_init got: a place for what lives as long as the worker
        self._body = body
        self._source = source
        self._headers: Headers | None = None
        self._query: dict[str, str] | None = None
        self._trace: Trace | None = None

    @property
    def trace(self) -> Trace:
        """The ids of this request: the client's, if it sent valid ones, else made now. They are in the answer, and on
        every line that the handler logs."""
        if self._trace is None:
            self._trace = Trace([])
        return self._trace

    @property
    def id(self) -> str:
        """The request id (X-Request-ID)."""
        return self.trace.request_id

    @property
    def traceparent(self) -> str:
        """The W3C trace context to send on to the services that the handler asks."""
        return self.trace.traceparent

    @property
    def target(self) -> str:
        """The request target exactly as sent."""
        return self.head.target

    @property
    def path(self) -> str:
        """The path, percent-decoded once."""
        return unescape(self.head.path)

    @property
    def host(self) -> str:
        """Host and port that the client asked for, "" if it named none."""
        return self.head.host

    @property
    def headers(self) -> Headers:
        """The fields, by name in any case."""
        if self._headers is None:
            self._headers = Headers(self.head)
        return self._headers

    @property
    def query(self) -> dict[str, str]:
        """Query parameters, decoded; of several with one name the last (see `query_list`)."""
        if self._query is None:
            self._query = dict(self.query_list)
        return self._query

    @property
    def query_list(self) -> list[tuple[str, str]]:
        """All query parameters in order, decoded; those without a value included (WHATWG URL, urlencoded)."""
        pairs = [part.partition("=") for part in self.head.query.split("&") if part]
        return [(unescape(name.replace("+", " ")), unescape(value.replace("+", " "))) for name, _, value in pairs]

    def read(self, size: int = 65536) -> bytes:
        """The next piece of the body, at most `size` bytes (all of it if negative), b"" at its end. Waits for the
        client if it must.

        Raises HTTPError: 408 when the client is too slow (--body-timeout), 413 when it sends too much (--max-body),
        400 when a chunk is malformed; and DisconnectedError. A handler need not handle them.
        """
        if size < 0:
            piece, self._body = self.body, b""
            return piece
        if self._body is not None:
            piece, self._body = self._body[:size], self._body[size:]
            return piece
        return self._source.read(size) if self._source is not None else b""

    @property
    def body(self) -> bytes:
        """The whole body (what `read` has not taken yet). Waits for the client if it must; raises as `read` does."""
        if self._body is None:
            pieces = []
            while piece := self.read():
                pieces.append(piece)
            self._body = b"".join(pieces)
        return self._body

    @property
    def trailers(self) -> list[tuple[str, str]]:
        """Fields after a chunked body (RFC 9110 6.5), once it has been read."""
        return self._source.trailers if self._source is not None else []

    def text(self, encoding: str = "utf-8") -> str:
        """The body as text. Raises HTTPError (400) when it is not in that encoding."""
        try:
            return self.body.decode(encoding)
        except UnicodeDecodeError as error:
            raise HTTPError(400, f"the body is not {encoding}: {error.reason}") from None

    def json(self) -> Any:
        """The body as JSON. Raises HTTPError (400) when it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise HTTPError(400, f"the body is not JSON: {error}") from None
