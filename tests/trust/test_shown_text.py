"""Issue 18 B 6: what a terminal shows is cleaned."""

from __future__ import annotations

import pytest
from harness import HANDLERS, LOOPBACK
from trust_process import HOSTILE, Place, without_control

STEERING = "\x1b]0;owned\x07\x1b[2J\x9b31mred\x08\r"


@pytest.mark.parametrize("way", ["raised", "printed", "written", "logged"])
def test_no_control_characters_on_a_detached_start(pool: str, place: Place, way: str) -> None:
    """B 6: what init() says reaches the terminal cleaned."""
    say = {
        "raised": "raise LookupError(TEXT)",
        "printed": "import sys; print(TEXT, file=sys.stderr); raise LookupError('x')",
        "written": "os.write(2, TEXT.encode() + b'\\n'); raise LookupError('x')",
        "logged": "import logging; logging.error('%s', TEXT); raise LookupError('x')",
    }[way]
    body = HANDLERS.replace('tell("init", uid=os.geteuid())', say)
    service = place(pool, f"TEXT = {STEERING!r}\n" + body)
    done = service.run("--pidfile", service.pidfile, *LOOPBACK)
    assert done.returncode == 70
    assert "owned" in done.stderr
    assert not without_control(done.stderr), repr(done.stderr)


def test_no_control_characters_from_a_failed_reload(pool: str, place: Place) -> None:
    """B 6: what `ctl reload` relays of a failed init(), and what `ctl status` says of it later."""
    service = place(pool)
    service.watch("-n", "1", "-m", "2")
    service.handlers(
        f"TEXT = {STEERING!r}\n" + HANDLERS.replace('tell("init", uid=os.geteuid())', "raise LookupError(TEXT)")
    )
    done = service.ctl("reload", deadline=30)
    assert done.returncode != 0
    assert not without_control(done.stdout + done.stderr), repr(done.stderr)
    said = service.ctl("status")
    assert not without_control(said.stdout + said.stderr), repr(said.stdout)
    service.handlers(HANDLERS)
    service.end()


METRIC = (
    HOSTILE
    + """
def init(server):
    server.counter("harmless_and_long_enough", "Counts what does no harm.").add(3)

@routes.get("/text")
def text(request):
    for old in (b"harmless_and_long_enough", b"Counts what does no harm."):
        new = bytes.fromhex(request.query["text"])
        replace_bytes(old, (new * 9)[: len(old)])
    tell("scribbled")
    return ""
"""
)


@pytest.mark.parametrize("text", [STEERING.encode(), b"\xc2\x9b31m", b"\x1b[2J"])
def test_no_control_characters_from_metrics(pool: str, place: Place, text: bytes) -> None:
    """B 6: a worker writes over the texts of the metrics; `ctl status` and the pages show them cleaned."""
    service = place(pool, METRIC)
    service.watch("-n", "1", "-m", "2")
    service.get(f"/text?text={text.hex()}")
    service.events.wait("scribbled")
    done = service.ctl("status")
    assert done.returncode == 0 and not without_control(done.stdout + done.stderr), repr(done.stdout)
    for page in ("/metrics", "/status", "/"):
        assert not without_control(service.page(page)[1]), page
    service.end()
