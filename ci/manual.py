"""Write the tables of the operator's manual that the code decides: options, signals, exit statuses.

`python3 ci/manual.py` rewrites them in the generated project's docs/manual.md; a test compares.
"""

import importlib
import re
import signal
import sys
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).resolve().parents[1]
MANUAL = TEMPLATE / "{{cookiecutter.project_slug}}/docs/manual.md"
PACKAGE = TEMPLATE / "{{cookiecutter.project_slug}}/src/{{cookiecutter.package_name}}"

# What each action of the signal table does. One for each: a missing or superfluous one is an error.
ACTIONS = {
    "stop": "graceful stop: not ready, then no new connections, then what is in flight is finished, then `exit()`. "
    "A second one, or `--immediate`: at once",
    "halt": "stop at once: requests in flight are cut off, `exit()` still runs",
    "reload": "reload: new code and configuration in a new generation; the old one serves until the new one is ready, "
    "and for ever if it fails",
    "respawn": "end all workers now and start a new generation",
    "finish": "graceful stop, never shortened by `--immediate`",
    "more": "keep one more worker idle (ignored in the foreground of a terminal)",
    "fewer": "keep one fewer worker idle (ignored in the foreground of a terminal)",
    "reap": "a process has ended: used by the service itself",
}
STATUSES = {
    "OK": "stopped as asked",
    "USAGE": "wrong command line",
    "UNAVAILABLE": "address in use, or already running; `ctl`: no answer",
    "SOFTWARE": "`init()` or the handlers failed, no worker ever got ready, or too many crashes (`--restart-max`)",
    "NOPERM": "not permitted: a port, a directory, a user",
    "CONFIG": "wrong configuration: environment or file",
}
ONLY = {"": "", "http": "http", "stream": "line, stream", "line": "line"}


def runtime(module: str) -> Any:
    """A module of the runtime in the template."""
    if str(PACKAGE) not in sys.path:
        sys.path.insert(0, str(PACKAGE))
    return importlib.import_module("runtime." + module)


def options() -> str:
    lines = ["| option | default | changes by | only with | meaning |", "|---|---|---|---|---|"]
    for one in runtime("config.options").OPTIONS:
        flags = (f"-{one.short}, " if one.short else "") + f"--{one.name} {one.metavar}".rstrip()
        number = f"{one.default:g}" if isinstance(one.default, float) else str(one.default)
        default = number if isinstance(one.default, int | float) and one.metavar else str(one.default or "")
        if one.name == "port":
            default = "{{ cookiecutter.port }}"
        scope = "reload" if one.scope == "generation" else "restart"
        lines.append(f"| `{flags}` | {default} | {scope} | {ONLY.get(one.only, one.only)} | {escaped(one.help)} |")
    return "\n".join(lines)


def signals() -> str:
    table = runtime("ipc.signals").SUPERVISOR
    assert set(table.values()) == set(ACTIONS), "ACTIONS and the table of signals differ"
    lines = ["| signal | what the supervisor does |", "|---|---|"]
    lines += [f"| {signal.Signals(number).name.removeprefix('SIG')} | {ACTIONS[table[number]]} |" for number in table]
    return "\n".join(lines)


def statuses() -> str:
    errors = runtime("config.errors")
    names = {name: value for name, value in vars(errors).items() if name.isupper()}
    del names["TIMED_OUT"]  # a worker's, not the service's
    assert set(names) == set(STATUSES), "STATUSES and errors.py differ"
    lines = ["| status | meaning |", "|---|---|"]
    lines += [f"| {value} | {STATUSES[name]} |" for name, value in sorted(names.items(), key=lambda pair: pair[1])]
    return "\n".join(lines)


def escaped(text: str) -> str:
    return text.replace("|", "\\|")


def written(text: str) -> str:
    """The manual with its tables made anew."""
    for name, make in (("options", options), ("signals", signals), ("statuses", statuses)):
        begin, end = f"<!-- begin {name}: made by ci/manual.py of the template -->", f"<!-- end {name} -->"
        assert text.count(begin) == text.count(end) == 1, f"{name}: one {begin} and one {end}"
        text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{make()}\n{end}", text, flags=re.S)  # noqa: B023
    return text


if __name__ == "__main__":
    MANUAL.write_text(written(MANUAL.read_text()))
