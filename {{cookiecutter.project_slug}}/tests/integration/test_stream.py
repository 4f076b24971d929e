"""The service in its container serves connections."""

import os
import socket
from typing import Any

from talk import DEADLINE, ask


def test_answers(service: Any) -> None:
    assert ask(service.address).startswith(b"Hello from ")


def test_echoes(service: Any) -> None:
    sent = os.urandom(100_000)
    assert ask(service.address, sent).endswith(b"\r\n" + sent)


def test_connection_may_stay_open(service: Any) -> None:
    with socket.create_connection(service.address, DEADLINE) as connection, connection.makefile("rb") as answers:
        assert answers.readline()
        for number in range(3):
            connection.sendall(b"%d\n" % number)
            assert answers.readline() == b"%d\n" % number
