"""Your service: fill in the functions below. Only `service_connection` is required.

It is called once per connection, which it may hold for as long as it likes: when it returns, the connection ends.
"""

import logging

from .runtime.stream import Stream

log = logging.getLogger(__name__)


def service_connection(stream: Stream) -> None:
    """Say hello, then send everything back as it comes, until the client has no more."""
    stream.write(b"Hello from {{ cookiecutter.project_slug }}\r\n")
    while data := stream.read_some():
        stream.write(data)
