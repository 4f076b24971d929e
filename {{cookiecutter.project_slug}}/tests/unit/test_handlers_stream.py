"""The handler is a function: call it with one end of a connection, look at what comes out of the other."""

import socket

from {{ cookiecutter.package_name }}.handlers import service_connection
from {{ cookiecutter.package_name }}.runtime.stream import Stream


def exchange(sent: bytes) -> bytes:
    """Give a client's bytes, and their end, to the handler; what it answers."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        with Stream(ours, "", None) as stream:
            service_connection(stream)
        with theirs.makefile("rb") as answer:
            return answer.read()


def test_hello() -> None:
    assert exchange(b"") == b"Hello from {{ cookiecutter.project_slug }}\r\n"


def test_echo() -> None:
    assert exchange(b"one\ntwo\n").removeprefix(exchange(b"")) == b"one\ntwo\n"
