"""Signals: the table as data, and the pipe through which they reach a loop.

A Python signal handler does nothing here; `signal.set_wakeup_fd` writes the signal's number into a pipe, which
wakes the selector, and the loop acts. Ignored signals get a handler that does nothing instead of SIG_IGN: SIG_IGN
would be inherited by programs that user code executes, a handler is reset by exec (signal(7)).
"""

import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from . import libc
from .waker import Waker

# To the supervisor: what each signal asks for. The manual's table is compared with this one by a test.
SUPERVISOR: Mapping[signal.Signals, str] = {
    signal.SIGTERM: "stop",  # graceful; at once with -t, or the second time
    signal.SIGINT: "halt",  # at once
    signal.SIGQUIT: "halt",
    signal.SIGHUP: "reload",
    signal.SIGUSR1: "respawn",  # end the old generation's workers now
    signal.SIGUSR2: "finish",  # graceful stop, never shortened by -t
    signal.SIGTTIN: "more",  # idle floor + 1
    signal.SIGTTOU: "fewer",
    signal.SIGCHLD: "reap",
}
# To servers, hosts and workers: a terminal's Ctrl-C or a control group's kill reaches them all, so only TERM counts.
MEMBER: Mapping[signal.Signals, str] = {
    signal.SIGTERM: "drain",
    signal.SIGCHLD: "reap",
    signal.SIGURG: "look",  # at the scoreboard, in which the server has written something
}

IGNORED = tuple(
    getattr(signal, name)
    for name in "SIGINT SIGQUIT SIGHUP SIGUSR1 SIGUSR2 SIGPIPE SIGALRM SIGTSTP SIGTTIN SIGTTOU SIGURG SIGIO "
    "SIGVTALRM SIGPROF SIGXFSZ SIGWINCH".split()
    if hasattr(signal, name)
)


HANDLER_STACK = 2**19  # bytes
SS_DISABLE = 2 if sys.platform == "linux" else 4
kept: list[object] = []  # holds the memory that the kernel knows


def nothing(number: int, frame: object) -> None:
    """The handler of every signal: the wake-up pipe does the work."""


class SignalPipe(Waker):
    """The self-pipe that signals arrive on; poll `fileno()`, then `take()` the actions asked for."""

    def __init__(self, actions: Mapping[signal.Signals, str]) -> None:
        global is_blocked
        super().__init__()
        self.actions = actions
        is_blocked = False  # this process was forked inside `blocked`
        for number in (*IGNORED, *actions):
            signal.signal(number, nothing)
        # A full pipe means that 64 Ki signals wait already: nothing is lost by dropping one more.
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the parent may have blocked some

    def take(self) -> list[str]:
        """The actions that arrived since the last call, in order, each at most once per call but for those that
        count: "stop", "more" and "fewer"."""
        asked = [self.actions[signal.Signals(number)] for number in self.clear() if number in self.actions]
        return [one for i, one in enumerate(asked) if one not in asked[:i] or one in ("stop", "more", "fewer")]

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        super().close()


def use_stack(size: int) -> Callable[[], None]:
    """Have the handlers of signals, and faulthandler, run on a stack of `size` bytes in the calling thread; the system
    gives what is used of it (sigaltstack(2)). Returns what to call when the thread ends. Nothing where there is no way
    to the C library."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
    address = libc.address(memory)

    def use(flags: int) -> None:
        if sys.platform == "linux":
            libc.call("sigaltstack", struct.pack("@PiN", address, flags, len(memory)), None)
        else:
            libc.call("sigaltstack", struct.pack("@PNi", address, len(memory), flags), None)

    if not address:
        return lambda: None
    use(0)
    return partial(use, SS_DISABLE)


def enlarge_stack() -> None:
    """Give handlers a stack on which one of each signal fits. They run on the one that faulthandler has made, of some
    16 KiB, and nest, one for each signal that is pending: eight overflow it where processors save many registers. Call
    once, after faulthandler.enable(); forked processes inherit it."""
    kept.append(use_stack(HANDLER_STACK))


is_blocked = False  # around a fork of the service's own: see `forks`


@contextmanager
def blocked() -> Iterator[None]:
    """No signal is delivered inside: around a fork, so that one meant for the child never wakes the parent's pipe."""
    global is_blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    is_blocked = True
    try:
        yield
    finally:
        is_blocked = False
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def name(status: int) -> str:
    """How a process ended, from its wait status: «exit status 1» or «signal SIGKILL»."""
    if os.WIFSIGNALED(status):
        try:
            return f"signal {signal.Signals(os.WTERMSIG(status)).name}"
        except ValueError:
            return f"signal {os.WTERMSIG(status)}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"
