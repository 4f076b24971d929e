"""Files over the wire: static directories that cannot be left, ranges, conditions, lengths that handlers give."""

from __future__ import annotations

import contextlib
import re

import pytest
from harness import Answer, Service

HANDLERS = r"""
from .runtime.http import HTTPError, Request, Response, Router
import gzip, os, pathlib, shutil, socket

HERE = pathlib.Path(__file__).parent
ROOT = HERE / "assets"
DATA = bytes(range(256)) * 1024
shutil.rmtree(ROOT, ignore_errors=True)
(ROOT / "docs").mkdir(parents=True)
(ROOT / "empty").mkdir()
(ROOT / "data.bin").write_bytes(DATA)
(ROOT / "nothing.txt").write_bytes(b"")
(ROOT / "docs/index.html").write_text("<p>index")
(ROOT / "docs/a b\u00e4.txt").write_text("spaced")
(ROOT / "docs/back\\slash.txt").write_text("backslash")
(ROOT / "..strange").write_text("hidden")
(ROOT / ".env").write_text("hidden")
(ROOT / ".well-known").mkdir()
(ROOT / ".well-known/security.txt").write_text("Contact")
(ROOT / "app.js").write_text("let a" * 100)
(ROOT / "app.js.gz").write_bytes(gzip.compress(b"let a" * 100))
(ROOT / "app.js.br").write_bytes(b"as if brotli")
(ROOT / "stale.css").write_text("new")
(ROOT / "stale.css.gz").write_bytes(gzip.compress(b"old"))
os.utime(ROOT / "stale.css.gz", (1, 1))
os.mkfifo(ROOT / "fifo")
(ROOT / "dir-link").symlink_to("docs")
(ROOT / "file-link").symlink_to(ROOT / "docs" / "index.html")
(ROOT / "outside").symlink_to("/etc/hostname")
(ROOT / "outside-dir").symlink_to("/etc")
(ROOT / "up").symlink_to("..")
(ROOT / "docs/secret").symlink_to("../../handlers.py")
(ROOT / "sibling").symlink_to("../assets-too")
(ROOT / "chain").symlink_to("outside")
(ROOT / "circle").symlink_to("circle")
(ROOT / "proc").symlink_to("/proc/self/root/etc/hostname")
(ROOT / "dangling").symlink_to("nowhere")
(HERE / "assets-too").mkdir(exist_ok=True)
(HERE / "assets-too/a.txt").write_text("a sibling's")
for name in ("data.bin", "docs/index.html"):
    os.utime(ROOT / name, (784111777, 784111777))

routes = Router()
routes.static("/assets/", "assets", cache="max-age=60")
routes.static("/plain", ROOT, index="", cache="", precompressed=False)

@routes.get("/")
def index(request):
    return "index"

@routes.get("/file/{name:path}")
def file(request):
    return Response.file(request.params["name"], root=ROOT)

@routes.get("/download")
def download(request):
    return Response.file(ROOT / "data.bin", filename="\u00dcbung 1.bin", headers={"ETag": '"own"'})

@routes.get("/tagged")
def tagged(request):
    return Response.json({"a": 1}, headers={"ETag": 'W/"7"', "Cache-Control": "no-cache", "Content-Language": "en"})

@routes.post("/tagged")
def changed(request):
    return Response(b"changed", headers={"ETag": '"8"'})

@routes.get("/stream/{size:path}")
def stream(request):
    def pieces():
        yield b"0123"
        yield b""
        yield "4567"
    headers = {"Content-Length": request.params["size"]} if request.params["size"] else {}
    return Response(pieces(), headers=headers)

@routes.route("HEAD", "/sized")
def sized(request):
    return Response(headers={"Content-Length": "123456"})

@routes.get("/reason")
def reason(request):
    return Response(b"", 299, reason="Quite Fine")

@routes.get("/go")
def go(request):
    return Response.redirect("/somewhere?a=\u00e4")
"""
EXPECT_ERRORS = True
DATA = bytes(range(256)) * 1024
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


def ask(http: Service, target: str, method: str = "GET", **fields: str) -> Answer:
    """One request, and its connection goes on."""
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *(f"{k.replace('_', '-')}: {v}" for k, v in fields.items())]
    with http.wire() as wire:
        answer = wire.send("\r\n".join(lines) + "\r\n\r\n").answer(method)
        assert wire.get("/").body == b"index"
        return answer


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("docs/index.html", b"<p>index"),
        ("docs/", b"<p>index"),
        ("dir-link/", b"<p>index"),
        ("file-link", b"<p>index"),
        ("docs/a%20b%C3%A4.txt", b"spaced"),
        ("docs/back%5Cslash.txt", b"backslash"),
        ("nothing.txt", b""),
        ("%64ata.bin", DATA),
        (".well-known/security.txt", b"Contact"),
        ("docs/index.html?v=1", b"<p>index"),
    ],
)
def test_what_is_served(http: Service, path: str, body: bytes) -> None:
    answer = ask(http, f"/assets/{path}")
    assert (answer.status, answer.body) == (200, body)
    assert answer.header("cache-control") == "max-age=60"
    assert ask(http, f"/assets/{path}", "HEAD").header("content-length") == str(len(body))


# With `root` a handler decides itself which names it serves; these are below it.
BELOW = ("..strange", ".env", "docs%2findex.html", "docs%2Findex.html")


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../",
        "../handlers.py",
        "../../handlers.py",
        "../assets-too/a.txt",
        "docs/../../handlers.py",
        "docs/../data.bin",
        "./data.bin",
        ".",
        "//etc/hostname",
        "/etc/hostname",
        "docs//index.html",
        "%2e%2e/handlers.py",
        "%2E%2E%2Fhandlers.py",
        "..%2fhandlers.py",
        "docs%2findex.html",
        "docs%2Findex.html",
        "%2fetc%2fhostname",
        "..%5chandlers.py",
        "..%5Cassets-too%5Ca.txt",
        "%252e%252e%252fhandlers.py",
        "%252e%252e/handlers.py",
        "..%c0%afhandlers.py",
        "..%ef%bc%8fhandlers.py",
        "%c0%ae%c0%ae/handlers.py",
        "..;/handlers.py",
        "data.bin%00",
        "data.bin%00.txt",
        "%00",
        "data.bin/",
        "data.bin/x",
        "data.bin%20",
        "..strange",
        ".env",
        "docs/.env",
        "outside",
        "outside-dir/hostname",
        "up/handlers.py",
        "up/assets/data.bin/..",
        "docs/secret",
        "sibling/a.txt",
        "chain",
        "circle",
        "proc",
        "dangling",
        "fifo",
        "empty",
        "empty/",
        "nowhere",
        "nowhere/",
        "x" * 300,
        "/".join(["x"] * 2000),
        "%ff",
        "%F0%9F",
        "",
    ],
)
def test_what_is_not_found(http: Service, path: str) -> None:
    for prefix in ("/assets", "/plain"):
        answer = ask(http, f"{prefix}/{path}")
        assert answer.status == 404, answer
    if path not in BELOW:
        assert ask(http, f"/file/{path}").status == 404


def test_links_are_followed_inside(http: Service) -> None:
    """An absolute link that leads back into the directory too; and through a link to its parent."""
    assert ask(http, "/assets/up/assets/data.bin").status == 200
    assert ask(http, "/file/up/assets/data.bin").status == 200
    assert ask(http, "/file/up/handlers.py").status == 404


def test_a_directory_leads_to_its_index(http: Service) -> None:
    answer = ask(http, "/assets/docs?a=b")
    assert (answer.status, answer.header("location")) == (301, "/assets/docs/?a=b")
    assert ask(http, "/assets/dir-link").header("location") == "/assets/dir-link/"
    assert ask(http, "/plain/docs").status == 404
    assert ask(http, "/plain/docs/").status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_files_are_read_only(http: Service, method: str) -> None:
    answer = ask(http, "/assets/data.bin", method, Content_Length="0")
    assert (answer.status, answer.header("allow")) == (405, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    ("accept", "coding", "body"),
    [
        ("gzip", "gzip", None),
        ("gzip, deflate, br", "br", b"as if brotli"),
        ("br;q=0, gzip", "gzip", None),
        ("zstd", None, b"let a" * 100),
        ("identity", None, b"let a" * 100),
    ],
)
def test_compressed_variants(http: Service, accept: str, coding: str | None, body: bytes | None) -> None:
    answer = ask(http, "/assets/app.js", Accept_Encoding=accept)
    assert answer.header("content-encoding") == coding
    assert answer.header("content-type") == "text/javascript; charset=utf-8"
    assert answer.header("vary") == "Accept-Encoding"
    assert body is None or answer.body == body
    whole = ask(http, "/assets/app.js")
    assert (whole.header("etag") == answer.header("etag")) == (coding is None)
    assert whole.header("vary") == "Accept-Encoding"
    part = ask(http, "/assets/app.js", Accept_Encoding=accept, Range="bytes=1-3")
    assert (part.status, part.body, part.header("content-encoding")) == (206, answer.body[1:4], coding)


def test_variants_that_are_not_used(http: Service) -> None:
    answer = ask(http, "/assets/stale.css", Accept_Encoding="gzip")
    assert (answer.body, answer.header("content-encoding")) == (b"new", None)
    assert ask(http, "/plain/app.js", Accept_Encoding="gzip").header("vary") is None
    assert ask(http, "/assets/app.js.gz").header("content-type") == "application/gzip"


@pytest.mark.parametrize("path", ["/assets/data.bin", "/file/data.bin"])
@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-1999", 1000, 2000),
        ("bytes=-1", 262143, 262144),
        ("bytes=262100-", 262100, 262144),
        ("bytes=0-", 0, 262144),
    ],
)
def test_a_range(http: Service, path: str, wanted: str, start: int, stop: int) -> None:
    answer = ask(http, path, Range=wanted)
    assert (answer.status, answer.body) == (206, DATA[start:stop])
    assert answer.header("content-range") == f"bytes {start}-{stop - 1}/262144"
    assert answer.header("last-modified") == DATE
    assert re.fullmatch('"[0-9a-f]+-[0-9a-f]+"', answer.header("etag") or "")
    head = ask(http, path, "HEAD", Range=wanted)
    assert (head.status, head.header("content-length"), head.header("accept-ranges")) == (200, "262144", "bytes")


def test_several_ranges(http: Service) -> None:
    answer = ask(http, "/assets/data.bin", Range="bytes=100000-199999,0-9,-3")
    boundary = re.fullmatch("multipart/byteranges; boundary=(.+)", answer.header("content-type") or "")
    assert answer.status == 206 and boundary and answer.header("content-range") is None
    *parts, end = (b"\r\n" + answer.body).split(b"\r\n--" + boundary[1].encode())
    assert end == b"--\r\n"
    found = [part.partition(b"\r\n\r\n")[::2] for part in parts[1:]]
    assert [body for _, body in found] == [DATA[100000:200000], DATA[:10], DATA[-3:]]
    assert b"Content-Range: bytes 0-9/262144" in found[1][0]
    assert ask(http, "/assets/data.bin", "HEAD", Range="bytes=0-1,4-5").status == 200


def test_ranges_that_cannot_be_had(http: Service) -> None:
    answer = ask(http, "/assets/data.bin", Range="bytes=262144-")
    assert (answer.status, answer.header("content-range")) == (416, "bytes */262144")
    assert ask(http, "/assets/nothing.txt", Range="bytes=0-").status == 416
    assert ask(http, "/assets/data.bin", Range="bytes=5-1").status == 200


def test_conditions(http: Service) -> None:
    whole = ask(http, "/assets/data.bin")
    tag = whole.header("etag") or ""
    for fields in ({"If_None_Match": tag}, {"If_None_Match": f'W/{tag}, "x"'}, {"If_Modified_Since": DATE}):
        for method in ("GET", "HEAD"):
            answer = ask(http, "/assets/data.bin", method, **fields)
            assert (answer.status, answer.body, answer.header("etag")) == (304, b"", tag)
            assert answer.header("cache-control") == "max-age=60"
            assert answer.header("vary") == "Accept-Encoding"
            assert answer.header("content-type") is answer.header("content-length") is None
    assert ask(http, "/assets/data.bin", If_Match='"x"').status == 412
    assert ask(http, "/assets/data.bin", If_Match=tag, Range="bytes=0-1").status == 206
    assert ask(http, "/assets/data.bin", If_None_Match=tag, Range="bytes=0-1").status == 304
    assert ask(http, "/assets/data.bin", If_Range=tag, Range="bytes=0-1").status == 206
    assert ask(http, "/assets/data.bin", If_Range=DATE, Range="bytes=0-1").status == 206
    assert ask(http, "/assets/data.bin", If_Range='"x"', Range="bytes=0-1").body == DATA


def test_conditions_on_what_a_handler_makes(http: Service) -> None:
    answer = ask(http, "/tagged", If_None_Match='"7"')
    assert (answer.status, answer.header("etag"), answer.header("content-language")) == (304, 'W/"7"', None)
    assert ask(http, "/tagged", Range="bytes=0-1").status == 200
    changed = ask(http, "/tagged", "POST", If_Match='"9"', Content_Length="0")
    assert (changed.status, changed.body) == (200, b"changed"), "too late to refuse it"


def test_a_download(http: Service) -> None:
    answer = ask(http, "/download")
    expected = "attachment; filename=\"Ubung 1.bin\"; filename*=UTF-8''%C3%9Cbung%201.bin"
    assert (answer.status, answer.header("content-disposition"), answer.header("etag")) == (200, expected, '"own"')
    assert ask(http, "/download", If_None_Match='"own"').status == 304


def test_lengths_that_a_handler_gives(http: Service) -> None:
    answer = ask(http, "/stream/8")
    assert (answer.body, answer.header("content-length"), answer.header("transfer-encoding")) == (
        b"01234567",
        "8",
        None,
    )
    assert ask(http, "/stream/").header("transfer-encoding") == "chunked"
    assert ask(http, "/stream/8", "HEAD").header("content-length") == "8"
    assert ask(http, "/sized", "HEAD").header("content-length") == "123456"


@pytest.mark.parametrize(("size", "sent"), [("7", b"0123"), ("9", b"01234567")])
def test_lengths_that_are_wrong(http: Service, size: str, sent: bytes) -> None:
    """Never a byte more than was said; and of one less a reset tells."""
    with http.wire() as wire:
        wire.send(f"GET /stream/{size} HTTP/1.1\r\nHost: a\r\n\r\n")
        got, ended = b"", False
        with contextlib.suppress(ConnectionResetError):
            while piece := wire.socket.recv(65536):
                got += piece
            ended = True
        assert not ended
        assert got.partition(b"\r\n\r\n")[2] in (sent, b"")


def test_a_reason_and_a_redirect(http: Service) -> None:
    with http.wire() as wire:
        wire.send("GET /reason HTTP/1.1\r\nHost: a\r\n\r\n")
        assert wire.socket.recv(65536).startswith(b"HTTP/1.1 299 Quite Fine\r\n")
    answer = ask(http, "/go")
    assert (answer.status, answer.header("location")) == (303, "/somewhere?a=%C3%A4")
