"""The manual page and the sample of the TOML file, made from the tables that the service itself uses.

    PYTHONPATH=src python3 deploy/reference.py man|config DIRECTORY

DIRECTORY is where the TOML file belongs. `make install` calls it. The page's date is today's, or SOURCE_DATE_EPOCH.
"""

import os
import signal
import sys
import textwrap
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

from {{ cookiecutter.package_name }}.__main__ import SERVICE
from {{ cookiecutter.package_name }}.runtime.config import errors
from {{ cookiecutter.package_name }}.runtime.config.options import COMMAND_LINE_ONLY, Option
from {{ cookiecutter.package_name }}.runtime.ipc import signals
from {{ cookiecutter.package_name }}.runtime.ops import ctl

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
# What the actions of the table of signals do, and when which exit status comes.
ACTIONS = {
    "stop": "graceful stop; a second one, or with --immediate: at once",
    "halt": "stop at once",
    "reload": "new code and configuration in new workers; the old ones serve until these are ready, or for ever",
    "respawn": "end all workers now and start new ones",
    "finish": "graceful stop, never shortened by --immediate",
    "more": "keep one more worker idle",
    "fewer": "keep one fewer worker idle",
    "reap": "used by the service itself",
}
STATUSES = {
    "OK": "stopped as asked",
    "USAGE": "wrong command line",
    "UNAVAILABLE": "address in use, or already running",
    "SOFTWARE": "the handlers failed, no worker got ready, or too many crashes",
    "NOPERM": "not permitted: a port, a directory, a user",
    "CONFIG": "wrong configuration: environment or file",
}


ROFF = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha"})  # groff_char(7)


def escaped(text: str) -> str:
    """Text for roff."""
    text = text.translate(ROFF)
    return "\\&" + text if text[:1] == "." else text


def default(option: Option) -> str:
    """Its default as it is written into a file; empty when it has none, or none that is always the same."""
    value = SERVICE.defaults.get(option.key, option.default)
    if not option.metavar:
        return "false"
    return f"{value:.16g}" if isinstance(value, int | float) else str(value or "")


def entry(term: str, text: str) -> str:
    return f".TP\n{term}\n{escaped(text)}"


def man(directory: str) -> Iterator[str]:
    """The page, in the macros of man(7)."""
    name = SERVICE.name
    today = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))
    yield f'.TH "{name.upper()}" 8 "{today}" "{name} {SERVICE.version}" "System Manager\\(aqs Manual"'
    description = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["description"]
    yield f".SH NAME\n{escaped(name)} \\- {escaped(description.replace(chr(10), ' '))}"
    yield f".SH SYNOPSIS\n.B {escaped(name)}\n.RI [ options ]"
    yield f".br\n.B {escaped(name)} ctl\n.I command\n.RI [ options ]"
    yield ".SH DESCRIPTION"
    yield "A supervisor owns the listening sockets and keeps a pool of workers, which do the work."
    yield "Without \\fB\\-x\\fR it detaches as soon as it is ready, and its exit status says whether it is."
    yield ".SH OPTIONS"
    yield f"Each option can also be given in the environment, as \\fB{escaped(SERVICE.prefix)}\\fIOPTION\\fR,"
    yield "or in the file of \\fB\\-f\\fR. The command line goes before the environment, and that before the file."
    for option in SERVICE.options:
        flags = (f"\\fB\\-{option.short}\\fR, " if option.short else "") + f"\\fB\\-\\-{escaped(option.name)}\\fR"
        value = f" \\fI{option.metavar}\\fR" if option.metavar else ""
        usual = f" (default {default(option)})" if option.metavar and default(option) else ""
        yield entry(flags + value, option.help + usual)
    yield ".SH COMMANDS"
    yield f"\\fB{escaped(name)} ctl\\fR asks and steers a running service:"
    yield from (entry(f"\\fB{command}\\fR", text) for command, text in ctl.COMMANDS.items())
    yield ".SH SIGNALS"
    for number, action in signals.SUPERVISOR.items():
        yield entry(signal.Signals(number).name.removeprefix("SIG"), ACTIONS[action])
    yield ".SH FILES"
    yield entry(f"\\fI{directory}/{escaped(name)}.toml\\fR", f"options; {directory}/{name}.toml.sample lists them all")
    yield entry(f"\\fI/etc/default/{escaped(name)}\\fR", "the environment that the systemd unit reads")
    yield entry(f"\\fI/var/run/{escaped(name)}.pid\\fR", "the supervisor's number, locked while it lives")
    yield ".SH EXIT STATUS"
    for word, text in STATUSES.items():
        yield entry(str(getattr(errors, word)), text)


def config(directory: str) -> Iterator[str]:
    """The sample: every option that a file may have, commented out, with its default."""
    yield f"# Options of {SERVICE.name}; copy this file to {directory}/{SERVICE.name}.toml."
    yield "# What is commented out shows the default. Tables such as [app] are your own, for handlers: server.config."
    for option in SERVICE.options:
        if option.key in COMMAND_LINE_ONLY:
            continue
        scope = "" if option.scope == "generation" else " (changes only on a restart)"
        yield ""
        yield from (f"# {line}" for line in textwrap.wrap(option.help + scope, 98))
        value = default(option)
        number = isinstance(option.default, int | float)
        yield f"#{option.name} = " + (value if number else "[]" if option.repeat else f'"{value}"')


if __name__ == "__main__":
    makers = {"man": man, "config": config}
    if len(sys.argv) != 3 or sys.argv[1] not in makers:
        sys.exit(__doc__)
    print("\n".join(makers[sys.argv[1]](sys.argv[2])))
