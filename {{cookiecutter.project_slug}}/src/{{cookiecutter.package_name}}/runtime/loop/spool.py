"""Spool: what a loop receives for a handler, in memory up to a limit, and beyond it in a file without a name, so that
nothing is left behind however the process ends. Reading takes away.
"""

import errno
import os
from contextlib import suppress

from ..config.errors import StartError
from ..config.settings import Config, status_of
from ..log.records import log

IN_MEMORY = 65536  # bytes of a body; what is larger goes into a file
FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
GONE = "the request has ended, and its body is gone"


class Spool:
    """The body of one request. Without a directory all of it stays in memory."""

    __slots__ = ("at", "data", "directory", "fd", "size")

    def __init__(self, directory: str = "") -> None:
        self.directory = directory
        self.data = b""
        self.fd = -1  # of the file, if there is one
        self.size = 0  # bytes that were written
        self.at = 0  # of those read

    @property
    def left(self) -> int:
        return self.size - self.at

    def write(self, data: bytes) -> None:
        """Raises OSError when the file cannot be made, or its disk is full."""
        if self.fd < 0 and self.directory and self.left + len(data) > IN_MEMORY:
            self.to_file()
        if self.fd >= 0:
            write_all(self.fd, data)
        elif self.left:
            self.data += data
        else:  # what was read is not kept
            self.data, self.size, self.at = data, 0, 0
        self.size += len(data)

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" when there are no more for now. Raises OSError, ValueError after `close`."""
        if self.at < 0:
            raise ValueError(GONE)
        size = min(size, self.left)
        piece = os.pread(self.fd, size, self.at) if self.fd >= 0 else self.data[self.at : self.at + size]
        self.at += len(piece)
        return piece

    def to_file(self) -> None:
        """Put what is in memory into a file. Raises OSError."""
        if self.fd < 0:
            self.adopt(open_file(self.directory))
            write_all(self.fd, self.data)
            self.size, self.data = len(self.data), b""

    def adopt(self, fd: int) -> None:
        """The file of a whole body, which another process has received."""
        self.fd, self.size = fd, os.fstat(fd).st_size

    def close(self) -> None:
        self.data, self.at = b"", -1
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


def open_file(directory: str) -> int:
    """A new file that no name leads to. Raises OSError."""
    flags = os.O_RDWR | os.O_EXCL
    with suppress(AttributeError, OSError):  # not Linux, or a file system that cannot do it
        return os.open(directory, flags | os.O_TMPFILE, 0o600)
    name = os.path.join(directory, f"spool.{os.getpid()}.{os.urandom(8).hex()}")
    fd = os.open(name, flags | os.O_CREAT, 0o600)
    os.unlink(name)
    return fd


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def check(config: Config) -> None:
    """Can files be made in --spool-dir? Raises StartError when one that was asked for is of no use."""
    try:
        os.close(open_file(config.spool_dir))
    except OSError as error:
        source = config.source["spool_dir"]
        problem = f"--spool-dir: cannot make files in {config.spool_dir}: {error.strerror}"
        if source != "default":
            raise StartError(f"{problem}; name a directory that its user can write in", status_of(source)) from None
        log.warning("%s; bodies of more than %d bytes are refused (503) until another is named", problem, IN_MEMORY)
