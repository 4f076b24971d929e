"""Handlers are functions: call them with a line, look at what they send back."""

import socket
from collections.abc import Iterator

import pytest

from {{ cookiecutter.package_name }}.handlers import service_line
from {{ cookiecutter.package_name }}.runtime.stream import Stream


@pytest.fixture
def stream() -> Iterator[Stream]:
    """A connection, whose other end no process reads."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Stream(ours, "", None)


def test_hello(stream: Stream) -> None:
    assert service_line(b"hello", stream) == "Hello from {{ cookiecutter.project_slug }}\r\n"


def test_echo(stream: Stream) -> None:
    assert service_line(b"any other line", stream) == b"any other line\r\n"
    assert not stream.closed


def test_quit(stream: Stream) -> None:
    assert service_line(b"quit", stream) is None
    assert stream.closed
