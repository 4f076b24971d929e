"""The application of the WSGI peers."""

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

Start = Callable[[str, list[tuple[str, str]]], Any]
BODY = b"Hello, world!"
LARGE = bytes(2**20)


def application(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
    """GET /bytes, GET /large, GET /sleep and POST /json."""
    path = environ["PATH_INFO"]
    body = BODY
    if path == "/json":
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body = json.dumps(json.loads(environ["wsgi.input"].read(size))).encode()
    elif path == "/large":
        body = LARGE
    elif path == "/sleep":
        time.sleep(0.005)
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))])
    return [body]
