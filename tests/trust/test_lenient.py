"""Valid requests are served: cookies in several lines, hosts of all names, trailers of all kinds, queries as sent."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from harness import Answer, Wire
from trust_client import BEGIN, SOON, Prepare, request
from watched import Watched

HANDLERS = (
    BEGIN
    + """
import contextvars, decimal, json

@routes.get("/cookie")
def cookie(request):
    return {"get": request.headers.get("cookie"), "item": request.headers["Cookie"],
            "all": dict(request.headers)["cookie"], "accept": request.headers.get("accept"),
            "accept_of_all": dict(request.headers).get("accept")}

@routes.get("/host")
def host(request):
    return request.host

@routes.post("/trailers")
def trailers(request):
    return {"body": len(request.body), "trailers": request.trailers}

@routes.get("/query")
def query(request):
    return {"query": request.query_list}

@routes.post("/json")
def json_(request):
    return {"value": request.json()}

@routes.get("/surrogate/{how}")
def surrogate(request):
    value = {"value": "a\\ud800b", "\\udfff": 1}
    return {"dict": lambda: value, "list": lambda: [value], "json": lambda: Response.json(value),
            "text": lambda: "a\\ud800b", "error": lambda: fail()}[request.params["how"]]()

def fail():
    raise HTTPError(400, "a\\ud800b")

variable = contextvars.ContextVar("variable", default="unset")

@routes.get("/context/{value}")
def context(request):
    before = variable.get(), decimal.getcontext().prec
    variable.set(request.params["value"])
    decimal.getcontext().prec = 5
    return {"before": before, "worker": os.getpid()}

@routes.get("/context-stream/{value}")
def context_stream(request):
    def pieces():
        yield json.dumps({"before": (variable.get(), decimal.getcontext().prec)})
        variable.set(request.params["value"])
        decimal.getcontext().prec = 5
        yield " "
    return Response(pieces())
"""
)


def started(prepare: Prepare, pool: str, *flags: str) -> Watched:
    service = prepare(pool, HANDLERS)
    service.start("-n", "1", "-m", "1", "-t", *flags)
    return service


def ask(service: Watched, path: str, *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *(fields or ("Host: test",)), "", ""])
    return request(service, head.encode("utf-8") + body)


# -- cookies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "joined"),
    [
        (["Cookie: a=1", "Cookie: b=2"], "a=1; b=2"),
        (["cookie: a=1", "X: y", "COOKIE: b=2", "Cookie: c=3; d=4"], "a=1; b=2; c=3; d=4"),
        (["Cookie: a=1"], "a=1"),
        (['Cookie: a="1,2"', "Cookie: b=2"], 'a="1,2"; b=2'),
    ],
)
def test_cookie_lines_are_joined_by_semicolons(prepare: Prepare, pool: str, lines: list[str], joined: str) -> None:
    """RFC 9113 8.2.3, and RFC 6265 4.2.1: a comma is no separator in Cookie. In all other fields it is."""
    service = started(prepare, pool)
    found = ask(service, "/cookie", "Host: test", *lines, "Accept: a", "Accept: b").json()
    assert found == {"get": joined, "item": joined, "all": joined, "accept": "a, b", "accept_of_all": "a, b"}


# -- hosts ------------------------------------------------------------------------------------------------


def test_host_may_hold_all_of_a_reg_name(prepare: Prepare, pool: str) -> None:
    """RFC 3986 3.2.2: unreserved characters, escapes, sub-delims; with a port or without."""
    service = started(prepare, pool)
    names = ["a_b", "a~b", "a-b.c", "127.0.0.1", "[::1]", "a%20b", "%E6%97%A5", *(f"a{c}b" for c in "!$&'()*+;=")]
    refused = []
    for name in names:
        for port in ("", ":80", ":"):
            answer = ask(service, "/host", f"Host: {name}{port}")
            if answer.status != 200 or answer.body.decode() != name + port:
                refused.append(name + port)
    assert refused == []


def test_host_that_is_none_stays_refused(prepare: Prepare) -> None:
    service = started(prepare, "prefork")
    names = [
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "a@b",
        "a\\b",
        "a%b",
        "a%zz",
        "a%2",
        "a:b",
        "a:80:80",
        "[::1",
        'a"b',
        "a<b",
        "日",
    ]
    accepted = [name for name in names if ask(service, "/host", f"Host: {name}").status != 400]
    assert accepted == []


# -- trailers ---------------------------------------------------------------------------------------------

HARMLESS = ["Content-Type", "Content-Encoding", "Content-Range", "Cache-Control", "Authorization", "Set-Cookie",
            "Date", "Expires", "Age", "Vary", "Max-Forwards", "If-Match", "Range", "Accept", "WWW-Authenticate",
            "TE", "Server-Timing", "Cookie"]  # fmt: skip
HARMFUL = ["Content-Length", "Transfer-Encoding", "Host"]


def with_trailer(service: Watched, line: str) -> Answer:
    data = b"5\r\nabcde\r\n0\r\nX-Sum: 1\r\n" + line.encode() + b"\r\n\r\n"
    return ask(service, "/trailers", "Host: test", "Transfer-Encoding: chunked", method="POST", body=data)


def test_trailer_that_does_not_belong_there_is_dropped(prepare: Prepare, pool: str) -> None:
    """RFC 9110 6.5.1: fields that control the message mean nothing after it, and do no harm."""
    service = started(prepare, pool)
    wrong = {}
    for name in HARMLESS:
        answer = with_trailer(service, f"{name}: 1")
        if answer.status != 200:
            wrong[name] = f"refused: {answer.status} {answer.body!r}"
            continue
        found = answer.json()
        names = [one.lower() for one, _ in found["trailers"]]
        assert found["body"] == 5
        assert "x-sum" in names
        if name not in ("Server-Timing", "Age", "Vary") and name.lower() in names:
            wrong[name] = "not dropped"
    assert {name: what for name, what in wrong.items() if what != "not dropped"} == {}
    assert not wrong, wrong


@pytest.mark.parametrize("name", HARMFUL)
def test_trailer_that_frames_or_routes_is_refused(prepare: Prepare, pool: str, name: str) -> None:
    service = started(prepare, pool)
    answer = with_trailer(service, f"{name}: 1")
    assert answer.status == 400
    assert name.lower() in answer.body.decode().lower() or "trailer" in answer.body.decode().lower()


# -- queries and targets ----------------------------------------------------------------------------------


def test_bare_per_cent_sign_in_a_query(prepare: Prepare, pool: str) -> None:
    """As browsers send it (WHATWG URL): what is no escape stands for itself."""
    service = started(prepare, pool)
    expected = {
        "discount=100%": [["discount", "100%"]],
        "discount=100%&a=b": [["discount", "100%"], ["a", "b"]],
        "q=%zz": [["q", "%zz"]],
        "q=%2": [["q", "%2"]],
        "q=%%20": [["q", "% "]],
        "%=1": [["%", "1"]],
        "q=50%25": [["q", "50%"]],
        "q=%u65e5": [["q", "%u65e5"]],
    }
    found = {}
    for text in expected:
        answer = ask(service, f"/query?{text}")
        found[text] = answer.json()["query"] if answer.status == 200 else answer.status
    assert found == expected


@pytest.mark.parametrize("target", ["/100%", "/%zz", "/a%2"])
def test_bare_per_cent_sign_in_a_path_says_so(prepare: Prepare, target: str) -> None:
    """RFC 3986 2.1: refused, or served; never with a reason that does not help."""
    answer = ask(started(prepare, "prefork"), target)
    assert answer.status in (400, 404)
    assert answer.status == 404 or "%" in answer.body.decode() or "escape" in answer.body.decode()


@pytest.mark.parametrize("target", ["/日本", "/query?q=日本", "/caf\u00e9"])
def test_bytes_beyond_ascii_in_a_target_are_named(prepare: Prepare, pool: str, target: str) -> None:
    """400 with a word that says so, for whoever wrote the client."""
    answer = ask(started(prepare, pool), target)
    assert answer.status == 400
    assert "ascii" in answer.body.decode().lower(), answer.body


# -- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [r'"\ud800"', r'"a\udfffb"', r'{"\ud800": 1}', r'["\ud83d", "\ude00"]'])
def test_lone_surrogate_of_a_client(prepare: Prepare, pool: str, text: str) -> None:
    """400 where it is read, or escaped where it is sent: never an error of ours."""
    service = started(prepare, pool)
    answer = ask(service, "/json", "Host: test", f"Content-Length: {len(text)}", method="POST", body=text.encode())
    assert answer.status in (200, 400), answer
    if answer.status == 200:
        assert r"\ud" in answer.body.decode("utf-8")


@pytest.mark.parametrize("how", ["dict", "list", "json"])
def test_lone_surrogate_in_json_is_escaped(prepare: Prepare, pool: str, how: str) -> None:
    answer = ask(started(prepare, pool), f"/surrogate/{how}")
    assert answer.status == 200
    found = answer.json()
    assert (found[0] if how == "list" else found)["value"] == "a\ud800b"


@pytest.mark.parametrize("how", ["text", "error"])
def test_lone_surrogate_in_text_is_answered(prepare: Prepare, pool: str, how: str) -> None:
    """A text cannot escape it: replaced, or an error of the handler; the client gets an answer and not a reset."""
    service = started(prepare, pool)
    service.expect_errors = True
    assert ask(service, f"/surrogate/{how}").status in (200, 400, 500)
    assert ask(service, "/").status == 200


@pytest.mark.parametrize("path", ["/context", "/context-stream"])
def test_context_of_a_request_is_its_own(prepare: Prepare, pool: str, path: str) -> None:
    """What a handler, or its generator, sets in a context variable is not seen by the next client's, nor by the next
    request on the same connection."""
    service = started(prepare, pool)
    seen = []
    with Wire(service.address, SOON) as kept:
        for number in range(3):
            seen.append(kept.get(f"{path}/kept{number}").json()["before"])
            seen.append(ask(service, f"{path}/fresh{number}").json()["before"])
    assert seen == [["unset", 28]] * 6


# -- where it listens, and where it was started -----------------------------------------------------------


def test_interface_by_name_listens_on_all_its_addresses(prepare: Prepare, pool: str) -> None:
    """The addresses of «localhost», as this machine knows them."""
    found = {entry[4][0] for entry in socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)}
    if len(found) < 2:
        pytest.skip(f"localhost is {found} only")
    service = prepare(pool, HANDLERS)
    service.start("-n", "1", "-t", address=("-i", "localhost", "-p", "0"))
    for address in found:
        socket.create_connection((str(address), service.port), SOON).close()


@pytest.mark.parametrize("how", ["deleted", "link moved on", "replaced"])
def test_reload_after_the_start_directory_is_gone(prepare: Prepare, pool: str, how: str) -> None:
    """Deploys by a link: a reload works, or says which directory it misses; the old generation serves on."""
    service = prepare(pool, HANDLERS)
    service.expect_errors = True
    first, second, link = (Path(service.directory, name) for name in ("first", "second", "current"))
    first.mkdir()
    second.mkdir()
    link.symlink_to(first)
    service.watch("-n", "1", cwd=link)
    mark = service.log.mark()
    if how == "link moved on":
        link.unlink()
        link.symlink_to(second)
    first.rmdir()
    if how == "replaced":
        first.mkdir()
    done = service.ctl("reload")
    assert "Traceback" not in done.stderr + done.stdout + "\n".join(service.log.lines[mark:])
    if done.returncode == 0:
        service.wait_ready(2)
        service.wait_alone()
    else:
        assert str(first) in done.stderr + done.stdout or str(link) in done.stderr + done.stdout, done
    assert ask(service, "/").status == 200
