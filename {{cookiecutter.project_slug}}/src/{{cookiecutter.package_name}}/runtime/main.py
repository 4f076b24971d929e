"""The command: flags in, exit status out. `command` calls `run` unless it is `ctl`."""

import faulthandler
import os
import signal
import sys
from collections.abc import Sequence

from . import logs
from .config import Config, Service, load, refuse_windows, usage
from .daemon import Identity, close_inherited, detach, enter, raise_limit
from .errors import OK, StartError
from .listeners import activated
from .logs import log
from .server import load_handlers
from .supervisor import Supervisor, use_activated


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
            print(f"{service.name} {service.version}")
            return OK
        if config.check:
            return check(service, config)
        return serve(service, config, arguments)
    except StartError as error:
        logs.put(2, f"{service.name}: {error.message}\n".encode("utf-8", "backslashreplace"))
        return error.status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def check(service: Service, config: Config) -> int:
    """--check: everything that can be known without binding an address or running init()."""
    logs.setup("check", config.log_level, False)
    Identity(config.user, config.group)
    enter(config)
    load_handlers(service)
    for warning in config.warnings:
        log.warning(warning)
    print(f"{service.name}: configuration and handlers are good")
    return OK


def serve(service: Service, config: Config, arguments: Sequence[str]) -> int:
    """Start the supervisor, detached unless -x."""
    faulthandler.enable()
    logs.setup("supervisor", config.log_level, False)
    inherited = activated(os.environ)
    use_activated(config, inherited)
    raise_limit()
    close_inherited([int(one[3:]) for one in (*config.bind, config.admin) if one.startswith("fd:")])
    if config.foreground:
        for warning in config.warnings:
            log.warning(warning)
        return Supervisor(service, config, arguments, None, None, inherited).run()
    ready = detach(config.start_timeout, config.name)
    syslog = logs.Syslog(config.name, config.log_facility)

    def deliver(level: int, text: str) -> None:
        if ready.writer >= 0:
            ready.say(text)
        else:
            syslog(level, text)

    relay = logs.Relay(deliver)
    relay.attach()
    logs.setup("supervisor", config.log_level, True)
    status = 1
    try:
        for warning in config.warnings:
            log.warning(warning)
        status = Supervisor(service, config, arguments, ready, relay, inherited).run()
    except StartError as error:
        status = error.status
        relay.read()
        ready.say(f"{config.name}: {error.message}")
    except BaseException:
        log.critical("the supervisor failed", exc_info=True)
        relay.read()
    finally:
        ready.verdict(status)
    return status
