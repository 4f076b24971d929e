"""The service in its container answers lines."""

import socket
from typing import Any

from talk import DEADLINE, ask


def test_answers(service: Any) -> None:
    (answer,) = ask(service.address, b"hello")
    assert answer.startswith(b"Hello from ")


def test_echoes(service: Any) -> None:
    assert ask(service.address, b"one", "zw\u00f6lf".encode(), b"") == [b"one", "zw\u00f6lf".encode(), b""]


def test_line_that_is_too_long_is_refused(service: Any) -> None:
    with socket.create_connection(service.address, DEADLINE) as connection:
        connection.sendall(b"x" * 5000)
        assert connection.recv(100) == b"line too long\r\n"
        assert connection.recv(100) == b""


def test_connection_may_stay_open(service: Any) -> None:
    with socket.create_connection(service.address, DEADLINE) as connection, connection.makefile("rb") as answers:
        for number in range(3):
            connection.sendall(b"line %d\r\n" % number)
            assert answers.readline() == b"line %d\r\n" % number
