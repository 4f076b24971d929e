"""The HTTP/1.1 message parser: bytes in, a request head out. No sockets, no clocks.

The grammar of RFC 9110 (semantics) and RFC 9112 (HTTP/1.1) stands in one place, below. It is put together into one
regular expression that validates a whole head in one pass (`_HEAD`). What that refuses is read again line by line
(`_examine`), to learn whether more bytes are needed or which error it is: this may be slow, the first may not.
Whatever repeats is followed by something that it cannot match itself, so neither backtracks into more than a few
readings of the same bytes.

Where RFC 9112 lets a server choose between repairing a message and refusing it, this parser refuses: two programs
that repair differently are what request smuggling is made of (RFC 9112 11.2).
"""

import re
from functools import lru_cache
from socket import AF_INET6, inet_pton
from typing import overload

CHUNKED = -1  # Head.length of a chunked body
EMPTY_LINES = 4  # tolerated before a request line; RFC 9112 2.2 asks for at least one


class ProtocolError(Exception):
    """The client broke a rule: answer with `status` and close, for the rest of the stream means nothing."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason  # one line, and nothing in it comes from the client


class Limits:
    """How large the parts of a message may grow: bytes, but for `fields`; and the status of what is larger."""

    __slots__ = ("chunk", "extensions", "fields", "head", "line", "small", "trailer")

    def __init__(
        self,
        line: int = 8192,  # request line without its CRLF: 414 (RFC 9112 3 recommends 8000 or more)
        head: int = 65536,  # request line, field lines and the empty line: 431
        fields: int = 100,  # lines in a head, and again in a trailer section: 431
        trailer: int = 8192,  # trailer section of a chunked body: 431
        chunk: int = 1024,  # a chunk's size with its extensions and two CRLFs: 400
        extensions: int = 16384,  # all chunk extensions of one body: 400 (RFC 9112 7.1.1 asks for such a limit)
    ) -> None:
        self.line = line
        self.head = head
        self.fields = fields
        self.trailer = trailer
        self.chunk = chunk
        self.extensions = extensions
        self.small = min(line, 4 * fields)  # a head of this size breaks neither, for no line is shorter than 4 bytes


# ---- Grammar --------------------------------------------------------------------------------------------------------
# RFC 9110 5.6.2: token. RFC 9110 5.5: values hold VCHAR, SP, HTAB and obs-text, never another control.
# RFC 9112 5.1: no space before the colon. 5.2: no folding. 2.2: CRLF ends a line, and nothing less does.
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
VALUE = rb"[\t\x20-\x7e\x80-\xff]*"
FIELD_LINE = TOKEN + rb":" + VALUE + rb"\r\n"

# RFC 3986 3.3 and 3.4, and beyond it only what browsers leave unescaped (WHATWG URL, percent-encode sets): [ ] | ^ in
# paths, also \ ` { } in queries. In paths escapes must be whole; in queries a per cent sign that begins none stands for
# itself, as browsers send it. No fragment (RFC 9112 3.2), no space, ASCII only.
_ESCAPE = rb"%[0-9A-Fa-f]{2}"
_PATH = rb"/[!$&-;=@-\[\]^_a-z|~]*(?:(?:" + _ESCAPE + rb"[!$&-;=@-\[\]^_a-z|~]*)+|)"
_QUERY = rb"\?[!$-;=?-~]*"
# RFC 9110 7.2, RFC 3986 3.2.2: a reg-name, but for the comma, which would make it two values; an @ would make it
# userinfo (RFC 9110 4.2.4). Most names have less in them.
_NAME = rb"[A-Za-z0-9._~-]+"
_AUTHORITY = rb"(?:(?:[!$&'()*+;=A-Za-z0-9._~-]|" + _ESCAPE + rb")+|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?"
# RFC 9112 3.2: origin-, asterisk- or absolute-form; authority-form belongs to CONNECT, which is refused.
_TARGET = (
    rb"(?:" + _PATH + rb"(?:" + _QUERY + rb"|)"
    rb"|\*|[Hh][Tt][Tt][Pp][Ss]?://[!$%&'()*+;=A-Za-z0-9._~:\[\]-]+(?:" + _PATH + rb")?(?:" + _QUERY + rb")?)"
)
# The fields that decide where a message ends and what becomes of the connection (RFC 9112 6 and 9.3). A line is
# special when it begins with one, but for the one thing that many clients say and HTTP/1.1 does not need to hear.
_SPECIAL = rb"(?=[HCTEhcte])(?i:host|content-length|transfer-encoding|expect|connection(?!: keep-alive\r)):"
_PLAIN = rb"(?:(?!" + _SPECIAL + rb")" + FIELD_LINE + rb")*"
# RFC 9112 2.1. On the way, catch the common case: a simple Host in front, then at most a simple Content-Length, and
# nothing special after that. As no plain line is special, there is one way to divide the lines into these groups.
# (?:x|) is (?:x)?, but the engine looks at the next byte before it begins with x.
_HEAD = re.compile(
    rb"(?!CONNECT )(" + TOKEN + rb") (" + _TARGET + rb") HTTP/1\.([01])\r"
    rb"(\n(?:[Hh]ost: (" + _NAME + rb"(?::[0-5]?[0-9]{0,4}|))\r\n|)" + _PLAIN
    + rb"(?:[Cc]ontent-[Ll]ength: ([0-9]{1,18})\r\n" + _PLAIN + rb"|)"
    rb"(?:((?=" + _SPECIAL + rb")(?:" + FIELD_LINE + rb")+)|))\r\n"
)  # fmt: skip
_NOTABLE = re.compile(rb"\n(?=[HCTEhcte])((?i:host|content-length|transfer-encoding|expect|connection)):([^\r]*)")
new = object.__new__
_match_head, _findall_notable = _HEAD.match, _NOTABLE.findall

_is_field_line = re.compile(FIELD_LINE).fullmatch
_is_unfinished = re.compile(VALUE + rb"\r?").fullmatch  # of a line without an end; ten times as fast as a search
_FIELD_NAME_START = re.compile(TOKEN + rb"(?::|\Z)")
_FORBIDDEN = re.compile(rb"[\x00-\x08\n-\x0c\x0e-\x1f\x7f]|\r(?s:.)")  # anywhere in a field line but at its end
_SPLIT_ABSOLUTE = re.compile(r"https?://[^/?]+([^?]*)(.*)", re.IGNORECASE)
_is_token, _is_target = re.compile(TOKEN).fullmatch, re.compile(_TARGET).fullmatch
_is_visible, _is_version = re.compile(rb"[!-~]*").fullmatch, re.compile(rb"HTTP/[0-9]\.[0-9]").fullmatch
_is_authority = re.compile(_AUTHORITY).fullmatch


@lru_cache(256)
def _finder(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"\n(?i:" + re.escape(name.encode("latin-1", "replace")) + rb"):([^\r]*)")


class Head:
    """A request head. Its fields stay bytes until they are asked for."""

    __slots__ = ("_block", "_host", "expect", "keep_alive", "length", "method", "minor", "simple", "target")

    def __init__(self, method: str, target: str, block: bytes, host: bytes, length: int) -> None:
        self.method = method
        self.target = target  # as sent
        self.minor = 1  # of the version: HTTP/1.1 or HTTP/1.0
        self.length = length  # of the body, or CHUNKED
        self.keep_alive = True  # as far as the client is concerned
        self.simple = False  # nothing in it asks for another answer than most: 1.1, keep-alive, and not HEAD
        self.expect = False  # the client waits for 100 (Continue) before it sends the body
        self._host = host
        self._block = block  # LF and the field lines: so every line, the first too, follows an LF

    @property
    def host(self) -> str:
        """host[:port] that the request is for; "" only with HTTP/1.0 or *."""
        return self._host.decode()

    @property
    def raw(self) -> bytes:
        """The field lines as sent, each with its CRLF."""
        return self._block[1:]

    @property
    def path(self) -> str:
        """The path of the target, still percent-encoded; "*" for the server as a whole (RFC 9112 3.2.4)."""
        target = self.target
        if target[0] != "/" and (absolute := _SPLIT_ABSOLUTE.fullmatch(target)):
            # RFC 9110 4.2.3: an empty path means "/"; RFC 9112 3.2.4: for OPTIONS without a query it means "*".
            return absolute[1] or ("*" if self.method == "OPTIONS" and not absolute[2] else "/")
        return target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the first "?" of the target, still percent-encoded."""
        return self.target.partition("?")[2]

    @overload
    def get(self, name: str, default: None = None) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """The value of one field; several lines of one name are joined (see `separator`)."""
        values = _finder(name).findall(self._block)
        if len(values) > 1:
            return separator(name).join([value.strip(b" \t").decode("latin-1") for value in values])
        return values[0].strip(b" \t").decode("latin-1") if values else default

    def fields(self) -> list[tuple[str, str]]:
        """All field lines in their order, names in lower case."""
        return split_fields(self._block[1:])


def separator(name: str) -> str:
    """What joins several lines of one name: RFC 9110 5.3, and for cookies RFC 9113 8.2.3."""
    return "; " if name.lower() == "cookie" else ", "


def split_fields(lines: bytes) -> list[tuple[str, str]]:
    parts = [line.partition(":") for line in lines.decode("latin-1").split("\r\n")[:-1]]
    return [(name.lower(), value.strip(" \t")) for name, _, value in parts]


# ---- Heads ----------------------------------------------------------------------------------------------------------
def parse_head(buffer: bytes | bytearray, limits: Limits, start: int = 0, seen: int = 0) -> tuple[Head, int] | None:
    """Parse the request head at `start`: the head and the offset after it; None when more bytes are needed.

    A later call with more bytes in the same buffer may pass its earlier length as `seen`: what was examined then is
    not examined again, so that a head that trickles in costs no more than a few readings of it.
    """
    if seen and buffer.find(b"\r\n\r\n", max(start, seen - 3)) < 0:
        return _examine(buffer, limits, start, seen)
    found = _match_head(buffer, start, start + limits.head)
    if found is None:
        return _examine(buffer, limits, start, 0)
    method, target, minor, block, host, length, special = found.groups()
    end = found.end()
    if end - start > limits.small:
        if found.end(3) - start > limits.line:
            raise ProtocolError(414, "request line too long")
        if block.count(b"\r\n") > limits.fields:
            raise ProtocolError(431, "too many header fields")
    if host is not None and special is None and minor == b"1" and target[0] == 47:  # 47 is "/"
        head = new(Head)  # its __init__ would be called by way of C
        head.method = method.decode()
        head.target = target.decode()
        head.minor = 1
        head.length = int(length) if length else 0
        head.keep_alive = True
        head.simple = method != b"HEAD"
        head.expect = False
        head._host = host
        head._block = block
        return head, end
    head = Head(method.decode(), target.decode(), block, b"", 0)
    head.minor = int(minor)
    _frame(head, block)
    head.simple = head.keep_alive and minor == b"1" and method != b"HEAD"
    return head, end


def _frame(head: Head, block: bytes) -> None:
    """Apply the rules that tie the notable fields to the version, to the target and to each other."""
    # RFC 9110 5.3: lines of one name make one list. In Host and in Content-Length its comma is an error.
    fields: dict[bytes, bytes] = {}
    for name, value in _findall_notable(block):
        name, value = name.lower(), value.strip(b" \t")
        fields[name] = fields[name] + b"," + value if name in fields else value
    head._host = _host_of(head, fields.get(b"host"))
    # RFC 9112 9.3: options in any case; close wins; HTTP/1.0 closes unless asked not to.
    options = _members(fields.get(b"connection", b""))
    head.keep_alive = b"close" not in options and (head.minor == 1 or b"keep-alive" in options)
    head.length = _length_of(head, fields.get(b"transfer-encoding"), fields.get(b"content-length"))
    # RFC 9110 10.1.1: no other expectation is defined, and none in HTTP/1.0. Without a body there is nothing to wait
    # for.
    if b"expect" in fields and head.minor:
        if fields[b"expect"].lower() != b"100-continue":
            raise ProtocolError(417, "unknown expectation")
        head.expect = head.length != 0


def _host_of(head: Head, host: bytes | None) -> bytes:
    """RFC 9112 3.2: exactly one valid Host in HTTP/1.1; in no version two, or an invalid one."""
    if host is None and head.minor:
        raise ProtocolError(400, "no Host")
    if host:
        host = _authority(host, "malformed Host")
    if head.target == "*":
        if head.method != "OPTIONS":  # RFC 9112 3.2.4
            raise ProtocolError(400, "only OPTIONS may ask for *")
    elif head.target[0] != "/":
        # RFC 9112 3.2.2: the host in the target is the one that counts.
        return _authority(head.target.encode().split(b"/")[2].partition(b"?")[0], "malformed request target")
    elif head.minor and not host:
        raise ProtocolError(400, "empty Host")  # RFC 9110 4.2.1: no http URI is without a host
    return host or b""


def _length_of(head: Head, encoding: bytes | None, length: bytes | None) -> int:
    """The body's length, or CHUNKED (RFC 9112 6)."""
    if encoding is not None:
        # RFC 9112 6.1 and 6.3: both of them, and chunked in HTTP/1.0, are the classics of smuggling.
        if length is not None:
            raise ProtocolError(400, "both Transfer-Encoding and Content-Length")
        if head.minor == 0:
            raise ProtocolError(400, "Transfer-Encoding in HTTP/1.0")
        # RFC 9112 6.3: without chunked as the last coding the length is unknown; 6.1: never twice.
        codings = _members(encoding)
        if codings[-1] != b"chunked" or b"chunked" in codings[:-1] or not all(map(_is_token, codings)):
            raise ProtocolError(400, "Transfer-Encoding does not end in one chunked")
        if len(codings) > 1:
            raise ProtocolError(501, "unsupported transfer coding")  # RFC 9112 6.1
        return CHUNKED
    # RFC 9110 8.6: digits, and no more of them than 64 bits need. RFC 9112 6.3 lets equal values pass as one, or be
    # refused. int() alone would take signs, spaces and underscores too.
    if length is not None and not (length.isdigit() and len(length) <= 18):
        raise ProtocolError(400, "not one plain Content-Length")
    return int(length or 0)


def _members(value: bytes) -> list[bytes]:
    return [member.strip(b" \t") for member in value.lower().split(b",")]


def _authority(authority: bytes, error: str) -> bytes:
    """RFC 9110 7.2: uri-host [":" port], checked: a real IPv6 address in the brackets, a port that can exist."""
    found = _is_authority(authority)
    if found is None or int(found[2] or 0) > 65535:
        raise ProtocolError(400, error)
    if found[1]:
        try:
            inet_pton(AF_INET6, found[1].decode())
        except OSError:
            raise ProtocolError(400, error) from None
    return authority


def _examine(buffer: bytes | bytearray, limits: Limits, start: int, seen: int) -> tuple[Head, int] | None:
    """Of what is no complete valid head: raise the first error, or return None if more bytes may make it one.

    The first in the stream, so that the same bytes get the same status however they were cut up.
    """
    if buffer[start : start + 1] in (b"\r", b"\n"):
        # RFC 9112 2.2: empty lines before the request line are ignored, but not without end.
        first, last = start, start + 2 * EMPTY_LINES
        while first < last and buffer.startswith(b"\r\n", first):
            first += 2
        rest = buffer[first : first + 2]
        if not rest or (rest == b"\r" and first < last):
            return None
        if rest[0] in b"\r\n":
            raise ProtocolError(400, "no request line")
        return parse_head(buffer, limits, first, seen)

    stop = min(len(buffer), start + limits.head)
    end = buffer.find(b"\r\n", start, stop)
    if end < 0 or end + 2 > seen:
        _check_request_line(bytes(buffer[start : end if end >= 0 else stop]), limits, end >= 0)
    if end >= 0 and check_fields(buffer, limits, end + 2, stop, seen):
        raise ProtocolError(400, "malformed head")  # not reached while this and _HEAD agree
    if len(buffer) - start >= limits.head:
        raise ProtocolError(431, "request head too large")
    return None


def _check_request_line(line: bytes, limits: Limits, complete: bool) -> None:
    """RFC 9112 3: method SP request-target SP HTTP-version; if not complete, check what is there."""
    if line.endswith(b"\r") and not complete:
        line = line[:-1]
    method, _, rest = line[: limits.line].partition(b" ")
    target, _, version = rest.partition(b" ")
    fits = _is_version(version + b"HTTP/1.1"[len(version) :])  # what there is of the version
    if _is_token(method) and max(target, default=0) > 127:  # RFC 3986 2.5
        raise ProtocolError(400, "bytes beyond ASCII in the request target: they have to be escaped")
    if not (fits and _is_visible(target) and (_is_token(method) or not line)):
        raise ProtocolError(400, "TLS on a port without it" if line[0] == 0x16 else "not an HTTP request line")
    if len(line) > limits.line:
        raise ProtocolError(414, "request line too long")
    if not complete:
        return
    if not target or not _is_version(version):
        raise ProtocolError(400, "not an HTTP request line")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise ProtocolError(505, "unsupported HTTP version")  # RFC 9110 15.6.6
    if method == b"CONNECT":
        raise ProtocolError(501, "CONNECT is not supported")  # RFC 9110 9.3.6: for proxies
    if not _is_target(target):
        escaped = re.sub(_ESCAPE, b"", target.partition(b"?")[0])
        raise ProtocolError(
            400, "a % in the path that begins no escape" if b"%" in escaped else "malformed request target"
        )


def check_fields(buffer: bytes | bytearray, limits: Limits, first: int, stop: int, seen: int) -> bool:
    """Check the field lines in buffer[first:stop], an unfinished one too; was the empty line reached?"""
    begin = max(first, buffer.rfind(b"\n", first, seen) + 1)  # lines that ended before `seen` have been checked
    end = buffer.find(b"\n", max(begin, seen), stop)
    count = buffer.count(b"\n", first, begin) if end >= 0 else 0
    while end >= 0:
        if buffer.startswith(b"\r\n", begin):
            return True
        if not _is_field_line(buffer, begin, end + 1):
            raise ProtocolError(400, _fault(bytes(buffer[begin : end + 1])))
        count += 1
        if count > limits.fields:
            raise ProtocolError(431, "too many header fields")
        begin = end + 1
        end = buffer.find(b"\n", begin, stop)
    # Of a name without end look at 256 bytes, of a value at what is new: so that no byte is looked at too often.
    if (begin < stop and not (begin + 1 == stop and buffer[begin] == 13)) and (
        not _FIELD_NAME_START.match(buffer, begin, min(stop, begin + 256))
        or not _is_unfinished(buffer, max(begin, seen - 1), stop)
    ):
        raise ProtocolError(400, _fault(bytes(buffer[begin:stop])))
    return False


def _fault(line: bytes) -> str:
    """Say what is wrong with a field line."""
    name = line.partition(b":")[0]
    if line[0] in b" \t":
        return "whitespace before a field name, or a folded line"  # RFC 9112 2.2 and 5.2
    if _FORBIDDEN.search(line.removesuffix(b"\r\n")):
        return "control character, bare CR or bare LF in a field"  # RFC 9110 5.5, RFC 9112 2.2
    if name != line and name.endswith((b" ", b"\t")):
        return "whitespace between field name and colon"  # RFC 9112 5.1
    return "malformed field name"
