"""Texts of header fields: cookies, file names, preferences, locations."""

from datetime import UTC, datetime

import pytest

from {{ cookiecutter.package_name }}.runtime.http import Response
from {{ cookiecutter.package_name }}.runtime.web.fields import disposition, preferred, reference


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "a=b; Path=/; HttpOnly; SameSite=Lax"),
        ({"value": ""}, "a=; Path=/; HttpOnly; SameSite=Lax"),
        ({"value": '"x"'}, 'a="x"; Path=/; HttpOnly; SameSite=Lax'),
        ({"max_age": 60, "secure": True}, "a=b; Max-Age=60; Path=/; Secure; HttpOnly; SameSite=Lax"),
        ({"max_age": 0, "httponly": False, "samesite": "strict"}, "a=b; Max-Age=0; Path=/; SameSite=Strict"),
        ({"expires": 784111777, "path": ""}, "a=b; Expires=Sun, 06 Nov 1994 08:49:37 GMT; HttpOnly; SameSite=Lax"),
        (
            {"expires": datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC), "samesite": ""},
            "a=b; Expires=Sun, 06 Nov 1994 08:49:37 GMT; Path=/; HttpOnly",
        ),
        ({"domain": "example.com"}, "a=b; Domain=example.com; Path=/; HttpOnly; SameSite=Lax"),
        ({"samesite": "None", "secure": True}, "a=b; Path=/; Secure; HttpOnly; SameSite=None"),
        ({"partitioned": True, "secure": True}, "a=b; Path=/; Secure; HttpOnly; SameSite=Lax; Partitioned"),
        ({"name": "__Host-a", "secure": True}, "__Host-a=b; Path=/; Secure; HttpOnly; SameSite=Lax"),
    ],
)
def test_cookies(given: dict[str, object], expected: str) -> None:
    response = Response()
    response.set_cookie(**{"name": "a", "value": "b", **given})  # type: ignore[arg-type]
    assert response.headers == [("Set-Cookie", expected)]


@pytest.mark.parametrize(
    "given",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "a=b"},
        {"name": "\u00e4"},
        {"value": "a b"},
        {"value": "a;b"},
        {"value": "a,b"},
        {"value": 'a"b'},
        {"value": "a\\b"},
        {"value": "a\r\nSet-Cookie: c=d"},
        {"value": "\u00e4"},
        {"value": "x" * 4096},
        {"domain": "example.com; Secure"},
        {"domain": "-\u00e4"},
        {"path": "a"},
        {"path": "/;x"},
        {"path": "/\r\n"},
        {"samesite": "none"},
        {"samesite": "sometimes"},
        {"partitioned": True},
        {"name": "__Secure-a"},
        {"name": "__Host-a"},
        {"name": "__Host-a", "secure": True, "domain": "example.com"},
        {"name": "__Host-a", "secure": True, "path": "/x"},
    ],
)
def test_cookies_that_browsers_ignore(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cookie"):
        Response().set_cookie(**{"name": "a", "value": "b", **given})  # type: ignore[arg-type]


def test_deleting_a_cookie() -> None:
    response = Response()
    response.delete_cookie("a", path="/x")
    ((_, value),) = response.headers
    assert "Max-Age=0" in value and "Expires=Thu, 01 Jan 1970 00:00:00 GMT" in value and "Path=/x" in value


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # RFC 6266, RFC 8187
        ("a.txt", 'attachment; filename="a.txt"'),
        ("a b.txt", 'attachment; filename="a b.txt"'),
        ("\u00dcbung.pdf", "attachment; filename=\"Ubung.pdf\"; filename*=UTF-8''%C3%9Cbung.pdf"),
        ("\u20ac rates", "attachment; filename=\" rates\"; filename*=UTF-8''%E2%82%AC%20rates"),
        ("\u4f60", "attachment; filename=\"_\"; filename*=UTF-8''%E4%BD%A0"),
        ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
        ("../../etc/passwd", 'attachment; filename=".._.._etc_passwd"'),
        ("a\\b", 'attachment; filename="a_b"'),
        ('a"; filename="b', 'attachment; filename="a_; filename=_b"'),
        ("a\r\nX: y", 'attachment; filename="a__X: y"'),
        ("", 'attachment; filename="_"'),
    ],
)
def test_dispositions(name: str, expected: str) -> None:
    assert disposition(name) == expected
    assert disposition(name, inline=True) == expected.replace("attachment", "inline", 1)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [  # RFC 9110 12.5.3
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip, br", "br"),
        ("gzip;q=1, br;q=0.5", "gzip"),
        ("gzip;q=0", ""),
        ("gzip;q=0, *", "br"),
        ("*", "br"),
        ("*;q=0", ""),
        ("identity", ""),
        ("identity;q=0.5, gzip;q=0.2", ""),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("gzip;q=2", ""),
        ("gzip;q=nonsense", ""),
        ("gzip ; q=0.8", "gzip"),
        ("deflate", ""),
        (",,", ""),
        ("", ""),
    ],
)
def test_content_codings(accept: str, expected: str) -> None:
    assert preferred(accept, ["br", "gzip"]) == expected


def test_redirects() -> None:
    response = Response.redirect("/orders/7")
    assert (response.status, response.headers) == (303, [("Location", "/orders/7")])
    assert Response.redirect("/\u00e4 b?c=\u20ac", 308).headers == [("Location", "/%C3%A4%20b?c=%E2%82%AC")]
    assert reference("/already%20encoded?a=b&c#d") == "/already%20encoded?a=b&c#d"
    for status in (200, 300, 304, 305, 306, 404):
        with pytest.raises(ValueError, match="redirect"):
            Response.redirect("/", status)
    with pytest.raises(ValueError, match="control"):
        Response.redirect("/\r\nSet-Cookie: a=b")


def test_reasons_and_lengths() -> None:
    assert Response(reason="Fine").reason == "Fine"
    assert Response(headers={"Content-Length": "12"}).headers == [("Content-Length", "12")]
    with pytest.raises(ValueError, match="reason"):
        Response(reason="a\r\nb")
    for wrong in ("-1", "1, 1", "0x1", "", "9" * 30):
        with pytest.raises(ValueError, match="number of bytes"):
            Response(headers={"Content-Length": wrong})
