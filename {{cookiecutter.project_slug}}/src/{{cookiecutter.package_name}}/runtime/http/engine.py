"""Serves http in one member of the pool: the loop, its connections, and what runs their handlers.

The thread that leads the loop runs a handler itself, unless the runner of the pool takes it: `runner_prefork` takes
none, `runner_threaded` gives slow ones to other threads. When a handler blocks the leader, the stall monitor of the
runner takes the loop over (see `loop/leadership.py`).
"""

import socket
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, Protocol, TypeVar

from ..http1.parser import Head
from ..http1.states import ABANDONED, CLOSED, HANDLING, SENDING
from ..ipc import forks
from ..ipc.signals import SignalPipe
from ..loop.event_loop import EventLoop, Wakeup
from ..loop.interfaces import Mode, Pollable
from ..loop.leadership import Demoted, Leader
from ..loop.selector import READ
from ..pool.worker import Worker, WorkerFailed
from ..process.member import Context
from ..web.hooks import Handler, wrapped
from ..web.messages import DisconnectedError, Request
from ..web.response import HTTPError, Response, error_page
from ..web.routes import METHODS, NO_ROUTE, Route, Router
from ..web.trace_context import Trace
from .bodies import Body, UserBody, prepared
from .connection import Connection
from .server_state import ServerState

new = object.__new__
T = TypeVar("T")
GRACE = 0.5  # seconds that idle connections live on in a drain: a request may be on its way
INLINE = 0.0005  # seconds: a handler that takes longer on average is offered to the runner


class Runner(Protocol):
    """Runs user code: in the leader's thread, or elsewhere."""

    def run(self) -> bool:
        """Serve until drained. False when the worker failed (worker.fail)."""

    measure: Callable[[Route, float], None] | None  # a handler ran in the leader for so many seconds

    def take(
        self, connection: Connection, head: Head, body: bytes | None, source: Body | None, route: Route,
        params: dict[str, str],
    ) -> bool:  # fmt: skip
        """Run a handler elsewhere that may be slow, and answer later. False: the leader is to run it."""

    def take_piece(self, connection: Connection) -> bool:
        """Make a generator's next piece elsewhere. False: the leader is to make it."""

    def take_closing(self, body: UserBody) -> bool:
        """Close a body elsewhere. False: the leader is to close it."""

    def give_back(self, connection: Connection | None, action: Callable[[], None]) -> None:
        """Have the leader, which is another thread by now, go on with a connection, if there is one."""

    def failed(self, leader: Leader) -> None:
        """User code has called worker.fail in the leader. May raise Demoted."""


class Engine:
    """One member's connections."""

    def __init__(self, context: Context, slot: int, wakeup: SignalPipe) -> None:
        self.context = context
        self.wakeup = wakeup
        self.abandoned = 0
        self.server = ServerState(context, slot)
        self.server.serve, self.server.next_piece, self.server.dispose = self.serve, self.next_piece, self.dispose
        self.router = self.server.router
        self.literal = self.router.literal
        self.tick, self.publish = self.server.clock.tick, self.server.publish
        self.loop = EventLoop(context, slot, self)
        self.connect = partial(Connection, self.server, self.loop)
        self.leadership = self.loop.leadership
        self.loop.add(Wakeup(wakeup.fileno(), self.on_signal))
        self.runner: Runner
        self.measure: Callable[[Route, float], None] | None

    # ---- what the loop asks for --------------------------------------------------------------------------------

    def adopt(self, sock: socket.socket, peer: Any, parcel: bytes, files: list[int]) -> Connection:
        connection = Connection(self.server, self.loop, sock, peer)
        self.loop.admit(connection)
        self.loop.watch(connection, connection.interest)
        self.loop.guarded(connection, connection.unpack, parcel, files)
        return connection

    def flush(self) -> None:
        if self.server.access is not None:
            self.server.access.flush()
        if self.server.budget.holders:
            self.server.budget.look(self.loop.now)

    def drain(self) -> None:
        self.context.drains()
        Worker.draining = True
        self.server.is_closing = True
        self.server.is_retiring = self.loop.mode == Mode.RETIRING
        self.server.keep_alive = min(self.server.keep_alive, GRACE)  # of those that still finish something

    def abandon(self, item: Pollable) -> None:
        """--request-timeout has passed for the leader's handler."""
        leader = self.leadership.leader
        if isinstance(item, Connection) and leader is not None:
            request = None if leader.serving else leader.worker._request
            item.abandon(request.head if request is not None else None)

    def on_signal(self) -> None:
        for action in self.wakeup.take():
            if action == "drain":
                self.loop.drain()
            elif action == "look":
                self.context.look()

    # ---- user code ---------------------------------------------------------------------------------------------

    def serve(self, connection: Connection, head: Head, body: bytes | None, source: Body | None) -> None:
        """Run one handler and send its response, or let the runner do so."""
        connection.state = HANDLING
        route = self.literal.get(head.target)  # without a query, the target is the path
        params: dict[str, str] = {}
        if route is None:
            route, params = self.router.match(head.path) or (NO_ROUTE, {})
        if (route.took > INLINE or source is not None) and self.runner.take(
            connection, head, body, source, route, params
        ):
            return
        leader: Any = self.leadership.leader  # it is this thread, so there is one
        leader.started = started = self.loop.moment
        result = handle(connection, head, body, source, route, params, leader.worker)
        leader.started = 0.0  # this order: see Leadership
        if leader.state and not self.leadership.regain(leader):
            self.runner.give_back(connection, partial(self.finish, connection, head, result, source))
            raise Demoted
        connection.answer(head, result, source)
        if self.measure is not None:
            self.measure(route, self.loop.moment - started)
        if leader.worker.failure:
            if connection.is_parked:  # another leader may go on with it
                self.loop.watch(connection, READ)
                if connection.buffer:
                    self.loop.postpone(connection)
            self.runner.failed(leader)

    def finish(self, connection: Connection, head: Head, result: Any, source: Body | None) -> None:
        """In the leader: another thread has run the handler, so send the response, and serve what came after the
        request."""
        if self.has_ended(connection):
            if isinstance(result, Response) and isinstance(result.body, UserBody):
                result.body.worker._bodies_ended += 1
                self.dispose(result.body)
            return
        connection.answer(head, result, source)
        if connection.is_parked:
            self.loop.watch(connection, READ)
            connection.resume()

    def next_piece(self, connection: Connection) -> bytes | None:
        """The next piece of a streamed response; None when it comes later."""
        if self.runner.take_piece(connection):
            return None
        connection.state = HANDLING
        back: Callable[[bytes], None] = partial(self.send_piece, connection)
        leader, piece = self.run_in_leader(connection, connection.make_piece, back)
        connection.state = SENDING
        if leader.worker.failure:
            if self.measure is not None:  # another leader goes on with it
                self.loop.unwatch(connection)
                self.runner.give_back(connection, partial(back, piece))
            self.runner.failed(leader)
        return piece

    def run_in_leader(
        self, connection: Connection | None, action: Callable[[Worker], T], go_on: Callable[[T], None]
    ) -> tuple[Leader, T]:
        """Run user code that is no handler (`serve` has this code in line). Returns the leader, and what `action` has;
        raises Demoted when another thread leads by now, which is to `go_on` with that."""
        leader = self.leadership.leader
        assert leader is not None
        leader.serving = (connection,)
        leader.started = time.monotonic()
        result = action(leader.worker)
        leader.started = 0.0
        leader.serving = ()
        if leader.state and not self.leadership.regain(leader):
            self.runner.give_back(connection, partial(go_on, result))
            raise Demoted
        return leader, result

    def dispose(self, body: UserBody) -> None:
        """A response needs its body no more. Closing that runs user code: in the leader's next turn, or elsewhere."""
        self.loop.call(partial(self.close_body, body))

    def close_body(self, body: UserBody) -> None:
        """In the leader."""
        if self.runner.take_closing(body):
            return
        leader, _ = self.run_in_leader(None, lambda _: body.close(), lambda _: None)
        if leader.worker.failure:
            self.runner.failed(leader)

    def send_piece(self, connection: Connection, piece: bytes) -> None:
        """In the leader: another thread has made a piece of the response."""
        if self.has_ended(connection):
            return
        connection.state = SENDING
        connection.take_piece(piece)
        if connection.state == SENDING:
            connection.pump()
            connection.resume()

    def has_ended(self, connection: Connection) -> bool:
        """Close a connection that was abandoned, or reset, before its handler returned."""
        if connection.state != ABANDONED:
            return connection.state == CLOSED
        self.abandoned -= 1
        connection.close()
        return True


def handle(
    connection: Connection, head: Head, body: bytes | None, source: Body | None, route: Route,
    params: dict[str, str], worker: Worker,
) -> Any:  # fmt: skip
    """Run the handler. Returns its Response, plain bytes, or None when the client has left. Touches nothing but
    this request, so any thread may run it."""
    request = new(Request)  # its __init__ would be called by way of C
    request.head = head
    request.method = head.method
    request.params = params
    request._connection = connection
    request.worker = worker
    request._body = body
    request._source = source
    request._route = route
    request._trace = None
    sent = connection.server.traced(head._block)
    if sent:
        request._trace = Trace(sent)
    worker._request = request
    context = copy_context()  # what the handler sets in it is this request's: record 23
    try:
        handler = route.handlers.get(head.method) or route.find(head.method)
        if handler is None:
            handler = find_other(request, connection.server.router)
        result = context.run(handler, request)
        return result if type(result) is bytes else prepared(result, worker, context, head)
    except HTTPError as error:
        return error_page(error.status, error.detail, head.get("accept", ""), error.headers.items())
    except DisconnectedError as error:
        connection.note("left: %s", error)
        return None
    except (WorkerFailed, SystemExit) as failure:
        forks.returned(failure)
        worker.failed(failure)
        return error_page(500, "", head.get("accept", ""))
    except BaseException:  # such as asyncio's CancelledError
        return connection.failed(head)
    finally:
        worker._request = None
        connection.trace = request._trace


def find_other(request: Request, router: Router) -> Handler:
    """What the best route of a path does not handle: another route's handler, or what answers in place of one."""
    method, path = request.method, request.head.path
    allow = ""
    if method in (*METHODS, "TRACE") and path != "*":
        handler, request.params, allow = router.other(path, method)
        if handler is not None:
            return handler
    return wrapped(lambda request: missing(method, path, allow), router.around(path))


def missing(method: str, path: str, allow: str) -> Response:
    """The answer where there is no handler. `allow` are the methods that the path has. Raises HTTPError."""
    if path == "*":  # RFC 9110 9.3.7: about the server as a whole; the parser lets only OPTIONS ask for it
        return Response(status=204, headers={"Allow": ", ".join(METHODS)})
    if method == "TRACE":  # RFC 9110 9.3.8: it would show cookies to scripts
        raise HTTPError(405, "", {"Allow": allow or ", ".join(METHODS)})
    if method not in METHODS:
        raise HTTPError(501)  # RFC 9110 15.6.2
    if not allow:
        raise HTTPError(404)
    if method == "OPTIONS":
        return Response(status=204, headers={"Allow": allow})
    raise HTTPError(405, "", {"Allow": allow})


def work(context: Context, slot: int, worker: Any, wakeup: SignalPipe) -> bool:
    """Serve until drained; `worker` is what the pool gives to its runner: a Worker, or a ThreadPool. False when the
    worker failed (worker.fail)."""
    engine = Engine(context, slot, wakeup)
    engine.runner = context.service.runner.Runner(engine, worker)
    engine.measure = engine.runner.measure
    return engine.runner.run()
