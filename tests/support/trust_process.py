"""Services that hold hostile or broken code, and what the tests of trust ask of their supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, Self

import psutil
import pytest
from harness import DEADLINE, HANDLERS, NOBODY, PYTHON, Wire
from services import Source, placed
from watched import Watched

# What hostile code finds without any name of the runtime: the memory that it shares with others, the pipes that it can
# write to, and the sockets whose other end its parent has made.
PRIMITIVES = '''
import ctypes, fcntl, signal, socket, stat, struct, subprocess, sys, threading, time

def shared_words():
    """Every shared writable mapping, as words of 64 bits."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, rights = line.split()[:2]
            if rights.startswith("rw") and rights[3] == "s":
                start, end = (int(number, 16) for number in span.split("-"))
                yield (ctypes.c_uint64 * ((end - start) // 8)).from_address(start)

def scribble(value, extent):
    """Write a value over the shared memory: where nothing is written yet, everywhere, or where it begins."""
    for words in shared_words():
        for at in range(len(words) if extent != "head" else min(len(words), 128)):
            if extent != "zeros" or not words[at]:
                words[at] = value

def replace_bytes(old, new):
    """Write other bytes of the same length over all copies of these in the shared memory."""
    assert len(old) == len(new)
    for words in shared_words():
        raw = (ctypes.c_char * ctypes.sizeof(words)).from_buffer(words)
        data, at = raw.raw, -1
        while (at := data.find(old, at + 1)) >= 0:
            raw[at : at + len(new)] = new

def writable_pipes(lowest=0):
    """Descriptors of all pipes that this process can write to."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) >= lowest and stat.S_ISFIFO(os.fstat(int(name)).st_mode):
                if fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                    yield int(name)
        except OSError:
            continue

def fill_pipes(data):
    """Write this into each of them, for as long as each takes it in 3 s."""
    for pipe in writable_pipes():
        os.set_blocking(pipe, False)
        left, end = data, time.monotonic() + 3
        while left and time.monotonic() < end:
            try:
                left = left[os.write(pipe, left[:65536]) :]
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                break

def to_parent():
    """Sockets that this process's parent has made: in a server, the other end is the supervisor's."""
    for name in os.listdir("/proc/self/fd"):
        try:
            end = socket.socket(fileno=os.dup(int(name)))
            if struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] == os.getppid():
                yield end
        except OSError:
            continue
'''
HOSTILE = HANDLERS + PRIMITIVES

# Simulates a loaded machine: a socket of the file system lies there for a moment before its maker goes on.
SLOW_BIND = """
import socket, time
real = socket.socket.bind
def bind(self, address):
    real(self, address)
    if self.family == socket.AF_UNIX:
        time.sleep(0.1)
socket.socket.bind = bind
"""


class Suspect(Watched):
    """A service whose code does what it should not. Errors in its log are expected; what a failed test leaves of it is
    killed, so a test that wants an orderly end asks for it (`end`)."""

    def __init__(self, source: Path, directory: Path) -> None:
        super().__init__(source, directory)
        self.expect_errors = True

    def end(self, deadline: float = DEADLINE) -> None:
        """A graceful stop, with the status that is promised for it."""
        self.signal(signal.SIGTERM)
        assert self.wait(deadline) == 0, self.log.text
        self.assert_nothing_left()

    def close(self) -> None:
        for arrival in self.events.everything():
            arrival.release()
        self.kill_all()
        if self.process is not None:
            self.process.wait(DEADLINE)
        if self._log is not None:
            print(self._log.text)  # pytest shows it when the test fails
        self.client.close()
        self.events.close()
        shutil.rmtree(self.directory)

    def answers(self, *paths: str, within: float = 2.0) -> float:
        """The longest time that the supervisor took for one of these pages; fails beyond the bound."""
        worst = 0.0
        for path in paths or ("/livez", "/readyz", "/metrics", "/status"):
            began = time.monotonic()
            with Wire(self.admin, within) as wire:
                try:
                    answer = wire.get(path)
                except TimeoutError:
                    raise AssertionError(f"{path}: no answer within {within:g} s") from None
            assert answer.status in (200, 503), f"{path}: {answer.status}"
            if path == "/status":
                json.loads(answer.body, parse_constant=refuse)
            worst = max(worst, time.monotonic() - began)
        return worst

    def serves_again(self) -> None:
        """A reload with sound handlers heals it."""
        self.handlers(HANDLERS)
        done = self.ctl("reload", deadline=60)
        assert done.returncode == 0, done.stderr
        assert self.get("/").text == "hello"


Place = Callable[..., Suspect]  # of a pool, handlers and a protocol


@pytest.fixture
def place(generated: Source, directories: Path) -> Iterator[Place]:
    """Prepare a service of this pool with these handlers; not started."""
    made: list[Suspect] = []

    def prepare(pool: str, handlers: str = HOSTILE, protocol: str = "http") -> Suspect:
        service = placed(Suspect, generated(pool, protocol), directories)
        made.append(service)
        service.handlers(handlers)
        return service

    yield prepare
    for service in made:
        service.close()


def refuse(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")


class Asking(threading.Thread):
    """Asks for a page of the admin endpoint again and again, within a `with`; `worst` is the longest that one took."""

    def __init__(self, address: tuple[str, int], path: str = "/livez", limit: float = 20.0) -> None:
        super().__init__(daemon=True)
        self.address, self.path, self.limit = address, path, limit
        self.worst, self.count = 0.0, 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.02):
            began = time.monotonic()
            try:
                with Wire(self.address, self.limit) as wire:
                    wire.get(self.path)
                self.count += 1
            except TimeoutError:
                pass
            except OSError:  # the supervisor is gone
                self.worst = self.limit
                return
            self.worst = max(self.worst, time.monotonic() - began)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.join(self.limit + 5)


def asked_quietly(service: Suspect, path: str, deadline: float = DEADLINE) -> None:
    """Send a request whose handler may end its worker: an answer is not expected."""
    with Wire(service.address, deadline) as wire:
        wire.send(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        try:
            wire.rest()
        except TimeoutError:
            raise AssertionError(f"{path}: neither an answer nor an end within {deadline:g} s") from None


def shared_inodes(pid: int) -> set[str]:
    """The shared writable memory of a process, by inode."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return set()
    fields = [line.split() for line in lines]
    return {one[4] for one in fields if one[1].startswith("rw") and one[1][3] == "s" and one[4] != "0"}


def without_control(text: str) -> list[str]:
    """Control characters that could steer a terminal; lines may end."""
    return re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def signals_of(pid: int, kind: str) -> set[int]:
    """Signals that a process ignores (SigIgn), catches (SigCgt) or blocks (SigBlk)."""
    found = re.search(rf"^{kind}:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    mask = int(found[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def memory(pid: int) -> int:
    """Resident bytes."""
    return int(psutil.Process(pid).memory_info().rss)


# Replaces whatever appears in a directory by a link to a file of root's; stops when its standard input is closed.
SWAPPING = """
import os, select, sys
directory, victim = sys.argv[1:]
os.chdir(directory)
print("ready", flush=True)
number = 0
while not select.select([0], [], [], 0)[0]:
    for name in os.listdir("."):
        try:
            if not os.path.islink(name) and not name.startswith("moved-"):
                number += 1
                os.rename(name, f"moved-{number}")
                os.symlink(victim, name)
        except OSError:
            pass
"""


@contextlib.contextmanager
def swapping(directory: Path, victim: Path) -> Iterator[None]:
    """Another process, of nobody, replaces what is made in this directory."""
    with subprocess.Popen(
        [PYTHON, "-c", SWAPPING, directory, victim],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=NOBODY, group=NOBODY, extra_groups=[],
    ) as attacker:  # fmt: skip
        assert attacker.stdin is not None and attacker.stdout is not None
        attacker.stdout.readline()
        try:
            yield
        finally:
            attacker.stdin.close()
            attacker.wait(10)


NEEDS_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the simulation needs /proc")
# Of inputs that differ little from those that each run tries: tried when NIGHTLY is in the environment.
NIGHTLY = pytest.mark.skipif("NIGHTLY" not in os.environ, reason="tried in the nightly run: NIGHTLY=1")
