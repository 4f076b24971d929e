"""What cannot be sent is found where it is given: names at the start, fields and statuses when a response is made."""

from __future__ import annotations

import pytest
from trust_client import BEGIN, Prepare, get, members

# -- the service's name ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["日本", "ümlaut", "a😀b", "a\u2028b", "a\u00a0b", "a(b", "a b", "a;b", "x" * 300])
def test_name_is_refused_or_works(prepare: Prepare, pool: str, name: str) -> None:
    """Never: accepted by --check, said to be ready, and then worker after worker dies of it."""
    service = prepare(pool, BEGIN)
    checked = service.run("--check", "--name", name)
    assert "Traceback" not in checked.stderr
    if checked.returncode:
        assert checked.returncode in (2, 78), checked
        assert len(checked.stderr.splitlines()) == 1
        started = service.run("-x", "-i", "127.0.0.1", "-p", "0", "--name", name)
        assert started.returncode == checked.returncode, started
        assert len(started.stderr.splitlines()) == 1
        return
    service.start("-n", "2", "-m", "2", "--name", name, "-t")
    workers = members(service)
    answer = get(service)
    assert answer.status == 200
    server = answer.header("server") or ""
    assert all(" " <= character <= "~" for character in server), server
    assert members(service) == workers


@pytest.mark.parametrize("where", ["environment", "file"])
def test_name_is_judged_wherever_it_comes_from(prepare: Prepare, where: str) -> None:
    service = prepare("prefork", BEGIN)
    if where == "file":
        checked = service.run("--check", "-f", service.config('name = "日本"\n'))
    else:
        checked = service.run("--check", env={"HELLO_SERVER_NAME": "日本"})
    if checked.returncode:
        assert checked.returncode in (2, 78)
        assert len(checked.stderr.splitlines()) == 1
        return
    service.start("-n", "1", "-t", env={"HELLO_SERVER_NAME": "日本"})
    assert get(service).status == 200


# -- responses --------------------------------------------------------------------------------------------

WRONG = [
    'Response("x", status=99)',
    'Response("x", status=100)',
    'Response("x", status=600)',
    'Response("x", status="200")',
    'Response("x", status=None)',
    'Response("x", status=200.0)',
    'Response("x", headers=["X: 1"])',
    'Response("x", headers={"X Y": "1"})',
    'Response("x", headers={"": "1"})',
    'Response("x", headers={"X": "a\\r\\nY: b"})',
    'Response("x", headers={"X": "\\0"})',
    'Response("x", headers={"X": "日本"})',
    'Response("x", headers={"X": 1})',
    'Response("x", headers=[("X", None)])',
    'Response("x", headers={"Content-Length": "2"})',
    'Response("x", headers={"Transfer-Encoding": "chunked"})',
    'Response("x", content_type="a\\r\\nb: c")',
    'Response("x", content_type="日本")',
    'Response({"a": 1})',
    "Response(5)",
    "Response.json({}, status=99)",
    'Response.json({}, headers={"X": 1})',
    "HTTPError(99)",
    'HTTPError("404")',
    'HTTPError(404, "x", {"X": "a\\r\\nb"})',
]


def test_wrong_response_is_found_where_it_is_made(prepare: Prepare) -> None:
    """ValueError or TypeError in the handler, on the line that made it, and not later in the loop."""
    service = prepare(
        "prefork",
        BEGIN
        + f"""
WRONG = {WRONG!r}

@routes.get("/wrong/{{number}}")
def wrong(request):
    try:
        eval(WRONG[int(request.params["number"])])
    except (ValueError, TypeError) as error:
        return "found: " + str(error)
    return "not found"
""",
    )
    service.start("-n", "1", "-t")
    missed = [text for number, text in enumerate(WRONG) if get(service, f"/wrong/{number}").body == b"not found"]
    assert missed == []


def test_correct_responses_are_not_refused(prepare: Prepare) -> None:
    """Every final status that is registered or not, bytes beyond ASCII as Latin-1, fields of pairs and of mappings."""
    service = prepare(
        "prefork",
        BEGIN
        + """
import http
RIGHT = [
    lambda: Response("x", status=http.HTTPStatus.CREATED),
    lambda: Response("x", status=299),
    lambda: Response("x", status=599),
    lambda: Response("x", headers={"X": "caf\\u00e9"}),
    lambda: Response("x", headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]),
    lambda: Response("x", headers=(pair for pair in [("X", "1")])),
    lambda: Response("x", headers={"X": ""}),
    lambda: Response(bytearray(b"x")),
    lambda: Response(memoryview(b"x")),
    lambda: Response(["x", b"y"]),
]

@routes.get("/right/{number}")
def right(request):
    return RIGHT[int(request.params["number"])]()
""",
    )
    service.start("-n", "1", "-t")
    statuses = [get(service, f"/right/{number}").status for number in range(10)]
    assert statuses == [201, 299, 599, 200, 200, 200, 200, 200, 200, 200]


# -- files ------------------------------------------------------------------------------------------------


def test_documentation_of_files_warns_of_paths_from_clients(prepare: Prepare) -> None:
    """`{name}` holds no slash, `{name:any}` may hold "../", and Response.file says so where it is documented."""
    service = prepare(
        "prefork",
        BEGIN
        + """
@routes.get("/doc")
def doc(request):
    return Response.file.__doc__ or ""

@routes.get("/plain/{name}")
@routes.get("/name/{name:any}")
def name(request):
    return request.params["name"]
""",
    )
    service.start("-n", "1", "-t")
    assert get(service, "/plain/..%2f..%2fetc%2fpasswd").status == 404
    assert get(service, "/name/..%2f..%2fetc%2fpasswd").body == b"../../etc/passwd"  # rightly
    text = get(service, "/doc").body.decode()
    assert ".." in text or "base directory" in text, text
