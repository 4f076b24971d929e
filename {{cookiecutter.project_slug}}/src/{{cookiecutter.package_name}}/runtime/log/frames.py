"""Frames: the format in which lines travel through the pipe of the log.

A frame is a mark, the sender's pid, a kind and a size, then so many bytes. Whole frames are written at once and are no
longer than PIPE_BUF (pipe(7)), so frames of several senders never mix. Kind: the stream, the severity times 4, two
flags.

Every process of the service can write to the pipe, and not only frames. So the mark is what no text in UTF-8 holds:
what is no frame is left out, and the next frame is found by its mark.
"""

import re
import select
import struct
from collections.abc import Iterator

# Streams. ACCESS goes where OUT goes, but is never shown on the terminal of a detached start.
RECORD, OUT, ERR, ACCESS = range(4)
MARK = b"\xff\xfe"
HEADER = struct.Struct("<2sIBH")
MORE, GOES_ON = 0x40, 0x80  # the record goes on in this sender's next frame; this frame goes on with its last one
ROOM = select.PIPE_BUF - HEADER.size  # bytes of lines in a frame; a frame with MORE is full
HEAD = re.compile(rb"\xff\xfe.{6}[\x00-%c]" % (ROOM >> 8), re.DOTALL)
UNFINISHED = 2**19  # bytes of records that are not complete; what exceeds them is the oldest, of senders that died
Message = tuple[int, int, int, bytes]  # stream, severity, pid, lines


def encode(pid: int, stream: int, severity: int, data: bytes) -> Iterator[bytes]:
    """The frames of one record, or of a batch of lines."""
    kind = stream | severity << 2
    if pid & 0xFFFF == 0xFEFF:  # it would hold the mark: a number that no process has
        pid += 0x40000001
    if MARK in data:
        data = data.replace(MARK, b"\xef\xbf\xbd")  # printed bytes that are no text: U+FFFD
    for start in range(0, len(data) or 1, ROOM):
        piece = data[start : start + ROOM]
        more = MORE if start + ROOM < len(data) else 0
        yield HEADER.pack(MARK, pid, kind | more | (GOES_ON if start else 0), len(piece)) + piece


def split(data: bytes, whole: bool = True) -> tuple[list[Message], bytes]:
    """The messages in a sequence of frames, and the frames that are left over: of records that are not complete. The
    work is linear in the bytes. `whole`: the pipe was read until it was empty, so no frame goes on in the next read."""
    found: list[Message] = []
    open_: dict[int, list[bytes]] = {}  # frames of records that go on, by sender
    at, end = 0, len(data)
    while head := HEAD.search(data, at):
        start = head.start()
        _, pid, kind, size = HEADER.unpack_from(data, start)
        at = start + HEADER.size + size
        if at > end and not whole:
            at = start
            break
        payload = data[start + HEADER.size : at]
        if at > end or size > ROOM or (kind & MORE and size < ROOM) or data.find(MARK, start + 2, at + 1) >= 0:
            at = start + len(MARK)  # no frame begins here
        elif not kind & (MORE | GOES_ON):
            open_.pop(pid, None)  # its next frame was dropped
            found.append((kind & 3, kind >> 2 & 7, pid, payload))
        elif not kind & GOES_ON:
            open_.pop(pid, None)  # the order is that of the beginnings
            open_[pid] = [data[start:at]]
        elif pid in open_:
            open_[pid].append(data[start:at])
            if not kind & MORE:
                frames = open_.pop(pid)
                found.append((kind & 3, kind >> 2 & 7, pid, b"".join(one[HEADER.size :] for one in frames)))
    else:
        mark = data.rfind(MARK[:1], max(at, end - HEADER.size + 1))
        at = mark if mark >= 0 and not whole else end
    left = [b"".join(frames) for frames in open_.values()]
    size = sum(map(len, left))
    while size > UNFINISHED:
        size -= len(left.pop(0))
    return found, b"".join(left) + data[at:]


def extent(area: bytes | memoryview) -> int:
    """How many bytes of an area are in use; zeros follow them. (No line ends with a zero.)"""
    return len(bytes(area).rstrip(b"\0"))


def lines_in(stream: int, data: bytes) -> int:
    """The number by which dropping this counts: the lines of the access log come in batches, a record counts once."""
    return data.count(b"\n") if stream == ACCESS else 1
