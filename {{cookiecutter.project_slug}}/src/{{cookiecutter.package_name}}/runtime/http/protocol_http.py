"""The http protocol: what its handlers module has to define."""

from types import ModuleType

from ..config.errors import StartError
from .routes import Router

NAME = "http"


def check(handlers: ModuleType) -> None:
    """Does the user's module define what is served? Raises StartError (70)."""
    if not isinstance(getattr(handlers, "routes", None), Router):
        raise StartError("handlers.py defines no routes: it needs `routes = Router()` and functions in it")
