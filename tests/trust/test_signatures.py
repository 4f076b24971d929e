"""Functions that cannot be called as the service calls them are named before it starts, in one line."""

from __future__ import annotations

import pytest
from harness import NAME, assert_refused
from trust_client import BEGIN, Prepare, get

# -- signatures -------------------------------------------------------------------------------------------

WRONG = {
    "init without its parameter": ("http", "def init():\n    pass", "init"),
    "init with two": ("http", "def init(server, more):\n    pass", "init"),
    "init by keyword only": ("http", "def init(*, server):\n    pass", "init"),
    "async init": ("http", "async def init(server):\n    pass", "init"),
    "exit without": ("http", "def exit():\n    pass", "exit"),
    "worker_init without": ("http", "def worker_init():\n    pass", "worker_init"),
    "worker_exit without": ("http", "def worker_exit():\n    pass", "worker_exit"),
    "health with one": ("http", "def health(server):\n    return True", "health"),
    "async health": ("http", "async def health():\n    return True", "health"),
    "a handler without": ("http", '@routes.get("/a")\ndef wrong():\n    return ""', "wrong"),
    "a handler with two": ("http", '@routes.get("/a/{id}")\ndef wrong(request, id):\n    return ""', "wrong"),
    "a handler by keyword only": ("http", '@routes.get("/a")\ndef wrong(*, request):\n    return ""', "wrong"),
    "an async handler": ("http", '@routes.get("/a")\nasync def wrong(request):\n    return ""', "wrong"),
    "an async generator": ("http", '@routes.get("/a")\nasync def wrong(request):\n    yield ""', "wrong"),
    "a handler that is no function": ("http", 'routes.add("GET", "/wrong", 5)', "wrong"),
    "a line without a stream": ("line", "def service_line(line):\n    pass", "service_line"),
    "a line of three": ("line", "def service_line(line, stream, more):\n    pass", "service_line"),
    "an async line": ("line", "async def service_line(line, stream):\n    pass", "service_line"),
    "a connection without": ("stream", "def service_connection():\n    pass", "service_connection"),
    "a connection of two": ("stream", "def service_connection(stream, more):\n    pass", "service_connection"),
    "an async connection": ("stream", "async def service_connection(stream):\n    pass", "service_connection"),
    "a generator as connection": ("stream", "def service_connection(stream):\n    yield", "service_connection"),
}
SERVICE = {
    "http": BEGIN,
    "line": "def service_line(line, stream):\n    pass\n",
    "stream": "def service_connection(stream):\n    pass\n",
}


@pytest.mark.parametrize("case", WRONG)
def test_check_finds_a_wrong_signature(prepare: Prepare, pool: str, case: str) -> None:
    """At --check, and at a start: 70, and a line that names the function."""
    protocol, text, name = WRONG[case]
    service = prepare(pool, f"{SERVICE[protocol]}\n\n{text}\n", protocol)
    checked = service.run("--check")
    assert checked.returncode == 70, checked
    said = [line for line in checked.stderr.splitlines() if line.startswith(f"{NAME}: ")]
    assert len(said) == 1, checked.stderr
    assert name in said[0]


def test_start_finds_a_wrong_signature(prepare: Prepare, pool: str) -> None:
    service = prepare(pool, f'{BEGIN}\n@routes.get("/a/{{id}}")\ndef wrong(request, id):\n    return ""\n')
    assert_refused(service.run("-x", "-i", "127.0.0.1", "-p", "0"), 70, "wrong", traceback=True)


RIGHT = """
import functools

def init(server, more=1): pass
def exit(*arguments): pass
def worker_init(worker, /): pass
worker_exit = lambda worker: None
def health(): return True

class Handlers:
    def method(self, request): return "method"
    @classmethod
    def of_class(cls, request): return "class"
    @staticmethod
    def static(request): return "static"
    def __call__(self, request): return "instance"

def two(more, request): return more

def decorated(function):
    @functools.wraps(function)
    def inner(*arguments, **keywords): return function(*arguments, **keywords)
    return inner

routes.add("GET", "/method", Handlers().method)
routes.add("GET", "/class", Handlers.of_class)
routes.add("GET", "/static", Handlers.static)
routes.add("GET", "/instance", Handlers())
routes.add("GET", "/partial", functools.partial(two, "partial"))
routes.add("GET", "/lambda", lambda request: "lambda")
routes.add("GET", "/builtin", str)

@routes.get("/decorated")
@decorated
def in_decorator(request): return "decorated"

@routes.get("/optional")
def optional(request, more="optional", *rest, **others): return more
"""


def test_unusual_but_correct_signatures_are_accepted(prepare: Prepare, pool: str) -> None:
    service = prepare(pool, BEGIN + RIGHT)
    assert service.run("--check").returncode == 0
    service.start("-n", "1", "-t")
    for name in ("method", "class", "static", "instance", "partial", "lambda", "decorated", "optional"):
        assert get(service, f"/{name}").body == name.encode()
