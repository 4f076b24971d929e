"""Becoming a daemon: the startup process, detaching, the pidfile, and giving up root."""

import errno
import fcntl
import grp
import os
import pwd
import resource
import select
import sys
import time
from collections.abc import Collection, Iterable
from typing import NoReturn

from .config import Config
from .errors import CONFIG, NOPERM, OK, SOFTWARE, UNAVAILABLE, USAGE, StartError
from .logs import log

MOST = 65536  # descriptors looked at


class ReadyPipe:
    """What the startup process waits on: messages for the terminal, then one verdict (an exit status)."""

    def __init__(self, writer: int) -> None:
        self.writer = writer

    def say(self, text: str) -> None:
        """Show a line on the terminal that the service was started from."""
        self.write(b"m" + text.replace("\n", "\0").encode("utf-8", "backslashreplace") + b"\n")

    def verdict(self, status: int) -> None:
        """Send the startup process home. Later calls do nothing."""
        if self.writer >= 0:
            self.write(b"v%d\n" % status)
            self.close()

    def write(self, data: bytes) -> None:
        if self.writer < 0:
            return
        try:
            os.write(self.writer, data)
        except OSError:  # the startup process was killed: the service goes on without it
            self.close()

    def close(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1


def detach(timeout: float, name: str) -> ReadyPipe:
    """Fork twice, leave the session, and return in the new supervisor. The startup process never returns.

    `timeout` (seconds, 0 = none) is the supervisor's own limit for its start; the startup process waits a little
    longer, so that the supervisor's message wins unless it stands still. See daemon(7) and the Unix FAQ, 1.7.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os.close(writer)
        wait_for_verdict(reader, timeout + 5 if timeout else None, name)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(OK)  # the session's leader leaves: no terminal can ever become ours
    os.umask(0o022)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    os.set_blocking(writer, False)
    return ReadyPipe(writer)


def wait_for_verdict(reader: int, timeout: float | None, name: str) -> NoReturn:
    """The startup process: relay messages until the verdict, then exit with it."""
    deadline = None if timeout is None else time.monotonic() + timeout
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    rest = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not poller.poll(None if left is None else left * 1000):
            print(f"{name}: not ready and silent after {timeout:g} s; it may still be starting", file=sys.stderr)
            os._exit(SOFTWARE)
        data = os.read(reader, 65536)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line[:1] == b"v":
                sys.stderr.flush()
                os._exit(int(line[1:]))
            print(line[1:].replace(b"\0", b"\n").decode("utf-8", "replace"), file=sys.stderr, flush=True)
        if not data:
            print(f"{name}: the supervisor ended before it was ready, without a word", file=sys.stderr)
            os._exit(SOFTWARE)


def close_inherited(keep: Collection[int]) -> None:
    """Close descriptors that the starter left open (3 and above), except `keep`: it was an accident, and they would
    hold its files, pipes and locks. What this process has opened itself is not inheritable (PEP 446), so it stays."""
    for descriptor in open_descriptors():
        try:
            if descriptor > 2 and descriptor not in keep and os.get_inheritable(descriptor):
                os.close(descriptor)
        except OSError:
            continue  # not open


def open_descriptors() -> Iterable[int]:
    """Those of this process, and perhaps some that are not open. Where nobody lists them, all that can be: 10 ms."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]  # proc(5), of Linux
    except OSError:
        return range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], MOST))


def raise_limit() -> None:
    """As many descriptors as we may have: a connection is one, and the usual soft limit of 1024 is for select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:  # macOS says «unlimited» and means fewer
            log.info("the limit of open files stays %d: %s", soft, error)


def enter(config: Config) -> None:
    """Go to --root. Raises StartError: 2 when the flag is wrong, 78 elsewhere."""
    if config.root:
        try:
            os.chdir(config.root)
        except OSError as error:
            raise StartError(
                f"--root (-r) {config.root}: cannot go there: {error.strerror}",
                USAGE if config.source["root"] == "flag" else CONFIG,
            ) from None


class Pidfile:
    """A file with the supervisor's pid, locked for life.

    The lock (fcntl.lockf, which a fork does not inherit, so it is taken after detaching) and not the file's
    existence says whether the owner lives: a stale file is simply taken over.
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
        """Unlink it if it is still ours, then let go of the lock."""
        try:
            if os.stat(self.path).st_ino == self.inode:
                os.unlink(self.path)
        except FileNotFoundError:
            self.inode = 0  # somebody removed it before us
        except PermissionError:
            os.ftruncate(self.descriptor, 0)  # the directory is not ours to change: an empty file is stale
        os.close(self.descriptor)


class Identity:
    """The user and groups that the service works as: --user and --group, looked up before anything is changed."""

    def __init__(self, user: str, group: str) -> None:
        """Raises StartError (2) for an unknown name, 77 for a change that only root may ask for."""
        self.name = ""
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.groups: list[int] = []
        self.change = os.geteuid() == 0
        if not self.change:
            self.check_unprivileged(user, group)
            return
        entry = find_user(user or "nobody")
        self.uid = int(user) if entry is None else entry.pw_uid
        self.name = str(self.uid) if entry is None else entry.pw_name
        if group:
            self.gid = find_group(group)
        elif entry is not None:
            self.gid = entry.pw_gid
        else:
            raise StartError(f"--user {user}: a number without an account has no login group: add --group", USAGE)
        # An account's supplementary groups, without those of root: os.setgroups alone would leave group 0.
        self.groups = os.getgrouplist(self.name, self.gid) if entry is not None else [self.gid]

    def check_unprivileged(self, user: str, group: str) -> None:
        entry = find_user(user) if user else None
        uid = self.uid if not user else int(user) if entry is None else entry.pw_uid
        gid = find_group(group) if group else self.gid
        if uid != self.uid or (gid != self.gid and gid not in os.getgroups()):
            raise StartError("--user and --group need root: start as root, or as that user without them", NOPERM)

    def become(self) -> None:
        """Give up root for good, and prove it. Raises StartError (77)."""
        if not self.change:
            return
        try:
            os.setgroups(self.groups)
            os.setresgid(self.gid, self.gid, self.gid) if hasattr(os, "setresgid") else os.setgid(self.gid)
            os.setresuid(self.uid, self.uid, self.uid) if hasattr(os, "setresuid") else os.setuid(self.uid)
        except OSError as error:
            raise StartError(f"cannot become user {self.name}: {error.strerror}", NOPERM) from None
        if os.getuid() != self.uid or os.getgid() != self.gid or set(os.getgroups()) - set(self.groups):
            raise StartError(f"cannot become user {self.name}: the system kept other ids", NOPERM)
        if self.uid:
            for attempt in (os.setuid, os.seteuid, os.setgid if self.gid else os.setuid):
                try:
                    attempt(0)
                except OSError:
                    continue
                raise StartError(f"user {self.name} could become root again: refused", NOPERM)


def find_user(name: str) -> pwd.struct_passwd | None:
    """The account of a name or number; None for a number without one. Raises StartError (2)."""
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        if name.isdigit():
            return None
        raise StartError(f"--user: there is no user {name!r} here; see /etc/passwd", USAGE) from None


def find_group(name: str) -> int:
    """The number of a group. Raises StartError (2)."""
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartError(f"--group: there is no group {name!r} here; see /etc/group", USAGE) from None
