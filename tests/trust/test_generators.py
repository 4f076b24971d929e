"""A response that a generator makes: its client leaves, it fails, it blocks at its end; its threads and its context."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, suppress

import pytest
from harness import Background, Wire, eventually
from trust_client import BEGIN, SOON, Prepare, drain, get, lost, members, parked

# -- empty pieces -----------------------------------------------------------------------------------------

EMPTY = {
    "bytes": 'b""',
    "text": '""',
    "bytearray": "bytearray()",
    "memoryview": 'memoryview(b"")',
}
PAUSES = {"at once": "pass", "slowly": "time.sleep(0.02)"}

ENDLESS = """
@routes.get("/empty")
def empty(request):
    def pieces():
        try:
            yield b"first"
            tell("streaming")
            while True:
                {pause}
                yield {piece}
        finally:
            tell("ended")
    return Response(pieces())

class Endless:
    def __iter__(self):
        return self
    def __next__(self):
        {pause}
        tell("streaming") if not hasattr(self, "told") else None
        self.told = True
        return {piece}
    def close(self):
        tell("ended")

@routes.get("/iterator")
def iterator(request):
    return Response(Endless())
"""


@pytest.mark.parametrize("path", ["/empty", "/iterator"])
@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("piece", EMPTY)
def test_empty_pieces_keep_no_worker_after_the_client_has_left(
    prepare: Prepare, pool: str, piece: str, pause: str, path: str
) -> None:
    """The loop gets its turn after an empty piece: it serves others, and sees the client's end."""
    if path == "/iterator" and piece != "bytes":
        pytest.skip("the same with each piece")
    service = prepare(pool, BEGIN + ENDLESS.format(piece=EMPTY[piece], pause=PAUSES[pause]))
    service.start("-n", "1", "-m", "1", "-t")
    with Wire(service.address) as wire:
        wire.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
        service.events.wait("streaming")
        assert get(service).status == 200  # beside it
    service.events.wait("ended", deadline=SOON)
    assert get(service).status == 200


# -- failing ----------------------------------------------------------------------------------------------

FAILURES = {
    "an exception": 'raise ValueError("on purpose")',
    "an HTTPError": 'raise HTTPError(404, "too late")',
    "a number": "yield 5",
    "text that cannot be sent": 'yield "\\ud800"',
    "exit": "sys.exit(3)",
    "cancelled": 'raise __import__("asyncio").CancelledError',
    "interrupt": "raise KeyboardInterrupt",
    "fail": 'request.worker.fail("on purpose")',
}
SENT = 150_000


@pytest.mark.parametrize("failure", FAILURES)
def test_failing_generator_loses_nothing_of_what_was_sent(prepare: Prepare, pool: str, failure: str) -> None:
    """Chunked: all pieces so far, no last chunk, and an orderly end; the client reads only after the failure."""
    service = prepare(
        pool,
        BEGIN
        + f"""
@routes.get("/fails")
def fails(request):
    def pieces():
        yield b"x" * {SENT}
        tell("failing")
        {FAILURES[failure]}
    return Response(pieces())
""",
    )
    service.expect_errors = True
    service.start("-n", "2", "-m", "2", "-t")
    with Wire(service.address, SOON) as wire:
        wire.send("GET /fails HTTP/1.1\r\nHost: test\r\n\r\n")
        service.events.wait("failing", deadline=SOON)
        assert get(service).status == 200
        service.log.wait_for("fail|on purpose|Traceback|too late|ended|left", deadline=SOON)
        data, orderly = drain(wire.socket)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"chunked" in head.lower()
    assert body.count(b"x") == SENT, f"{body.count(b'x')} of {SENT} bytes"
    assert not body.endswith(b"0\r\n\r\n"), "looks complete"
    assert orderly, "reset"


def test_failing_generator_cannot_look_complete_to_http_1_0(prepare: Prepare, pool: str) -> None:
    """Where the end of the connection is the end of the body, only a reset tells."""
    service = prepare(
        pool,
        BEGIN
        + """
@routes.get("/fails")
def fails(request):
    def pieces():
        yield b"x" * 1000
        raise ValueError("on purpose")
    return Response(pieces())
""",
    )
    service.expect_errors = True
    service.start("-n", "1", "-t")
    with Wire(service.address, SOON) as wire:
        wire.send("GET /fails HTTP/1.0\r\n\r\n")
        _, orderly = drain(wire.socket)
    assert not orderly


# -- the end: `finally` and close() --------------------------------------------------------------------------

ENDS = """
@routes.get("/generator")
def generator(request):
    def pieces():
        try:
            while True:
                yield b"x" * 10_000
                time.sleep(0.02)
        finally:
            END
    return Response(pieces())

class Body:
    def __iter__(self):
        return self
    def __next__(self):
        time.sleep(0.02)
        return b"x" * 10_000
    def close(self):
        END

@routes.get("/object")
def object_(request):
    return Response(Body())

class Failing(Body):
    def __next__(self):
        raise ValueError("on purpose")

@routes.get("/failing")
def failing(request):
    return Response(Failing())

class Complete(Body):
    def __iter__(self):
        return iter([b"x"] * 3)

@routes.get("/complete")
def complete(request):
    return Response(Complete())
"""
# How the end is reached: the client leaves, or the body does it.
PATHS = ["/generator", "/object", "/failing", "/complete"]


@pytest.mark.parametrize("path", PATHS)
def test_blocking_end_of_a_body_holds_nobody_up(prepare: Prepare, pool: str, path: str) -> None:
    """User code like a handler: while it waits, the other worker serves all connections."""
    service = prepare(pool, BEGIN + ENDS.replace("END", 'gate("gate:end")'))
    service.expect_errors = True
    service.start("-n", "3", "-m", "3", "-t")
    with parked(service, 12) as others, Wire(service.address, SOON) as wire:
        wire.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
        if path in ("/generator", "/object"):
            assert wire.socket.recv(100).startswith(b"HTTP/1.1 200")
            wire.close()
        (arrival,) = service.events.wait("gate:end")
        began = time.monotonic()
        assert lost(others) == 0, "others got nothing while the end of a body was blocked"
        assert get(service).status == 200
        print(f"12 others served in {time.monotonic() - began:.3f} s")
        arrival.release()


ERRORS = {
    "exception": 'raise ValueError("on purpose")',
    "exit": "sys.exit(3)",
    "cancelled": 'raise __import__("asyncio").CancelledError',
    "interrupt": "raise KeyboardInterrupt",
    "base exception": 'raise BaseException("on purpose")',
}


@pytest.mark.parametrize("error", ERRORS)
def test_failing_end_of_a_body_harms_nobody(prepare: Prepare, pool: str, error: str) -> None:
    """Guarded like a handler: logged, and no connection of others ends."""
    service = prepare(pool, BEGIN + ENDS.replace("END", ERRORS[error]))
    service.expect_errors = True
    service.start("-n", "2", "-m", "2", "-t")
    harm = {}
    for path in PATHS:
        mark = service.log.mark()
        with parked(service, 8) as others, Wire(service.address, SOON) as wire:
            wire.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
            if path in ("/generator", "/object"):
                assert wire.socket.recv(100).startswith(b"HTTP/1.1 200")
            else:
                drain(wire.socket) if path == "/failing" else wire.answer()
            wire.close()
            service.log.wait_for("on purpose|Traceback|fail|exit", after=mark, deadline=SOON)
            if ended := lost(others):
                harm[path] = f"{ended} of 8 others lost"
        service.wait_workers(2)
    assert not harm, harm


def test_worker_fail_at_the_end_of_a_body_hands_over_the_others(prepare: Prepare, pool: str) -> None:
    """worker.fail() is a wish to leave: as from a handler, the worker leaves when its connections are elsewhere."""
    service = prepare(
        pool,
        BEGIN
        + """
@routes.get("/fails")
def fails(request):
    def pieces():
        try:
            while True:
                yield b"x" * 10_000
                time.sleep(0.02)
        finally:
            request.worker.fail("on purpose")
    return Response(pieces())
""",
    )
    service.expect_errors = True
    service.start("-n", "2", "-m", "2", "-t")
    with parked(service, 8) as others, Wire(service.address, SOON) as wire:
        wire.send("GET /fails HTTP/1.1\r\nHost: test\r\n\r\n")
        assert wire.socket.recv(100).startswith(b"HTTP/1.1 200")
        wire.close()
        service.log.wait_for("on purpose", deadline=SOON)
        assert lost(others) == 0
    service.log.wait_for("on purpose", deadline=SOON)
    assert get(service).status == 200


# -- threads and context ----------------------------------------------------------------------------------

THREADS = """
import contextvars, sqlite3

seen = contextvars.ContextVar("seen", default="unset")

def worker_init(worker):
    worker.db = sqlite3.connect(":memory:")
    worker.busy = False

@routes.get("/stream")
def stream(request):
    seen.set(request.query["name"])
    def pieces():
        for number in range(12):
            worker = request.worker
            wrong = []
            if worker.busy:
                wrong.append("the worker object is in use")
            worker.busy = True
            try:
                worker.db.execute("select 1").fetchone()
            except Exception as error:
                wrong.append(str(error))
            if number and seen.get() != request.query["name"] + str(number - 1):
                wrong.append("context lost: " + seen.get())
            if not number and seen.get() != request.query["name"]:
                wrong.append("the handler's context is not seen: " + seen.get())
            seen.set(request.query["name"] + str(number))
            time.sleep(0.01)
            worker.busy = False
            yield f"{threading.get_ident()} {'; '.join(wrong) or 'well'}\\n"
            yield b" " * 100_000  # more than the kernel takes at once
    return Response(pieces())
"""


def test_stream_runs_on_one_thread_in_one_context(prepare: Prepare, pool: str) -> None:
    """Eight streams at once, whose clients read by and by: each has its thread, its worker object, its context."""
    service = prepare(pool, BEGIN + THREADS)
    service.start("-n", "4", "-m", "8", "-t")
    pause = threading.Event()

    def client(name: str) -> list[str]:
        with Wire(service.address) as wire:
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            wire.send(f"GET /stream?name={name} HTTP/1.1\r\nHost: test\r\n\r\n")
            for _ in range(5):
                pause.wait(0.03)
                wire.socket.recv(1, socket.MSG_PEEK)
            return wire.answer().body.decode().split()

    streams = [Background(lambda name=name: client(name)) for name in "abcdefgh"]  # type: ignore[misc]
    texts = [" ".join(one.result(60)) for one in streams]
    threads = [len({word for word in text.split() if word.isdigit() and len(word) > 6}) for text in texts]
    wrong = {text for text in texts if text.count("well") != 12}
    assert not wrong, f"{len(wrong)} of 8 streams: {sorted(wrong)[0][:300]}"
    assert threads == [1] * 8, f"threads of each stream: {threads}"


# -- fairness ----------------------------------------------------------------------------------------------

FAIR = """
@routes.get("/fast")
def fast(request):
    def pieces():
        while True:
            yield b"x" * 1000
    return Response(pieces())

@routes.get("/sleepy")
def sleepy(request):
    def pieces():
        while True:
            time.sleep(0.002)
            yield b"x" * 1000
    return Response(pieces())

@routes.get("/asleep")
def asleep(request):
    def pieces():
        while True:
            time.sleep(0.05)
            yield b"x" * 1000
    return Response(pieces())

@routes.get("/burning")
def burning(request):
    def pieces():
        while True:
            end = time.monotonic() + 0.02
            while time.monotonic() < end:
                pass
            yield b"x" * 1000
    return Response(pieces())
"""


@pytest.mark.parametrize("path", ["/fast", "/sleepy", "/asleep", "/burning"])
def test_streams_share_the_workers(prepare: Prepare, pool: str, path: str) -> None:
    """Three endless streams on two workers, for 6 s: none is silent for 4 s, nor waits a GET as long."""
    service = prepare(pool, BEGIN + FAIR)
    service.start("-n", "2", "-m", "2", "-t")
    end = time.monotonic() + 6
    pieces = [0, 0, 0]

    def read(number: int) -> float:
        """The longest silence."""
        longest = 0.0
        with Wire(service.address, 15) as wire:
            last = time.monotonic()
            wire.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
            while time.monotonic() < end:
                try:
                    assert wire.socket.recv(20_000)
                except TimeoutError:
                    return 15.0
                pieces[number] += 1
                longest = max(longest, time.monotonic() - last)
                last = time.monotonic()
        return longest

    with ExitStack():
        readers = [Background(lambda number=number: read(number)) for number in range(3)]  # type: ignore[misc]
        eventually(lambda: sum(pieces) > 10, "some are streaming")
        waits = []
        while time.monotonic() < end:
            began = time.monotonic()
            with suppress(TimeoutError):
                assert get(service, deadline=15).status == 200
            waits.append(time.monotonic() - began)
            threading.Event().wait(0.1)
        silences = [reader.result(40) for reader in readers]
    print(f"silences {[f'{one:.2f}' for one in silences]}, GET {max(waits):.2f}, pieces {pieces}")
    assert max(silences) < 4, silences
    assert max(waits) < 4, max(waits)


def test_other_work_goes_on_in_the_process_that_streams(prepare: Prepare) -> None:
    """Prefork, one worker, a stream without pauses: parked connections of the same worker are served."""
    service = prepare("prefork", BEGIN + FAIR)
    service.start("-n", "1", "-m", "1", "-t")
    before = members(service)
    stop = threading.Event()

    def read() -> None:
        with Wire(service.address, SOON) as wire:
            wire.send("GET /fast HTTP/1.1\r\nHost: test\r\n\r\n")
            while not stop.is_set():
                assert wire.socket.recv(100_000)

    with parked(service, 8) as others:
        reader = Background(read)
        try:
            for _ in range(5):
                assert lost(others) == 0
        finally:
            stop.set()
        reader.result()
    assert members(service) == before
