"""The http protocol: what its handlers module has to define."""

from types import ModuleType

from ..config.errors import StartError
from ..config.settings import Config
from ..loop import spool
from ..process.handlers_module import check_signature
from ..system.refusal import RETRY_AFTER
from ..web.hooks import Hooks
from ..web.routes import Router

NAME = "http"
# What clients get while no worker can work. It has no body, so that it answers a HEAD too.
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n%s: %s\r\nConnection: close\r\n\r\n" % tuple(
    part.encode() for part in RETRY_AFTER[0]
)


def check(handlers: ModuleType) -> None:
    """Does the user's module define what is served? Raises StartError (70)."""
    if not isinstance(getattr(handlers, "routes", None), Router):
        raise StartError("handlers.py defines no routes: it needs `routes = Router()` and functions in it")
    for route in handlers.routes.routes:
        for method, (handler, layers) in route.plain.items():
            name = getattr(handler, "__qualname__", None) or repr(handler)
            check_signature(handler, f"{name}, the handler of {method} {route.path},", "request")
            for hooks in layers:
                check_hooks(hooks)
    check_hooks(handlers.routes.hooks)
    handlers.routes.seal()


def check_hooks(hooks: Hooks) -> None:
    for kind, functions, parameters in (
        ("before", hooks.before, ["request"]),
        ("after", hooks.after, ["request", "response"]),
        ("error", hooks.errors.values(), ["request", "error"]),
    ):
        for function in functions:
            name = getattr(function, "__qualname__", None) or repr(function)
            check_signature(function, f"{name}, a hook of `{kind}`,", *parameters)


def check_surroundings(config: Config) -> None:
    """In the server, as the user that it works as. Raises StartError."""
    spool.check(config)
