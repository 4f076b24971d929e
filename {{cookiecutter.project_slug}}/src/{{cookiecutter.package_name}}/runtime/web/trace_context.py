"""The request id (X-Request-ID) and the W3C trace context (https://www.w3.org/TR/trace-context/) of a request.

Both are taken from the client if they are valid, and else made when they are asked for first: by the handler, by a line
that it logs, or by the access log. The response says what is known then, so an id that is not asked for costs nothing.
"""

import os
import re

is_id = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}").fullmatch  # nothing that a log line or a query has to escape
# 3.2.2: version 00 has exactly these parts; what a higher one adds is ignored (3.2.3.1); ff is no version.
TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
# In the field lines of a head: (name, value) of what the client sent; the name is empty for traceparent.
Sent = list[tuple[bytes, bytes]]
asked = re.compile(rb"\n(?=[XxTt])(?i:(x-request-id)|traceparent):[\t ]*([^\r]*)").findall


def always(block: bytes) -> Sent:
    """The same, as if every client sent both."""
    sent: Sent = asked(block)
    return sent + [
        (name, b"") for name in (b"x-request-id", b"") if not any(bool(one) == bool(name) for one, _ in sent)
    ]


class Trace:
    """The ids of one request, each made when it is asked for first. Our part of the trace has a span id of its own."""

    __slots__ = ("_context", "_request_id", "_sent")

    def __init__(self, sent: Sent) -> None:
        self._sent = sent
        self._request_id = ""
        self._context: tuple[str, str, str, str] | None = None

    def _given(self, named: bool) -> bytes:
        """What the client sent; several lines of one name are one list (RFC 9110 5.3), which is never valid."""
        return b", ".join([value for name, value in self._sent if bool(name) == named]).rstrip(b"\t ")

    @property
    def request_id(self) -> str:
        """The client's, if it is valid, or 32 random digits."""
        if not self._request_id:
            given = self._given(True)
            self._request_id = given.decode() if is_id(given) else os.urandom(16).hex()
        return self._request_id

    @property
    def context(self) -> tuple[str, str, str, str]:
        """Trace id, the caller's span id, ours, and flags."""
        if self._context is None:
            span_id = os.urandom(8).hex()
            found = TRACEPARENT.fullmatch(self._given(False).decode("latin-1"))
            if found and found[1] == "00" and len(found[0]) != 55:
                found = None
            if found and int(found[2], 16) and int(found[3], 16):  # 3.2.2.3 and 3.2.2.4: all zeros are invalid
                flags = f"{int(found[4], 16) & 1:02x}"  # sampled is the one flag of version 00
                self._context = found[2], found[3], span_id, flags
            else:
                self._context = os.urandom(16).hex(), "", span_id, "00"
        return self._context

    @property
    def trace_id(self) -> str:
        return self.context[0]

    @property
    def parent_id(self) -> str:
        return self.context[1]

    @property
    def span_id(self) -> str:
        return self.context[2]

    @property
    def flags(self) -> str:
        return self.context[3]

    @property
    def traceparent(self) -> str:
        """The value to send on, to services that the handler asks."""
        trace_id, _, span_id, flags = self.context
        return f"00-{trace_id}-{span_id}-{flags}"

    def fields(self) -> list[tuple[str, str]]:
        """What the answer says: that which was sent or made."""
        sent = [bool(name) for name, _ in self._sent]
        found = [("X-Request-ID", self.request_id)] if self._request_id or True in sent else []
        return [*found, ("traceparent", self.traceparent)] if self._context or False in sent else found

    def lines(self) -> bytes:
        """The same as field lines of a head."""
        if self._context is None and len(self._sent) == 1:  # most clients send the id alone, and a good one
            name, value = self._sent[0]
            if name and is_id(value):
                self._request_id = value.decode()
                return b"X-Request-ID: " + value + b"\r\n"
        return "".join([f"{name}: {value}\r\n" for name, value in self.fields()]).encode()
