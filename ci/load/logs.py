"""The log under load: 100,000 requests are 100,000 lines, whatever happens to who writes them.

    make log-load     both pools and formats, file turned over and service reloaded; then the logger killed 20 times

Each run asks numbered requests by several clients, stops the service and compares the numbers in its log files with
those that were asked: none may be missing, none may be there twice, and every line has to fit its grammar.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/support"))

from baking import bake, copy_template  # after the path to it
from harness import Background, eventually
from said import COMBINED, RECORD, Said, ask_much, numbers, validated


def good(line: str, form: str) -> bool:
    """Does this line fit its grammar?"""
    if form == "json":
        return bool(validated(line))
    return bool(COMBINED.fullmatch(line) or RECORD.fullmatch(line) or line.startswith("    "))


def logger_of(service: Said) -> int:
    """The process that has the log file open."""
    for child in psutil.Process(service.pid).children():
        try:
            if str(service.file) in (file.path for file in child.open_files()):
                return child.pid
        except psutil.Error:
            continue
    return 0


def judge(service: Said, files: list[Path], count: int, form: str) -> str:
    """Compare what was asked with what is in the files. Raises AssertionError."""
    lines = [line for file in files for line in file.read_text().splitlines()]
    there = numbers(lines)
    missing, twice = count - len(set(there)), len(there) - len(set(there))
    bad = [line for line in lines if not good(line, form)]
    dropped = [line for line in lines if "dropped" in line]
    assert not (missing or twice or bad or dropped), (missing, twice, bad[:3], dropped)
    return f"{len(set(there))} requests, {len(there)} lines in {len(files)} files: none missing, twice or malformed"


def turned(service: Said, form: str, count: int) -> str:
    """The file is moved away, and the service reloaded, while requests come."""
    flags = ("--log-format", "json") if form == "json" else ()
    service.start("-n", "2", "-m", "2", "--log-file", service.file, "--access-log", form, *flags)
    asking = Background(lambda: ask_much(service.address, count))
    moved = service.logs / "moved"
    eventually(lambda: service.file.stat().st_size > 2**20, "a megabyte", 120)
    service.file.rename(moved)
    eventually(service.file.exists, "a new file", 120)
    service.signal(signal.SIGHUP)
    eventually(lambda: "generation 2" in service.file.read_text(), "the reload", 120)
    asking.result(600)
    service.stop()
    return judge(service, [moved, service.file], count, form)


def killed(service: Said, form: str, count: int, kills: int) -> str:
    """The logger is killed so many times, while requests come."""
    flags = ("--log-format", "json") if form == "json" else ()
    service.start("-n", "2", "-m", "2", "--log-file", service.file, "--access-log", form, *flags, "--fast-max", "1000")
    asking = Background(lambda: ask_much(service.address, count))
    done = 0
    while done < kills:
        known = eventually(lambda: logger_of(service), "a logger", 60)
        size = service.file.stat().st_size
        eventually(lambda: service.file.stat().st_size > size or not asking.is_alive(), "lines", 60)  # noqa: B023
        assert asking.is_alive(), f"only {done} kills under load: ask more"
        os.kill(known, signal.SIGKILL)
        eventually(lambda: logger_of(service) not in (0, known), "its successor", 60)  # noqa: B023
        done += 1
    asking.result(600)
    service.stop()
    return f"{done} kills, " + judge(service, [service.file], count, form)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch)
        where.chmod(0o755)
        template = copy_template(where / "template")
        sources = {pool: bake(template, where / pool, pool=pool) / "src" for pool in ("prefork", "threaded")}
        for run, pool, form in product(("turned", "killed"), sources, ("combined", "json")):
            directory = Path(tempfile.mkdtemp(dir=where))
            directory.chmod(0o755)
            service = Said(sources[pool], directory)
            service.logs.mkdir()
            service.expect_errors = True
            began = time.monotonic()
            try:
                if run == "turned":
                    result = turned(service, form, arguments.requests)
                else:
                    result = killed(service, form, arguments.requests, arguments.kills)
            finally:
                service.kill_all()
            print(f"{run:7} {pool:9} {form:9} {result}; {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
