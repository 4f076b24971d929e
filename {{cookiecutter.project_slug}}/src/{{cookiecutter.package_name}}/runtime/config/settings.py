"""Settings: the values of all options, of which `options` has the table.

A value is taken from the first that has one: flag, <PACKAGE>_<OPTION> in the environment, PORT (for the port),
file (TOML), the service's own default, the table's default. Paths are made absolute against the directory that
the command was started in, before any change of directory.
"""

import getopt
import os
import re
import resource
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .errors import CONFIG, USAGE, StartError
from .options import COMMAND_LINE_ONLY, OPTIONS, START, path
from .service import Service

# Variables that Kubernetes, and links of Docker, set for a service of the same name.
INJECTED = re.compile(r"SERVICE_(HOST|PORT(_.*)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?|ENV_.*")


class Config:
    """The values of all options, by name with underscores; `source` says where each was found."""

    foreground: bool
    port: int
    interface: str
    listen_unix: str
    bind: tuple[str, ...]
    idle: int
    max: int
    processes: int
    max_connections: int
    backlog: int
    root: str
    user: str
    group: str
    new_privileges: bool
    immediate: bool
    reload: bool
    config: str
    pidfile: str
    control: str
    admin: str
    start_timeout: float
    drain_timeout: float
    stop_delay: float
    request_timeout: float
    keep_alive: float
    header_timeout: float
    body_timeout: float
    idle_timeout: float
    max_line: int
    max_head: int
    max_body: int
    spool_dir: str
    max_requests: int
    max_memory: int
    fast_time: float
    fast_max: int
    restart_max: int
    log_level: str
    log_format: str
    access_log: str
    request_id: str
    log_file: str
    log_prefix: str
    log_keep: int
    log_facility: str
    name: str
    check: bool
    version: bool
    help: bool

    def __init__(self) -> None:
        self.source: dict[str, str] = {}
        self.file: dict[str, Any] = {}  # the parsed file, whole
        self.warnings: list[str] = []
        self.budget = 0  # bytes that may be buffered for clients, 0 = no limit: system.cgroups.fit

    def set(self, key: str, value: Any, source: str) -> None:
        setattr(self, key, value)
        self.source[key] = source


def nearest(name: str, names: Sequence[str], prefix: str = "") -> str:
    """«, did you mean X?» for a misspelt name, or nothing."""
    import difflib  # only a mistake pays for this import

    found = difflib.get_close_matches(name, names, 1)
    return f", did you mean {prefix}{found[0]}?" if found else ""


def read_flags(service: Service, arguments: Sequence[str]) -> dict[str, list[str]]:
    """The command line as {key: texts}. Raises StartError (2) for an option that there is not."""
    options = service.options
    shorts = "".join(o.short + (":" if o.metavar else "") for o in options if o.short)
    longs = [o.name + ("=" if o.metavar else "") for o in options]
    try:
        pairs, rest = getopt.gnu_getopt(list(arguments), shorts, longs)
    except getopt.GetoptError as error:
        unknown = len(error.opt) > 1 and "not recognized" in error.msg
        hint = nearest("--" + error.opt, ["--" + o.name for o in options]) if unknown else ""
        raise StartError(f"command line: {error.msg}{hint}; --help lists the options", USAGE) from None
    if rest:
        raise StartError(f"command line: unexpected argument {rest[0]!r}; --help lists the options", USAGE)
    found: dict[str, list[str]] = {}
    for flag, value in pairs:
        option = next(o for o in options if flag in ("-" + o.short, "--" + o.name))
        found.setdefault(option.key, []).append(value if option.metavar else "yes")
    return found


def read_file(service: Service, name: str) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The TOML file as ({key: texts}, everything parsed). Tables are the user's own. Raises StartError (78)."""
    import tomllib  # 17 ms that only services with a file pay

    try:
        kind = stat.S_IFMT(os.stat(name).st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR) and name != os.devnull:  # to open a FIFO can block the supervisor
            what = "a FIFO" if kind == stat.S_IFIFO else "a socket" if kind == stat.S_IFSOCK else "a device"
            raise StartError(f"{name}: is {what}, which a reload cannot read again: give a file", CONFIG)
        with open(name, "rb") as file:
            parsed = tomllib.load(file)
    except OSError as error:
        raise StartError(f"{name}: cannot read the configuration: {error.strerror}", CONFIG) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError(f"{name}: not valid TOML: {error}", CONFIG) from None
    keys = {o.name: o for o in service.options if o.key not in COMMAND_LINE_ONLY}
    found: dict[str, list[str]] = {}
    for key, value in parsed.items():
        option = keys.get(key)
        if isinstance(value, dict):
            if option is None:
                continue
            raise StartError(f"{name}: {key} is an option and needs a value: {key} = ..., not a table", CONFIG)
        if option is None:
            hint = nearest(key, list(keys)) or "; your own settings belong in a table such as [app]"
            raise StartError(f"{name}: there is no option {key!r}{hint}", CONFIG)
        values = value if option.repeat and isinstance(value, list) else [value]
        found[option.key] = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
    return found, parsed


def read_environment(service: Service, environment: Mapping[str, str], warnings: list[str]) -> dict[str, list[str]]:
    """The environment as {key: texts}: <PACKAGE>_<OPTION>, and PORT as many platforms set it."""
    found: dict[str, list[str]] = {}
    for option in service.options:
        if option.key in ("check", "version", "help"):
            continue
        name = service.prefix + option.key.upper()
        value = environment.get(name)
        if value is None and option.key == "port":
            name, value = "PORT", environment.get("PORT")
        if value is None or value == "":
            continue
        if option.key == "port" and "://" in value:  # Kubernetes sets this for a Service of the same name
            warnings.append(f"{name}={value} ignored: it looks like a Kubernetes service link, not a port")
            continue
        found[option.key] = value.split() if option.repeat else [value]
    warnings += misspelt(service, environment)
    return found


def misspelt(service: Service, environment: Mapping[str, str]) -> Iterator[str]:
    """A warning for each variable of our prefix that looks like an option and is none. Others are the user's own."""
    known = [option.key.upper() for option in service.options]
    for name in sorted(environment):
        prefix, rest = name[: len(service.prefix)], name[len(service.prefix) :]
        if prefix.upper().replace("-", "_") != service.prefix or INJECTED.fullmatch(rest):
            continue
        if prefix != service.prefix or rest not in known:
            hint = nearest(rest.upper().replace("-", "_"), known, service.prefix)
            if hint:
                yield f"{name} in the environment is ignored: it is no option{hint}"


def load(service: Service, arguments: Sequence[str], environment: Mapping[str, str], running: int = 0) -> Config:
    """All layers, checked. `running` is the --max with which the service runs already. Raises StartError: 2 for a
    mistake on the command line, 78 for one elsewhere."""
    config = Config()
    flags = read_flags(service, arguments)
    surroundings = read_environment(service, environment, config.warnings)
    contents: dict[str, list[str]] = {}
    file = (flags.get("config") or surroundings.get("config") or [""])[-1]
    if file:
        try:
            contents, config.file = read_file(service, path(file))
        except ValueError as error:
            raise StartError(f"--config (-f): {error}, not {file!r}", USAGE) from None
    layers = ((flags, "flag"), (surroundings, "environment"), (contents, "file"))
    for option in OPTIONS:
        key = option.key
        found = next(((layer[key], source) for layer, source in layers if key in layer), None)
        if found is None:
            config.set(key, service.defaults.get(key, option.default), "default")
            continue
        texts, source = found
        try:
            values = [option.parse(value) for value in texts]
        except ValueError as error:
            places = {
                "flag": f"--{option.name}" + (f" (-{option.short})" if option.short else ""),
                "environment": service.prefix + key.upper(),
                "file": f"{file}: {option.name}",
            }
            if source == "environment" and key == "port" and service.prefix + "PORT" not in environment:
                places[source] = "PORT"
            raise StartError(f"{places[source]}: {error}, not {texts[-1]!r}", status_of(source)) from None
        config.set(key, tuple(values) if option.repeat else values[-1], source)
    config.name = config.name or service.name
    if "/" in config.name or config.name.startswith(".") or not config.name.isascii():
        problem = f"--name: needs a file name of ASCII characters without a slash, not {config.name!r}"
        raise StartError(problem, status_of(config.source["name"]))
    decide_addresses(config)
    check_log(config)
    decide_pool_size(config, running)
    decide_paths(config)
    return config


def status_of(*sources: str) -> int:
    """The exit status of a mistake that was found in these sources: 2 if one of them is the command line, else 78."""
    return USAGE if "flag" in sources else CONFIG


def decide_pool_size(config: Config, running: int) -> None:
    """-n and -m: the one that is given moves the default of the other. Raises StartError when they contradict."""
    if config.source["max"] == "default":
        config.max = max(config.max, config.idle)
    elif config.source["idle"] == "default":
        config.idle = min(config.idle, config.max)
    sources = (config.source["max"], config.source["idle"])
    place = f"{config.config}: " if "file" in sources else ""
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if config.max < config.idle:
        problem = f"below -n (idle) {config.idle}: raise -m or lower -n"
    elif os.geteuid() and config.max > limit != resource.RLIM_INFINITY and config.max > running:
        problem = f"above this user's limit of {limit} processes (ulimit -u)"
    else:
        return
    raise StartError(f"{place}-m (max) {config.max} is {problem}", status_of(*sources))


def decide_paths(config: Config) -> None:
    """The defaults of --pidfile, --control and --spool-dir."""
    config.spool_dir = config.spool_dir or os.path.abspath(os.environ.get("TMPDIR") or "/tmp")
    directory = "" if config.pidfile else os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if not config.pidfile and not config.foreground and os.geteuid() == 0:
        config.pidfile = f"/var/run/{config.name}.pid"
    if not config.control and directory:
        config.control = os.path.join(directory, config.name + ".ctl")
    elif not config.control and config.pidfile:
        config.control = os.path.splitext(config.pidfile)[0] + ".ctl"


def decide_addresses(config: Config) -> None:
    """--bind, --listen-unix and --port/--interface exclude each other; the strongest source decides."""
    rank = {"flag": 3, "environment": 2, "file": 1, "default": 0}
    forms = {
        "bind": rank[config.source["bind"]],
        "listen_unix": rank[config.source["listen_unix"]],
        "port": max(rank[config.source["port"]], rank[config.source["interface"]]),
    }
    best = max(forms.values())
    given = [form for form, height in forms.items() if height == best and height > 0]
    if len(given) > 1:
        names = {"bind": "--bind", "listen_unix": "-l (--listen-unix)", "port": "-p or -i (--port, --interface)"}
        source = next(source for source, height in rank.items() if height == best)
        raise StartError(f"{names[given[0]]} excludes {names[given[1]]}: give one of them", status_of(source))
    form = given[0] if given else "port"
    if form == "listen_unix":
        config.bind = ("unix:" + config.listen_unix,)
    elif form == "port":
        host = f"[{config.interface}]" if ":" in config.interface else config.interface
        config.bind = (f"{host}:{config.port}",)
        config.listen_unix = ""


def check_log(config: Config) -> None:
    """--log-prefix and --log-keep need --log-file; a prefix would make lines of JSON invalid. Raises StartError."""
    source = config.source
    for key in ("log_prefix", "log_keep"):
        if getattr(config, key) and not config.log_file:
            problem = f"--{key.replace('_', '-')} needs --log-file: it is about that file"
            raise StartError(problem, status_of(source[key]))
    if config.log_prefix and config.log_format == "json":
        problem = "--log-prefix excludes --log-format json, whose lines have the time: give one of them"
        raise StartError(problem, status_of(source["log_prefix"], source["log_format"]))


def changed(old: Config, new: Config) -> list[str]:
    """Names of options that differ but need a restart."""
    return [o.name for o in OPTIONS if o.scope == START and getattr(old, o.key) != getattr(new, o.key)]


def refuse_windows() -> None:
    """The runtime is POSIX; say so in one line. Raises StartError (70)."""
    if sys.platform == "win32":
        raise StartError("this service needs a POSIX system (Linux, FreeBSD, macOS); run its container on Windows")
