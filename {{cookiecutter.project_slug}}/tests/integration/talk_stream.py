"""How these tests talk to the service: in bytes."""

import socket

Address = tuple[str, int]
DEADLINE = 30.0

# Appended to handlers.py where a test needs handlers that take time, or memory.
EXTRA = """
import sys
import time

kept_for_tests = []


def service_connection(stream: Stream) -> None:
    line = stream.readline(limit=1024)
    if line.startswith(b"test slow "):
        sys.stdout.write(f"begun {line.split()[2].decode()}\\n")
        time.sleep(0.1)
        stream.write(line.split()[2])
    elif line == b"test hog\\n":
        stream.write(b"x" * 2**30)
    elif line == b"test keep\\n":
        kept_for_tests.append(b"x" * 2**20)
        stream.write(b"kept")
    else:
        stream.write(b"anything")
"""


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
    except OSError:  # nothing listens yet behind the published port
        return False


def slow(address: Address, name: str) -> bool:
    """Ask what takes a while. Raises OSError when the answer does not come."""
    return ask(address, b"test slow " + name.encode() + b"\n") == name.encode()


def hog(address: Address) -> None:
    """Ask for more memory than there is. Raises OSError when the answer does not come."""
    if not ask(address, b"test hog\n"):
        raise ConnectionError("closed without an answer")


def keep(address: Address) -> bool:
    """Ask for a MiB to be kept. Raises OSError when the answer does not come."""
    return ask(address, b"test keep\n") == b"kept"
