"""What tells the loop which descriptors are ready: epoll, or what else the system has. `mask` is READ or WRITE."""

import select
import selectors

from ..ipc import forks

READ, WRITE = select.POLLIN, select.POLLOUT


class Epoll:
    """Linux: level-triggered, registrations are kept across requests."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.register = self.epoll.register
        self.modify = self.epoll.modify
        self.unregister = self.epoll.unregister
        self.poll = self.epoll.poll
        self.fileno = self.epoll.fileno

    def closing(self, fd: int) -> None:
        """The kernel forgets a closed descriptor by itself, unless a child has it too (epoll(7), Q6)."""
        if forks.has_forked:
            self.unregister(fd)


class Selector:
    """Elsewhere: kqueue or poll by way of the standard library."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()

    def register(self, fd: int, mask: int) -> None:
        self.selector.register(fd, self.events(mask))

    def modify(self, fd: int, mask: int) -> None:
        self.selector.modify(fd, self.events(mask))

    def unregister(self, fd: int) -> None:
        self.selector.unregister(fd)

    closing = unregister

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        found = self.selector.select(timeout)
        return [(key.fd, READ if events & selectors.EVENT_READ else WRITE) for key, events in found]

    def fileno(self) -> int:
        """A descriptor that polls readable when there are events; -1 where there is none."""
        fileno = getattr(self.selector, "fileno", None)
        return fileno() if fileno is not None else -1

    @staticmethod
    def events(mask: int) -> int:
        return selectors.EVENT_READ if mask == READ else selectors.EVENT_WRITE


def multiplexer() -> Epoll | Selector:
    """The best that this system has."""
    return Epoll() if hasattr(select, "epoll") else Selector()
