"""What the fast path fills in by hand is what the classes have."""

import inspect
import re

import pytest

from {{ cookiecutter.package_name }}.runtime.http import Request
from {{ cookiecutter.package_name }}.runtime.http.engine import handle
from {{ cookiecutter.package_name }}.runtime.http1.parser import Head, Limits, parse_head
from {{ cookiecutter.package_name }}.runtime.web.trace_context import Trace


def test_a_plain_head_has_all_that_another_has() -> None:
    found = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Limits())
    assert found is not None
    usual = Head("GET", "/", found[0]._block, b"a", 0)
    usual.simple = True
    for name in Head.__slots__:
        assert getattr(found[0], name) == getattr(usual, name), name


def test_a_request_is_filled_as_its_constructor_does() -> None:
    def filled(function: object, variable: str) -> set[str]:
        source = inspect.getsource(function)  # type: ignore[arg-type]
        return set(re.findall(rf"^ +{variable}\.(\w+)(?:: [^=]+)? = ", source, re.M))

    made_later = {"_form", "_query"}
    assert filled(handle, "request") == filled(Request.__init__, "self") == set(Request.__slots__) - made_later


MADE = r"X-Request-ID: [0-9a-f]{32}\r\n"
PARENT = r"traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]\r\n"


@pytest.mark.parametrize(
    ("sent", "lines"),
    [
        ([(b"X-Request-ID", b"a-1")], r"X-Request-ID: a-1\r\n"),
        ([(b"X-Request-ID", b"a-1 \t")], r"X-Request-ID: a-1\r\n"),
        ([(b"X-Request-ID", b"a 1")], MADE),
        ([(b"X-Request-ID", b"\xe9")], MADE),
        ([(b"X-Request-ID", b"")], MADE),
        ([(b"X-Request-ID", b"a"), (b"X-Request-ID", b"b")], MADE),
        ([(b"", b"nonsense")], PARENT),
        ([(b"X-Request-ID", b"a"), (b"", b"nonsense")], r"X-Request-ID: a\r\n" + PARENT),
        ([], ""),
    ],
)
def test_the_usual_ids_are_answered_as_all_are(sent: list[tuple[bytes, bytes]], lines: str) -> None:
    trace = Trace(sent)
    first = trace.lines().decode()
    assert re.fullmatch(lines, first)
    assert first == trace.lines().decode() == "".join(f"{name}: {value}\r\n" for name, value in trace.fields())
