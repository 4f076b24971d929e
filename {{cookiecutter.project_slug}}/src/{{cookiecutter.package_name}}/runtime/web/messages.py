"""What handlers see of a request."""

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from ..http1.parser import Head, separator
from .conditional import precondition
from .fields import date_of, unescape
from .forms import Form, Limits, read_form
from .response import HTTPError
from .trace_context import Trace


class DisconnectedError(ConnectionError):
    """The client has left while its handler was reading the body. No response can reach it."""


class Peer(Protocol):
    """The connection of a request."""

    peer: Any


class Given:
    """A connection that is none."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer


class BodyFile(io.RawIOBase):
    """A body as a file that cannot be sought in."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.take = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)


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
    """One request. `method`, `params` and `worker` are plain attributes; the rest is made when asked for."""

    __slots__ = (
        "_body", "_connection", "_form", "_query", "_route", "_source", "_trace", "head", "method", "params",
        "worker",
    )  # fmt: skip

    def __init__(
        self, head: Head, body: bytes | None, source: BodySource | None, peer: Any, worker: Any,
        params: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.head = head
        self.method = head.method
        self.params = {} if params is None else params  # of the route: texts, or what its kind says
        self._connection: Peer = Given(peer)
        self.worker = worker  # the object that worker_init got: a place for what lives as long as the worker
        self._body = body
        self._source = source
        self._route: Any = None  # that its handler belongs to
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
    def peer(self) -> Any:
        """The client's (address, port), "" on a UNIX socket."""
        return self._connection.peer

    @property
    def client(self) -> str:
        """The client's address, "" on a UNIX socket: of what has connected, which may be a proxy."""
        peer = self.peer
        return str(peer[0]) if isinstance(peer, tuple) else ""

    @property
    def local(self) -> Any:
        """The (address, port) that the client has connected to, on a UNIX socket its path; "" once it has left."""
        sock = getattr(self._connection, "sock", None)
        try:
            return "" if sock is None else sock.getsockname()
        except OSError:
            return ""

    @property
    def draining(self) -> bool:
        """Whether the service stops, or a reload replaces it, and waits for this response: for generators that would go
        on as long as their clients do."""
        return bool(self.worker.draining)

    @property
    def target(self) -> str:
        """The request target exactly as sent."""
        return self.head.target

    @property
    def path(self) -> str:
        """The path, percent-decoded once."""
        return unescape(self.head.path)

    @property
    def raw_path(self) -> str:
        """The path as sent, percent-encoded."""
        return self.head.path

    @property
    def raw_query(self) -> str:
        """The query as sent, without its question mark."""
        return self.head.query

    @property
    def scheme(self) -> str:
        """How the client has asked: http, or what an absolute target says."""
        return "https" if self.head.target[:8].lower() == "https://" else "http"

    @property
    def url(self) -> str:
        """The whole URL that was asked for, as sent."""
        query = self.head.query
        return f"{self.scheme}://{self.head.host}{self.head.path}{query and '?' + query}"

    @property
    def http_version(self) -> str:
        """1.1 or 1.0."""
        return f"1.{self.head.minor}"

    @property
    def content_type(self) -> str:
        """The media type of the body in lower case, without parameters; "" when the client names none."""
        return (self.head.get("content-type") or "").partition(";")[0].strip(" \t").lower()

    @property
    def cookies(self) -> dict[str, str]:
        """Cookies by name, as sent (RFC 6265 5.4); of several with one name the first, which has the longest path."""
        found: dict[str, str] = {}
        for pair in (self.head.get("cookie") or "").split(";"):
            name, equals, value = pair.strip(" \t").partition("=")
            if equals and name not in found:
                found[name] = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
        return found

    @property
    def host(self) -> str:
        """Host and port that the client asked for, "" if it named none."""
        return self.head.host

    @property
    def headers(self) -> Headers:
        """The fields, by name in any case."""
        return Headers(self.head)

    @property
    def query(self) -> dict[str, str]:
        """Query parameters, decoded; of several with one name the last (see `query_list`)."""
        try:
            return self._query
        except AttributeError:
            self._query: dict[str, str] = dict(self.query_list)
            return self._query

    @property
    def query_list(self) -> list[tuple[str, str]]:
        """All query parameters in order, decoded; those without a value included (WHATWG URL, urlencoded)."""
        pairs = [part.partition("=") for part in self.head.query.split("&") if part]
        return [(unescape(name.replace("+", " ")), unescape(value.replace("+", " "))) for name, _, value in pairs]

    def read(self, size: int = 65536) -> bytes:
        """The next piece of the body, at most `size` bytes (all of it if negative), b"" at its end.

        The body is there before the handler starts, unless its route streams (see Router): then this waits for the
        client, and raises HTTPError: 408 when it is too slow (--body-timeout), 413 when it sends too much (--max-body),
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
        """The whole body (what `read` has not taken yet), in memory. Waits and raises as `read` does."""
        if self._body is None:
            pieces = []
            while piece := self.read(2**30):  # of a body in a file all, without a second copy
                pieces.append(piece)
            self._body = b"".join(pieces)
        return self._body

    @property
    def stream(self) -> io.BufferedReader:
        """The body as a file, for what reads one. Raises as `read` does."""
        return io.BufferedReader(BodyFile(self.read))

    def form(self, *, parts: int = 1000, fields: int = 2**20, file: int = 0) -> Form:
        """The body as a form, urlencoded or multipart: fields by name, and `files`. Files are read as they come; large
        ones are on disk until the request ends. Raises HTTPError: 415 when the body is no form, 400 when it is
        malformed, 413 when there are more than so many `parts`, bytes of `fields` together, or bytes of a `file` (0: as
        many as --max-body allows)."""
        try:
            return self._form
        except AttributeError:
            limits = Limits(parts, fields, file)
            self._form: Form = read_form(self.head.get("content-type") or "", self.read, limits)
            return self._form

    def check(self, etag: str = "", modified: float | None = None, *, exists: bool = True) -> None:
        """Before something is changed: whether the client's If-Match, If-None-Match and their kin allow it, given the
        version that there is: its entity tag as in the field (`'"7"'`), and Unix time. Raises HTTPError: 412 when they
        do not; of a GET or HEAD 304 when the client has this version."""
        if not exists:
            if self.head.get("if-match") is not None:
                raise HTTPError(412)
            return
        since = "" if modified is None else date_of(modified)
        status = precondition(self.method, self.head.get, etag, since, time.time())
        if status:
            raise HTTPError(status, "", {"ETag": etag} if etag and status == 304 else None)

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
