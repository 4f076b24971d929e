"""The command: flags in, exit status out. `command` calls `run` unless it is `ctl`."""

import faulthandler
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import PYTHON, __version__
from .config.errors import OK, SOFTWARE, StartError
from .config.options import SUBCOMMANDS, start_directory
from .config.service import Service
from .config.settings import Config, changed, load, refuse_windows
from .ipc import signals
from .log import records
from .log.pipe_reader import PipeReader, style_of
from .log.records import channel, log
from .ops.endpoints import Endpoints
from .process.control import Control
from .process.handlers_module import load_handlers
from .process.supervisor import Supervisor
from .system import socket_activation
from .system.daemonize import close_inherited, detach, enter, raise_limit
from .system.privileges import Identity

INDENT, COLUMNS = 34, 100  # of --help


def run(service: Service, arguments: Sequence[str] | None = None) -> int:
    """Run the service. Returns the exit status; every mistake is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        refuse_windows()
        config = load(service, arguments, os.environ)
        if config.help:
            print(usage(service), end="")
            return OK
        if config.version:
            print(f"{service.name} {service.version} (runtime {__version__}, Python {PYTHON})")
            return OK
        if config.check:
            return check(service, config)
        return serve(service, config, arguments)
    except StartError as error:
        records.last_words(service.name, error.message)
        return error.status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def usage(service: Service) -> str:
    """The text of --help, made from the table, at most 100 columns wide."""
    import textwrap  # only here: a service does not pay for it

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
        left = f"  {flags} {option.metavar}".rstrip().ljust(INDENT)
        lines += textwrap.wrap(option.help + shown, COLUMNS, initial_indent=left, subsequent_indent=" " * INDENT,
                               break_on_hyphens=False)  # fmt: skip
    return "\n".join(lines) + "\n"


def check(service: Service, config: Config) -> int:
    """--check: everything that can be known without binding an address or running init()."""
    records.setup("check", config)
    identity = Identity(config.user, config.group)
    enter(config)
    load_handlers(service)
    identity.check_imports()
    identity.become()
    service.protocol.check_surroundings(config)
    for warning in config.warnings:
        log.warning(warning)
    print(f"{service.name}: configuration and handlers are good")
    return OK


def serve(service: Service, config: Config, arguments: Sequence[str]) -> int:
    """Start the supervisor, detached unless -x. Does not return when it ends to be started anew (`ctl restart`)."""
    faulthandler.enable()
    signals.enlarge_stack()
    channel.style = style_of(config)
    records.setup("supervisor", config)
    inherited = socket_activation.activated(os.environ)
    socket_activation.use(config, inherited)
    raise_limit()
    follow_links()
    close_inherited([int(one[3:]) for one in (*config.bind, config.admin) if one.startswith("fd:")])
    if config.log_file:
        from .log import file_writer  # others do without this module

        file_writer.check(config)
    ready = None if config.foreground else detach(config.start_timeout, config.name)
    relay = PipeReader(config, ready.say if ready is not None else None)
    relay.begin()

    running = config.max

    def load_again(current: Config) -> Config:
        nonlocal running
        new = load(service, arguments, os.environ, running)
        running = max(running, new.max)
        socket_activation.use(new, inherited)
        keep_start_scope(current, new)
        return new

    status = SOFTWARE
    supervisor = Supervisor(service, config, load_again, ready, relay)
    try:
        for warning in config.warnings:
            log.warning(warning)
        status = supervisor.run(Control(supervisor), Endpoints(config))
    except StartError as error:
        if ready is None:
            raise  # after the relay's end: the last line is on stderr
        status = error.status
        records.last_words(config.name, error.message)
    except BaseException:
        log.critical("the supervisor failed", exc_info=True)
        if ready is None:
            raise
    finally:
        relay.close()
        if ready is not None:
            ready.verdict(status)
            ready.finish()
    if supervisor.life.begins_again:  # this process becomes a new supervisor, by the same command
        start_again(config.name)
    return status


def follow_links() -> None:
    """Code that Python has found below the working directory is reloaded by the name that the shell has for that."""
    try:
        real, named = os.getcwd(), start_directory()
    except OSError:
        return
    for paths in (sys.path, *(getattr(module, "__path__", None) for module in list(sys.modules.values()))):
        if isinstance(paths, list) and named != real:
            paths[:] = [named + one[len(real) :] if f"{one}/".startswith(f"{real}/") else one for one in paths]


def start_again(name: str) -> NoReturn:
    """Execute the same command anew, where it was given. What `ctl restart` has seen to be there may be gone by now."""
    try:
        os.chdir(start_directory() or "/")
        os.execve(sys.executable, sys.orig_argv, os.environ)
    except OSError as error:
        raise StartError(f"cannot start again: {error.filename}: {error.strerror}") from None


def keep_start_scope(old: Config, new: Config) -> None:
    """What only a restart changes stays as it is, and the log says so."""
    for warning in new.warnings:
        log.warning(warning)
    for name in changed(old, new):
        log.warning("--%s changes only on a restart, not on a reload", name)
        key = name.replace("-", "_")
        new.set(key, getattr(old, key), old.source[key])
