"""What a request costs, in bytecodes of the interpreter from one call of the handler to the next: no other work on the
machine changes them. opcodes.json beside this file has what they were, for each version of Python.

    WRITE=1 pytest -n 0 tests/load/test_opcodes.py     has what they are now, after a change that is worth it
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from harness import ELSEWHERE, PYTHON, Service
from services import Make

TABLE = Path(__file__).with_name("opcodes.json")
ASK = [PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
VERSION = subprocess.run(ASK, capture_output=True, text=True, check=True).stdout.strip()
MARGIN = 0.02
REQUESTS = {"connection": 400}  # how many, where it is not 60: one in a few comes whole in the turn that accepts it

COUNTING = """
import sys

total, seen = 0, []

def count(frame, event, argument):
    global total
    frame.f_trace_opcodes, frame.f_trace_lines = True, False
    total += event == "opcode"
    return count

def worker_init(worker):
    sys.settrace(count)

def look():
    seen.append(total)

def differences():
    return [after - before for before, after in zip(seen, seen[1:])]
"""
HTTP = (
    COUNTING
    + """
import json
from .runtime.http import Router, engine
engine.INLINE = 10.0  # seconds: counting makes no handler a slow one
routes = Router()

@routes.get("/bytes")
def constant(request):
    look()
    return b"Hello, world!"

@routes.post("/json")
def echo(request):
    look()
    return json.dumps(json.loads(request.body)).encode()

@routes.get("/seen")
def report(request):
    return json.dumps(differences()).encode()
"""
)
LINE = (
    COUNTING
    + """
def service_line(line, stream):
    if line == b"seen":
        return b"%r\\n" % differences()
    look()
    return line + b"\\n"
"""
)
BODY = json.dumps({"items": [{"id": n, "name": f"item number {n}", "price": n * 1.5} for n in range(19)]}).encode()
BROWSER = b"""GET /bytes?page=1 HTTP/1.1
Host: 127.0.0.1
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8
Accept-Language: en-US,en;q=0.5
Accept-Encoding: gzip, deflate, br, zstd
Referer: https://www.example.com/some/page?with=query&number=1
Cookie: session=0123456789abcdef1; theme=dark; consent=yes; _ga=GA1.2.1234567890.1234567890
X-Request-ID: 4bf92f3577b34da6a3ce929d0e0e1
Sec-Fetch-Dest: document
Sec-Fetch-Mode: navigate
Sec-Fetch-Site: same-origin
Priority: u=0, i

""".replace(b"\n", b"\r\n")
SMALL = b"GET /bytes HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
WORKLOADS = {
    "small": SMALL,
    "browser": BROWSER,
    "json": b"POST /json HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY),
    "connection": SMALL.replace(b"Host", b"Connection: close\r\nHost"),
    "echo": b"hello\n",
}


def ask(sock: socket.socket, request: bytes, end: bytes) -> bytes:
    """Send a request, and wait for a whole answer: other bytes would come in another turn of the loop."""
    sock.sendall(request)
    answer = b""
    while not answer.endswith(end):
        piece = sock.recv(65536)
        assert piece, answer
        answer += piece
    return answer


def cost(service: Service, workload: str) -> int:
    """Bytecodes for one request: the fewest, for other work on the machine splits what else comes in one turn of the
    loop, and now and then there is a sweep."""
    request = WORKLOADS[workload]
    end = {"json": b"]}", "echo": b"\n"}.get(workload, b"world!")
    service.start("-n", "1", "-m", "1")
    sock = socket.create_connection(service.address, 20)
    requests = REQUESTS.get(workload, 60)
    for _ in range(requests):
        ask(sock, request, end)
        if workload == "connection":
            assert sock.recv(1) == b""
            sock.close()
            sock = socket.create_connection(service.address, 20)
    with closing(sock):
        last = b"seen\n" if workload == "echo" else SMALL.replace(b"bytes", b"seen")
        answer = ask(sock, last, b"]\n" if workload == "echo" else b"]")
    found: list[int] = json.loads(answer[answer.index(b"[") :])
    assert len(found) == requests - 1
    return min(found[10:])  # the first ones prepare what the others find


@pytest.mark.skipif(bool(ELSEWHERE), reason="coverage traces as well")
@pytest.mark.parametrize("pool", ["prefork", "threaded"])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_bytecodes_of_a_request(make: Make, workload: str, pool: str) -> None:
    table = json.loads(TABLE.read_text())
    service = make(pool, "line" if workload == "echo" else "http", LINE if workload == "echo" else HTTP)
    now = cost(service, workload)
    print(f"{workload} {pool}: {now:.0f} bytecodes")
    if "WRITE" in os.environ:
        table.setdefault(VERSION, {}).setdefault(pool, {})[workload] = now
        TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
        return
    if VERSION not in table:
        pytest.skip(f"opcodes.json has no figures of Python {VERSION}")
    before = table[VERSION][pool][workload]
    assert abs(now / before - 1) < MARGIN, f"{now:.0f} bytecodes, they were {before:.0f}: see the top of this file"
