"""Complete requests wait while all workers are busy: no deadline of a client runs while the service lets it wait."""

from __future__ import annotations

import re
import time
from contextlib import ExitStack

import pytest
from harness import DEADLINE, Wire, eventually
from trust_client import BEGIN, Prepare
from watched import Watched

TIMEOUTS = ("--header-timeout", "1", "--keep-alive", "1", "--body-timeout", "1")
LONGER = 4.0  # seconds that the workers stay busy: several of these timeouts

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
WAITING = {
    "new connection": (b"", GET),
    "kept connection": (GET, GET),
    "a head in two pieces": (b"", GET[:10] + b"|" + GET[10:]),
    "pipelined": (b"", GET + GET.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n")),
    "a small body": (b"", b"POST /count HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n" + b"x" * 100),
    "a chunked body": (
        b"",
        b"POST /count HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    ),
    "a larger body": (b"", b"POST /count HTTP/1.1\r\nHost: test\r\nContent-Length: 90000\r\n\r\n" + b"x" * 90_000),
}


def occupy(service: Watched, stack: ExitStack, count: int) -> None:
    """Each worker runs a handler that waits at a gate."""
    for _ in range(count):
        stack.enter_context(service.wire()).send("GET /gate HTTP/1.1\r\nHost: test\r\n\r\n")
    service.events.wait("gate", count)


def pass_time(seconds: float) -> None:
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > seconds, f"{seconds} s", seconds + DEADLINE)


def release(service: Watched) -> None:
    for arrival in service.events.all("gate"):
        arrival.release()


@pytest.mark.parametrize("case", WAITING)
def test_complete_request_is_answered_however_long_the_workers_are_busy(prepare: Prepare, pool: str, case: str) -> None:
    """Two workers busy for four times the timeouts, nine clients with a whole request: none is reset."""
    before, data = WAITING[case]
    service = prepare(pool, BEGIN)
    service.start("-n", "2", "-m", "2", *TIMEOUTS)
    with ExitStack() as stack:
        wires = [stack.enter_context(service.wire()) for _ in range(9)]
        for wire in wires if before else []:
            assert wire.send(before).answer().status == 200
        occupy(service, stack, 2)
        for wire in wires:
            for piece in data.split(b"|"):
                wire.send(piece)
        pass_time(LONGER)
        release(service)
        statuses = []
        for wire in wires:
            try:
                statuses.append(wire.answer().status)
            except ConnectionResetError:
                statuses.append(0)
    print(statuses)
    assert statuses.count(0) == 0, f"{statuses.count(0)} of 9 got a reset: {service.log.text}"
    assert set(statuses) <= {200, 503}
    assert not service.log.find("sent no request"), "the log blames the clients"


def test_incomplete_head_is_still_refused(prepare: Prepare, pool: str) -> None:
    """The deadline of a client that has not sent its head runs on once a worker is there to read it."""
    service = prepare(pool, BEGIN)
    service.start("-n", "2", "-m", "2", *TIMEOUTS)
    with ExitStack() as stack:
        slow = stack.enter_context(service.wire()).send(GET[:20])
        occupy(service, stack, 2)
        release(service)
        assert slow.answer().status == 408


def test_all_workers_busy_is_one_line_at_each_end(prepare: Prepare, pool: str) -> None:
    service = prepare(pool, BEGIN)
    service.start("-n", "2", "-m", "2")
    with ExitStack() as stack:
        occupy(service, stack, 2)
        wires = [stack.enter_context(Wire(service.address)).send(GET) for _ in range(20)]
        service.log.wait_for(r"(?i)all workers are busy", deadline=8)
        pass_time(2)
        assert len(service.log.find(r"(?i)\bbusy\b")) == 1
        mark = service.log.mark()
        release(service)
        assert [wire.answer().status for wire in wires] == [200] * 20
        service.log.wait_for(r"(?i)\b(busy|idle|free)\b", after=mark, deadline=8)
        assert len(service.log.find(r"(?i)\b(busy|idle|free)\b", after=mark)) == 1
        assert re.search(r"\d", service.log.find(r"(?i)\b(busy|idle|free)\b", after=mark)[0])
