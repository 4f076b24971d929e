"""What handlers import: the connection as a buffered stream."""

from .stream import LineTooLongError, Stream

__all__ = ["LineTooLongError", "Stream"]
