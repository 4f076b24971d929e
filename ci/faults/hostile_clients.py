"""The rows of the matrix's table *Hostile clients*: lines A of issue 18, and of B what a client does."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import psutil
from beside import Case, Row, Rows, adding
from harness import Wire
from load.crowd import Crowd, Kind
from target import PACKAGE, PYTHON, Target, eventually
from trust_process import refuse

ROWS: Rows = []
row = partial(adding, ROWS)

WORKERS = ("-n", "4", "-m", "4")
LARGE = 65537  # a byte more than a connection keeps in memory
CHUNK = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
HANDLERS = """
import tempfile
from .runtime.http import Response

@routes.post("/count")
def count(request):
    return str(len(request.body))

@routes.post("/slow-count")
def slow_count(request):
    time.sleep(0.03)
    return str(len(request.body))

@routes.post("/read")
def read(request):
    total = 0
    while piece := request.read(65536):
        total += len(piece)
    return str(total)

@routes.get("/big")
def big(request):
    return b"x" * 3_000_000
"""

STREAMING = (
    HANDLERS
    + """
@routes.post("/stream", stream=True)
def stream(request):
    return read(request)
"""
)


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: test", *fields, "", ""]).encode()


def post(fields: str, path: str = "/count") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n\r\n".encode()


# ---- A1: bodies -----------------------------------------------------------------------------------------------------

SLOW_BODIES = {
    f"nothing of a body of {LARGE} bytes": Kind(post(f"Content-Length: {LARGE}")),
    "a body of 65,536 bytes, one short": Kind(post("Content-Length: 65536") + b"x" * 65535),
    "a body of 1 MB, byte by byte": Kind(post("Content-Length: 1000000"), b"x", 0.2),
    "a body of 1 MB, of which 100 KB come": Kind(post("Content-Length: 1000000") + b"x" * 100_000),
    "Expect: 100-continue, then nothing of 10 bytes": Kind(post("Content-Length: 10\r\nExpect: 100-continue")),
    "Expect: 100-continue, then byte by byte": Kind(
        post(f"Content-Length: {LARGE}\r\nExpect: 100-continue"), b"x", 0.2
    ),
    "chunks of a byte, without an end": Kind(post("Transfer-Encoding: chunked"), b"1\r\nx\r\n", 0.2),
    "160 KB in chunks, the trailers never end": Kind(post("Transfer-Encoding: chunked") + CHUNK * 5 + b"0\r\n"),
    "a body that stalls, on a route that is slow": Kind(post(f"Content-Length: {LARGE}", "/slow-count") + b"x" * 100),
    "a body that stalls, read in pieces": Kind(post(f"Content-Length: {LARGE}", "/read") + b"x" * 100),
    "a body that stalls, on a route that streams": Kind(post(f"Content-Length: {LARGE}", "/stream") + b"x" * 100),
    "a body byte by byte, on a route that streams": Kind(post("Content-Length: 1000000", "/stream"), b"x", 0.2),
}


def slow_bodies(kind: Kind) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        case.start(STREAMING, *WORKERS, "--body-timeout", "2")
        for path in ("/count", "/slow-count", "/read", "/stream"):
            with Wire(("127.0.0.1", case.target.port)) as wire:
                assert wire.send(post("Content-Length: 3", path) + b"abc").answer().status == 200
        with case.others() as load, case.crowd(60, kind) as crowd:
            case.hold(load)
            # On a route that streams some are read at a time, and the others wait for them.
            crowd.until("408", 2 if b"/stream" in kind.first else 60)

    return run


for _does, _kind in SLOW_BODIES.items():
    ROWS.append(Row("A1", f"60 send {_does}", slow_bodies(_kind), short=_does == "a body of 1 MB, byte by byte"))


@row("A1", "60 pour chunks beyond --max-body")
def endless_body(case: Case) -> None:
    case.start(HANDLERS, *WORKERS, "--max-body", "200000")
    with case.others() as load, case.crowd(60, Kind(post("Transfer-Encoding: chunked") + CHUNK * 8, CHUNK, 0.1)):
        case.hold(load)
    assert sum(case.told.values()), "it refused none of them"


def upload(path: str) -> Callable[[Case], None]:
    """A file larger than all memory that it may take."""

    def run(case: Case) -> None:
        size = 10_000_000 if case.short else 1_000_000_000
        case.start(STREAMING, *WORKERS, "--max-body", "0")
        with case.others(), Wire(("127.0.0.1", case.target.port), 60) as wire:
            wire.send(post(f"Content-Length: {size}", path))
            for _ in range(size // 1_000_000):
                wire.send(b"x" * 1_000_000)
            assert wire.answer().body == str(size).encode()

    return run


for _path, _does in {"/read": "in pieces", "/stream": "as it comes, on a route that streams"}.items():
    ROWS.append(Row("A1", f"one uploads 1 GB, which the handler reads {_does}", upload(_path)))


# ---- A2: all workers busy -------------------------------------------------------------------------------------------


@row("A2", "4 keep 2 workers busy for 3 s, three times --header-timeout", longer=4)
def busy_workers(case: Case) -> None:
    case.start(HANDLERS, "-n", "2", "-m", "2", *"--header-timeout 1 --keep-alive 1 --body-timeout 1".split())
    with case.others() as load, case.crowd(4, Kind(get("/slow/1.5")), insists=0) as crowd:
        crowd.until("200", 4)
        case.hold(load)
    assert not re.search("sent no request", case.target.log), "the log blames the clients"


# ---- A3: one boundary around each connection ------------------------------------------------------------------------

FAILING = (
    HANDLERS
    + """
shared = []

@routes.get("/shared")
def shared_file(request):
    if not shared:
        shared.append(tempfile.TemporaryFile())
        shared[0].write(b"x" * 20_000_000)
    shared[0].seek(0)
    return Response(shared[0])

@routes.get("/closed")
def closed(request):
    file = tempfile.TemporaryFile()
    response = Response(file)
    file.close()
    return response

@routes.get("/fields")
def fields(request):
    response = Response("x")
    response.headers = ["X: 1"]
    return response

@routes.get("/exits")
def exits(request):
    class Body:
        def __iter__(self):
            return iter([b"piece"])
        def close(self):
            raise BaseException("on purpose")
    return Response(Body())
"""
)
FAILURES = {
    "have responses share a file that the first one closes": get("/shared"),
    "are answered from a file that is closed already": get("/closed"),
    'ask for headers=["X: 1"], with X-Request-ID': get("/fields", "X-Request-ID: abc-123"),
    "ask for a body whose close() raises BaseException": get("/exits"),
}


def failures(data: bytes) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        case.start(FAILING, *WORKERS)
        members = case.target.members()
        with case.others() as load, case.crowd(10, Kind(data, data, 0.05)):
            case.hold(load)
        assert set(members) <= set(case.target.members()), "a member has ended"

    return run


for _does, _data in FAILURES.items():
    ROWS.append(Row("A3", f"10 {_does}", failures(_data), short="close()" in _does))


# ---- A4: routes -----------------------------------------------------------------------------------------------------

PATTERNS = {"/{y}-{m}-{d}/x": "-", "/{a}.{b}.{c}.{d}/x": ".", "/{a}-{b}/{c}-{d}-{e}/{f}-{g}-{h}/x": "-"}


def routes(pattern: str, unit: str) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        case.start(f"@routes.get({pattern!r})\ndef told(request):\n    return dict(request.params)\n", *WORKERS)
        path = "/" + f"{unit * 20}/" * (pattern.count("/") - 2) + unit * 6000 + "/y"
        with case.others() as load, case.crowd(10, Kind(get(path), get(path), 0.05)) as crowd:
            case.hold(load)
            crowd.until("404", 10)

    return run


for _pattern, _unit in PATTERNS.items():
    ROWS.append(Row("A4", f"10 ask for 6,000 times '{_unit}' where `{_pattern}` is a route", routes(_pattern, _unit)))


# ---- A5: memory -----------------------------------------------------------------------------------------------------

LIMIT = 256  # MiB of a control group
# A private view of the control groups, of both versions, with this limit.
GROUP = """mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/memory && echo "$0" > /sys/fs/cgroup/memory.max &&
echo "$0" > /sys/fs/cgroup/memory/memory.limit_in_bytes && exec "$@" """
HELD = {
    "a head of 60 KB and a body, a byte short": Kind(
        get("/", "X: " + "x" * 60_000, "Content-Length: 65536") + b"y" * 65_535
    ),
    "a head of 60 KB without an end": Kind(b"GET / HTTP/1.1\r\nHost: test\r\nX: " + b"x" * 60_000),
    "chunks of a byte": Kind(post("Transfer-Encoding: chunked") + b"1\r\ny\r\n" * 20_000),
    "for 3 MB each, and do not read": Kind(get("/big"), reads=False),
}


def memory(kind: Kind, count: int) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        case.start(HANDLERS, *WORKERS, "-u", "root", prefix=("unshare", "-m", "sh", "-c", GROUP, str(LIMIT << 20)))
        with case.others() as load, case.crowd(count // 4 if case.short else count, kind) as crowd:
            case.hold(load)
            eventually(lambda: crowd.told, "some are refused")
            total = sum(used(pid) for pid in case.target.tree())
        assert total < 0.9 * LIMIT, f"{total:.0f} MiB in a group of {LIMIT}"
        # Of a client that does not read, the beginning of its response is counted when it is reset.
        assert set(case.told) <= {"503", "408", "closed", "reset", *(() if kind.reads else ("200",))}, case.told

    return run


def used(pid: int) -> float:
    """MiB, of shared pages the process's share."""
    with suppress(psutil.Error):
        return float(psutil.Process(pid).memory_full_info().pss) / 2**20
    return 0.0


for _does, _kind in HELD.items():
    _count = 1600 if _kind.reads else 100
    _verb = "send" if _kind.reads else "ask"
    ROWS.append(Row("A5", f"{_count:,} {_verb} {_does}; the control group has {LIMIT} MiB", memory(_kind, _count),
                    root=True, short="a head of 60 KB" in _does))  # fmt: skip


# ---- A6: connections ------------------------------------------------------------------------------------------------

IDLE = {"after an answer": Kind(get("/number/0")), "without a byte": Kind(b""), "after an empty line": Kind(b"\r\n")}


def idle(kind: Kind) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        case.start(HANDLERS, *WORKERS, "--max-connections", "40", "--header-timeout", "60")
        with case.others() as load, case.crowd(60, kind):
            case.hold(load)

    return run


for _does, _kind in IDLE.items():
    ROWS.append(Row("A6", f"60 idle connections {_does}, where --max-connections is 40", idle(_kind)))


# ---- A7: values -----------------------------------------------------------------------------------------------------

VALUES = """
from .runtime.http import Response
from urllib.parse import unquote

def init(server):
    global heat
    heat = server.gauge("heat", "How hot it is.")

@routes.get("/heat/{value}")
def hot(request):
    heat.set(float(request.params["value"]))
    return "set"

@routes.get("/field/{value}")
def field(request):
    return Response("", headers={"X-Value": request.params["value"]})

@routes.get("/status/{value}")
def status(request):
    return Response("", status=int(request.params["value"]))
"""
SPOILING = {
    "have a gauge set to NaN and Infinity": ("/heat/nan", "/heat/inf", "/heat/-inf", "/heat/1e999"),
    "have a response's field hold what no field can": ("/field/a%0d%0aB:%20c", "/field/%E6%97%A5", "/field/%00"),
    "have a response's status be none": ("/status/99", "/status/-1", "/status/1000000000000"),
}


def values(paths: tuple[str, ...]) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        case.start(VALUES, *WORKERS)
        members = case.target.members()
        kinds = [Kind(get(path), get(path), 0.05) for path in paths]
        with case.others() as load, case.crowd(8, *kinds) as crowd:
            case.hold(load)
            crowd.until("500", 8)
        host, port = case.admin
        with urllib.request.urlopen(f"http://{host}:{port}/status", timeout=10) as page:
            json.loads(page.read(), parse_constant=refuse)
        assert set(members) <= set(case.target.members()), "a member has ended"

    return run


for _does, _paths in SPOILING.items():
    ROWS.append(Row("A7", f"8 {_does}", values(_paths)))


@row("A7", "--name 日本")
def name(case: Case) -> None:
    """Found at the start, not by each worker as it dies."""
    done = checked(case.target, "--name", "日本")
    assert done.returncode == 2 and "--name" in done.stderr, done
    case.told[f"exit {done.returncode}"] += 1


def checked(target: Target, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PYTHON, "-m", PACKAGE, "--check", *flags], env=target.environment, cwd=target.directory,
                          capture_output=True, text=True, timeout=30)  # fmt: skip


# ---- B8: the admin address ------------------------------------------------------------------------------------------


@row("B8", "asks the admin address under a name of its own (DNS rebinding)")
def rebinding(case: Case) -> None:
    case.start("", *WORKERS)
    with case.others() as load:
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example"):
            for path in ("/", "/status", "/metrics"):
                with Wire(case.admin) as wire:
                    status = wire.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").answer().status
                assert status in (400, 403, 421), f"{host} reads {path}: {status}"
                case.told[str(status)] += 1
        case.hold(load)


@row("B8", "500 hold the admin address, and ask nothing")
def admin_held(case: Case) -> None:
    case.start("", *WORKERS)
    with case.others() as load, Crowd(case.admin[1], 500, Kind(b"GET /"), insists=0.1) as crowd:
        case.hold(load)
    case.told += crowd.told
