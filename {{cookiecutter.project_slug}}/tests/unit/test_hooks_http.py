"""Hooks see every answer, in the order of their layers, and cost nothing where there are none."""

import gzip
import zlib
from typing import Any

import pytest

from {{ cookiecutter.package_name }}.runtime.http import HTTPError, Request, Response, Router, gzipped
from {{ cookiecutter.package_name }}.runtime.testing import Client


def router() -> Router:
    """With what a handler can do wrong."""
    routes = Router()

    @routes.get("/ok")
    def ok(request: Request) -> str:
        return "ok"

    @routes.post("/ok")
    def posted(request: Request) -> Any:
        return request.json()

    @routes.get("/teapot")
    def teapot(request: Request) -> str:
        raise HTTPError(418, "short and stout", {"X-Own": "1"})

    @routes.get("/bug")
    def bug(request: Request) -> str:
        raise KeyError("secret")

    @routes.get("/wrong")
    def wrong(request: Request) -> Any:
        return 5

    return routes


def test_without_hooks_handlers_stay_what_they_are() -> None:
    routes = router()
    before = {route.path: dict(route.handlers) for route in routes.routes}
    routes.seal()
    assert before == {route.path: route.handlers for route in routes.routes}


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/ok", 200),
        ("HEAD", "/ok", 200),
        ("OPTIONS", "/ok", 204),
        ("OPTIONS", "*", 204),
        ("GET", "/nowhere", 404),
        ("DELETE", "/ok", 405),
        ("TRACE", "/ok", 405),
        ("BREW", "/ok", 501),
        ("POST", "/ok", 400),
        ("GET", "/teapot", 418),
        ("GET", "/bug", 500),
        ("GET", "/wrong", 500),
    ],
)
def test_after_sees_every_answer(method: str, target: str, status: int) -> None:
    routes = router()
    seen = []

    @routes.before
    def begin(request: Request) -> None:
        seen.append(request.method)

    @routes.after
    def end(request: Request, response: Response) -> None:
        seen.append(str(response.status))
        response.headers.append(("X-Seen", "yes"))

    answer = routes.client().request(method, target)
    assert (answer.status, answer.headers["x-seen"]) == (status, "yes")
    assert seen == [method, str(status)]
    assert "secret" not in answer.text


def test_the_order_of_layers() -> None:
    seen = []

    def hook(name: str) -> Any:
        return lambda *_: seen.append(name)

    inner, middle, outer = Router(), Router(), Router()
    for name, routes in (("inner", inner), ("middle", middle), ("outer", outer)):
        for number in "12":
            routes.before(hook(f"{name} before {number}"))
            routes.after(hook(f"{name} after {number}"))
    inner.add("GET", "/x/{id}", lambda request: seen.append(request.params["id"]), before=[hook("own")])
    outer.add("GET", "/y", lambda request: None)
    middle.mount("/c", inner)
    outer.mount("/a/b", middle)
    client = outer.client()
    assert client.get("/a/b/c/x/7").status == 204
    order = ["outer", "middle", "inner"]
    before = [f"{name} before {number}" for name in order for number in "12"]
    after = [f"{name} after {number}" for name in reversed(order) for number in "21"]
    assert seen == [*before, "own", "7", *after]
    for target, layers in {
        "/y": order[:1], "/a/b/c/nowhere": order, "/a/b/nowhere": order[:2], "/a/bc": order[:1], "/nowhere": order[:1],
    }.items():  # fmt: skip
        seen.clear()
        client.get(target)
        assert [name for name in seen if name.endswith("before 1")] == [f"{name} before 1" for name in layers], target


def test_mounting() -> None:
    api, routes = Router(), Router()
    api.add("GET", "/x", lambda request: "api")
    api.add("GET", "/", lambda request: "root")
    routes.add("POST", "/api/x", lambda request: "posted")
    routes.mount("/api", api)
    client = routes.client()
    assert client.get("/api/x").text == "api"
    assert client.get("/api/").text == "root"
    assert client.post("/api/x").text == "posted"
    assert client.delete("/api/x").headers["allow"] == "GET, HEAD, OPTIONS, POST"
    with pytest.raises(ValueError, match="mounted already"):
        api.get("/later")(lambda request: None)
    with pytest.raises(ValueError, match="two handlers"):
        routes.mount("/api", api)
    for wrong in ("", "/", "api", "/api/", "/{x}"):
        with pytest.raises(ValueError, match="prefix"):
            routes.mount(wrong, Router())


def test_before_answers() -> None:
    routes = router()
    seen = []

    @routes.before
    def guard(request: Request) -> Response | None:
        if request.headers.get("authorization") != "Bearer x":
            return Response("no", 401, {"WWW-Authenticate": "Bearer"})
        return None

    routes.before(lambda request: seen.append("second"))
    routes.after(lambda request, response: response.headers.append(("X-After", "1")))
    client = routes.client()
    for target in ("/ok", "/nowhere", "/bug"):
        answer = client.get(target)
        assert (answer.status, answer.headers["x-after"], seen) == (401, "1", [])
    assert client.get("/ok", headers={"Authorization": "Bearer x"}).text == "ok"
    assert seen == ["second"]


def test_hooks_that_raise() -> None:
    for kind, status in ((HTTPError(403), 403), (ZeroDivisionError(), 500)):

        def fail(*_: Any, error: Exception = kind) -> None:
            raise error

        routes = router()
        routes.before(fail)
        routes.after(lambda request, response: Response("replaced", response.status))
        answer = routes.client().get("/ok")
        assert (answer.status, answer.text) == (status, "replaced")
    routes = router()
    routes.after(lambda request, response: response.headers.append(("X-Last", "1")))
    routes.after(fail)
    answer = routes.client().get("/ok")
    assert (answer.status, answer.headers["x-last"]) == (500, "1")


def test_errors() -> None:
    api, routes = router(), router()

    @routes.error(404)
    def not_found(request: Request, error: Exception) -> dict[str, str]:
        return {"missing": request.path}

    @routes.error(405)
    def not_allowed(request: Request, error: HTTPError) -> str:
        return error.detail or "not that"

    @routes.error(LookupError)
    def lookup(request: Request, error: Exception) -> Response:
        return Response("no such key", 422)

    @routes.error(500)
    def failed(request: Request, error: Exception) -> str:
        return f"sorry: {type(error).__name__}"

    @routes.error(HTTPError)
    def other(request: Request, error: HTTPError) -> str:
        return f"other: {error.detail}"

    @api.error(KeyError)
    def key(request: Request, error: KeyError) -> str:
        raise HTTPError(409, "twice")

    @api.error(TypeError)
    def fails(request: Request, error: TypeError) -> str:
        raise error

    routes.mount("/api", api)
    client = routes.client()
    answer = client.get("/nowhere")
    assert (answer.status, answer.json()) == (404, {"missing": "/nowhere"})
    assert client.get("/api/nowhere").json() == {"missing": "/api/nowhere"}
    answer = client.delete("/ok")
    assert (answer.status, answer.text, answer.headers["allow"]) == (405, "not that", "GET, HEAD, OPTIONS, POST")
    answer = client.get("/bug")
    assert (answer.status, answer.text) == (422, "no such key")
    answer = client.get("/wrong")
    assert (answer.status, answer.text) == (500, "sorry: TypeError")
    answer = client.get("/teapot")
    assert (answer.status, answer.text, answer.headers["x-own"]) == (418, "other: short and stout", "1")
    assert client.get("/api/bug").status == 409
    assert client.get("/api/wrong").status == 500


def gzip_client(response: Response, **limits: int) -> Client:
    routes = Router()
    routes.add("GET", "/", lambda request: response)
    routes.after(gzipped(**limits))
    return routes.client()


TEXT = "some words, " * 1000


@pytest.mark.parametrize(
    "response",
    [
        Response(TEXT),
        Response(TEXT.encode(), content_type="application/json"),
        Response(TEXT.encode(), content_type="image/svg+xml"),
        Response(TEXT, headers={"Content-Type": "text/html"}),
        Response(TEXT, 404),
    ],
)
def test_what_is_compressed(response: Response) -> None:
    response.headers.append(("ETag", '"1"'))
    client = gzip_client(response)
    answer = client.get("/", headers={"Accept-Encoding": "br, gzip"})
    assert gzip.decompress(answer.body).decode() == TEXT
    assert (answer.headers["content-encoding"], answer.headers["etag"]) == ("gzip", 'W/"1"')
    assert answer.headers["vary"] == "Accept-Encoding"
    assert int(answer.headers["content-length"]) == len(answer.body) < 500


@pytest.mark.parametrize(
    ("response", "accept"),
    [
        (Response(TEXT), "identity"),
        (Response(TEXT), "gzip;q=0"),
        (Response("short"), "gzip"),
        (Response(TEXT * 100), "gzip"),
        (Response(TEXT, content_type="image/png"), "gzip"),
        (Response(TEXT, headers={"Content-Encoding": "br"}), "gzip"),
        (Response(TEXT, headers={"Cache-Control": "no-transform"}), "gzip"),
        (Response(TEXT, 206, {"Content-Range": "bytes 0-1/2"}), "gzip"),
    ],
)
def test_what_is_not_compressed(response: Response, accept: str) -> None:
    answer = gzip_client(response).get("/", headers={"Accept-Encoding": accept})
    assert answer.headers.get("content-encoding") != "gzip"
    assert answer.text == response.body


def test_streams_are_compressed_as_they_come() -> None:
    made: list[Any] = []

    def pieces() -> Any:
        for number in range(3):
            made.append(number)
            yield f"piece {number} " * 100
            yield b""
        made.append("closed")

    response = Response(pieces(), content_type="text/plain")
    gzipped()(Request.__new__(Request), Response())
    answer = gzip_client(response).get("/", headers={"Accept-Encoding": "gzip"})
    assert zlib.decompress(answer.body, 31).decode() == "".join(f"piece {number} " * 100 for number in range(3))
    assert made == [0, 1, 2, "closed"]
