"""The router: from method and path to a handler.

Paths are literal (`/orders`), or have `{name}` segments (`/orders/{id}`), or end in `{name:path}`, which takes
the rest, slashes included (`/files/{rest:path}`; `/{rest:path}` is the catch-all). `{name:int}` takes up to 18 digits
and is a number, `{name:uuid}` takes a UUID and is one. An escaped slash (%2F) fits `{name:path}` and `{name:any}`
alone; the latter is a segment with or without one. Literal paths win over parameters, kinds over texts, and longer
patterns over catch-alls. A segment may have several parameters with text between them (`/{y}-{m}-{d}`): the
earlier ones are as long as they can be. Matching takes linear time, whatever the path.

A handler starts when all of the request's body is there. With `stream=True` it starts at once, and reads the body while
it comes: for uploads that need no file on the way. As each holds a worker, half of the workers do so at a time; beyond
that, and with one worker, the body is there first.
"""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

from .fields import unescape
from .hooks import After, AfterT, Before, BeforeT, Handler, HandlerT, Hooks, Layers, OnErrorT, wrapped

if TYPE_CHECKING:
    from .client import Client

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SLASH = "\udc2f"  # stands for an escaped slash while a path is matched: no decoded text holds it
PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([a-z]+))?\}")
SEGMENT = f"[^/{SLASH}]+"
UUID = "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
KINDS = {"": SEGMENT, "any": "[^/]+", "int": "[0-9]{1,18}", "uuid": UUID}


class Route:
    """The handlers of one path, by method; HEAD and OPTIONS follow from the others."""

    __slots__ = (
        "allow", "handlers", "kinds", "path", "pattern", "plain", "readers", "retry", "splitters", "streams", "took",
    )  # fmt: skip

    def __init__(
        self, path: str, pattern: re.Pattern[str] | None, splitters: "Iterable[Splitter]" = ()
    ) -> None:  # fmt: skip
        self.path = path
        self.pattern = pattern
        self.splitters = list(splitters)
        self.kinds = {name: kind for name, kind in PARAMETER.findall(path) if kind}
        self.handlers: dict[str, Handler] = {}  # with their hooks, once the router is sealed
        self.plain: dict[str, tuple[Handler, Layers]] = {}
        self.readers: set[str] = set()  # methods whose handlers read the body while it comes
        self.allow = ""
        self.took = 0.0  # moving average of its handlers' time, in seconds: the threaded pool decides by it
        self.streams = False  # its handler returned a generator last
        self.retry = 0.0  # when a slow one is tried in the loop again

    def add(self, method: str, handler: Handler, layers: Layers = ()) -> None:
        if method in self.handlers:
            raise ValueError(f"two handlers for {method} {self.path}")
        self.handlers[method] = handler
        self.plain[method] = handler, layers
        names = {*self.handlers, "OPTIONS", *(("HEAD",) if "GET" in self.handlers else ())}
        self.allow = ", ".join(sorted(names))

    def convert(self, values: dict[str, Any]) -> bool:
        """Make of texts what the kinds of the parameters say. False: one does not fit."""
        for name, kind in self.kinds.items():
            if kind in ("path", "any"):
                values[name] = values[name].replace(SLASH, "/")
            elif not re.fullmatch(KINDS[kind], values[name]):  # one of several in a segment
                return False
            elif kind == "int":
                values[name] = int(values[name])
            else:
                import uuid

                values[name] = uuid.UUID(values[name])
        return True

    def find(self, method: str) -> Handler | None:
        """The handler of a method; that of GET serves HEAD too (RFC 9110 9.3.2), its body is left out."""
        return self.handlers.get(method) or (self.handlers.get("GET") if method == "HEAD" else None)


Found = tuple[Route, dict[str, Any]]  # a route and its parameters
NO_ROUTE = Route("", None)


class Options(TypedDict, total=False):
    """Of a route: hooks of its own, and whether its handler reads the body while it comes."""

    before: Iterable[Before]
    after: Iterable[After]
    stream: bool


class Router:
    """The service's routes: `routes = Router()`, then `@routes.get("/path")` above each handler. `before` and `after`
    are hooks of that route alone, as those of the same names are of all."""

    def __init__(self) -> None:
        self.literal: dict[str, Route] = {}
        self.patterns: list[Route] = []
        self.hooks = Hooks()
        self.mounts: list[tuple[str, Layers]] = []  # prefixes, and the hooks below them
        self.is_mounted = False

    def add(
        self, method: str, path: str, handler: HandlerT, *, before: Iterable[Before] = (), after: Iterable[After] = (),
        stream: bool = False,
    ) -> HandlerT:  # fmt: skip
        """Add a handler; with `stream` it reads the body while it comes. Raises ValueError for a wrong path, an unknown
        method, or one that is there already."""
        own = Hooks(before, after)
        self.place(method, path, handler, (self.hooks, own) if own else (self.hooks,), stream)
        return handler

    def place(self, method: str, path: str, handler: Handler, layers: Layers, stream: bool) -> None:
        if self.is_mounted:
            raise ValueError(f"{method} {path}: this router is mounted already: mount it after its last route")
        if method not in METHODS:
            raise ValueError(f"cannot route method {method!r}: one of {', '.join(METHODS)}")
        if not path.startswith("/"):
            raise ValueError(f"a route's path begins with a slash, not {path!r}")
        if "<" in path or "/:" in path:
            raise ValueError(f"{path!r}: a parameter is written {{name}}, or {{name:int}}")
        if "{" not in path and "}" not in path:
            route = self.literal.setdefault(path, Route(path, None))
        else:
            route = next((r for r in self.patterns if r.path == path), Route(path, *compile_path(path)))
            if route not in self.patterns:
                self.patterns.append(route)
                # Catch-alls last, more literal text first, then what is more of a kind.
                self.patterns.sort(key=lambda r: (":path}" in r.path, -len(PARAMETER.sub("", r.path)), -len(r.kinds)))
        route.add(method, handler, layers)
        if stream:
            route.readers.add(method)

    @property
    def routes(self) -> list[Route]:
        return [*self.literal.values(), *self.patterns]

    def route(self, method: str, path: str, **options: Unpack[Options]) -> Callable[[HandlerT], HandlerT]:
        """A decorator that adds its function: `@routes.route("PUT", "/orders/{id}")`. It takes what `add` takes."""
        return lambda handler: self.add(method, path, handler, **options)

    def get(self, path: str, **options: Unpack[Options]) -> Callable[[HandlerT], HandlerT]:
        return self.route("GET", path, **options)

    def post(self, path: str, **options: Unpack[Options]) -> Callable[[HandlerT], HandlerT]:
        return self.route("POST", path, **options)

    def put(self, path: str, **options: Unpack[Options]) -> Callable[[HandlerT], HandlerT]:
        return self.route("PUT", path, **options)

    def patch(self, path: str, **options: Unpack[Options]) -> Callable[[HandlerT], HandlerT]:
        return self.route("PATCH", path, **options)

    def delete(self, path: str, **options: Unpack[Options]) -> Callable[[HandlerT], HandlerT]:
        return self.route("DELETE", path, **options)

    def mount(self, prefix: str, router: "Router") -> None:
        """Have the routes of another router below a prefix: `routes.mount("/api", api)`. Its hooks are around its own
        routes, and around what is not found below the prefix; those of this router are around them. Mount it after its
        last route. Raises ValueError for a wrong prefix, and as `add` does."""
        if not prefix.startswith("/") or prefix.endswith("/") or "{" in prefix:
            raise ValueError(f"a prefix is a path without parameters and without a slash at its end, not {prefix!r}")
        for route in router.routes:
            for method, (handler, layers) in route.plain.items():
                self.place(method, prefix + route.path, handler, (self.hooks, *layers), method in route.readers)
        inner = [(prefix + below, (self.hooks, *layers)) for below, layers in router.mounts]
        self.mounts += [(prefix, (self.hooks, router.hooks)), *inner]
        router.is_mounted = True

    def before(self, hook: BeforeT) -> BeforeT:
        """A decorator: call this with each request before its handler, also where there is none (404, 405). What it
        returns, unless None, is the answer, in place of the handler's; what it raises, as if the handler had."""
        self.hooks.before.append(hook)
        return hook

    def after(self, hook: AfterT) -> AfterT:
        """A decorator: call this with each request and its response, error pages included, the last one first. It
        changes the response, or returns another. Not seen are answers to what was refused before it was a request (400,
        408, 413, 431); 304, 206, 412 and 416 are made of what it returns."""
        self.hooks.after.append(hook)
        return hook

    def error(self, kind: int | type[Exception]) -> Callable[[OnErrorT], OnErrorT]:
        """A decorator: have this answer for HTTPErrors of a status, or for exceptions of a class. It gets the request
        and the exception. What it returns has that status (500 for other exceptions), unless it is a Response.
        `error(500)` gets all exceptions that nothing else handles; the log has their tracebacks."""

        def add(hook: OnErrorT) -> OnErrorT:
            self.hooks.errors[kind] = hook
            return hook

        return add

    def seal(self) -> None:
        """Put the hooks around the handlers: all are there. Called when the service starts, and by `client`."""
        for route in self.routes:
            for method, (handler, layers) in route.plain.items():
                route.handlers[method] = wrapped(handler, layers)

    def around(self, path: str) -> Layers:
        """The hooks of what is not found at a path: of this router, and of those mounted nearest."""
        fitting = [one for one in self.mounts if path == one[0] or path.startswith(one[0] + "/")]
        return max(fitting, key=lambda one: len(one[0]))[1] if fitting else (self.hooks,)

    def streams(self, method: str, path: str) -> bool | None:
        """Whether the handler of a request reads its body while it comes; None when nothing of the user's sees it."""
        for route, _ in self.matches(path):
            if route.find(method):
                return method in route.readers
        return False if any(self.around(path)) else None

    def static(
        self, prefix: str, directory: str | PathLike[str], *, index: str = "index.html", cache: str = "no-cache",
        precompressed: bool = True,
    ) -> None:  # fmt: skip
        """Serve the files below a directory: `routes.static("/assets", "assets")`. A relative one is beside the module
        that calls this. What lies outside, through links too, what is no regular file and what begins with a dot (but
        for .well-known) is not found. A directory shows its `index`, if it has one; "" switches that off. `cache` is
        the value of Cache-Control: by default clients ask again each time, and get 304. A file `name.br`, `name.zst`
        or `name.gz` beside `name` is sent to clients that take it, unless it is older or not `precompressed`.
        Raises ValueError for a prefix without a slash in front, or when there is no such directory."""
        from .static import handler  # only for services that have files

        root = os.path.join(os.path.dirname(sys._getframe(1).f_globals.get("__file__") or ""), directory)
        if not os.path.isdir(root):
            raise ValueError(f"routes.static({prefix!r}): {os.path.abspath(root)} is no directory")
        prefix = prefix.rstrip("/")
        if "{" in prefix or (prefix and not prefix.startswith("/")):
            raise ValueError(f"routes.static: a prefix begins with a slash and has no parameters, not {prefix!r}")
        serve = handler(os.path.abspath(root), index, cache, precompressed)
        self.add("GET", prefix + "/{path:path}", serve)

    def client(
        self, base_url: str = "", *, config: Mapping[str, Any] | None = None, arguments: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> "Client":  # fmt: skip
        """For tests: a client that asks these handlers in this process, through hooks, error pages and all checks of a
        response, after `init(server)` and `worker_init(worker)`. `config` are tables as the file of --config has them,
        `arguments` options as on the command line. With a `base_url` it asks a service that runs instead."""
        from .client import Client, Remote  # only for tests

        if base_url:
            return Client(Remote(base_url), headers)
        testing = importlib.import_module("..testing", __package__)  # it is above this layer
        return Client(testing.InProcess(self, config or {}, arguments), headers)

    def match(self, path: str) -> Found | None:
        """The route of a percent-encoded path and its decoded parameters; None when none fits. Segments are split
        before they are decoded, so %2F never makes a new segment (RFC 3986 2.2)."""
        literal = self.literal.get(path)
        return (literal, {}) if literal is not None else next(self.matches(path), None)

    def matches(self, path: str) -> Iterator[Found]:
        """All routes that fit, the best first."""
        # %41 and A are the same (RFC 3986 6.2.2.2), but an escaped slash is not a slash.
        decoded = SLASH.join(map(unescape, re.split("%2[Ff]", path))) if "%" in path else path
        literal = self.literal.get(path) or self.literal.get(decoded)
        if literal is not None:
            yield literal, {}
        for route in self.patterns:
            found = route.pattern.fullmatch(decoded) if route.pattern is not None else None
            if found is None:
                continue
            values = found.groupdict()
            if all(one.split(values) for one in route.splitters) and (not route.kinds or route.convert(values)):
                yield route, values

    def other(self, path: str, method: str) -> tuple[Handler | None, dict[str, str], str]:
        """When the best route of a path lacks this method: the handler and parameters of another route that has it
        (`GET /users/me` beside `DELETE /users/{id}`), and the methods that the path has in all, for Allow."""
        allowed: set[str] = set()
        for route, parameters in self.matches(path):
            handler = route.find(method)
            if handler is not None:
                return handler, parameters, ""
            allowed.update(route.allow.split(", "))
        return None, {}, ", ".join(sorted(allowed))


class Splitter(NamedTuple):
    """Divides a segment with several parameters, such as `{y}-{m}-{d}`, in linear time, as a regular expression would
    that tries all ways to do it: the first parameter is as long as it can be, then the second, and so on."""

    names: list[str]
    literals: list[str]  # before, between and after these
    tail: str  # the `{name:path}` that follows in the same segment, or ""

    def split(self, found: dict[str, str]) -> bool:
        """Replace the segment, which `found` has under the first name, by the parameters. False: it does not fit."""
        segment = found[self.names[0]]
        first, *between, last = self.literals
        end = segment.rfind(last) if self.tail else len(segment) - len(last)
        if end <= len(first) or not segment.startswith(first) or not segment.startswith(last, end):
            return False
        if self.tail:
            found[self.tail] = segment[end + len(last) :] + found[self.tail]
        for name, literal in zip(reversed(self.names), reversed(between), strict=False):
            at = segment.rfind(literal, len(first) + 1, end - 1)  # no parameter is empty
            if at < 0:
                return False
            found[name] = segment[at + len(literal) : end]
            end = at
        found[self.names[0]] = segment[len(first) : end]
        return True


def compile_path(path: str) -> tuple[re.Pattern[str], list[Splitter]]:
    """A pattern for a path with parameters, and what divides its segments that have several. Raises ValueError for a
    wrong path."""
    parts = PARAMETER.split(path)  # text, name, kind or None, text, ...
    names, tail = parts[1::3], ""
    if any("{" in text or "}" in text for text in parts[::3]):
        raise ValueError(f"unbalanced or malformed {{parameter}} in {path!r}")
    kinds = {name: kind or "" for name, kind in zip(names, parts[2::3], strict=True)}
    if wrong := [kind for kind in kinds.values() if kind not in KINDS and kind != "path"]:
        raise ValueError(
            f"{path!r}: a parameter has no kind {wrong[0]!r}: one of path, {', '.join(filter(None, KINDS))}"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"two parameters have the same name in {path!r}")
    segments: list[list[str]] = [[]]  # each: text, name, text, name, ..., text
    for text, name, rest in zip(parts[::3], [*names, ""], [*parts[2::3], ""], strict=True):
        if tail:
            if text or name:
                raise ValueError(f"{{{tail}:path}} must be the end of {path!r}")
            break
        first, *others = unescape(text).split("/")
        segments[-1].append(first)
        segments += [[one] for one in others]
        tail = name if rest == "path" else ""
        if name and not tail:
            segments[-1].append(name)
    expression, splitters = [], []
    for number, segment in enumerate(segments):
        texts, names = segment[::2], segment[1::2]
        end = tail if number == len(segments) - 1 else ""
        if not all(texts[1:-1]):
            raise ValueError(f"{path!r}: two parameters need some text between them, or nothing says where one ends")
        if len(names) > 1:  # an expression would try all ways to divide it
            splitters.append(Splitter(names, texts, end))
            if any(kinds[name] == "any" for name in names):
                raise ValueError(f"{path!r}: a parameter of kind any is a whole segment")
            expression.append(f"(?P<{names[0]}>{SEGMENT})" + (f"(?P<{end}>(?:/.*)?)" if end else ""))
        else:
            groups = [f"(?P<{name}>{KINDS[kinds[name]]})" for name in names] + ([f"(?P<{end}>.*)"] if end else [])
            texts += [""] * (len(groups) - len(names))
            expression.append("".join(re.escape(t) + g for t, g in zip(texts, [*groups, ""], strict=False)))
    return re.compile("/".join(expression), re.DOTALL), splitters
