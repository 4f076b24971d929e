"""A client that is slow with its body costs no worker: in both pools, for bodies of any size, on slow routes too."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest
from harness import eventually
from trust_client import BEGIN, SOON, Prepare, crowd, members, peak_memory, request, served
from trust_process import NIGHTLY

HANDLERS = (
    BEGIN
    + """
@routes.post("/slow")
def slow(request):
    time.sleep(0.03)
    return str(len(request.body))

@routes.post("/pieces")
def pieces(request):
    total = 0
    while piece := request.read(65536):
        total += len(piece)
    return str(total)

@routes.post("/streamed", stream=True)
def streamed(request):
    return pieces(request)

@routes.post("/ignores")
def ignores(request):
    return "not read"
"""
)

LARGE = 65537  # one byte more than the buffer of a connection at the time of issue 18
CHUNK = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"


def head(path: str, fields: str) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n".encode()


# What each client sends, what completes it, and the length of its body.
BODIES = {
    "large, nothing sent": (f"Content-Length: {LARGE}", b"", b"x" * LARGE, LARGE),
    "large, a byte short": (f"Content-Length: {LARGE}", b"x" * (LARGE - 1), b"x", LARGE),
    "1 MB, some sent": ("Content-Length: 1000000", b"x" * 100_000, b"x" * 900_000, 1_000_000),
    "small, expects 100": ("Content-Length: 10\r\nExpect: 100-continue", b"", b"x" * 10, 10),
    "large, expects 100": (f"Content-Length: {LARGE}\r\nExpect: 100-continue", b"", b"x" * LARGE, LARGE),
    "chunked, large": ("Transfer-Encoding: chunked", CHUNK * 5, b"1\r\nx\r\n0\r\n\r\n", 5 * 0x8000 + 1),
    "chunked, expects 100": ("Transfer-Encoding: chunked\r\nExpect: 100-continue", b"", b"1\r\nx\r\n0\r\n\r\n", 1),
    "chunked, trailers missing": ("Transfer-Encoding: chunked", CHUNK * 5 + b"0\r\n", b"\r\n", 5 * 0x8000),
}


SIMILAR = {"large, a byte short", "large, expects 100", "chunked, expects 100"}


@pytest.mark.parametrize("case", [pytest.param(case, marks=NIGHTLY if case in SIMILAR else ()) for case in BODIES])
def test_slow_body_costs_no_worker(prepare: Prepare, pool: str, case: str) -> None:
    """30 clients stop in the middle of a body, with two workers: others are served, and so are they later."""
    fields, first, rest, length = BODIES[case]
    service = prepare(pool, HANDLERS)
    service.start("-n", "2", "-m", "2", "-t")
    with crowd(service, 30, head("/count", fields) + first) as wires:
        longest = served(service)
        for wire in wires[::6]:
            if "expects" in case:
                assert wire.answer().status == 100  # from the loop: no handler has to run for it
            answer = wire.send(rest).answer()
            assert (answer.status, answer.body) == (200, str(length).encode())
        print(f"longest wait {longest:.3f} s")


@pytest.mark.parametrize("path", ["/slow", "/pieces"])
def test_slow_body_costs_no_worker_whatever_the_handler_does(prepare: Prepare, pool: str, path: str) -> None:
    """The route is known as slow, or its handler reads in pieces."""
    service = prepare(pool, HANDLERS)
    service.start("-n", "2", "-m", "2", "-t")
    for _ in range(20):
        assert request(service, head(path, "Content-Length: 3") + b"abc").status == 200
    with crowd(service, 30, head(path, f"Content-Length: {LARGE}") + b"x" * 100) as wires:
        served(service)
        answer = wires[0].send(b"x" * (LARGE - 100)).answer()
        assert (answer.status, answer.body) == (200, b"%d" % LARGE)


def test_slow_body_is_refused_in_time(prepare: Prepare, pool: str) -> None:
    """--body-timeout holds for a body that the loop receives; no handler has run for it."""
    service = prepare(pool, HANDLERS + '\n@routes.post("/told")\ndef told(request):\n    tell("told")\n    return ""\n')
    service.start("-n", "1", "-m", "1", "--body-timeout", "1", "-t")
    with crowd(service, 5, head("/told", f"Content-Length: {LARGE}") + b"x") as wires:
        served(service)
        for wire in wires:
            assert wire.answer().status == 408
    assert not service.events.all("told")


def test_body_over_the_limit_is_refused_before_it_is_kept(prepare: Prepare, pool: str) -> None:
    """A chunked body announces no length: 413 as soon as it exceeds --max-body."""
    service = prepare(pool, HANDLERS)
    service.start("-n", "1", "-m", "1", "--max-body", "200000", "-t")
    with crowd(service, 1, head("/count", "Transfer-Encoding: chunked")) as (wire,):
        with contextlib.suppress(ConnectionError):
            wire.send(CHUNK * 40)
        assert wire.answer().status == 413
    served(service)


@pytest.mark.parametrize("path", ["/pieces", "/streamed", "/ignores"])
def test_large_upload_in_bounded_memory(prepare: Prepare, pool: str, path: str) -> None:
    """200 MB, in the nightly run 1 GB; TRUST_UPLOAD holds another number of MB."""
    size = int(os.environ.get("TRUST_UPLOAD", "1000" if "NIGHTLY" in os.environ else "200")) * 1_000_000
    service = prepare(pool, HANDLERS)
    service.start("-n", "2", "-m", "2", "--max-body", "0", "-t")
    served(service)
    before = peak_memory(service)
    piece = b"x" * 1_000_000
    with crowd(service, 1, head(path, f"Content-Length: {size}")) as (wire,):
        with contextlib.suppress(ConnectionError):  # a handler that does not read has answered already
            for _ in range(size // len(piece)):
                wire.send(piece)
        if path != "/ignores":
            wire.socket.settimeout(60)
            assert wire.answer().body == str(size).encode()
    grown = peak_memory(service) - before
    print(f"{grown / 1e6:.1f} MB more")
    assert grown < 50_000_000


def test_spool_directory_is_left_empty(prepare: Prepare, pool: str) -> None:
    """What --spool-dir holds is of requests that are being received, whatever becomes of them."""
    service = prepare(pool, HANDLERS)
    with tempfile.TemporaryDirectory() as name:
        spool = Path(name)
        spool.chmod(0o1777)
        service.start("-n", "1", "-m", "1", "--spool-dir", spool, "-t")
        workers = members(service)
        size = 5_000_000
        data = head("/count", f"Content-Length: {size}")
        with crowd(service, 3, data + b"x" * (size - 1)) as wires:
            served(service)
            assert wires[0].send(b"x").answer().body == str(size).encode()
            wires[1].close()
        eventually(lambda: not list(spool.iterdir()), "an empty directory")

        def spooled() -> list[str]:
            return [path for pid in workers for path in service.opened(pid).values() if path.startswith(name)]

        eventually(lambda: not spooled(), "no descriptor left", SOON)
