"""The stream: lines, sizes, limits, and both directions of a connection."""

import socket
from collections.abc import Iterator

import pytest

from {{ cookiecutter.package_name }}.runtime.stream import LineTooLongError, Stream
from {{ cookiecutter.package_name }}.runtime.stream.stream import bare

Ends = tuple[Stream, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A stream and its client."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        theirs.settimeout(5)
        yield Stream(ours, "", None), theirs


def test_lines(ends: Ends) -> None:
    stream, client = ends
    client.sendall(b"one\r\ntwo\n\nlast")
    client.shutdown(socket.SHUT_WR)
    assert [stream.readline() for _ in range(5)] == [b"one\r\n", b"two\n", b"\n", b"last", b""]


def test_a_stream_is_an_iterator_of_lines(ends: Ends) -> None:
    stream, client = ends
    client.sendall(b"one\ntwo\n")
    client.shutdown(socket.SHUT_WR)
    assert list(stream) == [b"one\n", b"two\n"]


def test_what_a_drain_cuts_in_the_middle_is_no_line(ends: Ends) -> None:
    stream, client = ends
    client.sendall(b"one\ntw")
    client.shutdown(socket.SHUT_WR)
    assert stream.readline() == b"one\n"
    stream.is_cut = True
    assert (stream.readline(), stream.unread) == (b"", 0)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_longest_line(ends: Ends, end: bytes) -> None:
    """The end of a line does not count."""
    stream, client = ends
    client.sendall(b"x" * 10 + end)
    client.shutdown(socket.SHUT_WR)
    assert stream.readline(10) == b"x" * 10 + end


@pytest.mark.parametrize("sent", [b"x" * 11 + b"\n", b"x" * 12, b"x" * 11, b"\r" * 12 + b"\n", b"x" * 10 + b"\r\r\n"])
def test_too_long_line(ends: Ends, sent: bytes) -> None:
    stream, client = ends
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(LineTooLongError, match="more than 10 bytes") as error:
        stream.readline(10)
    assert error.value.start == sent[:32]
    assert stream.unread


def test_endless_line_is_refused_before_its_end(ends: Ends) -> None:
    stream, client = ends
    client.sendall(b"x" * 12)
    with pytest.raises(LineTooLongError):
        stream.readline(10)


def test_sizes(ends: Ends) -> None:
    stream, client = ends
    client.sendall(b"0123456789")
    assert stream.read(4) == b"0123"
    assert stream.read(0) == b""
    assert stream.read_some(2) == b"45"
    assert stream.read_some() == b"6789"
    client.sendall(b"ab")
    client.shutdown(socket.SHUT_WR)
    assert stream.read(3) == b"ab"
    assert stream.read() == stream.read_some() == b""


def test_nothing_is_lost_when_the_client_is_too_slow(ends: Ends) -> None:
    stream, client = ends
    stream.settimeout(0.01)
    client.sendall(b"abc")
    with pytest.raises(TimeoutError) as error:
        stream.read(4)
    assert stream.error is error.value
    assert stream.read(3) == b"abc"


def test_writes_are_collected_until_a_read(ends: Ends) -> None:
    stream, client = ends
    assert stream.write(b"ab") == 2
    stream.write(bytearray(b"cd"))
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(10)
    client.sendall(b"\n")
    stream.readline()
    assert client.recv(10) == b"abcd"


def test_what_is_written_may_change_afterwards(ends: Ends) -> None:
    stream, client = ends
    data = bytearray(b"before")
    stream.write(data)
    data[:] = b"after!"
    stream.flush()
    assert client.recv(10) == b"before"


def test_text_is_a_mistake(ends: Ends) -> None:
    with pytest.raises(TypeError):
        ends[0].write("text")  # type: ignore[arg-type]


def test_half_close(ends: Ends) -> None:
    """Each side may say that it has no more, and still listen."""
    stream, client = ends
    client.shutdown(socket.SHUT_WR)
    assert stream.read() == b""
    stream.write(b"still here")
    stream.shutdown()
    assert client.recv(100) == b"still here"
    assert client.recv(100) == b""


def test_client_that_left(ends: Ends) -> None:
    stream, client = ends
    client.close()
    stream.write(b"x")
    with pytest.raises(ConnectionError) as error:
        stream.flush()
    assert stream.error is error.value


def test_close(ends: Ends) -> None:
    stream, client = ends
    with stream:
        stream.write(b"last words")
    assert client.recv(100) == b"last words"
    assert stream.closed
    with pytest.raises(ValueError, match="closed"):
        stream.write(b"more")


def test_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        ours, peer = server.accept()
        with Stream(ours, peer, None) as stream:
            assert stream.peer == client.getsockname()
            assert stream.local == server.getsockname()
            assert stream.fileno() == ours.fileno()
            assert stream.peer_name()
            stream.keepalive(30)
            stream.linger(0)
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_bare() -> None:
    assert [bare(line) for line in (b"a\r\n", b"a\n", b"a", b"a\r\r\n", b"\n")] == [b"a", b"a", b"a", b"a\r", b""]
