"""The states of a connection: every step of the table is walked, and no other is ever taken."""

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest

from {{ cookiecutter.package_name }}.runtime.http import Request, Response, Router
from {{ cookiecutter.package_name }}.runtime.http.bodies import prepared
from {{ cookiecutter.package_name }}.runtime.http.connection import SHED, SPREAD, Connection
from {{ cookiecutter.package_name }}.runtime.http.response_writer import LINGERING
from {{ cookiecutter.package_name }}.runtime.http.server_state import ServerState
from {{ cookiecutter.package_name }}.runtime.http1.states import HANDLING, SENDING, TRANSITIONS, State
from {{ cookiecutter.package_name }}.runtime.ipc import scoreboard
from {{ cookiecutter.package_name }}.runtime.ipc.scoreboard import Scoreboard
from {{ cookiecutter.package_name }}.runtime.loop.interfaces import Mode
from {{ cookiecutter.package_name }}.runtime.loop.selector import READ
from {{ cookiecutter.package_name }}.runtime.pool.worker import Worker
from {{ cookiecutter.package_name }}.runtime.web.trace_context import Trace

Serve = Callable[[Any, Any, Any, Any], None]
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
SEEN: set[tuple[State, State]] = set()


class Loop:
    """A Loop without a selector."""

    def __init__(self) -> None:
        self.now = self.moment = time.monotonic()
        self.mode = Mode.SERVING
        self.is_stood_in = False
        self.postponed: list[object] = []

    def watch(self, item: Any, mask: int) -> None:
        item.mask = mask

    def unwatch(self, item: Any) -> None:
        item.mask = 0

    def postpone(self, item: object) -> None:
        self.postponed.append(item)

    def forget(self, item: object) -> None:
        pass


class Checked(Connection):
    """Its steps are checked against the table."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "state" and hasattr(self, "state") and value != self.state:
            step = State(self.state), State(value)
            assert step[1] in TRANSITIONS[step[0]], step
            SEEN.add(step)
        super().__setattr__(name, value)


class Peer:
    """A connection and its client."""

    def __init__(self) -> None:
        config = SimpleNamespace(
            max_head=65536, max_body=100000, header_timeout=10.0, body_timeout=30.0, keep_alive=75.0, name="test",
            request_id="asked", access_log="off", max_requests=0, max=2, spool_dir="/tmp", budget=0,
        )  # fmt: skip
        routes = Router()
        routes.post("/")(print)
        routes.post("/stream", stream=True)(print)
        context: Any = SimpleNamespace(
            config=config, board=Scoreboard(1), handlers=SimpleNamespace(routes=routes), wake_server=lambda: None
        )
        self.server = ServerState(context, 0)
        self.server.clock.tick(0.0)
        self.server.serve = self.serve
        self.server.next_piece = lambda connection: connection.source.next()
        self.server.dispose = lambda body: body.close()
        self.loop = Loop()
        self.result: Any = b"ok"
        self.bodies: list[bytes] = []  # that handlers have found
        self.trailers: list[tuple[str, str]] = []
        ours, self.client = socket.socketpair()
        ours.setblocking(False)
        self.connection = Checked(self.server, self.loop, ours, "")
        self.loop.watch(self.connection, READ)

    def serve(self, connection: Connection, head: Any, body: Any, source: Any) -> None:
        connection.state = HANDLING
        request = Request(head, body, source, "", None)
        self.bodies.append(request.body)
        self.trailers += request.trailers
        result = self.result
        if not isinstance(result, bytes):
            result = prepared(result, Worker(1), copy_context(), head)
        connection.answer(head, result, source)

    def say(self, data: bytes) -> State:
        """The client sends this; the state that follows."""
        self.client.sendall(data)
        self.connection.ready(1)
        return State(self.connection.state)

    def hear(self) -> bytes:
        return self.client.recv(2**20)

    def state(self) -> State:
        return State(self.connection.state)


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.client.close()
    peer.connection.sock.close()


def test_a_request(peer: Peer) -> None:
    assert peer.say(GET[:9]) == State.HEAD
    assert peer.connection.is_parked
    assert peer.say(GET[9:]) == State.HEAD
    assert peer.hear().endswith(b"\r\n\r\nok")


def test_a_body_in_two_pieces(peer: Peer) -> None:
    assert peer.say(POST + b"ab") == State.BODY
    assert peer.connection.is_parked
    assert peer.say(b"cd") == State.HEAD
    assert peer.hear().endswith(b"ok")


def test_the_client_leaves(peer: Peer) -> None:
    peer.client.close()
    peer.connection.ready(1)
    assert peer.state() == State.CLOSED


def test_the_client_leaves_in_a_body(peer: Peer) -> None:
    peer.say(POST)
    peer.client.close()
    peer.connection.ready(1)
    assert peer.state() == State.CLOSED


def test_no_request(peer: Peer) -> None:
    assert peer.say(b"nonsense\r\n\r\n") == State.LINGER
    assert b" 400 " in peer.hear()
    peer.client.close()
    peer.connection.ready(1)
    assert peer.state() == State.CLOSED


def test_a_body_that_comes_too_slowly(peer: Peer) -> None:
    peer.say(POST)
    peer.connection.expire()
    assert peer.state() == State.LINGER
    assert b" 408 " in peer.hear()


def crowd(peer: Peer, most: int = 4096) -> None:
    """The client reads nothing, and the kernel takes little."""
    peer.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, most)
    try:
        while True:
            peer.connection.sock.send(bytes(most))
    except BlockingIOError:
        return


def drain(peer: Peer) -> bytes:
    """The client reads, and the connection sends the rest."""
    peer.client.setblocking(False)
    got = b""
    while peer.state() == State.SENDING:
        try:
            got += peer.client.recv(2**20)
        except BlockingIOError:
            peer.connection.ready(4)
    return got


def test_a_slow_reader(peer: Peer) -> None:
    peer.result = b"x" * 2**20
    assert peer.say(GET) == State.SENDING
    assert not peer.connection.is_parked
    drain(peer)
    assert peer.state() == State.HEAD


def test_a_slow_reader_of_the_last_response(peer: Peer) -> None:
    peer.result = b"x" * 2**20
    peer.server.is_closing = True
    assert peer.say(GET) == State.SENDING
    drain(peer)
    assert peer.state() == State.LINGER


def test_a_slow_reader_that_is_refused(peer: Peer) -> None:
    crowd(peer)
    assert peer.say(b"nonsense\r\n\r\n") == State.SENDING
    peer.connection.expire()
    assert peer.state() == State.CLOSED


def test_a_slow_reader_that_is_refused_in_a_body(peer: Peer) -> None:
    peer.say(POST)
    crowd(peer)
    peer.connection.expire()
    assert peer.state() == State.SENDING


def test_a_body_that_is_not_read_ends_the_connection(peer: Peer) -> None:
    """Its handler reads it while it comes, or does not. A path without one is answered at once, too."""
    for path in (b"/stream", b"/nowhere"):
        other = Peer()
        other.serve = lambda connection, head, body, source: connection.answer(head, b"ok", source)  # type: ignore[method-assign]
        other.server.serve = other.serve
        assert other.say(LARGE.replace(b"/", path, 1)) == State.LINGER
        assert other.hear().endswith(b"ok")
        assert other.server.board.total(scoreboard.STREAMING) == 0
        other.client.close()
        other.connection.sock.close()


LARGE = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n"
EXPECT = POST[:-2] + b"Expect: 100-continue\r\n\r\n"


def feed(peer: Peer, data: bytes) -> State:
    for at in range(0, len(data), 20_000):
        peer.say(data[at : at + 20_000])
    return peer.state()


def test_a_large_body_is_spooled(peer: Peer) -> None:
    assert peer.say(LARGE) == State.SPOOLING
    assert not peer.connection.is_parked
    assert not peer.connection.runs_user_code
    assert feed(peer, b"x" * 69_999) == State.SPOOLING
    assert peer.connection.upload is not None and peer.connection.upload.spool.fd >= 0
    assert peer.say(b"y" + GET) == State.HEAD
    assert [len(body) for body in peer.bodies] == [70_000, 0]
    assert peer.connection.upload is None
    assert peer.hear().count(b"ok") == 2


def test_a_chunked_body_grows_large(peer: Peer) -> None:
    assert peer.say(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n") == State.BODY
    assert feed(peer, b"11170\r\n" + b"x" * 69_999) == State.SPOOLING
    assert peer.say(b"y\r\n0\r\n\r\n") == State.HEAD
    assert peer.bodies == [b"x" * 69_999 + b"y"]


def test_the_loop_asks_for_a_body(peer: Peer) -> None:
    assert peer.say(EXPECT) == State.SPOOLING
    assert peer.hear() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert peer.say(b"abcd") == State.HEAD
    assert peer.bodies == [b"abcd"]
    assert peer.hear().endswith(b"ok")


def test_a_large_body_that_comes_too_slowly(peer: Peer) -> None:
    peer.say(LARGE)
    peer.connection.expire()
    assert peer.state() == State.LINGER
    assert b" 408 " in peer.hear()
    assert peer.connection.upload is None


def test_a_slow_reader_that_is_refused_in_a_large_body(peer: Peer) -> None:
    peer.say(LARGE)
    crowd(peer)
    peer.connection.expire()
    assert peer.state() == State.SENDING


def test_the_client_leaves_in_a_large_body(peer: Peer) -> None:
    peer.say(LARGE)
    peer.client.close()
    peer.connection.ready(1)
    assert peer.state() == State.CLOSED


@pytest.mark.parametrize("directory", ["/proc", "/nowhere"])
def test_a_spool_that_cannot_be_made(peer: Peer, directory: str) -> None:
    peer.server.spool_dir = directory
    peer.say(LARGE)
    assert feed(peer, b"x" * 69_999) == State.LINGER
    assert b" 503 " in peer.hear()


def test_a_whole_body_waits_for_a_worker_or_a_sibling(peer: Peer) -> None:
    """Its file goes with it, and its trailers, and what follows it."""
    for head, data, trailers in (
        (LARGE, b"x" * 70_000, []),
        (EXPECT, b"abcd", []),
        (LARGE.replace(b"Content-Length: 70000", b"Transfer-Encoding: chunked"),
         b"11170\r\n" + b"x" * 70_000 + b"\r\n0\r\nX-Sum: 1\r\n\r\n", [("x-sum", "1")]),
    ):  # fmt: skip
        mine, sibling = Peer(), Peer()
        mine.say(head)
        mine.loop.is_stood_in = True
        assert feed(mine, data + GET) == State.BODY
        assert mine.loop.postponed == [mine.connection]
        assert mine.connection.is_parked
        parcel = mine.connection.parcel()
        assert parcel is not None
        sibling.connection.unpack(parcel, [os.dup(fd) for fd in mine.connection.files])
        mine.loop.is_stood_in = False
        mine.connection.resume()
        for one in (mine, sibling):
            assert one.trailers == trailers
            assert [len(body) for body in one.bodies] == [70_000 if len(data) > 4 else 4, 0]
            assert one.state() == State.HEAD
            assert one.hear().count(b"ok") == 2
            one.client.close()
            one.connection.sock.close()


def test_no_more_than_half_of_the_workers_read_bodies(peer: Peer) -> None:
    """The others' bodies are received by the loop."""
    head = LARGE.replace(b"/", b"/stream", 1)
    busy = Peer()
    busy.server.board = peer.server.board
    busy.server.words = peer.server.words
    busy.server.serve = lambda connection, head, body, source: None
    assert busy.say(head) == State.HEAD  # its handler would run
    assert peer.server.board.total(scoreboard.STREAMING) == 1
    assert peer.say(head) == State.SPOOLING
    busy.connection.close()
    assert peer.server.board.total(scoreboard.STREAMING) == 0
    busy.client.close()


def test_a_generator_whose_pieces_come_from_another_thread(peer: Peer) -> None:
    def later(connection: Any) -> None:
        connection.state = HANDLING

    peer.server.next_piece = later
    peer.loop.now += 60  # a busy machine does not end the turn
    peer.result = Response(iter([b"a"]))
    assert peer.say(GET) == State.HANDLING
    assert peer.connection.runs_user_code
    peer.connection.state = SENDING
    peer.connection.take_piece(b"1\r\na\r\n")
    peer.server.next_piece = lambda connection: b""
    peer.connection.pump()
    assert peer.state() == State.HEAD


def test_a_handler_that_does_not_return(peer: Peer) -> None:
    handled: list[Any] = []

    def serve(connection: Any, head: Any, body: Any, source: Any) -> None:
        connection.state = HANDLING
        handled.append(head)

    peer.server.serve = serve
    assert peer.say(GET) == State.HANDLING
    peer.connection.expire()
    assert peer.state() == State.HANDLING, "its time is --request-timeout's"
    peer.connection.abandon(handled[0])
    assert peer.state() == State.ABANDONED
    assert b" 503 " in peer.hear()
    assert sum(peer.server.latency) == 1
    peer.connection.close()
    assert peer.state() == State.CLOSED


def test_whatever_fails_resets_the_connection(peer: Peer) -> None:
    def serve(connection: Any, head: Any, body: Any, source: Any) -> None:
        connection.state = HANDLING

    peer.server.serve = serve
    assert peer.say(GET) == State.HANDLING
    peer.connection.abort()
    assert peer.state() == State.CLOSED
    peer.connection.abort()


def test_a_body_of_which_the_rest_makes_a_bad_chunk(peer: Peer) -> None:
    assert peer.say(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n") == State.BODY
    assert peer.say(b"x\r\n") == State.LINGER


def test_hand_over_in_the_middle_of_a_body(peer: Peer) -> None:
    """A sibling goes on with the same deadline."""
    peer.say(POST + b"ab")
    parcel = peer.connection.parcel()
    assert parcel is not None
    sibling = Peer()
    sibling.connection.unpack(parcel, [])
    assert sibling.state() == State.BODY
    assert sibling.connection.deadline == peer.connection.deadline
    assert sibling.say(b"cd") == State.HEAD
    assert sibling.hear().endswith(b"ok")
    sibling.client.close()
    sibling.connection.sock.close()


def test_a_reset_after_the_response_has_begun(peer: Peer) -> None:
    """shutdown(2) of a connection that its client has reset fails: there is nothing to linger for."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    ours.setblocking(False)
    connection = Checked(peer.server, peer.loop, ours, "")
    client.sendall(b"nonsense\r\n\r\n")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    time.sleep(0.05)
    connection.ready(1)
    assert State(connection.state) == State.CLOSED
    listener.close()


def test_the_fast_way_of_a_response_agrees_with_the_other(peer: Peer) -> None:
    """ResponseWriter.answer has a few lines in place of `compose` for what most handlers return."""
    for extra in (b"", b"X-Request-ID: one\r\n"):
        found = []
        for fast in (True, False):
            other = Peer()
            other.result = b"some bytes"

            def serve(
                connection: Any, head: Any, body: Any, source: Any, fast: bool = fast, other: Peer = other
            ) -> None:
                connection.state = HANDLING
                sent = other.server.traced(head._block)
                connection.trace = None
                if sent:
                    connection.trace = Trace(sent)
                head.simple = fast
                connection.answer(head, other.result, source)

            other.server.serve = serve
            other.say(GET[:-2] + extra + b"\r\n")
            found.append((other.hear(), other.server.sent, sum(other.server.latency), other.state()))
            other.client.close()
            other.connection.sock.close()
        assert found[0] == found[1]


@pytest.mark.parametrize("held", [GET[:-2] + b"X: " + b"x" * 30000, POST.replace(b" 4", b" 40000") + b"x" * 30000])
def test_what_is_shed_is_refused_slowly(peer: Peer, held: bytes) -> None:
    """Its connection stays open for some seconds, or its client would come back at once with as much."""
    peer.server.budget.most = 50000
    other = Peer()
    other.connection.server = peer.server
    for one in (peer, other):
        one.loop.now = peer.loop.now
        one.say(held)
    assert peer.state() == State.LINGER
    assert other.state() < State.HANDLING  # the last one never is
    assert b" 503 " in peer.hear()
    assert peer.say(b"more") == State.LINGER
    assert SHED <= peer.connection.deadline - peer.loop.now <= SHED + SPREAD
    peer.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.hear()
    peer.connection.drain()
    assert peer.connection.deadline - peer.loop.now <= LINGERING
    peer.connection.expire()
    assert peer.state() == State.CLOSED
    other.client.close()
    other.connection.sock.close()


def test_a_slow_reader_is_shed(peer: Peer) -> None:
    peer.result = b"x" * 2**20
    assert peer.say(GET) == State.SENDING
    assert list(peer.server.budget.holders) == [peer.connection]
    assert peer.connection.held > 2**20
    assert peer.connection.shed()
    assert peer.state() == State.CLOSED


def test_a_handler_that_runs_is_not_shed(peer: Peer) -> None:
    peer.connection.state = HANDLING
    peer.connection.buffer = GET * 1000
    assert peer.connection.held == 0
    assert not peer.connection.shed()
    assert not peer.connection.is_shed


def test_every_step_of_the_table_was_walked() -> None:
    """By the tests above, all of which run before."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        pytest.skip("the tests above ran in other processes")
    wanted = {(one, other) for one, others in TRANSITIONS.items() for other in others}
    assert wanted == SEEN
