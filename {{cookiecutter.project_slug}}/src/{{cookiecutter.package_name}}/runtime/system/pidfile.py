"""The pidfile: locked for life, so that a second service of this name does not start."""

import errno
import fcntl
import os

from ..config.errors import NOPERM, UNAVAILABLE, StartError


class Pidfile:
    """A file with the supervisor's pid, locked for life.

    The lock says whether the owner lives, not the existence of the file: a stale file is taken over. A fork does not
    inherit the lock (fcntl.lockf), so it is taken after detaching.
    """

    def __init__(self, path: str) -> None:
        """Raises StartError: 69 when the owner is alive, 77 when it cannot be read or written."""
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise StartError(
                f"pidfile {path}: cannot open it: {error.strerror}; start as its owner or choose another --pidfile",
                NOPERM,
            ) from None
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self.descriptor, 32).strip().decode("ascii", "replace") or "unknown"
            os.close(self.descriptor)
            raise StartError(
                f"already running as pid {owner} (it holds {path}); stop it first, or choose another --pidfile",
                UNAVAILABLE,
            ) from None
        self.stale = os.read(self.descriptor, 32).strip().decode("ascii", "replace")
        self.inode = os.fstat(self.descriptor).st_ino
        self.write(os.getpid())

    def write(self, pid: int) -> None:
        data = b"%d\n" % pid
        try:
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, data, 0)
        except OSError as error:
            self.remove()
            raise StartError(
                f"pidfile {self.path}: cannot write it: {error.strerror}; make room there, or choose another --pidfile",
                UNAVAILABLE if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else NOPERM,
            ) from None

    def remove(self) -> None:
        """Unlink the file if it is still ours, then release the lock."""
        try:
            if os.stat(self.path).st_ino == self.inode:
                os.unlink(self.path)
        except FileNotFoundError:
            self.inode = 0  # it was removed already
        except PermissionError:
            os.ftruncate(self.descriptor, 0)  # the directory is not ours to change: an empty file is stale
        os.close(self.descriptor)
