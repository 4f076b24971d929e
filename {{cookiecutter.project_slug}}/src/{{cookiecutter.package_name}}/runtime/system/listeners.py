"""Listening sockets: a listener's life, and how an address is bound.

The supervisor binds, and keeps what it has bound through all reloads. The first generation's server listens once
init() has returned. A listener refuses new connections before it is closed: to close it resets handshakes in progress
and whatever entered its accept queue after the last accept, though those clients believe they are connected.
"""

import enum
import errno
import os
import socket
import stat
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ..config.directories import entered, remove_workshop, workshop
from ..config.errors import NOPERM, UNAVAILABLE, USAGE, StartError

EVERYWHERE = {"::", "0.0.0.0"}
LONGEST_PATH = 100  # bytes of a UNIX socket's path: what each system takes
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


def explained(error: StartError, address: str, ours: Sequence[Listener]) -> StartError:
    """A better message where one of `ours` has the address: a reload binds new addresses before it closes old ones, so
    it cannot exchange :1966 for 127.0.0.1:1966."""
    host, _, port = address.rpartition(":")
    if "address in use" not in error.message or host.startswith("unix"):
        return error
    host = host.strip("[]")
    hosts = {str(found[4][0]) for found in lookup(host, None)} if host else EVERYWHERE
    for listener in ours:
        if listener.address == address:
            return StartError(f"{address}: this service is just closing it; try again in a moment", UNAVAILABLE)
        where = listener.socket.getsockname()
        same_port = isinstance(where, tuple) and str(where[1]) == port
        if same_port and (hosts & EVERYWHERE or where[0] in hosts | EVERYWHERE):
            return StartError(
                f"{address}: overlaps {listener.address}, where this service itself listens until the new generation"
                " is ready: restart it, a reload cannot exchange the two",
                UNAVAILABLE,
            )
    return error


def lookup(host: str, port: int | None) -> list[tuple[Any, ...]]:
    """The addresses to bind for a name. Raises OSError. Ascii goes as bytes: a str is encoded as an international
    name (IDNA), and the tables for that are 3 ms and a megabyte."""
    name = host.encode() if host.isascii() else host
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)


def bind(address: str, uid: int = -1, gid: int = -1, mode: int = 0o770) -> Listener:
    """A bound socket for host:port, [v6]:port, :port, unix:path or fd:N. `uid`, `gid` and `mode` are those of a UNIX
    socket's file."""
    if address.startswith("unix:"):
        return bind_unix(address, uid, gid, mode)
    if address.startswith("fd:"):
        return inherit(int(address[3:]), address)
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host:
        return bind_all(address, int(port))
    try:
        found = lookup(host, int(port))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", error)
        raise StartError(
            f"{host!r} is no address of this machine ({reason}): give -i (or --bind) one of `ip address`", USAGE
        ) from None
    family, _, _, _, where = found[0]
    return bind_inet(address, family, where, only_v6=True)


def bind_all(address: str, port: int) -> Listener:
    """All interfaces: one socket for IPv6 and IPv4, or IPv4 alone where there is no IPv6."""
    if socket.has_ipv6:
        try:
            return bind_inet(address, socket.AF_INET6, ("::", port), only_v6=False)
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT, errno.EINVAL):
                raise refused(address, error) from None
        except StartError as error:
            if error.__cause__ is None and "no such address" not in error.message:
                raise
    return bind_inet(address, socket.AF_INET, ("0.0.0.0", port), only_v6=False)


def bind_inet(address: str, family: int, where: tuple[object, ...], only_v6: bool) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # A restart must not wait for connections of the last life in TIME_WAIT (tcp(7), Unix socket FAQ 4.5), which
        # inherit the option. For «any free port» it is set after the bind: with it, the kernel would also give out a
        # port that another program has bound with it and does not listen on yet.
        if where[1]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # inherited by accepted sockets
        # Inherited too. Without it a response waits for the client's delayed acknowledgement (Nagle): 44 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_v6))
        sock.bind(where)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError as error:
        sock.close()
        if error.errno in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            raise
        raise refused(address, error) from None
    sock.setblocking(False)
    return Listener(address, sock)


def bind_unix(address: str, uid: int, gid: int, mode: int) -> Listener:
    """Bound in a workshop, where no other user can exchange the file, and moved to its name when it listens: its name
    never refuses. The mode is right from the beginning (umask): nothing is changed by name."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener = Listener(address, sock, address[5:])
    try:
        if len(os.fsencode(listener.path)) > LONGEST_PATH:
            problem = f"a UNIX socket's path has {LONGEST_PATH} bytes at most: shorten it"
            raise StartError(f"{address}: {problem}", USAGE)
        with entered(listener.directory):
            refuse_living(listener)
            with workshop(listener.workshop):
                before = os.umask(0o777 & ~mode)
                try:
                    sock.bind(listener.name)
                finally:
                    os.umask(before)
                if os.geteuid() == 0:
                    os.chown(listener.name, uid, gid, follow_symlinks=False)
                listener.inode = os.lstat(listener.name).st_ino
    except OSError as error:
        sock.close()
        raise refused(address, error) from None
    except StartError:
        sock.close()
        raise
    sock.setblocking(False)
    return listener


def refuse_living(listener: Listener) -> None:
    """Raises StartError (69) for a file that is no socket, and for a socket on which a service listens."""
    try:
        mode = os.lstat(listener.name).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"{listener.address}: there is a file that is no socket: move it away", UNAVAILABLE)
    if answers(listener.name):
        raise StartError(f"{listener.address}: address in use by a live service; stop it first", UNAVAILABLE)


def peer_of(address: Any) -> Any:
    """(host, port) of a client, "" for one of a UNIX socket. An IPv4 client of a socket for both families has its IPv4
    address."""
    if not isinstance(address, tuple):
        return ""
    host = address[0]
    return (host[7:] if host.startswith("::ffff:") and "." in host else host, address[1])


def answers(path: str) -> bool:
    """True if a live service listens on this UNIX socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # EAGAIN: its queue is full; EACCES: it cannot be tried. In doubt it is alive
            return True
        return True


def inherit(descriptor: int, address: str) -> Listener:
    """A socket that the starter opened: fd:N or one of LISTEN_FDS."""
    try:
        sock = socket.socket(fileno=descriptor)
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"{address}: not an open socket: {error.strerror}", USAGE) from None
    if sock.type != socket.SOCK_STREAM:
        raise StartError(f"{address}: not a stream socket", USAGE)
    sock.setblocking(False)
    sock.set_inheritable(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener = Listener(address, sock, inherited=True)
    listener.state = State.LISTENING if listening else State.BOUND
    return listener
