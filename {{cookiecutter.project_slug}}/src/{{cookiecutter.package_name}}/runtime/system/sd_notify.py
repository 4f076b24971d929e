"""sd_notify(3): tell systemd what state the service is in. Does nothing without NOTIFY_SOCKET."""

import os
import socket
import time
from collections.abc import Callable

EXTENSION = 10  # seconds that each EXTEND_TIMEOUT_USEC asks for; it is repeated every second
UNSENT = 100  # messages kept for a manager that does not read; more are lost


class SdNotify:
    """The datagram socket named by NOTIFY_SOCKET, which is taken out of the environment: children do not notify."""

    def __init__(self) -> None:
        name = os.environ.pop("NOTIFY_SOCKET", "")
        self.address = "\0" + name[1:] if name.startswith("@") else name  # @ stands for an abstract name
        self.socket: socket.socket | None = None
        if self.address:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.socket.setblocking(False)
        interval = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", str(os.getpid()))
        mine = interval.isdigit() and pid == str(os.getpid())
        # Half the interval, as sd_watchdog_enabled(3) recommends; 0 = no watchdog.
        self.watchdog = int(interval) / 2e6 if mine and self.address else 0.0
        self.next_watchdog = time.monotonic() if self.watchdog else float("inf")  # deadline of the next WATCHDOG=1
        self.extended = 0.0  # when EXTEND_TIMEOUT_USEC was sent last
        self.looked = 0.0  # when the status was asked for last
        self.status = ""  # as last sent
        self.unsent: list[bytes] = []

    def beat(self, now: float, waiting: bool, status: Callable[[], str]) -> None:
        """Called at each turn of the supervisor's loop. A start, a reload and a drain (`waiting`) have limits of their
        own, so they ask for more time than TimeoutStartSec and TimeoutStopSec may leave. `status` makes the line that
        `systemctl status` shows: asked for once a second, and sent when it has changed."""
        if self.socket is None:
            return
        self.flush()
        if now >= self.next_watchdog:
            self.next_watchdog = now + self.watchdog
            self.send("WATCHDOG=1")
        if waiting and now - self.extended >= 1.0:
            self.extended = now
            self.send(f"EXTEND_TIMEOUT_USEC={EXTENSION * 1_000_000}")
        if now - self.looked >= 1.0:
            self.looked = now
            if (text := status()) != self.status:
                self.status = text
                self.send(f"STATUS={text}")

    def send(self, *lines: str) -> None:
        """Send assignments such as READY=1, now or in one of the next turns of the loop: the manager's queue may be
        full (net.unix.max_dgram_qlen) while it is busy, and a READY=1 that is lost would fail the start."""
        if self.socket is not None and len(self.unsent) < UNSENT:
            self.unsent.append("\n".join(lines).encode())
            self.flush()

    def flush(self) -> None:
        while self.socket is not None and self.unsent:
            try:
                self.socket.sendto(self.unsent[0], self.address)
            except BlockingIOError:
                return
            except OSError:  # the manager has ended, or refuses
                self.unsent.clear()
                return
            del self.unsent[0]

    def reloading(self) -> None:
        """RELOADING=1 with the time that Type=notify-reload wants (systemd.service(5))."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def close(self) -> None:
        """In a child: only the supervisor notifies."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
