"""The options: one table and the parsers of its values. Flags, environment, file, help and manual follow from it."""

import functools
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple


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


def name(value: str) -> str:
    """Text that a field of http, a log line and a file name can hold."""
    if not value.isascii():
        raise ValueError("needs ASCII characters: it is sent in the field Server, and names files")
    return text(value)


@functools.cache
def start_directory() -> str:
    """The directory that the command was started in, by the name that the shell has for it ($PWD, POSIX): a deployment
    that exchanges a link on the way is followed by the next reload. "" when it is gone. Relative paths begin here."""
    named = os.environ.get("PWD", "")
    try:
        if named.startswith("/") and os.path.samefile(named, "."):
            return named
    except OSError:
        pass  # the name is of another directory, or of none
    try:
        return os.getcwd()
    except OSError:
        return ""


def path(value: str) -> str:
    """A path, made absolute now: the service changes its directory later."""
    start = start_directory()
    if not start and not text(value).startswith("/"):
        raise ValueError("needs an absolute path, as the working directory is gone")
    joined = os.path.join(start, text(value))
    return joined if ".." in joined.split("/") else os.path.normpath(joined)  # the way up from where a link leads to


def address(value: str) -> str:
    """host:port, [v6]:port, :port, unix:path or fd:N (checked further when it is bound)."""
    value = text(value)
    kind, _, rest = value.partition(":")
    if kind == "unix" and rest:
        return "unix:" + path(rest)
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
    """A number of processes, or «auto»: 0, which the start of a generation replaces (system.cgroups.fit)."""
    return 0 if value == "auto" else count(1, 1024)(value)


START, GENERATION = "start", "generation"

# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option("foreground", "x", "", False, switch, START, "do not detach, no pidfile, messages stay on stderr"),
    Option("port", "p", "PORT", 1966, port, GENERATION, "TCP port or service name; 0 = any free one, printed"),
    Option("interface", "i", "ADDRESS", "", text, GENERATION,
           "address to listen on, or a name: all its addresses; default all, IPv4 and IPv6"),
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
           "most connections held at once; beyond it the longest idle one makes room", only="http"),
    Option("backlog", "q", "N", 1024, count(1024, 65535), GENERATION, "length of the accept queue, at least 1024"),
    Option("root", "r", "DIR", "", path, GENERATION, "change to this directory before anything else"),
    Option("user", "u", "USER", "", text, GENERATION, "when started as root: become this user (default nobody)"),
    Option("group", "g", "GROUP", "", text, GENERATION, "when started as root: this group (default the user's own)"),
    Option("new-privileges", "", "", False, switch, GENERATION,
           "let programs that your code executes gain privileges (set-user-id, as sudo and sendmail need)"),
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
           "longest silence of a client (until a handler sets another); 0 = no limit", only="stream"),
    Option("max-line", "", "BYTES", 1024, count(1, 2**24), GENERATION, "longest line", only="line"),
    Option("max-head", "", "BYTES", 65536, count(1024, 2**24), GENERATION, "longest request head", only="http"),
    Option("max-body", "", "BYTES", 2**24, count(0, 2**62), GENERATION, "longest request body; 0 = no limit",
           only="http"),
    Option("spool-dir", "", "DIR", "", path, GENERATION,
           "where bodies of more than 64 KiB are received, in unnamed files; default TMPDIR, or /tmp", only="http"),
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
    Option("name", "", "NAME", "", name, START, "name in the log and of the pidfile"),
    Option("check", "", "", False, switch, START, "check configuration and handlers, say what is wrong, and exit"),
    Option("version", "", "", False, switch, START, "print the version and exit"),
    Option("help", "h", "", False, switch, START, "print this help and exit"),
)
# fmt: on
ADDRESS_KEYS = ("port", "interface", "listen_unix", "bind")
SUBCOMMANDS = ("status", "reload", "reloaded", "restart", "stop", "stacks", "workers", "health")
COMMAND_LINE_ONLY = ("check", "version", "help", "config")  # make no sense in a file
