"""fd passing over the generation's pair of datagram sockets: its members send connections into the first and receive
them from the second. The server holds both ends, so a connection in the pair outlives its sender.
"""

import logging
import os
import socket

log = logging.getLogger("runtime")  # that of log.records, which is a layer above

CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def send(pair: socket.socket, data: bytes, *descriptors: int) -> bool:
    """Hand a connection over, and what belongs to it, with some data (at least a byte); then the caller closes its own
    descriptors. False: the pair is full (EAGAIN, ENOBUFS), often with ten of them (net.unix.max_dgram_qlen), and the
    caller keeps it."""
    try:
        socket.send_fds(pair, [data], descriptors)
    except OSError:
        return False
    return True


def receive(pair: socket.socket, most: int) -> tuple[bytes, socket.socket | None, list[int]] | None:
    """The next connection, its data, `most` bytes at most, and further descriptors, one at most; None when there is
    none. Raises OSError when no descriptor is free: it stays in the pair then."""
    try:
        # Without free descriptors the kernel would drop the connection on its way.
        first = os.dup(pair.fileno())
        try:
            os.close(os.dup(first))
        finally:
            os.close(first)
        data, descriptors, _, _ = socket.recv_fds(pair, most, 2, CLOEXEC)
    except BlockingIOError:
        return None
    if not descriptors:  # another thread took the last one in between
        log.error("a connection handed over was lost: no descriptor free; raise the limit (ulimit -n)")
        return data, None, []
    if not CLOEXEC:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
    return data, socket.socket(fileno=descriptors[0]), descriptors[1:]
