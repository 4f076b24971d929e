"""How these tests talk to the service: in lines."""

import socket

Address = tuple[str, int]
DEADLINE = 30.0


def ask(address: Address, *lines: bytes) -> list[bytes]:
    """Send lines on a connection of its own; the lines that come back until its end."""
    with socket.create_connection(address, DEADLINE) as connection:
        connection.sendall(b"".join(line + b"\r\n" for line in lines))
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            return answer.read().split(b"\r\n")[:-1]


def answers(address: Address) -> bool:
    """Whether the service serves."""
    try:
        return bool(ask(address, b"hello"))
    except OSError:  # nobody listens yet behind the published port
        return False
