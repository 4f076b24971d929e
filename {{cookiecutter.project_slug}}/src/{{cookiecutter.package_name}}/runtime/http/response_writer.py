"""The sending half of a connection: from a handler's result to bytes that the client has taken."""

import logging
import socket
import struct
from time import monotonic
from typing import Any

from ..http1.chunked import Chunked
from ..http1.parser import Head
from ..http1.states import CLOSED, HEAD, SENDING
from ..ipc import forks
from ..ipc.scoreboard import BUCKETS
from ..log.records import log
from ..loop.interfaces import FOREVER, Loop
from ..loop.selector import READ, WRITE
from ..pool.worker import Worker, WorkerFailed
from ..web.response import BODILESS, Response, failure, shown
from ..web.trace_context import Trace
from .access_log import Entry
from .bodies import BROKEN, EMPTY, RATE, Body, Region, Stream, unsent
from .response_head import CLOSE, KEEP_ALIVE, head_of, length_of
from .server_state import ServerState

LINGERING = 2.0  # seconds of silence after which a lingering close no longer waits for the client's end
LINGERING_MOST = 30.0  # seconds that a client may go on sending
TURN = 0.005  # seconds after which one client's pipeline or stream makes room for the others
PUMP = 64  # pieces of 64 KiB that one response sends in a turn
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
LEFT = 499  # as nginx calls it: there was no response, for the client had left
NOTHING = memoryview(b"")  # one for all: a parked connection has to be small


class ResponseWriter:
    """`mask` is what the loop watches its descriptor for, 0 when it does not. See `states` for the rest."""

    __slots__ = (
        "began", "buffer", "close_after", "deadline", "decoder", "entry", "fd", "head", "is_last", "is_shed", "left",
        "loop", "mask", "moved", "need", "out", "peer", "queued", "seen", "served", "server", "sock", "source", "state",
        "trace", "upload",
    )  # fmt: skip

    def __init__(self, server: ServerState, loop: Loop, sock: socket.socket, peer: Any) -> None:
        self.server = server
        self.loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self.mask = 0
        self.peer = peer
        self.state = HEAD
        self.buffer = b""  # received, not used yet
        self.served = 0  # requests
        self.began = 0.0  # when the request that is being handled had come
        self.out = NOTHING  # of the response, not sent yet
        self.source: Region | Stream | None = None  # where more of the response comes from
        self.moved = 0  # bytes since the deadline was last moved on
        self.queued = 0  # bytes that the kernel had for the client when it would take no more
        self.left = 0.0  # seconds to the deadline while a piece is made; in LINGER the latest deadline
        self.close_after = False
        self.is_last = False  # the client has said that it sends nothing more, and all it sent has been read
        self.is_shed = False  # refused for want of memory
        self.trace: Trace | None = None  # of the request that was handled last, if it has one
        self.entry: Entry | None = None
        # Of the receiving half, here because one __init__ costs half as much as two.
        self.seen = 0  # how much of the buffer the parser has seen
        self.head: Head | None = None  # in BODY
        self.need = 0  # offset in the buffer at which the request in BODY ends
        self.decoder: Chunked | None = None
        self.upload: Body | None = None  # a body of the request that is not in memory, until nothing can read it
        self.deadline = loop.now + server.header_timeout

    def answer(self, head: Head, result: Any, source: Body | None) -> None:
        """Count a request, send its handler's result, and decide what comes next."""
        server, loop = self.server, self.loop
        # Scoreboard.record in line, and before the response: a client that has that finds its request counted.
        loop.moment = moment = monotonic()
        took = int((moment - self.began) * 1e6)
        server.microseconds += took
        bits = took.bit_length()
        server.latency[bits if bits < BUCKETS else BUCKETS - 1] += 1
        if server.quota:
            server.count_down()
        self.state = HEAD
        self.served += 1
        # As most are: a few lines for what `compose` does. test_connection_http.py compares the two.
        plain = type(result) is bytes and head.simple and source is None and not server.is_closing
        if plain:
            size = len(result)
            data = server.clock.heads.get(size) or server.clock.head_of_bytes(size)
            data = data + result if self.trace is None else data[:-2] + self.trace.lines() + b"\r\n" + result
        elif result is None:
            self.expect_entry(head, LEFT, 0)
            self.close()
            return
        else:
            data = self.compose(head, result, source)
        try:
            sent = self.sock.send(data)  # with luck all of it, in one call
        except OSError as error:
            if plain:
                self.expect_entry(head, 200, size)
            self.not_sent(data, error)
            return
        if plain and sent == len(data):
            server.sent += sent
            self.deadline = loop.now + server.keep_alive
            if server.access is not None:
                server.access.record(self, moment, head, 200, size)
        else:
            if plain:
                self.expect_entry(head, 200, size)
            self.transmitted(data, sent)

    def compose(self, head: Head, result: Any, source: Body | None) -> bytes:
        """The first bytes of the response that a handler's result makes. Decides whether the connection ends then."""
        server = self.server
        if not head.keep_alive:
            self.close_after = self.is_last = True
        elif server.is_closing and not (self.buffer and server.is_retiring):  # a sibling goes on with what came after
            self.close_after = True
        if source is not None:
            server.received += source.received
            if not (type(result) is Response and isinstance(result.body, Stream)):  # else that may still read it
                self.drop_upload()
            if source.is_done:
                self.buffer = source.rest + self.buffer
            else:
                source.expect = False  # too late for a 100
                self.close_after = True  # the rest of the body is unread: nothing after it could be understood
                self.is_last = False
        trace = self.trace
        if type(result) is bytes and (head.minor or self.close_after) and head.method != "HEAD":
            key = ~len(result) if self.close_after else len(result)
            start = server.clock.heads.get(key) or server.clock.head_of_bytes(key)
            if trace is not None:
                start = start[:-2] + trace.lines() + b"\r\n"
            if server.access is not None:
                self.expect_entry(head, 200, len(result))
            whole: bytes = start + result
            return whole
        response = result if type(result) is Response else Response(result)
        try:
            data = self.begin(head, response if trace is None else response.with_fields(trace.fields()))
        except Exception:  # such as a field that became invalid after the response was made
            if isinstance(response.body, Region | Stream):
                self.source = response.body
                self.drop_source()
            response = self.failed(head)
            data = self.begin(head, response)
        if response.status >= 500:
            server.count_error()
        return data

    def begin(self, head: Head, response: Response) -> bytes:
        """The first bytes of a prepared response: its head, and its body when that is in memory. Sets `source`."""
        body: Any = response.body
        known = len(body) if isinstance(body, bytes) else body.left if isinstance(body, Region) else None
        empty = head.method == "HEAD" or response.status in BODILESS
        length = length_of(response, known, empty) if response.headers or empty else known
        chunked = length is None and bool(head.minor) and not empty
        if length is None and not head.minor and not empty:
            self.close_after = True  # HTTP/1.0: only the end of the connection can end the body
        connection = CLOSE if self.close_after else b"" if head.minor else KEEP_ALIVE
        start = head_of(response, self.server.clock, length, connection, chunked)
        if not isinstance(body, bytes):
            if isinstance(body, Stream):
                body.chunked, body.missing = chunked, length
            self.source = body
            if empty:
                self.drop_source()
        self.expect_entry(head, response.status, 0 if empty else known or 0)
        return start + body if isinstance(body, bytes) and not empty else start

    def failed(self, head: Head) -> Response:
        """A handler's bug."""
        return failure(head, self.peer)

    def transmit(self, data: bytes) -> None:
        """Send the first bytes of a response."""
        try:
            sent = self.sock.send(data)
        except OSError as error:
            self.not_sent(data, error)
        else:
            self.transmitted(data, sent)

    def not_sent(self, data: bytes, error: OSError) -> None:
        if isinstance(error, BlockingIOError):
            self.transmitted(data, 0)
        else:
            self.note("left before its response")
            self.close()

    def transmitted(self, data: bytes, sent: int) -> None:
        """So many of the first bytes of a response are sent."""
        self.server.sent += sent
        if sent < len(data) or self.source is not None:
            self.out = memoryview(data)[sent:]
            self.state = SENDING
            self.moved = 0
            self.deadline = self.loop.now + self.server.body_timeout
            self.pump()
        else:
            self.finish()

    def pump(self) -> None:
        """Send as much as the client takes. A generator's next piece is made here, by user code."""
        budget = PUMP  # so that one fast response does not keep the loop from the others
        began = monotonic()  # not the loop's time, which moves on when another thread stands in
        try:
            while budget > 0:
                source = self.source
                if self.out:
                    sent = self.sock.send(self.out)
                    self.out = self.out[sent:]
                elif source is None:
                    self.finish()
                    return
                elif isinstance(source, Stream):
                    if not self.next_piece():
                        return
                    sent = 0
                    if monotonic() - began > TURN or not (self.out or self.source is None):  # or an empty piece
                        budget = 0
                else:
                    sent = source.send(self.fd) if source.left else 0
                    if not source.left:
                        self.drop_source()
                    elif not sent:
                        log.error("a file became shorter while it was sent to %s", self.shown_peer())
                        self.take_piece(BROKEN)
                budget -= 1 + (sent >> 16)
                self.count_sent(sent)
        except BlockingIOError:
            self.queued = unsent(self.fd)  # the client has to read first
        except OSError:
            self.note("left in the middle of a response")
            self.close()
            return
        self.loop.watch(self, WRITE)
        self.buffers()

    def buffers(self) -> None:
        """What is buffered has grown."""
        raise NotImplementedError

    def count_sent(self, sent: int) -> None:
        """The client has taken so many bytes: each RATE of them moves the deadline on."""
        self.server.sent += sent
        self.moved += sent
        if self.moved >= RATE:
            self.moved = 0
            self.deadline = self.loop.now + self.server.body_timeout

    def next_piece(self) -> bool:
        """Have the generator's next piece made. False when it comes later, or the connection has ended."""
        self.left = self.deadline - monotonic()
        self.deadline = FOREVER
        piece = self.server.next_piece(self)
        if piece is None:
            return False
        self.take_piece(piece)
        return self.state == SENDING

    def make_piece(self, worker: Worker) -> bytes:
        """Run the generator to its next piece; b"" at its end, BROKEN when it failed. User code."""
        assert isinstance(self.source, Stream)
        worker._request = self
        try:
            return self.source.next()
        except (WorkerFailed, SystemExit) as failure:
            worker.failed(failure)
        except BaseException:
            log.exception("a streamed response to %s broke off", self.shown_peer())
        finally:
            worker._request = None
        return BROKEN

    def take_piece(self, piece: bytes) -> None:
        """The generator has made a piece; from here the client's time counts again."""
        if self.state == CLOSED:
            return
        source = self.source
        self.deadline = monotonic() + self.left
        if piece is BROKEN:
            self.server.count_error()
            if isinstance(source, Stream) and not source.chunked:
                self.break_off()
                self.close()
                return
            # An orderly end: that something is missing, the length says, or the last chunk that is not there.
            if self.entry is not None and isinstance(source, Region):
                self.entry.size -= source.left
            self.close_after, self.is_last = True, False
            self.drop_source()
        elif piece is EMPTY:
            if isinstance(source, Stream) and source.is_unheard(self.fd):
                self.note("left in the middle of a response")
                self.close()
        elif piece:
            self.out = memoryview(piece)
            if self.entry is not None:
                self.entry.size += len(piece)
        else:
            self.drop_source()

    def break_off(self) -> None:
        """However the socket is closed now, the client gets a reset: only that says in the middle of a body that more
        should have come, for in HTTP/1.0 an orderly end would end it."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def drop_source(self) -> None:
        """Close where the response came from: now, or as user code in the leader's next turn."""
        source, self.source = self.source, None
        self.drop_upload()
        if source is not None:
            source.worker._bodies_ended += 1
            if source.closes_at_once:
                source.close()
            else:
                self.server.dispose(source)

    def drop_upload(self) -> None:
        """The body of the request is needed no more."""
        source, self.upload = self.upload, None
        if source is not None:
            source.close()

    def finish(self) -> None:
        """The response is sent."""
        if self.entry is not None:
            self.write_entry()
        if self.close_after:
            if self.is_last and not self.buffer:
                self.close()
            else:
                self.linger()
            return
        self.deadline = self.loop.now + self.server.keep_alive
        if self.state != HEAD:
            self.out = NOTHING  # even an empty view would keep the whole response in memory
            self.state = HEAD
            self.loop.watch(self, READ)

    # ---- the end -----------------------------------------------------------------------------------------------

    def linger(self) -> None:
        """A lingering close."""
        raise NotImplementedError

    def close(self) -> None:
        """End the connection, whatever its state."""
        if self.state == CLOSED:
            return
        if self.entry is not None:  # nothing of the response was sent, or not all
            left = len(self.out) + (self.source.left if isinstance(self.source, Region) else 0)
            self.entry.size = max(0, self.entry.size - left) if self.state != HEAD else 0
            self.write_entry()
        self.state = CLOSED
        if self.source is not None:
            self.drop_source()
        else:
            forks.shut_down(self.sock)
        self.release()

    def release(self) -> None:
        self.state = CLOSED
        if self.upload is not None:
            self.drop_upload()
        self.loop.forget(self)
        self.sock.close()

    def expect_entry(self, head: Head | None, status: int, size: int) -> None:
        """A response begins: it is logged when it ends."""
        if self.server.access is not None:
            self.entry = Entry(head, status, size)

    def write_entry(self) -> None:
        entry, self.entry = self.entry, None
        if entry is not None and self.server.access is not None:
            self.server.access.record(self, self.loop.moment, entry.head, entry.status, entry.size)

    def note(self, text: str, *values: object, level: int = logging.INFO) -> None:
        """A line in the log about this client. Nothing that the client has sent may be in it."""
        self.server.log_client("%s " + text, self.shown_peer(), *values, level=level)

    def shown_peer(self) -> str:
        return shown(self.peer)
