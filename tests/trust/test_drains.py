"""Issue 18 D 12: drains of line, stream and streamed responses come to an end."""

from __future__ import annotations

import signal
import time

import pytest
from harness import eventually
from trust_process import HOSTILE, NIGHTLY, Place

LINES = """
from .probe import gate, tell

def service_line(line, stream):
    if line == b"gate":
        gate()
    if line == b"more":
        tell("more")
        line = stream.readline().strip()
    stream.write(b"heard " + line + b"\\n")
    stream.flush()
"""


def test_line_drains_while_clients_are_active(pool: str, place: Place) -> None:
    """Reloads while clients send lines without a pause: old generations leave after an answered line."""
    service = place(pool, LINES, "line")
    service.watch("-n", "2", "-m", "4")
    for _ in range(2):
        wires = [service.wire() for _ in range(2)]
        for wire in wires:
            assert wire.send(b"y\n")._reader.readline() == b"heard y\n"
        assert service.ctl("reload", deadline=30).returncode == 0
        end = time.monotonic() + 5
        while time.monotonic() < end and len(service.servers) > 1:
            for wire in list(wires):
                try:
                    answered = wire.send(b"x\n")._reader.readline()
                except OSError:
                    answered = b""
                if not answered:
                    wires.remove(wire)
            time.sleep(0.01)
        assert len(service.servers) == 1, f"{len(service.servers)} generations 5 s after a reload"
        for wire in wires:
            wire.assert_closed()
    service.end()


def test_idle_lines_end_soon_and_none_is_truncated(pool: str, place: Place) -> None:
    """What has come is answered, half a line is waited for, and so is what a handler reads; only silence ends."""
    service = place(pool, LINES, "line")
    service.watch("-n", "5", "-m", "5")
    idle, half, piped, reading = (service.wire() for _ in range(4))
    for wire in (idle, half, piped, reading):
        assert wire.send(b"y\n")._reader.readline() == b"heard y\n"
    reading.send(b"more\n")
    service.events.wait("more")
    half.send(b"begi")
    piped.send(b"gate\nb\nc\n")
    (gate,) = service.events.wait("gate")
    began = time.monotonic()
    service.signal(signal.SIGTERM)
    idle.assert_closed()
    assert time.monotonic() - began < 5
    assert half.send(b"n\n").rest() == b"heard begin\n"
    assert reading.send(b"it\n").rest() == b"heard it\n"
    gate.release()
    assert piped.rest() == b"heard gate\nheard b\nheard c\n"
    assert service.wait() == 0


STREAMS = """
from .probe import tell

def service_connection(stream):
    tell("connected")
    while not stream.draining:
        line = stream.{read}
        if not line:
            break
        stream.write(line)
        stream.flush()
    tell("draining" if stream.draining else "closed")
"""


@pytest.mark.parametrize("order", ["HUP", pytest.param("TERM", marks=NIGHTLY)])
@pytest.mark.parametrize(
    "read", ["readline()", *(pytest.param(one, marks=NIGHTLY) for one in ("read(2)", "read_some()"))]
)
def test_stream_learns_that_it_drains(pool: str, place: Place, read: str, order: str) -> None:
    """A blocked read wakes up when the generation drains, and `stream.draining` says why."""
    service = place(pool, STREAMS.format(read=read), "stream")
    service.watch("-n", "1", "-m", "2")
    with service.wire() as wire:
        assert wire.send(b"x\n")._reader.readline() == b"x\n"
        service.signal(signal.Signals[f"SIG{order}"])
        service.events.wait("draining", deadline=10)
        wire.assert_closed()
    if order == "HUP":
        service.wait_alone()
        service.end()
    else:
        assert service.wait() == 0


def test_stream_in_the_middle_of_a_line_goes_on(pool: str, place: Place) -> None:
    service = place(pool, STREAMS.format(read="readline()"), "stream")
    service.watch("-n", "1", "-m", "2", "--idle-timeout", "30")
    with service.wire() as wire:
        assert wire.send(b"x\ny")._reader.readline() == b"x\n"
        service.signal(signal.SIGTERM)
        service.log.wait_for("stopping")
        eventually(service.refuses, "nothing listens")
        assert wire.send(b"z\n").rest() == b"yz\n"
    assert service.wait() == 0
    assert service.events.all("draining")


def test_silence_is_noticed_by_a_stream_that_knows_of_drains(pool: str, place: Place) -> None:
    service = place(pool, STREAMS.format(read="readline()"), "stream")
    service.watch("-n", "1", "-m", "2", "--idle-timeout", "0.3")
    with service.wire() as wire:
        wire.send(b"x\n").rest()
    service.log.wait_for("was silent for too long")
    service.end()


ENDLESS = (
    HOSTILE
    + """
@routes.get("/endless")
def endless(request):
    def pieces():
        try:
            yield b"begun"
            while not request.draining:
                time.sleep(0.05)
                yield b""
            yield b", drained"
        finally:
            tell("ended")
    return Response(pieces())
"""
)


@pytest.mark.parametrize("order", ["HUP", pytest.param("TERM", marks=NIGHTLY)])
def test_streamed_response_learns_that_it_drains(pool: str, place: Place, order: str) -> None:
    service = place(pool, ENDLESS)
    service.watch("-n", "2", "-m", "4")
    with service.wire() as wire:
        wire.send("GET /endless HTTP/1.0\r\nHost: a\r\n\r\n")
        assert wire.read_exactly(len(b"HTTP/1.1"))
        service.signal(signal.Signals[f"SIG{order}"])
        assert wire.rest().endswith(b"begun, drained")
    service.events.wait("ended")
    if order == "HUP":
        service.wait_alone()
        with service.wire() as wire:
            wire.send("GET /endless HTTP/1.0\r\nHost: a\r\n\r\n")
            assert wire.read_exactly(len(b"HTTP/1.1"))
        service.events.wait("ended", 2)  # its client has left
        service.end()
    else:
        assert service.wait() == 0
