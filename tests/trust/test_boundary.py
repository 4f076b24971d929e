"""Whatever a handler's result raises in the loop ends its own connection, and neither the worker nor any other."""

from __future__ import annotations

import textwrap

import pytest
from harness import Wire
from trust_client import BEGIN, SOON, Prepare, lost, members, parked
from watched import Watched

HANDLERS = (
    BEGIN
    + """
import asyncio, io, tempfile

CASES = {}

def case(function):
    CASES[function.__name__] = function
    return function

class Body:
    'A body of pieces, whose parts misbehave as its subclasses say.'
    def __iter__(self):
        return iter([b"piece"])

@routes.get("/case/{name}")
def run(request):
    return CASES[request.params["name"]]()
"""
)

# Each of these functions is a handler: by its name, so that one service meets all of a group.
GROUPS = {
    "headers": """
        def a_string(): return Response("x", headers="X: 1")
        def strings(): return Response("x", headers=["X: 1"])
        def a_tuple_of_one(): return Response("x", headers=[("X",)])
        def a_tuple_of_three(): return Response("x", headers=[("X", "1", "2")])
        def numbers(): return Response("x", headers=[(1, 2)])
        def a_number(): return Response("x", headers={"X": 1})
        def octets(): return Response("x", headers={b"X": b"1"})
        def nothing(): return Response("x", headers={"X": None})
        def an_int(): return Response("x", headers=5)
        def injected(): return Response("x", headers={"X": "a\\r\\nY: b"})
        def ours(): return Response("x", headers={"Content-Length": "5"})
        def beyond_latin(): return Response("x", headers={"X": "\\u65e5"})
        def set_later():
            response = Response("x")
            response.headers = None
            return response
        def appended():
            response = Response("x")
            response.headers.append("X: 1")
            return response
        def type_of_octets(): return Response("x", content_type=b"text/plain")
        def type_injected(): return Response("x", content_type="a\\r\\nb: c")
        def type_beyond_latin(): return Response("x", content_type="\\u65e5")
        def streamed(): return Response(iter([b"x"]), headers=["X: 1"])
    """,
    "status": """
        def text(): return Response("x", status="200")
        def nothing(): return Response("x", status=None)
        def early(): return Response("x", status=100)
        def beyond(): return Response("x", status=600)
        def negative(): return Response("x", status=-1)
        def huge(): return Response("x", status=10**30)
        def fraction(): return Response("x", status=200.5)
        def error_of_text(): raise HTTPError("404")
        def error_of_99(): raise HTTPError(99)
        def error_of_nothing(): raise HTTPError(None)
        def error_with_headers(): raise HTTPError(404, "x", ["X: 1"])
        def error_with_number(): raise HTTPError(404, 17)
        def error_injected(): raise HTTPError(404, "x", {"X": "a\\r\\nb"})
        def error_with_surrogate(): raise HTTPError(404, "\\ud800")
    """,
    "bodies": """
        def number(): return Response(5)
        def nothing(): return Response(None)
        def mapping(): return Response({"a": 1})
        def surrogate(): return Response("\\ud800")
        def surrogate_alone(): return "\\ud800"
        def surrogate_json(): return {"a": "\\ud800"}
        def surrogate_piece(): return Response(iter(["\\ud800"]))
        def pieces_of_numbers(): return Response(iter([1, 2]))
        def iter_raises():
            class One(Body):
                def __iter__(self): raise ValueError("on purpose")
            return Response(One())
        def iter_exits():
            class One(Body):
                def __iter__(self): raise SystemExit(3)
            return Response(One())
        def iter_cancelled():
            class One(Body):
                def __iter__(self): raise asyncio.CancelledError
            return Response(One())
        def read_raises():
            class One(Body):
                def read(self, size): raise OSError("on purpose")
            return Response(One())
        def attributes_raise():
            class One(Body):
                def __getattr__(self, name): raise RuntimeError("on purpose")
            return Response(One())
        def raw_raises():
            class One(Body):
                @property
                def raw(self): raise RuntimeError("on purpose")
            return Response(One())
        def length_raises():
            class One(bytes):
                def __len__(self): raise RuntimeError("on purpose")
            return Response(One(b"abc"))
        def next_exits():
            def pieces():
                yield b"x"
                raise SystemExit(3)
            return Response(pieces())
        def next_interrupts():
            def pieces():
                yield b"x"
                raise KeyboardInterrupt
            return Response(pieces())
        def subclass():
            class One(Response):
                @property
                def body(self): raise RuntimeError("on purpose")
                @body.setter
                def body(self, value): pass
            return One("x")
        def incomplete(): return Response.__new__(Response)
    """,
    "files": """
        def make():
            file = tempfile.TemporaryFile()
            file.write(b"x" * 3_000_000)
            file.seek(0)
            return file
        def closed():
            file = make()
            file.close()
            return Response(file)
        def descriptor_closed():
            file = make()
            spare = os.open(os.devnull, os.O_RDONLY)
            os.dup2(spare, file.fileno())
            os.close(spare)
            return Response(file)
        def closed_later():
            file = make()
            threading.Timer(0.05, file.close).start()
            return Response(file)
        def text(): return Response(open(__file__))
        def write_only(): return Response(open(os.devnull, "wb"))
        def directory():
            return Response(os.fdopen(os.open("/", os.O_RDONLY), "rb"))
        def tell_raises():
            class One(io.FileIO):
                def tell(self): raise RuntimeError("on purpose")
            return Response(One(__file__))
        def fileno_raises():
            class One(io.FileIO):
                def fileno(self): raise RuntimeError("on purpose")
            return Response(One(__file__))
    """,
    "closing": """
        def closing(error):
            class One(Body):
                def close(self): raise error
            return Response(One())
        def value_error(): return closing(ValueError("on purpose"))
        def exits(): return closing(SystemExit(3))
        def interrupts(): return closing(KeyboardInterrupt())
        def cancelled(): return closing(asyncio.CancelledError())
        def base(): return closing(BaseException("on purpose"))
        def no_function():
            class One(Body):
                close = 5
            return Response(One())
        def generator_exits():
            def pieces():
                try:
                    yield b"x"
                finally:
                    sys.exit(3)
            return Response(pieces())
        def ignores_the_end():
            def pieces():
                while True:
                    try:
                        yield b"x" * 100_000
                    except GeneratorExit:
                        yield b"more"
            return Response(pieces())
    """,
}


def functions(group: str) -> list[str]:
    """The names of the handlers of a group."""
    names = [line.split("def ")[1].split("(")[0] for line in textwrap.dedent(GROUPS[group]).splitlines() if
             line.startswith("def ") and "()" in line]  # fmt: skip
    return [name for name in names if name != "make"]


def outcome(service: Watched, name: str, fields: str) -> str:
    """What a client gets who asks for this, and leaves after a while."""
    with Wire(service.address, SOON) as wire:
        try:
            wire.send(f"GET /case/{name} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
            line = wire.socket.recv(15)
        except TimeoutError:
            return "hangs"
        except ConnectionResetError:
            return "reset"
        return line[9:12].decode() if line else "closed"


@pytest.mark.parametrize("fields", ["", "X-Request-ID: abc-123\r\n"], ids=["plain", "with an id"])
@pytest.mark.parametrize("group", GROUPS)
def test_failing_result_ends_its_own_connection_alone(prepare: Prepare, pool: str, group: str, fields: str) -> None:
    names = functions(group)
    # Decorated by hand: the functions that take an argument are helpers.
    service = prepare(
        pool, HANDLERS + textwrap.dedent(GROUPS[group]) + "".join(f"\ncase({name})" for name in names) + "\n"
    )
    service.expect_errors = True
    service.start("-n", "2", "-m", "2", "-t")
    harm: dict[str, str] = {}
    for name in names:
        before = members(service)
        with parked(service, 8) as others:
            got = outcome(service, name, fields)
            ended = lost(others)
        found = [*(["client hangs"] if got == "hangs" else []), *([f"{ended} of 8 others lost"] if ended else [])]
        if members(service) != before:
            if "exits" not in name:  # as from a handler: the worker leaves in order, and another comes
                found.append("a process ended")
            service.wait_workers(2)
        if found:
            harm[name] = f"{', '.join(found)}; client: {got}"
    said = "\n".join(f"{name}: {what}" for name, what in harm.items())
    assert not harm, f"{len(harm)} of {len(names)}:\n{said}"


def test_file_closed_by_another_response(prepare: Prepare, pool: str) -> None:
    """Two responses share one file object: the first that ends closes it under the other, which is still being sent."""
    service = prepare(
        pool,
        BEGIN
        + """
import tempfile
shared = {}

@routes.get("/file")
def file(request):
    if os.getpid() not in shared:
        shared[os.getpid()] = tempfile.TemporaryFile()
        shared[os.getpid()].write(b"x" * 20_000_000)
        shared[os.getpid()].flush()
    shared[os.getpid()].seek(0)
    return Response(shared[os.getpid()])
""",
    )
    service.expect_errors = True
    service.start("-n", "1", "-m", "1", "-t")
    before = members(service)
    with parked(service, 8) as others, Wire(service.address, SOON) as slow, Wire(service.address, SOON) as fast:
        slow.send("GET /file HTTP/1.1\r\nHost: test\r\n\r\n")
        assert slow.socket.recv(15)[9:12] == b"200"
        fast.send("GET /file HTTP/1.1\r\nHost: test\r\n\r\n")
        assert len(fast.answer().body) == 20_000_000
        try:
            slow.socket.settimeout(SOON)
            while slow.socket.recv(1_000_000):
                pass
        except ConnectionResetError:
            pass
        assert lost(others) == 0
    assert members(service) == before
    service.log.wait_for("Traceback", deadline=SOON)
