"""What a request says of itself, and what kinds of parameters its path has."""

from typing import Any
from uuid import UUID

import pytest

from {{ cookiecutter.package_name }}.runtime.http import HTTPError, Request, Response, Router
from {{ cookiecutter.package_name }}.runtime.http1.parser import Limits, parse_head


def made(line: str, *fields: str, body: bytes = b"", peer: Any = ("192.0.2.1", 5)) -> Request:
    parsed = parse_head("\r\n".join([line, "Host: a:80", *fields, "", ""]).encode("latin-1"), Limits())
    assert parsed
    return Request(parsed[0], body, None, peer, None)


def test_parts_of_a_request() -> None:
    request = made("GET /a%20b/%C3%A4?q=%20&r HTTP/1.1")
    assert (request.raw_path, request.path) == ("/a%20b/%C3%A4", "/a b/\u00e4")
    assert (request.raw_query, request.query) == ("q=%20&r", {"q": " ", "r": ""})
    assert (request.scheme, request.host, request.url) == ("http", "a:80", "http://a:80/a%20b/%C3%A4?q=%20&r")
    assert (request.http_version, request.client, request.local) == ("1.1", "192.0.2.1", "")
    request = made("GET HTTPS://b/x HTTP/1.0", peer="")
    assert (request.scheme, request.host, request.url) == ("https", "b", "https://b/x")
    assert (request.http_version, request.client, request.peer) == ("1.0", "", "")


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("a=b", {"a": "b"}),
        ("a=b; c=d", {"a": "b", "c": "d"}),
        ("a=b;c=d ;  e=f", {"a": "b", "c": "d", "e": "f"}),
        ("a=1; a=2", {"a": "1"}),
        ('a="b c"; d="', {"a": "b c", "d": '"'}),
        ("a=b=c", {"a": "b=c"}),
        ("a=", {"a": ""}),
        ("a; b=c;; =x", {"b": "c", "": "x"}),
        ("", {}),
    ],
)
def test_cookies(field: str, expected: dict[str, str]) -> None:
    assert made("GET / HTTP/1.1", f"Cookie: {field}").cookies == expected
    assert made("GET / HTTP/1.1").cookies == {}


def test_content_types() -> None:
    for value, expected in {"Text/HTML; charset=x": "text/html", "text/plain": "text/plain", "": ""}.items():
        assert made("POST / HTTP/1.1", f"Content-Type: {value}").content_type == expected
    assert made("POST / HTTP/1.1").content_type == ""


def test_the_body_as_a_file() -> None:
    request = made("POST / HTTP/1.1", "Content-Length: 16", body=b"first\nsecond\nend")
    assert request.stream.readlines() == [b"first\n", b"second\n", b"end"]


SINCE = "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("method", "field", "given", "status"),
    [
        ("PUT", 'If-Match: "7"', {"etag": '"7"'}, 0),
        ("PUT", 'If-Match: "6"', {"etag": '"7"'}, 412),
        ("PUT", "If-Match: *", {"exists": False}, 412),
        ("PUT", "If-None-Match: *", {"exists": False}, 0),
        ("PUT", "If-None-Match: *", {"etag": '"7"'}, 412),
        ("PUT", SINCE, {"modified": 784111777}, 0),
        ("PUT", SINCE, {"modified": 784111778.5}, 412),
        ("GET", 'If-None-Match: "7"', {"etag": '"7"'}, 304),
        ("PUT", "X: y", {"etag": '"7"'}, 0),
    ],
)
def test_checks_before_a_change(method: str, field: str, given: dict[str, Any], status: int) -> None:
    request = made(f"{method} / HTTP/1.1", field)
    if not status:
        request.check(**given)
        return
    with pytest.raises(HTTPError) as caught:
        request.check(**given)
    assert caught.value.status == status


DAY = "/d/{y:int}-{m:int}-{d:int}"
ID = "123e4567-e89b-12d3-a456-426614174000"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/u/7", ("/u/{id:int}", {"id": 7})),
        ("/u/007", ("/u/{id:int}", {"id": 7})),
        ("/u/me", ("/u/{name}", {"name": "me"})),
        ("/u/-7", ("/u/{name}", {"name": "-7"})),
        ("/u/1234567890123456789", ("/u/{name}", {"name": "1234567890123456789"})),
        ("/u/%37", ("/u/{id:int}", {"id": 7})),
        ("/u/\u0667", ("/u/{name}", {"name": "\u0667"})),
        ("/u/a%2Fb", None),
        ("/a/a%2Fb", ("/a/{x:any}", {"x": "a/b"})),
        ("/a/b/c", None),
        (f"/i/{ID}", ("/i/{u:uuid}", {"u": UUID(ID)})),
        ("/i/7", None),
        ("/d/2026-11-28", (DAY, {"y": 2026, "m": 11, "d": 28})),
        ("/d/2026-11-x", None),
        ("/f/a%2fb/c", ("/f/{p:path}", {"p": "a/b/c"})),
    ],
)
def test_kinds_of_parameters(path: str, found: tuple[str, dict[str, Any]] | None) -> None:
    routes = Router()
    for pattern in ("/u/{name}", "/u/{id:int}", "/a/{x:any}", "/i/{u:uuid}", DAY, "/f/{p:path}"):
        routes.add("GET", pattern, lambda request: None)
    matched = routes.match(path)
    assert (matched and (matched[0].path, matched[1])) == found


@pytest.mark.parametrize(
    "path", ["/u/{id:integer}", "/u/<int:id>", "/u/<id>", "/u/:id", "/u/{id:}", "/u/{a:any}-{b}", "/u/{:int}"]
)
def test_other_notations_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"parameter"):
        Router().add("GET", path, lambda request: Response())
