"""Addresses: how listeners are bound to one, and what is said when that fails."""

import errno
import json
import os
import signal
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

from ..config.directories import entered, workshop
from ..config.errors import UNAVAILABLE, USAGE, StartError
from ..ipc import signals
from ..log.records import log
from .listeners import Listener, State, refused, remove

EVERYWHERE = {"::", "0.0.0.0"}
ABSENT = {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL}  # this machine has no such address
LONGEST_PATH = 100  # bytes of a UNIX socket's path: what each system takes
LONGEST_LOOKUP = 30  # seconds that DNS may take
ATTEMPTS = 5  # to have one free port on several addresses
Place = tuple[int, tuple[Any, ...]]  # a family, and an address for bind(2)


def explained(error: StartError, address: str, places: Sequence[Place], ours: Sequence[Listener]) -> StartError:
    """A better message where one of `ours` has the address: a reload binds new addresses before it closes old ones, so
    it cannot exchange :1966 for 127.0.0.1:1966."""
    host, _, port = address.rpartition(":")
    if "address in use" not in error.message or host.startswith("unix"):
        return error
    hosts = {str(where[0]) for _, where in places} if places else EVERYWHERE
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


def resolve(address: str) -> list[Place]:
    """The addresses to bind for the host of host:port: one, or all of a name; none where nothing has to be looked up.
    This can take the time of DNS. Raises StartError (2)."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or address.startswith(("unix:", "fd:")):
        return []
    if is_link_local(host):
        raise StartError(
            f"{address}: {host} is a link-local address, which needs its interface: {host}%eth0; see `ip address`",
            USAGE,
        )
    try:
        return lookup(host, int(port))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", error)
        raise StartError(
            f"{host!r} is no address of this machine ({reason}): give -i (or --bind) one of `ip address`", USAGE
        ) from None


def is_name(address: str) -> bool:
    """Whether DNS may be asked for it."""
    host = address.rpartition(":")[0].strip("[]")
    if not host or address.startswith(("unix:", "fd:")):
        return False
    try:
        return not socket.getaddrinfo(host.encode(), None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return True


class Lookup:
    """A process that resolves names, so that nothing waits for DNS meanwhile: `reader` becomes readable at its end."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Raises OSError when it cannot be started."""
        self.addresses = addresses
        self.reader, writer = os.pipe()
        try:
            with signals.blocked():
                self.pid = os.fork()
                if not self.pid:
                    self.run(addresses, writer)
        except OSError:
            os.close(self.reader)
            raise
        finally:
            os.close(writer)

    @staticmethod
    def run(addresses: Sequence[str], writer: int) -> NoReturn:
        """The child: it holds nothing of the service, and ends by an alarm when DNS does not answer."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
            signal.alarm(LONGEST_LOOKUP)
            os.dup2(writer, 3)
            os.closerange(4, 65536)
            found: dict[str, Any] = {}
            for address in addresses:
                try:
                    found[address] = resolve(address)
                except StartError as error:
                    found[address] = error.message
            with open(3, "w", encoding="utf-8") as file:
                json.dump(found, file)
        finally:
            os._exit(0)

    def result(self) -> dict[str, list[Place] | str]:
        """For each address its places, or why there are none."""
        with open(self.reader, encoding="utf-8") as file:
            text = file.read()
        late = f"DNS does not answer within {LONGEST_LOOKUP} s; give an address"
        found = json.loads(text) if text else {one: f"{one}: {late}" for one in self.addresses}
        return {
            address: places if isinstance(places, str) else [(family, tuple(where)) for family, where in places]
            for address, places in found.items()
        }


def is_link_local(host: str) -> bool:
    """Whether it is an address of fe80::/10 (RFC 4291 2.5.6), and has no %interface."""
    try:
        first, second = socket.inet_pton(socket.AF_INET6, host)[:2]
    except OSError:
        return False
    return first == 0xFE and second & 0xC0 == 0x80


def lookup(host: str, port: int) -> list[Place]:
    """The addresses of a name, each once. Raises OSError. Ascii goes as bytes: a str is encoded as an international
    name (IDNA), and the tables for that are 3 ms and a megabyte."""
    name = host.encode() if host.isascii() else host
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), where) for family, _, _, _, where in found))


def bind(
    address: str, uid: int = -1, gid: int = -1, mode: int = 0o770, places: Sequence[Place] | None = None
) -> list[Listener]:
    """Bound sockets for host:port, [v6]:port, :port, unix:path or fd:N: one, or one for each address of a name.
    `uid`, `gid` and `mode` are those of a UNIX socket's file; `places` is what `resolve` has found."""
    if address.startswith("unix:"):
        return [bind_unix(address, uid, gid, mode)]
    if address.startswith("fd:"):
        return [inherit(int(address[3:]), address)]
    places = resolve(address) if places is None else places
    if not places:
        return [bind_all(address, int(address.rpartition(":")[2]))]
    for _ in range(ATTEMPTS if len(places) > 1 and not places[0][1][1] else 0):
        with suppress(StartError):  # another program has the port of the first on the address of another
            return bind_places(address, places)
    return bind_places(address, places)


def bind_places(address: str, places: Sequence[Place]) -> list[Listener]:
    """All of them, with one port. Of a name, those that are not here are left out: a name for IPv6 too, where there is
    none."""
    made: list[Listener] = []
    missing: dict[str, OSError] = {}
    for family, where in places:
        port = made[0].socket.getsockname()[1] if made else where[1]
        try:
            made.append(bind_inet(address, family, (where[0], port, *where[2:]), only_v6=True))
        except OSError as error:
            if error.errno not in ABSENT:
                remove(made)
                raise refused(address, error) from None
            missing[str(where[0])] = error
    for host, reason in missing.items():
        if not made:
            raise refused(address, reason)
        log.info("%s: not listening on %s: %s", address, host, reason.strerror)
    return made


def bind_all(address: str, port: int) -> Listener:
    """All interfaces: one socket for IPv6 and IPv4, or IPv4 alone where there is no IPv6."""
    if socket.has_ipv6:
        try:
            return bind_inet(address, socket.AF_INET6, ("::", port), only_v6=False)
        except OSError as error:
            if error.errno not in ABSENT:
                raise refused(address, error) from None
    try:
        return bind_inet(address, socket.AF_INET, ("0.0.0.0", port), only_v6=False)
    except OSError as error:
        raise refused(address, error) from None


def bind_inet(address: str, family: int, where: tuple[object, ...], only_v6: bool) -> Listener:
    """Raises OSError."""
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
    except OSError:
        sock.close()
        raise
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
