"""One HTTP connection: what it receives, and what moves it from one state to the next (see `states`)."""

import socket
import struct
from time import monotonic

from ..http1.parser import Head, ProtocolError, parse_head, split_fields
from ..http1.states import ABANDONED, BODY, CLOSED, HANDLING, HEAD, LINGER, SENDING, SPOOLING
from ..ipc.scoreboard import Phase
from ..ipc.waker import wait_for
from ..loop.interfaces import FOREVER, PARCEL_MOST
from ..loop.selector import READ, WRITE
from ..loop.spool import Spool
from .bodies import RATE, RECEIVE, Body, Stream, unsent
from .body_receiver import BodyReceiver
from .budget import SMALL
from .response_writer import LEFT, LINGERING, LINGERING_MOST, TURN

UNREAD = 1.0  # seconds by which a deadline is put off when bytes have arrived that no worker was free to read
# Seconds by which a connection counts as idle later when a head, or a body, has begun to come.
BEGUN_HEAD, BEGUN_BODY = 1.0, 4.0
# Seconds for which the connection of a client that was shed stays open after its 503, unless the client closes it: one
# that comes back at once, with as many bytes again, costs others their time. Spread, so that not all come back in one
# wave. (ci/faults/hostile.py: 1,600 of them kept others waiting for 130 ms in the median, now for 4.)
SHED, SPREAD = 3.0, 4
DISCARD = 2**26  # bytes that a client may go on sending in LINGER

# Of a connection handed over: requests served so far, deadline (all processes have one monotonic clock), what the bytes
# received are, which follow, and the sizes of the first two parts of them.
PARCEL = struct.Struct("!IdBII")
# An unfinished head; requests, the last of which may be unfinished; one head, the trailer lines of its body, which is
# complete, and what follows it. That body is in a file, which goes too.
UNFINISHED, REQUESTS, UPLOAD = range(3)


class Connection(BodyReceiver):
    """The receiving half, and the life of the whole."""

    __slots__ = ()

    # ---- what the loop knows -----------------------------------------------------------------------------------

    @property
    def is_parked(self) -> bool:
        return self.state <= BODY

    @property
    def idle_since(self) -> float:
        """By the deadline, which moves when the client has done what it owes; what it has begun makes it idle later."""
        state, server = self.state, self.server
        if not self.mask:
            return FOREVER
        if state == HEAD:
            limit = server.keep_alive if self.served and not self.seen else server.header_timeout
            return self.deadline - limit + (BEGUN_HEAD if self.seen > len(b"\r\n") else 0.0)
        if state == LINGER:
            return self.left - LINGERING_MOST + BEGUN_HEAD
        if state == SPOOLING or (state == BODY and self.upload is None):
            return self.deadline - server.body_timeout + BEGUN_BODY
        return FOREVER

    @property
    def runs_user_code(self) -> bool:
        return self.state == HANDLING or (self.state == SENDING and isinstance(self.source, Stream))

    @property
    def interest(self) -> int:
        return WRITE if self.state == SENDING else READ

    def ready(self, mask: int) -> None:
        state = self.state
        if state <= SPOOLING:
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
                if self.head is not None:
                    self.expect_entry(self.head, LEFT, 0)
                self.close()
            elif state == HEAD:
                self.advance(self.buffer + data if self.buffer else data)
            elif state == BODY:
                self.more_body(data)
                self.resume()
            else:
                self.spool(data)
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
        from within: a hundred pipelined requests must not nest. Or a whole body has waited for this worker."""
        if self.state == BODY and self.upload is not None and not self.loop.is_stood_in:
            self.begin_upload()
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
                if self.seen > SMALL:
                    self.buffers()
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

    def wait(self) -> None:
        self.loop.postpone(self)

    # ---- memory ------------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Bytes of memory that what is buffered for its client takes: what has come twice, as its head is a copy, and
        growing makes one; of a response all of it until its end, for it is one object."""
        if self.state == HANDLING or self.state > SENDING:
            return 0
        kept = 2 * len(self.buffer) + len(self.out.obj)  # type: ignore[arg-type]
        return kept if self.upload is None else kept + 2 * len(self.upload.spool.data)

    def buffers(self) -> None:
        held = self.held
        if held > SMALL:
            self.server.budget.add(self, held, self.loop.now)

    def shed(self) -> bool:
        if self.state < HANDLING:
            self.is_shed = True
            self.refuse(503, "there is no memory for the request now", self.head)
        elif self.state == SENDING and not (self.loop.is_stood_in and self.runs_user_code):
            self.note("reads too slowly: there is no memory for the rest of its response")
            self.break_off()
            self.close()
        return self.state > SENDING

    # ---- hand-over ---------------------------------------------------------------------------------------------

    def parcel(self) -> bytes | None:
        """What a sibling has to know of a parked connection, its bytes included; None: it stays here."""
        if self.state > BODY or len(self.buffer) > PARCEL_MOST - PARCEL.size:
            return None
        if self.upload is not None:
            return self.parcel_of(self.upload)
        deadline = self.deadline
        if self.server.is_retiring and self.state == HEAD and not self.buffer:  # its own again, not the drain's
            deadline = self.loop.now + (self.server.parked_timeout if self.served else self.server.header_timeout)
        return PARCEL.pack(self.served, deadline, UNFINISHED if self.seen else REQUESTS, 0, 0) + self.buffer

    def parcel_of(self, source: Body) -> bytes | None:
        """The same, with a whole body that waits for a worker."""
        trailers = "".join([f"{name}: {value}\r\n" for name, value in source.trailers]).encode("latin-1")
        start = PARCEL.pack(self.served, self.deadline, UPLOAD, len(self.buffer), len(trailers))
        parcel = start + self.buffer + trailers + source.rest
        try:
            source.spool.to_file()
        except OSError:
            return None
        return parcel if len(parcel) <= PARCEL_MOST else None

    @property
    def files(self) -> tuple[int, ...]:
        return () if self.upload is None or self.upload.spool.fd < 0 else (self.upload.spool.fd,)

    def unpack(self, parcel: bytes, files: list[int]) -> None:
        """Go on where a sibling has stopped. The time that its client has does not begin anew."""
        self.served, deadline, kind, size, more = PARCEL.unpack_from(parcel)
        self.deadline = deadline
        self.buffer = parcel[PARCEL.size :]
        if kind == UNFINISHED:
            self.seen = len(self.buffer)
            self.buffers()
            return
        if kind == UPLOAD:
            self.unpack_upload(size, size + more, files[0])
        self.resume()
        if self.state == BODY:
            self.deadline = deadline

    def unpack_upload(self, first: int, second: int, file: int) -> None:
        """The buffer has a head, trailers up to `second`, and the rest."""
        found = parse_head(self.buffer, self.server.limits)
        assert found is not None
        self.state, self.head = BODY, found[0]
        source = self.upload = self.body_of(found[0], Spool())
        source.spool.adopt(file)
        source.trailers = split_fields(self.buffer[first:second])
        source.rest = self.buffer[second:]
        source.is_done = True

    # ---- the end -----------------------------------------------------------------------------------------------

    def linger(self) -> None:
        """Shut down our side and wait, without blocking, for the client to close its own."""
        self.state = LINGER
        self.buffer = b""
        self.moved = 0
        is_slow = self.is_shed and not self.loop.mode
        self.left = self.loop.now + (SHED + self.fd % 64 * SPREAD / 64 if is_slow else LINGERING_MOST)
        self.deadline = self.left if is_slow else self.loop.now + LINGERING
        try:
            if not is_slow:
                self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.loop.watch(self, READ)

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
        elif not (self.is_shed or self.loop.mode):
            self.deadline = min(self.loop.now + LINGERING, self.left)

    def expire(self) -> None:
        if self.state == HANDLING or (self.loop.is_stood_in and self.runs_user_code):
            return
        if self.state <= SPOOLING and (not self.mask or wait_for(self.fd, READ, 0)):
            # What has arrived waits for this worker. The client has its time once that is read.
            self.deadline = self.loop.now + min(UNREAD, self.server.header_timeout)
            return
        if self.state == HEAD and self.buffer.strip(b"\r\n"):
            self.refuse(408, "the request head came too slowly")
        elif self.state in (BODY, SPOOLING):
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
        elif self.state == LINGER:
            self.deadline = min(self.deadline, self.loop.now + LINGERING)

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
