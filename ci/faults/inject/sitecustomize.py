"""A seam for faults that would starve the whole machine if they were real: tables of files and memory that are full.

Python imports this when it starts with this directory in PYTHONPATH (`Target.injecting`); the runtime knows nothing of
it. While the file `accept` or `fork` is in the directory that FAULT_INJECT names, every such call of every process of
the service raises the OSError whose name the file holds. UNIX sockets are left out, so that `ctl` goes on working.
"""

import errno
import os
import socket
from typing import Any

HERE = os.environ["FAULT_INJECT"]
fork, accept = os.fork, socket.socket.accept


def fail(what: str) -> None:
    try:
        with open(f"{HERE}/{what}") as file:
            number = getattr(errno, file.read())
    except FileNotFoundError:
        return
    raise OSError(number, os.strerror(number))


def failing_fork() -> int:
    fail("fork")
    return fork()


def failing_accept(self: socket.socket) -> tuple[socket.socket, Any]:
    if self.family != socket.AF_UNIX:
        fail("accept")
    return accept(self)


os.fork = failing_fork
socket.socket.accept = failing_accept  # type: ignore[method-assign]
