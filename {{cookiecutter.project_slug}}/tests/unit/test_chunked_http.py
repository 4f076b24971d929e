"""The decoder of chunked bodies. The sections are those of RFC 9112."""

import pytest

from {{ cookiecutter.package_name }}.runtime.http1 import chunked, parser

LIMITS = parser.Limits()


def decode(data: bytes, size: int) -> tuple[bytes, list[tuple[str, str]], bytes]:
    """Payload, trailers and rest of a chunked body that comes in pieces of this size."""
    decoder = chunked.Chunked(LIMITS)
    payload = b""
    for at in range(0, len(data), size):
        piece, rest = decoder.feed(data[at : at + size])
        payload += piece
        if decoder.done:
            return payload, decoder.trailers, rest + data[at + size :]
    raise AssertionError("the body does not end")


def test_chunks() -> None:
    data = b'5\r\nhello\r\n00A; a=b ; c="d;\\""\r\n, big worl\r\n1\r\nd\r\n0\r\nX-Sum: 1\r\n\r\nGET /'
    for size in (1, 2, 7, 1000):
        assert decode(data, size) == (b"hello, big world", [("x-sum", "1")], b"GET /")


def test_chunk_is_what_is_decoded() -> None:
    data = chunked.chunk(b"hello") + chunked.chunk(b"") + chunked.chunk(b"x" * 100) + chunked.LAST_CHUNK
    assert decode(data, 3) == (b"hello" + b"x" * 100, [], b"")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n", 400),
        (b"-1\r\n", 400),
        (b"0x1\r\n", 400),
        (b"1_0\r\n", 400),
        (b"1 \r\n", 400),
        (b"1\n", 400),
        (b"1\r\nxy", 400),
        (b"1\r\nx\n", 400),
        (b"11111111111111111", 400),
        (b"1;\r\n", 400),
        (b"1;a=b;c\x00", 400),
        (b"1;" + b"a" * 1024, 400),
        (b"0\r\nA\r\n\r\n", 400),
        (b"0\r\nContent-Length: 1\r\n\r\n", 400),
        (b"0\r\nHost: a\r\n\r\n", 400),
        (b"0\r\nA: " + b"b" * 8192, 431),
    ],
)
def test_refused_chunks(data: bytes, status: int) -> None:
    for size in (1, len(data)):
        with pytest.raises(parser.ProtocolError) as error:
            decode(data, size)
        assert error.value.status == status
