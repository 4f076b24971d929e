"""The stream protocol: `service_connection(stream)` is called once per connection."""

from collections.abc import Callable
from types import ModuleType

from ..config.errors import StartError
from ..config.settings import Config
from ..process.handlers_module import check_signature
from .stream import Stream

NAME = "stream"
REFUSAL = b""  # while no worker can work, connections are closed


def check(handlers: ModuleType) -> None:
    """Does the user's module define what is served? Raises StartError (70)."""
    if not callable(getattr(handlers, "service_connection", None)):
        raise StartError("handlers.py defines no service_connection(stream): it is what serves a connection")
    check_signature(handlers.service_connection, "service_connection in handlers.py", "stream")


def service(handlers: ModuleType, config: Config) -> Callable[[Stream], None]:
    """What is run for each connection."""
    found: Callable[[Stream], None] = handlers.service_connection
    return found


def check_surroundings(config: Config) -> None:
    """As protocol_http has it: nothing is needed here."""
