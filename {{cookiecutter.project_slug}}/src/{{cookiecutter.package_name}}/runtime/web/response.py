"""What handlers return or raise: Response, HTTPError; and what of it can be sent."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from errno import ELOOP, ENAMETOOLONG
from os import PathLike, fspath
from typing import IO, TYPE_CHECKING, Any

from ..http1.parser import Head
from ..http1.reasons import REASONS
from ..log.records import log
from .fields import cookie, disposition, members, reference
from .files import opened, opened_below, type_of, validators

if TYPE_CHECKING:
    from datetime import datetime

HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
OURS = frozenset(("connection", "date", "keep-alive", "server", "trailer", "transfer-encoding", "upgrade"))
LENGTH = re.compile("[0-9]{1,18}")
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
        lower = name.lower()
        if lower in OURS:
            raise ValueError(f"header {name!r} is set by the server, not by a handler")
        if lower == "content-length" and not LENGTH.fullmatch(value):
            raise ValueError(f"header {name!r}: {value!r} is no number of bytes")


def check_length(fields: Iterable[tuple[str, str]], size: int) -> None:
    """Raises ValueError when a body of so many bytes has another Content-Length."""
    for name, value in fields:
        if name.lower() == "content-length" and int(value) != size:
            raise ValueError(f"the body has {size} bytes, but its Content-Length says {value}")


def check_body(body: Any) -> None:
    """Raises TypeError for what cannot be sent as a body."""
    if isinstance(body, Mapping):
        raise TypeError("a response body cannot be a mapping: use Response.json()")
    if not (
        isinstance(body, bytes | str | bytearray | memoryview) or hasattr(body, "__iter__") or hasattr(body, "read")
    ):
        raise TypeError(f"a response body is bytes, text, a file or an iterable of these, not {type(body).__name__}")


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


class Response:
    """An answer. `body` is bytes, text (UTF-8), a file (a binary one is sent by sendfile), or an iterable of bytes or
    text: a generator is run piece by piece, as fast as the client reads, in one thread. If it raises, the client gets
    what was made before, and no valid end. A Content-Length among the headers is checked: a body of another length is
    an error, never sent as if it were whole. `reason` is what the status line says instead of the usual phrase.
    A GET whose fields say that the client has the version of ETag or Last-Modified is answered with 304.
    Raises ValueError or TypeError for what cannot be sent."""

    __slots__ = ("body", "content_type", "headers", "reason", "status")

    def __init__(
        self,
        body: bytes | str | IO[bytes] | Iterable[bytes] = b"",
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        content_type: str = "",
        reason: str = "",
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
            if body and isinstance(body, bytes | str):
                check_length(self.headers, len(body.encode("utf-8", "replace") if isinstance(body, str) else body))
        if content_type and content_type not in USUAL:
            check_fields([("Content-Type", content_type)])
        self.content_type = content_type or (TEXT if isinstance(body, str) else OCTETS)
        if reason and not HEADER_VALUE.fullmatch(reason):
            raise ValueError(f"reason {reason!r} is not a valid reason phrase")
        self.reason = reason

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
        """`value` as JSON. Raises TypeError for what JSON cannot say."""
        try:
            data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:  # a lone surrogate: UTF-8 has none, an escape can say it
            data = json.dumps(value, separators=(",", ":")).encode()
        return cls(data + b"\n", status, headers or {}, "application/json")

    @classmethod
    def file(
        cls, path: str | PathLike[str], content_type: str = "", *, root: str | PathLike[str] = "", filename: str = "",
        inline: bool = False, headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    ) -> "Response":  # fmt: skip
        """A file from disk, with ETag and Last-Modified (unless `headers` has others): a client that has this version
        gets 304, one that asks for ranges of bytes gets those (206, 416). The content type is that of the name.

        `filename` has the client save it under this name, or show it if `inline` (Content-Disposition). With `root`
        the path is looked up below that directory, and what lies outside is not found, through links neither: so it
        may come from a client. Without, never make it of what a client has sent: a parameter of a route may hold "../"
        (sent as ..%2f). Raises HTTPError (404) when there is no such regular file, other OSErrors as they are."""
        path = fspath(path)
        try:
            file = opened_below(fspath(root), path.split("/")) if root else opened(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):  # or a NUL in it
            raise HTTPError(404) from None
        except OSError as error:
            if error.errno in (ENAMETOOLONG, ELOOP):
                raise HTTPError(404) from None
            raise
        own = [*(headers.items() if isinstance(headers, Mapping) else headers), ("Accept-Ranges", "bytes")]
        if filename:
            own.append(("Content-Disposition", disposition(filename, inline)))
        response = cls(file, 200, own, content_type or type_of(filename or path))
        return response.with_fields(validators(file))

    @classmethod
    def redirect(cls, location: str, status: int = 303) -> "Response":
        """Send the client to another URL, absolute or relative. 303: to be read there, after a POST; 307: asked there
        again with the same method and body; 301 and 308: the same two for good, which clients keep. Raises ValueError
        for another status. A location that a client has named may lead anywhere: check it."""
        if status not in (301, 302, 303, 307, 308):
            raise ValueError(f"a redirect has status 301, 302, 303, 307 or 308, not {status!r}")
        return cls(b"", status, [("Location", reference(location))], TEXT)

    def set_cookie(
        self, name: str, value: str = "", *, max_age: int | None = None, expires: "datetime | float | None" = None,
        domain: str = "", path: str = "/", secure: bool = False, httponly: bool = True, samesite: str = "Lax",
        partitioned: bool = False,
    ) -> None:  # fmt: skip
        """Set a cookie: for the browser's session, or `max_age` seconds, or until `expires` (a datetime, or Unix time).
        By default scripts do not see it (`httponly`) and other sites' forms do not send it (`samesite`); give
        `secure=True` wherever clients come by TLS. Raises ValueError for a cookie that browsers would ignore."""
        field = cookie(name, value, max_age, expires, domain, path, secure, httponly, samesite, partitioned)
        self.headers.append(("Set-Cookie", field))

    def delete_cookie(self, name: str, *, domain: str = "", path: str = "/", secure: bool = False) -> None:
        """Have the browser forget a cookie; domain, path and, for a name that asks for it, `secure` as it was set."""
        self.set_cookie(name, max_age=0, expires=0, domain=domain, path=path, secure=secure)

    def with_fields(self, fields: Iterable[tuple[str, str]]) -> "Response":
        """The same with these fields, but for those that it has already."""
        own = {name.lower() for name, _ in self.headers}
        more = [one for one in fields if one[0].lower() not in own]
        made = object.__new__(Response)  # what is checked already
        made.body, made.status, made.content_type = self.body, self.status, self.content_type
        made.reason = self.reason
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
    for kind, weight in members(accept):
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


def failure(head: Head, peer: Any) -> Response:
    """The answer to a bug, while its exception is handled: the traceback for the log, its id for both sides, and
    nothing else for the client."""
    mark = os.urandom(8).hex()
    log.exception("%s %s from %s failed, error id %s", head.method, head.path, shown(peer), mark)
    return error_page(500, f"error id {mark}", head.get("accept", ""))


def shown(peer: Any) -> str:
    """A client's address for the log."""
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "a local client"
