"""A client that comes just when a listener ends is served or refused, never connected and then reset."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator

import pytest
from harness import DEADLINE, HANDLERS, Background, Service, Wire, eventually
from services import Make

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux refuses new clients while handshakes in progress complete"
)

# Between its last look into the queue and the end of the listener, each member loses the processor until the test lets
# it go on.
PREEMPTED = """
import socket
from .probe import gate

close = socket.socket.close

def preempted(self):
    if self.fileno() >= 0 and self.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        gate("closing")
    close(self)

def worker_init(worker):
    socket.socket.close = preempted
"""
HTTP = HANDLERS[: HANDLERS.index("def worker_init")]
STREAM = """
def service_connection(stream):
    stream.write(stream.readline())
"""
REQUESTS = {"http": (HTTP, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"), "stream": (STREAM, b"line\n")}


def come(address: tuple[str, int] | str, request: bytes) -> str:
    """How it goes with a client that comes now."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as connection:
        connection.settimeout(DEADLINE)
        try:
            connection.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return "refused"
        try:
            connection.sendall(request)
            return "served" if connection.recv(4096) else "end of file"
        except OSError as error:
            return f"connected, then {error!r}"


def while_closing(service: Service, members: int, address: tuple[str, int] | str, request: bytes) -> str:
    """The members are about to close their listeners: let a client come, and let them go on as soon as it is either
    connected or on its way."""
    closing = service.events.wait("closing", members)
    client = Background(lambda: come(address, request))
    client.join(0.3)  # it is connected by now, if it is to be: the kernel does it, at once
    for member in closing:
        member.release()
    return str(client.result())


@pytest.mark.parametrize("protocol", REQUESTS)
def test_stop(make: Make, pool: str, protocol: str) -> None:
    handlers, request = REQUESTS[protocol]
    service = make(pool, protocol, PREEMPTED + handlers)
    service.start("-n", "2", "-m", "2")
    service.signal(signal.SIGTERM)
    members = 1 if pool == "threaded" else 2
    assert while_closing(service, members, service.address, request) == "refused"
    assert service.wait() == 0


@pytest.mark.parametrize("protocol", REQUESTS)
def test_killed_supervisor(make: Make, pool: str, protocol: str) -> None:
    """The server, which is left alone, refuses new clients first, as the supervisor does."""
    handlers, request = REQUESTS[protocol]
    service = make(pool, protocol, PREEMPTED + handlers)
    service.expect_errors = True
    service.start("-n", "2", "-m", "2")
    members = list(service.workers)
    service.signal(signal.SIGKILL)
    assert while_closing(service, len(members), service.address, request) == "refused"
    eventually(lambda: not any(service.alive(pid) for pid in members), "the members end")


def test_stop_at_a_unix_socket(make: Make, pool: str) -> None:
    service = make(pool, "http", PREEMPTED + HTTP)
    path = str(service.socket_path)
    service.start("-n", "2", "-m", "2", address=("-l", path))
    assert come(path, REQUESTS["http"][1]) == "served"
    service.signal(signal.SIGTERM)
    members = 1 if pool == "threaded" else 2
    assert while_closing(service, members, path, REQUESTS["http"][1]) == "refused"
    assert service.wait() == 0


def test_reload_without_an_address(make: Make, pool: str, ports: Iterator[int]) -> None:
    """The other address serves on all the time."""
    handlers, request = REQUESTS["http"]
    service = make(pool, "http", PREEMPTED + handlers)
    kept, dropped = (("127.0.0.1", next(ports)) for _ in range(2))
    bind = [f"{host}:{port}" for host, port in (kept, dropped)]
    file = service.config(f"bind = {bind}")
    service.start("-n", "2", "-m", "2", "-f", file, address=())
    assert [come(kept, request), come(dropped, request)] == ["served", "served"]
    service.config(f"bind = {bind[:1]}")
    service.handlers(HTTP)  # the next generation closes without a gate
    service.signal(signal.SIGHUP)
    service.wait_ready(2)
    members = 1 if pool == "threaded" else 2
    assert while_closing(service, members, dropped, request) == "refused"
    assert come(kept, request) == "served"
    service.wait_alone()
    service.events.wait("exit")
    assert come(kept, request) == "served"


def test_a_second_reload_while_an_address_ends(make: Make, ports: Iterator[int]) -> None:
    """A client that waits at the address that the first one drops is served, though the second one drops nothing."""
    service = make("prefork", "http", HANDLERS)
    main = service.package / "__main__.py"
    patience = "from .runtime.system import listeners\n\nlisteners.HANDSHAKE = 2.0\n"
    main.write_text(main.read_text().replace("SERVICE =", f"{patience}SERVICE =", 1))
    kept, dropped = (("127.0.0.1", next(ports)) for _ in range(2))
    bind = [f"{host}:{port}" for host, port in (kept, dropped)]
    service.start("-n", "1", "-m", "1", "-f", service.config(f"bind = {bind}"), address=())
    held = Background(lambda: Wire(kept).get("/gate"))
    (arrival,) = service.events.wait("gate")
    with Wire(dropped) as waiting:
        waiting.send(REQUESTS["http"][1])
        service.config(f"bind = {bind[:1]}")
        for generation in (2, 3):
            service.signal(signal.SIGHUP)
            service.wait_ready(generation)
        eventually(lambda: come(dropped, b"") == "refused", "it refuses new clients")
        arrival.release()
        assert held.result().status == 200
        assert waiting.answer().body == b"hello"


def test_stop_delay_serves_on_when_an_old_generation_ends(make: Make, pool: str) -> None:
    service = make(pool, "http", HANDLERS)
    path = str(service.socket_path)
    service.start("-n", "2", "-m", "2", "--stop-delay", "60", address=("-l", path))
    held = Background(lambda: Wire(path).get("/gate"))
    (arrival,) = service.events.wait("gate")
    service.signal(signal.SIGHUP)
    service.wait_ready(2)
    service.signal(signal.SIGTERM)
    service.log.wait_for("stopping gracefully")
    arrival.release()
    assert held.result().status == 200
    service.wait_alone()
    service.events.wait("exit")
    assert come(path, REQUESTS["http"][1]) == "served"
    service.signal(signal.SIGTERM)
    assert service.wait() == 0


def test_a_unix_socket_comes_back_while_its_old_generation_lives(make: Make, pool: str, ports: Iterator[int]) -> None:
    """What is removed once more then is not the new socket, though its file may have the old one's number."""
    service = make(pool, "http", HANDLERS)
    path = str(service.socket_path)
    other = ("127.0.0.1", next(ports))
    with_it, without = f'bind = ["127.0.0.1:{other[1]}", "unix:{path}"]', f'bind = ["127.0.0.1:{other[1]}"]'
    service.start("-n", "2", "-m", "2", "-f", service.config(with_it), address=())
    held = Background(lambda: Wire(other).get("/gate"))
    (arrival,) = service.events.wait("gate")
    for generation, text in ((2, without), (3, with_it)):
        service.config(text)
        service.signal(signal.SIGHUP)
        service.wait_ready(generation)
        eventually(lambda: (come(path, REQUESTS["http"][1]) == "served") is (generation == 3), "taken up")  # noqa: B023
    arrival.release()
    assert held.result().status == 200
    service.wait_alone()
    assert come(path, REQUESTS["http"][1]) == "served"
