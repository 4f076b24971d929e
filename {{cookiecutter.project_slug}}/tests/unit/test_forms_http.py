"""Forms as clients send them, and as they should not."""

import io
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from {{ cookiecutter.package_name }}.runtime.http import HTTPError, Request, Router
from {{ cookiecutter.package_name }}.runtime.web.forms import Form, Limits, read_form

KIND = "multipart/form-data; boundary=XX"
URLENCODED = "application/x-www-form-urlencoded"


def reader(source: io.BytesIO, step: int) -> Callable[[int], bytes]:
    return lambda size: source.read(min(size, step))


def parse(body: bytes, kind: str = KIND, step: int = 65536) -> Form:
    return read_form(kind, reader(io.BytesIO(body), step), Limits(parts=10, fields=1000, file=5000))


def part(fields: str, content: bytes = b"value") -> bytes:
    return f"--XX\r\n{fields}\r\n\r\n".encode() + content + b"\r\n"


def field(name: str = "a", content: bytes = b"value") -> bytes:
    return part(f'Content-Disposition: form-data; name="{name}"', content)


END = b"--XX--\r\n"
SAMPLE = (
    '--XX\r\nContent-Disposition: form-data; name="person"\r\n\r\nanonymous\r\n'
    '--XX\r\nContent-Disposition: form-data; name="secret"; FILENAME\r\n'
    "Content-Type: text/plain\r\n\r\ncontents\r\n--XX--\r\n"
)


@pytest.mark.parametrize("step", [1, 7, 65536])
@pytest.mark.parametrize(
    ("boundary", "filename"),
    [
        ("------------------------d74496d66958873e", r'filename="f \"q\".txt"'),  # curl 7
        ("------------------------d74496d66958873e", 'filename="f %22q%22.txt"'),  # curl 8
        ("----WebKitFormBoundary7MA4YWxkTrZu0gW", 'filename="f %22q%22.txt"'),  # Chromium
        ("---------------------------735323031399963166993862150", 'filename="f %22q%22.txt"'),  # Firefox
        ("d74496d66958873e", 'filename="f %22q%22.txt"'),  # httpx
        ("f1c5be4e8d3e4f0a", "filename*=utf-8''f%20%22q%22.txt"),  # requests with an old urllib3
    ],
)
def test_what_clients_send(boundary: str, filename: str, step: int) -> None:
    body = SAMPLE.replace("XX", boundary).replace("FILENAME", filename).encode()
    form = parse(body, f"multipart/form-data; boundary={boundary}", step)
    assert dict(form) == {"person": "anonymous"}
    upload = form.files["secret"]
    assert (upload.filename, upload.content_type, upload.size) == ('f "q".txt', "text/plain", 8)
    assert upload.read() == b"contents"


@pytest.mark.parametrize("step", [1, 2, 3, 65536])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"\r\n",
        b"\r\n\r\n",
        b"--",
        b"--X",
        b"\r\n--X",
        b"\r\n-",
        b"XX--",
        b"\r\n--x\r\n",
        b"-" * 300,
        b"\r" * 99,
    ],
)
def test_contents_that_look_like_boundaries(content: bytes, step: int) -> None:
    body = field("a", content) + part('Content-Disposition: form-data; name="f"; filename="n"', content) + END
    form = parse(body, step=step)
    assert form["a"] == content.decode()
    assert form.files["f"].read() == content


def test_a_form() -> None:
    form = parse(field("a", b"1") + field("b", b"\xc3\xa4") + field("a", b"2") + END + b"epilogue")
    assert (form["a"], form.getlist("a"), form.fields) == ("2", ["1", "2"], [("a", "1"), ("b", "\u00e4"), ("a", "2")])
    assert (list(form), len(form), form.get("c"), "c" in form) == (["a", "b"], 2, None, False)
    with pytest.raises(HTTPError) as caught:
        form["c"]
    assert caught.value.status == 400
    nothing = part(
        'Content-Disposition: form-data; name="f"; filename=""\r\nContent-Type: application/octet-stream', b""
    )
    assert parse(nothing + END).files == {}
    assert parse(END).fields == []


def test_urlencoded() -> None:
    form = parse(b"a=1&b=x+y%26&&c&a=%C3%A4&%FF=", f"{URLENCODED}; charset=utf-8")
    assert form.fields == [("a", "1"), ("b", "x y&"), ("c", ""), ("a", "\u00e4"), ("\ufffd", "")]


GOOD = 'Content-Disposition: form-data; name="a"'
FILE = 'Content-Disposition: form-data; name="a"; filename="b"'
OTHER_KINDS = [
    ("", 415),
    ("text/plain", 415),
    ("multipart/mixed; boundary=XX", 415),
    ("multipart/form-data", 400),
    ("multipart/form-data; boundary", 400),
    ("multipart/form-data; boundary=", 400),
    ('multipart/form-data; boundary=""', 400),
    ("multipart/form-data; boundary=X X", 400),
    ('multipart/form-data; boundary="XX', 400),
    ("multipart/form-data; boundary=XX; boundary=YY", 400),
    (f"multipart/form-data; boundary={'X' * 71}", 400),
    ('multipart/form-data; boundary="X\\"X"', 400),
    ("multipart/form-data; boundary=X\u00e4", 400),
    ("multipart/form-data; =XX", 400),
    ("multipart/form-data; boundary=YY", 400),
]
BROKEN = [
    # boundaries
    b"",
    b"\r\n",
    b"--",
    b"--XX",
    b"--XX-",
    b"--XX\r\n",
    b"nonsense",
    b"preamble\r\n" + field() + END,
    b" " + field() + END,
    field(),
    field() + b"--XX",
    field() + b"--XX-",
    field() + b"--X",
    field()[:-2] + END,
    field() + b"--XXY\r\n",
    field() + b"--XX \t nonsense\r\n" + field() + END,
    field() + b"--XX" + b" " * 300 + b"\r\n" + END,
    field().replace(b"\r\n", b"\n") + END,
    b"--XX\n" + field() + END,
    field() + b"--xx--\r\n",
    field() + b"--XX\r\n--XX--\r\n",
    # fields of a part
    b"--XX\r\n\r\nvalue\r\n" + END,
    part("X: y") + END,
    part("Content-Disposition: form-data") + END,
    part("Content-Disposition: form-data;") + END,
    part("Content-Disposition: attachment; name=a") + END,
    part("Content-Disposition: form-data; name") + END,
    part("Content-Disposition: form-data; name=") + END,
    part('Content-Disposition: form-data; name="a') + END,
    part('Content-Disposition: form-data; name="a"; name="b"') + END,
    part('Content-Disposition: form-data; name="a" x') + END,
    part('Content-Disposition: form-data name="a"') + END,
    part('Content-Disposition: form-data; name="a\\"') + END,
    part("Content-Disposition: form-data; name=a b") + END,
    part(f"{GOOD}\r\n{GOOD}") + END,
    part(f"{GOOD}\r\nno colon") + END,
    part(f"{GOOD}\r\n: empty") + END,
    part(f"{GOOD}\r\nX : y") + END,
    part(f"{GOOD}\r\n folded") + END,
    part(f"{GOOD}\r\nX: \0") + END,
    part(f"{GOOD}\r\nX: a\rb") + END,
    part(f"{GOOD}\r\nContent-Transfer-Encoding: base64") + END,
    part(f"{GOOD}; filename*=latin-1''x") + END,
    part(f"{GOOD}; filename*=x") + END,
    b'--XX\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nv\r\n' + END,
    b"--XX\r\n" + GOOD.encode() + b"\r\nvalue\r\n" + END,
    b"--XX\r\n" + GOOD.encode(),
    b"--XX\r\n" + GOOD.encode() + b"\r\n\r\n",
    b"--XX\r\n" + GOOD.encode() + b"\r\n\r\n--XX--\r\n",
    # contents
    field("a", b"\xff") + END,
    field("a", b"\xc3") + END,
]
TOO_LARGE = [
    field() * 11 + END,
    field("a", b"x" * 1001) + END,
    field("a", b"x" * 400) * 3 + END,
    field("x" * 1001, b"") + END,
    part(FILE, b"x" * 5001) + END,
    part(f"{GOOD}\r\nX: {'y' * 9000}") + END,
    b"--XX\r\n" + b"X" * 10000,
]
MALFORMED = [
    *((field() + END, kind, status) for kind, status in OTHER_KINDS),
    *((body, KIND, 400) for body in BROKEN),
    *((body, KIND, 413) for body in TOO_LARGE),
    (b"a=\xff", URLENCODED, 400),
    (b"&".join([b"a"] * 11), URLENCODED, 413),
    (b"a" * 1001, URLENCODED, 413),
]


@pytest.mark.parametrize("step", [1, 65536])
@pytest.mark.parametrize(("body", "kind", "status"), MALFORMED)
def test_malformed_forms(body: bytes, kind: str, status: int, step: int) -> None:
    with pytest.raises(HTTPError) as caught:
        parse(body, kind, step)
    assert caught.value.status == status


def test_no_malformed_form_is_a_failure() -> None:
    assert len(MALFORMED) >= 60
    routes = Router()

    @routes.post("/")
    def take(request: Request) -> dict[str, Any]:
        form = request.form(parts=10, fields=1000, file=5000)
        assert request.form() is form
        return {"fields": form.fields, "files": {name: file.size for name, file in form.files.items()}}

    client = routes.client()
    for body, kind, status in MALFORMED:
        assert client.post("/", body=body, headers={"Content-Type": kind}).status == status
    answer = client.post("/", form={"a": "\u00e4"}, files={"f": ('n"1', b"content", "text/plain")})
    assert answer.json() == {"fields": [["a", "\u00e4"]], "files": {"f": 7}}
    assert client.post("/", form={"a": "x y", "b": "&="}).json()["fields"] == [["a", "x y"], ["b", "&="]]


def test_a_large_file_is_not_kept_in_memory() -> None:
    size, chunk = 64 * 2**20, b"x" * 65536

    def body() -> Iterator[bytes]:
        yield f"--XX\r\n{FILE}\r\n\r\n".encode()
        for _ in range(size // len(chunk)):
            yield chunk
        yield b"\r\n" + END

    pieces = body()
    tracemalloc.start()
    form = read_form(KIND, lambda _: next(pieces, b""), Limits(10, 1000, 0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    upload = form.files["a"]
    assert (upload.size, upload.read(5), peak < 2**20) == (size, b"xxxxx", True)


def test_saving(tmp_path: Any) -> None:
    upload = parse(part(FILE, b"content") + END).files["a"]
    upload.read(2)
    upload.save(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"content"
