"""One HTTP connection: its states, and what moves it from one to the next. This file holds all of them.

    HEAD ──head──▶ BODY ──64 KiB or all of it──▶ HANDLING ──▶ SENDING ──▶ HEAD (keep-alive) or LINGER ──▶ CLOSED

HEAD      waits for a request head: --header-timeout, and between requests --keep-alive
BODY      waits for a small body, so that the handler finds it complete: --body-timeout per 64 KiB
HANDLING  a handler runs; larger bodies are read by it, from the socket, under the same limit
SENDING   the client still reads the response: --body-timeout per 64 KiB
LINGER    all is said, our side is shut: what the client still sends is thrown away until it closes too, so that
          no reset destroys the last response on its way (RFC 9112 9.6)

Only the loop that owns a connection changes its state. A worker is needed in HANDLING alone.
"""

import os
import select
import socket
import struct
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..http1.chunked import Chunked
from ..http1.parser import CHUNKED, Head, ProtocolError, parse_head
from ..ipc import scoreboard
from ..ipc.scoreboard import BUCKETS
from ..log.records import log
from ..pool.worker import Worker, WorkerFailed
from .bodies import RATE, RECEIVE, Body, Region, Stream, shut, unsent
from .messages import DisconnectedError, HTTPError, Request, Response, error_page
from .response_head import BODILESS, head_of
from .routes import METHODS, Handler, Route
from .trace_context import Trace, runs_handlers

if TYPE_CHECKING:
    from ..loop.event_loop import EventLoop


HEAD, BODY, HANDLING, SENDING, LINGER, CLOSED = range(6)
BUFFERED = 65536  # a body up to this size is complete before its handler starts
LINGERING = 2.0  # seconds of silence after which the client's end is no longer waited for
LINGERING_MOST = 30.0  # seconds that a client may go on sending
DISCARD = 2**26  # and bytes
GREETING = 0.5  # seconds that idle connections live on in a drain: a request may be on its way
READ, WRITE = select.POLLIN, select.POLLOUT
BROKEN = b"broken"  # compared by identity: what make_piece returns for a generator that failed
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
FOREVER = 1e12
TURN = 0.005  # seconds after which one client's pipeline or stream makes room for the others
new = object.__new__
NOTHING = memoryview(b"")  # one for all: a parked connection has to be small


class Connection:
    """See the head of this file. `mask` is what the loop watches its descriptor for, 0 when it does not."""

    __slots__ = (
        "began", "buffer", "close_after", "deadline", "decoder", "fd", "head", "last", "left", "loop", "mask", "moved",
        "need", "out", "peer", "queued", "served", "sock", "source", "state", "seen",
        "trace",
    )  # fmt: skip

    def __init__(self, loop: "EventLoop", sock: socket.socket, peer: Any, buffer: bytes = b"", served: int = 0) -> None:
        self.loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.state = HEAD
        self.buffer = buffer  # received, not used yet
        self.seen = 0  # how much of it the parser has seen
        self.served = served
        self.began = 0.0  # when the request that is being handled had come
        self.head: Head | None = None
        self.need = 0  # offset in buffer at which the request ends
        self.decoder: Chunked | None = None
        self.out = NOTHING  # of the response, not sent yet
        self.source: Region | Stream | None = None  # where more of the response comes from
        self.moved = 0  # bytes since the deadline was last put off
        self.queued = 0  # bytes that the kernel had for the client when it would take no more
        self.left = 0.0  # seconds to the deadline, while not the client is waited for; in LINGER the latest deadline
        self.close_after = False
        self.last = False  # the client has said that it sends nothing more, and all it sent has been read
        self.mask = 0
        self.trace: Trace | None = None  # of the request that was handled last, if it has one
        self.deadline = loop.now + loop.header_timeout

    # ---- the client sent something, or is ready to take something ------------------------------------------

    def ready(self, mask: int) -> None:
        """An event on the descriptor."""
        state = self.state
        if state <= BODY:
            try:
                data = self.sock.recv(RECEIVE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self.loop.received += len(data)
            if not data:
                if self.buffer:
                    self.note("left in the middle of a request")
                self.close()
            elif state == HEAD:
                self.advance(self.buffer + data if self.buffer else data)
            else:
                self.more_body(data)
                self.go_on()
        elif state == SENDING:
            self.pump()
            self.go_on()
        elif state == LINGER:
            self.discard()
        else:
            self.loop.mute(self)  # HANDLING, by somebody else: he will come back to it

    def go_on(self) -> None:
        """A response is sent: serve what the client sent after the request. Called by who called what answered it,
        never from in there: a hundred pipelined requests must not nest."""
        if self.state == HEAD and self.buffer:
            if self.loop.shared:  # the sentry stands in, and must not run a handler
                self.loop.put_off(self)
            else:
                self.advance(self.buffer)

    def advance(self, data: bytes) -> None:
        """Serve the requests in `data` one after the other, in order (RFC 9112 9.3.2), until it runs out."""
        loop = self.loop
        while True:
            try:
                found = parse_head(data, loop.limits, 0, self.seen)
            except ProtocolError as error:
                self.refuse(error.status, error.reason)
                return
            if found is None:
                if self.served and not self.seen:  # from here it is --header-timeout, not --keep-alive
                    self.deadline = loop.now + loop.header_timeout
                self.buffer = data
                self.seen = len(data)
                return
            head, end = found
            self.seen = 0
            self.began = loop.now
            if head.length == 0:
                self.buffer = data[end:] if end < len(data) else b""
                loop.serve(self, head, b"", None)
            else:
                self.begin_body(head, data, end)
            data = self.buffer
            if not data or self.state != HEAD:
                return
            if monotonic() - loop.now > TURN:
                loop.put_off(self)
                return

    def begin_body(self, head: Head, data: bytes, end: int) -> None:
        """A head with a body: serve it if all is there, or wait for the rest."""
        limit = self.loop.config.max_body
        if limit and head.length > limit:
            self.refuse(413, f"the body has more than {limit} bytes", head)
            return
        if head.expect or head.length > BUFFERED:
            self.stream_to_handler(head, data[end:], b"")
            return
        if head.length != CHUNKED and len(data) >= end + head.length:
            self.buffer = data[end + head.length :]
            self.loop.serve(self, head, data[end : end + head.length], None)
            return
        self.head = head
        self.state = BODY
        self.deadline = self.loop.now + self.loop.body_timeout
        self.buffer = data[:end]
        if head.length == CHUNKED:
            self.decoder = Chunked(self.loop.limits)
            self.moved = 0
            self.need = end
        else:
            self.need = end + head.length
        self.more_body(data[end:])

    def more_body(self, data: bytes) -> None:
        """More of a small body: complete it, or hand what became too large to the handler as a stream."""
        head = self.head
        assert head is not None
        self.buffer += data
        if self.decoder is None:
            if len(self.buffer) >= self.need:
                body, rest = self.buffer[self.need - head.length : self.need], self.buffer[self.need :]
                self.to_handler(head, body, None, rest)
            return
        # A chunked body is decoded anew when it is complete: `buffer` keeps all that was received, so that the
        # connection can still be handed to another worker, and the decoder only finds the end.
        try:
            payload, rest = self.decoder.feed(data)
        except ProtocolError as error:
            self.refuse(error.status, error.reason, head)
            return
        self.moved += len(payload)
        if self.decoder.done or self.moved > BUFFERED or len(self.buffer) - self.need > 2 * BUFFERED:
            self.stream_to_handler(head, self.buffer[self.need : len(self.buffer) - len(rest)], rest)

    def stream_to_handler(self, head: Head, data: bytes, rest: bytes) -> None:
        """Run the handler of a body of which this much is there; it reads the rest, if it wants it."""
        try:
            source = Body(self, head, data)
        except HTTPError as error:
            self.refuse(error.status, error.detail, head)
            return
        self.to_handler(head, source.data if source.done else None, source, rest)

    def to_handler(self, head: Head, body: bytes | None, source: Body | None, rest: bytes) -> None:
        self.head = self.decoder = None
        self.state = HEAD
        self.began = self.loop.now  # the wait for the body is the client's
        self.buffer = rest
        self.loop.serve(self, head, body, source)

    # ---- answers -----------------------------------------------------------------------------------------------

    def handle(
        self, head: Head, body: bytes | None, source: Body | None, route: Route, params: dict[str, str], worker: Worker
    ) -> Any:
        """Run the handler. Returns its Response, plain bytes, or None when the client has left. Touches nothing but
        this request, so any thread may run it."""
        request = new(Request)  # its __init__ would be called by way of C
        request.head = head
        request.method = head.method
        request.params = params
        request.peer = self.peer
        request.worker = worker
        request._body = body
        request._source = source
        request._headers = None
        request._query = None
        request._trace = None
        sent = self.loop.traced(head._block)
        if sent:
            request._trace = Trace(sent)
        try:
            handler = route.handlers.get(head.method) or route.find(head.method)
            if handler is None:
                unusual = self.unusual(request)
                if isinstance(unusual, Response):
                    return unusual
                handler = unusual
            result = handler(request)
            return result if type(result) is bytes else Response.of(result)
        except HTTPError as error:
            return error_page(error.status, error.detail, head.get("accept", ""), error.headers.items())
        except DisconnectedError as error:
            self.note("left: %s", error)
            return None
        except (WorkerFailed, SystemExit) as failure:
            worker.failed(failure)
            return error_page(500, "", head.get("accept", ""))
        except BaseException:  # such as asyncio's CancelledError
            return self.failed(head)
        finally:
            self.trace = request._trace

    def identified(self, result: Any, trace: Trace) -> Response:
        """The answer, with the ids of its request in it."""
        response = Response.of(result)
        given = {name.lower() for name, _ in response.headers}
        more = [one for one in trace.fields() if one[0].lower() not in given]
        return Response(response.body, response.status, [*response.headers, *more], response.content_type)

    def unusual(self, request: Request) -> Handler | Response:
        """What the best route of a path does not handle."""
        method, path = request.method, request.head.path
        if path == "*":  # RFC 9110 9.3.7: about the server as a whole; the parser lets nothing else ask for it
            return Response(status=204, headers={"Allow": ", ".join(METHODS)})
        if method not in METHODS and method != "TRACE":
            raise HTTPError(501)  # RFC 9110 15.6.2
        handler, request.params, allow = self.loop.router.other(path, method)
        if handler is not None:
            return handler
        if method == "TRACE":  # RFC 9110 9.3.8: it would show cookies to scripts
            raise HTTPError(405, "", {"Allow": allow or ", ".join(METHODS)})
        if not allow:
            raise HTTPError(404)
        if method == "OPTIONS":
            return Response(status=204, headers={"Allow": allow})
        raise HTTPError(405, "", {"Allow": allow})

    def failed(self, head: Head) -> Response:
        """A handler's bug: the traceback for the log, its id for both sides, and nothing else for the client."""
        mark = os.urandom(8).hex()
        log.exception("%s %s from %s failed, error id %s", head.method, head.path, self.shown_peer(), mark)
        return error_page(500, f"error id {mark}", head.get("accept", ""))

    def answer(self, head: Head, result: Any, source: Body | None) -> None:
        """Count a request, send its handler's result, and decide what comes next."""
        loop = self.loop
        # Scoreboard.record in line, and before the answer: whoever has that finds its request counted.
        loop.moment = moment = monotonic()
        took = int((moment - self.began) * 1e6)
        loop.microseconds += took
        bits = took.bit_length()
        loop.latency[bits if bits < BUCKETS else BUCKETS - 1] += 1
        if loop.quota:
            loop.count_down()
        self.state = HEAD
        self.served += 1
        plain = type(result) is bytes and head.simple and source is None and not loop.parting
        if plain:  # as good as all are: a few lines for what `composed` does
            size = len(result)
            data = loop.clock.heads.get(size) or loop.clock.head_of_bytes(size)
            data = data + result if self.trace is None else data[:-2] + self.trace.lines() + b"\r\n" + result
        elif result is None:
            self.close()
            return
        else:
            data = self.composed(head, result, source)
        try:
            sent = self.sock.send(data)  # with luck all of it, in one call
        except OSError as error:
            self.not_sent(data, error)
            return
        if plain and sent == len(data):
            loop.sent += sent
            self.deadline = loop.now + loop.keep_alive
        else:
            self.transmitted(data, sent)

    def composed(self, head: Head, result: Any, source: Body | None) -> bytes:
        """The first bytes of the response that a handler's result makes. Decides whether the connection ends then."""
        loop = self.loop
        if not head.keep_alive:
            self.close_after = self.last = True
        elif loop.parting and not (self.buffer and loop.retiring):  # a sibling goes on with what came after it
            self.close_after = True
        if source is not None:
            loop.received += source.received
            if source.done:
                self.buffer = source.rest + self.buffer
            else:
                source.expect = False  # too late for a 100
                self.close_after = True  # the rest of the body is unread: nothing after it could be understood
                self.last = False
        trace = self.trace
        if type(result) is bytes and (head.minor or self.close_after) and head.method != "HEAD":
            key = ~len(result) if self.close_after else len(result)
            start = loop.clock.heads.get(key) or loop.clock.head_of_bytes(key)
            if trace is not None:
                start = start[:-2] + trace.lines() + b"\r\n"
            whole: bytes = start + result
            return whole
        response = Response.of(result) if trace is None else self.identified(result, trace)
        try:
            data = self.compose(head, response)
        except Exception:  # an invalid field, or a body that is none
            shut(response.body)
            response = self.failed(head)
            data = self.compose(head, response)
        if response.status >= 500:
            loop.count_error()
        return data

    def transmit(self, data: bytes) -> None:
        """Send the first bytes of a response."""
        try:
            sent = self.sock.send(data)
        except OSError as error:
            self.not_sent(data, error)
        else:
            self.transmitted(data, sent)

    def not_sent(self, data: bytes, error: OSError) -> None:
        """Not even the first byte."""
        if isinstance(error, BlockingIOError):
            self.transmitted(data, 0)
        else:
            self.note("left before its response")
            self.close()

    def transmitted(self, data: bytes, sent: int) -> None:
        """So many of the first bytes of a response are sent."""
        loop = self.loop
        loop.sent += sent
        if sent < len(data) or self.source is not None:
            self.out = memoryview(data)[sent:]
            self.state = SENDING
            self.moved = 0
            self.deadline = loop.now + loop.body_timeout
            self.pump()
        else:
            self.finish()

    def compose(self, head: Head, response: Response) -> bytes:
        """The first bytes of a response: its head, and its body when that is in memory. Sets `source`."""
        body = response.body
        if isinstance(body, str):
            body = body.encode()
        elif isinstance(body, bytearray | memoryview):
            body = bytes(body)
        region = None if isinstance(body, bytes) else Region.of(body)
        length = len(body) if isinstance(body, bytes) else region.left if region else None
        empty = head.method == "HEAD" or response.status in BODILESS
        chunked = length is None and bool(head.minor) and not empty
        if length is None and not head.minor and not empty:
            self.close_after = True  # HTTP/1.0: only the end of the connection can end the body
        connection = b""
        if self.close_after:
            connection = b"Connection: close\r\n"
        elif not head.minor:
            connection = b"Connection: keep-alive\r\n"
        start = head_of(response, self.loop.clock, length, connection, chunked)
        if isinstance(body, bytes):
            return start if empty else start + body
        source = region or Stream(body, chunked)
        if empty:
            source.close()
        else:
            self.source = source
        return start

    def pump(self) -> None:
        """Send as much as the client takes. A generator's next piece runs here, as user code."""
        loop = self.loop
        budget = 64  # pieces of 64 KiB per turn, so that one fast response does not keep the loop from the others
        try:
            while budget > 0:
                source = self.source
                sent = 0
                if self.out:
                    sent = self.sock.send(self.out)
                    self.out = self.out[sent:]
                elif source is None:
                    self.finish()
                    return
                elif isinstance(source, Stream):
                    self.left = self.deadline - monotonic()
                    self.deadline = FOREVER
                    piece = loop.next_piece(self)
                    if piece is None:
                        return  # a thread makes it, and comes back with it
                    self.take_piece(piece)
                    if self.state != SENDING:
                        return
                    if monotonic() - loop.now > TURN:
                        budget = 0
                elif source.left:
                    sent = source.send(self.fd)
                    if not sent:
                        log.error("a file became shorter while it was sent to %s", self.shown_peer())
                        self.take_piece(BROKEN)
                        return
                else:
                    self.drop_source()
                budget -= 1 + (sent >> 16)
                self.moved += sent
                loop.sent += sent
                if self.moved >= RATE:
                    self.moved = 0
                    self.deadline = loop.now + loop.body_timeout
        except BlockingIOError:
            self.queued = unsent(self.fd)  # the client has to read first
        except OSError:
            self.note("left in the middle of a response")
            self.close()
            return
        loop.watch(self, WRITE)

    def make_piece(self, worker: Worker) -> bytes:
        """Run the generator to its next piece; b"" at its end, BROKEN when it failed. User code."""
        assert isinstance(self.source, Stream)
        try:
            return self.source.next()
        except (WorkerFailed, SystemExit) as failure:
            worker.failed(failure)
        except BaseException:
            log.exception("a streamed response to %s broke off", self.shown_peer())
        return BROKEN

    def take_piece(self, piece: bytes) -> None:
        """The generator has made a piece; the client's time goes on."""
        if self.state == CLOSED:
            return
        self.deadline = monotonic() + self.left
        if piece is BROKEN:
            self.loop.count_error()
            self.break_off()
            self.close()
        elif piece:
            self.out = memoryview(piece)
        else:
            self.drop_source()

    def break_off(self) -> None:
        """However the socket is closed now, the client gets a reset: only that says in the middle of a body that more
        should have come, for in HTTP/1.0 an orderly end would end it."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def drop_source(self) -> None:
        source, self.source = self.source, None
        shut(source)

    def finish(self) -> None:
        """The response is sent."""
        if self.close_after:
            if self.last and not self.buffer:
                self.close()
            else:
                self.linger()
            return
        loop = self.loop
        self.deadline = loop.now + loop.keep_alive
        if self.state != HEAD:
            self.out = NOTHING  # even an empty view would keep the whole response in memory
            self.state = HEAD
            loop.watch(self, READ)

    def refuse(self, status: int, detail: str, head: Head | None = None) -> None:
        """Answer what is no valid request, and close: nothing after it on this connection is trusted."""
        self.loop.count_error()
        self.trace = None
        self.note("refused: %d, %s", status, detail)
        response = error_page(status, detail, head.get("accept", "") if head is not None else "")
        body = response.body
        assert isinstance(body, bytes)
        data = head_of(response, self.loop.clock, len(body), b"Connection: close\r\n", False)
        self.close_after = True
        self.last = False
        self.buffer = b""
        self.head = self.decoder = None
        self.transmit(data if head is not None and head.method == "HEAD" else data + body)

    # ---- the end -----------------------------------------------------------------------------------------------

    def linger(self) -> None:
        """Shut our side and wait, without holding anybody up, for the client to close its own."""
        self.state = LINGER
        self.buffer = b""
        self.moved = 0
        self.deadline = self.loop.now + LINGERING
        self.left = self.loop.now + LINGERING_MOST
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.loop.watch(self, READ)

    def discard(self) -> None:
        try:
            data = self.sock.recv(RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.moved += len(data)
        if not data or self.moved > DISCARD:
            self.close()
        elif not self.loop.draining:
            self.deadline = min(self.loop.now + LINGERING, self.left)

    def expire(self) -> None:
        """The deadline has passed."""
        if self.state == HEAD and self.buffer.strip(b"\r\n"):
            self.refuse(408, "the request head came too slowly")
        elif self.state == BODY:
            self.refuse(408, "the request body came too slowly", self.head)
        elif self.state == SENDING and self.queued - (queued := unsent(self.fd)) >= RATE:
            self.queued = queued  # it reads, but buffers of megabytes do not take more of it yet
            self.deadline = self.loop.now + self.loop.body_timeout
        else:
            if self.state == SENDING:
                self.note("does not read its response: closed")
            elif self.state == HEAD and not self.served and not self.loop.draining:
                self.note("sent no request: closed")
            self.close()  # idle, not reading, or lingering

    def drain(self) -> None:
        """The service stops or is replaced: an idle connection lives on for a moment, others finish. On a reload a
        new connection gets the time that it always has: for its client nothing has happened."""
        fresh = not self.served and self.loop.words[scoreboard.PHASE] == scoreboard.REPLACED
        if self.state == HEAD and not self.buffer and not fresh:
            self.deadline = min(self.deadline, self.loop.now + self.loop.keep_alive)

    def close(self) -> None:
        if self.state != CLOSED:
            self.state = CLOSED
            if self.source is not None:
                self.drop_source()
            self.loop.forget(self)
            self.sock.close()

    def given_up(self) -> None:
        """--request-timeout: somebody else answers, with 503. (The access log notes it.)"""

    def note(self, text: str, *values: object) -> None:
        """A line in the log about this client. Nothing that the client has sent may be in it."""
        self.loop.note("%s " + text, self.shown_peer(), *values)

    def shown_peer(self) -> str:
        return f"{self.peer[0]}:{self.peer[1]}" if isinstance(self.peer, tuple) else "a local client"


runs_handlers(Connection.handle, "request")
runs_handlers(Connection.make_piece, "self")
