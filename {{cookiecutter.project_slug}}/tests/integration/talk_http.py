"""How these tests talk HTTP to the service."""

import urllib.error
import urllib.request

Address = tuple[str, int]
DEADLINE = 30.0


def ask(address: Address, path: str, body: bytes | None = None, **fields: str) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body of the answer."""
    request = urllib.request.Request(f"http://{address[0]}:{address[1]}{path}", data=body, headers=fields)
    with urllib.request.urlopen(request, timeout=DEADLINE) as response:
        return response.status, response.read()


def answers(address: Address) -> bool:
    """Whether the service serves."""
    try:
        return ask(address, "/healthz")[0] == 200
    except (urllib.error.URLError, ConnectionError):  # nobody listens yet behind the published port
        return False
