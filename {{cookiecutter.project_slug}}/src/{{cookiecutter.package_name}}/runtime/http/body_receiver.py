"""The receiving of request bodies: in memory, or into a spool, until their handlers can start; and refusals."""

import logging

from ..http1.chunked import Chunked
from ..http1.parser import CHUNKED, Head, ProtocolError
from ..http1.states import BODY, HEAD, SPOOLING
from ..loop.selector import READ
from ..loop.spool import IN_MEMORY, Spool
from ..system.refusal import RETRY_AFTER
from ..web.response import HTTPError, error_page
from .bodies import CONTINUE, RATE, Body
from .response_head import CLOSE, head_of
from .response_writer import ResponseWriter


class BodyReceiver(ResponseWriter):
    """A connection's part in it."""

    __slots__ = ()

    def begin_body(self, head: Head, data: bytes, end: int) -> None:
        """A head with a body: serve it if all is there, or wait for the rest."""
        limit = self.server.max_body
        if limit and head.length > limit:
            self.refuse(413, f"the body has more than {limit} bytes", head)
            return
        if head.length != CHUNKED and len(data) >= end + head.length:
            self.buffer = data[end + head.length :]
            self.server.serve(self, head, data[end : end + head.length], None)
            return
        streams = self.server.router.streams(head.method, head.path)
        if streams and self.server.begin_streaming():
            self.upload = self.body_of(head, Spool())
            self.upload.on_close = self.server.end_streaming
            self.stream_to_handler(head, data[end:], self.upload)
            return
        if head.expect or head.length > IN_MEMORY:
            self.begin_spooling(head, data[:end], data[end:])
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
            else:
                self.buffers()
            return
        # A chunked body is decoded anew when it is complete: `buffer` keeps all that was received, so that the
        # connection can still be handed over, and the decoder only finds the end.
        try:
            payload, rest = self.decoder.feed(data)
        except ProtocolError as error:
            self.refuse(error.status, error.reason, head)
            return
        self.moved += len(payload)
        if self.decoder.done or self.moved > IN_MEMORY or len(self.buffer) - self.need > 2 * IN_MEMORY:
            self.begin_spooling(head, self.buffer[: self.need], self.buffer[self.need :])
        else:
            self.buffers()

    def body_of(self, head: Head, spool: Spool) -> Body:
        server = self.server
        return Body(self, head, spool, server.limits, server.max_body, server.body_timeout)

    def begin_spooling(self, head: Head, start: bytes, data: bytes) -> None:
        """Receive a body, without a worker, of which this much is there; `start` is the head as sent."""
        server = self.server
        if server.router.streams(head.method, head.path) is None:  # it is answered without its body
            self.stream_to_handler(head, data, self.body_of(head, Spool()))
            return
        source = self.body_of(head, Spool(server.spool_dir))
        self.upload, self.head, self.decoder = source, head, None
        self.buffer = start
        self.state = SPOOLING
        self.loop.watch(self, READ)
        self.moved = 0
        self.deadline = self.loop.now + server.body_timeout
        self.spool(data)
        if self.state == SPOOLING and source.expect:
            source.expect = False
            try:
                self.sock.send(CONTINUE)
            except OSError:  # it has left, which is read next; or it reads nothing, and may wait for this in vain
                return

    def spool(self, data: bytes) -> None:
        """In SPOOLING: more of the body."""
        source = self.upload
        assert source is not None
        if not self.accepted(self.head, source, data):
            return
        self.moved += len(data)
        if self.moved >= RATE:
            self.moved = 0
            self.deadline = self.loop.now + self.server.body_timeout
        if source.is_done and self.loop.is_stood_in:
            self.state = BODY
            self.wait()
        elif source.is_done:
            self.begin_upload()
        else:
            self.buffers()

    def wait(self) -> None:
        """A whole body waits for this worker, or a sibling."""
        raise NotImplementedError

    def begin_upload(self) -> None:
        """All of it is there: run its handler."""
        source, head = self.upload, self.head
        assert source is not None and head is not None
        rest, source.rest = source.rest, b""
        self.to_handler(head, source.spool.data if source.spool.fd < 0 else None, source, rest)

    def stream_to_handler(self, head: Head, data: bytes, source: Body) -> None:
        """Run the handler of a body of which this much is there; it reads the rest, if it wants it."""
        if self.accepted(head, source, data):
            rest, source.rest = source.rest, b""
            self.to_handler(head, None, source, rest)

    def accepted(self, head: Head | None, source: Body, data: bytes) -> bool:
        """Decode and keep a part of a body; False when it is refused."""
        try:
            source.accept(data)
            return True
        except HTTPError as error:
            self.refuse(error.status, error.detail, head, source.reason)
            return False

    def to_handler(self, head: Head, body: bytes | None, source: Body | None, rest: bytes) -> None:
        self.head = self.decoder = None
        self.state = HEAD
        self.began = self.loop.now  # the wait for the body is the client's
        self.buffer = rest
        self.server.serve(self, head, body, source)

    def refuse(self, status: int, detail: str, head: Head | None = None, reason: str = "") -> None:
        """Answer what is no valid request, or (with a reason, which the log tells) one for which there is no room; and
        close: nothing after it on this connection is trusted."""
        self.server.count_error()
        self.trace = None
        self.note("refused: %d, %s", status, reason or detail, level=logging.WARNING if reason else logging.INFO)
        self.drop_upload()
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
        headers = RETRY_AFTER if status == 503 else ()
        response = error_page(status, detail, head.get("accept", "") if head is not None else "", headers)
        assert isinstance(response.body, bytes)
        return head_of(response, self.server.clock, len(response.body), CLOSE, False), response.body
