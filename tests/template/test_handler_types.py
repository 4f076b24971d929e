"""What mypy says of handlers: nothing of right ones, and it names what is wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from baking import bake

RIGHT = """
from typing import Any
from .runtime.http import HTTPError, Request, Response, Router, gzipped

routes, api = Router(), Router()
routes.after(gzipped())
routes.mount("/api", api)

@routes.get("/text")
def text(request: Request) -> str:
    return "text"

@routes.get("/dict", before=[text], after=[lambda request, response: None])
def dictionary(request: Request) -> dict[str, int]:
    return {"a": 1}

@routes.put("/item/{id:int}")
def put(request: Request) -> Response | None:
    number: int = request.params["id"]
    return None if number else Response(b"", 204)

@routes.before
def before(request: Request) -> Response | None:
    return None

@routes.after
def after(request: Request, response: Response) -> None:
    response.set_cookie("a", "b", max_age=5)

@routes.error(404)
def lost(request: Request, error: HTTPError) -> dict[str, Any]:
    return {"lost": text(request).upper()}
"""
WRONG = {
    '@routes.get("/")\ndef one(request: int) -> str:\n    return ""\n': "one",
    '@routes.get("/")\ndef two(request: Request) -> int:\n    return 5\n': "two",
    '@routes.get("/")\ndef three() -> str:\n    return ""\n': "three",
    '@routes.get("/")\ndef four(request: Request) -> str:\n    return request.bdy\n': "bdy",
    "@routes.before\ndef five(request: Request) -> float:\n    return 5.0\n": "five",
    "@routes.after\ndef six(request: Request) -> None:\n    pass\n": "six",
    '@routes.error("404")\ndef seven(request: Request, error: HTTPError) -> str:\n    return ""\n': "error",
    'routes.get("/", before=[RIGHT])\n': "RIGHT",
}


@pytest.fixture(scope="module")
def project(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bake(template, tmp_path_factory.mktemp("typed"), protocol="http", pool="prefork")


def test_handlers_are_checked(project: Path, tmp_path: Path) -> None:
    """One run for all: each wrong one stands on lines of its own."""
    text, places = RIGHT + "RIGHT = 5\n", {}
    for wrong in WRONG:
        first = text.count("\n") + 1
        text += wrong
        places.update(dict.fromkeys(range(first, text.count("\n") + 1), wrong))
    (project / "src/hello_server/handlers.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), "src/hello_server/handlers.py"],
        cwd=project, env={**os.environ, "MYPYPATH": "src"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    lines = [int(line) for line in re.findall(r"^src/hello_server/handlers.py:(\d+): error", done.stdout, re.MULTILINE)]
    assert {places.get(line, "a right one") for line in lines} == set(WRONG), done.stdout
