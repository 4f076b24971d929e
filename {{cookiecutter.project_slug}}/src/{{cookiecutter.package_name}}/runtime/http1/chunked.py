"""The chunked transfer coding (RFC 9112 7.1): encoded chunks in, payload out, and back. No sockets, no clocks."""

import re

from .parser import FIELD_LINE, TOKEN, VALUE, Limits, ProtocolError, check_fields, split_fields

LAST_CHUNK = b"0\r\n\r\n"
# RFC 9112 7.1 and 7.1.1: hexadecimal digits only, no more than 64 bits need; extensions by the grammar.
_QUOTED = rb'"[\t !#-\[\]-~\x80-\xff]*(?:\\[\t -~\x80-\xff][\t !#-\[\]-~\x80-\xff]*)*"'
_EXTENSION = rb"[\t ]*;[\t ]*" + TOKEN + rb"(?:[\t ]*=[\t ]*(?:" + TOKEN + rb"|" + _QUOTED + rb"))?"
_SIZE = re.compile(rb"\r\n([0-9A-Fa-f]{1,16})((?:" + _EXTENSION + rb")*)\r\n")  # the first CRLF ends what was before
_SIZE_START = re.compile(rb"\r?\Z|\r\n(?:[0-9A-Fa-f]{1,16}(?:[\t ;]" + VALUE + rb")?\r?)?\Z")  # may become one
_TRAILERS = re.compile(rb"((?:" + FIELD_LINE + rb")*)\r\n")
# RFC 9110 6.5.1: what frames, routes, authenticates, decodes or controls means nothing this late. It is dropped; but
# what could make two programs see two messages is refused.
_HARMFUL = frozenset(("connection", "content-length", "host", "transfer-encoding"))
_HEAD_ONLY = re.compile(
    "accept(-.*)?|(proxy-)?(authenticat|authoriz).*|cache-control|content-(encoding|location|range|type)"
    "|date|expect|expires|if-.*|keep-alive|location|max-forwards|pragma|range|retry-after|(set-)?cookie|te|trailer|upgrade"
    "|www-authenticate"
)


def chunk(data: bytes) -> bytes:
    """One chunk; nothing for no data, because an empty chunk ends the body (RFC 9112 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class Chunked:
    """Decoder of one chunked body (RFC 9112 7.1)."""

    def __init__(self, limits: Limits) -> None:
        self.done = False
        self.trailers: list[tuple[str, str]] = []  # names in lower case; apart from the head (RFC 9110 6.5.1)
        self._limits = limits
        self._pending = b"\r\n"  # what is not complete yet; as if a chunk had been there, so that all are read alike
        self._left = 0  # bytes of this chunk's data still to come
        self._ended = False  # nothing left but the trailer section
        self._extensions = 0  # bytes of chunk extensions so far

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Decode: the payload found and, once `done`, what is left over (the start of the next request)."""
        seen = len(self._pending)
        data = self._pending + data if seen else data
        self._pending = b""
        payload = []
        at = 0
        while not self.done:
            if self._left:
                payload.append(data[at : at + self._left])
                at += len(payload[-1])
                self._left -= len(payload[-1])
            if self._left:
                break
            end = self._trailer_section(data, at, seen) if self._ended else self._size(data, at)
            if end < 0:
                self._pending = data[at:]
                break
            at = end
        return payload[0] if len(payload) == 1 else b"".join(payload), data[at:] if self.done else b""

    def _size(self, data: bytes, at: int) -> int:
        """Read the CRLF that ends the chunk before, and the size of this one; the offset after it, or -1."""
        found = _SIZE.match(data, at, at + self._limits.chunk)
        if found is None:
            if len(data) - at >= self._limits.chunk or not _SIZE_START.match(data, at):
                raise ProtocolError(400, "malformed chunk")
            return -1
        self._left = int(found[1], 16)
        self._ended = self._left == 0
        self._extensions += len(found[2])
        if self._extensions > self._limits.extensions:
            raise ProtocolError(400, "too many chunk extensions")
        return found.end()

    def _trailer_section(self, data: bytes, at: int, seen: int) -> int:
        """Read the trailer section (RFC 9112 7.1.2); the offset after it, or -1."""
        limits = self._limits
        stop = min(len(data), at + limits.trailer)
        found = _TRAILERS.match(data, at, stop) if check_fields(data, limits, at, stop, seen) else None
        if found is None:
            if len(data) - at >= limits.trailer:
                raise ProtocolError(431, "trailer section too large")
            return -1
        fields = split_fields(found[1])
        if not _HARMFUL.isdisjoint(name for name, _ in fields):
            raise ProtocolError(400, "field not allowed in a trailer section")
        self.trailers = [one for one in fields if not _HEAD_ONLY.fullmatch(one[0])]
        self.done = True
        return found.end()
