"""Giving up root: user and groups that the service works as."""

import grp
import os
import pwd
import stat
import sys

from ..config.errors import NOPERM, USAGE, StartError
from ..ipc import libc
from ..log.records import log

PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


class Identity:
    """The user and groups that the service works as: --user and --group, looked up before anything is changed."""

    def __init__(self, user: str, group: str) -> None:
        """Raises StartError (2) for an unknown name, 77 for a change that only root may ask for."""
        self.name = ""
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.groups: list[int] = []
        self.change = os.geteuid() == 0
        self.chosen = bool(user)
        if not self.change:
            self.check_unprivileged(user, group)
            return
        entry = find_user(user or "nobody")
        self.uid = int(user) if entry is None else entry.pw_uid
        self.name = str(self.uid) if entry is None else entry.pw_name
        self.home = "/" if entry is None else entry.pw_dir
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
        if uid != self.uid or gid != self.gid:  # a supplementary group too: only root can make it the group
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
        os.environ.update(HOME=self.home, USER=self.name, LOGNAME=self.name)

    def check_imports(self) -> None:
        """What Python imports later on, it reads as the user that this process becomes: said now, and not one import
        after the other. Raises StartError (77) for what belongs to the interpreter if --user has named the user; for
        the default, and for other code, a line of the log: such a service may have all that it needs."""
        if not self.change or not self.uid:
            return
        before = os.getgroups(), os.getegid()
        try:
            os.setgroups(self.groups)
            os.setegid(self.gid)
            os.seteuid(self.uid)
            found = unreadable()
        except OSError:
            return  # `become` says why
        finally:
            os.seteuid(0)
            os.setegid(before[1])
            os.setgroups(before[0])
        own = [path for path, is_interpreters in found if is_interpreters]
        for path in [*own[:1], *(path for path, is_interpreters in found if not is_interpreters)]:
            advice = "use an interpreter that it can read" if path in own else "put the code elsewhere"
            problem = f"user {self.name} cannot read {path}, from which Python imports: let it, or {advice}"
            if path in own and self.chosen:
                raise StartError(problem, NOPERM)
            log.warning("%s", problem)


def unreadable() -> list[tuple[str, bool]]:
    """What Python imports from and this process may not read, and whether it is the interpreter's own; that first."""
    library = os.path.dirname(os.__file__)
    own = tuple(os.path.join(one, "") for one in (library, sys.prefix, sys.base_prefix))
    found = []
    for path in dict.fromkeys((library, *sys.path)):
        try:
            if stat.S_ISDIR(os.stat(path or ".").st_mode):
                os.scandir(path or ".").close()
                os.stat(os.path.join(path, "."))
            else:
                open(path, "rb").close()
        except PermissionError:
            found.append((path or ".", os.path.join(path, "").startswith(own)))
        except OSError:
            continue  # it does not exist
    return sorted(found, key=lambda one: not one[1])


def forbid_new_privileges() -> None:
    """What this process and its children execute gains nothing by set-user-id bits or file capabilities: Linux's
    PR_SET_NO_NEW_PRIVS (prctl(2)). Where the system has no such thing, nothing changes."""
    if not sys.platform.startswith("linux"):
        return
    if libc.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        log.warning("programs that your code executes may gain privileges: prctl(2) cannot forbid it here")


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
