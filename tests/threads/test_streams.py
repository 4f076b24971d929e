"""The protocols `stream` and `line`, in both pools: what a handler can do with a connection, and what goes wrong."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from harness import DEADLINE, Service, eventually

Make = Callable[..., Service]

STREAM = """
from .probe import gate, tell

def service_connection(stream):
    while line := stream.readline():
        command, _, rest = line.strip().decode().partition(" ")
        COMMANDS[command](stream, rest)

def echo(stream, rest):
    stream.write(rest.encode() + b"\\n")

def big(stream, rest):
    stream.write(bytes(int(rest)))

def held(stream, rest):
    stream.flush()
    gate("gate", peer=stream.peer, local=stream.local)

def fails(stream, rest):
    stream.write(b"before\\n")
    raise getattr(__import__("builtins"), rest)("on purpose")

def quits(stream, rest):
    stream.write(b"before\\n")
    stream.worker.fail(rest)

def leaves(stream, rest):
    raise SystemExit(rest)

def reads(stream, rest):
    stream.write(b"%d\\n" % len(stream.read()))

def waits(stream, rest):
    stream.settimeout(float(rest))

COMMANDS = {f.__name__: f for f in (echo, big, held, fails, quits, leaves, reads, waits)}

def worker_init(worker):
    tell("worker_init", number=worker.number)

def worker_exit(worker):
    tell("worker_exit", number=worker.number)
"""

LINE = """
from .probe import gate, tell

def service_line(line, stream):
    if line == b"fail":
        raise ValueError("on purpose")
    if line == b"gate":
        gate("gate")
    return line[::-1] + b"\\n"
"""


def connect(service: Service, address: str | None = None) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX if address else socket.AF_INET)
    connection.settimeout(DEADLINE)
    connection.connect(address or service.address)
    return connection


def say(service: Service, *lines: str) -> bytes:
    """Send lines on a connection of its own, then the end; all that comes back."""
    with connect(service) as connection:
        connection.sendall("".join(line + "\n" for line in lines).encode())
        connection.shutdown(socket.SHUT_WR)
        return rest(connection)


def send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x" * 65536)


def rest(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as reader:
        return reader.read()


def line(connection: socket.socket) -> bytes:
    """One line, and not a byte more."""
    data = b""
    while not data.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            break
        data += byte
    return data


@pytest.fixture
def stream(make: Make, pool: str) -> Service:
    service = make(pool, "stream", STREAM)
    service.start("-n", "2", "-m", "4")
    return service


def test_lines_and_addresses(stream: Service) -> None:
    with connect(stream) as connection:
        connection.sendall(b"echo one\necho two\r\n")
        assert [line(connection), line(connection)] == [b"one\n", b"two\n"]
        connection.sendall(b"held\n")
        (arrival,) = stream.events.wait("gate")
        assert arrival.data["peer"] == list(connection.getsockname())
        assert arrival.data["local"] == list(connection.getpeername())
        arrival.release()


def test_client_that_reads_slowly_gets_everything(stream: Service) -> None:
    """Partial writes: a response that is larger than all buffers."""
    size = 5_000_000
    with connect(stream) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(b"big %d\n" % size)
        received = 0
        while received < size:
            received += len(connection.recv(65536))
        assert received == size
        connection.sendall(b"echo still here\n")
        assert line(connection) == b"still here\n"


def test_signals_interrupt_nothing(stream: Service, pool: str) -> None:
    """EINTR in reads, writes and waits."""
    size = 5_000_000
    with connect(stream) as connection:
        workers = stream.workers
        connection.sendall(b"big %d\n" % size)
        received = 0
        while received < size:
            for worker in workers:
                os.kill(worker, signal.SIGWINCH)
            received += len(connection.recv(65536))
        for worker in workers:
            os.kill(worker, signal.SIGURG)
        connection.sendall(b"echo done\n")
        assert line(connection) == b"done\n"


def test_half_close(stream: Service) -> None:
    with connect(stream) as connection:
        connection.sendall(b"reads\n" + b"x" * 300_000)
        connection.shutdown(socket.SHUT_WR)
        assert rest(connection) == b"300000\n"


def test_silent_client_is_closed(make: Make, pool: str) -> None:
    service = make(pool, "stream", STREAM)
    service.start("--idle-timeout", "0.2")
    with connect(service) as connection:
        assert rest(connection) == b""
    service.log.wait_for(r"INFO .*127\.0\.0\.1:\d+ was silent for too long: closed")


def test_handler_sets_its_own_time_limit(stream: Service) -> None:
    with connect(stream) as connection:
        connection.sendall(b"waits 0.1\n")
        assert rest(connection) == b""
    stream.log.wait_for("was silent for too long")


def test_client_that_vanishes_costs_one_line(stream: Service) -> None:
    connection = connect(stream)
    connection.sendall(b"echo here\nheld\nbig 1000000\nbig 1000000\n")
    assert line(connection) == b"here\n"
    (arrival,) = stream.events.wait("gate")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()  # a reset
    arrival.release()
    stream.log.wait_for(r"INFO .*127\.0\.0\.1:\d+ left: ")
    assert say(stream, "echo next") == b"next\n"
    assert not stream.log.find("Traceback")


@pytest.mark.parametrize("error", ["ValueError", "ConnectionResetError", "TimeoutError", "KeyboardInterrupt"])
def test_handler_that_fails(stream: Service, error: str) -> None:
    """Its traceback is in the log, with the peer; what it wrote is sent; the worker lives on. An error of the same
    kind as the connection's own is still the handler's when the handler raised it."""
    stream.expect_errors = True
    before = stream.workers
    assert say(stream, "echo first", f"fails {error}") == b"first\nbefore\n"
    stream.log.wait_for(r"ERROR .*serving 127\.0\.0\.1:\d+ failed")
    stream.log.wait_for(rf"^ +{error}: on purpose")
    assert say(stream, "echo next") == b"next\n"
    assert set(before) <= set(stream.workers)


@pytest.mark.parametrize("command", ["quits", "leaves"])
def test_worker_that_fails_is_replaced(stream: Service, pool: str, command: str) -> None:
    stream.expect_errors = True
    stream.events.wait("worker_init", 2)
    first = {arrival.data["number"] for arrival in stream.events.all("worker_exit")}
    assert not first
    answer = say(stream, "echo first", f"{command} no database")
    assert answer == (b"first\nbefore\n" if command == "quits" else b"first\n")
    stream.log.wait_for("ERROR .*worker fails: no database")
    stream.events.wait("worker_exit", 1)
    stream.events.wait("worker_init", 3)
    assert say(stream, "echo next") == b"next\n"


def test_workers_that_fail_fast_are_slowed_down(make: Make, pool: str) -> None:
    service = make(pool, "stream", STREAM)
    service.expect_errors = True
    service.start("-n", "1", "-m", "1", "--fast-max", "2")
    for _ in range(3):
        assert say(service, "quits on purpose") == b"before\n"
    service.log.wait_for(r"WARNING .*too fast: the next one starts in 0\.\d s")
    assert say(service, "echo next") == b"next\n"


def test_connection_outlives_a_graceful_stop(stream: Service) -> None:
    """TERM lets connections end when their clients end them, within --drain-timeout."""
    with connect(stream) as connection:
        connection.sendall(b"echo one\n")
        assert line(connection) == b"one\n"
        stream.signal(signal.SIGTERM)
        stream.log.wait_for("stopping gracefully")
        eventually(stream.refuses, "nothing listens")
        connection.sendall(b"echo two\n")
        assert line(connection) == b"two\n"
        assert stream.running()
    assert stream.wait() == 0
    assert len(stream.events.all("worker_exit")) == len(stream.events.all("worker_init"))


def test_drain_has_a_limit_if_asked(make: Make, pool: str) -> None:
    service = make(pool, "stream", STREAM)
    service.start("--drain-timeout", "0.3")
    with connect(service) as connection:
        connection.sendall(b"echo one\n")
        assert line(connection) == b"one\n"
        service.signal(signal.SIGTERM)
        assert connection.recv(1) == b""
    service.log.wait_for("drain took longer than --drain-timeout")
    assert service.wait() == 0


def test_queue_is_emptied_in_a_drain(make: Make, pool: str) -> None:
    """Connections that wait behind a busy worker are served before the end."""
    service = make(pool, "stream", STREAM)
    service.start("-n", "1", "-m", "1")
    first = connect(service)
    first.sendall(b"held\n")
    (arrival,) = service.events.wait("gate")
    waiting = [connect(service) for _ in range(5)]
    for number, connection in enumerate(waiting):
        connection.sendall(b"echo %d\n" % number)
        connection.shutdown(socket.SHUT_WR)
    service.signal(signal.SIGTERM)
    service.log.wait_for("stopping gracefully")
    arrival.release()
    first.close()
    for number, connection in enumerate(waiting):
        assert rest(connection) == b"%d\n" % number
        connection.close()
    assert service.wait() == 0


def test_queue_is_emptied_when_term_reaches_all(make: Make, pool: str) -> None:
    """The worker before its server, which learns last that the service ends."""
    service = make(pool, "stream", STREAM)
    service.expect_errors = True  # a server that stands still is named in the log
    service.start("-n", "1", "-m", "1")
    (worker,), server = service.wait_workers(1), service.server
    for pid in (server, worker):
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in (server, worker)), "stop")
    waiting = [connect(service) for _ in range(5)]
    for number, connection in enumerate(waiting):
        connection.sendall(b"echo %d\n" % number)
        connection.shutdown(socket.SHUT_WR)
    for pid in (worker, server):
        os.kill(pid, signal.SIGTERM)
    os.kill(worker, signal.SIGCONT)
    for number, connection in enumerate(waiting):
        assert rest(connection) == b"%d\n" % number
        connection.close()
    service.signal(signal.SIGTERM)
    os.kill(server, signal.SIGCONT)
    assert service.wait() == 0


def test_drain_refuses_new_clients_and_serves_waiting_ones(make: Make, pool: str) -> None:
    """All workers are busy, and more wait than fit into the pair of a generation: as soon as one worker is free it
    serves them all, though the other is never idle."""
    service = make(pool, "stream", STREAM)
    service.start("-n", "2", "-m", "2")
    first, second = connect(service), connect(service)
    for busy in (first, second):
        busy.sendall(b"held\n")
    arrivals = service.events.wait("gate", 2)
    waiting = [connect(service) for _ in range(60)]
    gone = waiting.pop(30)
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.close()  # a reset: this client is not there any more
    service.signal(signal.SIGTERM)
    eventually(service.refuses, "nothing listens")
    (arrivals[0] if arrivals[0].data["peer"] == list(first.getsockname()) else arrivals[1]).release()
    first.close()
    for number, connection in enumerate(waiting):  # all of them: they are served in any order
        connection.sendall(b"echo %d\n" % number)
        connection.shutdown(socket.SHUT_WR)
    for number, connection in enumerate(waiting):
        assert rest(connection) == b"%d\n" % number
        connection.close()
    assert service.running()
    for arrival in arrivals:
        arrival.release()
    second.close()
    assert service.wait() == 0


def test_reload_leaves_the_queue_to_the_next_generation(make: Make, pool: str) -> None:
    """A client that waits behind a busy worker is served by the new handlers."""
    service = make(pool, "stream", STREAM)
    service.start("-n", "1", "-m", "1")
    busy = connect(service)
    busy.sendall(b"held\n")
    (arrival,) = service.events.wait("gate")
    waiting = connect(service)
    waiting.sendall(b"echo x\n")
    service.handlers(STREAM.replace("rest.encode()", 'b"new " + rest.encode()'))
    service.signal(signal.SIGHUP)
    service.wait_ready(2)
    assert line(waiting) == b"new x\n"
    arrival.release()
    busy.sendall(b"echo y\n")
    assert line(busy) == b"y\n"
    busy.close()
    waiting.close()
    service.wait_alone()


@pytest.mark.parametrize("late", [0, 3])
def test_drain_without_descriptors(make: Make, pool: str, late: int) -> None:
    """What waits in the queue when they have run out is served as soon as some are free again. It may be nothing: the
    kernel says that there is no descriptor before it says that there is no connection."""
    limited = """
import os, resource

def full(stream, rest):
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    stream.write(b"full\\n")
    stream.readline()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1024), hard))
    stream.readline()

COMMANDS["full"] = full
"""
    service = make(pool, "stream", STREAM + limited)
    service.start("-n", "1", "-m", "1")
    busy = connect(service)
    busy.sendall(b"full\n")
    assert line(busy) == b"full\n"
    waiting = [connect(service) for _ in range(late)]
    service.signal(signal.SIGTERM)
    service.log.wait_for("cannot accept: Too many open files; accepting pauses")
    busy.sendall(b"enough\n")
    eventually(service.refuses, "nothing listens")
    busy.close()
    for connection in waiting:
        connection.sendall(b"echo x\n")
        connection.shutdown(socket.SHUT_WR)
    for connection in waiting:
        assert rest(connection) == b"x\n"
        connection.close()
    assert service.wait() == 0


def test_hung_handler(make: Make, pool: str) -> None:
    """--request-timeout: its stack is logged, its client gets a close, others finish, and the worker is replaced."""
    service = make(pool, "stream", STREAM)
    service.expect_errors = True
    service.start("-n", "2", "-m", "3", "--request-timeout", "0.5")
    with connect(service) as other, connect(service) as hung:
        other.sendall(b"echo one\n")
        assert line(other) == b"one\n"
        hung.sendall(b"held\n")
        service.events.wait("gate")
        assert hung.recv(1) == b""
        service.log.wait_for(r"ERROR .*127\.0\.0\.1:\d+: a handler runs for more than 0\.5 s")
        service.log.wait_for(r'File ".*handlers\.py", line \d+ in held')
        other.sendall(b"echo two\n")
        assert line(other) == b"two\n"
    service.log.wait_for("ended with exit status 75")
    assert say(service, "echo next") == b"next\n"


def test_client_that_waits_is_not_a_hung_handler(make: Make, pool: str) -> None:
    service = make(pool, "stream", STREAM)
    service.start("--request-timeout", "0.2")
    with connect(service) as connection:
        for _ in range(5):
            connection.sendall(b"echo one\n")
            assert line(connection) == b"one\n"
            connection.settimeout(0.15)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(DEADLINE)
    assert not service.log.find("request-timeout")


def test_reload_keeps_connections(stream: Service) -> None:
    with connect(stream) as connection:
        connection.sendall(b"echo one\n")
        assert line(connection) == b"one\n"
        stream.signal(signal.SIGHUP)
        stream.wait_ready(2)
        connection.sendall(b"echo two\n")
        assert line(connection) == b"two\n"
        assert say(stream, "echo new") == b"new\n"
    stream.wait_alone()


def test_max_requests(make: Make, pool: str) -> None:
    service = make(pool, "stream", STREAM)
    service.start("-n", "1", "-m", "1", "--max-requests", "3")
    (before,) = service.wait_workers(1)
    for _ in range(10):
        assert say(service, "echo x") == b"x\n"
    eventually(lambda: before not in service.workers, "the first one has left")
    assert len(service.events.wait("worker_init", 3)) == 3


def test_unix_socket(make: Make, pool: str) -> None:
    service = make(pool, "stream", STREAM)
    service.start(address=("-l", service.socket_path))
    with connect(service, os.fspath(service.socket_path)) as connection:
        connection.sendall(b"held\n")
        (arrival,) = service.events.wait("gate")
        assert arrival.data["peer"] == ""
        arrival.release()
        connection.sendall(b"fails ValueError\n")
        assert line(connection) == b"before\n"
    service.log.wait_for("serving a local client failed")
    service.expect_errors = True


# -- line ------------------------------------------------------------------------------------------


@pytest.fixture
def lines(make: Make, pool: str) -> Service:
    service = make(pool, "line", LINE)
    service.start("-n", "2", "-m", "4")
    return service


def test_each_line_is_answered(lines: Service) -> None:
    assert say(lines, "abc", "", "def\r") == b"cba\n\nfed\n"
    with connect(lines) as connection:
        connection.sendall(b"no end")
        connection.shutdown(socket.SHUT_WR)
        assert rest(connection) == b"dne on\n"


def test_line_that_fails_does_not_take_earlier_answers_along(lines: Service) -> None:
    lines.expect_errors = True
    assert say(lines, "abc", "def", "fail", "ghi") == b"cba\nfed\n"
    lines.log.wait_for("^ +ValueError: on purpose")
    assert say(lines, "next") == b"txen\n"


@pytest.mark.parametrize("size", [1026, 1_000_000])
def test_line_that_is_too_long_is_answered_and_closed(lines: Service, size: int) -> None:
    """1024 bytes by default, as helloserver had it. The answer arrives although much is still on its way."""
    assert say(lines, "x" * 1024) == b"x" * 1024 + b"\n"
    with connect(lines) as connection:
        connection.sendall(b"abc\n" + b"x" * size)
        assert line(connection) == b"cba\n"
        assert line(connection) == b"line too long\r\n"
        assert connection.recv(1) == b""
    assert not lines.log.find("Traceback")


def test_longest_line_can_be_set(make: Make, pool: str) -> None:
    service = make(pool, "line", LINE)
    service.start("--max-line", "5")
    assert say(service, "12345") == b"54321\n"
    assert say(service, "123456") == b"line too long\r\n"


def test_client_that_goes_on_and_on_after_a_refusal_is_cut_off(lines: Service) -> None:
    """A refused client holds its worker for seconds at most, even if it never stops sending."""
    with connect(lines) as connection:
        connection.sendall(b"x" * 2000)
        assert line(connection) == b"line too long\r\n"
        with pytest.raises(ConnectionError):
            send_for_ever(connection)


def test_hung_line(make: Make, pool: str) -> None:
    service = make(pool, "line", LINE)
    service.expect_errors = True
    service.start("-n", "1", "-m", "1", "--request-timeout", "0.3")
    with connect(service) as connection:
        connection.sendall(b"abc\ngate\n")
        service.events.wait("gate")
        waiting = connect(service)  # in the accept queue: its successor serves it
        waiting.sendall(b"queued\n")
        waiting.shutdown(socket.SHUT_WR)
        assert connection.recv(100) in (b"", b"cba\n")
    service.log.wait_for(r'File ".*handlers\.py", line \d+ in service_line')
    assert rest(waiting) == b"deueuq\n"
    waiting.close()
    assert say(service, "next") == b"txen\n"


def test_missing_function_is_named(make: Make, pool: str) -> None:
    for protocol, name in (("line", "service_line"), ("stream", "service_connection")):
        service = make(pool, protocol, "x = 1\n")
        done = service.run("-x", "-p", "0")
        assert done.returncode == 70
        assert re.search(rf"hello-server: .*{name}", done.stderr)


def test_drain_timeout_is_30_s_by_default(make: Make, pool: str) -> None:
    for protocol, handlers in (("line", LINE), ("stream", STREAM)):
        done = make(pool, protocol, handlers).run("--help")
        assert re.search(r"--drain-timeout [^\[]*?default\s+30\)", done.stdout, re.DOTALL), done.stdout


def test_no_reset_destroys_the_last_words(lines: Service, tmp_path: Path) -> None:
    """The client sends more than is read before the refusal: it gets the answer all the same, every time."""
    for _ in range(20):
        with connect(lines) as connection:
            connection.sendall(b"x" * 200_000)
            assert rest(connection) == b"line too long\r\n"
