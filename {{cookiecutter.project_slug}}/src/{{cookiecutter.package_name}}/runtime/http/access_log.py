"""The access log of http: a line per request when its response ends, in the Combined Log Format or as JSON.

Lines are collected per worker and written together: when there are 32 KiB of them, four times a second, when the worker
goes idle, and when it ends. So a worker that is killed loses one batch at most.
Each line costs about a microsecond, so this code calls as little as it can.
"""

import re
import time
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Protocol

from ..http1.parser import Head
from ..log import records
from ..log.access_format import address_of, date
from ..log.frames import ACCESS, ROOM
from ..log.records import INFO, channel
from ..web.trace_context import Trace
from .response_head import Clock

BATCH = 32768  # bytes
_referer = re.compile(rb"\n(?i:referer):[\t ]*([^\r]*)").search
_agent = re.compile(rb"\n(?i:user-agent):[\t ]*([^\r]*)").search
_unsafe = re.compile(r'["\\\x00-\x1f\x7f-\xff]')
_is_unsafe = _unsafe.search


class Client(Protocol):
    """The connection of a request."""

    peer: Any
    began: float  # when the request came, in seconds of the monotonic clock
    trace: Trace | None


class Entry:
    """A line of the access log, written when the response has been sent or cannot be."""

    __slots__ = ("head", "size", "status")

    def __init__(self, head: Head | None, status: int, size: int) -> None:
        self.head = head  # None: what was sent is no request
        self.status = status
        self.size = size  # bytes of the response's body


def escaped(text: str) -> str:
    """A text that cannot end the quotes around it, or the line, as Apache's mod_log_config writes it."""
    return _unsafe.sub(lambda found: "\\" + found[0] if found[0] in '"\\' else f"\\x{ord(found[0]):02x}", text)


def value(found: re.Match[bytes]) -> str:
    return found[1].rstrip(b"\t ").decode("latin-1")


class AccessLog:
    """The lines of one worker. Only its loop may use it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lines: list[str] = []
        self.size = 0
        self.second = -1
        self.start = ""  # of lines of this second

    def record(self, client: Client, moment: float, head: Head | None, status: int, size: int) -> None:
        """A response has ended, at `moment` of the monotonic clock: `size` bytes of its body were sent. Without a head
        the client sent what is no request, and may hold anything."""
        raise NotImplementedError

    def add(self, line: str) -> None:
        self.lines.append(line)
        self.size += len(line)
        if self.size > BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the batch, as frames of whole lines."""
        lines, self.lines, self.size = self.lines, [], 0
        pieces: list[str] = []
        size = 0
        for line in lines:
            size += len(line)
            if size > ROOM:
                channel.send(ACCESS, INFO, "".join(pieces).encode())
                pieces.clear()
                size = len(line)
            pieces.append(line)
        if pieces:
            channel.send(ACCESS, INFO, "".join(pieces).encode())


class Combined(AccessLog):
    """host ident user [time] "request" status bytes "referer" "user-agent"."""

    def record(self, client: Client, moment: float, head: Head | None, status: int, size: int) -> None:
        if self.clock.second != self.second:
            self.second = self.clock.second
            self.start = date(self.second)
        start = f"{address_of(client.peer)} - - {self.start}"
        if head is None:
            self.add(f'{start} "-" {status} {size} "-" "-"\n')
            return
        target, referer, agent, block = head.target, "-", "-", head._block
        found = _agent(block)
        if found is not None and _is_unsafe(agent := value(found)):
            agent = escaped(agent)
        found = _referer(block)
        if found is not None and _is_unsafe(referer := value(found)):
            referer = escaped(referer)
        if "\\" in target:  # the parser lets nothing else through that would have to be escaped
            target = escaped(target)
        self.add(f'{start} "{head.method} {target} HTTP/1.{head.minor}" {status} {size} "{referer}" "{agent}"\n')


class Json(AccessLog):
    """The same and more; the fields are those of docs/log.schema.json."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.role = ""  # what follows the milliseconds
        self.ahead = 0.0  # seconds by which the time of day is ahead of the monotonic clock

    def record(self, client: Client, moment: float, head: Head | None, status: int, size: int) -> None:
        now = moment + self.ahead
        second = int(now)
        if second != self.second:
            self.ahead = time.time() - time.monotonic()
            now = moment + self.ahead
            self.second = second = int(now)
            self.start = f'{{"time":"{records.stamp(second)[:-5]}.'
            self.role = f'Z","level":"info","logger":"access","role":"{channel.role}","pid":{channel.pid},"client":"'
        trace, more = client.trace, ""
        start = f'{self.start}{int((now - second) * 1000):03}{self.role}{address_of(client.peer)}","status":{status}'
        if trace is not None:
            if trace._request_id:  # none is made for this line alone
                more = f',"request_id":"{trace._request_id}"'
            if trace._context is not None:
                more += f',"trace_id":"{trace.trace_id}","span_id":"{trace.span_id}"'
        if head is None:
            self.add(f'{start},"sent":{size},"seconds":0{more}}}\n')
            return
        block = head._block
        found = _referer(block)
        if found is not None:
            more = f',"referer":{quoted(value(found))}{more}'
        found = _agent(block)
        if found is not None:
            more = f',"user_agent":{quoted(value(found))}{more}'
        target = head.target if "\\" not in head.target else head.target.replace("\\", "\\\\")
        self.add(
            f'{start},"sent":{size},"seconds":{moment - client.began:.6f},"method":"{head.method}","target":"{target}"'
            f',"version":"1.{head.minor}","host":"{head.host}"{more}}}\n'
        )


def access_log(style: str, clock: Clock) -> AccessLog | None:
    """The log that --access-log asks for: combined, json, or none ("off")."""
    return None if style == "off" else Json(clock) if style == "json" else Combined(clock)
