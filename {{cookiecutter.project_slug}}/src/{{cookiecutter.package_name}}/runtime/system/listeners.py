"""Listening sockets: a listener's life. `binding` binds them.

The supervisor binds, and keeps what it has bound through all reloads. The first generation's server listens once
init() has returned. A listener refuses new connections before it is closed: to close it resets handshakes in progress
and whatever entered its accept queue after the last accept, though those clients believe they are connected.
"""

import enum
import errno
import os
import socket
import sys
from collections.abc import Iterable
from typing import Any

from ..config.directories import entered, remove_workshop, workshop
from ..config.errors import NOPERM, UNAVAILABLE, StartError

HANDSHAKE = 0.05  # seconds for handshakes in progress to complete: more than a round trip within a region

# Linux 5.7: bind to an interface by number (socket(7) does it by name). The socket module has the name since 3.13.
SO_BINDTOIFINDEX = 62
NO_INTERFACE = 0x7FFFFFFF


class State(enum.Enum):
    BOUND = enum.auto()  # has its address, but no connection reaches it
    LISTENING = enum.auto()
    REFUSING = enum.auto()  # handshakes in progress complete, new ones are refused
    CLOSED = enum.auto()


# What the supervisor and a server may do with a listener. A call that is not in the table changes nothing.
TRANSITIONS = {
    State.BOUND: {State.LISTENING, State.REFUSING, State.CLOSED},
    State.LISTENING: {State.REFUSING, State.CLOSED},
    State.REFUSING: {State.CLOSED},
    State.CLOSED: set[State](),
}


class Listener:
    """One bound socket. The supervisor and each process that it forks have a state of it: a server reports that it
    listens, and the supervisor follows."""

    def __init__(self, address: str, sock: socket.socket, path: str = "", inherited: bool = False) -> None:
        self.address = address  # as configured: tells whether a reload changed it
        self.socket = sock
        self.path = path
        self.directory, self.name = os.path.split(path)  # of a UNIX socket
        self.workshop = f"{self.name}.{os.getpid()}"  # where a UNIX socket is bound until it listens
        self.inode = 0
        self.inherited = inherited  # opened by the starter, which may use it again
        self.state = State.BOUND

    def change(self, state: State) -> bool:
        """Enter a state; False when the table has no such transition."""
        if state not in TRANSITIONS[self.state]:
            return False
        self.state = state
        return True

    def listen(self, backlog: int) -> None:
        """Raises StartError (69): with SO_REUSEADDR, a taken port can show only here."""
        try:
            self.socket.listen(backlog)
            if self.path:
                with entered(self.directory):
                    os.rename(f"{self.workshop}/{self.name}", self.name)  # from now on clients find it, and it answers
                    remove_workshop(self.workshop)
        except OSError as error:  # such as: a stop has removed the file meanwhile
            raise refused(self.address, error) from None
        self.change(State.LISTENING)

    def is_local(self) -> bool:
        """Whether only this machine reaches it: a UNIX socket, or bound to a loopback address."""
        where = self.socket.getsockname()
        return self.socket.family == socket.AF_UNIX or where[0] == "::1" or where[0].startswith(("127.", "::ffff:127."))

    def shown(self, scheme: str) -> str:
        """Its URL: http://127.0.0.1:1966 or unix:/run/x.sock."""
        if self.socket.family == socket.AF_UNIX:
            return "unix:" + (self.path or os.fsdecode(self.socket.getsockname()))
        host, port = self.socket.getsockname()[:2]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def refuse(self) -> bool:
        """Refuse new connections, while handshakes in progress complete and are accepted. False where that is
        impossible: Linux alone can, by binding the socket to an interface that does not exist. A UNIX socket loses
        its name. A starter's socket is left alone: it may serve again."""
        if self.inherited or not self.change(State.REFUSING):
            return False
        if self.path:
            self.unlink()
            return True
        if not sys.platform.startswith("linux"):
            return False
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, NO_INTERFACE)
        except OSError:  # an older Linux, or a system that only imitates it
            return False
        return True

    def remove(self) -> None:
        """Close it; unlink its file. Later calls do nothing."""
        if self.change(State.CLOSED):
            self.unlink()
            self.socket.close()

    def unlink(self) -> None:
        """Remove the socket file if it is still the one that we made. Once, and before the socket is closed: later,
        another file may have its inode."""
        inode, self.inode = self.inode, 0
        if not inode:
            return
        try:
            with entered(self.directory):
                remove_workshop(self.workshop)
                if os.lstat(self.name).st_ino == inode:
                    os.unlink(self.name)
        except OSError:
            return  # a directory that is not ours, or is gone: a dead socket stays, the next start replaces it

    def adjust(self, backlog: int, uid: int, gid: int) -> None:
        """After a reload: the length of the accept queue, and the owner of a UNIX socket's file (of that file, whatever
        has its name by now). A starter's socket keeps its own. Raises StartError."""
        if self.inherited or self.state is not State.LISTENING:
            return
        try:
            self.socket.listen(backlog)
            if self.path and os.geteuid() == 0:
                self.give(uid, gid)
        except OSError as error:
            raise refused(self.address, error) from None

    def give(self, uid: int, gid: int) -> None:
        with entered(self.directory):
            facts = os.lstat(self.name)
            if (facts.st_uid, facts.st_gid) == (uid, gid) or facts.st_ino != self.inode:
                return
            with workshop(self.workshop):
                os.link(f"../{self.name}", self.name, follow_symlinks=False)
                if os.lstat(self.name).st_ino == self.inode:
                    os.chown(self.name, uid, gid, follow_symlinks=False)
            remove_workshop(self.workshop)


def remove(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        listener.remove()


def refused(address: str, error: OSError) -> StartError:
    """The one line for a bind or listen that failed."""
    if error.errno == errno.EADDRINUSE:
        return StartError(f"{address}: address in use; stop the other program or choose another port", UNAVAILABLE)
    if error.errno in (errno.EACCES, errno.EPERM):
        return StartError(
            f"{address}: not permitted to listen there; choose a port above 1023, or start as root", NOPERM
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return StartError(f"{address}: this machine has no such address; see `ip address` or `ifconfig`", UNAVAILABLE)
    return StartError(f"{address}: cannot listen there: {error.strerror}", UNAVAILABLE)


def peer_of(address: Any) -> Any:
    """(host, port) of a client, "" for one of a UNIX socket. An IPv4 client of a socket for both families has its IPv4
    address."""
    if not isinstance(address, tuple):
        return ""
    host = address[0]
    return (host[7:] if host.startswith("::ffff:") and "." in host else host, address[1])
