"""The pidfile: locked for life, so that a second service of this name does not start."""

import errno
import fcntl
import os
import re
import stat

from ..config.directories import is_at
from ..config.errors import NOPERM, UNAVAILABLE, StartError

LONGEST = 128  # bytes of a pidfile
CONTENT = re.compile(rb"[-\s\0]*(\d[^\0]*)?[\s\0]*")  # a pid, or what a crash of the machine has left of one
OPENED = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}  # the system refuses to open the latter two for this


class Pidfile:
    """A file with the supervisor's pid, locked for life.

    The lock says whether the owner lives, not the existence of the file: a stale file is taken over. A fork does not
    inherit the lock (fcntl.lockf), so it is taken after detaching.
    """

    def __init__(self, path: str) -> None:
        """Raises StartError: 69 when the owner is alive or the file is no pidfile, 77 when it cannot be read or
        written."""
        self.path = path
        self.descriptor = self.take(path, 0o644)
        if self.descriptor < 0:
            self.descriptor = self.replace()
        content = os.pread(self.descriptor, LONGEST + 1, 0)
        if len(content) > LONGEST or not CONTENT.fullmatch(content):
            os.close(self.descriptor)
            raise self.problem("it holds something else than a pid; choose another --pidfile, or remove it")
        self.stale = content.strip(b"\0\n ").decode("ascii", "replace")
        self.write(os.getpid())

    def problem(self, what: str, status: int = UNAVAILABLE) -> StartError:
        return StartError(f"pidfile {self.path}: {what}", status)

    def take(self, path: str, mode: int) -> int:
        """Open and lock; -1 when another process has a lock. What is locked is at the path: an owner may have removed
        its file between our opening and locking."""
        while True:
            descriptor = self.open(path, mode)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                return -1
            if is_at(path, descriptor):
                return descriptor
            os.close(descriptor)

    def open(self, path: str, mode: int) -> int:
        """Nothing but a file is opened: to open a device can have effects, and to open a FIFO can block."""
        try:
            if os.path.lexists(path) and stat.S_IFMT(os.lstat(path).st_mode) not in OPENED:
                raise self.problem("it is a device, a FIFO or a socket; choose another --pidfile")
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
        except OSError as error:
            hint = "start as its owner or choose another --pidfile"
            raise self.problem(f"cannot open it: {error.strerror}; {hint}", NOPERM) from None

    def replace(self) -> int:
        """Put a new file in the place of one that only readers have locked (any user may, once its owner has crashed);
        of two processes that try, one has the lock of the new file. Raises StartError (69) when the owner is alive."""
        temporary = self.path + ".new"
        successor = self.take(temporary, 0o600)
        descriptor = self.open(self.path, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if successor < 0:
                raise BlockingIOError
            os.rename(temporary, self.path)
            os.fchmod(successor, 0o644)
        except OSError as error:
            if successor >= 0:
                os.unlink(temporary)
                os.close(successor)
            if error.errno not in (None, errno.EAGAIN, errno.EACCES):
                raise self.problem(f"cannot replace it: {error.strerror}; remove it", NOPERM) from None
            owner = os.pread(descriptor, 32, 0).strip().decode("ascii", "replace") or "unknown"
            held = f"already running as pid {owner} (it holds {self.path}); stop it first, or choose another --pidfile"
            raise StartError(held, UNAVAILABLE) from None
        finally:
            os.close(descriptor)
        return successor

    def write(self, pid: int) -> None:
        data = b"%d\n" % pid
        try:
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, data, 0)
        except OSError as error:
            self.remove()
            raise self.problem(
                f"cannot write it: {error.strerror}; make room there, or choose another --pidfile",
                UNAVAILABLE if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else NOPERM,
            ) from None

    def remove(self) -> None:
        """Unlink the file if it is still ours, then release the lock."""
        try:
            if is_at(self.path, self.descriptor):
                os.unlink(self.path)
        except PermissionError:
            os.ftruncate(self.descriptor, 0)  # the directory is not ours to change: an empty file is stale
        os.close(self.descriptor)
