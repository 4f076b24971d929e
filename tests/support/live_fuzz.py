"""Fuzz a running service with mutated messages: `python tests/support/live_fuzz.py [seconds [seed]]`.

The parser says what each input comes to (parsing.py); the service must answer exactly that, in order, and
close. Looked for besides: workers that end, errors in the log, hangs, descriptors and memory that stay. Prints the seed
first, and the input that failed; ends with status 1 after a failure.
"""

from __future__ import annotations

import random
import socket
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
from baking import bake, copy_template
from harness import Service, Wire, eventually
from parser_fuzz import FailureError, mutate
from parsing import Outcome, http1, run

HANDLERS = """
from .runtime.http import Request, Response, Router
from .runtime.web.routes import METHODS

routes = Router()

def anything(request: Request) -> Response:
    request.headers.get("x-no-such-field"), dict(request.headers), request.query, request.path, request.host
    body = request.body
    if request.head.minor and len(request.target) % 3 == 0:  # to HTTP/1.0 the end of the connection would be its end
        return Response(iter([body[:10], body[10:]]), headers={"X-Target": request.target})
    return Response(body, headers={"X-Target": request.target})

for method in METHODS:
    routes.add(method, "/{rest:path}", anything)
"""
GROWTH = 8 << 20  # bytes of memory that a worker may gain
WARM = 1000  # inputs after which all caches are full


def answers(wire: Wire, outcome: Outcome) -> list[tuple[int, str | None, bytes]]:
    """Status, target and body of all final answers until the server closes."""
    methods = [request.method for request in outcome.requests]
    found: list[tuple[int, str | None, bytes]] = []
    while wire.more():
        answer = wire.answer(methods[len(found)] if len(found) < len(methods) else "GET")
        if answer.status != 100:
            found.append((answer.status, answer.header("x-target"), answer.body))
    return found


def check(service: Service, data: bytes, source: random.Random) -> None:
    outcome = run(data)
    # A client that says close, or speaks HTTP/1.0, and sends more later may be reset; after an error none is.
    rude = outcome.state == "closed" and outcome.status is None
    places = [] if rude else sorted(source.randrange(len(data) + 1) for _ in range(source.choice((0, 0, 1, 3))))
    try:
        with service.wire() as wire:
            begin = 0
            for place in [*places, len(data)]:
                wire.send(data[begin:place])
                begin = place
            wire.socket.shutdown(socket.SHUT_WR)
            found = answers(wire, outcome)
    except (OSError, ValueError, AssertionError) as error:
        raise FailureError(f"{type(error).__name__}: {error}", data, places) from error
    for answer, request in zip(found, outcome.requests, strict=False):
        status, target, body = answer
        if status == 200 and (target != request.target or body != (b"" if request.method == "HEAD" else request.body)):
            raise FailureError(f"{request} was answered with {answer}", data, places)
        if status not in (200, 204, 405, 501):
            raise FailureError(f"{request} was answered with {status}", data, places)
        if status != 200 and request.expect and answer is found[-1]:
            return  # the body was not read that the client had announced, so nothing can follow
    rest = [status for status, _, _ in found[len(outcome.requests) :]]
    allowed = [[outcome.status]] if outcome.status is not None else [[]]
    if outcome.state == "body":
        allowed.append([413])
        if b"expect" in data.lower():  # the body that has been announced may be unwanted
            allowed += [[204], [405], [501]]
    if len(found) < len(outcome.requests) or rest not in allowed:
        raise FailureError(f"{found}, expected {outcome}", data, places)


def resources(service: Service) -> dict[int, tuple[int, int]]:
    """Memory and descriptors of each worker."""
    found = {}
    for pid in service.workers:
        process = psutil.Process(pid)
        found[pid] = (process.memory_info().rss, process.num_fds())
    return found


def few(service: Service, pid: int, most: int) -> bool:
    """Whether a worker has no more descriptors than this."""
    return resources(service)[pid][1] <= most


def fuzz(service: Service, seconds: float, seed: int) -> int:
    """Returns how many inputs there were. Raises FailureError."""
    source = random.Random(seed)
    end = time.monotonic() + seconds
    inputs = 0
    before: dict[int, tuple[int, int]] = {}
    workers = set(service.workers)
    while time.monotonic() < end or inputs < 100:
        check(service, mutate(source), source)
        inputs += 1
        if inputs == WARM:
            before = resources(service)
    if set(service.workers) != workers:
        raise FailureError(f"workers were {workers} and are {service.workers}")
    for pid, (memory, descriptors) in before.items():
        now, _ = resources(service)[pid]
        if now > memory + GROWTH:
            raise FailureError(f"worker {pid} grew from {memory} to {now} bytes")
        # Connections that linger are closed soon.
        eventually(partial(few, service, pid, descriptors + 2), "descriptors are closed")
    service.assert_quiet()
    return inputs


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
    print(f"fuzzing a service for {seconds:g} s with seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        source = bake(copy_template(directory / "template"), directory / "project") / "src"
        (directory / "service").mkdir(mode=0o755)
        service = Service(source, directory / "service")
        try:
            service.handlers(HANDLERS)
            service.start("-n", "2", "-m", "2")
            inputs = fuzz(service, seconds, seed)
        except FailureError as failure:
            print("found:", *failure.args, sep="\n", file=sys.stderr)
            service.expect_errors = True
            return 1
        finally:
            service.close()
    print(f"{inputs} inputs: nothing found")
    return 0


if __name__ == "__main__":
    assert http1.Limits().head == 65536, "the parser's limits are those of the service"
    sys.exit(main())
