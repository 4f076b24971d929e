"""The door at which idle threads wait for connections: the kernel wakes one of them for each, and no other thread has a
part in it. That takes half of what accepting in one thread and serving in another does, one wake-up and one passing of
the interpreter's lock less.
"""

import os
import select
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..system.listeners import Listener

if TYPE_CHECKING:
    from ..pool.thread_pool import Job


AVAILABLE = hasattr(select, "epoll")  # elsewhere the main thread accepts


class SharedEpoll:
    """One epoll for all threads. `take` accepts from a listener: the job, or None when there was nothing after all; it
    says with `arm` that the next connection may wake the next thread. It is called by one thread at a time, and no more
    once `shut` has returned."""

    def __init__(self, take: "Callable[[Listener], Job | None]") -> None:
        self.take = take
        self.lock = threading.Lock()
        self.open: dict[int, Listener] = {}
        self.epoll = select.epoll()
        self.reader, self.writer = os.pipe()  # the bell: a byte for each thread that is to look up from waiting
        os.set_blocking(self.writer, False)
        # An event is for one thread, and there is no other before the descriptor is armed again.
        self.once = select.EPOLLIN | select.EPOLLONESHOT
        self.epoll.register(self.reader, self.once)

    def wait(self) -> "Job | None":
        """In an idle thread: until a connection has come. None: the bell rang, or somebody else was faster."""
        fd = self.epoll.poll(None, 1)[0][0]
        if fd == self.reader:
            os.read(self.reader, 1)  # there is one: nobody else has been told of it
            self.epoll.modify(self.reader, self.once)
            return None
        with self.lock:
            listener = self.open.get(fd)
            return self.take(listener) if listener is not None else None

    def ring(self, times: int = 1) -> None:
        """Let so many waiting threads look what else there is to do, now or as soon as they wait."""
        try:
            os.write(self.writer, b"r" * times)
        except BlockingIOError:
            return  # the pipe is full: it rings all the time

    def admit(self, listeners: list[Listener]) -> None:
        """Let their connections in."""
        with self.lock:
            for listener in listeners:
                self.open[listener.socket.fileno()] = listener
                self.epoll.register(listener.socket, self.once)

    def arm(self, listener: Listener) -> None:
        self.epoll.modify(listener.socket, self.once)

    def arm_all(self) -> None:
        """After a pause."""
        with self.lock:
            for listener in self.open.values():
                self.arm(listener)

    def shut(self) -> None:
        """Let nobody in any more."""
        with self.lock:
            for fd in self.open:
                self.epoll.unregister(fd)
            self.open.clear()
