"""The shared poller: each connection wakes one idle thread, so does each job, and surplus threads end."""

import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

import pytest

from {{ cookiecutter.package_name }}.runtime.ipc.crash_throttle import CrashThrottle
from {{ cookiecutter.package_name }}.runtime.pool.thread_pool import Job, PoolThread, ThreadPool
from {{ cookiecutter.package_name }}.runtime.stream import shared_poller_threaded as shared
from {{ cookiecutter.package_name }}.runtime.system.listeners import Listener

DEADLINE = 10.0


class Host:
    """A pool and its source of connections: a thread answers each client with a byte, and waits until it has closed."""

    def __init__(self, floor: int, ceiling: int) -> None:
        self.sockets = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in range(2)]
        self.listeners = [Listener("", sock) for sock in self.sockets]
        for sock in self.sockets:
            sock.setblocking(False)
        self.poller = shared.SharedPoller(self.accept, threading.Lock())
        self.armed = True
        self.refused = threading.Semaphore(0)
        self.accepting = 0  # threads in `accept`: never two
        self.pool = ThreadPool(ModuleType("handlers"), floor, ceiling, CrashThrottle(5.0, 5, 0))
        self.pool.source = self.poller
        self.shortage = threading.Event()
        self.pool.on_shortage = self.shortage.set
        self.grower = threading.Thread(target=self.grow, daemon=True)
        self.ended = False
        self.grower.start()
        self.poller.add(self.listeners)
        self.pool.resize()

    def grow(self) -> None:
        """What the main thread of a host does."""
        while not self.ended:
            self.shortage.wait(DEADLINE)
            self.shortage.clear()
            self.pool.resize()

    def accept(self, listener: Listener) -> Job | None:
        self.accepting += 1
        assert self.accepting == 1
        try:
            if not self.armed:
                self.refused.release()
                return None
            sock, _ = listener.socket.accept()
        except BlockingIOError:
            sock = None
        finally:
            self.accepting -= 1
        self.poller.arm(listener)
        return partial(self.serve, sock) if sock is not None else None

    def serve(self, sock: socket.socket, thread: PoolThread) -> None:
        with sock:
            sock.settimeout(DEADLINE)
            sock.sendall(b"!")
            sock.recv(1)

    def client(self, number: int = 0) -> socket.socket:
        return socket.create_connection(self.sockets[number % 2].getsockname(), DEADLINE)

    def close(self) -> None:
        self.poller.close()
        self.ended = True
        self.shortage.set()
        self.grower.join(DEADLINE)
        assert self.pool.stop(DEADLINE)
        for sock in self.sockets:
            sock.close()


Make = Callable[[int, int], Host]


@pytest.fixture(
    params=[
        pytest.param("epoll", marks=pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll here")),
        "poll",
    ]
)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    monkeypatch.setattr(shared, "HAS_EPOLL", request.param == "epoll")
    hosts: list[Host] = []

    def make(floor: int, ceiling: int) -> Host:
        hosts.append(Host(floor, ceiling))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def answered(clients: list[socket.socket], count: int) -> list[socket.socket]:
    """Wait until so many have been: each listener has a queue of its own, so they need not be the first."""
    found: list[socket.socket] = []
    with selectors.DefaultSelector() as selector:
        for sock in clients:
            selector.register(sock, selectors.EVENT_READ)
        while len(found) < count:
            events = selector.select(DEADLINE)
            assert events
            for key, _ in events:
                assert isinstance(key.fileobj, socket.socket)
                assert key.fileobj.recv(1) == b"!"
                found.append(key.fileobj)
    return found


def test_each_connection_has_a_thread_up_to_the_ceiling(make: Make) -> None:
    host = make(2, 8)
    clients = [host.client(number) for number in range(12)]
    first = answered(clients, 8)
    assert len(first) == len(host.pool.all) == 8
    for sock in first:
        sock.close()
    for sock in answered([sock for sock in clients if sock not in first], 4):  # they waited in the kernel's queues
        sock.close()
    wait_until(lambda: len(host.pool.idle) == 8)


def test_many_clients_one_after_the_other(make: Make) -> None:
    host = make(4, 16)

    def run() -> None:
        for number in range(100):
            with host.client(number) as sock:
                assert sock.recv(1) == b"!"
        done.release()

    done = threading.Semaphore(0)
    for _ in range(8):
        threading.Thread(target=run, daemon=True).start()
    for _ in range(8):
        assert done.acquire(timeout=6 * DEADLINE)


def test_submitted_jobs_are_run(make: Make) -> None:
    host = make(3, 3)
    wait_until(lambda: len(host.pool.idle) == 3)
    done = threading.Semaphore(0)
    for _ in range(300):
        host.pool.submit(lambda thread: done.release())
    for _ in range(300):
        assert done.acquire(timeout=DEADLINE)
    assert len(host.pool.all) == 3


def test_accepting_pauses_until_armed_again(make: Make) -> None:
    host = make(2, 2)
    wait_until(lambda: len(host.pool.idle) == 2)
    host.armed = False
    with host.client() as sock:
        assert host.refused.acquire(timeout=DEADLINE)
        assert not host.refused.acquire(timeout=0.05), "not armed, it wakes no thread"
        host.armed = True
        host.poller.arm_all()
        assert sock.recv(1) == b"!"


def test_surplus_threads_end(make: Make) -> None:
    host = make(1, 8)
    clients = [host.client() for _ in range(8)]
    for sock in clients:
        assert sock.recv(1) == b"!"
    for sock in clients:
        sock.close()
    wait_until(lambda: len(host.pool.idle) == 8)
    for _ in range(60):
        host.pool.tick()
    wait_until(lambda: len(host.pool.all) == 1)
    with host.client() as sock:
        assert sock.recv(1) == b"!"


def test_no_connection_is_accepted_once_it_is_closed(make: Make) -> None:
    host = make(2, 2)
    wait_until(lambda: len(host.pool.idle) == 2)
    host.poller.close()
    with host.client() as sock:
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
