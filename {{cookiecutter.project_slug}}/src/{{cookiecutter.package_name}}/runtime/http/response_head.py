"""How the head of a response becomes bytes."""

import time

from ..http1.reasons import REASONS
from ..web.fields import date_of
from ..web.response import BODILESS, HEADER_NAME, HEADER_VALUE, LENGTH, OURS, Response, check_status

CLOSE, KEEP_ALIVE = b"Connection: close\r\n", b"Connection: keep-alive\r\n"


class Clock:
    """The beginning of responses, made once per second: status line, Server and Date (RFC 9110 6.6.1). And the whole
    heads of the plainest ones, by the size of their bodies (see `head_of_bytes`)."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.second = -1
        self.common = b""
        self.heads: dict[int, bytes] = {}

    def tick(self, moment: float) -> float:
        """Bring the date up to now, which is `moment` on the monotonic clock. Returns the moment of the next second."""
        now = time.time()
        self.second = second = int(now)
        self.common = f"Server: {self.server}\r\nDate: {date_of(second)}\r\n".encode("ascii", "replace")
        self.heads.clear()
        return moment + 1 - now % 1

    def head_of_bytes(self, key: int) -> bytes:
        """The head of so many bytes from a handler that returned nothing else; of ~bytes when the connection closes."""
        if len(self.heads) == 256:
            self.heads.clear()
        head = b"HTTP/1.1 200 OK\r\n%bContent-Type: application/octet-stream\r\nContent-Length: %d\r\n%b\r\n"
        size, connection = (key, b"") if key >= 0 else (~key, CLOSE)
        self.heads[key] = whole = head % (self.common, size, connection)
        return whole


def length_of(response: Response, known: int | None, empty: bool) -> int | None:
    """The Content-Length of a response whose body has so many bytes (None: a stream), and is not sent if `empty`; None
    without. Raises ValueError for a body that is not as long as its handler says."""
    declared = next((value for name, value in response.headers if name.lower() == "content-length"), None)
    if declared is None:  # of a 304 it would be that of the 200, which we do not know
        return None if response.status in BODILESS else known
    if not LENGTH.fullmatch(declared):
        raise ValueError(f"Content-Length {declared!r} is no number of bytes")
    if known is not None and known != int(declared) and not (empty and not known):
        raise ValueError(f"the body has {known} bytes, but its Content-Length says {declared}")
    return int(declared)


def head_of(response: Response, clock: Clock, length: int | None, connection: bytes, chunked: bool) -> bytes:
    """Status line and fields; Content-Length is `length`, whatever the response has. Raises ValueError for a field that
    would inject another (RFC 9112 11.1)."""
    status = response.status
    check_status(status)
    reason = response.reason or REASONS.get(status, "Unknown")
    if response.reason and HEADER_VALUE.fullmatch(reason) is None:
        raise ValueError(f"reason {reason!r} is not a valid reason phrase")
    lines = [b"HTTP/1.1 %d %s\r\n" % (status, reason.encode("latin-1")), clock.common]
    typed = False
    for name, value in response.headers:
        if HEADER_NAME.fullmatch(name) is None or HEADER_VALUE.fullmatch(value) is None:
            raise ValueError(f"header {name!r}: {value!r} is not a valid field")
        lower = name.lower()
        if lower in OURS:
            raise ValueError(f"header {name!r} is set by the server, not by a handler")
        if lower == "content-length":
            continue
        typed = typed or lower == "content-type"
        lines.append(f"{name}: {value}\r\n".encode("latin-1"))
    if status not in BODILESS and not typed:
        if HEADER_VALUE.fullmatch(response.content_type) is None:
            raise ValueError(f"content type {response.content_type!r} is not a valid field")
        lines.append(f"Content-Type: {response.content_type}\r\n".encode("latin-1"))
    if chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif status == 205:
        lines.append(b"Content-Length: 0\r\n")
    elif length is not None and status != 204:  # RFC 9110 8.6
        lines.append(b"Content-Length: %d\r\n" % length)
    lines.append(connection)
    lines.append(b"\r\n")
    return b"".join(lines)
