"""Functions that see every request and every answer: `before`, `after`, `error`.

A router's hooks and those of a route are put around its handlers when the service starts, so a handler without any is
called as if there were none.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ..pool.worker import WorkerFailed
from .fields import preferred
from .messages import DisconnectedError, Request
from .response import BODILESS, HTTPError, Response, error_page, failure

Result = Response | bytes | str | dict[str, Any] | list[Any] | None  # what handlers return: see Response.of
Before = Callable[[Request], Result]  # None: go on
After = Callable[[Request, Response], Response | None]  # None: the same response, changed or not
OnError = Callable[[Request, Any], Result]  # the exception is of the kind that it is for
Handler = Callable[[Request], Result]
BeforeT = TypeVar("BeforeT", bound=Before)
AfterT = TypeVar("AfterT", bound=After)
HandlerT = TypeVar("HandlerT", bound=Handler)
OnErrorT = TypeVar("OnErrorT", bound=Callable[[Request, Any], Result])
TEXTS = re.compile(r"text/|application/(?:javascript|json|xml|wasm|manifest\+json)|[^;]+\+(?:json|xml)|font/[ot]tf")
VARY = ("Vary", "Accept-Encoding")


class Hooks:
    """Of one router, or of one route."""

    def __init__(self, before: Iterable[Before] = (), after: Iterable[After] = ()) -> None:
        self.before = list(before)
        self.after = list(after)
        self.errors: dict[int | type[BaseException], OnError] = {}

    def __bool__(self) -> bool:
        return bool(self.before or self.after or self.errors)

    def on_error(self, status: int, error: BaseException) -> OnError | None:
        """What handles an error: by its status, or by its class, the nearest first."""
        found = self.errors.get(status) if status else None
        return found or next((self.errors[kind] for kind in type(error).__mro__ if kind in self.errors), None)


Layers = tuple[Hooks, ...]  # the outermost first


def wrapped(handler: Handler, layers: Layers) -> Handler:
    """A handler with the hooks of all layers around it; the same one without any."""
    layers = tuple(one for one in layers if one)
    if not layers:
        return handler
    before = [hook for hooks in layers for hook in hooks.before]
    after = [hook for hooks in reversed(layers) for hook in reversed(hooks.after)]

    def run(request: Request) -> Response:
        try:
            result = first(before, request)
            response = Response.of(handler(request) if result is None else result)
        except (WorkerFailed, SystemExit, DisconnectedError):  # there is no answer, or it is the runtime's
            raise
        except BaseException as error:
            response = recovered(request, error, layers)
        for hook in after:
            try:
                response = Response.of(hook(request, response) or response)
            except (WorkerFailed, SystemExit):
                raise
            except BaseException:
                response = failure(request.head, request.peer)
        return response

    return run


def first(hooks: list[Before], request: Request) -> Result:
    """The first answer that one of them gives."""
    for hook in hooks:
        result = hook(request)
        if result is not None:
            return result
    return None


def recovered(request: Request, error: BaseException, layers: Layers) -> Response:
    """The answer to what a handler has raised: that of the innermost layer which handles it, or an error page."""
    accept = request.head.get("accept", "")
    status = error.status if isinstance(error, HTTPError) else 0
    hook = next((hook for hooks in reversed(layers) if (hook := hooks.on_error(status, error))), None)
    if hook is None and not status:
        page = failure(request.head, request.peer)  # in the log, with its traceback
        hook = next((hook for hooks in reversed(layers) if (hook := hooks.errors.get(500))), None)
        if hook is None:
            return page
        status = 500
    if hook is None:
        assert isinstance(error, HTTPError)
        return error_page(error.status, error.detail, accept, error.headers.items())
    try:
        result = hook(request, error)
        if isinstance(result, Response):
            return result
        response = Response.of(result)
        response.status = status or 500
        if isinstance(error, HTTPError):  # such as Allow of a 405
            response.headers += error.headers.items()
        return response
    except HTTPError as other:
        return error_page(other.status, other.detail, accept, other.headers.items())
    except (WorkerFailed, SystemExit, DisconnectedError):
        raise
    except BaseException:
        return failure(request.head, request.peer)


def gzipped(least: int = 1024, most: int = 2**20, level: int = 5) -> After:
    """A hook for `routes.after`: compresses what is text or like it for clients that take gzip, if it has from `least`
    to `most` bytes (more would keep the worker too long), or is a stream. Not files (see `Router.static`), and nothing
    of which `Cache-Control` says no-transform. Leave it off where answers repeat what the client has sent beside
    secrets (BREACH)."""

    def gzip(request: Request, response: Response) -> Response | None:
        import zlib

        names = {name.lower(): value for name, value in response.headers}
        body: Any = response.body
        kind = names.get("content-type", response.content_type)
        if (
            not TEXTS.match(kind.lower())
            or response.status in (206, *BODILESS)
            or "content-encoding" in names
            or "no-transform" in names.get("cache-control", "")
        ):
            return None
        if isinstance(body, str):
            body = body.encode()
        if isinstance(body, bytes | bytearray | memoryview):
            if not least <= len(body) <= most:
                return None
        elif hasattr(body, "read") or "content-length" in names:
            return None
        response.headers.append(VARY)
        if preferred(request.headers.get("accept-encoding", ""), ("gzip",)) != "gzip":
            return None
        packer = zlib.compressobj(level, wbits=31)
        if isinstance(body, bytes | bytearray | memoryview):
            response.body = packer.compress(body) + packer.flush()
        else:
            response.body = Packed(body, packer, zlib.Z_SYNC_FLUSH)
        # Another representation has another strong tag (RFC 9110 8.8.3.3), and another length.
        response.headers = [changed(name, value) for name, value in response.headers if name.lower() not in LENGTHS]
        response.headers.append(("Content-Encoding", "gzip"))
        return None

    return gzip


LENGTHS = ("content-length", "accept-ranges")


def changed(name: str, value: str) -> tuple[str, str]:
    """A tag that says "equivalent" where it said "the same bytes"."""
    return (name, "W/" + value) if name.lower() == "etag" and value.startswith('"') else (name, value)


class Packed:
    """A stream, compressed piece by piece as it is made."""

    def __init__(self, body: Any, packer: Any, flush: int) -> None:
        self.body = body
        self.packer = packer
        self.flush = flush

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.body:
            data = piece.encode() if isinstance(piece, str) else piece
            # An empty piece stays one: it asks whether the client is still there.
            yield self.packer.compress(data) + self.packer.flush(self.flush) if data else b""
        yield self.packer.flush()

    def close(self) -> None:
        close = getattr(self.body, "close", None)
        if close is not None:
            close()
