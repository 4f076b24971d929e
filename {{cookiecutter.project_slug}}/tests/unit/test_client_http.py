"""The client for tests asks as a real one would: the same checks, the same pages."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from {{ cookiecutter.package_name }}.runtime.http import Request, Response, Router


@pytest.fixture
def routes() -> Router:
    routes = Router()

    @routes.get("/")
    def index(request: Request) -> dict[str, Any]:
        return {"query": request.query_list, "agent": request.headers.get("user-agent"), "peer": request.peer[0]}

    @routes.post("/echo")
    def echo(request: Request) -> Response:
        return Response(request.body, content_type=request.headers.get("content-type", "x/none"))

    @routes.get("/stream/{kind}")
    def stream(request: Request) -> Response:
        def pieces() -> Any:
            yield "a" * 10
            yield b""
            if request.params["kind"] == "broken":
                raise ValueError("in the middle")
            yield b"b" * 10

        return Response(pieces(), headers={"Content-Length": "20"} if request.params["kind"] == "sized" else {})

    @routes.get("/file")
    def file(request: Request) -> Response:
        return Response.file(__file__)

    @routes.get("/cookie")
    def cookie(request: Request) -> Response:
        response = Response(request.headers.get("cookie", ""))
        if "off" in request.query:
            response.delete_cookie("a")
        else:
            response.set_cookie("a", "1")
        return response

    @routes.get("/invalid")
    def invalid(request: Request) -> Response:
        response = Response()
        response.headers.append(("X", "a\r\nB: c"))
        return response

    return routes


def test_requests_and_answers(routes: Router) -> None:
    with routes.client(headers={"User-Agent": "test"}) as client:
        answer = client.get("/?a=1", params={"b": ["x y", "\u00e4"]})
        assert answer.json() == {
            "query": [["a", "1"], ["b", "x y"], ["b", "\u00e4"]],
            "agent": "test",
            "peer": "127.0.0.1",
        }
        assert (answer.status, answer.reason, answer.headers["Content-Type"]) == (200, "OK", "application/json")
        assert "date" in answer.headers and "server" in answer.headers
        head = client.head("/")
        assert head.body == b"" and int(head.headers["content-length"]) > 20
        assert client.post("/echo", body="\u00e4").text == "\u00e4"
        assert client.post("/echo", form={"a": "x y&", "b": "\u00e4"}).text == "a=x%20y%26&b=%C3%A4"
        answer = client.post("/echo", form={"a": "1"}, files={"f": ("n.txt", b"content", "text/plain")})
        assert answer.headers["content-type"].startswith("multipart/form-data; boundary=")
        assert b'name="f"; filename="n.txt"\r\nContent-Type: text/plain\r\n\r\ncontent\r\n' in answer.body


def test_bodies_of_every_kind(routes: Router) -> None:
    client = routes.client()
    whole = "a" * 10 + "b" * 10
    answer = client.get("/stream/plain")
    assert (answer.text, answer.headers["transfer-encoding"]) == (whole, "chunked")
    answer = client.get("/stream/sized")
    assert (answer.text, answer.headers["content-length"]) == (whole, "20")
    with pytest.raises(ConnectionError, match="broke off"):
        client.get("/stream/broken")
    with open(__file__, "rb") as file:
        text = file.read()
    assert client.get("/file").body == text
    answer = client.get("/file", headers={"Range": "bytes=3-9"})
    assert (answer.status, answer.body) == (206, text[3:10])
    answer = client.get("/file", headers={"Range": "bytes=0-1,4-5"})
    assert (answer.status, int(answer.headers["content-length"])) == (206, len(answer.body))


def test_cookies_are_kept(routes: Router) -> None:
    client = routes.client()
    assert [client.get("/cookie").text for _ in range(2)] == ["", "a=1"]
    assert [client.get("/cookie?off").text for _ in range(2)] == ["a=1", ""]


def test_what_a_service_refuses_is_refused(routes: Router) -> None:
    client = routes.client(arguments=["--max-body", "100"])
    assert client.get("/\u007f").status == 400
    assert client.get("/", headers={"Host": ""}).status == 400
    assert client.get("/", headers={"X": "a\r\nb"}).status == 400
    assert client.post("/echo", body="x" * 101).status == 413
    assert client.post("/echo", body="x" * 100).status == 200
    assert client.get("/invalid").status == 500


def test_the_functions_of_the_module_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the project's own handlers module, whose metrics are the manual's example."""
    from {{ cookiecutter.package_name }} import handlers

    called = []

    def init(server: Any) -> None:
        called.append(server.config["app"]["name"])
        called.append(server.counter("orders", "Orders taken"))

    def worker_init(worker: Any) -> None:
        worker.db = "connected"

    def count(request: Request) -> str:
        called[1].add()
        return str(request.worker.db)

    routes = Router()
    routes.add("GET", "/", count)
    for name, value in {"init": init, "worker_init": worker_init, "routes": routes}.items():
        monkeypatch.setattr(handlers, name, value, raising=False)
    for name in ("worker_exit", "exit"):
        monkeypatch.setattr(handlers, name, lambda _, name=name: called.append(name), raising=False)
    with routes.client(config={"app": {"name": "test"}}) as client:
        assert client.get("/").text == "connected"
    assert called[0] == "test" and called[2:] == ["worker_exit", "exit"]


def test_the_same_requests_against_a_running_service(routes: Router) -> None:
    class Echo(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(201)
            self.send_header("X-Host", self.headers["host"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        answer = routes.client(base_url=f"http://{host}/below").post("/echo", json=[1])
        server.shutdown()
    assert (answer.status, answer.json(), answer.headers["x-host"]) == (201, [1], host)
    with pytest.raises(ValueError, match="base URL"):
        routes.client(base_url="127.0.0.1:80")
