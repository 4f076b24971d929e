"""One HTTP connection: what it receives, and what moves it from one state to the next (see `states`)."""

import socket
import struct
from time import monotonic

from ..http1.chunked import Chunked
from ..http1.parser import CHUNKED, Head, ProtocolError, parse_head
from ..http1.states import ABANDONED, BODY, CLOSED, HANDLING, HEAD, LINGER, SENDING
from ..ipc.scoreboard import Phase
from ..ipc.waker import wait_for
from ..loop.interfaces import FOREVER, PARCEL_MOST
from ..loop.selector import READ, WRITE
from ..web.response import HTTPError, error_page
from .bodies import RATE, RECEIVE, Body, Stream, unsent
from .response_head import CLOSE, head_of
from .response_writer import LINGERING, TURN, ResponseWriter

BUFFERED = 65536  # a body up to this size is complete before its handler starts
UNREAD = 1.0  # seconds by which a deadline is put off when bytes have arrived that no worker was free to read
DISCARD = 2**26  # bytes that a client may go on sending in LINGER

# Of a connection handed over: requests served so far, deadline (all processes have one monotonic clock), and whether
# the bytes received, which follow, are an unfinished head.
PARCEL = struct.Struct("!Id?")


class Connection(ResponseWriter):
    """The receiving half, and the life of the whole."""

    __slots__ = ()

    # ---- what the loop knows -----------------------------------------------------------------------------------

    @property
    def is_parked(self) -> bool:
        return self.state <= BODY

    @property
    def runs_user_code(self) -> bool:
        return self.state == HANDLING or (self.state == SENDING and isinstance(self.source, Stream))

    @property
    def interest(self) -> int:
        return WRITE if self.state == SENDING else READ

    def ready(self, mask: int) -> None:
        state = self.state
        if state <= BODY:
            try:
                data = self.sock.recv(RECEIVE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self.server.received += len(data)
            if not data:
                if self.buffer:
                    self.note("left in the middle of a request")
                self.close()
            elif state == HEAD:
                self.advance(self.buffer + data if self.buffer else data)
            else:
                self.more_body(data)
                self.resume()
        elif state == SENDING:
            self.pump()
            self.resume()
        elif state == LINGER:
            self.discard()
        else:
            self.loop.unwatch(self)  # another thread runs its handler, and then it is watched again

    def resume(self) -> None:
        """A response is sent: serve what the client sent after the request. Called by the caller of what sent it, never
        from within: a hundred pipelined requests must not nest."""
        if self.state == HEAD and self.buffer:
            if self.loop.is_stood_in:
                self.loop.postpone(self)
            else:
                self.advance(self.buffer)

    # ---- requests ----------------------------------------------------------------------------------------------

    def advance(self, data: bytes) -> None:
        """Serve the requests in `data` one after the other, in order (RFC 9112 9.3.2), until it runs out."""
        loop, server = self.loop, self.server
        turn = loop.now
        while True:
            try:
                found = parse_head(data, server.limits, 0, self.seen)
            except ProtocolError as error:
                self.refuse(error.status, error.reason)
                return
            if found is None:
                if self.served and not self.seen:  # from here it is --header-timeout, not --keep-alive
                    self.deadline = loop.now + server.header_timeout
                self.buffer = data
                self.seen = len(data)
                return
            head, end = found
            self.seen = 0
            self.began = loop.now
            if head.length == 0:
                self.buffer = data[end:] if end < len(data) else b""
                server.serve(self, head, b"", None)
            else:
                self.begin_body(head, data, end)
            data = self.buffer
            if not data or self.state != HEAD:
                return
            if monotonic() - turn > TURN:
                loop.postpone(self)
                return

    def begin_body(self, head: Head, data: bytes, end: int) -> None:
        """A head with a body: serve it if all is there, or wait for the rest."""
        limit = self.server.max_body
        if limit and head.length > limit:
            self.refuse(413, f"the body has more than {limit} bytes", head)
            return
        if head.expect or head.length > BUFFERED:
            self.stream_to_handler(head, data[end:], b"")
            return
        if head.length != CHUNKED and len(data) >= end + head.length:
            self.buffer = data[end + head.length :]
            self.server.serve(self, head, data[end : end + head.length], None)
            return
        self.head = head
        self.state = BODY
        self.deadline = self.loop.now + self.server.body_timeout
        self.buffer = data[:end]
        if head.length == CHUNKED:
            self.decoder = Chunked(self.server.limits)
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
        # connection can still be handed over, and the decoder only finds the end.
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
        server = self.server
        try:
            source = Body(self, head, data, server.limits, server.max_body, server.body_timeout)
        except HTTPError as error:
            self.refuse(error.status, error.detail, head)
            return
        self.to_handler(head, source.data if source.is_done else None, source, rest)

    def to_handler(self, head: Head, body: bytes | None, source: Body | None, rest: bytes) -> None:
        self.head = self.decoder = None
        self.state = HEAD
        self.began = self.loop.now  # the wait for the body is the client's
        self.buffer = rest
        self.server.serve(self, head, body, source)

    def refuse(self, status: int, detail: str, head: Head | None = None) -> None:
        """Answer what is no valid request, and close: nothing after it on this connection is trusted."""
        self.server.count_error()
        self.trace = None
        self.note("refused: %d, %s", status, detail)
        start, page = self.page(status, detail, head)
        body = page if head is None or head.method != "HEAD" else b""
        self.expect_entry(head, status, len(body))
        self.close_after = True
        self.is_last = False
        self.buffer = b""
        self.head = self.decoder = None
        self.transmit(start + body)

    def page(self, status: int, detail: str, head: Head | None) -> tuple[bytes, bytes]:
        """Head and body of an error page after which the connection closes."""
        response = error_page(status, detail, head.get("accept", "") if head is not None else "")
        assert isinstance(response.body, bytes)
        return head_of(response, self.server.clock, len(response.body), CLOSE, False), response.body

    # ---- hand-over ---------------------------------------------------------------------------------------------

    def parcel(self) -> bytes | None:
        """What a sibling has to know of a parked connection, its bytes included; None: it stays here."""
        if self.state > BODY or len(self.buffer) > PARCEL_MOST - PARCEL.size:
            return None
        deadline = self.deadline
        if self.server.is_retiring and self.state == HEAD and not self.buffer:  # its own again, not the drain's
            deadline = self.loop.now + (self.server.parked_timeout if self.served else self.server.header_timeout)
        return PARCEL.pack(self.served, deadline, bool(self.seen)) + self.buffer

    def unpack(self, parcel: bytes) -> None:
        """Go on where a sibling has stopped. The time that its client has does not begin anew."""
        self.served, deadline, unfinished = PARCEL.unpack_from(parcel)
        self.deadline = deadline
        self.buffer = parcel[PARCEL.size :]
        if unfinished:
            self.seen = len(self.buffer)
            return
        self.resume()
        if self.state == BODY:
            self.deadline = deadline

    # ---- the end -----------------------------------------------------------------------------------------------

    def discard(self) -> None:
        """In LINGER: what the client still sends."""
        try:
            data = self.sock.recv(RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.moved += len(data)
        if not data or self.moved > DISCARD:
            self.close()
        elif not self.loop.mode:
            self.deadline = min(self.loop.now + LINGERING, self.left)

    def expire(self) -> None:
        if self.state == HANDLING or (self.loop.is_stood_in and self.runs_user_code):
            return
        if self.state <= BODY and (not self.mask or wait_for(self.fd, READ, 0)):
            # What has arrived waits for this worker. The client has its time once that is read.
            self.deadline = self.loop.now + min(UNREAD, self.server.header_timeout)
            return
        if self.state == HEAD and self.buffer.strip(b"\r\n"):
            self.refuse(408, "the request head came too slowly")
        elif self.state == BODY:
            self.refuse(408, "the request body came too slowly", self.head)
        elif self.state == SENDING and self.queued - (queued := unsent(self.fd)) >= RATE:
            self.queued = queued  # it reads, but buffers of megabytes do not take more of it yet
            self.deadline = self.loop.now + self.server.body_timeout
        else:
            if self.state == SENDING:
                self.note("does not read its response: closed")
            elif self.state == HEAD and not self.served and not self.loop.mode:
                self.note("sent no request: closed")
            self.close()  # idle, not reading, or lingering

    def drain(self) -> None:
        """The service stops or is replaced: an idle connection lives on for a moment, others finish. On a reload a
        new connection gets the time that it always has: for its client nothing has happened."""
        server = self.server
        is_new = not self.served and server.board.phase == Phase.REPLACED
        if self.state == HEAD and not self.buffer and not is_new:
            self.deadline = min(self.deadline, self.loop.now + server.keep_alive)

    def abort(self) -> None:
        """Something has failed on behalf of this connection: end it with a reset, whatever its state."""
        if self.state == CLOSED:
            return
        self.state = CLOSED
        self.entry = None
        try:
            self.break_off()
            self.drop_source()
        finally:
            self.release()

    def abandon(self, head: Head | None = None) -> None:
        """--request-timeout: answer for the handler of this request, which does not return, with 503."""
        if self.state == HANDLING:
            self.expect_entry(self.entry.head if self.entry is not None else head, 503, 0)
            self.write_entry()
            if self.source is None:  # else it was counted when its head was sent
                self.server.count(monotonic() - self.began)
            self.state = ABANDONED
            self.deadline = FOREVER
            try:
                if self.source is None:  # of a streamed response the head is out already
                    self.sock.send(b"".join(self.page(503, "the request took too long", None)))
                elif isinstance(self.source, Stream) and not self.source.chunked:
                    self.break_off()  # at the end of the process: an orderly end would end the body
                    return
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # the client has left
        elif self.source is not None:
            self.break_off()
