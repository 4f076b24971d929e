"""The router: from method and path to a handler.

Paths are literal (`/orders`), or have `{name}` segments (`/orders/{id}`), or end in `{name:path}`, which takes
the rest, slashes included (`/files/{rest:path}`; `/{rest:path}` is the catch-all). Literal paths win over
parameters, and longer patterns over catch-alls.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

Handler = Callable[..., Any]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SLASH = "\udc2f"  # stands for an escaped slash while a path is matched: no decoded text holds it
PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")


def unescape(text: str) -> str:
    """Percent-decode once (RFC 3986 2.4); bytes that are not UTF-8 become U+FFFD."""
    if "%" not in text:
        return text
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes((int(found[1], 16),)), text.encode("utf-8"))
    return raw.decode("utf-8", "replace")


class Route:
    """The handlers of one path, by method; HEAD and OPTIONS follow from the others."""

    __slots__ = ("allow", "handlers", "path", "pattern", "retry", "took")

    def __init__(self, path: str, pattern: re.Pattern[str] | None) -> None:
        self.path = path
        self.pattern = pattern
        self.handlers: dict[str, Handler] = {}
        self.allow = ""
        self.took = 0.0  # moving average of its handlers' time, in seconds: the threaded pool decides by it
        self.retry = 0.0  # when a slow one is tried in the loop again

    def add(self, method: str, handler: Handler) -> None:
        if method in self.handlers:
            raise ValueError(f"two handlers for {method} {self.path}")
        self.handlers[method] = handler
        names = {*self.handlers, "OPTIONS", *(("HEAD",) if "GET" in self.handlers else ())}
        self.allow = ", ".join(sorted(names))

    def find(self, method: str) -> Handler | None:
        """The handler of a method; that of GET serves HEAD too (RFC 9110 9.3.2), its body is left out."""
        return self.handlers.get(method) or (self.handlers.get("GET") if method == "HEAD" else None)


Found = tuple[Route, dict[str, str]]  # a route and its parameters
NO_ROUTE = Route("", None)


class Router:
    """The service's routes: `routes = Router()`, then `@routes.get("/path")` above each handler."""

    def __init__(self) -> None:
        self.literal: dict[str, Route] = {}
        self.patterns: list[Route] = []

    def add(self, method: str, path: str, handler: Handler) -> Handler:
        """Add a handler. Raises ValueError for a wrong path, an unknown method, or one that is there already."""
        if method not in METHODS:
            raise ValueError(f"cannot route method {method!r}: one of {', '.join(METHODS)}")
        if not path.startswith("/"):
            raise ValueError(f"a route's path begins with a slash, not {path!r}")
        if "{" not in path and "}" not in path:
            route = self.literal.setdefault(path, Route(path, None))
        else:
            route = next((r for r in self.patterns if r.path == path), Route(path, compile_path(path)))
            if route not in self.patterns:
                self.patterns.append(route)
                # Catch-alls last, more literal text first.
                self.patterns.sort(key=lambda r: (":path}" in r.path, -len(PARAMETER.sub("", r.path))))
        route.add(method, handler)
        return handler

    def route(self, method: str, path: str) -> Callable[[Handler], Handler]:
        """A decorator that adds its function: `@routes.route("PUT", "/orders/{id}")`."""
        return lambda handler: self.add(method, path, handler)

    def get(self, path: str) -> Callable[[Handler], Handler]:
        return self.route("GET", path)

    def post(self, path: str) -> Callable[[Handler], Handler]:
        return self.route("POST", path)

    def put(self, path: str) -> Callable[[Handler], Handler]:
        return self.route("PUT", path)

    def patch(self, path: str) -> Callable[[Handler], Handler]:
        return self.route("PATCH", path)

    def delete(self, path: str) -> Callable[[Handler], Handler]:
        return self.route("DELETE", path)

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
            if found is not None:
                yield route, {name: value.replace(SLASH, "/") for name, value in found.groupdict().items()}

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


def compile_path(path: str) -> re.Pattern[str]:
    """A pattern for a path with parameters. Raises ValueError for a wrong one."""
    expression, at = "", 0
    for found in PARAMETER.finditer(path):
        if found[2] and found.end() != len(path):
            raise ValueError(f"{{{found[1]}:path}} must be the end of {path!r}")
        expression += re.escape(unescape(path[at : found.start()])) + f"(?P<{found[1]}>{'.*' if found[2] else '[^/]+'})"
        at = found.end()
    literal = path[at:]
    if "{" in literal or "}" in literal:
        raise ValueError(f"unbalanced or malformed {{parameter}} in {path!r}")
    try:
        return re.compile(expression + re.escape(unescape(literal)), re.DOTALL)
    except re.error as error:
        raise ValueError(f"{path!r}: {error}") from None
