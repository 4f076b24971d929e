"""Where bodies are on their way to a handler: in a spool that can fail, or in the hands of a handler that streams."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ROOT, assert_refused, eventually
from trust_client import BEGIN, Prepare, crowd, request, served
from trust_process import NIGHTLY

HANDLERS = (
    BEGIN
    + """
@routes.post("/upload", stream=True)
def upload(request):
    tell("started")
    total = 0
    while piece := request.read(65536):
        total += len(piece)
    return str(total)

@routes.get("/read")
def read(request):
    return "not here"

@routes.post("/kept")
def kept(request):
    "Reads after its response has ended."
    threading.Timer(0.2, late, [request]).start()
    return "soon"

def late(request):
    try:
        request.read()
    except ValueError as error:
        tell("late", said=str(error))
"""
)
SIZE = 200_000


def head(path: str, fields: str = f"Content-Length: {SIZE}") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n".encode()


@pytest.fixture
def spool() -> Iterator[Path]:
    """A directory in which all can make files."""
    with tempfile.TemporaryDirectory(prefix="spool-") as name:
        path = Path(name)
        path.chmod(0o1777)
        yield path


@pytest.mark.parametrize("fields", [f"Content-Length: {SIZE}", "Transfer-Encoding: chunked"])
def test_streaming_handler_starts_at_once(prepare: Prepare, pool: str, fields: str) -> None:
    service = prepare(pool, HANDLERS)
    service.start("-n", "2", "-m", "2")
    data = b"x" * SIZE if "Length" in fields else b"%x\r\n" % SIZE + b"x" * SIZE + b"\r\n0\r\n\r\n"
    with service.wire() as wire:
        wire.send(head("/upload", fields))
        service.events.wait("started")
        assert wire.send(data).answer().body == str(SIZE).encode()
        assert wire.get("/").status == 200, "the connection goes on"


@pytest.mark.parametrize("workers", ["1", "2", pytest.param("3", marks=NIGHTLY), "5"])
def test_streaming_handlers_leave_workers_for_others(prepare: Prepare, pool: str, workers: str) -> None:
    """Half of them wait for bodies at most; bodies beyond that are received first."""
    service = prepare(pool, HANDLERS)
    service.start("-n", workers, "-m", workers, "-t")
    with crowd(service, 20, head("/upload") + b"x" * (SIZE - 1)) as wires:
        served(service)
        assert len(service.events.all("started")) <= int(workers) // 2
        for wire in reversed(wires):
            assert wire.send(b"y").answer().body == str(SIZE).encode()
    with crowd(service, 5, head("/upload") + b"x"):
        served(service)
    assert request(service, head("/upload") + b"x" * SIZE).body == str(SIZE).encode()


def test_what_no_handler_wants_is_not_received(prepare: Prepare, pool: str) -> None:
    """404 and 405 do not wait for the body, and no 100 asks for it."""
    service = prepare(pool, HANDLERS)
    service.start("-n", "1", "-m", "1")
    for path, status in (("/nowhere", 404), ("/read", 405)):
        for fields in ("Content-Length: 1000000", "Content-Length: 5\r\nExpect: 100-continue"):
            assert request(service, head(path, fields)).status == status


def test_whole_bodies_do_not_wait_for_a_blocked_worker(prepare: Prepare) -> None:
    """Bodies are on their way to both workers as one is blocked in a handler: the other one serves all of them."""
    service = prepare("prefork", HANDLERS)
    service.start("-n", "2", "-m", "2", "-t")
    with crowd(service, 12, head("/count") + b"x" * 1000) as wires, service.wire() as blocked:
        blocked.send("GET /gate HTTP/1.1\r\nHost: test\r\n\r\n")
        (arrival,) = service.events.wait("gate")
        for wire in wires:
            answer = wire.send(b"x" * (SIZE - 1000)).answer()
            assert (answer.status, answer.body) == (200, str(SIZE).encode())
        assert wires[0].get("/").status == 200
        arrival.release()
        assert blocked.answer().body == b"released"


def test_bodies_on_their_way_survive_a_reload(prepare: Prepare, pool: str) -> None:
    service = prepare(pool, HANDLERS)
    service.start("-n", "1", "-m", "1")
    with crowd(service, 3, head("/count") + b"x" * 100_000) as wires:
        served(service)
        service.signal(signal.SIGHUP)
        service.wait_ready(2)
        for wire in wires:
            assert wire.send(b"x" * 100_000).answer().body == str(SIZE).encode()


def test_nothing_is_left_after_a_kill(prepare: Prepare, pool: str, spool: Path) -> None:
    """The files have no names."""
    service = prepare(pool, HANDLERS)
    service.expect_errors = True
    service.start("-n", "1", "-m", "1", "--spool-dir", spool)
    (worker,) = service.workers
    with crowd(service, 3, head("/count") + b"x" * 100_000):
        served(service)
        eventually(lambda: str(spool) in " ".join(service.opened(worker).values()), "files are there")
        assert not list(spool.iterdir())
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: service.workers not in ([], [worker]), "another one")
    assert not list(spool.iterdir())


def test_full_spool_refuses_that_request_alone(prepare: Prepare, pool: str, spool: Path) -> None:
    service = prepare(pool, HANDLERS)
    service.start("-n", "1", "-m", "1", "--spool-dir", spool, prefix=["sh", "-c", 'ulimit -f 300 && exec "$@"', "sh"])
    before = service.log.mark()
    with service.wire() as other:
        assert request(service, head("/count") + b"x" * SIZE).status == 507
        service.log.wait_for(rf"WARNING .* refused: 507, .*{spool} \(--spool-dir\)", after=before)
        assert len(service.log.lines[before:]) == 1
        assert other.get("/").status == 200
    small = 100_000
    assert request(service, head("/count", f"Content-Length: {small}") + b"x" * small).body == str(small).encode()


def test_spool_that_goes_away_refuses_that_request_alone(prepare: Prepare, pool: str, spool: Path) -> None:
    service = prepare(pool, HANDLERS)
    gone = spool / "gone"
    gone.mkdir()
    gone.chmod(0o1777)
    service.start("-n", "1", "-m", "1", "--spool-dir", gone)
    gone.rmdir()
    before = service.log.mark()
    assert request(service, head("/count") + b"x" * SIZE).status == 503
    service.log.wait_for(r"WARNING .*refused: 503, .*gone \(--spool-dir\)", after=before)
    served(service)
    assert request(service, head("/upload") + b"x" * SIZE).status in (200, 503)


def test_spool_is_checked_at_the_start(prepare: Prepare, pool: str, spool: Path) -> None:
    """By --check too, as the user that the service works as."""
    service = prepare(pool, HANDLERS)
    closed = spool / "closed"
    closed.mkdir(mode=0o555)
    for directory in [spool / "missing", Path("/proc"), *([closed] if ROOT else [])]:
        for flags in (["--check"], ["-x", "-p", "0"]):
            done = service.run(*flags, "--spool-dir", directory)
            assert_refused(done, 2, "--spool-dir", str(directory), traceback=True)
    done = service.run("--check", env={"TMPDIR": str(spool / "missing")})
    assert done.returncode == 0
    assert done.stderr.count("--spool-dir") == 1
    service.start("-n", "1", "-m", "1", env={"TMPDIR": str(spool / "missing")})
    service.log.wait_for(r"WARNING .*--spool-dir.*missing.*503")
    assert request(service, head("/count") + b"x" * SIZE).status == 503
    served(service)


def test_body_is_gone_when_its_request_has_ended(prepare: Prepare, pool: str) -> None:
    """It says so, instead of an end that looks like the body's."""
    service = prepare(pool, HANDLERS)
    service.start("-n", "1", "-m", "1")
    assert request(service, head("/kept") + b"x" * SIZE).status == 200
    (told,) = service.events.wait("late")
    assert "ended" in told.data["said"]
