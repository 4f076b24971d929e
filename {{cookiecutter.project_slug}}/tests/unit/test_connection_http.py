"""What the fast path fills in by hand is what the classes have."""

import inspect
import re

from {{ cookiecutter.package_name }}.runtime.connection import Connection
from {{ cookiecutter.package_name }}.runtime.http import Request
from {{ cookiecutter.package_name }}.runtime.http1 import Head, Limits, parse_head


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

    assert filled(Connection.handle, "request") == filled(Request.__init__, "self") == set(Request.__slots__)
