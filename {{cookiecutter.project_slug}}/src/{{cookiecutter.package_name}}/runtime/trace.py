"""Who asked: the request id (X-Request-ID) and W3C trace context (https://www.w3.org/TR/trace-context/) of a request.

Both are taken from the client if they are valid, and made when somebody wants to know them: the handler, a line that it
logs, or the access log. Whatever is known is returned, so nobody pays for an id that nobody sees.
"""

import random
import re
import sys
from types import CodeType, FunctionType
from typing import Any

from .http1 import Head

REQUEST_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")  # nothing that a log line or a query would have to escape
# 3.2.2: version 00 has exactly these parts; what a higher one adds is ignored (3.2.3.1); ff is no version.
TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
SENT = re.compile(rb"\n(?=[XxTt])(?i:x-request-id|traceparent):").search  # in the field lines of a head


class Trace:
    """The ids of one request. Our part of the trace has a span id of its own."""

    __slots__ = ("flags", "parent_id", "request_id", "span_id", "trace_id")

    def __init__(self, head: Head) -> None:
        given = head.get("x-request-id")
        self.request_id = given if given and REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        found = TRACEPARENT.fullmatch(head.get("traceparent") or "")
        if found and found[1] == "00" and len(found[0]) != 55:
            found = None
        if found and int(found[2], 16) and int(found[3], 16):  # 3.2.2.3 and 3.2.2.4: all zeros are invalid
            self.trace_id, self.parent_id = found[2], found[3]
            self.flags = f"{int(found[4], 16) & 1:02x}"  # sampled is the one flag of version 00
        else:
            self.trace_id, self.parent_id, self.flags = f"{random.getrandbits(128) or 1:032x}", "", "00"
        self.span_id = f"{random.getrandbits(64) or 1:016x}"

    @property
    def traceparent(self) -> str:
        """The value to send on, to services that the handler asks."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


handling: dict[CodeType, str] = {}  # functions that run handlers: the local variable that has `trace`


def runs_handlers(function: Any, variable: str) -> None:
    """Lines logged below this function belong to the request of its local `variable`."""
    assert isinstance(function, FunctionType)
    handling[function.__code__] = variable


def current() -> Trace | None:
    """The trace of the request whose handler runs in this thread. It is looked for in the callers' frames, when a line
    is logged, so that a request that logs nothing pays nothing (a context variable would cost 1% of a small one)."""
    frame = sys._getframe(1)
    while frame is not None:
        variable = handling.get(frame.f_code)
        if variable is not None:
            found: Trace | None = getattr(frame.f_locals.get(variable), "trace", None)
            return found
        frame = frame.f_back  # type: ignore[assignment]
    return None
