"""The access log: every request once, by a strict grammar; ids: taken over, made, returned, on the right lines."""

from __future__ import annotations

import re
import signal
import socket
from functools import partial
from pathlib import Path

import pytest
from harness import Background, eventually
from said import COMBINED, HOSTILE, RECORD, TALKING, Make, Said, ask, ask_much, numbers, send_hostile, validated

FORMATS = pytest.mark.parametrize("form", ["combined", "json"])
BATCH = 32768  # bytes: what a killed worker may lose


def reload(service: Said, generation: int) -> None:
    service.signal(signal.SIGHUP)
    service.wait_ready(generation)


@FORMATS
def test_each_request_once(make: Make, pool: str, form: str) -> None:
    """By several clients on connections that are kept alive, across a reload."""
    service = make(pool)
    service.start("-n", "2", "--access-log", form)
    asking = Background(lambda: ask_much(service.address, 4000))
    eventually(lambda: len(service.requests()) > 500, "500 requests")
    reload(service, 2)
    asking.result(60)
    service.stop()
    service.out.wait_closed()
    lines = service.requests()
    assert service.out.lines == lines, "nothing else is there"
    assert sorted(numbers(lines)) == list(range(4000))
    if form == "json":
        assert all(validated(line)["status"] == 200 for line in lines)


@FORMATS
def test_a_killed_worker_loses_a_batch_at_most(make: Make, pool: str, form: str) -> None:
    service = make(pool)
    service.expect_errors = True
    service.start("-n", "1", "-m", "1", "--access-log", form)
    (worker,) = service.wait_workers(1)
    assert ask(service.address, 0, 1000) == 1000
    service.signal(signal.SIGKILL, worker)
    eventually(lambda: service.workers not in ([], [worker]), "another worker")
    assert service.get("/number/1000").status_code == 200
    service.stop()
    service.out.wait_closed()
    lines = service.requests()
    known = numbers(lines)
    shortest = min(map(len, lines)) + 1
    assert known[:-1] == list(range(len(known) - 1))
    assert known[-1] == 1000
    assert len(known) >= 1000 - BATCH // shortest


def test_a_batch_does_not_wait(make: Make, pool: str) -> None:
    """One request is seen soon, on a connection that stays and on one that goes."""
    service = make(pool)
    service.start("-n", "1", "--access-log", "combined")
    service.get("/number/1")
    service.wait_requests(1)
    with socket.create_connection(service.address):
        wire = service.wire()
        wire.get("/number/2")
        service.wait_requests(2)


def test_off(make: Make, pool: str) -> None:
    service = make(pool)
    service.start("-n", "1")
    service.get()
    service.stop()
    service.out.wait_closed()
    assert service.out.lines == []


STATUSES = (
    ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1", 200, 5),
    ("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HEAD / HTTP/1.1", 200, 0),
    ("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0", 200, 5),
    ("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", "POST /echo HTTP/1.1", 200, 3),
    ("GET /none?a=b HTTP/1.1\r\nHost: x\r\n\r\n", "GET /none?a=b HTTP/1.1", 404, 14),
    ("DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", "DELETE / HTTP/1.1", 405, 23),
    ("GET /bug/x HTTP/1.1\r\nHost: x\r\n\r\n", "GET /bug/x HTTP/1.1", 500, 53),
    ("GET /generate HTTP/1.0\r\n\r\n", "GET /generate HTTP/1.0", 200, 10),
    ("GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "GET /file HTTP/1.1", 200, 100000),
    ("nonsense\r\n\r\n", None, 400, None),
    ("GET / HTTP/1.1\r\n\r\n", None, 400, None),
    ("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", "POST /echo HTTP/1.1", 413, None),
)  # fmt: skip
FILE = (
    TALKING
    + """
@routes.get("/file")
def file(request):
    return Response.file("{path}")
"""
)


@FORMATS
def test_what_a_line_says(make: Make, pool: str, form: str, tmp_path: Path) -> None:
    service = make(pool)
    large = service.directory / "large"
    large.write_bytes(bytes(100000))
    service.handlers(FILE.replace("{path}", str(large)))
    service.expect_errors = True
    service.start("-n", "1", "--access-log", form)
    for number, (request, line, status, size) in enumerate(STATUSES):
        with service.wire().socket as sock:
            sock.sendall(request.encode())
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                continue
        said = service.wait_requests(number + 1)[-1]
        if form == "json":
            found = validated(said)
            shown = f"{found['method']} {found['target']} HTTP/{found['version']}" if "method" in found else None
            assert (found["client"], found["status"], shown) == ("127.0.0.1", status, line)
            sent = found["sent"]
        else:
            match = COMBINED.fullmatch(said)
            assert match, said
            assert (match["client"], match["status"], match["request"]) == ("127.0.0.1", str(status), line or "-")
            sent = int(match["sent"])
        assert sent == size or size is None


@FORMATS
def test_a_client_that_leaves(make: Make, pool: str, form: str) -> None:
    """Before the answer it is 499; in the middle, the answer's status and what was sent."""
    endless = (
        TALKING
        + "\n@routes.get('/endless')\ndef endless(request):\n    return Response(b'x' * 9999 for _ in iter(int, 1))\n"
    )
    service = make(pool, handlers=endless)
    service.start("-n", "1", "--access-log", form)
    with service.wire().socket as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100000)
    service.wait_requests(1)
    with service.wire().socket as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 999\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
    first, second = service.wait_requests(2)
    if form == "json":
        assert [validated(first)["status"], validated(second)["status"]] == [200, 499]
        assert validated(first)["sent"] > 9999
    else:
        assert [COMBINED.fullmatch(one)["status"] for one in (first, second)] == ["200", "499"]  # type: ignore[index]


@FORMATS
def test_a_handler_that_is_given_up(make: Make, pool: str, form: str) -> None:
    service = make(pool, handlers=TALKING + "\n@routes.get('/hang')\ndef hang(request):\n    time.sleep(60)\n")
    service.expect_errors = True
    service.start("-n", "1", "--access-log", form, "--request-timeout", "0.5")
    assert service.get("/hang").status_code == 503
    (line,) = service.wait_requests(1)
    status = validated(line)["status"] if form == "json" else int(COMBINED.fullmatch(line)["status"])  # type: ignore[index]
    assert status == 503


@FORMATS
def test_no_line_can_be_forged(make: Make, pool: str, form: str) -> None:
    """By path, header or body; the strict grammar has to fit each line whole."""
    service = make(pool)
    service.expect_errors = True
    service.start("-n", "1", "--access-log", form)
    send_hostile(service)
    raw = b'GET /?back\\slash HTTP/1.1\r\nHost: x\r\nUser-Agent: \xff"\\\t<\r\nReferer: " 200 1\r\n\r\n'
    with service.wire().socket as sock:
        sock.sendall(raw)
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
    service.wait_requests(4 * len(HOSTILE) + 2)
    service.stop()
    service.out.wait_closed()
    assert len(service.out.lines) == 4 * len(HOSTILE) + 2
    # Workers write in any order.
    if form == "json":
        found = [validated(line) for line in service.out.lines]
        (one,) = (line for line in found if "back" in line.get("target", ""))
        assert (one["target"], one["user_agent"], one["referer"]) == ("/?back\\slash", '\xff"\\\t<', '" 200 1')
    else:
        for line in service.out.lines:
            assert COMBINED.fullmatch(line), line
        (said,) = (line for line in service.out.lines if "back" in line)
        assert said.endswith(r'''"GET /?back\\slash HTTP/1.1" 200 5 "\" 200 1" "\xff\"\\\x09<"''')


@FORMATS
@pytest.mark.parametrize("protocol", ["line", "stream"])
def test_connections_of_other_protocols(make: Make, pool: str, protocol: str, form: str) -> None:
    service = make(pool, protocol, """
        def service_line(line, stream):
            if line == b"bug":
                raise LookupError("on purpose")
            return line + b"\\n"

        def service_connection(stream):
            for line in stream:
                stream.write(service_line(line.strip(), stream))
        """)  # fmt: skip
    service.expect_errors = True
    service.start("-n", "1", "--access-log", form)
    for number, text in enumerate((b"hello\n", b"bug\n")):
        with socket.create_connection(service.address) as sock:
            sock.sendall(text)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(100):
                continue
        service.wait_requests(number + 1)
    if form == "json":
        first, second = map(validated, service.requests())
        assert (first["received"], first["sent"], first["failed"]) == (6, 6, False)
        assert (second["received"], second["sent"], second["failed"]) == (4, 0, True)
    else:
        shown = [COMBINED.fullmatch(line).group("request", "status", "sent") for line in service.requests()]  # type: ignore[union-attr]
        assert shown == [("-", "-", "6"), ("-", "500", "0")]


# -- ids --------------------------------------------------------------------------------------------------------

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("given", ["abc", "a" * 128, "4bf92f35-77b3:4da6/a3+ce=92.9d_0e~@"])
def test_a_request_id_is_taken_over(make: Make, given: str) -> None:
    service = make()
    service.start("-n", "1", "--access-log", "json")
    for path in ("/", "/none", "/say/it", "/generate"):
        assert service.get(path, headers={"X-REQUEST-ID": given}).headers["x-request-id"] == given
    assert {validated(line)["request_id"] for line in service.wait_requests(4)} == {given}
    service.log.wait_for(rf"\[{re.escape(given)}\] (heard it|in the middle)$", count=2)  # comes by another pipe


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", 'a"b', "a\\b", "a,b", "<b>", "a%0ab", "\xff", "a\tb"])
def test_a_request_id_that_will_not_do(make: Make, given: str) -> None:
    service = make()
    service.start("-n", "1")
    wire = service.wire()
    wire.send(f"GET /say/it HTTP/1.1\r\nHost: x\r\nX-Request-ID: {given}\r\n\r\n".encode("latin-1"))
    answer = wire.answer()
    made = answer.header("x-request-id")
    assert made is not None and re.fullmatch("[0-9a-f]{32}", made)
    assert answer.body.decode() == made
    service.log.wait_for(rf"worker\[\d+\] \[{made}\] heard it$")


GOOD = (
    PARENT,
    PARENT[:-2] + "00",
    PARENT[:-2] + "ff",
    "cc" + PARENT[2:],
    "cc" + PARENT[2:] + "-what-the-future-brings",
)
BAD = (
    "", "x", PARENT[:-1], PARENT + "-x", PARENT + "0", "ff" + PARENT[2:], PARENT.upper(), PARENT.replace("-", "_"),
    "00-" + "0" * 32 + PARENT[35:], PARENT[:36] + "0" * 16 + "-01", PARENT.replace("4bf9", "4bg9"),
    "cc" + PARENT[2:] + "x", f"{PARENT}, {PARENT}",
)  # fmt: skip


def test_trace_context(make: Make, pool: str) -> None:
    """https://www.w3.org/TR/trace-context/: what is valid is gone on with, anything else begins a new trace."""
    service = make(pool)
    service.start("-n", "1", "--access-log", "json")
    for given in (*GOOD, *BAD):
        answer = service.get("/", headers={"traceparent": given})
        found = re.fullmatch("00-([0-9a-f]{32})-([0-9a-f]{16})-0([01])", answer.headers["traceparent"])
        assert found, answer.headers
        assert (found[1] == PARENT[3:35]) == (given in GOOD), given
        assert found[2] != PARENT[36:52], "our part of the trace has an id of its own"
        assert found[3] == (str(int(given[53:55], 16) & 1) if given in GOOD else "0")
    fields = [validated(line) for line in service.wait_requests(len(GOOD) + len(BAD))]
    assert [one["trace_id"] == PARENT[3:35] for one in fields] == [True] * len(GOOD) + [False] * len(BAD)


def test_ids_only_for_who_asks(make: Make, pool: str) -> None:
    """A line that the handler logs is asking; with --request-id always, every request asks."""
    service = make(pool)
    service.start("-n", "1")
    assert "x-request-id" not in service.get("/").headers
    answer = service.get("/say/it")
    assert answer.headers["x-request-id"] == answer.text
    service.stop()
    other = make(pool)
    other.start("-n", "1", "--request-id", "always")
    made = [other.get("/").headers["x-request-id"] for _ in range(20)]
    assert len(set(made)) == 20


OWN = (
    TALKING
    + """
@routes.get("/own")
def own(request):
    return Response(b"", headers={"x-request-id": "mine", "Traceparent": request.traceparent})

shared = Response(b"shared")

@routes.get("/shared")
def same(request):
    return shared
"""
)


def test_the_handler_has_the_last_word(make: Make) -> None:
    service = make(handlers=OWN)
    service.start("-n", "1")
    wire = service.wire()
    answer = wire.get("/own", **{"X-Request-ID": "theirs", "traceparent": PARENT})
    assert answer.header("x-request-id") == "mine"
    assert (answer.header("traceparent") or "").startswith(PARENT[:36])
    for number in range(3):  # one Response object for all requests does not collect their ids
        assert wire.get("/shared", **{"X-Request-ID": str(number)}).header("x-request-id") == str(number)
    assert wire.get("/shared").header("x-request-id") is None


def test_lines_of_threads_do_not_mix(make: Make, pool: str) -> None:
    """Each line has the id of the request whose handler logged it, while others run."""
    service = make(pool, handlers=TALKING + """
@routes.get("/twice/{name}")
def twice(request):
    mine.info("before %s", request.params["name"])
    gate("gate")
    mine.info("after %s", request.params["name"])
    return ""
""")  # fmt: skip
    service.start("-n", "4", "-m", "8")
    answers = [Background(partial(service.get, f"/twice/{n}", headers={"X-Request-ID": f"id-{n}"})) for n in range(4)]
    for arrival in service.events.wait("gate", 4):
        arrival.release()
    for answer in answers:
        assert answer.result().status_code == 200
    service.log.wait_for("(before|after) [0-3]$", count=8)
    found = [RECORD.fullmatch(line) for line in service.log.lines]
    said = sorted((one["message"], one["id"]) for one in found if one and one["id"])
    assert said == sorted((f"{word} {n}", f"id-{n}") for word in ("before", "after") for n in range(4))


def test_lines_of_the_loop_have_no_id(make: Make) -> None:
    """What the service itself says between two requests belongs to neither."""
    service = make()
    service.start("-n", "1")
    with service.wire().socket as sock:
        sock.sendall(b"GET /say/it HTTP/1.1\r\nHost: x\r\nX-Request-ID: abc\r\n\r\n")
        assert sock.recv(1000)
        sock.sendall(b"nonsense\r\n\r\n")
        assert sock.recv(1000)
    service.log.wait_for(r"worker\[\d+\] 127\.0\.0\.1:\d+ refused: 400")


def test_combined_is_read_by_a_strict_parser() -> None:
    """The grammar of these tests refuses what it should."""
    good = '127.0.0.1 - - [21/Nov/2026:09:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "a\\"b"'
    assert COMBINED.fullmatch(good)
    for bad in (good.replace('\\"', '"'), good + " ", good.replace("200", "2x0"), good + "\n" + good):
        assert not COMBINED.fullmatch(bad)
