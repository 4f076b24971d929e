"""Your service: fill in the functions below. Only `routes` is required.

A handler gets a Request and returns a Response, or bytes, text, or a dict or list (sent as JSON).
"""

import logging

from .runtime.http import Request, Response, Router

log = logging.getLogger(__name__)
routes = Router()


@routes.get("/")
def hello(request: Request) -> str:
    """Say hello."""
    return "Hello from {{ cookiecutter.project_slug }}\n"


@routes.post("/echo")
def echo(request: Request) -> Response:
    """Send the body back as it came."""
    return Response(request.body, content_type=request.headers.get("content-type", "application/octet-stream"))


@routes.get("/healthz")
def healthz(request: Request) -> str:
    """Answer while this worker can work."""
    return "ok\n"
