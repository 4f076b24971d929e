"""The application of the generated line service: it says what it hears."""

from .runtime.stream import Stream


def service_line(line: bytes, stream: Stream) -> bytes:
    return line + b"\n"
