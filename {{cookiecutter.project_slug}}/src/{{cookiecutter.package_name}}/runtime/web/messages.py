"""What handlers see of HTTP: Request and Response."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, Protocol

from ..http1.parser import Head, separator
from ..http1.reasons import REASONS
from .routes import unescape
from .trace_context import Trace


class HTTPError(Exception):
    """Raise it in a handler to answer with an error page of this status: `raise HTTPError(404, "no such order")`.
    Raises ValueError or TypeError itself for a status or a field that cannot be sent."""

    def __init__(self, status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> None:
        check_status(status)
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        check_fields(self.headers.items())


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


WEIGHT = re.compile(r"[01](?:\.[0-9]{0,3})?")


class Response:
    """An answer. `body` is bytes, text (UTF-8), a file (a binary one is sent by sendfile), or an iterable of bytes or
    text: a generator is run piece by piece, as fast as the client reads, in one thread. If it raises, the client gets
    what was made before, and no valid end. Raises ValueError or TypeError for what cannot be sent."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: bytes | str | IO[bytes] | Iterable[bytes] = b"",
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        content_type: str = "",
    ) -> None:
        if type(body) is not bytes:
            check_body(body)
        if type(status) is not int or status != 200:
            check_status(status)
        self.body = body
        self.status = status
        self.headers = list(headers.items() if isinstance(headers, Mapping) else headers)
        if self.headers:
            check_fields(self.headers)
        if content_type and content_type not in USUAL:
            check_fields([("Content-Type", content_type)])
        self.content_type = content_type or (TEXT if isinstance(body, str) else OCTETS)

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
        """`value` as JSON. Raises TypeError for what JSON cannot say."""
        try:
            data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:  # a lone surrogate: UTF-8 has none, an escape can say it
            data = json.dumps(value, separators=(",", ":")).encode()
        return cls(data + b"\n", status, headers or {}, "application/json")

    @classmethod
    def file(cls, path: str, content_type: str = "application/octet-stream") -> "Response":
        """A file from disk. Raises OSError when it cannot be opened. There is no base directory: a parameter of a route
        may hold "../" (sent as ..%2f), so never make `path` of what a client has sent without a check."""
        return cls(open(path, "rb"), content_type=content_type)  # the connection closes it

    def with_fields(self, fields: Iterable[tuple[str, str]]) -> "Response":
        """The same with these fields, but for those that it has already."""
        own = {name.lower() for name, _ in self.headers}
        more = [one for one in fields if one[0].lower() not in own]
        made = object.__new__(Response)  # what is checked already
        made.body, made.status, made.content_type = self.body, self.status, self.content_type
        made.headers = [*self.headers, *more]
        return made

    @classmethod
    def of(cls, result: Any) -> "Response":
        """What a handler returned, as a Response: bytes, str, dict or list (JSON), None (204). Raises TypeError."""
        if isinstance(result, Response):
            return result
        if result is None:
            return cls(status=204)
        if isinstance(result, bytes | str):
            return cls(result)
        if isinstance(result, dict | list):
            return cls.json(result)
        raise TypeError(
            f"a handler must return a Response, bytes, str, dict, list or None, not {type(result).__name__}"
        )


def prefers_json(accept: str) -> bool:
    """Does Accept (RFC 9110 12.5.1) ask for JSON rather than for text? First by weight, then by order."""
    best, json_wins = 0.0, False
    for member in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in member.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                weight = float(parameter[2:]) if WEIGHT.fullmatch(parameter[2:]) else 0.0
        if weight > best and (kind.startswith("text/") or kind.endswith(("/json", "+json"))):
            best, json_wins = weight, not kind.startswith("text/")
    return json_wins


def error_page(status: int, detail: str, accept: str, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """An error for people or for programs, as they ask for it: JSON (RFC 9457) when Accept prefers it, else text."""
    title = REASONS.get(status, "Unknown")
    headers = [*headers, ("Vary", "Accept")]
    if prefers_json(accept):
        problem = {"title": title, "status": status, **({"detail": str(detail)} if detail else {})}
        return Response(json.dumps(problem).encode() + b"\n", status, headers, "application/problem+json")
    text = f"{status} {title}" + (f": {detail}" if detail else "")
    return Response(text.encode("utf-8", "replace") + b"\n", status, headers, "text/plain; charset=utf-8")


# ---- what a response may say ----------------------------------------------------------------------------------------
HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
OURS = frozenset(
    ("connection", "content-length", "date", "keep-alive", "server", "trailer", "transfer-encoding", "upgrade")
)
TEXT, OCTETS = "text/plain; charset=utf-8", "application/octet-stream"
USUAL = frozenset((TEXT, OCTETS, "application/json", "application/problem+json", "text/html; charset=utf-8"))
BODILESS = frozenset((204, 205, 304))  # RFC 9110 15.3.5, 15.3.6, 15.4.5


def check_status(status: Any) -> None:
    """Raises TypeError or ValueError for what is no final status (RFC 9110 15)."""
    if not isinstance(status, int):
        raise TypeError(f"a status is a number, not {status!r}")
    if not 200 <= status <= 599:
        raise ValueError(f"not a final status (200 to 599): {status!r}")


def check_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Raises ValueError or TypeError for a field that would inject another (RFC 9112 11.1), or cannot be sent."""
    for name, value in fields:
        if not (isinstance(name, str) and isinstance(value, str)):
            raise TypeError(f"header {name!r}: {value!r} is not made of texts")
        if HEADER_NAME.fullmatch(name) is None or HEADER_VALUE.fullmatch(value) is None:
            raise ValueError(f"header {name!r}: {value!r} is not a valid field")
        if name.lower() in OURS:
            raise ValueError(f"header {name!r} is set by the server, not by a handler")


def check_body(body: Any) -> None:
    """Raises TypeError for what cannot be sent as a body."""
    if isinstance(body, Mapping):
        raise TypeError("a response body cannot be a mapping: use Response.json()")
    if not (
        isinstance(body, bytes | str | bytearray | memoryview) or hasattr(body, "__iter__") or hasattr(body, "read")
    ):
        raise TypeError(f"a response body is bytes, text, a file or an iterable of these, not {type(body).__name__}")
