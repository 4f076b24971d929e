"""The HTTP/1.1 parser: bytes in, requests or an error out. The sections are those of RFC 9112."""

import pytest

from {{ cookiecutter.package_name }}.runtime.http1 import parser as http1

LIMITS = http1.Limits()
GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n"


def parse(data: bytes) -> http1.Head:
    """The head that all of data is."""
    found = http1.parse_head(data, LIMITS)
    assert found, "more bytes are needed"
    head, end = found
    assert end == len(data)
    return head


def trickle(data: bytes, limits: http1.Limits) -> None:
    """The same bytes one by one: more are needed up to the last one."""
    buffer = bytearray()
    for byte in data:
        buffer.append(byte)
        assert http1.parse_head(buffer, limits, 0, len(buffer) - 1) is None


def refused(data: bytes, limits: http1.Limits = LIMITS) -> int:
    """The status of the error, which is the same when the bytes come one by one."""
    with pytest.raises(http1.ProtocolError) as whole:
        http1.parse_head(data, limits)
    with pytest.raises(http1.ProtocolError) as trickled:
        trickle(data, limits)
    assert trickled.value.status == whole.value.status
    assert whole.value.reason.isprintable()
    return whole.value.status


def test_a_head() -> None:
    fields = b"Host: example.com:8080\r\nAccept: a\r\nX-Empty:\r\naccept:\tb \r\n"
    head = parse(b"GET /a%20b/c?d=e&f HTTP/1.1\r\n" + fields + b"\r\n")
    assert (head.method, head.target, head.path, head.query) == ("GET", "/a%20b/c?d=e&f", "/a%20b/c", "d=e&f")
    assert (head.minor, head.host, head.keep_alive, head.length, head.expect) == (1, "example.com:8080", True, 0, False)
    assert head.get("ACCEPT") == "a, b"
    assert head.get("x-empty") == ""
    assert head.get("x-absent") is None
    assert head.get("accep", "not sent") == "not sent"
    assert head.fields() == [("host", "example.com:8080"), ("accept", "a"), ("x-empty", ""), ("accept", "b")]
    assert head.raw == fields


def test_a_body_with_a_length() -> None:
    data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
    found = http1.parse_head(data + b"hello", LIMITS)
    assert found
    assert (found[0].length, found[1]) == (5, len(data))


def test_a_chunked_body() -> None:
    assert parse(GET + b"Transfer-Encoding: Chunked\r\n\r\n").length == http1.CHUNKED


def test_fields_are_latin_1() -> None:
    assert parse(GET + b"X-Name: J\xf6rg\r\n\r\n").get("x-name") == "J\u00f6rg"


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.1", "Connection: Upgrade, CLOSE\r\n", False),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", False),
        ("1.1", "Connection: closed\r\n", True),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
        ("1.0", "Connection: Keep-Alive, close\r\n", False),
    ],
)
def test_keep_alive(version: str, connection: str, expected: bool) -> None:
    """9.3: who keeps the connection open, and who does not."""
    assert parse(f"GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n".encode()).keep_alive is expected


@pytest.mark.parametrize(
    ("method", "target", "path", "query", "host"),
    [
        ("GET", "/", "/", "", "a"),
        ("GET", "//b/?", "//b/", "", "a"),
        ("GET", "/b?c?d", "/b", "c?d", "a"),
        ("GET", "http://b:80/c?d", "/c", "d", "b:80"),
        ("GET", "HTTPS://b", "/", "", "b"),
        ("GET", "http://b?c", "/", "c", "b"),
        ("GET", "http://[::1]:80/", "/", "", "[::1]:80"),
        ("OPTIONS", "*", "*", "", "a"),
        ("OPTIONS", "http://b", "*", "", "b"),
        ("get", "/", "/", "", "a"),
    ],
)
def test_targets(method: str, target: str, path: str, query: str, host: str) -> None:
    """3.2: the forms of a target, and where each says which host is meant."""
    head = parse(f"{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert (head.method, head.target, head.path, head.query, head.host) == (method, target, path, query, host)


@pytest.mark.parametrize("host", ["a", "A.b-c_d~e", "127.0.0.1:65535", "a:", "[::1]", "[2001:db8::127.0.0.1]:8080"])
def test_hosts(host: str) -> None:
    assert parse(f"GET / HTTP/1.1\r\nAccept: x\r\nhOsT:\t{host} \r\n\r\n".encode()).host == host


def test_http_1_0_needs_no_host() -> None:
    head = parse(b"GET / HTTP/1.0\r\n\r\n")
    assert (head.host, head.minor, head.get("host")) == ("", 0, None)


def test_expect() -> None:
    """RFC 9110 10.1.1."""
    assert parse(GET + b"Content-Length: 5\r\nExpect: 100-Continue\r\n\r\n").expect
    assert not parse(GET + b"Expect: 100-continue\r\n\r\n").expect
    assert not parse(b"PUT / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").expect
    assert refused(GET + b"Content-Length: 5\r\nExpect: 200-ok\r\n\r\n") == 417


def test_pipelined_heads() -> None:
    """9.3.2: one after the other, from where the last one ended; and 2.2: an empty line between them is no harm."""
    data = b"xx" + GET + b"\r\n" + b"\r\n" + b"PUT /second HTTP/1.1\r\nHost: a\r\n\r\n" + b"GE"
    first = http1.parse_head(data, LIMITS, 2)
    assert first
    second = http1.parse_head(data, LIMITS, first[1])
    assert second
    assert (first[0].method, second[0].method) == ("GET", "PUT")
    assert http1.parse_head(data, LIMITS, second[1]) is None


def test_every_beginning_of_a_head_asks_for_more() -> None:
    data = b"\r\n\r\nPOST /a?b HTTP/1.1\r\nHost: a\r\nA-b: c, d\r\nContent-Length: 1\r\n\r\n"
    for end in range(len(data)):
        assert http1.parse_head(data[:end], LIMITS) is None
    assert http1.parse_head(data, LIMITS) is not None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01", 400),
        (b"GET /\r\n", 400),
        (b"GET  / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / http/1.1\r\n", 400),
        (b"GET / HTTP/2.0\r\n", 505),
        (b"CONNECT a:80 HTTP/1.1\r\n", 501),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /#a HTTP/1.1\r\n", 400),
        (b"GET /%4 HTTP/1.1\r\n", 400),
        (b"GET /\xc3\xa4", 400),
        (b"GET http://a@b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400),
        (GET + b"Host: example.com\r\n\r\n", 400),
        (GET + b"A : b\r\n\r\n", 400),
        (GET + b"A: b\r\n c\r\n\r\n", 400),
        (GET + b"A: b\rc\r\n\r\n", 400),
        (GET + b"A: b\0\r\n\r\n", 400),
        (GET + b"A\r\n\r\n", 400),
        (GET + b"Content-Length: +5\r\n\r\n", 400),
        (GET + b"Content-Length: 5, 5\r\n\r\n", 400),
        (GET + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n", 400),
        (GET + b"Content-Length: 9999999999999999999\r\n\r\n", 400),
        (GET + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (GET + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
        (GET + b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET /" + b"a" * 8192, 414),
        (GET + b"A: " + b"b" * 65536, 431),
        (GET + b"A: b\r\n" * 100, 431),
    ],
)
def test_refused(data: bytes, status: int) -> None:
    assert refused(data) == status


def test_limits() -> None:
    data = b"GET /1234567 HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n"
    assert http1.parse_head(data, http1.Limits(line=21, head=len(data), fields=2))
    assert refused(data, http1.Limits(line=20, head=len(data), fields=2)) == 414
    assert refused(data, http1.Limits(line=21, head=len(data) - 1, fields=2)) == 431
    assert refused(data, http1.Limits(line=21, head=len(data), fields=1)) == 431
