"""Your service: fill in the functions below. Only `service_line` is required.

It is called once per line that a client sends, and what it returns is sent back: bytes or text as they are, None for
nothing. `stream` is the connection, for all else.
"""

import logging

from .runtime.stream import Stream

log = logging.getLogger(__name__)


def service_line(line: bytes, stream: Stream) -> bytes | str | None:
    """Answer one line, which comes without its end: say hello, say goodbye, or send it back as it came."""
    if line == b"hello":
        return "Hello from {{ cookiecutter.project_slug }}\r\n"
    if line == b"quit":
        stream.write(b"bye\r\n")
        stream.close()
        return None
    return line + b"\r\n"
