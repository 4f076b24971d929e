"""The line protocol: `service_line(line, stream)` is called once per line, as helloserver did."""

from collections.abc import Callable
from types import ModuleType

from ..config.errors import StartError
from ..config.settings import Config
from ..process.handlers_module import check_signature
from .stream import LineTooLongError, Stream

NAME = "line"
REFUSAL = b""  # while no worker can work, connections are closed
TOO_LONG = b"line too long\r\n"


def check(handlers: ModuleType) -> None:
    """Does the user's module define what is served? Raises StartError (70)."""
    if not callable(getattr(handlers, "service_line", None)):
        raise StartError("handlers.py defines no service_line(line, stream): it is what answers a line")
    check_signature(handlers.service_line, "service_line in handlers.py", "line", "stream")


def service(handlers: ModuleType, config: Config) -> Callable[[Stream], None]:
    """What is run for each connection: read lines (ended by CRLF or LF, at most --max-line bytes), pass each on
    without its end, send what comes back. An over-long line is answered and the connection closed. In a drain the
    connection ends after the lines that have come."""

    def serve(stream: Stream) -> None:
        left = -1  # bytes that had come when the drain was noticed, and have not been served; -1: it was not
        drain = stream.drain
        while not stream.closed:
            try:
                stream.waits_for_line = True
                line = stream.readline(config.max_line)
            except LineTooLongError:
                stream.write(TOO_LONG)
                return
            if not line:
                return
            stream.waits_for_line = False
            answer = handlers.service_line(line.removesuffix(b"\n").removesuffix(b"\r"), stream)
            if isinstance(answer, str):
                answer = answer.encode()
            if answer:
                stream.write(answer)
            if drain.began:
                left = stream.unread if left < 0 else left - len(line)
                if left <= 0:
                    return

    return serve


def check_surroundings(config: Config) -> None:
    """As protocol_http has it: nothing is needed here."""
