"""Bodies that are not in memory: of requests, read by a handler from the socket; of responses, files and generators."""

import fcntl
import io
import os
import select
import socket
import stat
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import Context
from types import GeneratorType
from typing import Any, NoReturn, Protocol

from ..http1.chunked import LAST_CHUNK, Chunked, chunk
from ..http1.parser import CHUNKED, Head, Limits, ProtocolError
from ..ipc.waker import wait_for
from ..log.records import log
from ..loop.spool import FULL, Spool
from ..pool.worker import Worker, WorkerFailed
from ..web.files import Slice
from ..web.messages import DisconnectedError
from ..web.partial import settle
from ..web.response import TEXT, HTTPError, Response, check_body

RECEIVE = 65536  # bytes asked for in one recv
RATE = 65536  # bytes that must pass in each --body-timeout
DAY = 86400.0  # seconds: no limit
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SENDFILE = hasattr(select, "epoll")  # Linux; sendfile(2) of others reports a full socket in other ways
PIECE = 2**18  # bytes of a file in one call: a fast reader must not delay the others for long
RDHUP = getattr(select, "POLLRDHUP", 0)  # Linux
LEFT_FOR = 1.0  # seconds for which a client has sent its end, and a generator empty pieces: it has left
PLAIN_FILES = (io.FileIO, io.BufferedReader, io.BufferedRandom, io.BytesIO, Slice)  # closing these runs no user code
# Compared by identity: what stands for a piece that is empty, and for one that failed.
EMPTY, BROKEN = b"empty", b"broken"
END: Any = object()
new = object.__new__


class Client(Protocol):
    """The connection that a body comes from."""

    sock: socket.socket
    fd: int

    def note(self, text: str, *values: object) -> None: ...


class Body:
    """A request body that was not there with its head, or is chunked. The loop receives it into a spool; the handler of
    a route that streams reads it from the socket. A handler's client has `timeout` seconds for each RATE bytes; `most`
    bytes may come, 0 = any number."""

    def __init__(self, client: Client, head: Head, spool: Spool, limits: Limits, most: int, timeout: float) -> None:
        self.client = client
        self.spool = spool  # decoded, not taken by the handler yet
        self.most = most
        self.timeout = min(timeout, DAY)
        self.left = head.length
        self.decoder = Chunked(limits) if head.length == CHUNKED else None
        self.expect = head.expect  # the client still waits for a 100
        self.rest = b""  # what follows the body: the next request
        self.taken = 0
        self.is_done = False
        self.trailers: list[tuple[str, str]] = []
        self.on_close: Callable[[], object] = bool  # does nothing
        self.error: HTTPError | None = None
        self.reason = ""  # of that, for the log, if the client's page does not say it
        self.time_left = self.timeout  # seconds until RATE bytes must be there
        self.moved = 0  # bytes since that began
        self.received = 0  # bytes that the handler's reading has taken from the socket

    def accept(self, data: bytes) -> None:
        """Decode and keep what arrived. Raises HTTPError (413, what is wrong with a chunk, 507 or 503 for a spool that
        cannot keep it)."""
        if data:
            self.expect = False  # RFC 9110 10.1.1: a body that is on its way already needs no 100
        if self.decoder is not None:
            try:
                payload, self.rest = self.decoder.feed(data)
            except ProtocolError as error:
                self.fail(error.status, error.reason)
            self.is_done = self.decoder.done
            self.trailers = self.decoder.trailers
        else:
            payload, self.rest = data[: self.left], data[self.left :]
            self.left -= len(payload)
            self.is_done = not self.left
        self.taken += len(payload)
        if self.most and self.taken > self.most:
            self.fail(413, f"the body has more than {self.most} bytes")
        try:
            self.spool.write(payload)
        except OSError as error:
            self.reason = f"cannot keep its body in {self.spool.directory} (--spool-dir): {error.strerror}"
            self.fail(507 if error.errno in FULL else 503, "there is no room for the body now")

    def close(self) -> None:
        """No handler can read it any more."""
        self.spool.close()
        self.on_close()

    def fail(self, status: int, detail: str) -> NoReturn:
        """For good: a handler that catches this and reads on gets it again."""
        self.is_done = False  # what follows on the connection cannot be trusted
        self.error = HTTPError(status, detail)
        raise self.error

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end. Raises HTTPError (408, 413, 400) or DisconnectedError."""
        while not self.spool.left and not self.is_done and size:
            if self.error is not None:
                raise self.error
            try:
                self.accept(self.receive())
            except HTTPError as error:
                self.client.note("refused: %d, %s", error.status, error.detail)
                raise
        return self.spool.read(size)

    def receive(self) -> bytes:
        """Wait for the client. Only this counts as its time, not what the handler does between two reads."""
        client = self.client
        if self.expect:
            self.expect = False
            write_all(client.sock, CONTINUE, self.time_left)
        began = time.monotonic()
        while True:
            try:
                data = client.sock.recv(RECEIVE)
                break
            except BlockingIOError:
                if not wait_for(client.fd, select.POLLIN, self.time_left - (time.monotonic() - began)):
                    self.fail(408, "the request body came too slowly")
            except OSError as error:
                raise DisconnectedError(f"in the middle of its request body: {error.strerror}") from None
        if not data:
            raise DisconnectedError("in the middle of its request body")
        self.time_left -= time.monotonic() - began
        self.received += len(data)
        self.moved += len(data)
        if self.moved >= RATE:
            self.moved = 0
            self.time_left = self.timeout
        return data


class UserBody:
    """What a handler has returned as a body that is not in memory: user code, run in the context of its request, and
    with the worker whose handler has made it."""

    __slots__ = ("body", "closer", "context", "worker")

    def __init__(self, body: Any, worker: Worker, context: Context) -> None:
        self.body = body
        self.closer: Callable[[], object] | None = getattr(body, "close", None)
        self.worker = worker
        self.context = context
        worker._bodies_begun += 1

    @property
    def closes_at_once(self) -> bool:
        """Whether `close` runs no user code that is worth the name."""
        body = self.body
        kind = type(body)
        return self.closer is None or kind in PLAIN_FILES or (kind is GeneratorType and body.gi_frame is None)

    def close(self) -> None:
        """Close the file or generator. User code; whatever it raises is a line in the log."""
        try:
            if self.closer is not None:
                self.context.run(self.closer)
        except (WorkerFailed, SystemExit) as failure:
            self.worker.failed(failure)
        except BaseException:
            log.exception("closing a response body failed")


class Region(UserBody):
    """The rest of a file, as it was when its length was announced: never a byte more, however the file changes."""

    __slots__ = ("at", "file", "left")

    def __init__(self, body: Any, worker: Worker, context: Context, at: int, left: int) -> None:
        super().__init__(body, worker, context)
        self.file = body
        self.at = at
        self.left = left

    @classmethod
    def of(cls, body: Any, worker: Worker, context: Context) -> "Region | None":
        """None when it is no regular file, or one whose bytes are not those on disk (gzip, text)."""
        if not isinstance(getattr(body, "raw", body), io.FileIO):
            return None
        status = os.fstat(body.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        at = body.tell()  # buffered files read ahead: the descriptor's own offset is another
        left = max(0, status.st_size - at)
        return cls(body, worker, context, at, min(left, body.limit) if type(body) is Slice else left)

    def send(self, fd: int) -> int:
        """Send some of it; how many bytes, 0 when the file has become shorter. Raises OSError."""
        if SENDFILE:
            sent = os.sendfile(fd, self.file.fileno(), self.at, min(self.left, PIECE))
        else:
            sent = os.write(fd, os.pread(self.file.fileno(), min(self.left, PIECE), self.at))
        self.at += sent
        self.left -= sent
        return sent


class Stream(UserBody):
    """A response body whose length is known at its end only: an iterable of bytes or text, or something with read().

    HTTP/1.1 gets it chunked (RFC 9112 7.1), HTTP/1.0 plain, ended by the end of the connection; both get it plain when
    the handler has given its length.
    """

    __slots__ = ("chunked", "ended", "left_since", "missing", "pieces")

    def __init__(self, body: Any, worker: Worker, context: Context) -> None:
        self.pieces: Iterator[Any] = read_all(body) if hasattr(body, "read") else context.run(iter, body)
        super().__init__(body, worker, context)
        self.chunked = False
        self.missing: int | None = None  # bytes that are still to come, where the handler has said how many
        self.ended = False
        self.left_since = 0.0  # when an empty piece found that the client sends nothing more; 0 = it may still

    def next(self) -> bytes:
        """The next piece as the client will get it: b"" after the last, EMPTY for an empty one, after which others have
        their turn. Runs user code, raises what that raises."""
        if self.ended:
            return b""
        piece = self.context.run(next, self.pieces, END)
        if piece is END:
            self.ended = True
            self.count(0)
            return LAST_CHUNK if self.chunked else b""
        data = piece.encode() if isinstance(piece, str) else piece
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"a response body is made of bytes or text, not of {type(piece).__name__}")
        data = bytes(data)
        self.count(len(data))
        if data:
            self.left_since = 0.0
        return EMPTY if not data else chunk(data) if self.chunked else data

    def count(self, size: int) -> None:
        """Raises ValueError when the body is not as long as its Content-Length: no byte more is sent, and its client
        learns of one less."""
        if self.missing is not None:
            self.missing -= size
            if self.missing < 0 or (self.ended and self.missing):
                raise ValueError(f"a response body has {abs(self.missing)} bytes "
                                 f"{'more' if self.missing < 0 else 'less'} than its Content-Length")  # fmt: skip

    def is_unheard(self, fd: int) -> bool:
        """After an empty piece: has the client left? One that has only ended its own side has a moment to get more."""
        poller = select.poll()
        poller.register(fd, RDHUP)
        found, now = poller.poll(0), time.monotonic()
        self.left_since = (self.left_since or now) if found else 0.0
        return bool(found) and (found[0][1] & ~RDHUP != 0 or now - self.left_since > LEFT_FOR)


def read_all(file: Any) -> Iterator[Any]:
    while piece := file.read(RECEIVE):
        yield piece


def prepared(result: Any, worker: Worker, context: Context, head: Head) -> Response:
    """A handler's result as a Response of our own whose body is bytes, a Region or a Stream: what the loop does with it
    runs no user code. Raises what user code raises, TypeError and ValueError for what cannot be sent."""
    response = Response(result.encode(), content_type=TEXT) if isinstance(result, str) else Response.of(result)
    body: Any = response.body
    if response.headers and response.status == 200:
        response = settle(response, head)
        if response.body is not body and response.status != 206:  # a part needs its file
            worker._bodies_begun -= 1
            UserBody(body, worker, context).close()
        body = response.body
    if type(response) is Response and type(body) is bytes:
        return response
    made = new(Response)
    made.status = response.status
    made.reason = response.reason
    made.headers = list(response.headers)
    made.content_type = response.content_type
    if isinstance(body, str):
        made.body = body.encode()
    elif isinstance(body, bytes | bytearray | memoryview):
        made.body = bytes(body)
    else:
        check_body(body)
        try:
            source: Any = Region.of(body, worker, context) or Stream(body, worker, context)
            made.body = source
        except BaseException:
            with suppress(Exception):
                UserBody(body, worker, context).close()
                worker._bodies_begun -= 1
            raise
    return made


def unsent(fd: int) -> int:
    """Bytes that the kernel has taken and the client has not; 0 where it does not say."""
    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


def write_all(sock: socket.socket, data: bytes, timeout: float) -> None:
    """Send a few bytes from within a handler. Raises DisconnectedError."""
    deadline = time.monotonic() + timeout
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            if not wait_for(sock.fileno(), select.POLLOUT, deadline - time.monotonic()):
                raise DisconnectedError("it does not read") from None
        except OSError as error:
            raise DisconnectedError(str(error.strerror)) from None
