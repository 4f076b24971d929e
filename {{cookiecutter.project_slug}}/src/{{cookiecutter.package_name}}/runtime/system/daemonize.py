"""Becoming a daemon: the double fork, inherited descriptors, the limit of open files, the root directory."""

import os
import resource
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress

from ..config.errors import CONFIG, OK, USAGE, StartError
from ..config.options import start_directory
from ..config.settings import Config
from ..log.records import log
from .launcher import ReadyPipe, wait_for_verdict

MOST = 65536  # descriptors that are tried where they cannot be listed


def detach(timeout: float, name: str) -> ReadyPipe:
    """Fork twice, leave the session, and return in the new supervisor. The startup process never returns.

    `timeout` (seconds, 0 = none) is the supervisor's own limit for its start. The startup process waits 5 s longer, so
    that the message of a supervisor that still runs comes first. See daemon(7) and the Unix FAQ, 1.7.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os.close(writer)
        wait_for_verdict(reader, timeout + 5 if timeout else None, name)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(OK)  # the session's leader leaves: no terminal can ever become ours
    os.umask(0o022)
    read_nothing()
    os.set_blocking(writer, False)
    return ReadyPipe(writer)


def read_nothing() -> None:
    """Descriptor 0 is the null device from now on."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)


def close_inherited(keep: Collection[int]) -> None:
    """Close descriptors that the starter left open by accident (3 and above), except `keep`: they would hold its files,
    pipes and locks. What this process has opened itself is not inheritable (PEP 446), so it stays."""
    for descriptor in open_descriptors():
        try:
            if descriptor > 2 and descriptor not in keep and os.get_inheritable(descriptor):
                os.close(descriptor)
        except OSError:
            continue  # not open


def open_descriptors() -> Iterable[int]:
    """The descriptors of this process; without a /proc all numbers that can be open, which takes 10 ms."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]  # proc(5), of Linux
    except OSError:
        return range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], MOST))


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard one: a connection is a descriptor, and the usual soft limit of
    1024 is for select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:  # macOS says «unlimited» and means fewer
            log.info("the limit of open files stays %d: %s", soft, error)


def enter(config: Config) -> None:
    """Go to --root; without it, in the foreground, to the directory of the start, or what a link there leads to by now.
    Raises StartError: 2 when the flag is wrong, 78 elsewhere."""
    if not config.root:
        if config.foreground:
            with suppress(OSError):
                os.chdir(start_directory() or ".")
    else:
        try:
            os.chdir(config.root)
        except OSError as error:
            raise StartError(
                f"--root (-r) {config.root}: cannot go there: {error.strerror}",
                USAGE if config.source["root"] == "flag" else CONFIG,
            ) from None
