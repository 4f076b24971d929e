"""The tables of malformed messages and of smuggling payloads (tests/http1) over the wire, against a running service.

What the parser makes of each is known: here the whole of it is asked whether the same requests are answered, no other
one is, the error is answered with its status, and the connection is closed.
"""

from __future__ import annotations

import socket

import pytest
from harness import Answer, Service, Wire
from parsing import FOLLOW_UP, Outcome, run

from tests.http1.test_malformed import CASES
from tests.http1.test_smuggling import PAYLOADS

HANDLERS = """
from .runtime.http import Request, Response, Router
from .runtime.web.routes import METHODS

routes = Router()

def anything(request: Request) -> Response:
    return Response(request.body, headers={"X-Target": request.target})

for method in METHODS:
    routes.add(method, "/{rest:path}", anything)
"""


def answers(wire: Wire, outcome: Outcome) -> list[Answer]:
    """All final answers until the server closes."""
    methods = [request.method for request in outcome.requests]
    found: list[Answer] = []
    while wire.more():
        answer = wire.answer(methods[len(found)] if len(found) < len(methods) else "GET")
        if answer.status != 100:
            found.append(answer)
    return found


def assert_as_parsed(service: Service, data: bytes) -> None:
    outcome = run(data)
    with service.wire() as wire:
        wire.send(data)
        wire.socket.shutdown(socket.SHUT_WR)
        found = answers(wire, outcome)
    served = found[: len(outcome.requests)]
    assert len(served) == len(outcome.requests), found
    for answer, request in zip(served, outcome.requests, strict=True):
        if answer.status == 200:
            assert (answer.header("x-target"), request.method) == (request.target, request.method)
            assert answer.body == (b"" if request.method == "HEAD" else request.body)
        else:  # OPTIONS * and unknown methods
            assert answer.status == (204 if request.target[0] != "/" else 501)
    rest = [answer.status for answer in found[len(served) :]]
    assert rest == ([outcome.status] if outcome.status is not None else []), rest
    if outcome.state == "closed":
        assert found[-1].header("connection") == "close"


@pytest.mark.parametrize("case", CASES)
def test_malformed(http: Service, case: str) -> None:
    data, status = CASES[case]
    assert run(data + FOLLOW_UP).status == status
    assert_as_parsed(http, data + FOLLOW_UP)


@pytest.mark.parametrize("payload", PAYLOADS, ids=[payload.name for payload in PAYLOADS])
def test_smuggling(http: Service, payload: object) -> None:
    assert_as_parsed(http, payload.data + FOLLOW_UP)  # type: ignore[attr-defined]
