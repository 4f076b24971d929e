"""Configuration: one table of options feeds flags, environment, file, help and manual.

A value is taken from the first that has one: flag, <PACKAGE>_<OPTION> in the environment, PORT (for the port),
file (TOML), the service's own default, the table's default. Paths are made absolute against the directory that
the command was started in, before any change of directory.
"""

import getopt
import importlib
import os
import resource
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .errors import CONFIG, USAGE, StartError


class Option(NamedTuple):
    """One row of the table. `scope` says what a change needs: a reload (generation) or a restart (start)."""

    name: str
    short: str
    metavar: str  # empty for a switch
    default: Any
    parse: Callable[[str], Any]
    scope: str
    help: str
    only: str = ""  # the one pool or protocol that has this option
    repeat: bool = False

    @property
    def key(self) -> str:
        return self.name.replace("-", "_")


def count(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
            bound = f"from {low} to {high}" if high != 2**31 - 1 else f"of at least {low}"
            raise ValueError(f"needs a whole number {bound}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    """A parser of durations in seconds, fractions allowed; 0 switches most time limits off."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:  # also refuses nan and inf
        raise ValueError("needs a number of seconds, 0 or more")
    return value


def port(text: str) -> int:
    """A port number, or the name of a TCP service as in services(5)."""
    if text.isascii() and text.isdigit():
        if int(text) > 65535:
            raise ValueError("needs a port from 0 to 65535 or a service name")
        return int(text)
    try:
        return socket.getservbyname(text, "tcp")
    except OSError:
        raise ValueError("needs a port from 0 to 65535 or a service name known to /etc/services") from None


def switch(text: str) -> bool:
    """A yes or no, as environment and file spell it."""
    value = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in value:
        raise ValueError("needs yes or no (1/0, true/false, on/off)")
    return value[text.lower()]


def text(value: str) -> str:
    """Any text without control characters, not empty."""
    if not value or not value.isprintable():
        raise ValueError("needs a text without control characters")
    return value


def path(value: str) -> str:
    """A path, made absolute now: the service changes its directory later."""
    return os.path.abspath(text(value))


def address(value: str) -> str:
    """host:port, [v6]:port, :port, unix:path or fd:N (checked further when it is bound)."""
    value = text(value)
    kind, _, rest = value.partition(":")
    if kind == "unix" and rest:
        return "unix:" + os.path.abspath(rest)
    if kind == "fd" and rest.isdigit():
        return value
    host, colon, number = value.rpartition(":")
    if not colon or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        raise ValueError("needs host:port, [v6]:port, unix:path or fd:N")
    return f"{host}:{port(number)}"


def choice(*names: str) -> Callable[[str], str]:
    """A parser of one of a few words."""

    def parse(value: str) -> str:
        if value not in names:
            raise ValueError(f"needs one of {', '.join(names)}")
        return value

    return parse


def processes(value: str) -> int:
    """A number of processes, or «auto»: the CPU quota of the control group, else the processors we may use."""
    if value != "auto":
        return count(1, 1024)(value)
    from . import cgroups  # `ctl` does not need it

    return cgroups.cpus()


START, GENERATION = "start", "generation"

# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option("foreground", "x", "", False, switch, START, "do not detach, no pidfile, messages stay on stderr"),
    Option("port", "p", "PORT", 1966, port, GENERATION, "TCP port or service name; 0 = any free one, printed"),
    Option("interface", "i", "ADDRESS", "", text, GENERATION, "address to listen on; default all, IPv4 and IPv6"),
    Option("listen-unix", "l", "PATH", "", path, GENERATION, "UNIX-domain socket instead; excludes -p and -i"),
    Option("bind", "", "ADDRESS", (), address, GENERATION,
           "host:port, [v6]:port, unix:path or fd:N; repeatable; instead of -p, -i and -l", repeat=True),
    Option("idle", "n", "N", 5, count(1, 32768), GENERATION,
           "idle workers kept ready; more are made when fewer than half remain"),
    Option("max", "m", "N", 25, count(1, 32768), GENERATION,
           "most workers; at least -n; fewer where a memory limit has no room for them"),
    Option("processes", "", "N", 1, processes, GENERATION,
           "processes that hold the threads; auto = as many as the CPU quota allows", only="threaded"),
    Option("max-connections", "", "N", 10000, count(1), GENERATION,
           "most connections held at once; at the limit accepting pauses", only="http"),
    Option("backlog", "q", "N", 1024, count(1024, 65535), GENERATION, "length of the accept queue, at least 1024"),
    Option("root", "r", "DIR", "", path, GENERATION, "change to this directory before anything else"),
    Option("user", "u", "USER", "", text, GENERATION, "when started as root: become this user (default nobody)"),
    Option("group", "g", "GROUP", "", text, GENERATION, "when started as root: this group (default the user's own)"),
    Option("immediate", "t", "", False, switch, GENERATION, "TERM stops at once, without a drain"),
    Option("reload", "", "", False, switch, START, "reload when a file of your code changes; for development"),
    Option("config", "f", "FILE", "", path, START, "TOML file with these options and your own tables"),
    Option("pidfile", "", "FILE", "", path, START, "locked for life; default /var/run/NAME.pid as root, else none"),
    Option("control", "", "PATH", "", path, START,
           "UNIX socket for ctl; default beside the pidfile, in RUNTIME_DIRECTORY, or none"),
    Option("admin", "", "ADDRESS", "", address, START,
           "health, metrics, status page; as root only a loopback address or unix:path; default off"),
    Option("start-timeout", "", "SECONDS", 30.0, seconds, GENERATION, "longest start of a generation; 0 = no limit"),
    Option("drain-timeout", "", "SECONDS", 30.0, seconds, GENERATION,
           "longest graceful end of requests in flight; 0 = no limit"),
    Option("stop-delay", "", "SECONDS", 0.0, seconds, GENERATION,
           "time between not ready and the drain, for load balancers to notice"),
    Option("request-timeout", "", "SECONDS", 0.0, seconds, GENERATION,
           "longest run of a handler; its worker is replaced then; 0 = no limit"),
    Option("keep-alive", "", "SECONDS", 75.0, seconds, GENERATION,
           "longest wait for the next request; 0 = one request per connection", only="http"),
    Option("header-timeout", "", "SECONDS", 10.0, seconds, GENERATION, "longest wait for a whole head", only="http"),
    Option("body-timeout", "", "SECONDS", 30.0, seconds, GENERATION,
           "longest silence inside a body, either way; 64 KiB at least must pass in it", only="http"),
    Option("idle-timeout", "", "SECONDS", 300.0, seconds, GENERATION,
           "longest silence of a client (until a handler sets another); 0 = no limit", only="raw"),
    Option("max-line", "", "BYTES", 1024, count(1, 2**24), GENERATION, "longest line", only="line"),
    Option("max-head", "", "BYTES", 65536, count(1024, 2**24), GENERATION, "longest request head", only="http"),
    Option("max-body", "", "BYTES", 2**24, count(0, 2**62), GENERATION, "longest request body; 0 = no limit",
           only="http"),
    Option("max-requests", "", "N", 0, count(0), GENERATION,
           "requests after which a worker is replaced (up to a tenth more, at random); 0 = never"),
    Option("max-memory", "", "MIB", 0, count(0), GENERATION,
           "resident memory above which a worker is replaced; 0 = none, only when the control group runs short"),
    Option("fast-time", "", "SECONDS", 5.0, seconds, GENERATION, "a shorter life than this counts as a fast crash"),
    Option("fast-max", "", "N", 5, count(1), GENERATION, "fast crashes in a row before restarts are slowed down"),
    Option("restart-max", "", "N", 0, count(0), GENERATION, "crashes in all before giving up; 0 = never"),
    Option("log-level", "", "LEVEL", "info", choice("debug", "info", "warning", "error"), GENERATION,
           "least severe message that is logged"),
    Option("log-format", "", "FORMAT", "text", choice("text", "json"), START,
           "text for people, json (a line per record) for machines"),
    Option("access-log", "", "FORMAT", "off", choice("off", "combined", "json"), GENERATION,
           "a line per request (line, stream: per connection) on stdout"),
    Option("request-id", "", "WHOSE", "asked", choice("asked", "always"), GENERATION,
           "requests that get X-Request-ID and traceparent: those that brought or used one, or all", only="http"),
    Option("log-file", "", "PATTERN", "", path, START,
           "file for all lines, written by a process of its own; a strftime pattern, such as /var/log/app-%Y%m%d.log"),
    Option("log-prefix", "", "PATTERN", "", text, START, "what that file has before each line; a strftime pattern"),
    Option("log-keep", "", "N", 0, count(0), START, "newest files of that pattern that are kept; 0 = all"),
    Option("log-facility", "", "NAME", "daemon",
           choice("daemon", "user", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
           START, "syslog facility, once detached"),
    Option("name", "", "NAME", "", text, START, "name in the log and of the pidfile"),
    Option("check", "", "", False, switch, START, "check configuration and handlers, say what is wrong, and exit"),
    Option("version", "", "", False, switch, START, "print the version and exit"),
    Option("help", "h", "", False, switch, START, "print this help and exit"),
)
# fmt: on
ADDRESS_KEYS = ("port", "interface", "listen_unix", "bind")
SUBCOMMANDS = ("status", "reload", "reloaded", "restart", "stop", "workers", "health")
INDENT, COLUMNS = 33, 100  # of --help
COMMAND_LINE_ONLY = ("check", "version", "help", "config")  # make no sense in a file


class Service:
    """What the rendered `__main__` knows about its service: the one seam between the answers and the runtime.

    Pool, protocol and engine are modules, imported when they are asked for: `ctl` needs none of them.
    """

    def __init__(
        self, name: str, package: str, version: str, pool: str, protocol: str, defaults: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        self.package = package
        self.version = version
        self.pool_name = pool  # prefork or threaded
        self.protocol_name = protocol  # http, line or stream
        self.defaults = defaults or {}  # of options, where they are not those of the table

    @property
    def kind(self) -> str:
        """How requests come: http, or raw (connections)."""
        return "http" if self.protocol_name == "http" else "raw"

    @property
    def pool(self) -> Any:
        """The module pool_prefork or pool_threaded."""
        return importlib.import_module("..pool_" + self.pool_name, __name__)

    @property
    def protocol(self) -> Any:
        """The module protocol_http, protocol_line or protocol_stream."""
        return importlib.import_module("..protocol_" + self.protocol_name, __name__)

    @property
    def engine(self) -> Any:
        """The module engine_<pool>_<kind>: how this pool serves such a protocol."""
        return importlib.import_module(f"..engine_{self.pool_name}_{self.kind}", __name__)

    @property
    def options(self) -> tuple[Option, ...]:
        """The rows of the table that this pool and protocol have."""
        return tuple(o for o in OPTIONS if o.only in ("", self.pool_name, self.protocol_name, self.kind))

    @property
    def prefix(self) -> str:
        return self.package.upper() + "_"


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

    def set(self, key: str, value: Any, source: str) -> None:
        setattr(self, key, value)
        self.source[key] = source


def nearest(name: str, names: Sequence[str]) -> str:
    """«, did you mean X?» for a misspelt name, or nothing."""
    import difflib  # only a mistake pays for this import

    found = difflib.get_close_matches(name, names, 1)
    return f", did you mean {found[0]}?" if found else ""


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
    return found


def load(service: Service, arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """All layers, checked. Raises StartError: 2 for a mistake on the command line, 78 for one elsewhere."""
    config = Config()
    flags = read_flags(service, arguments)
    surroundings = read_environment(service, environment, config.warnings)
    contents: dict[str, list[str]] = {}
    file = (flags.get("config") or surroundings.get("config") or [""])[-1]
    if file:
        contents, config.file = read_file(service, path(file))
    for option in OPTIONS:
        key = option.key
        layers = ((flags, "flag"), (surroundings, "environment"), (contents, "file"))
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
            status = USAGE if source == "flag" else CONFIG
            raise StartError(f"{places[source]}: {error}, not {texts[-1]!r}", status) from None
        config.set(key, tuple(values) if option.repeat else values[-1], source)
    settle(service, config)
    return config


def settle(service: Service, config: Config) -> None:
    """Rules that concern several options, and defaults that depend on others."""
    name = config.name = config.name or service.name
    if "/" in name or name.startswith("."):
        raise StartError(f"--name: needs a file name without a slash, not {name!r}", USAGE)
    settle_addresses(config)
    settle_log(config)
    if config.source["max"] == "default":
        config.max = max(config.max, config.idle)
    elif config.source["idle"] == "default":
        config.idle = min(config.idle, config.max)
    sources = (config.source["max"], config.source["idle"])
    status = USAGE if "flag" in sources else CONFIG
    place = f"{config.config}: " if "file" in sources else ""
    if config.max < config.idle:
        raise StartError(f"{place}-m (max) {config.max} is below -n (idle) {config.idle}: raise -m or lower -n", status)
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if os.geteuid() and config.max > limit != resource.RLIM_INFINITY:
        raise StartError(f"{place}-m (max) {config.max} is above this user's limit of {limit} processes (ulimit -u)",
                         status)  # fmt: skip
    explicit, directory = config.pidfile, os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if not config.pidfile and not config.foreground and os.geteuid() == 0:
        config.pidfile = f"/var/run/{name}.pid"
    if not config.control:
        if directory and not explicit:
            config.control = os.path.join(directory, name + ".ctl")
        elif config.pidfile:
            config.control = os.path.splitext(config.pidfile)[0] + ".ctl"


def settle_addresses(config: Config) -> None:
    """--bind, --listen-unix and --port/--interface exclude each other; a flag beats what lies below it."""
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
        status = USAGE if best == rank["flag"] else CONFIG
        raise StartError(f"{names[given[0]]} excludes {names[given[1]]}: give one of them", status)
    form = given[0] if given else "port"
    if form == "listen_unix":
        config.bind = ("unix:" + config.listen_unix,)
    elif form == "port":
        host = f"[{config.interface}]" if ":" in config.interface else config.interface
        config.bind = (f"{host}:{config.port}",)
        config.listen_unix = ""


def settle_log(config: Config) -> None:
    """--log-prefix and --log-keep are about the file of --log-file; a prefix would make JSON something else."""
    for key in ("log_prefix", "log_keep"):
        if getattr(config, key) and not config.log_file:
            status = USAGE if config.source[key] == "flag" else CONFIG
            raise StartError(f"--{key.replace('_', '-')} needs --log-file: it is about that file", status)
    if config.log_prefix and config.log_format == "json":
        status = USAGE if "flag" in (config.source["log_prefix"], config.source["log_format"]) else CONFIG
        raise StartError("--log-prefix excludes --log-format json, whose lines have the time: give one of them", status)


def usage(service: Service) -> str:
    """The text of --help, made from the table, at most 100 columns wide."""
    lines = [
        f"usage: {service.name} [options]",
        f"       {service.name} ctl {'|'.join(SUBCOMMANDS)}",
        "",
        f"Each option can also be given as {service.prefix}<OPTION> in the environment,",
        "or as a key in the file of -f.",
        "",
    ]
    for option in service.options:
        flags = (f"-{option.short}, " if option.short else "    ") + f"--{option.name}"
        default = service.defaults.get(option.key, option.default)
        shown = f" (default {default:.16g})" if isinstance(default, int | float) and option.metavar else ""
        if isinstance(default, str) and default:
            shown = f" (default {default})"
        left, line = f"  {flags} {option.metavar}".rstrip().ljust(INDENT), ""
        for word in (option.help + shown).split():
            if INDENT + len(line) + 1 + len(word) > COLUMNS:
                lines.append(left + line)
                left, line = " " * INDENT, ""
            line += " " + word
        lines.append(left + line)
    return "\n".join(lines) + "\n"


def changed(old: Config, new: Config) -> list[str]:
    """Names of options that differ but need a restart."""
    return [o.name for o in OPTIONS if o.scope == START and getattr(old, o.key) != getattr(new, o.key)]


def refuse_windows() -> None:
    """The runtime is POSIX; say so in one line. Raises StartError (70)."""
    if sys.platform == "win32":
        raise StartError("this service needs a POSIX system (Linux, FreeBSD, macOS); run its container on Windows")
