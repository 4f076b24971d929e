"""Takes away what Python does not have on Windows, as far as that can be done elsewhere: modules, calls, and processes
that are forked."""

import multiprocessing
import os
import sys

import filelock  # noqa: F401  (which has locks of its own for Windows, and here keeps those that it has found)

GONE = ("fcntl", "grp", "pwd", "resource", "syslog", "termios")


def refuse(*args: object, **kwargs: object) -> None:
    raise OSError("a required privilege is not held by the client")  # as Windows says it


sys.modules.update(dict.fromkeys(GONE))  # type: ignore[arg-type]  # None: importing it fails
for name in ("chown", "fork", "forkpty", "geteuid", "getgid", "mkfifo", "setsid"):
    delattr(os, name)
os.symlink = refuse
multiprocessing.get_all_start_methods = lambda: ["spawn"]
