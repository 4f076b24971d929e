"""What handlers import: requests, responses, the router."""

from .messages import DisconnectedError, HTTPError, Request, Response
from .routes import Router

__all__ = ["DisconnectedError", "HTTPError", "Request", "Response", "Router"]
