"""Handlers are functions: call them with a request, look at the response."""

from {{ cookiecutter.package_name }}.handlers import routes
from {{ cookiecutter.package_name }}.runtime.http import Request, Response
from {{ cookiecutter.package_name }}.runtime.http1.parser import Limits, parse_head


def ask(method: str, target: str, body: bytes = b"", **fields: str) -> Response:
    """Give a request to the handler that the service would choose; `content_type="..."` is a header field."""
    lines = [f"{method} {target} HTTP/1.1", "Host: test"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    parsed = parse_head("\r\n".join([*lines, "", ""]).encode(), Limits())
    assert parsed, "the request is not whole"
    request = Request(parsed[0], body, None, ("127.0.0.1", 50000), None)
    matched = routes.match(request.head.path)
    assert matched, f"no route for {target}"
    route, request.params = matched
    handler = route.find(method)
    assert handler, f"{target} allows only {route.allow}"
    return Response.of(handler(request))


def test_hello() -> None:
    response = ask("GET", "/")
    assert response.status == 200
    assert response.body == "Hello from {{ cookiecutter.project_slug }}\n"


def test_echo() -> None:
    response = ask("POST", "/echo", b'{"a": 1}', content_type="application/json")
    assert response.status == 200
    assert response.body == b'{"a": 1}'
    assert response.content_type == "application/json"


def test_healthz() -> None:
    assert ask("GET", "/healthz").status == 200
