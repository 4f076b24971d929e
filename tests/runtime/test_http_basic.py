"""HTTP/1.1 as a client sees it: connections, bodies, methods, limits, errors."""

from __future__ import annotations

import gzip
import json
import re
import time

import pytest
from harness import HANDLERS, Answer, Service, Wire

ROUTES = f"""{HANDLERS}
@routes.get("/items/{{name}}")
def item(request):
    return {{"name": request.params["name"]}}

@routes.get("/only-get")
def only_get(request):
    return "got"

@routes.post("/both")
def both_post(request):
    return "posted"

@routes.get("/both")
def both_get(request):
    return "got"

@routes.put("/put")
def put(request):
    return Response(status=204)

@routes.get("/about")
def about(request):
    return {{
        "method": request.method,
        "path": request.path,
        "query": dict(request.query),
        "x": request.headers.get("X-Test"),
        "missing": request.headers.get("X-Missing", "default"),
        "has": "x-TEST" in request.headers,
        "peer": str(request.peer),
    }}

@routes.post("/json")
def echo_json(request):
    return Response.json({{"got": request.json()}}, status=201)

@routes.get("/kinds/bytes")
def as_bytes(request):
    return b"\\x00\\xff"

@routes.get("/kinds/str")
def as_str(request):
    return "\\u00e4\\u20ac"

@routes.get("/kinds/dict")
def as_dict(request):
    return {{"a": [1, 2, {{"b": None}}]}}

@routes.get("/kinds/response")
def as_response(request):
    return Response(b"teapot", status=418, headers={{"X-Answer": "yes"}}, content_type="text/x-tea")

@routes.get("/kinds/none")
def as_none(request):
    return None

@routes.get("/kinds/number")
def as_number(request):
    return 3

@routes.get("/kinds/bad-json")
def as_bad_json(request):
    return {{"a": object()}}

@routes.get("/raise")
def raise_error(request):
    raise LookupError("the handler's own mistake")

@routes.get("/inject")
def inject(request):
    return Response(b"x", headers={{"X-Bad": "a\\r\\nSet-Cookie: stolen=1"}})

@routes.get("/big/{{size}}")
def big(request):
    return b"x" * int(request.params["size"])

@routes.post("/length")
def length(request):
    return {{"length": len(request.body), "sum": sum(request.body)}}

@routes.post("/ignore")
def ignore(request):
    return "ignored"
"""


@pytest.fixture
def http(service: Service) -> Service:
    service.handlers(ROUTES)
    service.start("-n", "2")
    return service


def ask(service: Service, request: bytes | str, method: str = "GET") -> Answer:
    with service.wire() as wire:
        return wire.send(request).answer(method)


def refused(service: Service, request: bytes | str, *statuses: int) -> Answer:
    """Answered with one of these statuses, and then closed."""
    with service.wire() as wire:
        answer = wire.send(request).answer()
        assert answer.status in statuses, answer
        assert answer.header("connection") == "close"
        wire.assert_closed()
    return answer


# -- connections -----------------------------------------------------------------------------------------


def test_keep_alive(http: Service) -> None:
    with http.wire() as wire:
        for _ in range(50):
            answer = wire.get("/")
            assert (answer.status, answer.body) == (200, b"hello")
            assert answer.header("connection") in (None, "keep-alive")


def test_connection_close(http: Service) -> None:
    with http.wire() as wire:
        answer = wire.get("/", Connection="close")
        assert (answer.status, answer.header("connection")) == (200, "close")
        wire.assert_closed()


def test_http_1_0_closes(http: Service) -> None:
    with http.wire() as wire:
        answer = wire.send("GET / HTTP/1.0\r\n\r\n").answer()
        assert (answer.status, answer.version, answer.body) == (200, "HTTP/1.1", b"hello")
        wire.assert_closed()


def test_http_1_0_with_keep_alive(http: Service) -> None:
    with http.wire() as wire:
        for _ in range(3):
            answer = wire.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").answer()
            assert (answer.status, answer.body) == (200, b"hello")
            assert (answer.header("connection") or "").lower() == "keep-alive"


def test_pipelining_keeps_the_order(http: Service) -> None:
    with http.wire() as wire:
        wire.send("".join(f"GET /items/{n} HTTP/1.1\r\nHost: test\r\n\r\n" for n in range(100)))
        for n in range(100):
            assert wire.answer().json() == {"name": str(n)}


def test_pipelining_with_bodies(http: Service) -> None:
    with http.wire() as wire:
        wire.send(
            "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\none"
            "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n"
            "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
            "GET /raise HTTP/1.1\r\nHost: test\r\n\r\n"
        )
        assert [wire.answer().body for _ in range(3)] == [b"one", b"two", b"hello"]
        wire.assert_closed()  # what follows a close is not answered


def test_pipelining_behind_a_slow_one_keeps_the_order(http: Service) -> None:
    with http.wire() as wire:
        wire.send("GET /gate HTTP/1.1\r\nHost: test\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n")
        http.events.wait("gate")[0].release()
        assert [wire.answer().body for _ in range(2)] == [b"released", b"hello"]


def test_a_request_byte_by_byte(http: Service) -> None:
    with http.wire() as wire:
        for byte in b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nabcd":
            wire.send(bytes([byte]))
        assert wire.answer().body == b"abcd"


def test_empty_lines_before_a_request(http: Service) -> None:
    assert ask(http, "\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n").status == 200


def test_many_connections(http: Service) -> None:
    wires = [http.wire() for _ in range(200)]
    for _ in range(3):
        for wire in wires:
            wire.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        for wire in wires:
            assert wire.answer().body == b"hello"
    for wire in wires:
        wire.close()


def test_half_closed_client_gets_its_answer(http: Service) -> None:
    with http.wire() as wire:
        wire.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        wire.socket.shutdown(1)
        assert wire.answer().body == b"hello"
        wire.assert_closed()


# -- bodies --------------------------------------------------------------------------------------------------

SIZES = [0, 1, 65535, 65536, 65537, 300_000, 1_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_content_length_body(http: Service, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"\1" * (size % 256)
    with http.wire() as wire:
        for _ in range(2):
            wire.send(f"POST /length HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n")
            assert wire.send(body).answer().json() == {"length": size, "sum": sum(body)}


@pytest.mark.parametrize("size", SIZES)
def test_chunked_body(http: Service, size: int) -> None:
    body = b"ab" * (size // 2) + b"c" * (size % 2)
    chunks = [body[at : at + 10_000] for at in range(0, size, 10_000)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    with http.wire() as wire:
        for _ in range(2):
            wire.send("POST /length HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert wire.send(coded).answer().json() == {"length": size, "sum": sum(body)}


def test_chunks_with_extensions_and_trailers(http: Service) -> None:
    with http.wire() as wire:
        wire.send(
            "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
            '5;name=value;other="quoted"\r\nhello\r\n0\r\nX-Trailer: yes\r\n\r\n'
        )
        assert wire.answer().body == b"hello"
        assert wire.get("/").body == b"hello"


@pytest.mark.parametrize("size", [10, 70_000, 1_000_000])
def test_body_that_the_handler_ignores(http: Service, size: int) -> None:
    """It is read away, or the connection says that it closes; it is never taken for the next request."""
    body = "GET /pid HTTP/1.1\r\nHost: test\r\n\r\n" * (size // 33 + 1)
    with http.wire() as wire:
        wire.send(f"POST /ignore HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n{body[:size]}")
        answer = wire.answer()
        assert answer.body == b"ignored"
        if answer.header("connection") == "close":
            wire.assert_closed()
        else:
            assert wire.get("/").body == b"hello"


def test_expect_100_continue(http: Service) -> None:
    with http.wire() as wire:
        wire.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert wire.answer().status == 100
        assert wire.send("hi").answer().body == b"hi"
        assert wire.get("/").body == b"hello"


@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
def test_response_bodies(http: Service, size: int) -> None:
    with http.wire() as wire:
        for _ in range(2):
            answer = wire.get(f"/big/{size}")
            assert answer.header("content-length") == str(size)
            assert answer.body == b"x" * size


def test_compressed_request_is_passed_as_it_is(http: Service) -> None:
    data = gzip.compress(b"hello")
    answer = http.post("/echo", content=data, headers={"content-encoding": "gzip"})
    assert answer.content == data


# -- methods and routes --------------------------------------------------------------------------------------


def test_head(http: Service) -> None:
    with http.wire() as wire:
        for path, length in (("/", 5), ("/big/100000", 100_000)):
            answer = wire.send(f"HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n").answer("HEAD")
            assert (answer.status, answer.header("content-length")) == (200, str(length))
        assert wire.get("/").body == b"hello"  # no body was left in between


def test_not_found(http: Service) -> None:
    answer = ask(http, "GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n")
    assert answer.status == 404
    assert b"Traceback" not in answer.body


def test_not_found_keeps_the_connection(http: Service) -> None:
    with http.wire() as wire:
        for _ in range(3):
            assert wire.get("/nowhere").status == 404
        assert wire.get("/").status == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/only-get", {"GET", "HEAD"}),
        ("DELETE", "/both", {"GET", "HEAD", "POST"}),
        ("GET", "/echo", {"POST"}),
        ("PUT", "/items/x", {"GET", "HEAD"}),
    ],
)
def test_method_not_allowed(http: Service, method: str, path: str, allowed: set[str]) -> None:
    answer = ask(http, f"{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n")
    assert answer.status == 405
    assert set(re.split(r",\s*", answer.header("allow") or "")) - {"OPTIONS"} == allowed


def test_parameters(http: Service) -> None:
    assert http.get("/items/a%20b%C3%A4").json() == {"name": "a b\u00e4"}
    assert http.get("/items/").status_code == 404
    assert http.get("/items/a/b").status_code == 404


def test_request_attributes(http: Service) -> None:
    with http.wire() as wire:
        answer = wire.get("/about?a=1&b=x%20y+z&empty=", **{"x-tEsT": "value"})
    said = answer.json()
    assert said["method"] == "GET"
    assert said["path"] == "/about"
    assert said["query"] == {"a": "1", "b": "x y z", "empty": ""}
    assert (said["x"], said["missing"], said["has"]) == ("value", "default", True)
    assert "127.0.0.1" in said["peer"]


def test_absolute_form(http: Service) -> None:
    assert ask(http, "GET http://test/about HTTP/1.1\r\nHost: test\r\n\r\n").json()["path"] == "/about"


# -- what a handler returns -----------------------------------------------------------------------------------


def test_kinds_of_results(http: Service) -> None:
    data = http.get("/kinds/bytes")
    assert (data.status_code, data.content) == (200, b"\x00\xff")
    assert data.headers["content-type"] == "application/octet-stream"
    text = http.get("/kinds/str")
    assert (text.text, text.headers["content-type"]) == ("\u00e4\u20ac", "text/plain; charset=utf-8")
    mapping = http.get("/kinds/dict")
    assert mapping.json() == {"a": [1, 2, {"b": None}]}
    assert mapping.headers["content-type"] == "application/json"
    whole = http.get("/kinds/response")
    assert (whole.status_code, whole.content) == (418, b"teapot")
    assert (whole.headers["x-answer"], whole.headers["content-type"]) == ("yes", "text/x-tea")


def test_none_is_no_content(http: Service) -> None:
    answer = http.get("/kinds/none")
    assert (answer.status_code, answer.content) == (204, b"")


def test_json_both_ways(http: Service) -> None:
    value = {"text": "\u00e4\u20ac\n", "list": [1, 2.5, None, True]}
    answer = http.post("/json", json=value)
    assert (answer.status_code, answer.json()) == (201, {"got": value})
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("body", [b"", b"{", b"{'a': 1}", b"\xff", b"[" * 100_000])
def test_bad_json_is_the_clients_mistake(http: Service, body: bytes) -> None:
    answer = http.post("/json", content=body)
    assert answer.status_code == 400
    assert http.get("/").status_code == 200


def test_no_content(http: Service) -> None:
    with http.wire() as wire:
        answer = wire.send("PUT /put HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n").answer()
        assert answer.status == 204
        assert answer.header("content-length") is None
        assert wire.get("/").body == b"hello"


def test_date(http: Service) -> None:
    answer = http.get("/")
    form = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
    assert re.fullmatch(form, answer.headers["date"])
    assert answer.headers["date"][5:16] in (
        time.strftime("%d %b %Y", time.gmtime()),
        time.strftime("%d %b %Y", time.gmtime(time.time() - 60)),
    )


# -- errors ---------------------------------------------------------------------------------------------------


def test_handler_that_raises(http: Service) -> None:
    http.expect_errors = True
    with http.wire() as wire:
        answer = wire.get("/raise")
        assert answer.status == 500
        assert b"own mistake" not in answer.body  # the client need not know
        assert b"Traceback" not in answer.body
        if answer.header("connection") != "close":
            assert wire.get("/").status == 200
    http.log.wait_for("Traceback")
    http.log.wait_for(r'handlers\.py", line \d+, in raise_error')
    http.log.wait_for("LookupError: the handler's own mistake")
    http.log.wait_for(r"ERROR +worker\[\d+\].*GET /raise")


@pytest.mark.parametrize("kind", ["number", "bad-json"])
def test_handler_that_returns_nonsense(http: Service, kind: str) -> None:
    http.expect_errors = True
    assert http.get(f"/kinds/{kind}").status_code == 500
    http.log.wait_for(r"ERROR +worker")
    assert http.get("/").status_code == 200


def test_header_injection_is_stopped(http: Service) -> None:
    http.expect_errors = True
    answer = http.get("/inject")
    assert answer.status_code == 500
    assert "set-cookie" not in answer.headers
    http.log.wait_for("X-Bad")


def test_log_cannot_be_forged(http: Service) -> None:
    """What a client sends never makes a line of its own in the log."""
    http.expect_errors = True
    ask(http, "GET /raise?x=%0A2026-01-01T00:00:00.000Z%20ERROR HTTP/1.1\r\nHost: test\r\n\r\n")
    ask(http, b"GET /\x1b[2J\n2026-01-01T00:00:00.000Z ERROR forged[1] line HTTP/1.1\r\n\r\n")
    assert http.get("/").status_code == 200
    assert not http.log.find(r"^2026-01-01")
    assert "\x1b" not in http.log.text


# -- limits -----------------------------------------------------------------------------------------------------


def test_413_by_content_length(http: Service) -> None:
    refused(http, "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000000\r\n\r\n", 413)


def test_413_before_100_continue(http: Service) -> None:
    """The point of Expect: the body is never sent."""
    request = "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000000\r\nExpect: 100-continue\r\n\r\n"
    refused(http, request, 413)


def test_414_of_a_long_target(http: Service) -> None:
    refused(http, f"GET /{'x' * 9000} HTTP/1.1\r\nHost: test\r\n\r\n", 414)


def test_414_before_the_line_ends(http: Service) -> None:
    refused(http, f"GET /{'x' * 9000}", 414)


def test_431_of_a_long_head(http: Service) -> None:
    refused(http, f"GET / HTTP/1.1\r\nHost: test\r\nX-Long: {'x' * 70_000}\r\n\r\n", 431)


def test_431_of_many_fields(http: Service) -> None:
    fields = "".join(f"X-{n}: y\r\n" for n in range(200))
    refused(http, f"GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n", 431)


def test_what_is_just_within_the_limits(http: Service) -> None:
    fields = "".join(f"X-{n}: {'y' * 80}\r\n" for n in range(90))
    with http.wire() as wire:
        wire.send(f"GET /nowhere{'x' * 7000} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
        assert wire.answer().status == 404
        assert wire.get("/").status == 200


def test_408_of_a_head_that_does_not_end(service: Service) -> None:
    service.start("--header-timeout", "0.5")
    with service.wire() as wire:
        began = time.monotonic()
        answer = wire.send("GET / HTTP/1.1\r\nHost: te").answer()
        took = time.monotonic() - began
        assert (answer.status, answer.header("connection")) == (408, "close")
        wire.assert_closed()
    assert 0.4 < took < 5


def test_408_of_a_body_that_does_not_end(service: Service) -> None:
    service.start("--body-timeout", "0.5")
    with service.wire() as wire:
        wire.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nabc")
        answer = wire.answer()
        assert (answer.status, answer.header("connection")) == (408, "close")
        wire.assert_closed()


def test_idle_connection_is_closed_without_a_word(service: Service) -> None:
    service.start("--keep-alive", "0.5")
    with service.wire() as wire:
        assert wire.get("/").status == 200
        began = time.monotonic()
        wire.assert_closed()
        assert 0.4 < time.monotonic() - began < 5


def test_connection_that_never_speaks_is_closed_without_a_word(service: Service) -> None:
    service.start("--header-timeout", "0.5")
    with service.wire() as wire:
        wire.assert_closed()


# -- malformed ----------------------------------------------------------------------------------------------------

MALFORMED = {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\nHost : test\r\n\r\n",
    "folded line": b"GET / HTTP/1.1\r\nHost: test\r\nX: a\r\n b\r\n\r\n",
    "bare CR": b"GET / HTTP/1.1\r\nHost: test\r\nX: a\rb\r\n\r\n",
    "NUL": b"GET / HTTP/1.1\r\nHost: test\r\nX: a\0b\r\n\r\n",
    "length and chunked": (
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "two lengths": b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "signed length": b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: +3\r\n\r\nabc",
    "bad chunk size": b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n",
    "chunk too long": b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "no HTTP": b"nonsense\r\n\r\n",
    "lower-case version": b"GET / http/1.1\r\nHost: test\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: test\r\n\r\n",
    "no field name": b"GET / HTTP/1.1\r\nHost: test\r\n: x\r\n\r\n",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_is_refused(http: Service, case: str) -> None:
    """400, closed, and the request that follows it on the connection is never answered."""
    follow = b"GET /pid HTTP/1.1\r\nHost: test\r\n\r\n"
    refused(http, MALFORMED[case] + follow, 400)
    assert http.get("/").status_code == 200


def test_unknown_version(http: Service) -> None:
    refused(http, "GET / HTTP/2.0\r\nHost: test\r\n\r\n", 505)


def test_unknown_transfer_coding(http: Service) -> None:
    refused(http, "POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501)


def test_unknown_expectation(http: Service) -> None:
    refused(http, "POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1\r\nExpect: magic\r\n\r\nx", 417)


def test_error_reaches_a_client_that_is_still_sending(http: Service) -> None:
    """Lingering close: a reset would take the answer away before the client has read it."""
    with http.wire() as wire:
        wire.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000000\r\n\r\n" + "x" * 500_000)
        assert wire.answer().status == 413


# -- over a UNIX socket ----------------------------------------------------------------------------------------------


def test_over_a_unix_socket(service: Service) -> None:
    service.handlers(ROUTES)
    service.start(address=("-l", service.socket_path))
    with Wire(str(service.socket_path)) as wire:
        assert wire.get("/").body == b"hello"
        said = json.loads(wire.get("/about").body)
        assert said["path"] == "/about"
        assert isinstance(said["peer"], str)
