"""What all connections of one worker share: limits, routes, figures, and what runs their handlers."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from ..http1.parser import Head, Limits
from ..ipc import scoreboard
from ..ipc.scoreboard import BUCKETS, ERRORS, STREAMING
from ..log.records import log
from ..loop.interfaces import FOREVER
from ..process.member import Context
from ..web.routes import Router
from ..web.trace_context import Sent, always, asked
from .access_log import access_log
from .bodies import Body, UserBody
from .budget import Budget
from .response_head import Clock

LINES = 10  # in the log about clients that a worker writes in a second: many bad clients must not flood it


class ServerState:
    """One per worker. Figures are counted in plain attributes, because a word of the scoreboard costs three times as
    much, and published by the monitor."""

    def __init__(self, context: Context, slot: int) -> None:
        config = context.config
        self.wake_server = context.wake_server
        self.board = context.board
        self.words = self.board.words
        self.base = context.board.base(slot)
        first = self.base + scoreboard.LATENCY
        self.latency = self.words[first : first + BUCKETS]
        # They go on from those of the slot's last owner.
        self.received, self.sent, self.microseconds = (
            self.words[self.base + word] for word in (scoreboard.RECEIVED, scoreboard.SENT, scoreboard.MICROSECONDS)
        )
        self.publishing = threading.Lock()
        self.router: Router = context.handlers.routes
        self.limits = Limits(head=config.max_head)
        self.max_body = config.max_body
        self.spool_dir = config.spool_dir
        self.budget = Budget(self.board, self.base, config.budget)
        self.most_streaming = config.max // 2  # handlers of all workers that wait for bodies: a worker is always left
        # 0 switches a limit off, except for keep-alive, where it means: one request per connection.
        self.header_timeout = config.header_timeout or FOREVER
        self.body_timeout = config.body_timeout or FOREVER
        self.keep_alive = self.parked_timeout = config.keep_alive  # the second is not changed by a drain
        self.is_closing = not config.keep_alive  # connections are closed after their next response
        self.is_retiring = False  # a sibling goes on with what a client has sent after its request
        self.clock = Clock(config.name)
        # By the field lines of a head: is its request to have ids even if the client asks for none?
        self.traced: Callable[[bytes], Sent] = asked if config.request_id == "asked" else always
        self.access = access_log(config.access_log, self.clock)
        # Requests left before this worker is replaced, 0 = no limit; spread, so that not all are replaced at once.
        most = config.max_requests
        self.quota = most and most + int.from_bytes(os.urandom(4)) % (most // 10 + 1)
        self.lines = 0  # about clients in this second
        self.lines_end = 0.0
        # The engine's: run a handler; make the next piece of a streamed response, None when it comes later.
        self.serve: Callable[[Any, Head, bytes | None, Body | None], None]
        self.next_piece: Callable[[Any], bytes | None]
        self.dispose: Callable[[UserBody], None]  # close a body, which is user code, in a turn of the leader

    def count(self, seconds: float) -> None:
        """A request that took so long. (ResponseWriter.answer has this code in line.)"""
        took = int(seconds * 1e6)
        self.microseconds += took
        self.latency[min(took.bit_length(), BUCKETS - 1)] += 1

    def count_error(self) -> None:
        self.words[self.base + ERRORS] += 1

    def count_down(self) -> None:
        """One request less until this worker is replaced."""
        self.quota -= 1
        if not self.quota:
            log.info("worker has served its --max-requests: replaced")
            self.words[self.base + scoreboard.RECYCLE_WANTED] = 1  # the server replaces one at a time
            self.wake_server()

    def begin_streaming(self) -> bool:
        """May one more handler read its body while it comes? Siblings ask at the same time, so none looks before it has
        written: two may both hear no, never both yes for the last place."""
        self.words[self.base + STREAMING] += 1
        if self.board.total(STREAMING) <= self.most_streaming:
            return True
        self.end_streaming()
        return False

    def end_streaming(self) -> None:
        self.words[self.base + STREAMING] -= 1

    def log_client(self, text: str, *values: object, level: int = logging.INFO) -> None:
        """Log a line about a client, unless there have been many in this second."""
        now = time.monotonic()
        if now >= self.lines_end:
            if self.lines > LINES:
                log.info("%d more lines like these", self.lines - LINES)
            self.lines, self.lines_end = 0, now + 1.0
        self.lines += 1
        if self.lines <= LINES:
            log.log(level, text, *values)

    def publish(self) -> None:
        """Write to the scoreboard what was counted."""
        words, base = self.words, self.base
        with self.publishing:  # or an older sum could overwrite the last one
            words[base + scoreboard.RECEIVED] = self.received
            words[base + scoreboard.SENT] = self.sent
            words[base + scoreboard.MICROSECONDS] = self.microseconds
