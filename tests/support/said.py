"""A service, what it says on both streams and in its log file, and a client that asks much of it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import threading
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baking import REPOSITORY, TREE
from harness import HANDLERS, Log, Service, eventually
from jsonschema import Draft202012Validator

SCHEMA = json.loads((REPOSITORY / TREE / "docs/log.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
# https://httpd.apache.org/docs/2.4/logs.html#combined, strictly.
COMBINED = re.compile(
    r"(?P<client>[0-9a-f.:]+|-) - - "
    r"\[[0-3][0-9]/[A-Z][a-z]{2}/[0-9]{4}:[0-9]{2}:[0-9]{2}:[0-9]{2} \+0000\] "
    r'"(?P<request>(?:[^"\\\x00-\x1f\x7f-\uffff]|\\["\\]|\\x[0-9a-f]{2})*)" (?P<status>[0-9]{3}|-) (?P<sent>[0-9]+) '
    r'"(?P<referer>(?:[^"\\\x00-\x1f\x7f-\uffff]|\\["\\]|\\x[0-9a-f]{2})*)" '
    r'"(?P<agent>(?:[^"\\\x00-\x1f\x7f-\uffff]|\\["\\]|\\x[0-9a-f]{2})*)"'
)
RECORD = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) +"
    r"(?P<role>[a-z]+)\[(?P<pid>\d+)\] (?:\[(?P<id>[A-Za-z0-9._~:/+=@-]+)\] )?(?P<message>.*)"
)

TALKING = (
    HANDLERS
    + """
import logging, subprocess, sys, threading, time

mine = logging.getLogger("mine")

@routes.get("/say/{text}")
def say(request):
    mine.info("heard %s", request.params["text"])
    return request.id

@routes.post("/say")
def say_body(request):
    mine.info("heard %s", request.text("latin-1"))
    return request.id

@routes.get("/number/{number}")
def number(request):
    return b"hello"

@routes.get("/bug/{text}")
def bug(request):
    raise LookupError(request.params["text"])

@routes.get("/large/{size}/{mark}")
def large(request):
    mine.info("%s:%s", request.params["mark"], "x" * int(request.params["size"]))
    return ""

@routes.get("/print/{text}")
def printed(request):
    print(request.params["text"])
    return ""

@routes.get("/generate")
def generate(request):
    def pieces():
        yield "12345"
        mine.info("in the middle")
        yield "67890"
    return Response(pieces())
"""
)


def validated(line: str) -> dict[str, Any]:
    """A line of JSON, as the schema wants it."""
    fields = json.loads(line, parse_constant=lambda name: AssertionError(f"{name} is no JSON"))
    errors = [error.message for error in VALIDATOR.iter_errors(fields)]
    assert not errors, f"{line}: {errors}"
    return dict(fields)


class Said(Service):
    """A service whose standard output is read too: `out`, beside `log`."""

    def __init__(self, source: Path, directory: Path) -> None:
        super().__init__(source, directory)
        self.out: Log
        self.logs = directory / "logs"
        self.file = self.logs / "log"
        self.handlers(TALKING)

    def launch(self, *flags: str | Path, **options: Any) -> Said:
        super().launch(*flags, stdout=options.pop("stdout", subprocess.PIPE), **options)
        if self.process is not None and self.process.stdout is not None:
            self.out = Log(self.process.stdout)
        return self

    def stop(self) -> None:
        """A graceful stop; the last line is in the file, where there is one."""
        if self.process is None or not self.file.exists():
            super().stop()
            return
        self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.log.text
        self.log.wait_closed()
        assert re.search(r"\bstopped(\"})?$", self.file.read_text()), self.file.read_text()
        self.assert_nothing_left()

    def requests(self, out: Log | None = None) -> list[str]:
        """Lines of the access log on standard output."""
        return [line for line in (out or self.out).lines if COMBINED.fullmatch(line) or '"logger":"access"' in line]

    def wait_requests(self, count: int) -> list[str]:
        def there() -> list[str]:
            found = self.requests()
            return found if len(found) >= count else []

        found = eventually(there, f"{count} lines of the access log")
        assert len(found) == count
        return found


Make = Callable[..., Said]  # of a pool, a protocol and handlers; see conftest.py


def ask(address: tuple[str, int], first: int, count: int, batch: int = 50) -> int:
    """Requests with these numbers, some at a time, each until it is answered; how many were sent. Connects anew when
    the service closes the connection, and asks again what was not answered."""
    asked, answered = 0, 0
    while answered < count:
        with socket.create_connection(address, timeout=30) as sock, sock.makefile("rb") as reader:
            going = True
            while going and answered < count:
                numbers = range(first + answered, first + min(count, answered + batch))
                sock.sendall(b"".join(b"GET /number/%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in numbers))
                for _ in numbers:
                    status = reader.readline()
                    if not status:
                        going = False
                        break
                    assert status.startswith(b"HTTP/1.1 200 "), status
                    while (line := reader.readline()) not in (b"\r\n", b""):
                        going = going and line.lower() != b"connection: close\r\n"
                    assert reader.read(5) == b"hello"
                    answered += 1
                    asked += 1
                    if not going:
                        break
    return asked


def ask_much(address: tuple[str, int], count: int, clients: int = 4) -> None:
    """Requests numbered from 0, by so many clients at once."""
    share, failures = count // clients, []
    assert share * clients == count

    def run(first: int) -> None:
        try:
            ask(address, first, share)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(n * share,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def numbers(lines: list[str]) -> list[int]:
    """Which requests these lines of the access log are about."""
    return [int(found[1]) for line in lines if (found := re.search(r"/number/(\d+)", line))]


FORGED = "2026-01-01T00:00:00.000Z CRITICAL supervisor[1] forged"
HOSTILE = (
    f"a\n{FORGED}", f"a\r\n{FORGED}", f"a\r{FORGED}", f"a\x85{FORGED}", f"a\u2028{FORGED}", f"a\x0b{FORGED}",
    'a", "level": "critical", "x": "', "a\x1b[2J\x1b]0;title\x07", "a\x00b", "a\\u000a{}", '{"time": "x"}',
)  # fmt: skip


def send_hostile(service: Said) -> None:
    for text in HOSTILE:
        quoted = urllib.parse.quote(text, safe="")
        assert service.get(f"/say/{quoted}").status_code == 200
        assert service.get(f"/bug/{quoted}").status_code == 500
        assert service.post("/say", content=text.encode()).status_code == 200
        # A header cannot hold a line's end; what it can hold, the access log writes.
        shown = re.sub(r"[^\t -~]", "?", text)
        headers = {"user-agent": shown, "referer": shown, "x-request-id": shown, "traceparent": shown}
        service.get(f"/number/1?{quoted}", headers=headers)
    wire = service.wire()
    wire.send(f"GET /{FORGED} HTTP/1.1\r\n\r\n\r\n{FORGED}\r\n")
    assert wire.answer().status == 400
