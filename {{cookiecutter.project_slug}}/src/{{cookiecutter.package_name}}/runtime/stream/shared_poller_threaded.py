"""Where the idle threads of a host wait together for connections: each connection wakes one of them, which accepts it.

No other thread has a part in it. That takes half of what accepting in one thread and serving in another does: one
wake-up and one passing of the interpreter's lock less.
"""

import os
import select
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ..pool.thread_pool import Job
from ..system.listeners import Listener

HAS_EPOLL = hasattr(select, "epoll")  # elsewhere one thread at a time polls, and the others wait for their turn


class SharedPoller:
    """Watches listeners, and a pipe for wake-ups, for all threads. A descriptor that was ready is not watched until it
    is armed again, so no second thread is woken for the same connection.

    `accept` is called with `lock` held: it accepts from a listener, calls `arm` unless accepting has to pause, and
    returns the job; None when no connection came after all."""

    def __init__(self, accept: Callable[[Listener], Job | None], lock: AbstractContextManager[object]) -> None:
        self.accept = accept
        self.lock = lock
        self.listeners: dict[int, Listener] = {}
        self.poller: Any = select.epoll() if HAS_EPOLL else select.poll()
        self.once = select.EPOLLIN | select.EPOLLONESHOT if HAS_EPOLL else select.POLLIN
        self.turn = threading.Lock()
        self.reader, self.writer = os.pipe()  # a byte for each thread that is to be woken
        os.set_blocking(self.writer, False)
        self.poller.register(self.reader, self.once)

    def wait(self) -> Job | None:
        """In an idle thread: until a connection has come. None: a wake-up has come, or no connection after all."""
        if HAS_EPOLL:
            return self.next_job(self.poller.poll(None, 1)[0][0])
        with self.turn:
            return self.next_job(self.poller.poll()[0][0])

    def next_job(self, descriptor: int) -> Job | None:
        if descriptor == self.reader:
            os.read(self.reader, 1)
            self.poller.modify(self.reader, self.once)
            return None
        with self.lock:
            listener = self.listeners.get(descriptor)
            if listener is None:
                return None
            if not HAS_EPOLL:
                self.poller.modify(descriptor, 0)  # as EPOLLONESHOT does
            return self.accept(listener)

    def wake(self, threads: int = 1) -> None:
        """Let so many waiting threads return from `wait`, now or as soon as they wait."""
        try:
            os.write(self.writer, b"w" * threads)
        except BlockingIOError:
            return  # 64 Ki wake-ups are pending already

    def add(self, listeners: list[Listener]) -> None:
        """Watch these too, before the first thread waits."""
        for listener in listeners:
            self.listeners[listener.socket.fileno()] = listener
            self.poller.register(listener.socket, self.once)

    def arm(self, listener: Listener) -> None:
        """Watch it again: in `accept`."""
        self.poller.modify(listener.socket, self.once)

    def arm_all(self) -> None:
        """Watch all of them again, after a pause. Any thread may call it."""
        with self.lock:
            for listener in self.listeners.values():
                self.arm(listener)
        self.wake()  # poll(2) under way does not see what was armed

    def close(self) -> None:
        with self.lock:
            for listener in self.listeners.values():
                self.poller.unregister(listener.socket)
            self.listeners.clear()
