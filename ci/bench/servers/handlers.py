"""The application of the generated service."""

import json
import time

from .runtime.http import Request, Router

routes = Router()
LARGE = bytes(2**20)


@routes.get("/bytes")
def constant(request: Request) -> bytes:
    return b"Hello, world!"


@routes.get("/large")
def large(request: Request) -> bytes:
    return LARGE


@routes.get("/sleep")
def sleep(request: Request) -> bytes:
    time.sleep(0.005)
    return b"Hello, world!"


@routes.post("/json")
def echo(request: Request) -> bytes:
    return json.dumps(json.loads(request.body)).encode()
