"""The access log of http: a line per request, in the Combined Log Format or as JSON.

Lines are collected per worker and leave together: when there are 32 KiB of them, four times a second, when the worker
goes idle, and when it ends. So a worker that is killed loses one batch at most.
Each line costs about a microsecond, so this code calls as little as it can.
"""

import re
import sys
import time
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any

from ..http1.parser import Head
from ..log import records
from ..log.access_format import address_of, date
from ..log.records import ACCESS, INFO, channel
from .bodies import Body, Region
from .connection import BROKEN, HEAD, Connection
from .messages import Response, error_page
from .response_head import BODILESS

if TYPE_CHECKING:
    from ..loop.event_loop import EventLoop


BATCH = 32768  # bytes
LEFT = "499"  # as nginx calls it: there was no answer, for the client had left
_referer = re.compile(rb"\n(?i:referer):[\t ]*([^\r]*)").search
_agent = re.compile(rb"\n(?i:user-agent):[\t ]*([^\r]*)").search
_unsafe = re.compile(r'["\\\x00-\x1f\x7f-\xff]')
_is_unsafe = _unsafe.search
_answer, _handling = Connection.answer, Connection.handle.__code__


def escaped(text: str) -> str:
    """A text that cannot end the quotes around it, or the line, as Apache's mod_log_config writes it."""
    return _unsafe.sub(lambda found: "\\" + found[0] if found[0] in '"\\' else f"\\x{ord(found[0]):02x}", text)


def value(found: re.Match[bytes]) -> str:
    """Of a field that was found."""
    return found[1].rstrip(b"\t ").decode("latin-1")


class AccessLog:
    """What one worker has to say. Only its loop may use it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.size = 0
        self.second = -1
        self.start = ""  # of lines of this second
        self.role = ""  # what follows the milliseconds in JSON
        self.ahead = 0.0  # what the time of day is ahead of the monotonic clock

    def flush(self) -> None:
        """Let the batch go, as frames of whole lines."""
        lines, self.lines, self.size = self.lines, [], 0
        if lines:
            pieces: list[str] = []
            size = 0
            for line in lines:
                size += len(line)
                if size > records.ROOM:
                    channel.send(ACCESS, INFO, "".join(pieces).encode())
                    pieces.clear()
                    size = len(line)
                pieces.append(line)
            channel.send(ACCESS, INFO, "".join(pieces).encode())


class Logged(Connection):
    """A connection whose requests are logged when their answers are sent, or never will be."""

    __slots__ = ("address", "asked", "over", "size", "status", "unsaid")

    def __init__(self, loop: "EventLoop", sock: Any, peer: Any, buffer: bytes = b"", served: int = 0) -> None:
        super().__init__(loop, sock, peer, buffer, served)
        self.address = address_of(peer)
        self.asked: Head | None = None  # the request that is answered; None: what was sent is no request
        self.status = ""
        self.size = 0  # bytes of the answer's body
        self.unsaid = False  # there is something to log
        self.over = False  # nothing more is logged

    def answer(self, head: Head, result: Any, source: Body | None) -> None:
        self.asked = head
        self.unsaid = True
        if type(result) is bytes:
            self.status, self.size = "200", len(result) if head.method != "HEAD" else 0
        elif result is None:
            self.status = LEFT
        _answer(self, head, result, source)
        if self.unsaid and self.state == HEAD:
            self.say()

    def compose(self, head: Head, response: Response) -> bytes:
        data = super().compose(head, response)
        self.status, self.size = str(response.status), 0
        if isinstance(self.source, Region):
            self.size = self.source.left
        elif self.source is None and head.method != "HEAD" and response.status not in BODILESS:
            self.size = len(data) - data.index(b"\r\n\r\n") - 4
        return data

    def refuse(self, status: int, detail: str, head: Head | None = None) -> None:
        page = error_page(status, detail, head.get("accept", "") if head is not None else "").body
        assert isinstance(page, bytes)
        self.asked, self.status, self.unsaid = head, str(status), True
        self.size = len(page) if head is None or head.method != "HEAD" else 0
        super().refuse(status, detail, head)

    def take_piece(self, piece: bytes) -> None:
        if piece is not BROKEN:
            self.size += len(piece)
        super().take_piece(piece)

    def finish(self) -> None:
        if self.unsaid:
            self.say()
        super().finish()

    def close(self) -> None:
        if self.unsaid:  # nothing of the answer was sent, or not all
            unsent = len(self.out) + (self.source.left if isinstance(self.source, Region) else 0)
            self.size = max(0, self.size - unsent) if self.state != HEAD else 0
            self.say()
        super().close()

    def given_up(self) -> None:
        for frame in sys._current_frames().values():  # which request it is, only its handler's thread knows
            below = frame
            while below.f_back is not None and not (below.f_code is _handling and below.f_locals["self"] is self):
                below = below.f_back
            if below.f_code is _handling:
                self.asked = below.f_locals["head"]
        self.status, self.size = "503", 0
        self.say()
        self.over = True

    def say(self) -> None:
        """Log the request."""
        raise NotImplementedError


class Combined(Logged):
    """host ident user [time] "request" status bytes "referer" "user-agent"."""

    __slots__ = ()

    def say(self) -> None:
        self.unsaid = False
        if self.over:
            return
        loop = self.loop
        log = loop.access
        if loop.clock.second != log.second:
            log.second = loop.clock.second
            log.start = date(log.second)
        head = self.asked
        if head is None:  # it may hold anything
            line = f'{self.address} - - {log.start} "-" {self.status} {self.size} "-" "-"\n'
        else:
            target, referer, agent, block = head.target, "-", "-", head._block
            found = _agent(block)
            if found is not None and _is_unsafe(agent := value(found)):
                agent = escaped(agent)
            found = _referer(block)
            if found is not None and _is_unsafe(referer := value(found)):
                referer = escaped(referer)
            if "\\" in target:  # the parser lets nothing else through that would have to be escaped
                target = escaped(target)
            line = (
                f'{self.address} - - {log.start} "{head.method} {target} HTTP/1.{head.minor}" {self.status} {self.size}'
                f' "{referer}" "{agent}"\n'
            )
        log.lines.append(line)
        log.size += len(line)
        if log.size > BATCH:
            log.flush()


class Json(Logged):
    """The same and more; the fields are those of docs/log.schema.json."""

    __slots__ = ()

    def say(self) -> None:
        self.unsaid = False
        if self.over:
            return
        loop = self.loop
        log = loop.access
        now = loop.moment + log.ahead
        second = int(now)
        if second != log.second:
            log.ahead = time.time() - time.monotonic()
            now = loop.moment + log.ahead
            log.second = second = int(now)
            log.start = f'{{"time":"{records.stamp(second)[:-5]}.'
            log.role = f'Z","level":"info","logger":"access","role":"{channel.role}","pid":{channel.pid},"client":"'
        head, trace, ids = self.asked, self.trace, ""
        start = f'{log.start}{int((now - second) * 1000):03}{log.role}{self.address}","status":{self.status}'
        if trace is not None:
            if trace._request_id:  # none is made for this line alone
                ids = f',"request_id":"{trace._request_id}"'
            if trace._context is not None:
                ids += f',"trace_id":"{trace.trace_id}","span_id":"{trace.span_id}"'
        if head is None:  # it may hold anything
            line = f'{start},"sent":{self.size},"seconds":0{ids}}}\n'
        else:
            block = head._block
            found = _referer(block)
            if found is not None:
                ids = f',"referer":{quoted(value(found))}{ids}'
            found = _agent(block)
            if found is not None:
                ids = f',"user_agent":{quoted(value(found))}{ids}'
            target = head.target if "\\" not in head.target else head.target.replace("\\", "\\\\")
            line = (
                f'{start},"sent":{self.size},"seconds":{loop.moment - self.began:.6f},"method":"{head.method}"'
                f',"target":"{target}","version":"1.{head.minor}","host":"{head.host}"{ids}}}\n'
            )
        log.lines.append(line)
        log.size += len(line)
        if log.size > BATCH:
            log.flush()
