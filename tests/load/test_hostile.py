"""Each hostile client costs a timer and a line in the log: not a worker, and not two lines."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Callable
from functools import partial

import pytest
from harness import Background, Wire, eventually
from loaded import Loaded

FLAGS = ("--header-timeout", "2", "--body-timeout", "2", "--max-body", "1000000")
POST = b"POST /size HTTP/1.1\r\nHost: a\r\n"


def reset(wire: Wire) -> None:
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def sends(data: bytes) -> Callable[[Wire], None]:
    def act(wire: Wire) -> None:
        with contextlib.suppress(ConnectionError):
            wire.send(data)

    return act


def drips(start: bytes) -> Callable[[Wire], None]:
    """A byte now and then, until the service has had enough of it."""

    def act(wire: Wire) -> None:
        wire.send(start)
        wire.socket.settimeout(0.1)
        with contextlib.suppress(ConnectionError):
            while True:
                wire.send(b"x")
                with contextlib.suppress(TimeoutError):
                    if wire.socket.recv(65536, socket.MSG_PEEK):
                        break

    return act


def never_reads(wire: Wire) -> None:
    wire.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n")


def vanishes(wire: Wire) -> None:
    never_reads(wire)
    assert wire.socket.recv(100).startswith(b"HTTP/1.1 200")
    reset(wire)
    wire.close()


def half_open(wire: Wire) -> None:
    wire.send("GET / HTTP/1.1\r\nHo")
    wire.socket.shutdown(socket.SHUT_WR)


def pours(wire: Wire) -> None:
    """A chunked body without end."""
    with contextlib.suppress(ConnectionError):
        wire.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(1000):
            wire.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")


HOSTILE: dict[str, tuple[Callable[[Wire], None], str]] = {
    "one byte after the other": (drips(b"GET / HTTP/1.1\r\nX: "), "refused: 408, the request head came too slowly"),
    "a small body byte by byte": (drips(POST + b"Content-Length: 900\r\n\r\n"), "refused: 408, the request body came"),
    "a large body byte by byte": (
        drips(POST + b"Content-Length: 99999\r\n\r\n"),
        "refused: 408, the request body came",
    ),
    "never a byte": (lambda wire: None, "sent no request: closed"),
    "half-open": (half_open, "left in the middle of a request"),
    "never reading": (never_reads, "does not read its response: closed"),
    "vanished in the middle of a response": (vanishes, "left in the middle of a response"),
    "1 MB header": (sends(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n"), "refused: 431, "),
    "10,000 headers": (sends(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"), "refused: 431, "),
    "NULs": (sends(b"\0" * 10_000), "refused: 400, "),
    "TLS hello": (sends(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)), "refused: 400, TLS on a port"),
    "endless chunked body": (pours, "refused: 413, "),
    "a line for the log": (
        sends(b"GET / HTTP/1.1\r\nHost: a\r\n2026-01-01T00:00:00.000Z ERROR forged\x1b[31m: x\r\n\r\n"),
        "refused: 400, ",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_one_line_and_no_worker(service: Loaded, case: str) -> None:
    act, line = HOSTILE[case]
    workers = sorted(service.slots(2, *FLAGS))
    before = service.log.mark()
    wires = [service.wire() for _ in range(3)]  # more than there are workers
    took: list[float] = []
    peers = [wire.socket.getsockname()[1] for wire in wires]
    acting = [Background(partial(act, wire)) for wire in wires]
    while any(one.is_alive() for one in acting) or not took:
        began = time.monotonic()
        with service.wire() as other:
            assert other.get("/").body == b"hello"
        took.append(time.monotonic() - began)
    for one in acting:
        one.result()
    for peer in peers:
        service.log.wait_for(rf"(worker|host)\[\d+\] (\[\w+\] )?127.0.0.1:{peer} {line}", after=before)
    for wire in wires:
        with contextlib.suppress(OSError):
            wire.close()
    assert max(took) < 3, took
    assert sorted(service.workers) == workers
    lines = service.log.lines[before:]
    assert len(lines) == 3, lines
    assert not [one for one in lines if re.search(r"forged|\x1b|\0", one)]


def test_a_flood_is_summed_up(service: Loaded) -> None:
    """A hundred bad requests make a few lines and a number."""
    service.members(1)
    before = service.log.mark()
    for _ in range(100):
        with service.wire() as wire:
            wire.send(b"\0\r\n\r\n")
            assert wire.answer().status == 400

    def summed_up() -> bool:
        with service.wire() as wire:
            wire.send(b"\0\r\n\r\n")
            assert wire.answer().status == 400
        return bool(service.log.find(r"\d+ more lines like these", before))

    eventually(summed_up, "the rest is summed up")
    assert len(service.log.lines[before:]) < 80
