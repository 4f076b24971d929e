"""The 33 cases of h1spec (github.com/uNetworking/h1spec), written anew from RFC 9110 and RFC 9112.

Each request is cut where h1spec cuts it; nothing may be answered before the rest has come.
"""

from __future__ import annotations

import pytest
from harness import Service, Wire

HANDLERS = """
from .runtime.http import Request, Router

routes = Router()

@routes.get("/")
def index(request: Request) -> bytes:
    return b"index"

@routes.post("/")
def post(request: Request) -> bytes:
    return request.body
"""
FLAGS = ("-n", "1", "-m", "1")

# Name: the pieces, sent one after the other, each when the one before has been read; the status; the body if 200.
CASES: dict[str, tuple[list[bytes], int, bytes]] = {
    # RFC 9112 2.2: a message is parsed as a sequence of octets, wherever the network cuts it.
    "fragmented method": ([b"G", b"ET / HTTP/1.1\r\nHost: a\r\n\r\n"], 200, b"index"),
    "fragmented target, before it": ([b"GET ", b"/ HTTP/1.1\r\nHost: a\r\n\r\n"], 200, b"index"),
    "fragmented target, within it": ([b"GET /?a", b"b HTTP/1.1\r\nHost: a\r\n\r\n"], 200, b"index"),
    "fragmented target, after it": ([b"GET /", b" HTTP/1.1\r\nHost: a\r\n\r\n"], 200, b"index"),
    "fragmented version": ([b"GET / HTT", b"P/1.1\r\nHost: a\r\n\r\n"], 200, b"index"),
    "fragmented request line": ([b"GET / HTTP/1.", b"1\r\nHost: a\r\n\r\n"], 200, b"index"),
    "fragmented request line, before CR": ([b"GET / HTTP/1.1", b"\r\nHost: a\r\n\r\n"], 200, b"index"),
    "fragmented request line, within CRLF": ([b"GET / HTTP/1.1\r", b"\nHost: a\r\n\r\n"], 200, b"index"),
    "fragmented field name": ([b"GET / HTTP/1.1\r\nHos", b"t: a\r\n\r\n"], 200, b"index"),
    "fragmented field value, before the colon": ([b"GET / HTTP/1.1\r\nHost", b": a\r\n\r\n"], 200, b"index"),
    "fragmented field value, after the colon": ([b"GET / HTTP/1.1\r\nHost:", b" a\r\n\r\n"], 200, b"index"),
    "fragmented field value, after the space": ([b"GET / HTTP/1.1\r\nHost: ", b"a\r\n\r\n"], 200, b"index"),
    "fragmented field value, before CR": ([b"GET / HTTP/1.1\r\nHost: a", b"\r\n\r\n"], 200, b"index"),
    "fragmented request, within CRLF": ([b"GET / HTTP/1.1\r\nHost: a\r", b"\n\r\n"], 200, b"index"),
    "fragmented end of the request": ([b"GET / HTTP/1.1\r\nHost: a\r\n\r", b"\n"], 200, b"index"),
    # RFC 9112 2.3 and 3: three words, the version among them, in capitals.
    "no version": ([b"GET / \r\nHost: a\r\n\r\n"], 400, b""),
    # RFC 9110 10.1.1: without a body there is nothing to wait for; a 100 would be wrong.
    "Expect without a body": ([b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"], 200, b"index"),
    "valid GET": ([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], 200, b"index"),
    # RFC 9112 3.2.2: absolute-form; RFC 9110 4.2.3: an empty path; 5.6.3: optional whitespace; 5.1: any case.
    "valid GET with corner cases": (
        [b"GET http://a?b=c HTTP/1.1\r\nhOsT:\t a \t\r\nX!#$%&'*+:\r\n\r\n"],
        200,
        b"index",
    ),
    # RFC 9110 5.1 and 5.6.2: a name is a token.
    "invalid character in a field name": ([b"GET / HTTP/1.1\r\nHost: a\r\nX[]: b\r\n\r\n"], 400, b""),
    # RFC 9112 3.2: one Host, no less and no more.
    "no Host": ([b"GET / HTTP/1.1\r\n\r\n"], 400, b""),
    "two Hosts": ([b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"], 400, b""),
    # RFC 9110 8.6: digits, and the recipient must anticipate that they overflow.
    "negative length that overflows": (
        [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -123456789123456789123456789\r\n\r\n"],
        400,
        b"",
    ),
    "negative length": ([b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1234\r\n\r\n"], 400, b""),
    "length that is no number": ([b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n"], 400, b""),
    # RFC 9110 5.5: a value may be empty, and holds no control characters.
    "empty field value": ([b"GET / HTTP/1.1\r\nHost: a\r\nX-Empty:\r\n\r\n"], 200, b"index"),
    "control character in a field value": ([b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x07b\r\n\r\n"], 400, b""),
    # RFC 9110 15.6.6, RFC 9112 2.3.
    "version that does not exist": ([b"GET / HTTP/9.9\r\nHost: a\r\n\r\n"], 505, b""),
    # RFC 9112 2.2: nothing but empty lines may stand before a request.
    "invalid bytes before a request": ([b"\xff\xfeGET / HTTP/1.1\r\nHost: a\r\n\r\n"], 400, b""),
    "invalid line ending": ([b"GET / HTTP/1.1\rHost: a\r\r"], 400, b""),
    # RFC 9112 6.2, 7.1, 6.1.
    "valid POST with a body": ([b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", b"hello"], 200, b"hello"),
    "valid chunked POST": (
        [b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", b"llo\r\n0\r\n\r\n"],
        200,
        b"hello",
    ),
    "length and chunked": (
        [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
        400,
        b"",
    ),
}


def test_all_cases_are_there() -> None:
    assert len(CASES) == 33


@pytest.mark.parametrize("case", CASES)
def test_case(http: Service, case: str) -> None:
    pieces, status, body = CASES[case]
    with http.wire() as wire, http.wire() as other:
        for piece in pieces[:-1]:
            wire.send(piece)
            for _ in range(2):  # the one worker has looked at all connections, and read the piece
                assert other.get("/").status == 200
            assert_silent(wire)
        wire.send(pieces[-1])
        if status != 200:
            wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = wire.answer()
        assert answer.status == status
        if status == 200:
            assert answer.body == body
            assert wire.get("/").body == b"index"  # the connection goes on
        else:
            assert answer.header("connection") == "close"
            wire.assert_closed()


def assert_silent(wire: Wire) -> None:
    timeout = wire.socket.gettimeout()
    wire.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        wire.socket.recv(1)
    wire.socket.settimeout(timeout)
