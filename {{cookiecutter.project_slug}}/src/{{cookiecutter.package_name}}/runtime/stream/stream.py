"""The connection as a buffered binary stream, for the protocols `stream` and `line`."""

import select
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from ..ipc import forks
from ..ipc.waker import Waker, wait_for
from ..system.listeners import peer_of

CHUNK = 65536
FIRST_CHUNK = 512  # bytes asked for at first: the buffer is there while a thread waits, and there may be 10,000 of them
# macOS has another name for the time after which the first probe is sent.
KEEPIDLE = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)


class Drain(Waker):
    """Of a member: readable as soon as its drain has begun."""

    began = False

    def begin(self) -> None:
        self.began = True
        self.wake()


class LineTooLongError(Exception):
    """A line is longer than allowed; `start` is how it begins. It stays in the stream's buffer."""

    def __init__(self, limit: int, start: bytes) -> None:
        super().__init__(f"a line of more than {limit} bytes")
        self.start = start


class Stream:
    """One connection. Reads wait for the client, up to the timeout (--idle-timeout at first); writes are collected
    until `flush`, a read, or 64 KiB. Raises ConnectionError for one that has gone, TimeoutError for a silent one."""

    __slots__ = (
        "_asks", "_drain", "_ended", "_input", "_output", "_seconds", "_size", "_waiting", "born", "closed", "error",
        "is_cut", "on_end", "peer", "received", "running_since", "sent", "socket", "waits_for_line", "worker",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, peer: Any, worker: Any, drain: Drain | None = None) -> None:
        self.socket = sock
        self.peer = peer  # (address, port) of the client, "" on a UNIX socket
        self.worker = worker  # the object that worker_init got
        self.closed = False
        self.error: OSError | None = None  # that the connection itself raised last
        self.received = self.sent = 0  # bytes
        self.on_end: Callable[[Stream, bool], None] | None = None  # for the access log: whether the handler succeeded
        self.running_since = time.monotonic()  # when the handler last went on; 0 = it waits for the client
        self.born = self.running_since
        self.waits_for_line = False  # and not for what a handler reads: a drain may end it
        self.is_cut = False  # it has
        self._drain = drain
        self._asks = False  # the handler knows of drains
        self._seconds: float | None = None  # of settimeout
        self._input = b""
        self._output: list[bytes] = []
        self._waiting = 0
        self._ended = False
        self._size = FIRST_CHUNK

    @property
    def local(self) -> Any:
        """(address, port) of our side, which tells hosts of a multi-homed machine apart; the path of a UNIX socket."""
        address = self.socket.getsockname()
        return peer_of(address) if isinstance(address, tuple) else address

    @property
    def unread(self) -> int:
        """How many bytes have come that the handler has not read."""
        return len(self._input)

    @property
    def draining(self) -> bool:
        """Whether the service stops, or a reload replaces it, and waits for this connection. Once a handler has asked
        for this, a read that has got nothing yet returns b"" as soon as it is so, instead of waiting."""
        self._asks = True
        return self.drain.began

    @property
    def drain(self) -> Drain | type[Drain]:
        """For the runtime: of its member; without one the class, whose drain never begins."""
        return self._drain or Drain

    def fileno(self) -> int:
        """The descriptor, for select and the like. What is buffered already does not show there."""
        return self.socket.fileno()

    def peer_name(self) -> str:
        """The client's host name by reverse look-up, or its address. May take seconds: only when you ask."""
        return socket.getfqdn(self.peer[0]) if self.peer else "localhost"

    def settimeout(self, seconds: float | None) -> None:
        """Longest silence of the client in reads and writes from now on; None = for ever. Raises ValueError for less
        than a microsecond."""
        if seconds is not None and not seconds >= 1e-6:
            raise ValueError(f"settimeout needs a time above 0, or None, not {seconds!r}")
        # The kernel keeps the time (socket(7)). With Python's own timeout a poll would precede each call.
        self._seconds = seconds
        limit = struct.pack("ll", *divmod(int((seconds or 0) * 1e6), 1_000_000))
        self.socket.settimeout(None)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def _failed(self, error: OSError) -> OSError:
        """What is raised when the connection fails. EAGAIN means that the timeout is over (socket(7), SO_RCVTIMEO)."""
        self.error = TimeoutError("timed out") if isinstance(error, BlockingIOError) else error
        return self.error

    def linger(self, seconds: int) -> None:
        """SO_LINGER: how long close may wait until what was sent has arrived; 0 sends a reset instead."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))

    def keepalive(self, seconds: int) -> None:
        """SO_KEEPALIVE, which is on already: probe a client that has been silent for so long, not for two hours."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if KEEPIDLE is not None and self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, KEEPIDLE, seconds)

    def _receive(self, got: int) -> bytes:
        """The next bytes; b"" at the end of the client's side, which may still read ours (half-close). `got` is how
        many bytes the same read has already."""
        if self._ended:
            return b""
        self.flush()
        self.running_since = 0.0
        try:
            if self._asks and not got and self._drain is not None and self._waits_in_vain(self._drain):
                return b""
            data = self.socket.recv(self._size)  # retried by Python itself on EINTR (PEP 475)
        except OSError as error:
            raise self._failed(error) from None
        finally:
            self.running_since = time.monotonic()
        self._ended = not data
        size = len(data)
        self.received += size
        self._size = min(CHUNK, 2 * size) if size == self._size else size if size > FIRST_CHUNK else FIRST_CHUNK
        return data

    def _waits_in_vain(self, drain: Drain) -> bool:
        """Wait for the client. True: a drain has begun before."""
        poller = select.poll()
        for one in (self.socket, drain):
            poller.register(one, select.POLLIN)
        found = [fd for fd, _ in poller.poll(None if self._seconds is None else self._seconds * 1000)]
        if not found:
            raise BlockingIOError  # as after SO_RCVTIMEO
        return self.socket.fileno() not in found

    def cut(self) -> None:
        """For the runtime, in any thread: end the client's side, if that has been silent since the last line."""
        if not (self.running_since or self._input):
            self.is_cut = True
            with suppress(OSError):  # the client has left
                self.socket.shutdown(socket.SHUT_RD)

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, fewer only at the end; without `size`, all until the end."""
        pieces, length = [self._input], len(self._input)
        self._input = b""
        try:
            while (size < 0 or length < size) and (piece := self._receive(length)):
                pieces.append(piece)
                length += len(piece)
        finally:
            data = b"".join(pieces)
            self._input = data  # nothing is lost when a timeout is raised
        return self._take(size if size >= 0 else length)

    def read_some(self, size: int = CHUNK) -> bytes:
        """What has come, at least one byte and at most `size`; b"" at the end."""
        if not self._input:
            self._input = self._receive(0)
        return self._take(size)

    def readline(self, limit: int = CHUNK) -> bytes:
        """One line with its end (LF or CRLF); without it only at the stream's end. Raises LineTooLongError when more
        than `limit` bytes come before the end of the line."""
        start = 0
        while (at := self._input.find(b"\n", start)) < 0:
            start = len(self._input)
            if start > limit + 1:  # one more: the CR of a CRLF still to come
                raise LineTooLongError(limit, self._input[:32])
            piece = self._receive(start)
            if not piece:
                if self.is_cut:  # in the middle of a line, which is none then
                    self._input, start = b"", 0
                at = start - 1
                break
            self._input += piece
        if at >= limit and len(bare(self._input[: at + 1])) > limit:
            raise LineTooLongError(limit, self._input[:32])
        return self._take(at + 1)

    def _take(self, size: int) -> bytes:
        data, self._input = self._input[:size], self._input[size:]
        return data

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Add to what will be sent; returns its length."""
        if self.closed:
            raise ValueError("write to a closed stream")
        if type(data) is not bytes:
            data = bytes(memoryview(data))  # the caller may change it; and a text is a TypeError here, not later
        self._output.append(data)
        self._waiting += len(data)
        if self._waiting >= CHUNK:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Send what was written; waits for a client that reads slowly. Partial writes are continued."""
        if not self._output:
            return
        data = memoryview(b"".join(self._output))
        self._output.clear()
        self._waiting = 0
        self.running_since = 0.0
        try:
            while data:  # not sendall: its time limit is for all, not for silence
                sent = self.socket.send(data)
                self.sent += sent
                data = data[sent:]
        except OSError as error:
            raise self._failed(error) from None
        finally:
            self.running_since = time.monotonic()

    def shutdown(self) -> None:
        """Half-close: end our side of the connection; reading goes on."""
        self.flush()
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Flush and close. A second call does nothing."""
        if not self.closed:
            self.closed = True
            try:
                self.flush()
            finally:
                self.end()

    def end(self) -> None:
        """For the runtime: close the socket."""
        forks.shut_down(self.socket)
        self.socket.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close_lingering(self, seconds: float, most: int) -> None:
        """For the runtime: end our side, and discard what the client still sends, for so many seconds and bytes at
        most. Closing at once would send a reset, which can destroy what was sent last (RFC 1122 4.2.2.13)."""
        if self._ended and not self.unread:
            return  # all has been read, to the end of the client's side
        sock, deadline = self.socket, time.monotonic() + seconds
        self.running_since = 0.0
        try:
            sock.shutdown(socket.SHUT_WR)
            sock.setblocking(False)
            wait = seconds if self.unread else 0.0
            while most > 0 and wait >= 0 and wait_for(sock.fileno(), select.POLLIN, wait):
                data = sock.recv(CHUNK)
                if not data:
                    return
                most -= len(data)
                wait = deadline - time.monotonic()
        except OSError:
            return


def bare(line: bytes) -> bytes:
    """A line without its end."""
    return line.removesuffix(b"\n").removesuffix(b"\r")
