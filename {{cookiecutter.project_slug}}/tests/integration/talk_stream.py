"""How these tests talk to the service: in bytes."""

import socket

Address = tuple[str, int]
DEADLINE = 30.0


def ask(address: Address, sent: bytes = b"") -> bytes:
    """Send bytes and their end on a connection of its own; what comes back until its end."""
    with socket.create_connection(address, DEADLINE) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            return answer.read()


def answers(address: Address) -> bool:
    """Whether the service serves."""
    try:
        return bool(ask(address))
    except OSError:  # nobody listens yet behind the published port
        return False
