"""Forms: over the wire in each pool, and any bytes at all: a form, or an HTTPError, however they are cut up."""

from __future__ import annotations

import hashlib
from typing import Any

from border_fuzz import load
from harness import Service
from hypothesis import given, settings
from hypothesis import strategies as st

HANDLERS = r"""
from .runtime.http import Request, Response, Router
import hashlib

routes = Router()

@routes.post("/form")
def form(request):
    form = request.form()
    files = {
        name: [file.filename, file.size, hashlib.sha256(file.read()).hexdigest()] for name, file in form.files.items()
    }
    return {"fields": form.fields, "files": files, "local": request.local[1], "client": request.client}
"""
forms: Any
(forms,) = load("web.forms")
KIND = "multipart/form-data; boundary=XX"
PIECES = [
    b"\r\n", b"--XX", b"--", b"XX", b"\n", b"\r", b":", b";", b'"', b"\\", b"%22", b"\0", b"\xff", b" ",
    b"Content-Disposition: form-data", b'; name="a"', b'; filename="b"', b"; filename*=utf-8''c", b"Content-Type: a/b",
    b"Content-Transfer-Encoding: base64",
    b"\r\n--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n", b"\r\n--XX--\r\n",
]  # fmt: skip


def outcome(kind: str, body: bytes, step: int) -> Any:
    """What a form has in it, or the status of its refusal."""
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        piece = body[at : at + min(size, step)]
        at += len(piece)
        return piece

    try:
        form = forms.read_form(kind, read, forms.Limits(5, 200, 100))
    except forms.HTTPError as error:
        return error.status if error.status in (400, 413, 415) else repr(error)
    return form.fields, [(name, file.filename, file.size, file.read()) for name, file in form.file_list]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8))), st.integers(1, 20))
@settings(max_examples=300, deadline=None)
def test_any_multipart_body(pieces: list[bytes], step: int) -> None:
    for body in (b"".join(pieces), b"--XX\r\n" + b"".join(pieces), b"--XX\r\n" + b"".join(pieces) + b"\r\n--XX--\r\n"):
        found = outcome(KIND, body, 65536)
        assert not isinstance(found, str)
        assert outcome(KIND, body, step) == found or 413 in (found, outcome(KIND, body, step))


@given(st.text(), st.binary())
@settings(max_examples=200, deadline=None)
def test_any_content_type(text: str, body: bytes) -> None:
    for kind in (text, f"multipart/form-data;{text}", f"application/x-www-form-urlencoded;{text}"):
        assert not isinstance(outcome(kind, body, 65536), str)


def test_a_form_with_a_large_file(http: Service) -> None:
    content = bytes(range(256)) * 12288  # 3 MiB: in a file, and with many reads
    start = b'--XX\r\nContent-Disposition: form-data; name="f"; filename="n"\r\n\r\n'
    body = start + content + b'\r\n--XX\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--XX--\r\n'
    with http.wire() as wire:
        head = f"POST /form HTTP/1.1\r\nHost: a\r\nContent-Type: {KIND}\r\nContent-Length: {len(body)}\r\n\r\n"
        answer = wire.send(head.encode() + body).answer()
    assert answer.status == 200
    assert answer.json() == {
        "fields": [["a", "1"]],
        "files": {"f": ["n", len(content), hashlib.sha256(content).hexdigest()]},
        "local": http.address[1],
        "client": "127.0.0.1",
    }
