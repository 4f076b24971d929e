"""Real clients and proxies against a generated service: `python ci/clients/run.py [requests [client...]]`.

Prints a line per client: what it did, or why it was left out (not installed), or what went wrong; ends with status 1
after the last. The load generators and the proxies (nginx, HAProxy: keep-alive to the service, no retries, so that
nothing is hidden) send so many requests, 100,000 by default, and all of them must be answered with 200.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

TEMPLATE = Path(__file__).resolve().parents[2]
HANDLERS = '''
from .runtime.http import HTTPError, Request, Response, Router

routes = Router()

@routes.get("/")
def index(request: Request) -> str:
    return "hello\\n"

@routes.get("/peer")
def peer(request: Request) -> dict:
    return {"peer": list(request.peer)}

@routes.post("/echo")
@routes.put("/echo")
def echo(request: Request) -> Response:
    return Response(request.body, content_type=request.headers.get("content-type", "text/plain"))

@routes.post("/refused")
def refused(request: Request) -> Response:
    raise HTTPError(403, "not read")

@routes.put("/upload")
def upload(request: Request) -> dict:
    size = 0
    while piece := request.read():
        size += len(piece)
    return {"size": size, "expect": "expect" in request.headers, "coding": request.headers.get("transfer-encoding")}

@routes.get("/stream")
def stream(request: Request) -> Response:
    return Response((b"%06d\\n" % n for n in range(10_000)), content_type="text/plain")

@routes.get("/page")
def page(request: Request) -> Response:
    return Response(PAGE, content_type="text/html; charset=utf-8")

PAGE = """<!doctype html><title>client</title><pre id="out">running</pre><script>
(async () => {
  const said = [];
  for (let n = 0; n < 20; n++) said.push((await (await fetch("/?" + n)).text()).length);
  said.push(await (await fetch("/echo", {method: "POST", body: "gr\\u00fc\\u00dfe"})).text());
  said.push((await (await fetch("/stream")).text()).length);
  const missing = await fetch("/missing", {headers: {Accept: "application/json"}});
  said.push((await missing.json()).status);
  const refused = await fetch("/refused", {method: "POST", body: "x".repeat(200000)});
  said.push(refused.status);
  document.getElementById("out").textContent = JSON.stringify(said);
})().catch(error => { document.getElementById("out").textContent = String(error); });
</script>"""
'''
STREAM = b"".join(b"%06d\n" % n for n in range(10_000))
LARGE = 3_000_000  # bytes: more than the 1 MiB above which curl says Expect
TIMEOUT = 300.0  # seconds for one command


class MissingError(Exception):
    """A program that is not installed."""


def command(*words: str, data: bytes = b"", timeout: float = TIMEOUT) -> str:
    if shutil.which(words[0]) is None:
        raise MissingError(words[0])
    done = subprocess.run(words, input=data, capture_output=True, timeout=timeout, check=False)
    said = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, f"{' '.join(words)}: status {done.returncode}: {said} {done.stderr.decode()}"
    return said


def curl(url: str, requests: int) -> str:
    """Each row: flags, path, what is said to its standard input, a pattern of its output."""
    large = "x" * LARGE
    rows: list[tuple[list[str], str, str, str]] = [
        ([], "/", "", r"hello\n"),
        (["--http1.0"], "/", "", r"hello\n"),
        (["--http1.0", "-H", "Connection: keep-alive"], "/stream", "", r"(?s)000000\n.*009999\n"),
        (["-I"], "/", "", r"(?s)HTTP/1\.1 200 OK\r\n.*Content-Length: 6\r\n.*"),
        (["-i", "-X", "OPTIONS"], "/echo", "", r"(?s)HTTP/1\.1 204 No Content\r\n.*Allow: OPTIONS, POST, PUT\r\n.*"),
        (["--request-target", "*", "-i", "-X", "OPTIONS"], "/", "", r"(?s)HTTP/1\.1 204 .*"),
        (["-d", "a=b"], "/echo", "", r"a=b"),
        (["-T", "-"], "/echo", "chunked", r"chunked"),
        (["-T", "-"], "/upload", large, rf'{{"size":{LARGE},"expect":true,"coding":"chunked"}}\n'),
        (["--http1.0", "--data-binary", "@-"], "/echo", "x" * 100_000, r"x{100000}"),
        # Without our 100 it would wait for so long.
        (["-T", "-", "--expect100-timeout", "60"], "/upload", large, rf'{{"size":{LARGE},"expect":true.*\n'),
        (["-X", "POST", "--data-binary", "@-", "--expect100-timeout", "60"], "/refused", large, r"403 .*: not read\n"),
        (["-X", "POST", "--data-binary", "@-", "-H", "Expect:"], "/refused", large, r"403 .*: not read\n"),
        (["-H", "Accept: application/json"], "/missing", "", r'{"title": "Not Found", "status": 404}\n'),
        ([], "/stream", "", r"(?s)000000\n.*009999\n"),
        (["--raw"], "/stream", "", r"(?s)7\r\n000000\n\r\n.*\r\n0\r\n\r\n"),
    ]
    for flags, path, data, pattern in rows:
        began = time.monotonic()
        said = command("curl", "-sS", *flags, url + path, data=data.encode())
        assert re.fullmatch(pattern, said), f"curl {' '.join(flags)} {path}: {said[:300]!r}"
        assert time.monotonic() - began < 30, f"curl {' '.join(flags)} {path} waited"
    said = command("curl", "-sS", "-o", os.devnull, "-w", "%{num_connects} ", *["-o", os.devnull] * 2, *[url + "/"] * 3)
    assert said.split() == ["1", "0", "0"], f"connections are not kept: {said}"
    return f"{len(rows)} kinds of request, connections kept"


def requests_(url: str, requests: int) -> str:
    import requests as library

    with library.Session() as session:
        session.trust_env = False
        peers = {json.dumps(session.get(url + "/peer", timeout=20).json()) for _ in range(50)}
        assert len(peers) == 1, "connections are not kept"
        assert session.post(url + "/echo", json={"a": 1}, timeout=20).json() == {"a": 1}
        assert session.put(url + "/upload", data=iter([b"x" * 70_000] * 3), timeout=20).json()["size"] == 210_000
        with session.get(url + "/stream", stream=True, timeout=20) as answer:
            assert b"".join(answer.iter_content(1000)) == STREAM
        assert session.head(url + "/", timeout=20).headers["content-length"] == "6"
        assert session.post(url + "/refused", data=b"x" * LARGE, timeout=20).status_code == 403
        assert session.get(url + "/", timeout=20).text == "hello\n"
    return "50 requests on one connection, bodies both ways"


def httpx_(url: str, requests: int) -> str:
    import httpx

    with httpx.Client(trust_env=False, timeout=20) as client:
        assert len({client.get(url + "/peer").text for _ in range(50)}) == 1, "connections are not kept"
        assert client.post(url + "/echo", json={"a": 1}).json() == {"a": 1}
        assert client.put(url + "/upload", content=iter([b"x" * 70_000] * 3)).json()["size"] == 210_000
        with client.stream("GET", url + "/stream") as answer:
            assert b"".join(answer.iter_bytes()) == STREAM
        assert client.post(url + "/refused", content=b"x" * LARGE).status_code == 403
        assert client.get(url + "/").text == "hello\n"
    return "50 requests on one connection, bodies both ways"


def aiohttp_(url: str, requests: int) -> str:
    import aiohttp

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 70_000

    async def one(session: aiohttp.ClientSession) -> str:
        async with session.get(url + "/peer") as answer:
            return await answer.text()

    async def talk() -> int:
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=20)) as session:
            peers = set(await asyncio.gather(*(one(session) for _ in range(500))))
            assert len(peers) <= 20, "connections are not kept"
            async with session.post(url + "/echo", json={"a": 1}) as answer:
                assert await answer.json() == {"a": 1}
            async with session.put(url + "/upload", data=pieces()) as answer:
                assert (await answer.json())["size"] == 210_000
            async with session.put(url + "/upload", data=b"x" * 70_000, expect100=True) as answer:
                assert (await answer.json()) == {"size": 70_000, "expect": True, "coding": None}
            async with session.get(url + "/stream") as answer:
                assert await answer.read() == STREAM
            async with session.post(url + "/refused", data=b"x" * LARGE) as answer:
                assert answer.status == 403
            return len(peers)

    return f"500 requests on {asyncio.run(talk())} connections, bodies both ways"


NODE = """
const url = process.argv[1];
const check = (fine, what) => { if (!fine) throw new Error(what); };
const peers = new Set();
for (let n = 0; n < 50; n++) peers.add(await (await fetch(url + "/peer")).text());
check(peers.size <= 2, "connections are not kept: " + peers.size);
check((await (await fetch(url + "/echo", {method: "POST", body: "a"})).text()) === "a", "echo");
const pieces = new ReadableStream({ start(c) {
  for (let n = 0; n < 3; n++) c.enqueue(new Uint8Array(70000));
  c.close();
}});
const upload = await fetch(url + "/upload", {method: "PUT", body: pieces, duplex: "half"});
check((await upload.json()).size === 210000, "upload");
check((await (await fetch(url + "/stream")).text()).length === 70000, "stream");
check((await fetch(url + "/missing", {headers: {Accept: "application/json"}})).status === 404, "missing");
check((await fetch(url + "/", {method: "HEAD"})).headers.get("content-length") === "6", "HEAD");
console.log(`50 requests on ${peers.size} connection(s), bodies both ways`);
"""


def node(url: str, requests: int) -> str:
    return command("node", "--input-type=module", "-e", NODE, url).strip()


def chromium(url: str, requests: int) -> str:
    program = next((name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None)
    if program is None:
        raise MissingError("chromium")
    with tempfile.TemporaryDirectory() as home:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"]
        flags += [f"--user-data-dir={home}", "--virtual-time-budget=20000", "--dump-dom"]
        said = command(program, *flags, url + "/page", timeout=120)
    found = re.search(r'<pre id="out">(.*?)</pre>', said, re.DOTALL)
    assert found, said[-500:]
    wanted = json.dumps(
        [6] * 20 + ["gr\u00fc\u00dfe", len(STREAM), 404, 403], separators=(",", ":"), ensure_ascii=False
    )
    assert found[1] == wanted, found[1]
    return "a page whose script fetches, posts, streams and is refused"


def ab(url: str, requests: int) -> str:
    return apache_bench(url + "/", requests)


def apache_bench(url: str, requests: int, *flags: str) -> str:
    """All must be answered, with 200, at the right length, on kept connections."""
    said = command("ab", "-q", "-k", "-n", str(requests), "-c", "32", *flags, url)
    figures = dict(re.findall(r"^([A-Za-z0-9-][A-Za-z0-9 -]+):\s+(\d+)", said, re.MULTILINE))
    assert figures["Complete requests"] == str(requests), said
    assert figures["Failed requests"] == "0", said
    assert "Non-2xx responses" not in figures, said
    assert "Write errors" not in figures, said
    rate = re.search(r"^Requests per second:\s+([0-9.]+)", said, re.MULTILINE)
    return f"{requests} requests, none lost, {float(rate[1]) if rate else 0:.0f} a second"


def wrk(url: str, requests: int) -> str:
    said = command("wrk", "-t2", "-c64", f"-d{max(1, min(10, requests // 10_000))}s", url + "/")
    assert "Socket errors" not in said, said
    assert "Non-2xx" not in said, said
    found = re.search(r"(\d+) requests in", said)
    assert found, said
    return f"{found[1]} requests, none failed"


@contextmanager
def proxy(words: list[str], port: int, log: Path) -> Iterator[str]:
    """A proxy in the foreground, once it listens."""
    with log.open("ab") as stream, subprocess.Popen(words, stdout=stream, stderr=stream) as process:
        try:
            end = time.monotonic() + 20
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < end, f"{words[0]} does not listen: {log.read_text()}"
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def through(url: str, requests: int, directory: Path) -> str:
    """What is sent through a proxy: many small requests, and bodies in both directions."""
    said = apache_bench(url + "/", requests)
    body = directory / "body"
    body.write_bytes(b"x" * 1024)
    posted = apache_bench(url + "/echo", max(100, requests // 10), "-p", str(body), "-T", "text/plain")
    assert posted
    large = "x" * LARGE
    assert json.loads(command("curl", "-sS", "-T", "-", url + "/upload", data=large.encode()))["size"] == LARGE
    assert command("curl", "-sS", url + "/stream").encode() == STREAM
    return said


def nginx(url: str, requests: int) -> str:
    if shutil.which("nginx") is None:
        raise MissingError("nginx")
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        temporary = "\n".join(
            f"{kind}_temp_path {name}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (directory / "nginx.conf").write_text(f"""
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
pid {name}/pid;
error_log {name}/error.log notice;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_max_body_size 0;
    keepalive_requests 1000000;
    {temporary}
    upstream service {{
        server {urlsplit(url).netloc};
        keepalive 64;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
            proxy_next_upstream off;
        }}
    }}
}}
""")
        error_log = directory / "error.log"
        words = ["nginx", "-c", f"{name}/nginx.conf", "-e", str(error_log)]
        with proxy(words, port, directory / "out") as front:
            said = through(front, requests, directory)
        errors = re.findall(r".*\[(?:warn|error|crit|alert|emerg)\].*", error_log.read_text())
        assert not errors, errors[:5]
    return said


def haproxy(url: str, requests: int) -> str:
    if shutil.which("haproxy") is None:
        raise MissingError("haproxy")
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "haproxy.cfg").write_text(f"""
global
    maxconn 1000
defaults
    mode http
    retries 0
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
listen front
    bind 127.0.0.1:{port}
    server service {urlsplit(url).netloc}
""")
        with proxy(["haproxy", "-db", "-f", f"{name}/haproxy.cfg"], port, directory / "out") as front:
            return through(front, requests, directory)


CLIENTS: dict[str, Callable[[str, int], str]] = {
    "curl": curl, "requests": requests_, "httpx": httpx_, "aiohttp": aiohttp_, "node": node, "chromium": chromium,
    "ab": ab, "wrk": wrk, "nginx": nginx, "haproxy": haproxy,
}  # fmt: skip


@contextmanager
def service() -> Iterator[str]:
    """A generated service with the handlers above; its address."""
    with tempfile.TemporaryDirectory(prefix="clients-") as directory:
        Path(directory).chmod(0o755)
        generate = [sys.executable, "-m", "cookiecutter", "--no-input", "--output-dir", directory, str(TEMPLATE)]
        subprocess.run(generate, check=True, stdout=subprocess.DEVNULL)
        source = next(Path(directory).iterdir()) / "src"
        package = next(path for path in source.iterdir() if path.is_dir())
        (package / "handlers.py").write_text(HANDLERS)
        log = Path(directory) / "log"
        with (
            log.open("wb") as stream,
            subprocess.Popen(
                [sys.executable, "-m", package.name, "-x", "-i", "127.0.0.1", "-p", "0"],
                env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
                stderr=stream,
            ) as process,
        ):
            try:
                yield wait_for_address(log, process)
            finally:
                process.send_signal(signal.SIGTERM)
                status = process.wait(60)
        said = log.read_text()
        assert status == 0 and "Traceback" not in said and not re.search(r"Z (ERROR|CRITICAL) ", said), said


def wait_for_address(log: Path, process: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + 20
    while not (found := re.search(r"listening on (http://\S+)\n(?:.*\n)*.*ready: ", log.read_text())):
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    return found[1]


def main() -> int:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    names = sys.argv[2:] or list(CLIENTS)
    failed = []
    with service() as url:
        for name in names:
            began = time.monotonic()
            try:
                said = CLIENTS[name](url, requests)
            except (MissingError, ImportError) as missing:
                said = f"left out: {missing} is not installed"
            except Exception as error:  # whatever it is, the others go on
                failed.append(name)
                said = f"FAILED: {type(error).__name__}: {error}"
            print(f"{name:9} {time.monotonic() - began:6.1f} s  {said}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
