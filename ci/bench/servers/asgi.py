"""The application of the ASGI peers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
BODY = b"Hello, world!"
LARGE = bytes(2**20)


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """GET /bytes, GET /large, GET /sleep and POST /json."""
    if scope["type"] != "http":
        return
    path = scope["path"]
    body = BODY
    if path == "/json":
        data, more = b"", True
        while more:
            message = await receive()
            data += message.get("body", b"")
            more = message.get("more_body", False)
        body = json.dumps(json.loads(data)).encode()
    elif path == "/large":
        body = LARGE
    elif path == "/sleep":
        await asyncio.sleep(0.005)
    headers = [(b"content-type", b"application/octet-stream"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
