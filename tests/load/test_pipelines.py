"""Pipelines: requests sent without waiting for answers. They are answered in order, cause no stack overflow, do
not keep others waiting, and survive whatever happens to the connection on its way."""

from __future__ import annotations

import os
import signal
import time

import pytest
from harness import Background, Wire
from loaded import Loaded


def assert_alive(service: Loaded, workers: list[int]) -> None:
    """No process has died of it, and all clients are served."""
    with service.wire() as wire:
        assert wire.get("/").body == b"hello"
    assert sorted(service.workers) == sorted(workers)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n", b"ab"),
        (b"POST /size HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"3"),
        (b"POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd", b"4"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"hello"),
    ],
    ids=["streamed answers", "chunked bodies", "bodies", "plain"],
)
def test_a_thousand_in_one_piece(service: Loaded, request_: bytes, body: bytes) -> None:
    workers = service.slots(2)
    with service.wire() as wire:
        wire.send(request_ * 1000)
        for _ in range(1000):
            answer = wire.answer()
            assert (answer.status, answer.body) == (200, body)
        assert wire.get("/").body == b"hello"
    assert_alive(service, workers)


def test_pipelines_leave_turns_for_others(service: Loaded) -> None:
    """Three hundred handlers of 5 ms each on one connection of the only worker: no other client waits for all."""
    service.members(1)
    with service.wire() as wire, service.wire() as other:
        assert other.get("/").body == b"hello"
        wire.send(b"GET /sleep/0.005/1 HTTP/1.1\r\nHost: a\r\n\r\n" * 300)
        assert wire.answer().status == 200
        took = []
        for _ in range(10):
            began = time.monotonic()
            assert other.get("/").body == b"hello"
            took.append(time.monotonic() - began)
        assert max(took) < 0.5, took  # 1.5 s when the pipeline goes first
        for _ in range(299):
            assert wire.answer().status == 200


def neighbours(service: Loaded) -> tuple[Wire, Wire]:
    """Two connections to the same worker."""
    first = service.wire()
    home = first.get("/pid").json()["worker"]
    while True:
        second = service.wire()
        if second.get("/pid").json()["worker"] == home:
            return first, second


def test_what_follows_a_large_answer_is_served_elsewhere(prefork: Loaded) -> None:
    """A client still reads its answer while its worker sleeps: the stall monitor sends the rest, and hands the request
    that was sent meanwhile to the idle sibling."""
    prefork.members(2)
    reader, sleeper = neighbours(prefork)
    reader.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\nGET /pid HTTP/1.1\r\nHost: a\r\n\r\n")
    assert reader.socket.recv(100).startswith(b"HTTP/1.1 200")
    asleep = Background(lambda: sleeper.get("/told/asleep/3"))
    prefork.events.wait("slow")
    rest = 0
    while b"HTTP/1.1 200" not in (data := reader.socket.recv(262144)):
        assert data
        rest += len(data)
        assert asleep.is_alive()
    assert asleep.is_alive(), "answered only when the sleeper had woken"
    assert rest > 10_000_000
    asleep.result()
    reader.close()
    sleeper.close()


def test_a_pipeline_survives_that_its_worker_is_replaced(prefork: Loaded) -> None:
    """The worker leaves in the middle of it, with requests in its hands: a sibling goes on with them.
    (A host that leaves says so in the answer that a thread is at: «Connection: close».)"""
    prefork.members(3)
    with prefork.wire() as wire:
        wire.send(b"".join(b"GET /sleep/0.005/%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(100)))
        first = wire.answer()
        os.kill(int(first.body.split()[1]), signal.SIGTERM)
        answers = [first, *(wire.answer() for _ in range(99))]
    assert [answer.body.split()[0] for answer in answers] == [b"%d" % n for n in range(100)]
    assert len({answer.body.split()[1] for answer in answers}) == 2, "two workers have answered"


def test_a_bad_chunk_after_expect(service: Loaded) -> None:
    """The body's first bytes come with the head, and they are wrong."""
    workers = service.slots(2)
    with service.wire() as wire:
        wire.send(b"POST /size HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n")
        assert wire.answer().status == 400
        wire.assert_closed()
    assert_alive(service, workers)
