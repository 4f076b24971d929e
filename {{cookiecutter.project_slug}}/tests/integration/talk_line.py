"""How these tests talk to the service: in lines."""

import socket

Address = tuple[str, int]
DEADLINE = 30.0

# Appended to handlers.py where a test needs handlers that take time, or memory.
EXTRA = """
import sys
import time

before_tests = service_line
kept_for_tests = []


def service_line(line: bytes, stream: Stream) -> bytes | str | None:
    if line.startswith(b"test slow "):
        sys.stdout.write(f"begun {line.split()[2].decode()}\\n")
        time.sleep(0.1)
        return line.split()[2] + b"\\r\\n"
    if line == b"test hog":
        return str(len(b"x" * 2**30))
    if line == b"test keep":
        kept_for_tests.append(b"x" * 2**20)
        return b"kept\\r\\n"
    return before_tests(line, stream)
"""


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
    except OSError:  # nothing listens yet behind the published port
        return False


def slow(address: Address, name: str) -> bool:
    """Ask what takes a while. Raises OSError when the answer does not come."""
    return ask(address, b"test slow " + name.encode()) == [name.encode()]


def hog(address: Address) -> None:
    """Ask for more memory than there is. Raises OSError when the answer does not come."""
    if not ask(address, b"test hog"):
        raise ConnectionError("closed without an answer")


def keep(address: Address) -> bool:
    """Ask for a MiB to be kept. Raises OSError when the answer does not come."""
    return ask(address, b"test keep") == [b"kept"]
