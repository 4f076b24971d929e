"""What the service itself is: the one seam between the answers to the template's questions and the runtime."""

import importlib
from collections.abc import Mapping
from typing import Any

from .options import OPTIONS, Option


class Service:
    """What the rendered `__main__` knows about its service: the one seam between the answers and the runtime.

    Pool, protocol and engine are modules, imported when they are asked for: `ctl` needs none of them.
    """

    def __init__(
        self, name: str, package: str, version: str, pool: str, protocol: str, defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        self.package = package
        self.version = version
        self.pool_name = pool  # prefork or threaded
        self.protocol_name = protocol  # http, line or stream
        self.defaults = defaults or {}  # of options, where they are not those of the table

    @property
    def kind(self) -> str:
        """The folder of its protocol: http, or stream (connections)."""
        return "http" if self.protocol_name == "http" else "stream"

    @property
    def pool(self) -> Any:
        """The module pool.prefork or pool.threaded."""
        return importlib.import_module(f"...pool.{self.pool_name}", __name__)

    @property
    def protocol(self) -> Any:
        """The module http.protocol_http, stream.protocol_line or stream.protocol_stream."""
        return importlib.import_module(f"...{self.kind}.protocol_{self.protocol_name}", __name__)

    @property
    def engine(self) -> Any:
        """The module <kind>.engine: how such a protocol is served."""
        return importlib.import_module(f"...{self.kind}.engine", __name__)

    @property
    def runner(self) -> Any:
        """The module <kind>.runner_<pool>: which thread of this pool runs user code."""
        return importlib.import_module(f"...{self.kind}.runner_{self.pool_name}", __name__)

    @property
    def options(self) -> tuple[Option, ...]:
        """The rows of the table that this pool and protocol have."""
        return tuple(o for o in OPTIONS if o.only in ("", self.pool_name, self.protocol_name, self.kind))

    @property
    def prefix(self) -> str:
        return self.package.upper() + "_"
