"""The cost of hostile input: linear in its size, whole or byte by byte, and bounded in memory.

Times are processor time and only ever compared with each other: eight times the input may cost at most 24 times as
much. Quadratic cost would be 64 times as much.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import pytest
from parsing import Engine, http1

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"
WIDE = http1.Limits(line=1 << 24, head=1 << 24, fields=1 << 24, trailer=1 << 24, chunk=1 << 24, extensions=1 << 24)


def chunks(body: bytes) -> bytes:
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body


# What might make a regular expression try again and again: long runs of what repeats, of every kind, with an end that
# does not fit (or does).
FAMILIES: dict[str, Callable[[int], bytes]] = {
    "method": lambda n: b"G" * n,
    "method without target": lambda n: b"G" * n + b" \r\n",
    "path": lambda n: b"GET /" + b"a" * n + b"\x00",
    "path and a wrong version": lambda n: b"GET /" + b"a" * n + b" HTTP/1.x\r\n\r\n",
    "escapes, the last one broken": lambda n: b"GET /" + b"%41" * (n // 3) + b"% HTTP/1.1\r\n" + b"Host: a\r\n\r\n",
    "question marks": lambda n: b"GET /" + b"?" * n + b"# HTTP/1.1\r\n\r\n",
    "slashes": lambda n: b"GET " + b"/" * n + b'" HTTP/1.1\r\n\r\n',
    "authority": lambda n: b"GET http://" + b"a." * (n // 2) + b"@ HTTP/1.1\r\n\r\n",
    "Host": lambda n: b"GET / HTTP/1.1\r\nHost: " + b"a" * n + b",\r\n\r\n",
    "Host in brackets": lambda n: b"GET / HTTP/1.1\r\nHost: [" + b":" * n + b"]\r\n\r\n",
    "Host, port": lambda n: b"GET / HTTP/1.1\r\nHost: a:" + b"1" * n + b"\r\n\r\n",
    "name": lambda n: HEAD + b"A" * n + b"\r\n\r\n",
    "value": lambda n: HEAD + b"A: " + b"b" * n + b"\x00\r\n\r\n",
    "value of spaces": lambda n: HEAD + b"A:" + b" " * n + b"\r\n\r\n",
    "value of spaces, asked for": lambda n: HEAD + b"Connection:" + b" " * n + b"x" + b" " * n + b"\r\n\r\n",
    "short fields": lambda n: HEAD + b"a:\r\n" * (n // 4) + b"\r\n",
    "short fields without end": lambda n: HEAD + b"a:\r\n" * (n // 4),
    "short fields, the last one malformed": lambda n: HEAD + b"a:\r\n" * (n // 4) + b"a\r\n\r\n",
    "notable fields": lambda n: HEAD + b"Connection: a\r\n" * (n // 15) + b"\r\n",
    "notable fields, the last one malformed": lambda n: HEAD + b"Connection: a\r\n" * (n // 15) + b"\x00",
    "plain and notable fields": lambda n: HEAD + b"a:\r\nTE:\r\nExpect:\r\n" * (n // 18) + b"\x00\r\n\r\n",
    "Content-Length lines": lambda n: HEAD + b"Content-Length: 5\r\n" * (n // 19) + b"a\r\n\r\n",
    "Host lines": lambda n: b"GET / HTTP/1.1\r\n" + b"Host: a\r\n" * (n // 9) + b"a\r\n\r\n",
    "length": lambda n: HEAD + b"Content-Length: " + b"1" * n + b"\r\n\r\n",
    "commas in Connection": lambda n: HEAD + b"Connection: " + b"," * n + b"\r\n\r\n",
    "commas in Transfer-Encoding": lambda n: HEAD + b"Transfer-Encoding: " + b"a," * (n // 2) + b"chunked\r\n\r\n",
    "CRs": lambda n: HEAD + b"\r" * n,
    "CRLFs": lambda n: b"\r\n" * (n // 2),
    "chunk size": lambda n: chunks(b"0" * n),
    "extension": lambda n: chunks(b"1;" + b"a" * n + b"\x00"),
    "extensions": lambda n: chunks(b"1" + b";a=b" * (n // 4) + b" \r\nx\r\n"),
    "extension of spaces": lambda n: chunks(b"1" + b" " * n + b"x\r\n"),
    "extension of spaces and semicolons": lambda n: chunks(b"1" + b" ; a = b" * (n // 8) + b" x\r\n"),
    "quoted extension": lambda n: chunks(b'1;a="' + b"\\a" * (n // 2) + b"\r\n"),
    "small chunks": lambda n: chunks(b"1\r\nx\r\n" * (n // 6) + b"0\r\n\r\n"),
    "trailers": lambda n: chunks(b"0\r\n" + b"a:\r\n" * (n // 4) + b"a\r\n\r\n"),
    "trailer of spaces": lambda n: chunks(b"0\r\na:" + b" " * n + b"\r\n\r\n"),
}


def cost(data: bytes, size: int, limits: http1.Limits, runs: int = 3) -> float:
    """The least processor time of some runs, fed in pieces of this size."""
    times = []
    for _ in range(runs):
        engine = Engine(limits)
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        begin = time.process_time()
        for piece in pieces:
            engine.feed(piece)
        times.append(time.process_time() - begin)
    return min(times)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_whole_input_costs_linear_time(family: Callable[[int], bytes]) -> None:
    """Far beyond all limits, so that it is the grammar that is measured."""
    small, large = family(40_000), family(320_000)
    for _ in range(3):  # against noise: one fair comparison is enough
        ratio = cost(large, len(large), WIDE) / max(cost(small, len(small), WIDE), 0.0002)
        if ratio < 24:
            return
    pytest.fail(f"8 times the input costs {ratio:.0f} times as much")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_single_bytes_cost_no_more_than_a_few_readings(family: Callable[[int], bytes]) -> None:
    """64 KiB, byte by byte, with the default limits: what takes 0.3 s on one machine may take 3 s on another."""
    assert cost(family(65_000), 1, http1.Limits(), runs=1) < 5


def test_a_slow_head_costs_linear_time() -> None:
    """A legal head, byte by byte: 8 times the size, at most 24 times the time."""
    limits = http1.Limits(line=1 << 20, head=1 << 20, fields=1 << 20)
    makers: list[Callable[[int], bytes]] = [
        lambda n: HEAD + b"A: " + b"b" * n + b"\r\n\r\n",
        lambda n: HEAD + b"A" * n + b":\r\n\r\n",
        lambda n: HEAD + b"Abcd: efgh\r\n" * (n // 12) + b"\r\n",
    ]
    for make in makers:
        ratio = cost(make(64_000), 1, limits) / cost(make(8_000), 1, limits)
        assert ratio < 24


def test_memory_is_bounded() -> None:
    """The regular expression keeps a little for each line: no more than some bytes for every byte of a full head."""
    data = (HEAD + b"a:\r\n" * 16_000)[:65_000] + b"\r\n\r\n"
    limits = http1.Limits(fields=100_000)
    http1.parse_head(data, limits)
    tracemalloc.start()
    try:
        for end in (b"", b"\x00"):
            with_end = data[:-2] + end + data[-2:]
            try:
                http1.parse_head(with_end, limits)
            except http1.ProtocolError:
                assert end
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
