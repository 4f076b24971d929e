"""How these tests talk HTTP to the service."""

import urllib.error
import urllib.request

Address = tuple[str, int]
DEADLINE = 30.0

# Appended to handlers.py where a test needs handlers that take time, or memory.
EXTRA = """
import sys
import time


@routes.get("/test/slow/{name}")
def slow_for_tests(request: Request) -> str:
    sys.stdout.write(f"begun {request.params['name']}\\n")
    time.sleep(0.1)
    return request.params["name"]


@routes.get("/test/hog")
def hog_for_tests(request: Request) -> str:
    return str(len(b"x" * 2**30))


kept_for_tests = []


@routes.get("/test/keep")
def keep_for_tests(request: Request) -> str:
    kept_for_tests.append(b"x" * 2**20)
    return "kept"
"""


def ask(address: Address, path: str, body: bytes | None = None, **fields: str) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body of the answer."""
    request = urllib.request.Request(f"http://{address[0]}:{address[1]}{path}", data=body, headers=fields)
    with urllib.request.urlopen(request, timeout=DEADLINE) as response:
        return response.status, response.read()


def answers(address: Address) -> bool:
    """Whether the service serves."""
    try:
        return ask(address, "/healthz")[0] == 200
    except (urllib.error.URLError, ConnectionError):  # nothing listens yet behind the published port
        return False


def slow(address: Address, name: str) -> bool:
    """Ask what takes a while. Raises OSError when the answer does not come."""
    return ask(address, f"/test/slow/{name}") == (200, name.encode())


def hog(address: Address) -> None:
    """Ask for more memory than there is. Raises OSError when the answer does not come."""
    ask(address, "/test/hog")


def keep(address: Address) -> bool:
    """Ask for a MiB to be kept. Raises OSError when the answer does not come."""
    return ask(address, "/test/keep") == (200, b"kept")
