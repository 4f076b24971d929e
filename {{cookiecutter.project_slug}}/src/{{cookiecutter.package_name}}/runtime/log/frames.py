"""Frames: the format in which lines travel through the pipe of the log.

A frame is the sender's pid, a kind and a size, then so many bytes. Whole frames are written at once and are no longer
than PIPE_BUF (pipe(7)), so frames of several senders never mix. Kind: the stream, the severity times 4, two flags.
"""

import select
import struct
from collections.abc import Iterator

# Streams. ACCESS goes where OUT goes, but is never shown on the terminal of a detached start.
RECORD, OUT, ERR, ACCESS = range(4)
HEADER = struct.Struct("=IBH")
MORE, GOES_ON = 0x40, 0x80  # the record goes on in this sender's next frame; this frame goes on with its last one
ROOM = select.PIPE_BUF - HEADER.size  # bytes of lines in a frame
UNFINISHED = 2**19  # bytes of records that are not complete; what exceeds them is the oldest, of senders that died
Message = tuple[int, int, int, bytes]  # stream, severity, pid, lines


def encode(pid: int, stream: int, severity: int, data: bytes) -> Iterator[bytes]:
    """The frames of one record, or of a batch of lines."""
    kind = stream | severity << 2
    for start in range(0, len(data) or 1, ROOM):
        piece = data[start : start + ROOM]
        more = MORE if start + ROOM < len(data) else 0
        yield HEADER.pack(pid, kind | more | (GOES_ON if start else 0), len(piece)) + piece


def split(data: bytes) -> tuple[list[Message], bytes]:
    """The messages in a sequence of frames, and the frames that are left over: of records that are not complete."""
    found: list[Message] = []
    open_: dict[int, list[bytes]] = {}  # frames of records that go on, by sender
    at, end = 0, len(data)
    while end - at >= HEADER.size:
        pid, kind, size = HEADER.unpack_from(data, at)
        if at + HEADER.size + size > end:
            break
        frame = data[at : at + HEADER.size + size]
        at += len(frame)
        if not kind & (MORE | GOES_ON):
            open_.pop(pid, None)  # its next frame was dropped
            found.append((kind & 3, kind >> 2 & 7, pid, frame[HEADER.size :]))
        elif not kind & GOES_ON:
            open_[pid] = [frame]
        elif pid in open_:
            open_[pid].append(frame)
            if not kind & MORE:
                payload = b"".join(one[HEADER.size :] for one in open_.pop(pid))
                found.append((kind & 3, kind >> 2 & 7, pid, payload))
    left = [b"".join(frames) for frames in open_.values()]
    while sum(map(len, left)) > UNFINISHED:
        del left[0]
    return found, b"".join(left) + data[at:]


def extent(area: bytes | memoryview) -> int:
    """How many bytes of whole frames an area begins with; zeros follow them."""
    at = 0
    while at + HEADER.size <= len(area):
        pid, _, size = HEADER.unpack_from(area, at)
        if not pid:
            break
        at += HEADER.size + size
    return at


def lines_in(stream: int, data: bytes) -> int:
    """The number by which dropping this counts: the lines of the access log come in batches, a record counts once."""
    return data.count(b"\n") if stream == ACCESS else 1
