"""Python imports this at its start: what only Linux has is taken away, as on FreeBSD or macOS.

epoll, the affinity mask, SO_PEERCRED, pidfd_open, /proc and control groups, abstract sockets, set*resuid.
"""

import builtins
import errno
import os
import select
import selectors
import signal
import socket
from typing import Any

LINUX = ("/proc", "/sys/fs/cgroup")


def remove(module: Any, *names: str) -> None:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


remove(selectors, "EpollSelector")
vars(selectors)["DefaultSelector"] = selectors.PollSelector
remove(select, *[name for name in dir(select) if name.lower().startswith("epoll")])
remove(os, "sched_getaffinity", "sched_setaffinity", "pidfd_open", "P_PIDFD", "setresuid", "setresgid", "eventfd")
remove(os, "memfd_create", "process_cpu_count")
remove(signal, "pidfd_send_signal")
remove(socket, "SO_PEERCRED", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "SCM_CREDENTIALS")


def without_linux(function: Any) -> Any:
    """The same function, for which these directories do not exist."""

    def wrapper(path: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(path, str | bytes | os.PathLike):
            name = os.path.normpath(os.fsdecode(path))
            if any(name == one or name.startswith(one + "/") for one in LINUX):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return function(path, *arguments, **options)

    return wrapper


builtins.open = without_linux(builtins.open)
for name in ("open", "stat", "lstat", "listdir", "scandir", "readlink", "access"):
    setattr(os, name, without_linux(getattr(os, name)))


def without_abstract(method: Any) -> Any:
    """The same method, for which a name that begins with a zero byte is none."""

    def wrapper(self: socket.socket, *arguments: Any) -> Any:
        address = arguments[-1] if arguments else None
        if self.family == socket.AF_UNIX and isinstance(address, str | bytes) and address[:1] in ("\0", b"\0"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return method(self, *arguments)

    return wrapper


for name in ("bind", "connect", "connect_ex"):
    setattr(socket.socket, name, without_abstract(getattr(socket.socket, name)))
