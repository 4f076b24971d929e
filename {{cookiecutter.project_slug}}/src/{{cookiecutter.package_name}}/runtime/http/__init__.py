"""What handlers import: requests, responses, the router."""

from ..web.hooks import gzipped
from ..web.messages import DisconnectedError, Request
from ..web.response import HTTPError, Response
from ..web.routes import Router

__all__ = ["DisconnectedError", "HTTPError", "Request", "Response", "Router", "gzipped"]
