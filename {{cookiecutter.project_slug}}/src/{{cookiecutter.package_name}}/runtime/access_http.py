"""The access log of http: a line per request, in the Combined Log Format or as JSON.

Lines are collected per worker and leave together: when a frame is full, four times a second, when the worker goes idle,
and when it ends. So a worker that is killed loses one batch at most.
"""

import re
import time
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from . import logs
from .access import address_of, date
from .bodies import Body, Region
from .connection import BROKEN, HEAD, Connection
from .http1 import Head
from .logs import ACCESS, INFO, channel
from .routes import Found
from .worker import Worker

BATCH = logs.ROOM  # bytes: what one frame holds
LEFT = b"499"  # as nginx calls it: there was no answer, for the client had left
_referer = re.compile(rb"\n(?i:referer):[\t ]*([^\r]*)").search
_agent = re.compile(rb"\n(?i:user-agent):[\t ]*([^\r]*)").search
_unsafe = re.compile(r'["\\\x00-\x1f\x7f-\xff]')
_is_unsafe = _unsafe.search


def escaped(text: str) -> str:
    """A text that cannot end the quotes around it, or the line, as Apache's mod_log_config writes it."""
    return _unsafe.sub(lambda found: "\\" + found[0] if found[0] in '"\\' else f"\\x{ord(found[0]):02x}", text)


def value(found: re.Match[bytes]) -> str:
    """Of a field that was found."""
    return found[1].rstrip(b"\t ").decode("latin-1")


def beginning(second: int) -> str:
    """That of a line of JSON, up to where the milliseconds follow."""
    return f'{{"time":"{logs.stamp(second)[:-5]}.'


class AccessLog:
    """What one worker has to say. Only its loop may use it."""

    def __init__(self, form: str) -> None:
        self.add = self.add_json if form == "json" else self.add_combined
        self.lines: list[str] = []
        self.size = 0
        self.second = -1
        self.start = ""  # of lines of this second

    def add_combined(self, connection: "Logged", status: bytes, size: int) -> None:
        """host ident user [time] "request" status bytes "referer" "user-agent"."""
        second = int(time.time())
        if second != self.second:
            self.second, self.start = second, date(second)
        head = connection.asked
        if head is None:  # what was sent is no request, and may hold anything
            line = f'{connection.address} - - {self.start} "-" {status.decode()} {size} "-" "-"\n'
        else:
            target, referer, agent = head.target, "-", "-"
            found = _referer(head._block)
            if found is not None and _is_unsafe(referer := value(found)):
                referer = escaped(referer)
            found = _agent(head._block)
            if found is not None and _is_unsafe(agent := value(found)):
                agent = escaped(agent)
            if "\\" in target:  # the parser lets nothing else through that would have to be escaped
                target = escaped(target)
            line = (
                f"{connection.address} - - {self.start} "
                f'"{head.method} {target} HTTP/1.{head.minor}" {status.decode()} {size} "{referer}" "{agent}"\n'
            )
        self.collect(line)

    def add_json(self, connection: "Logged", status: bytes, size: int) -> None:
        """The same and more; the fields are those of docs/log.schema.json."""
        now = time.time()
        second = int(now)
        if second != self.second:
            self.second, self.start = second, beginning(second)
        head, trace = connection.asked, connection.trace
        line = (
            f'{self.start}{int((now - second) * 1000):03}Z","level":"info","logger":"access","role":"{channel.role}",'
            f'"pid":{channel.pid},"client":"{connection.address}","status":{status.decode()},"sent":{size}'
        )
        if head is None:  # what was sent is no request
            line += ',"seconds":0'
        else:
            block = head._block
            line += (
                f',"seconds":{time.monotonic() - connection.began:.6f},"method":"{head.method}"'
                f',"target":{quoted(head.target)},"version":"1.{head.minor}","host":"{head.host}"'
            )
            found = _referer(block)
            if found is not None:
                line += f',"referer":{quoted(value(found))}'
            found = _agent(block)
            if found is not None:
                line += f',"user_agent":{quoted(value(found))}'
        if trace is not None:
            line += f',"request_id":"{trace.request_id}","trace_id":"{trace.trace_id}","span_id":"{trace.span_id}"'
        self.collect(line + "}\n")

    def collect(self, line: str) -> None:
        """One line, in ASCII."""
        self.size += len(line)
        if self.size > BATCH:
            self.flush()
            self.size = len(line)
        self.lines.append(line)

    def flush(self) -> None:
        """Let the batch go."""
        if self.lines:
            data = "".join(self.lines).encode()
            self.lines.clear()
            self.size = 0
            channel.send(ACCESS, INFO, data)


class Logged(Connection):
    """A connection whose requests are logged when their answers are sent, or never will be."""

    __slots__ = ("address", "asked", "over", "size", "status")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.address = address_of(self.peer)
        self.asked: Head | None = None  # the request that is handled
        self.status = b""  # of the answer that is being sent
        self.size = 0  # bytes of its body
        self.over = False  # nothing more is logged

    def handle(self, head: Head, body: bytes | None, source: Body | None, found: Found, worker: Worker) -> Any:
        self.asked = head
        return super().handle(head, body, source, found, worker)

    def refuse(self, status: int, detail: str, head: Head | None = None) -> None:
        self.asked = head
        super().refuse(status, detail, head)

    def transmit(self, data: bytes) -> None:
        self.status = data[9:12]
        self.size = len(data) - data.index(b"\r\n\r\n") - 4
        if isinstance(self.source, Region):
            self.size += self.source.left
        super().transmit(data)
        if self.status and self.state == HEAD:
            self.say()

    def take_piece(self, piece: bytes) -> None:
        if piece is not BROKEN:
            self.size += len(piece)
        super().take_piece(piece)

    def finish(self) -> None:
        self.say()
        super().finish()

    def close(self) -> None:
        if self.status:  # in the middle of the answer
            self.size -= len(self.out) + (self.source.left if isinstance(self.source, Region) else 0)
            self.say()
        elif self.asked is not None:
            self.status, self.size = LEFT, 0
            self.say()
        super().close()

    def given_up(self) -> None:
        self.status, self.size = b"503", 0
        self.say()
        self.over = True

    def say(self) -> None:
        """Note the request; once."""
        if not self.over:
            self.loop.access.add(self, self.status, max(0, self.size))
        self.asked, self.status = None, b""
