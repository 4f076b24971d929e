"""What a child that user code forks (os.fork, multiprocessing) gets of its parent, a server or a member of the service.

It has default signal dispositions and no wake-up descriptor: a signal for it must not reach the loop of its parent. It
has no listener, no connection and no descriptor of the loop: each is replaced by /dev/null under its number, so that a
socket object of the parent that the child discards later closes nothing else. The log and the pipe by which the
supervisor knows the processes of a generation stay.
"""

import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from . import signals
from .waker import wait_for

log = logging.getLogger("runtime")  # that of log.records, which is a layer above

own: list[Callable[[], Iterable[int]]] = []  # return descriptors of this process that are no child's
on_child: list[Callable[[], None]] = []  # called in a child
is_registered = False
is_child = False  # this process is one
has_forked = False  # this process has, or may have, some
CHILD_TIMEOUT = 1.0  # seconds; a child says after a millisecond that it has given up what is not its own
state = threading.local()  # of the forking thread: signals that it had blocked, and the pipe in which the child says so


def begin() -> None:
    """In a process that the service has forked: nothing of its parent's is its own."""
    global has_forked
    own.clear()
    on_child.clear()
    has_forked = False


def withhold(descriptors: Callable[[], Iterable[int]]) -> None:
    """Let no child that this process forks from now on have these; they are asked for in the child."""
    global is_registered
    own.append(descriptors)
    if not is_registered:
        is_registered = True
        os.register_at_fork(before=block, after_in_parent=restore, after_in_child=leave)


def block() -> None:
    """Until the child has its own dispositions, a signal for it would wake the parent."""
    global has_forked
    if not signals.is_blocked:
        has_forked = True  # a descriptor may live on in the child: shut down before it is closed
        state.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            state.pipe = os.pipe()
        except OSError:  # no descriptor is free
            state.pipe = ()


def restore() -> None:
    """In the parent, for which fork() returns when the child has nothing of it any more."""
    if signals.is_blocked:
        return
    signal.pthread_sigmask(signal.SIG_SETMASK, state.mask)
    if state.pipe:
        reader, writer = state.pipe
        os.close(writer)
        wait_for(reader, select.POLLIN, CHILD_TIMEOUT)
        os.close(reader)


def leave() -> None:
    """In the child, before anything else runs in it. A process that the service itself forks looks after itself."""
    global is_child
    if signals.is_blocked:
        return
    is_child = True
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if signal.getsignal(number) is signals.nothing:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python's own defaults
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in [fd for some in own for fd in some()]:
        if descriptor > 2:
            os.dup2(null, descriptor, inheritable=False)
    os.close(null)
    for action in on_child:
        action()
    begin()
    signal.pthread_sigmask(signal.SIG_SETMASK, state.mask)
    if state.pipe:
        reader, writer = state.pipe
        os.write(writer, b"d")
        os.close(writer)
        os.close(reader)


def shut_down(sock: socket.socket) -> None:
    """Before it is closed: that ends a connection only when no child has it too."""
    if has_forked:
        with suppress(OSError):  # the client has left
            sock.shutdown(socket.SHUT_RDWR)


def returned(error: BaseException | None = None) -> None:
    """Called where user code has returned, or raised this, to the runtime. A child that it has forked ends here: it
    must not go on as a second server or worker."""
    if not is_child:
        return
    if error is None:
        log.warning("a child that your code has forked has returned from it: ended; end it with os._exit()")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    status = error.code if isinstance(error, SystemExit) else int(error is not None)
    os._exit(status if isinstance(status, int) else int(status is not None))
