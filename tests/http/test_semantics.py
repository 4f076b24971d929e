"""HTTP semantics over the wire: methods, routes, error pages, bodies in both directions, limits."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from collections.abc import Iterator

import pytest
from harness import Answer, Background, Service, Wire

HANDLERS = r"""
from .probe import gate, tell
from .runtime.http import DisconnectedError, HTTPError, Request, Response, Router
import gzip, io, os, tempfile

routes = Router()

class Closing:
    "Pieces that tell when they are closed."
    def __init__(self, pieces, tag="closed"):
        self.pieces, self.tag = iter(pieces), tag
    def __iter__(self):
        return self.pieces
    def close(self):
        tell(self.tag)

@routes.get("/")
def index(request):
    return "index"

@routes.post("/echo")
def echo(request):
    return Response(request.body, headers={"X-Trailers": repr(request.trailers)})

@routes.post("/deaf", stream=True)
def deaf(request):
    return "not read"

@routes.post("/some", stream=True)
def some(request):
    return request.read(3)

@routes.post("/pieces", stream=True)
def pieces(request):
    sizes = []
    while piece := request.read(1000):
        sizes.append(len(piece))
    return {"total": sum(sizes), "most": max(sizes), "after": len(request.read()), "all": len(request.body)}

@routes.post("/stubborn", stream=True)
def stubborn(request):
    "Catches what it should let pass, and reads on."
    seen = []
    for _ in range(3):
        try:
            while request.read():
                pass
            seen.append(0)
        except HTTPError as error:
            seen.append(error.status)
    return {"seen": seen}

@routes.post("/mirror", stream=True)
def mirror(request):
    "Answers with the body while it comes."
    def pieces():
        while piece := request.read():
            yield piece
    return Response(pieces())

@routes.post("/slowly", stream=True)
def slowly(request):
    gate("gate:slowly")
    return {"length": len(request.body)}

@routes.post("/left", stream=True)
def left(request):
    try:
        return request.body
    except DisconnectedError:
        tell("left")
        raise

@routes.get("/upstream")
def upstream(request):
    raise ConnectionRefusedError("the handler's own connection")

@routes.get("/generated")
def generated(request):
    return Response((b"%d," % n for n in range(5)))

@routes.get("/generated/{kind}")
def generated_kind(request):
    kind = request.params["kind"]
    if kind == "text":
        return Response(["\u00e4", "", "b"], content_type="text/plain; charset=utf-8")
    if kind == "views":
        return Response(iter([memoryview(b"ab"), bytearray(b"cd"), b""]))
    if kind == "empty":
        return Response(iter(()))
    if kind == "closing":
        return Response(Closing([b"a", b"b"]))
    if kind == "large":
        return Response(b"%07d\n" % n * 4096 for n in range(150))
    if kind == "forever":
        def forever():
            while True:
                yield b"x" * 65536
        return Response(Closing(forever()))
    if kind == "gated":
        def gated():
            yield b"first"
            gate("gate:gated")
            yield b"second"
        return Response(gated())
    if kind == "raising":
        def raising():
            yield b"first"
            raise LookupError("in the middle")
        return Response(raising())
    if kind == "numbers":
        return Response([1, 2, 3])
    raise HTTPError(404)

DATA = bytes(range(256)) * 4096

@routes.get("/file/{kind}")
def file(request):
    kind = request.params["kind"]
    f = tempfile.TemporaryFile()
    f.write(DATA)
    if kind == "whole":
        f.seek(0)
    if kind == "rest":
        f.seek(1000)
        assert f.read(24)
    if kind == "read and back":
        f.seek(0)
        f.read(10)
        f.seek(0)
    if kind == "empty":
        f.truncate(0)
        f.seek(0)
    if kind == "shrinking":
        f.seek(0)
        f.flush()
        return Response(changing(f, lambda fd: os.truncate(fd, 100000)))
    if kind == "growing":
        f.seek(0)
        f.flush()
        return Response(changing(f, lambda fd: os.pwrite(fd, b"more", len(DATA))))
    if kind == "bytesio":
        return Response(io.BytesIO(DATA))
    if kind == "pipe":
        reader, writer = os.pipe()
        os.write(writer, b"through a pipe")
        os.close(writer)
        return Response(os.fdopen(reader, "rb"))
    if kind == "text":
        return Response(io.StringIO("\u00e4" * 100000))
    if kind == "gzip":
        packed = tempfile.TemporaryFile()
        packed.write(gzip.compress(DATA))
        packed.seek(0)
        return Response(gzip.open(packed))
    return Response(f)  # "past the end"

def changing(file, change):
    "A file that changes as soon as its length has been announced."
    class Changing(io.FileIO):
        told = False
        def tell(self):
            self.told = True
            return 0
        def fileno(self):
            if self.told:
                change(super().fileno())
            return super().fileno()
    return Changing(os.dup(file.fileno()), "rb")

@routes.get("/status/{status}")
def status(request):
    return Response(b"a body", int(request.params["status"]))

@routes.get("/nonsense/{kind}")
def nonsense(request):
    kind = request.params["kind"]
    return {
        "number": 3,
        "tuple": ("a", 200),
        "class": Response,
        "object": object(),
        "generator": (x for x in ()),
    }.get(kind) or {
        "status 99": Response(b"", 99),
        "status 100": Response(b"", 100),
        "status 600": Response(b"", 600),
        "status text": Response(b"", "200"),
        "status none": Response(b"", None),
        "body number": Response(5),
        "body dict": Response({"a": "b"}),
        "body object": Response(object()),
        "surrogate": Response("\ud800"),
        "header number": Response(b"", headers={"X": 5}),
        "header none": Response(b"", headers={"X": None}),
        "header bytes": Response(b"", headers={b"X": "y"}),
        "header pairs": Response(b"", headers=["X"]),
        "header length": Response(b"abc", headers={"Content-Length": "1"}),
        "header coding": Response(b"abc", headers={"transfer-encoding": "chunked"}),
        "header connection": Response(b"abc", headers={"Connection": "keep-alive"}),
        "header date": Response(b"abc", headers={"DATE": "now"}),
        "header server": Response(b"abc", headers={"Server": "me"}),
        "value CR LF": Response(b"", headers={"X": "a\r\nB: c"}),
        "value LF": Response(b"", headers={"X": "a\nB: c"}),
        "value CR": Response(b"", headers={"X": "a\rB: c"}),
        "value NUL": Response(b"", headers={"X": "a\0"}),
        "value euro": Response(b"", headers={"X": "\u20ac"}),
        "name CR LF": Response(b"", headers={"X\r\nB": "c"}),
        "name colon": Response(b"", headers={"X:": "c"}),
        "name space": Response(b"", headers={"X ": "c"}),
        "name empty": Response(b"", headers={"": "c"}),
        "name non-ASCII": Response(b"", headers={"\u00e4": "c"}),
        "type CR LF": Response(b"", content_type="text/plain\r\nB: c"),
        "type number": Response(b"", content_type=5),
    }[kind]

@routes.get("/http-error")
def http_error(request):
    raise HTTPError(int(request.query["status"]), request.query.get("detail", ""), {"X-Why": "because"})

@routes.get("/surrogate")
def surrogate(request):
    raise HTTPError(404, "no \ud800")

@routes.get("/cancelled")
def cancelled(request):
    import asyncio
    raise asyncio.CancelledError

@routes.get("/raise")
def raises(request):
    raise LookupError("secret")

# -- the router
def say(name):
    return lambda request: {"route": name, "params": request.params, "path": request.path, "query": request.query_list,
                            "host": request.host, "target": request.target}

routes.add("GET", "/users/me", say("me"))
routes.add("GET", "/users/{id}", say("user"))
routes.add("DELETE", "/users/{id}", say("delete"))
routes.add("PUT", "/users/{name}", say("put"))
routes.add("GET", "/users/{id}/orders/{order}", say("order"))
routes.add("GET", "/files/{rest:path}", say("files"))
routes.add("GET", "/files/special", say("special"))
routes.add("GET", "/caf\u00e9", say("caf\u00e9"))
routes.add("GET", "/caf\u00e9/{table}", say("table"))
routes.add("GET", "/v{version}/x.{kind}", say("mixed"))
routes.add("OPTIONS", "/own-options", say("options"))
routes.add("HEAD", "/own-head", lambda request: Response(headers={"X-Own": "yes"}))
routes.add("PATCH", "/users/{id}", lambda request: None)
routes.add("GET", "/any/{id:any}", say("any"))
routes.add("GET", "/int/{id:int}", say("int"))
"""
FLAGS = ("-n", "2", "-m", "2", "--max-body", "1000000", "--body-timeout", "1.5")
EXPECT_ERRORS = True
DATA = bytes(range(256)) * 4096
POST = "POST {} HTTP/1.1\r\nHost: a\r\n"


def ask(http: Service, method: str, target: str, **fields: str) -> Answer:
    """One request, and its connection goes on."""
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *(f"{name}: {value}" for name, value in fields.items())]
    with http.wire() as wire:
        answer = wire.send("\r\n".join(lines) + "\r\n\r\n").answer(method)
        if answer.header("connection") != "close":
            assert wire.get("/").body == b"index"
        return answer


@contextlib.contextmanager
def small_buffers(http: Service) -> Iterator[Wire]:
    """A client that can be given little before it reads."""
    wire = Wire.__new__(Wire)
    wire.socket = socket.socket()
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.socket.settimeout(20)
    wire.socket.connect(http.address)
    wire._reader = wire.socket.makefile("rb")
    with wire:
        yield wire


# -- methods and routes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "status", "allow"),
    [
        ("POST", "/", 405, "GET, HEAD, OPTIONS"),
        ("GET", "/echo", 405, "OPTIONS, POST"),
        ("TRACE", "/", 405, "GET, HEAD, OPTIONS"),
        ("TRACE", "/nowhere", 405, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("POST", "/users/me", 405, "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("GET", "/nowhere", 404, None),
        ("GET", "/users/a%2Fb", 404, None),
        ("GET", "/int/x", 404, None),
        ("OPTIONS", "/nowhere", 404, None),
        ("BREW", "/", 501, None),
        ("get", "/", 501, None),
        ("PROPFIND", "/nowhere", 501, None),
        ("OPTIONS", "/", 204, "GET, HEAD, OPTIONS"),
        ("OPTIONS", "/users/7", 204, "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("OPTIONS", "*", 204, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("OPTIONS", "http://a", 204, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("OPTIONS", "/own-options", 200, None),
        ("GET", "/own-options", 405, "OPTIONS"),
        ("HEAD", "/own-head", 200, None),
        ("GET", "/own-head", 405, "HEAD, OPTIONS"),
        ("HEAD", "/echo", 405, "OPTIONS, POST"),
        ("HEAD", "/nowhere", 404, None),
    ],
)
def test_methods(http: Service, method: str, target: str, status: int, allow: str | None) -> None:
    answer = ask(http, method, target)
    assert (answer.status, answer.header("allow")) == (status, allow)


def test_connect_is_refused(http: Service) -> None:
    with http.wire() as wire:
        answer = wire.send("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").answer()
        assert (answer.status, answer.header("connection")) == (501, "close")
        wire.assert_closed()


@pytest.mark.parametrize(
    ("method", "target", "route", "params"),
    [
        ("GET", "/users/me", "me", {}),
        ("GET", "/users/7", "user", {"id": "7"}),
        ("GET", "/%75sers/7", "user", {"id": "7"}),
        ("GET", "/users/m%65", "me", {}),
        ("GET", "/any/a%2Fb", "any", {"id": "a/b"}),
        ("GET", "/any/a%2fb", "any", {"id": "a/b"}),
        ("GET", "/int/007", "int", {"id": 7}),
        ("GET", "/users/a%252Fb", "user", {"id": "a%2Fb"}),  # decoded once
        ("GET", "/users/%00", "user", {"id": "\0"}),
        ("GET", "/users/a+b", "user", {"id": "a+b"}),
        ("GET", "/users/%C3%A4", "user", {"id": "\u00e4"}),
        ("GET", "/users/%FF", "user", {"id": "\ufffd"}),
        ("GET", "/users/%0A", "user", {"id": "\n"}),
        ("DELETE", "/users/me", "delete", {"id": "me"}),
        ("PUT", "/users/me", "put", {"name": "me"}),
        ("GET", "/users/1/orders/2", "order", {"id": "1", "order": "2"}),
        ("GET", "/files/", "files", {"rest": ""}),
        ("GET", "/files/a/b%2Fc", "files", {"rest": "a/b/c"}),
        ("GET", "/files/special", "special", {}),
        ("GET", "/caf%C3%A9", "caf\u00e9", {}),
        ("GET", "/caf%c3%a9/5", "table", {"table": "5"}),
        ("GET", "/v2/x.json", "mixed", {"version": "2", "kind": "json"}),
        ("GET", "http://b/users/7", "user", {"id": "7"}),
    ],
)
def test_routes(http: Service, method: str, target: str, route: str, params: dict[str, str]) -> None:
    said = ask(http, method, target).json()
    assert (said["route"], said["params"], said["target"]) == (route, params, target)


@pytest.mark.parametrize("target", ["/users", "/users/", "/users/1/2", "/users//orders/2", "/files", "/USERS/me", "//"])
def test_what_no_route_takes(http: Service, target: str) -> None:
    assert ask(http, "GET", target).status == 404


def test_absolute_form_names_the_host(http: Service) -> None:
    said = ask(http, "GET", "http://b.example:81/users/7?x=http://c/").json()
    assert (said["host"], said["path"], said["query"]) == ("b.example:81", "/users/7", [["x", "http://c/"]])


@pytest.mark.parametrize(
    ("query", "pairs"),
    [
        ("", []),
        ("?", []),
        ("?a", [["a", ""]]),
        ("?a=", [["a", ""]]),
        ("?=b", [["", "b"]]),
        ("?a=b=c", [["a", "b=c"]]),
        ("?a=1&a=2", [["a", "1"], ["a", "2"]]),
        ("?&&a=1&", [["a", "1"]]),
        ("?a=b+c%2Bd%20e", [["a", "b c+d e"]]),
        ("?%61=%2541", [["a", "%41"]]),
        ("?a=%26b%3D", [["a", "&b="]]),
        ("?a=%C3%A4%FF", [["a", "\u00e4\ufffd"]]),
        ("?a;b", [["a;b", ""]]),
        ("?a?b", [["a?b", ""]]),
    ],
)
def test_query(http: Service, query: str, pairs: list[list[str]]) -> None:
    assert ask(http, "GET", "/users/7" + query).json()["query"] == pairs


# -- error pages -----------------------------------------------------------------------------------------------------

TEXT, JSON = "text/plain; charset=utf-8", "application/problem+json"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, TEXT),
        ("*/*", TEXT),
        ("text/html", TEXT),
        ("application/json", JSON),
        ("Application/JSON;charset=utf-8", JSON),
        ("application/problem+json", JSON),
        ("application/json, text/plain, */*", JSON),
        ("text/html, application/json;q=0.9", TEXT),
        ("text/html;q=0.5, application/json;q=0.9", JSON),
        ("application/json;q=0, text/plain", TEXT),
        ("application/json;q=0", TEXT),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
        ("application/json;q=nonsense, ,;;=", TEXT),
        ("image/png", TEXT),
    ],
)
def test_error_pages(http: Service, accept: str | None, kind: str) -> None:
    answer = ask(http, "GET", "/http-error?status=409&detail=taken", **({"Accept": accept} if accept else {}))
    assert (answer.status, answer.header("content-type"), answer.header("x-why")) == (409, kind, "because")
    assert answer.header("vary") == "Accept"
    if kind == JSON:
        assert answer.json() == {"title": "Conflict", "status": 409, "detail": "taken"}
    else:
        assert answer.body == b"409 Conflict: taken\n"


@pytest.mark.parametrize("path", ["/raise", "/upstream", "/cancelled"])
def test_an_exception_is_a_500_with_an_id(http: Service, path: str) -> None:
    mark = http.log.mark()
    answer = ask(http, "GET", path, Accept="application/json")
    assert answer.status == 500
    found = re.fullmatch(r"error id ([0-9a-f]{16})", answer.json()["detail"])
    assert found
    http.log.wait_for(rf"GET {path} from 127\.0\.0\.1:\d+ failed, error id {found[1]}", after=mark)
    http.log.wait_for("Traceback", after=mark)
    http.log.wait_for(r'handlers\.py", line \d+, in ', after=mark)


def test_detail_that_cannot_be_encoded(http: Service) -> None:
    assert ask(http, "GET", "/surrogate").body == b"404 Not Found: no ?\n"
    assert ask(http, "GET", "/surrogate", Accept="application/json").status == 404


NONSENSE = re.findall(r'^        "([^"]+)": ', HANDLERS[HANDLERS.index("def nonsense") :].split("@routes")[0], re.M)


@pytest.mark.parametrize("kind", NONSENSE)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_nonsense(http: Service, method: str, kind: str) -> None:
    """What a handler returns is no response, or would be two: a 500, and the connection goes on."""
    answer = ask(http, method, f"/nonsense/{kind.replace(' ', '%20')}")
    assert answer.status == 500
    assert answer.header("b") is None


# -- heads of responses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 205, 206, 301, 304, 404, 418, 451, 500, 599])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_status(http: Service, method: str, status: int) -> None:
    answer = ask(http, method, f"/status/{status}")
    assert answer.status == status
    length, kind = answer.header("content-length"), answer.header("content-type")
    if status in (204, 304):  # RFC 9110 8.6
        assert (length, kind) == (None, None)
    elif status == 205:  # RFC 9110 15.3.6
        assert (length, kind) == ("0", None)
    else:
        assert (length, kind) == ("6", "application/octet-stream")
        assert answer.body == (b"" if method == "HEAD" else b"a body")
    assert answer.header("server") == "hello-server"
    date = time.strptime(answer.header("date") or "", "%a, %d %b %Y %H:%M:%S GMT")
    assert abs(time.mktime(date) - time.mktime(time.gmtime())) < 30


@pytest.mark.parametrize("target", ["/generated", "/file/whole", "/file/bytesio", "/generated/closing", "/"])
def test_head(http: Service, target: str) -> None:
    before = len(http.events.all("closed"))
    answer = ask(http, "HEAD", target)
    assert answer.status == 200
    known = {"/file/whole": str(len(DATA)), "/": "5"}
    assert answer.header("content-length") == known.get(target)
    if target.endswith("closing"):
        http.events.wait("closed", before + 1)


@pytest.mark.parametrize("fields", ["", "Connection: keep-alive\r\n"])
@pytest.mark.parametrize("target", ["/", "/generated", "/status/204", "/nowhere", "/file/whole"])
def test_http_1_0(http: Service, target: str, fields: str) -> None:
    """Kept only if asked for, and only if the length can be told; never chunked."""
    with http.wire() as wire:
        answer = wire.send(f"GET {target} HTTP/1.0\r\n{fields}\r\n").answer()
        assert (answer.version, answer.header("transfer-encoding")) == ("HTTP/1.1", None)
        if fields and target != "/generated":
            assert answer.header("connection") == "keep-alive"
            assert wire.get("/").body == b"index"
        else:
            assert answer.header("connection") == "close"
            if target == "/generated":
                assert answer.body == b"0,1,2,3,4,"
            wire.assert_closed()


# -- request bodies ----------------------------------------------------------------------------------------------------


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


@pytest.mark.parametrize("size", [10, 200_000])
def test_trailers(http: Service, size: int) -> None:
    with http.wire() as wire:
        wire.send(POST.format("/echo") + "Transfer-Encoding: chunked\r\n\r\n")
        wire.send(chunked(b"x" * size, end=b'0;last="\\""\r\nX-Sum: 7\r\nB:\r\n\r\n'))
        answer = wire.answer()
        assert (answer.body, answer.header("x-trailers")) == (b"x" * size, "[('x-sum', '7'), ('b', '')]")
        assert wire.get("/").body == b"index"


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [1001, 300_000])
def test_a_body_in_pieces(http: Service, framing: str, size: int) -> None:
    field = f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"
    with http.wire() as wire:
        wire.send(POST.format("/pieces") + field + "\r\n\r\n")
        wire.send(b"x" * size if framing == "length" else chunked(b"x" * size))
        said = wire.answer().json()
        assert said["total"] == size
        assert said["most"] <= 1000
        assert (said["after"], said["all"]) == (0, 0)
        assert wire.get("/").body == b"index"


@pytest.mark.parametrize("path", ["/deaf", "/some"])
@pytest.mark.parametrize("fields", ["", "Connection: close\r\n"])
def test_a_body_that_is_not_read_closes_and_loses_no_answer(http: Service, path: str, fields: str) -> None:
    """The rest of it is thrown away while the client goes on sending; then the connection ends in order."""
    with http.wire() as wire:
        wire.send(POST.format(path) + f"{fields}Content-Length: 900000\r\n\r\n" + "x" * 100_000)
        assert wire.more()  # the answer is on its way
        wire.send("x" * 800_000 + "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = wire.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert answer.body == (b"not read" if path == "/deaf" else b"xxx")
        wire.assert_closed()


def test_a_small_body_that_is_not_read_costs_nothing(http: Service) -> None:
    with http.wire() as wire:
        for path in ("/deaf", "/some"):
            assert wire.send(POST.format(path) + "Content-Length: 6\r\n\r\nabcdef").answer().status == 200
        assert wire.get("/").body == b"index"


@pytest.mark.parametrize("body", ["Content-Length: 5\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"])
def test_continue_only_when_the_handler_reads(http: Service, body: str) -> None:
    data = b"hello" if "Length" in body else chunked(b"hello")
    with http.wire() as wire:
        wire.send(POST.format("/echo") + "Expect: 100-continue\r\n" + body)
        assert wire.answer().status == 100
        assert wire.send(data).answer().body == b"hello"
        assert wire.get("/").body == b"index"
    with http.wire() as wire:  # a handler that does not read it: no 100, and then nothing can follow
        wire.send(POST.format("/deaf") + "Expect: 100-Continue\r\n" + body)
        answer = wire.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        wire.assert_closed()
    with http.wire() as wire:  # a client that did not wait: no 100
        answer = wire.send((POST.format("/echo") + "Expect: 100-continue\r\n" + body).encode() + data).answer()
        assert (answer.status, answer.body) == (200, b"hello")
        assert wire.get("/").body == b"index"
    with http.wire() as wire:  # a path that is not there
        wire.send(POST.format("/nowhere") + "Expect: 100-continue\r\n" + body)
        assert wire.answer().status == 404
        wire.assert_closed()


def test_continue_waits_for_the_handler(http: Service) -> None:
    with http.wire() as wire:
        before = len(http.events.all("gate:slowly"))
        wire.send(POST.format("/slowly") + "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        arrival = http.events.wait("gate:slowly", before + 1)[-1]
        wire.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            wire.socket.recv(1)
        wire.socket.settimeout(20)
        arrival.release()
        assert wire.answer().status == 100
        assert wire.send("abc").answer().json() == {"length": 3}


def test_no_continue_for_http_1_0(http: Service) -> None:
    with http.wire() as wire:
        wire.send("POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi")
        assert wire.answer().body == b"hi"


def test_malformed_chunks_behind_expect(http: Service) -> None:
    """The body is there with the head, and broken: no handler has read it yet."""
    with http.wire() as wire:
        wire.send(POST.format("/deaf") + "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        answer = wire.answer()
        assert (answer.status, answer.header("connection")) == (400, "close")
        wire.assert_closed()


@pytest.mark.parametrize(
    ("bad", "status"),
    [("zz\r\n", 400), ("f4240\r\n" + "x" * 1_000_000 + "\r\n1\r\nx\r\n", 413), ("5\r\nabc", 408)],
)
def test_errors_in_the_middle_of_a_handler(http: Service, bad: str, status: int) -> None:
    """A handler that reads gets them as exceptions; who lets them pass answers with their status, and closes."""
    with http.wire() as wire:
        wire.send(POST.format("/pieces") + "Transfer-Encoding: chunked\r\nAccept: application/json\r\n\r\n")
        wire.send(chunked(b"x" * 100_000, end=b"") + bad.encode())
        if status != 408:
            wire.send("0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = wire.answer()
        assert (answer.status, answer.header("connection")) == (status, "close")
        assert answer.json()["status"] == status
        wire.assert_closed()


@pytest.mark.parametrize(("bad", "status"), [("zz\r\n0\r\n\r\n", 400), ("5\r\nabc", 408)])
def test_an_error_that_the_handler_swallows_stays(http: Service, bad: str, status: int) -> None:
    with http.wire() as wire:
        wire.send(POST.format("/stubborn") + "Transfer-Encoding: chunked\r\n\r\n")
        wire.send(chunked(b"x" * 300_000, end=b"") + bad.encode())
        answer = wire.answer()
        assert (answer.json(), answer.header("connection")) == ({"seen": [status] * 3}, "close")
        wire.assert_closed()


def test_a_minimum_rate_across_reads(http: Service) -> None:
    """A byte now and then is no excuse, however often the handler reads: 64 KiB must pass in --body-timeout."""
    with http.wire() as wire:
        began = time.monotonic()
        wire.send(POST.format("/pieces") + "Content-Length: 100000\r\n\r\n" + "x" * 10)
        sent = len(list(drops(wire)))
        assert 5 < sent < 100
        assert 1 < time.monotonic() - began < 10
        answer = wire.answer()
        assert (answer.status, answer.header("connection")) == (408, "close")


def drops(wire: Wire) -> Iterator[int]:
    """A byte every tenth of a second until there is an answer."""
    end = time.monotonic() + 20
    while time.monotonic() < end and not select.select([wire.socket], [], [], 0.1)[0]:
        yield wire.socket.send(b"x")


def test_a_client_that_leaves_in_the_middle_of_its_body(http: Service) -> None:
    mark = http.log.mark()
    with http.wire() as wire:
        wire.send(POST.format("/left") + "Content-Length: 500000\r\n\r\n" + "x" * 100_000)
    http.events.wait("left")
    http.log.wait_for(r"INFO .* left: in the middle of its request body", after=mark)
    assert not http.log.find("Traceback", after=mark)


def test_413_of_a_small_chunked_body(service: Service) -> None:
    service.handlers(HANDLERS)
    service.start("--max-body", "10")
    for body in (chunked(b"x" * 11), chunked(b"x" * 6, b"x" * 6)):
        with service.wire() as wire:
            wire.send(POST.format("/echo") + "Transfer-Encoding: chunked\r\n\r\n").send(body)
            answer = wire.answer()
            assert (answer.status, answer.header("connection")) == (413, "close")
            wire.assert_closed()
    with service.wire() as wire:
        wire.send(POST.format("/echo") + "Transfer-Encoding: chunked\r\n\r\n").send(chunked(b"x" * 10))
        assert wire.answer().body == b"x" * 10


def test_max_body_0_is_no_limit(service: Service) -> None:
    service.handlers(HANDLERS)
    service.start("--max-body", "0")
    with service.wire() as wire:
        wire.send(POST.format("/pieces") + "Content-Length: 20000000\r\n\r\n").send(b"x" * 20_000_000)
        assert wire.answer().json()["total"] == 20_000_000


def test_max_head(service: Service) -> None:
    service.handlers(HANDLERS)
    service.start("--max-head", "2000")
    start, end = "GET / HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n"
    for size, status in ((2000, 200), (2001, 431)):
        with service.wire() as wire:
            assert wire.send(start + "y" * (size - len(start + end)) + end).answer().status == status


def test_keep_alive_0_is_one_request_per_connection(service: Service) -> None:
    service.handlers(HANDLERS)
    service.start("--keep-alive", "0")
    with service.wire() as wire:
        assert wire.get("/").header("connection") == "close"
        wire.assert_closed()


def test_max_connections(service: Service) -> None:
    """None of the connections that it allows is idle."""
    service.handlers(HANDLERS)
    service.start("--max-connections", "3", "-n", "2", "-m", "2")
    wires = [service.wire() for _ in range(3)]
    assert all(wire.send("GET /generated/large HTTP/1.1\r\nHost: a\r\n\r\n" * 8).more() for wire in wires)
    with service.wire() as fourth:
        fourth.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        service.log.wait_for(r"3 connections held \(--max-connections\): accepting pauses")
        assert not select.select([fourth.socket], [], [], 0)[0]
        for wire in wires:
            wire.close()
        assert fourth.answer().body == b"index"


def test_empty_lines_after_a_request_are_no_half_request(service: Service) -> None:
    """Old clients send CRLF behind a body: closed like an idle connection, without a 408 that answers no request."""
    service.handlers(HANDLERS)
    service.start("--header-timeout", "0.5", "--keep-alive", "0.5")
    with service.wire() as wire:
        assert wire.get("/").status == 200
        wire.send("\r\n").assert_closed()


# -- response bodies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("generated", b"0,1,2,3,4,"),
        ("generated/text", "\u00e4b".encode()),
        ("generated/views", b"abcd"),
        ("generated/empty", b""),
        ("generated/large", b"".join(b"%07d\n" % n * 4096 for n in range(150))),
        ("file/bytesio", DATA),
        ("file/pipe", b"through a pipe"),
        ("file/text", "\u00e4".encode() * 100_000),
        ("file/gzip", DATA),
    ],
)
def test_streamed(http: Service, kind: str, body: bytes) -> None:
    answer = ask(http, "GET", f"/{kind}")
    assert (answer.status, answer.header("transfer-encoding"), answer.header("content-length")) == (
        200,
        "chunked",
        None,
    )
    assert answer.body == body


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("whole", DATA),
        ("rest", DATA[1024:]),
        ("read and back", DATA),
        ("empty", b""),
        ("past the end", b""),
        ("growing", DATA),
    ],
)
def test_file(http: Service, kind: str, body: bytes) -> None:
    answer = ask(http, "GET", f"/file/{kind.replace(' ', '%20')}")
    assert (answer.status, answer.header("content-length"), len(answer.body)) == (200, str(len(body)), len(body))
    assert answer.body == body


def test_a_file_that_becomes_shorter_breaks_the_connection(http: Service) -> None:
    with http.wire() as wire, pytest.raises(ConnectionResetError):
        wire.get("/file/shrinking")
    http.log.wait_for("a file became shorter")


def test_files_where_there_is_no_sendfile_of_linux(service: Service) -> None:
    service.expect_errors = True
    service.handlers(HANDLERS + "\nfrom .runtime.http import bodies\nbodies.SENDFILE = False\n")
    service.start()
    with service.wire() as wire:
        for kind, body in (("whole", DATA), ("rest", DATA[1024:]), ("growing", DATA), ("empty", b"")):
            assert wire.get(f"/file/{kind}").body == body
    with small_buffers(service) as wire:
        assert wire.get("/file/whole").body == DATA
    with service.wire() as wire, pytest.raises(ConnectionResetError):
        wire.get("/file/shrinking")


@pytest.mark.parametrize("kind", ["raising", "numbers"])
def test_a_generator_that_fails_is_no_valid_end(http: Service, kind: str) -> None:
    mark = http.log.mark()
    with http.wire() as wire, pytest.raises(ConnectionResetError):
        wire.get(f"/generated/{kind}")
    http.log.wait_for("a streamed response to 127.0.0.1:[0-9]+ broke off", after=mark)
    with http.wire() as wire, pytest.raises(ConnectionResetError):  # an orderly end would be the end of the body
        wire.send(f"GET /generated/{kind} HTTP/1.0\r\n\r\n").answer()


@pytest.mark.parametrize("source", ["prefork"], indirect=True)
def test_a_generator_that_exceeds_the_request_timeout_is_no_valid_end(service: Service) -> None:
    service.handlers(HANDLERS)
    service.expect_errors = True
    service.start("--request-timeout", "0.5")
    for version in ("1.0", "1.1"):
        with service.wire() as wire, pytest.raises(ConnectionResetError):
            wire.send(f"GET /generated/gated HTTP/{version}\r\nHost: a\r\n\r\n").answer()
    for arrival in service.events.all("gate:gated"):
        arrival.release()


def test_the_first_piece_does_not_wait_for_the_second(http: Service) -> None:
    before = len(http.events.all("gate:gated"))
    with http.wire() as wire:
        wire.send("GET /generated/gated HTTP/1.1\r\nHost: a\r\n\r\n")
        arrival = http.events.wait("gate:gated", before + 1)[-1]
        data = b""
        while not data.endswith(b"5\r\nfirst\r\n"):
            data += wire.socket.recv(1000)
        assert b"second" not in data
        arrival.release()
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            rest += wire.socket.recv(1000)
        assert rest == b"6\r\nsecond\r\n0\r\n\r\n"


def test_a_slow_generator_is_not_a_slow_client(http: Service) -> None:
    """--body-timeout is the client's; what a generator takes between two pieces is its own affair."""
    before = len(http.events.all("gate:gated"))
    with http.wire() as wire:
        answer = Background(lambda: wire.get("/generated/gated"))
        arrival = http.events.wait("gate:gated", before + 1)[-1]
        time.sleep(2.5)  # more than --body-timeout: that nothing happens then is what is asked
        arrival.release()
        assert answer.result().body == b"firstsecond"


@pytest.mark.parametrize("target", ["/file/whole", "/generated/large"])
def test_a_slow_reader_gets_everything(http: Service, target: str) -> None:
    """And delays no other client."""
    with small_buffers(http) as wire:
        wire.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(20):
            with http.wire() as other:
                assert other.get("/").body == b"index"
        body = wire.answer().body
        assert body == (DATA if "file" in target else b"".join(b"%07d\n" % n * 4096 for n in range(150)))
        assert wire.get("/").body == b"index"


def test_a_reader_that_stops_is_cut_off_and_its_generator_closed(http: Service) -> None:
    before = len(http.events.all("closed"))
    with small_buffers(http) as wire:
        wire.send("GET /generated/forever HTTP/1.1\r\nHost: a\r\n\r\n")
        http.events.wait("closed", before + 1)


def test_a_body_is_mirrored_while_it_comes(http: Service) -> None:
    with http.wire() as wire:
        wire.send(POST.format("/mirror") + "Content-Length: 200000\r\n\r\n" + "x" * 100_000)
        assert wire._line() == "HTTP/1.1 200 OK"
        while wire._line():
            pass
        wire.send("x" * 100_000)
        total = 0
        while size := int(wire._line(), 16):
            total += len(wire._reader.read(size))
            assert wire._line() == ""
        assert total == 200_000


@pytest.mark.parametrize("count", [3000])
@pytest.mark.parametrize(
    "request_",
    [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /generated HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /file/empty HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    ],
)
def test_a_long_pipeline(http: Service, request_: str, count: int) -> None:
    """In order, all of them, however they are answered."""
    with http.wire() as wire:
        sending = Background(lambda: wire.send(request_ * count + "GET /users/7 HTTP/1.1\r\nHost: a\r\n\r\n"))
        for _ in range(count):
            assert wire.answer().status == 200
        assert wire.answer().json()["route"] == "user"
        sending.result()


def test_no_worker_has_ended(http: Service) -> None:
    """The last one of this file."""
    assert not http.log.find(r"worker\[?\d*\]?.* (died|killed|ended|failed to)|crash|SIG[A-Z]+"), http.log.text
