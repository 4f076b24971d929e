"""What becomes of a response when its request has conditions or asks for ranges (RFC 9110 sections 13 and 14)."""

import os
import time
from collections.abc import Iterator

from ..http1.parser import Head
from .conditional import precondition, ranges
from .files import Slice
from .response import Response, error_page

OF_CONTENT = ("accept-ranges", "cache-control", "content-location", "etag", "expires")
PIECE = 65536  # bytes of a file that a piece of several ranges has


def settle(response: Response, head: Head) -> Response:
    """The response that this request gets instead of a 200: 304, 412, 206, 416, or the same one."""
    etag = modified = ""
    for name, value in response.headers:
        if (lower := name.lower()) == "etag":
            etag = value
        elif lower == "last-modified":
            modified = value
    if not (etag or modified) or head.method not in ("GET", "HEAD"):
        return response  # after another method it is too late to refuse it: see Request.check
    now = time.time()
    status = precondition(head.method, head.get, etag, modified, now)
    if status == 412:
        return refused(response, 412, head)
    if status == 304:
        return Response(b"", 304, [one for one in response.headers if is_kept(one[0].lower(), bool(etag))])
    file = response.body
    if type(file) is not Slice:
        return response
    size = file.limit
    parts = ranges(head.method, head.get, etag, modified, size, now)
    if parts is None:
        return response
    if not parts:
        return refused(response, 416, head, ("Content-Range", f"bytes */{size}"))
    made = response.with_fields(())
    made.status, made.reason = 206, ""
    if len(parts) == 1:
        file.seek(parts[0].start)
        file.limit = len(parts[0])
        made.headers.append(("Content-Range", content_range(parts[0], size)))
    else:
        body = Parts(file, parts, size, response.content_type)
        made.content_type = f"multipart/byteranges; boundary={body.boundary}"
        made.headers.append(("Content-Length", str(body.length)))
        made.body = body
    return made


def refused(response: Response, status: int, head: Head, *own: tuple[str, str]) -> Response:
    """An error page in place of a response; with its fields that are not about the content, such as those of hooks."""
    kept = [one for one in response.headers if is_kept(one[0].lower(), True) and one[0].lower() not in OF_CONTENT]
    return error_page(status, "", head.get("accept", ""), [*own, *kept])


def is_kept(name: str, tagged: bool) -> bool:
    """Whether a 304 has this field of the 200 (15.4.5): not what is about the content that it does not have."""
    if name == "last-modified":
        return not tagged
    return not name.startswith("content-") or name in ("content-location", "content-security-policy")


def content_range(part: range, size: int) -> str:
    return f"bytes {part.start}-{part.stop - 1}/{size}"


class Parts:
    """Several ranges of a file as multipart/byteranges (14.6)."""

    def __init__(self, file: Slice, parts: list[range], size: int, content_type: str) -> None:
        self.file = file
        self.boundary = os.urandom(16).hex()
        start = f"--{self.boundary}\r\nContent-Type: {content_type}\r\nContent-Range: "
        heads = [f"{start}{content_range(part, size)}\r\n\r\n".encode("latin-1") for part in parts]
        self.parts = list(zip(heads, parts, strict=True))
        self.end = f"--{self.boundary}--\r\n".encode()
        self.length = sum(len(head) + len(part) + 2 for head, part in self.parts) + len(self.end)
        self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        for head, part in self.parts:
            yield head
            self.file.seek(part.start)
            left = len(part)
            while left:
                piece = self.file.read(min(PIECE, left))
                if not piece:
                    raise EOFError("the file became shorter while it was sent")
                left -= len(piece)
                yield piece
            yield b"\r\n"
        yield self.end
