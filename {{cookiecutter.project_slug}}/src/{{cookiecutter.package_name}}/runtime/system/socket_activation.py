"""Socket activation: listening sockets that the starter has opened (sd_listen_fds(3), systemd.socket(5))."""

import os
from collections.abc import Mapping, MutableMapping

from ..config.errors import USAGE, StartError
from ..config.options import ADDRESS_KEYS
from ..config.settings import Config
from ..log.records import log


def activated(environment: MutableMapping[str, str]) -> dict[str, str]:
    """The sockets fd:3, fd:4 … of LISTEN_FDS for this process, each with its name in LISTEN_FDNAMES or ""
    (sd_listen_fds(3)); taken out of the environment, because they are for this process alone."""
    number, pid, names = (environment.pop("LISTEN_" + part, "") for part in ("FDS", "PID", "FDNAMES"))
    if not number.isdigit() or pid != str(os.getpid()):  # meant for another process
        return {}
    known = names.split(":") + [""] * int(number)
    return {f"fd:{3 + n}": known[n] for n in range(int(number))}


def use(config: Config, activated: Mapping[str, str]) -> None:
    """Sockets that the starter opened (LISTEN_FDS) replace the addresses of the configuration; one named `admin`
    (FileDescriptorName= in systemd.socket(5)) replaces --admin. Raises StartError (2) for an address on the command
    line: which of the two is meant? And for a connection (Accept=yes), which is no listening socket."""
    if "connection" in activated.values():
        raise StartError("LISTEN_FDS: a connection, not a listening socket: set Accept=no in the socket unit", USAGE)
    admin = [address for address, name in activated.items() if name == "admin"]
    serving = tuple(address for address in activated if address not in admin)
    for key in (*(ADDRESS_KEYS if serving else ()), *(["admin"] if admin else ())):
        source, name = config.source[key], key.replace("_", "-")
        if source == "flag":
            raise StartError(f"--{name}: an address beside inherited sockets (LISTEN_FDS): remove one of them", USAGE)
        if source != "default":
            log.warning("%s from the %s is ignored: the sockets are inherited (LISTEN_FDS)", name, source)
    if len(admin) > 1:
        raise StartError("LISTEN_FDNAMES: more than one socket is named admin: there is one --admin address", USAGE)
    config.bind = serving or config.bind
    config.admin = admin[0] if admin else config.admin
