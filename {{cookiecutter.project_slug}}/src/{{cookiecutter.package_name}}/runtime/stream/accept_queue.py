"""The kernel's accept queues behind the listeners of one member, for the protocols `stream` and `line`."""

import socket
import time
from collections.abc import Iterator
from typing import Any

from ..ipc import scoreboard
from ..log.records import log
from ..process.member import Context
from ..system.listeners import Listener, peer_of

PAUSE = 0.1  # seconds for which accepting pauses when descriptors or memory have run out
Accepted = tuple[socket.socket, Any]  # a connection, and the address of its client as `Stream.peer` has it


class AcceptQueue:
    """Accepts connections until the member drains. For one thread at a time."""

    def __init__(self, context: Context, slot: int) -> None:
        self.listeners = context.listeners
        self.board = context.board
        self.base = context.board.base(slot)
        self.backlog = context.config.backlog
        self.paused_until = 0.0  # no descriptor was free at the last attempt; 0 = one was
        self.is_open = True  # the listeners are not closed yet

    def accept(self, listener: Listener) -> Accepted | None:
        """One connection. None when none waits, or no descriptor is free for it."""
        try:
            sock, peer = listener.socket.accept()
        except BlockingIOError:
            self.paused_until = 0.0  # a sibling was faster; had no descriptor been free, that would be the error
            return None
        except ConnectionAbortedError:
            return self.accept(listener)  # its client has reset it
        except OSError as error:
            self.pause(error)
            return None
        self.paused_until = 0.0
        self.board.words[self.base + scoreboard.ACCEPTED] += 1
        return sock, peer_of(peer)

    def pause(self, error: OSError) -> None:
        """Descriptors or memory have run out, or the network failed: Linux reports that here (accept(2))."""
        if not self.paused_until:
            log.warning("cannot accept: %s; accepting pauses", error.strerror)
        self.paused_until = time.monotonic() + PAUSE

    def drain(self) -> Iterator[Accepted]:
        """Accept what waits, then close the listeners: the kernel refuses later clients. A member that retires alone,
        or is replaced by a reload, leaves what waits to others. When descriptors run out, `is_open` is still set
        afterwards: to be called again."""
        if self.board.empties_queue(self.base):
            for listener in self.listeners:
                for _ in range(self.backlog):  # more cannot have waited when the drain began
                    accepted = self.accept(listener)
                    if accepted is None:
                        break
                    yield accepted
                if self.paused_until:
                    return
        self.is_open = False
        for listener in self.listeners:
            listener.socket.close()
