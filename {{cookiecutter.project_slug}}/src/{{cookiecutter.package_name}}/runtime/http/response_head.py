"""How the head of a response becomes bytes."""

import time

from ..http1.reasons import REASONS
from ..web.messages import BODILESS, HEADER_NAME, HEADER_VALUE, OURS, Response, check_status

CLOSE, KEEP_ALIVE = b"Connection: close\r\n", b"Connection: keep-alive\r\n"


class Clock:
    """The beginning of responses, made once per second: status line, Server and Date (RFC 9110 6.6.1). And the whole
    heads of the plainest ones, by the size of their bodies (see `head_of_bytes`)."""

    DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

    def __init__(self, server: str) -> None:
        self.server = server
        self.second = -1
        self.common = b""
        self.heads: dict[int, bytes] = {}

    def tick(self, moment: float) -> float:
        """Bring the date up to now, which is `moment` on the monotonic clock. Returns the moment of the next second."""
        now = time.time()
        self.second = second = int(now)
        # Not strftime: day and month names must be English in every locale (RFC 9110 5.6.7).
        year, month, day, hour, minute, sec, weekday, *_ = time.gmtime(second)
        date = f"{self.DAYS[weekday]}, {day:02} {self.MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{sec:02} GMT"
        self.common = f"Server: {self.server}\r\nDate: {date}\r\n".encode("ascii", "replace")
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


def head_of(response: Response, clock: Clock, length: int | None, connection: bytes, chunked: bool) -> bytes:
    """Status line and fields. Raises ValueError for a field that would inject another (RFC 9112 11.1)."""
    status = response.status
    check_status(status)
    reason = REASONS.get(status, "Unknown")
    lines = [b"HTTP/1.1 %d %s\r\n" % (status, reason.encode()), clock.common]
    typed = False
    for name, value in response.headers:
        if HEADER_NAME.fullmatch(name) is None or HEADER_VALUE.fullmatch(value) is None:
            raise ValueError(f"header {name!r}: {value!r} is not a valid field")
        lower = name.lower()
        if lower in OURS:
            raise ValueError(f"header {name!r} is set by the server, not by a handler")
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
    elif length is not None and status not in BODILESS:  # RFC 9110 8.6: never in a 204; of a 304 we do not know it
        lines.append(b"Content-Length: %d\r\n" % length)
    lines.append(connection)
    lines.append(b"\r\n")
    return b"".join(lines)
