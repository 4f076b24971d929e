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
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, Protocol

from ..http1.chunked import LAST_CHUNK, Chunked, chunk
from ..http1.parser import CHUNKED, Head, Limits, ProtocolError
from ..log.records import log
from .messages import DisconnectedError, HTTPError

RECEIVE = 65536  # bytes asked for in one recv
RATE = 65536  # bytes that must pass in each --body-timeout
DAY = 86400.0  # seconds: no limit
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SENDFILE = hasattr(select, "epoll")  # Linux; sendfile(2) of others reports a full socket in other ways
PIECE = 2**18  # bytes of a file in one call: a fast reader must not delay the others for long


class Client(Protocol):
    """The connection that a body comes from."""

    sock: socket.socket
    fd: int

    def note(self, text: str, *values: object) -> None: ...


class Body:
    """A request body that its handler reads from the socket: larger than BUFFERED, or announced by Expect. The client
    has `timeout` seconds for each RATE bytes; `most` bytes may come, 0 = any number."""

    def __init__(self, client: Client, head: Head, data: bytes, limits: Limits, most: int, timeout: float) -> None:
        self.client = client
        self.most = most
        self.timeout = min(timeout, DAY)
        self.left = head.length
        self.decoder = Chunked(limits) if head.length == CHUNKED else None
        self.expect = head.expect and not data  # RFC 9110 10.1.1: a body that is on its way already needs no 100
        self.data = b""  # decoded, not taken yet
        self.rest = b""  # what follows the body: the next request
        self.taken = 0
        self.is_done = False
        self.trailers: list[tuple[str, str]] = []
        self.error: HTTPError | None = None
        self.time_left = self.timeout  # seconds until RATE bytes must be there
        self.moved = 0  # bytes since that began
        self.received = 0  # bytes that the handler's reading has taken from the socket
        if data:
            self.accept(data)

    def accept(self, data: bytes) -> None:
        """Decode what arrived. Raises HTTPError (413, or what is wrong with a chunk)."""
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
        self.data += payload
        self.taken += len(payload)
        if self.most and self.taken > self.most:
            self.fail(413, f"the body has more than {self.most} bytes")

    def fail(self, status: int, detail: str) -> NoReturn:
        """For good: a handler that catches this and reads on gets it again."""
        self.is_done = False  # what follows on the connection cannot be trusted
        self.error = HTTPError(status, detail)
        raise self.error

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end. Raises HTTPError (408, 413, 400) or DisconnectedError."""
        while not self.data and not self.is_done and size:
            if self.error is not None:
                raise self.error
            try:
                self.accept(self.receive())
            except HTTPError as error:
                self.client.note("refused: %d, %s", error.status, error.detail)
                raise
        piece, self.data = self.data[:size], self.data[size:]
        return piece

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


class Region:
    """The rest of a file, as it was when its length was announced: never a byte more, however the file changes."""

    __slots__ = ("at", "file", "left")

    def __init__(self, file: Any, at: int, left: int) -> None:
        self.file = file
        self.at = at
        self.left = left

    @classmethod
    def of(cls, body: Any) -> "Region | None":
        """None when it is no regular file, or one whose bytes are not those on disk (gzip, text)."""
        if not isinstance(getattr(body, "raw", body), io.FileIO):
            return None
        status = os.fstat(body.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        at = body.tell()  # buffered files read ahead: the descriptor's own offset is another
        return cls(body, at, max(0, status.st_size - at))

    def send(self, fd: int) -> int:
        """Send some of it; how many bytes, 0 when the file has become shorter. Raises OSError."""
        if SENDFILE:
            sent = os.sendfile(fd, self.file.fileno(), self.at, min(self.left, PIECE))
        else:
            sent = os.write(fd, os.pread(self.file.fileno(), min(self.left, PIECE), self.at))
        self.at += sent
        self.left -= sent
        return sent

    def close(self) -> None:
        close_body(self.file)


class Stream:
    """A response body whose length is known at its end only: an iterable of bytes or text, or something with read().

    HTTP/1.1 gets it chunked (RFC 9112 7.1), HTTP/1.0 plain, ended by the end of the connection.
    """

    __slots__ = ("body", "chunked", "ended", "pieces")

    def __init__(self, body: Any, chunked: bool) -> None:
        if isinstance(body, Mapping):
            raise TypeError("a response body cannot be a mapping: use Response.json()")
        self.body = body
        self.pieces: Iterator[Any] = read_all(body) if hasattr(body, "read") else iter(body)
        self.chunked = chunked
        self.ended = False

    def next(self) -> bytes:
        """The next piece as the client will get it, b"" after the last. Runs user code, raises what that raises."""
        if self.ended:
            return b""
        for piece in self.pieces:
            data = piece.encode() if isinstance(piece, str) else piece
            if not isinstance(data, bytes | bytearray | memoryview):
                raise TypeError(f"a response body is made of bytes or text, not of {type(piece).__name__}")
            if data:
                return chunk(bytes(data)) if self.chunked else bytes(data)
        self.ended = True
        return LAST_CHUNK if self.chunked else b""

    def close(self) -> None:
        close_body(self.body)


def read_all(file: Any) -> Iterator[Any]:
    while piece := file.read(RECEIVE):
        yield piece


def close_body(body: Any) -> None:
    """Close a file or generator; its clean-up is user code and may fail."""
    close = getattr(body, "close", None)
    if close is not None:
        try:
            close()
        except Exception:
            log.exception("closing a response body failed")


def wait_for(fd: int, mask: int, timeout: float) -> bool:
    """Wait for one descriptor; select.poll has no limit on its number, select.select has."""
    poller = select.poll()
    poller.register(fd, mask)
    return bool(poller.poll(max(0.0, timeout) * 1000))


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
