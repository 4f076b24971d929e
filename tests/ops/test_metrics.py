"""What is counted is true, complete and well-formed."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import HANDLERS, eventually
from prometheus_client.parser import text_string_to_metric_families
from watched import Watched

COUNTING = (
    HANDLERS
    + """
import time

def init(server):
    global taken, held, seen
    taken = server.counter("orders", "Orders taken")
    held = server.gauge("held", "Requests in a handler")
    seen = server.gauge("seen", "Set by the server")
    seen.set(7)
    tell("init", uid=os.geteuid())

@routes.get("/order")
def order(request):
    taken.add()
    return "taken"

@routes.get("/hold")
def hold(request):
    held.add(1)
    gate("gate")
    held.add(-1)
    return "held"

@routes.get("/bad")
def bad(request):
    raise RuntimeError("on purpose")
"""
)


def load(address: tuple[str, int], path: str, number: int) -> int:
    """Send so many requests, 50 at a time on one connection; how many were answered with 200. Connects anew when the
    service closes the connection (as it does in a reload), and asks again what was not answered."""
    request = f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
    good = 0
    while good < number:
        with socket.create_connection(address, timeout=20) as sock, sock.makefile("rb") as reader:
            open_ = True
            while open_ and good < number:
                asked = min(50, number - good)
                sock.sendall(request * asked)
                for _ in range(asked):
                    head = reader.readline()
                    if not head:  # the rest was not taken: its connection was about to close
                        open_ = False
                        break
                    assert head.startswith(b"HTTP/1.1 200 "), head
                    length = 0
                    while (line := reader.readline()) not in (b"\r\n", b""):
                        name, _, value = line.partition(b":")
                        if name.lower() == b"content-length":
                            length = int(value)
                        if name.lower() == b"connection":
                            open_ = False
                    assert len(reader.read(length)) == length
                    good += 1
                    if not open_:
                        break
    return good


@pytest.mark.parametrize("clients", [8])
def test_clients_and_service_count_the_same_across_a_reload(either: Watched, clients: int) -> None:
    either.handlers(COUNTING)
    either.watch("-n", "2", "-m", "4")
    each, counted, half = 100_000 // clients, [], threading.Semaphore(0)

    def run() -> None:
        first = load(either.address, "/order", each // 2)
        half.release()
        counted.append(first + load(either.address, "/order", each - each // 2))

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    half.acquire()  # some are in their second half
    either.signal(signal.SIGHUP)
    either.wait_ready(2)
    for thread in threads:
        thread.join(100)
    assert sum(counted) == 100_000
    eventually(lambda: len(either.status()["generations"]) == 1, "the old generation is gone")
    assert either.metric("service_requests_total") == 100_000
    assert either.metric("orders_total") == 100_000
    assert either.metric("service_request_duration_seconds_count") == 100_000
    assert either.metric("service_generations_total") == 2
    assert either.metric("service_errors_total") == 0


WRK = """
local left = %d
function response(status)
  left = left - 1
  if left == 0 then wrk.thread:stop() end
end
"""


def test_wrk_counts_the_same(either: Watched, tool: Callable[[str], str], tmp_path: Path) -> None:
    """One connection per thread of wrk: it stops when the last answer is there, with nothing in flight."""
    wrk = tool("wrk")
    script = tmp_path / "count.lua"
    script.write_text(WRK % 5_000)
    either.watch()
    done = subprocess.run(
        [wrk, "-t4", "-c4", "-d20", "-s", script, either.url("/")],  # it sleeps for so long, whatever its threads do
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    said = int(re.findall(r"(\d+) requests in", done.stdout)[0])
    assert said == 20_000, done.stdout
    assert either.metric("service_requests_total") == said


def test_a_killed_workers_counts_are_kept(service: Watched) -> None:
    service.handlers(COUNTING)
    service.expect_errors = True
    service.watch("-n", "2", "-m", "4")
    assert load(service.address, "/order", 500) == 500
    wire = service.background("/hold")
    service.events.wait("gate")
    assert service.metric("held") == 1
    for pid in service.workers:
        os.kill(pid, signal.SIGKILL)
    service.log.wait_for(r"signal SIGKILL", count=2)
    service.wait_workers(2)
    with pytest.raises(ConnectionResetError):
        wire.result()
    assert load(service.address, "/order", 10) == 10
    assert service.metric("orders_total") == 510
    assert service.metric("service_requests_total") == 510  # that of /hold had no end
    assert service.metric("held") == 0  # a gauge goes with its worker
    assert service.metric("seen") == 7
    assert service.metric("service_worker_crashes_total") == 2


def test_a_crashed_server_and_new_names(service: Watched) -> None:
    """Totals never fall: not when a server dies, not when the code declares other metrics."""
    service.handlers(COUNTING)
    service.expect_errors = True
    service.watch("-n", "2", "-m", "4")
    assert load(service.address, "/order", 100) == 100
    os.kill(service.server, signal.SIGKILL)
    service.wait_ready(2)
    assert load(service.address, "/order", 100) == 100
    service.handlers(COUNTING.replace('"orders"', '"sales"').replace('"seen"', '"noted"'))
    service.signal(signal.SIGHUP)
    service.wait_ready(3)
    service.wait_alone()
    assert load(service.address, "/order", 100) == 100
    eventually(lambda: len(service.status()["generations"]) == 1, "one generation is left")
    assert service.metric("orders_total") == 200
    assert service.metric("sales_total") == 100
    assert service.metric("noted") == 7
    assert "\nseen " not in service.page("/metrics")[1]
    assert service.metric("service_requests_total") == 300


def test_prometheus_reads_it(either: Watched, tool: Callable[[str], str]) -> None:
    either.handlers(COUNTING)
    either.expect_errors = True
    either.watch()
    assert load(either.address, "/order", 20) == 20
    assert either.get("/bad").status_code == 500
    text = either.page("/metrics")[1]
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {family.type for family in families.values()} == {"counter", "gauge", "histogram"}
    assert all(family.documentation for family in families.values())
    assert families["orders"].samples[0].value == 20
    assert families["service_errors"].samples[0].value == 1
    buckets = [s for s in families["service_request_duration_seconds"].samples if s.name.endswith("_bucket")]
    values = [s.value for s in buckets]
    assert values == sorted(values) and values[-1] == 21
    bounds = [float(s.labels["le"]) for s in buckets]
    assert bounds == sorted(bounds)
    # Sums of bytes are written every 10 ms.
    eventually(lambda: either.metric("service_received_bytes_total") > 20 * 30, "what was received is counted")
    eventually(
        lambda: either.metric("service_sent_bytes_total") > either.metric("service_received_bytes_total"),
        "what was sent, which is more",
    )
    done = subprocess.run([tool("promtool"), "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('server.counter("service_x", "help")', "not beginning with service_"),
        ('server.counter("a b", "help")', "letters, digits and underscores"),
        ('server.gauge("x", "")', "needs a help text"),
        ('server.gauge("x", "h"); server.counter("x", "h")', "there already"),
        ('[server.gauge(f"x{i}", "h") for i in range(65)]', "64 at most"),
    ],
)
def test_bad_declarations(service: Watched, line: str, said: str) -> None:
    service.handlers(HANDLERS + f"\ndef init(server):\n    {line}\n")
    service.expect_errors = True
    done = service.run("-x", "-p", "0", "-i", "127.0.0.1")
    assert done.returncode == 70
    assert said in done.stderr


def test_counters_only_grow_and_only_init_declares(service: Watched) -> None:
    service.handlers(
        COUNTING
        + """
@routes.get("/misuse")
def misuse(request):
    said = []
    for call in (lambda: taken.add(-1), lambda: taken.set(1), lambda: kept.counter("late", "h")):
        try:
            call()
        except Exception as error:
            said.append(type(error).__name__)
    return said

def worker_init(worker):
    global kept
    kept = saved[0]
""".replace("saved[0]", "SERVER")
        + """
first = init
def init(server):
    global SERVER
    SERVER = server
    first(server)
"""
    )
    service.watch()
    assert service.get("/misuse").json() == ["ValueError", "TypeError", "RuntimeError"]
