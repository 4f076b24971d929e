"""Hooks over the wire: on what handlers, and what the runtime in their place, answer; in each pool."""

from __future__ import annotations

import zlib

import pytest
from harness import Answer, Service

HANDLERS = r"""
from .runtime.http import HTTPError, Request, Response, Router, gzipped

api = Router()
routes = Router()
routes.after(gzipped())

@routes.after
def mark(request, response):
    response.headers.append(("X-Mark", request.method))

@routes.error(404)
def lost(request, error):
    return {"lost": request.path}

@api.before
def guard(request):
    if "x-key" not in request.headers:
        raise HTTPError(401, "no key", {"WWW-Authenticate": "Key"})

@api.get("/slow")
def slow(request):
    def pieces():
        for number in range(1000):
            yield "number %d\n" % number
    return Response(pieces(), content_type="text/plain")

@api.get("/bug")
def bug(request):
    raise LookupError("secret")

@routes.get("/")
def index(request):
    return "index"

routes.mount("/api", api)
"""
EXPECT_ERRORS = True
KEY = "X-Key: 1\r\n"


def ask(http: Service, method: str, target: str, fields: str = "") -> Answer:
    with http.wire() as wire:
        return wire.send(f"{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").answer(method)


@pytest.mark.parametrize(
    ("method", "target", "fields", "status"),
    [
        ("GET", "/", "", 200),
        ("HEAD", "/", "", 200),
        ("DELETE", "/", "", 405),
        ("OPTIONS", "/", "", 204),
        ("BREW", "/", "", 501),
        ("GET", "/nowhere", "", 404),
        ("GET", "/api/bug", "", 401),
        ("GET", "/api/nowhere", "", 401),
        ("GET", "/api/nowhere", KEY, 404),
        ("GET", "/api/bug", KEY, 500),
        ("GET", "/api/slow", KEY, 200),
    ],
)
def test_every_answer_has_the_mark(http: Service, method: str, target: str, fields: str, status: int) -> None:
    answer = ask(http, method, target, fields)
    assert (answer.status, answer.header("x-mark")) == (status, method)
    assert b"secret" not in answer.body
    if status == 404:
        assert answer.json() == {"lost": target}


def test_a_stream_is_compressed(http: Service) -> None:
    answer = ask(http, "GET", "/api/slow", KEY + "Accept-Encoding: gzip\r\n")
    assert answer.header("content-encoding") == "gzip"
    assert zlib.decompress(answer.body, 31).decode() == "".join(f"number {number}\n" for number in range(1000))


def test_a_hook_with_wrong_parameters_is_named(service: Service) -> None:
    service.handlers(HANDLERS + "\n@routes.before\ndef wrong():\n    pass\n")
    done = service.run("-x", "--check")
    assert done.returncode == 70
    assert "wrong, a hook of `before`, is called as wrong(request): its parameters do not fit" in done.stderr
