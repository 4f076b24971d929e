"""Feed the parser mutated messages for some seconds: `python tests/support/parser_fuzz.py [seconds [seed]]`.

Looked for: any exception but ProtocolError, a status that is none of ours, an outcome that depends on how the bytes
were cut, an input that takes long, memory that stays. Prints the seed first, and the input that failed, so that
every failure can be had again; ends with status 1 after a failure.
"""

from __future__ import annotations

import gc
import random
import sys
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script

from parsing import Engine, Outcome, cut, http1, run, single_bytes

from tests.http1.test_malformed import CASES
from tests.http1.test_smuggling import PAYLOADS

LEGAL = [
    b"GET /a/b?c=d&e=%20 HTTP/1.1\r\nHost: example.com:8080\r\nUser-Agent: x/1 (y; z)\r\nAccept: */*\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b'PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5;a;b="\\""\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n',
    b"GET http://example.com:80/?a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nHEAD / HTTP/1.1\r\nAccept: */*\r\nConnection: x, keep-alive\r\nHost: a\r\n\r\n",
    *(payload.data for payload in PAYLOADS if payload.status is None),
]
ILLEGAL = [data for data, _ in CASES.values() if len(data) < 4000]
ILLEGAL += [payload.data for payload in PAYLOADS if payload.status is not None]
PARTS = [bytes([c]) for c in range(256)]
PARTS += [b"\r\n", b"\r\n\r\n", b"\n\n", b"\r\r\n", b"0\r\n\r\n", b"\r\n ", b"%41", b"%"]
PARTS += [b"chunked", b"HTTP/1.1", b"HTTP/1.0"]
PARTS += [b"Host: a\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"]
PARTS += [b"GET / HTTP/1.1\r\n"]
TIGHT = http1.Limits(line=40, head=160, fields=4, trailer=32, chunk=16, extensions=24)
STATUSES = {None, 400, 414, 417, 431, 501, 505}
SLOW = 1.0  # seconds of processor time for one input of some kilobytes: far too many


class FailureError(Exception):
    """What was found: says which check failed, and on which input."""


def mutate(source: random.Random) -> bytes:
    data = bytearray(source.choice(LEGAL if source.random() < 0.7 else ILLEGAL))
    if source.random() < 0.3:
        data += source.choice(LEGAL)
    for _ in range(source.choice((0, 1, 1, 1, 2, 3, 5, 8))):
        at = source.randrange(len(data) + 1)
        to = min(len(data), at + source.choice((0, 1, 1, 2, 4, 16)))
        kind = source.randrange(5)
        if kind == 0:
            data[at:at] = source.choice(PARTS)
        elif kind == 1:
            data[at:to] = b""
        elif kind == 2:
            data[at:to] = source.choice(PARTS)
        elif kind == 3:
            data[at:at] = data[at:to] * source.choice((1, 2, 50))
        else:
            other = source.choice(LEGAL if source.random() < 0.5 else ILLEGAL)
            begin = source.randrange(len(other))
            data[at:to] = other[begin : begin + source.randrange(1, 40)]
    return bytes(data[:8000])


def check(data: bytes, source: random.Random) -> Outcome:
    limits = TIGHT if source.random() < 0.3 else http1.Limits()
    engine = Engine(limits)
    begin = time.process_time()
    try:
        engine.feed(data)
        whole = engine.outcome()
        places = [source.randrange(len(data) + 1) for _ in range(source.randrange(1, 6))]
        pieces = run(cut(data, places), limits)
        single = run(single_bytes(data), limits) if len(data) < 600 else whole
    except Exception as error:  # whatever it is, it must not come out of a parser
        raise FailureError(f"{type(error).__name__}: {error}", data) from error
    if time.process_time() - begin > SLOW:
        raise FailureError("slow", data)
    if not whole == pieces == single:
        raise FailureError(f"depends on the pieces: {whole} {pieces} {single}", data, places)
    if whole.status not in STATUSES or not engine.reason.isprintable() or engine.reason == "malformed head":
        raise FailureError(f"status {whole.status}, {engine.reason}", data)
    return whole


def fuzz(seconds: float, seed: int) -> tuple[int, int, int]:
    """Returns how many inputs there were, how many requests came out of them and how many errors."""
    source = random.Random(seed)
    end = time.monotonic() + seconds
    inputs = requests = errors = memory = 0
    tracemalloc.start()
    try:
        while time.monotonic() < end:
            outcome = check(mutate(source), source)
            inputs += 1
            requests += len(outcome.requests)
            errors += outcome.status is not None
            if inputs % 1000 == 0:
                gc.collect()
                now = tracemalloc.get_traced_memory()[0]
                memory = memory or now  # after the first 1000 inputs all caches are full
                if now > memory + (1 << 20):
                    raise FailureError(f"memory grew from {memory} to {now} bytes")
    finally:
        tracemalloc.stop()
    return inputs, requests, errors


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
    print(f"fuzzing for {seconds:g} s with seed {seed}", flush=True)
    try:
        inputs, requests, errors = fuzz(seconds, seed)
    except FailureError as failure:
        print("found:", *failure.args, sep="\n", file=sys.stderr)
        return 1
    print(f"{inputs} inputs, {requests} requests, {errors} errors: nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
