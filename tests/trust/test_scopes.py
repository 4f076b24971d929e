"""Issue 18 D 8: what only a restart changes, by the manual, stays as it is at a reload, and one line says so."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from harness import HANDLERS
from trust_process import Place

MANUAL = Path(__file__).parents[2] / "{{cookiecutter.project_slug}}" / "docs" / "manual.md"
FLAGS_ONLY = {"foreground", "config", "check", "version", "help"}  # -x is given here, and a flag wins


def test_reload_names_what_only_a_restart_changes(pool: str, place: Place) -> None:
    rows = re.findall(r"^\| `(?:-\w, )?--([\w-]+)[^|]*\|[^|]*\| (restart|reload) \|", MANUAL.read_text(), re.MULTILINE)
    scopes = dict(rows)
    assert len(scopes) > 40
    service = place(pool, HANDLERS)
    run = service.run_directory
    new = {
        "reload": "true", "pidfile": f"'{run}/new.pid'", "control": f"'{run}/new.ctl'", "admin": "'127.0.0.1:0'",
        "log-file": f"'{run}/new.log'", "log-prefix": "'%H '", "log-keep": "3", "log-facility": "'local3'",
        "name": "'other'",
    }  # fmt: skip
    more = {"log-format": "'json'"}  # excludes a prefix
    assert {*new, *more} == {name for name, scope in scopes.items() if scope == "restart"} - FLAGS_ONLY
    config = service.config("idle = 1\nmax = 2\n")
    service.start("-f", config)
    reported = r"--([\w-]+) changes only on a restart"
    generation = 1
    for values in (new, more):
        mark = service.log.mark()
        config.write_text("idle = 2\nmax = 3\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
        service.signal(signal.SIGHUP)
        generation += 1
        service.wait_ready(generation)
        found = [match[1] for line in service.log.lines[mark:] if (match := re.search(reported, line))]
        assert sorted(found) == sorted(values)
        assert not os.listdir(run) and not service.log.find('^{"')
    service.end()
