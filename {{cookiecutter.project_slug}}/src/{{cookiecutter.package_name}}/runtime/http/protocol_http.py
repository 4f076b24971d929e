"""The http protocol: what its handlers module has to define."""

from types import ModuleType

from ..config.errors import StartError
from ..process.handlers_module import check_signature
from ..web.routes import Router

NAME = "http"


def check(handlers: ModuleType) -> None:
    """Does the user's module define what is served? Raises StartError (70)."""
    if not isinstance(getattr(handlers, "routes", None), Router):
        raise StartError("handlers.py defines no routes: it needs `routes = Router()` and functions in it")
    for route in [*handlers.routes.literal.values(), *handlers.routes.patterns]:
        for method, handler in route.handlers.items():
            name = getattr(handler, "__qualname__", None) or repr(handler)
            check_signature(handler, f"{name}, the handler of {method} {route.path},", "request")
