"""The local syslog daemon, without syslog(3), whose calls can block and whose ident is fixed."""

import os
import socket
import time

from .records import channel

FACILITY = {"user": 1, "daemon": 3, **{f"local{n}": 16 + n for n in range(8)}}
DATAGRAM = 8192  # bytes of a message to syslog; daemons cut off what is longer


class Syslog:
    """The local syslog daemon: a datagram per record (RFC 3164), never blocking."""

    PATHS = ("/dev/log", "/var/run/log", "/var/run/syslog")

    def __init__(self, ident: str, facility: str) -> None:
        self.ident = ident
        self.facility = FACILITY[facility] * 8
        self.socket: socket.socket | None = None

    def write(self, level: int, text: bytes) -> bool:
        """Send a record, whose lines stay together; only what is too long for a datagram becomes several. Returns True:
        what the daemon does not take is counted here."""
        head = f"<{self.facility + level}>{time.strftime('%b %e %H:%M:%S')} {self.ident}[{os.getpid()}]: ".encode()
        room = max(DATAGRAM // 2, DATAGRAM - len(head))  # however long the ident is
        while text:
            end = len(text) if len(text) <= room else text.rfind(b"\n", 1, room) + 1 or room
            self.send(head + text[:end].rstrip(b"\n"))
            text = text[end:]
        return True

    def send(self, data: bytes) -> None:
        for _attempt in range(2):  # the second one after a restart of the daemon
            self.socket = self.socket or self.connect()
            try:
                if self.socket is not None:
                    self.socket.send(data)
                    return
            except BlockingIOError:
                break
            except OSError:
                self.socket = None
        channel.dropped(1)

    def is_there(self) -> bool:
        """Whether a daemon listens."""
        self.socket = self.socket or self.connect()
        return self.socket is not None

    def connect(self) -> socket.socket | None:
        for path in self.PATHS:
            found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                found.connect(path)
            except OSError:
                found.close()
            else:
                found.setblocking(False)
                return found
        return None
