"""What tests of handlers import; and what runs the handlers for `routes.client()`, without sockets and processes."""

import importlib
import os
from collections.abc import Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

from .config.service import Service
from .config.settings import load
from .http.bodies import BROKEN, EMPTY, Region, Stream
from .http.engine import handle
from .http.response_writer import ResponseWriter
from .http.server_state import ServerState
from .http1.chunked import Chunked
from .http1.parser import CHUNKED, Head, ProtocolError, parse_head
from .http1.states import HANDLING
from .ipc.scoreboard import Scoreboard
from .pool.worker import Worker
from .process.handlers_module import Server
from .system.privileges import Identity
from .web.client import Answer, Client
from .web.response import error_page
from .web.routes import NO_ROUTE, Router

__all__ = ["Answer", "Client", "InProcess"]
PEER = ("127.0.0.1", 50000)


class InProcess:
    """A server and a worker in this process: `init(server)` and `worker_init(worker)` have run."""

    def __init__(self, router: Router, config: Mapping[str, Any], arguments: Sequence[str]) -> None:
        package = __name__.rpartition(".runtime.")[0]
        service: Service = importlib.import_module(f"{package}.__main__").SERVICE
        self.handlers: Any = importlib.import_module(f"{package}.handlers")
        if getattr(self.handlers, "routes", None) is not router:  # one that a test has made
            self.handlers = ModuleType("handlers")
            self.handlers.routes = router
        self.config = load(service, arguments, {})
        self.config.access_log = "off"
        self.config.file |= config
        board = Scoreboard(1)
        board.own = board.base(0)
        service.protocol.check(self.handlers)
        self.server = Server(service, self.config, [], Identity("", ""), board, lambda line: None)
        self.worker = Worker(1)
        self.server.in_init = True
        self.call("init", self.server)
        self.server.in_init = False
        context: Any = SimpleNamespace(
            config=self.config, board=board, handlers=self.handlers, wake_server=lambda: None, service=service
        )
        self.state = ServerState(context, 0)
        self.state.dispose = lambda body: body.close()
        self.call("worker_init", self.worker)

    def call(self, name: str, argument: Any) -> None:
        """One of the user's optional functions; what it raises is for the test to see."""
        function = getattr(self.handlers, name, None)
        if function is not None:
            function(argument)

    def send(self, method: str, target: str, fields: list[tuple[str, str]], body: bytes) -> Answer:
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        try:
            parsed = parse_head("\r\n".join([*lines, "", ""]).encode("latin-1"), self.state.limits)
            if parsed is None:
                raise ProtocolError(400, "the request is not whole")
            head = parsed[0]
            if head.length == CHUNKED:
                body = self.decoded(body)
            if self.config.max_body and len(body) > self.config.max_body:
                raise ProtocolError(413, f"the body has more than {self.config.max_body} bytes")
        except ProtocolError as error:
            page = error_page(error.status, error.reason, "")
            return Answer(page.status, "", page.headers, bytes(page.body))  # type: ignore[arg-type]
        return self.answer(head, body)

    def decoded(self, body: bytes) -> bytes:
        decoder = Chunked(self.state.limits)
        payload, _ = decoder.feed(body)
        if not decoder.done:
            raise ProtocolError(400, "the body is not whole")
        return payload

    def answer(self, head: Head, body: bytes) -> Answer:
        route, params = self.state.router.match(head.path) or (NO_ROUTE, {})
        sock: Any = SimpleNamespace(fileno=lambda: -1, getsockname=lambda: ("127.0.0.1", 80))
        connection: Any = ResponseWriter(self.state, SimpleNamespace(now=0.0), sock, PEER)
        connection.state = HANDLING
        self.state.clock.tick(0.0)
        result = handle(connection, head, body, None, route, params, self.worker)
        data = connection.compose(head, result, None)
        start, _, content = data.partition(b"\r\n\r\n")
        content += self.rest(connection)
        first, *lines = start.decode("latin-1").split("\r\n")
        fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        if ("Transfer-Encoding", "chunked") in fields:
            content = self.decoded(content)
        _, status, reason = first.split(" ", 2)
        return Answer(int(status), reason, fields, content)

    def rest(self, connection: Any) -> bytes:
        """What comes of a file or a stream."""
        source, pieces = connection.source, []
        if isinstance(source, Region):
            pieces.append(os.pread(source.file.fileno(), source.left, source.at))
        while isinstance(source, Stream) and (piece := connection.make_piece(self.worker)):
            if piece is BROKEN:
                connection.drop_source()
                raise ConnectionError("the response broke off: see the log")
            if piece is not EMPTY:
                pieces.append(piece)
            if source.ended:
                break
        connection.drop_source()
        return b"".join(pieces)

    def close(self) -> None:
        self.call("worker_exit", self.worker)
        self.call("exit", self.server)
