"""The door: each connection wakes one idle thread, jobs are heard there too, and whoever is to leave leaves."""

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
from {{ cookiecutter.package_name }}.runtime.stream import shared_epoll as door
from {{ cookiecutter.package_name }}.runtime.system.listeners import Listener

DEADLINE = 10.0
pytestmark = pytest.mark.skipif(not door.AVAILABLE, reason="needs epoll; elsewhere the main thread accepts")


class House:
    """A pool behind a door: threads answer each client with a byte, and wait until it has closed."""

    def __init__(self, floor: int, ceiling: int) -> None:
        self.sockets = [socket.create_server(("127.0.0.1", 0), backlog=128) for _ in range(2)]
        self.listeners = [Listener("", sock) for sock in self.sockets]
        for sock in self.sockets:
            sock.setblocking(False)
        self.door = door.SharedEpoll(self.take)
        self.armed = True
        self.refused = threading.Semaphore(0)
        self.accepting = 0  # threads in `take`: never two
        self.pool = ThreadPool(ModuleType("handlers"), floor, ceiling, CrashThrottle(5.0, 5, 0))
        self.pool.door = self.door
        self.short = threading.Event()
        self.pool.on_short = self.short.set
        self.grower = threading.Thread(target=self.grow, daemon=True)
        self.ended = False
        self.grower.start()
        self.door.admit(self.listeners)
        self.pool.resize()

    def grow(self) -> None:
        """What the main thread of a host does."""
        while not self.ended:
            self.short.wait(DEADLINE)
            self.short.clear()
            self.pool.resize()

    def take(self, listener: Listener) -> Job | None:
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
        self.door.arm(listener)
        return partial(self.serve, sock) if sock is not None else None

    def serve(self, sock: socket.socket, thread: PoolThread) -> None:
        with sock:
            sock.settimeout(DEADLINE)
            sock.sendall(b"!")
            sock.recv(1)

    def client(self, number: int = 0) -> socket.socket:
        return socket.create_connection(self.sockets[number % 2].getsockname(), DEADLINE)

    def close(self) -> None:
        self.door.shut()
        self.ended = True
        self.short.set()
        self.grower.join(DEADLINE)
        assert self.pool.stop(DEADLINE)
        for sock in self.sockets:
            sock.close()


Make = Callable[[int, int], House]


@pytest.fixture
def make() -> Iterator[Make]:
    houses: list[House] = []

    def make(floor: int, ceiling: int) -> House:
        houses.append(House(floor, ceiling))
        return houses[-1]

    yield make
    for house in houses:
        house.close()


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
    house = make(2, 8)
    clients = [house.client(number) for number in range(12)]
    first = answered(clients, 8)
    assert len(first) == len(house.pool.all) == 8
    for sock in first:
        sock.close()
    for sock in answered([sock for sock in clients if sock not in first], 4):  # they waited in the kernel's queues
        sock.close()
    wait_until(lambda: len(house.pool.idle) == 8)


def test_many_clients_one_after_the_other(make: Make) -> None:
    house = make(4, 16)

    def run() -> None:
        for number in range(100):
            with house.client(number) as sock:
                assert sock.recv(1) == b"!"
        done.release()

    done = threading.Semaphore(0)
    for _ in range(8):
        threading.Thread(target=run, daemon=True).start()
    for _ in range(8):
        assert done.acquire(timeout=6 * DEADLINE)


def test_jobs_are_heard_at_the_door(make: Make) -> None:
    house = make(3, 3)
    wait_until(lambda: len(house.pool.idle) == 3)
    done = threading.Semaphore(0)
    for _ in range(300):
        house.pool.submit(lambda thread: done.release())
    for _ in range(300):
        assert done.acquire(timeout=DEADLINE)
    assert len(house.pool.all) == 3


def test_after_a_pause_it_opens_again(make: Make) -> None:
    house = make(2, 2)
    wait_until(lambda: len(house.pool.idle) == 2)
    house.armed = False
    with house.client() as sock:
        assert house.refused.acquire(timeout=DEADLINE)
        assert not house.refused.acquire(timeout=0.05), "not armed, it wakes nobody"
        house.armed = True
        house.door.arm_all()
        assert sock.recv(1) == b"!"


def test_those_who_are_not_needed_leave(make: Make) -> None:
    house = make(1, 8)
    clients = [house.client() for _ in range(8)]
    for sock in clients:
        assert sock.recv(1) == b"!"
    for sock in clients:
        sock.close()
    wait_until(lambda: len(house.pool.idle) == 8)
    for _ in range(60):
        house.pool.tick()
    wait_until(lambda: len(house.pool.all) == 1)
    with house.client() as sock:
        assert sock.recv(1) == b"!"


def test_nobody_comes_in_once_it_is_shut(make: Make) -> None:
    house = make(2, 2)
    wait_until(lambda: len(house.pool.idle) == 2)
    house.door.shut()
    with house.client() as sock:
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
