"""What Python waits for at the end of a process: other threads, executors, children of multiprocessing, and functions
registered with atexit. The processes of a service leave by os._exit(), so they wait for it here."""

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from typing import Any

from ..log.records import flush, log

SLOW = 0.5  # seconds after which the log says what is waited for
EARLY = 0.2  # seconds by which it ends before the server would kill this process without a word


def disown() -> None:
    """In a process that was just forked: its parent's children, and what its parent has to do at its end, are the
    parent's. (multiprocessing does the same to its children.)"""
    atexit._clear()
    atexit.register(logging.shutdown)
    finalize: Any = weakref.finalize
    for info in finalize._registry.values():
        info.atexit = False  # such as a temporary directory of the parent
    finalize._registered_with_atexit = False
    if "multiprocessing.util" in sys.modules:
        atexit.register(sys.modules["multiprocessing.util"]._exit_function)
    if "multiprocessing.process" in sys.modules:
        sys.modules["multiprocessing.process"]._children = set()  # type: ignore[attr-defined]


def children() -> list[Any]:
    """Of multiprocessing, those that have not been joined."""
    return list(getattr(sys.modules.get("multiprocessing.process"), "_children", ()))


def waited_for() -> str:
    """What this process still waits for, for the log."""
    threads = [
        thread.name for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon
    ]  # fmt: skip
    found = {"threads": threads, "children": [f"{child.name} (pid {child.pid})" for child in children()]}
    said = [f"{kind} {', '.join(names)}" for kind, names in found.items() if names]
    return "; ".join(said) or "functions registered with atexit"


def finish(role: str, deadline: float, limit: str, status: int) -> None:
    """Return when nothing is left to wait for. At `deadline` (monotonic seconds; infinite for none) the log names what
    is cut off, and the process ends with `status`; `limit` says whose the time was."""
    done = threading.Event()

    def watch() -> None:
        left = max(0.0, deadline - EARLY - time.monotonic())
        if left > SLOW and not done.wait(SLOW):
            log.info("%s waits for work in the background: %s", role, waited_for())
            left -= SLOW
        if done.wait(min(left, threading.TIMEOUT_MAX)):
            return
        log.warning("%s: work in the background is cut off: %s", limit, waited_for())
        for child in children():
            child.terminate()
        flush()
        os._exit(status)

    threading.Thread(target=watch, name="end", daemon=True).start()
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # executors too
        atexit._run_exitfuncs()
    except BaseException:
        log.exception("work in the background failed")
    done.set()
