"""The fault matrix: break a service in every way that we know, under load, and account for every request.

    python ci/faults/matrix.py [--pool prefork|threaded] [--row TEXT] [--short] [--write FILE]

Exit status 1 when a row fails. `--short` is what CI runs: fewer repetitions.
"""

from __future__ import annotations

import argparse
import os
import platform
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from target import HANDLERS, PYTHON, Group, Target, eventually, generated, listening
from traffic import OUTCOMES, Account, Load

NOBODY = pwd.getpwnam("nobody").pw_uid
RECOVERY = 0.3  # seconds to the first answer on a new connection after a crash
FAST = ("--fast-time", "0")  # no death is fast: the throttle is tested in rows of its own
COLUMNS = ("pool", "fault", "sent", *OUTCOMES, "after", "processes", "sockets", "files", "recovery", "verdict")


class Case:
    """One row with one pool: a service under load, and what is known about it in the end."""

    def __init__(self, target: Target, scale: int) -> None:
        self.target = target
        self.scale = scale
        self.load: Load | None = None
        self.sent = 0
        self.account = Account()
        self.recovery: float | None = None
        self.remains = {"processes": 0, "sockets": 0, "files": 0}

    @contextmanager
    def loaded(self, clients: int = 16, pause: float = 0.0) -> Iterator[Load]:
        """Clients that ask all the time; what became of them is added to the account."""
        load = self.load = Load(self.target.port, clients, pause).start()
        try:
            load.until(300)
            yield load
        finally:
            load.stop()
            self.sent += load.sent
            self.account.before += load.account.before
            self.account.after += load.account.after
            self.account.examples += load.account.examples

    def crash(self, level: str, number: signal.Signals, most: int) -> None:
        """Break one process; the service answers again soon, and loses `most` requests."""
        self.target.start("-n", "4", "-m", "8", *FAST)
        with self.loaded() as load:
            load.mark()
            self.target.send(level, number)
            load.until(500)
            assert load.recovered is not None
            self.recovery = load.recovered
            eventually(self.target.settled, "one generation, no member leaving")
        most_seconds = RECOVERY if self.scale > 1 else 10 * RECOVERY  # the short form runs beside other tests
        assert self.recovery < most_seconds, f"answers again after {self.recovery:.3f} s"
        assert self.account.failed <= most, f"{self.account.failed} requests lost, {most} allowed"
        self.end()

    def end(self, status: int = 0) -> None:
        """A graceful stop."""
        ended = self.target.stop()
        assert ended == status, f"exit status {ended}, not {status}"

    def lossless(self) -> None:
        assert not self.account.failed, f"{self.account.failed} lost: {self.account.examples}"
        assert not self.account.total("refused"), "connections were refused"


class Row(NamedTuple):
    name: str
    run: Callable[[Case], None]


ROWS: list[Row] = []


def row(name: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    def add(function: Callable[[Case], None]) -> Callable[[Case], None]:
        ROWS.append(Row(name, function))
        return function

    return add


# ---- reload ------------------------------------------------------------------------------------------------------


@row("reload, repeated")
def reload(case: Case) -> None:
    target = case.target.start("-n", "4", "-m", "8")
    reloads = 50 if case.scale > 1 else 5
    with case.loaded() as load:
        before = target.descriptors()
        load.mark()
        for _ in range(reloads):
            at = len(target.log)
            target.send("supervisor", signal.SIGHUP)
            target.said("ready: generation", at)
            load.until(2000 if case.scale > 1 else 200)
        eventually(target.settled, "one generation, no member leaving", 40)
        assert target.descriptors() == before, f"descriptors: {before}, then {target.descriptors()}"
    case.lossless()
    assert case.scale == 1 or case.account.total("answered") >= 100_000
    case.end()


BROKEN = {
    "import": ("import no_such_module\n", "no_such_module"),
    "init": (HANDLERS + "\ndef init(server):\n    raise LookupError('no database')\n", "no database"),
    "init that dies": (HANDLERS + "\ndef init(server):\n    os.kill(os.getpid(), 9)\n", "SIGKILL"),
    "worker_init": (
        HANDLERS + "\ndef worker_init(worker):\n    raise LookupError('no cache')\n",
        "worker_init|no thread|its start",
    ),
    "worker_init, endless": (HANDLERS + "\ndef worker_init(worker):\n    time.sleep(1000)\n", "--start-timeout"),
}


def broken_reload(what: str) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        text, reason = BROKEN[what]
        target = case.target.start("-n", "4", "-m", "8", "--start-timeout", "3")
        with case.loaded() as load:
            server = target.pick("server")
            load.mark()
            target.handlers(text)
            at = len(target.log)
            done = target.ctl("reload")
            assert done.returncode == 1, f"ctl reload: {done.returncode} {done.stdout}{done.stderr}"
            target.said(r"reload failed: .*generation 1 serves on", at)
            assert any(word in done.stderr for word in reason.split("|")), f"ctl says {done.stderr!r}"
            eventually(target.settled, "the failed generation is gone")
            assert target.pick("server") == server
            load.until(200)
            target.handlers(HANDLERS)
            done = target.ctl("reload")
            assert done.returncode == 0, f"ctl reload: {done.returncode} {done.stderr}"
        case.lossless()
        case.end()

    return run


for _what in BROKEN:
    ROWS.append(Row(f"broken reload: {_what}", broken_reload(_what)))


@row("broken reload: configuration")
def broken_configuration(case: Case) -> None:
    target = case.target
    file = target.directory / "service.toml"
    file.write_text("idle = 4\n")
    target.start("-f", str(file))
    with case.loaded() as load:
        load.mark()
        file.write_text("idle = = 4\n")
        done = target.ctl("reload")
        assert done.returncode == 1 and "service.toml" in done.stderr, done.stderr
        load.until(200)
    case.lossless()
    case.end()
    file.unlink()


@row("reload to other listeners")
def other_listeners(case: Case) -> None:
    target = case.target
    file, path = target.directory / "service.toml", target.directory / "sock"
    file.write_text("idle = 2\n")
    target.start("-f", str(file), port=0)
    port = target.port
    case.end()
    file.write_text(f'bind = ["127.0.0.1:{port}"]\n')
    start_with_file(target, file)
    with case.loaded() as load:
        load.mark()
        file.write_text(f'bind = ["127.0.0.1:{port}", "unix:{path}"]\n')
        assert target.ctl("reload").returncode == 0
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        load.until(200)
        file.write_text(f'bind = ["127.0.0.1:{port}"]\n')
        assert target.ctl("reload").returncode == 0
        assert not path.exists()
        load.until(200)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            file.write_text(f'bind = ["127.0.0.1:{port}", "127.0.0.1:{taken.getsockname()[1]}"]\n')
            done = target.ctl("reload")
            assert done.returncode == 1 and "address in use" in done.stderr, done.stderr
        file.write_text(f'bind = [":{port}"]\n')  # its own address is in the way of it
        done = target.ctl("reload")
        assert done.returncode == 1 and f":{port}: overlaps 127.0.0.1:{port}," in done.stderr, done.stderr
        load.until(200)
    case.lossless()
    case.end()
    file.unlink()


def start_with_file(target: Target, file: Path) -> None:
    """Addresses from the file alone: flags would win."""
    target.launch("-f", str(file), "--control", str(target.control))
    target.said("ready: ")


@row("two HUPs at once")
def two_hups(case: Case) -> None:
    target = case.target.start("-n", "4", "-m", "8")
    with case.loaded() as load:
        load.mark()
        for _ in range(10):
            target.send("supervisor", signal.SIGHUP)
        target.said("ready: generation [23]", 0)
        load.until(300)
        eventually(target.settled, "one generation, no member leaving", 40)
    case.lossless()
    case.end()


@row("HUP while stopping")
def hup_while_stopping(case: Case) -> None:
    target = case.target.start("-n", "4", "-m", "8", "--stop-delay", "0.5")
    target.send("supervisor", signal.SIGTERM)
    target.said("stopping")  # two signals that are pending together come in any order
    target.send("supervisor", signal.SIGHUP)
    target.said("reload ignored")
    assert target.process is not None and target.process.wait(20) == 0
    assert "generation 2" not in target.log


# ---- stop --------------------------------------------------------------------------------------------------------


@row("graceful stop, repeated")
def graceful_stop(case: Case) -> None:
    for _ in range(50 if case.scale > 1 else 4):
        target = case.target.start("-n", "4", "-m", "8")
        with case.loaded() as load:
            load.mark()
            target.send("supervisor", signal.SIGTERM)
            assert target.process is not None and target.process.wait(30) == 0
    lost = sum(case.account.before[what] for what in ("reset", "late", "wrong"))
    assert not lost, f"{lost} lost of connections from before the TERM: {case.account.examples}"


def at_once(second: bool) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        target = case.target.start("-n", "2", *(() if second else ("-t",)))
        with socket.create_connection(("127.0.0.1", target.port)) as client:
            client.sendall(b"GET /slow/20 HTTP/1.1\r\nHost: test\r\n\r\n")
            held = '"connections": 1'
            eventually(lambda: held in target.ctl("status", "--json").stdout, "the connection is held")
            begun = time.monotonic()
            target.send("supervisor", signal.SIGTERM)
            target.said("stopping")
            if second:
                target.send("supervisor", signal.SIGTERM)
            assert target.process is not None and target.process.wait(20) == 0
            case.recovery = time.monotonic() - begun
            assert case.recovery < 5, f"at once took {case.recovery:.1f} s"

    return run


ROWS += [Row("second TERM", at_once(True)), Row("TERM with -t", at_once(False))]


# ---- KILL, SEGV and STOP of each level ----------------------------------------------------------------------------


def crash(level: str, number: signal.Signals) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        # At most one request of each connection that the process held; all of them, where one host holds all.
        held = {"member": 16, "server": 0}[level]
        case.crash(level, number, held)

    return run


for _level in ("member", "server"):
    for _number in (signal.SIGKILL, signal.SIGSEGV):
        ROWS.append(Row(f"{_number.name[3:]} of a {_level}", crash(_level, _number)))


def supervisor_dies(number: signal.Signals) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        target = case.target.start("-n", "4", "-m", "8")
        port = target.port
        with case.loaded() as load:
            load.mark()
            target.send("supervisor", number)
            assert target.process is not None
            target.process.wait(10)
            eventually(lambda: not target.tree(), "no process outlives it", 20)
        lost = sum(case.account.before[what] for what in ("reset", "late", "wrong"))
        assert not lost, f"{lost} lost of connections from before: {case.account.examples}"
        target.start("-n", "2", port=port)  # nothing keeps the port, or the control socket
        case.end()

    return run


for _number in (signal.SIGKILL, signal.SIGSEGV):
    ROWS.append(Row(f"{_number.name[3:]} of the supervisor", supervisor_dies(_number)))


@row("KILL of the supervisor while a handler runs")
def port_is_free(case: Case) -> None:
    target = case.target.start("-n", "1", "-m", "1", "--drain-timeout", "8")
    port = target.port
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /slow/3 HTTP/1.1\r\nHost: test\r\n\r\n")
        time_to_free(case, target, port)
        client.settimeout(10)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")  # what was in flight is finished
    target.start("-n", "1", port=port)
    case.end()


def time_to_free(case: Case, target: Target, port: int) -> None:
    eventually(lambda: '"connections": 1' in target.ctl("status", "--json").stdout, "the connection is held")
    begun = time.monotonic()
    target.send("supervisor", signal.SIGKILL)
    assert target.process is not None
    target.process.wait(10)
    eventually(lambda: not listening(port), "the port is free", 2.0)
    case.recovery = time.monotonic() - begun


@row("STOP of the supervisor")
def stopped_supervisor(case: Case) -> None:
    target = case.target.start("-n", "4", "-m", "8")
    with case.loaded() as load:
        load.mark()
        target.send("supervisor", signal.SIGSTOP)
        load.until(500)
        target.send("supervisor", signal.SIGCONT)
    case.lossless()
    case.end()


@row("STOP of a member")
def stopped_member(case: Case) -> None:
    target = case.target.start("-n", "4", "-m", "8", "--request-timeout", "1", *FAST)
    with case.loaded() as load:
        load.mark()
        pid = target.send("member", signal.SIGSTOP)
        eventually(lambda: pid not in target.tree(), "it is replaced", 10)
        case.recovery = time.monotonic() - load.marked
        load.until(300)
    assert case.account.failed <= 16, case.account.examples
    case.end()


@row("STOP of a member without --request-timeout")
def stopped_member_without_limit(case: Case) -> None:
    target = case.target.start("-n", "4", "-m", "8", *FAST)
    with case.loaded() as load:
        load.mark()
        pid = target.send("member", signal.SIGSTOP)
        eventually(lambda: pid not in target.tree(), "it is replaced", 45)
        case.recovery = time.monotonic() - load.marked
        load.until(300)
    assert 28 < case.recovery < 36, f"replaced after {case.recovery:.1f} s, not 30"
    assert case.account.failed <= 16, case.account.examples
    case.end()


@row("STOP of the server")
def stopped_server(case: Case) -> None:
    target = case.target.start("-n", "4", "-m", "8", *FAST)
    with case.loaded(4) as load:
        load.mark()
        pid = target.send("server", signal.SIGSTOP)
        target.said("stands still", deadline=3)
        eventually(lambda: pid not in target.tree(), "it is replaced", 40)
        case.recovery = time.monotonic() - load.marked
        load.until(300)
        eventually(target.settled, "one generation", 40)
    assert 28 < case.recovery < 36, f"replaced after {case.recovery:.1f} s, not 30"
    case.lossless()
    case.end()


@row("STOP of a member while it drains")
def stopped_while_draining(case: Case) -> None:
    """After a reload, and at the end: --drain-timeout ends it."""
    target = case.target.start("-n", "4", "-m", "8", "--drain-timeout", "2", *FAST)
    with case.loaded() as load:
        load.mark()
        pid = target.send("member", signal.SIGSTOP)
        target.send("supervisor", signal.SIGHUP)
        target.said("ready: generation 2")
        eventually(lambda: pid not in target.tree(), "it is gone", 15)
        load.until(300)
        eventually(target.settled, "one generation, no member leaving")
    assert case.account.failed <= 16, case.account.examples
    with socket.create_connection(("127.0.0.1", target.port), 10) as client:
        client.sendall(b"GET /pid HTTP/1.1\r\nHost: test\r\n\r\n")
        pid = int(client.recv(4096).rpartition(b"\r\n")[2])
        client.sendall(b"GET /slow/20 HTTP/1.1\r\nHost: test\r\n\r\n")
        begun = time.monotonic()
        target.send("supervisor", signal.SIGTERM)
        target.said("stopping")
        target.kill(pid, signal.SIGSTOP)
        assert target.process is not None and target.process.wait(20) == 0
    case.recovery = time.monotonic() - begun
    assert 1.5 < case.recovery < 9, f"ended after {case.recovery:.1f} s, --drain-timeout is 2"


# ---- throttle and recycling ---------------------------------------------------------------------------------------


def says(target: Target, text: str) -> bool:
    return text in target.ctl("status", "--json").stdout


@row("crash throttle")
def throttle(case: Case) -> None:
    target = case.target.start("-n", "2", "-m", "2", "--fast-max", "2", "--restart-max", "6")
    for count in range(1, 6):
        eventually(target.members, "a member", 10)
        target.send("member", signal.SIGKILL)
        counted = f'"worker_crashes": {count}'
        eventually(partial(says, target, counted), "it is counted")
    target.said("die too fast")
    eventually(target.members, "a member", 20)
    target.send("member", signal.SIGKILL)
    assert target.process is not None
    assert target.process.wait(20) == 70
    target.said("--restart-max")


@row("recycling by requests")
def recycling(case: Case) -> None:
    target = case.target.start("-n", "4", "-m", "4", "--max-requests", "200")
    with case.loaded() as load:
        load.mark()
        first = set(target.members())
        eventually(lambda: not first & set(target.members()), "all are replaced", 60)
        load.until(300)
    case.lossless()
    case.end()


GREEDY = """
hoard = []

@routes.get("/eat")
def eat(request):
    hoard.append(b"x" * 60_000_000)
    return "eaten"
"""


@row("recycling by memory")
def memory(case: Case) -> None:
    target = case.target
    target.handlers(HANDLERS + GREEDY)
    target.start("-n", "2", "-m", "2", "--max-memory", "70")
    with case.loaded() as load:
        load.mark()
        with socket.create_connection(("127.0.0.1", target.port)) as client:
            client.sendall(b"GET /eat HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        target.said("--max-memory 70")
        load.until(300)
    case.lossless()
    case.end()


KEEPING = """
kept = []

@routes.get("/keep/{size}")
def keep(request):
    kept.append(b"x" * int(request.params["size"]))
    return str(len(kept))
"""
LIMIT = 96  # MiB of the control group: half of it is free


def keeping(size: int, interval: float, most: int) -> Callable[[Case], None]:
    """A handler keeps `size` MiB every `interval` seconds, while others ask for what they always do; the kernel kills
    `most` processes."""

    def run(case: Case) -> None:
        target = case.target
        group = target.group = Group(LIMIT)
        target.handlers(HANDLERS + KEEPING)
        failed = 0
        target.start("-u", "root", "--drain-timeout", "5", prefix=group.prefix)
        with case.loaded(4, 0.02) as load:
            load.mark()
            start = time.monotonic()
            for number in range(int((60 if case.scale > 1 else 20) / interval)):
                time.sleep(max(0.0, start + number * interval - time.monotonic()))
                failed += not kept(target.port, size << 20)
        killed, replaced = group.killed(), target.log.count("the control group uses")
        print(f"{target.pool}: {killed} killed, {replaced} replaced, {failed} not kept", file=sys.stderr)
        assert killed <= most, f"the kernel has killed {killed}, {replaced} were replaced"
        assert replaced, "none was replaced: the row does not try what it says"
        assert failed + case.account.failed <= killed * (1 + 4), case.account.examples
        case.end()

    return run


def kept(port: int, size: int) -> bool:
    """Whether a handler has kept so many bytes, and said so."""
    try:
        with socket.create_connection(("127.0.0.1", port), 20) as client:
            client.sendall(b"GET /keep/%d HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n" % size)
            return client.recv(4096).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


if Group.can_be_made():
    ROWS += [Row("1 MiB kept every 0.2 s in a control group", keeping(1, 0.2, 0)),
             Row("25 MiB kept every second in a control group", keeping(1, 0.04, 1))]  # fmt: skip


# ---- scarcity -----------------------------------------------------------------------------------------------------


# Limits are set by the process itself: root is bound by none, and not every user may set those of others.
LIMITED = """
import resource

@routes.get("/limit/{number}")
def limit(request):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(request.params["number"]), hard))
    return "set"
"""
SCARCE = """
import logging, resource
HARD = resource.getrlimit(resource.RLIMIT_NPROC)[1]

def health():
    scarce = os.path.exists(FLAG)
    if scarce and resource.getrlimit(resource.RLIMIT_NPROC)[0]:
        logging.getLogger(__name__).warning("scarce now")
    resource.setrlimit(resource.RLIMIT_NPROC, (0 if scarce else HARD, HARD))
"""


def ask(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


@row("EMFILE in a member")
def emfile(case: Case) -> None:
    target = case.target
    target.handlers(HANDLERS + LIMITED)
    target.start("-n", "1", "-m", "1", "--header-timeout", "1", *FAST)
    pid = target.pick("member")
    limit = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 8
    ask(target.port, f"/limit/{limit}")
    idle = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(16)]
    target.said("accepting pauses")
    for one in idle:
        one.close()
    with case.loaded(4) as load:
        load.mark()
        target.said("accepting again")
        load.until(300)
    assert pid in target.members()  # it was not killed by it
    assert target.log.count("accepting pauses") <= 3, "one line for one shortage"
    case.lossless()
    case.end()


@row("EAGAIN at fork")
def eagain(case: Case) -> None:
    target = case.target
    flag = target.directory / "scarce"
    target.handlers(HANDLERS + SCARCE.replace("FLAG", repr(str(flag))))
    target.start("-n", "2", "-m", "4", *FAST)
    server = target.pick("server")
    with case.loaded() as load:
        flag.touch()
        target.said("scarce now")
        load.mark()
        target.send("member", signal.SIGKILL)
        target.said("cannot start a worker: fork")
        flag.unlink()
        target.said("workers can be started again")
        load.until(300)
        case.recovery = load.recovered
    assert target.pick("server") == server
    case.end()


def scarce_accept(error: str, text: str) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        target = case.target
        target.injecting = True
        target.start("-n", "2", "-m", "2", *FAST)
        members = target.members()
        with case.loaded() as load:
            with target.failing("accept", error):
                target.said(f"cannot accept: {text}; accepting pauses")
                load.until(100)  # those who are connected are served
            load.mark()
            target.said("accepting again")
            load.until(300)
            case.recovery = load.recovered
        assert target.members() == members, "no process dies of it"
        told = re.findall(r"\[(\d+)\] cannot accept", target.log)
        assert len(told) == len(set(told)), "one line for one shortage"
        case.lossless()
        case.end()

    return run


ROWS += [Row("ENFILE at accept", scarce_accept("ENFILE", "Too many open files in system")),
         Row("ENOMEM at accept", scarce_accept("ENOMEM", "Cannot allocate memory"))]  # fmt: skip


@row("ENOMEM at fork of a member")
def no_memory_for_member(case: Case) -> None:
    target = case.target
    target.injecting = True
    target.start("-n", "2", "-m", "4", *FAST)
    server = target.pick("server")
    with case.loaded() as load:
        with target.failing("fork", "ENOMEM"):
            target.send("member", signal.SIGKILL)
            target.said("cannot start a worker: fork: Cannot allocate memory")
        load.mark()
        target.said("workers can be started again")
        load.until(300)
        case.recovery = load.recovered
    assert target.pick("server") == server
    assert target.log.count("cannot start a worker") == 1, "one line for one shortage"
    assert case.account.failed <= 16, case.account.examples
    case.end()


@row("ENOMEM at fork of a server")
def no_memory_for_server(case: Case) -> None:
    target = case.target
    target.injecting = True
    target.start("-n", "2", "-m", "4", *FAST)
    with case.loaded() as load:
        with target.failing("fork", "ENOMEM"):
            done = target.ctl("reload")
            assert done.returncode == 1 and "Cannot allocate memory" in done.stderr, done
            target.said("reload refused: .*Cannot allocate memory; generation 1 serves on")
            load.until(100)
            target.send("server", signal.SIGKILL)
            target.said("cannot start the server: Cannot allocate memory; trying again")
        load.mark()
        target.said("ready: generation 2")
        load.until(300)
        case.recovery = load.recovered
        eventually(target.settled, "one generation, no member leaving")
    case.lossless()
    case.end()


@row("no process for a server")
def no_process_for_server(case: Case) -> None:
    """For so long that clients have to be told."""
    target = case.target
    target.injecting = True
    target.start("-n", "2", "-m", "4", *FAST)
    with target.failing("fork", "EAGAIN"):
        target.send("server", signal.SIGKILL)
        target.said("cannot start the server: Resource temporarily unavailable; trying again")
        health = target.ctl("health")
        assert health.returncode != 0 and health.stderr + health.stdout, health
        target.said("clients are refused until one can")
        begun = time.monotonic()
        assert b" 503 " in ask(target.port, "/pid").split(b"\r\n")[0]
        assert time.monotonic() - begun < 1, "at once"
    begun = time.monotonic()
    target.said("ready: generation 2")
    assert ask(target.port, "/pid").startswith(b"HTTP/1.1 200 ")
    case.recovery = time.monotonic() - begun
    eventually(target.settled, "one generation, no member leaving")
    case.end()


@row("reload below a limit of processes that has become lower")
def lowered_limit(case: Case) -> None:
    """What a reload needs is there already: its configuration is the same."""
    target = case.target
    os.chown(target.directory, NOBODY, NOBODY)
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)  # that user reads the package there
        target.source = Path(shutil.copytree(target.source, Path(place) / "src"))
        user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        target.start("-n", "2", "-m", "4000", prefix=user)
        assert target.process is not None
        subprocess.run([*user, "prlimit", f"--pid={target.process.pid}", "--nproc=3000"], check=True)
        with case.loaded() as load:
            target.send("supervisor", signal.SIGHUP)
            load.mark()
            target.said("ready: generation 2")
            case.recovery = time.monotonic() - load.marked
            load.until(300)
        case.lossless()
        case.end()


@row("no place for a control socket")
def no_control_socket(case: Case) -> None:
    """That the environment names, as it does for all containers of an image."""
    target = case.target
    target.launch("-i", "127.0.0.1", "-p", "0", "-n", "2", "-m", "2", prefix=("env", "HELLO_SERVER_CONTROL=/proc/ctl"))
    target.said("no control socket, so no ctl: unix:/proc/ctl: ")
    target.said("ready: generation 1")
    with case.loaded() as load:
        load.mark()
        load.until(300)
    case.lossless()
    case.end()


@row("log on a full disk")
def full_log(case: Case) -> None:
    target = case.target
    target.start("-n", "2", "-m", "2", prefix=("/bin/sh", "-c", 'exec "$@"', "sh"))
    case.end()
    port = target.port
    with open("/dev/full", "wb") as full:
        target.process = subprocess.Popen(
            [PYTHON, "-m", "hello_server", "-x", "-i", "127.0.0.1", "-p", str(port)], cwd=target.directory,
            env=target.environment, stdout=full, stderr=full, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    eventually(lambda: answers(port), "it answers")
    with case.loaded() as load:
        load.mark()
        load.until(300)
    case.lossless()
    case.end()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 2).close()
    except OSError:
        return False
    return True


@row("full log pipe")
def full_pipe(case: Case) -> None:
    target = case.target
    talkative = 'logging.getLogger("x").warning("x" * 500); return request.params["number"]'
    target.handlers("import logging\n" + HANDLERS.replace('return request.params["number"]', talkative))
    target.start("-n", "2", "-m", "2")
    case.end()
    port = target.port
    target.process = subprocess.Popen(
        [PYTHON, "-m", "hello_server", "-x", "-i", "127.0.0.1", "-p", str(port)], cwd=target.directory,
        env=target.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    eventually(lambda: answers(port), "it answers")
    with case.loaded() as load:
        load.mark()
        load.until(1000)  # 500 KB into a pipe of 64 KiB that no process reads
    case.lossless()
    case.end()
    assert target.process.stderr is not None
    target.process.stderr.close()


# ---- the run ------------------------------------------------------------------------------------------------------


def run(entry: Row, source: Path, pool: str, scale: int) -> dict[str, object]:
    """One row with one pool."""
    target = Target(source, pool)
    case = Case(target, scale)
    verdict = "ok"
    try:
        entry.run(case)
        case.remains = target.left()
        if any(case.remains.values()):
            verdict = f"FAILED: left behind {case.remains}"
    except Exception as error:
        verdict = f"FAILED: {type(error).__name__}: {error}".replace("\n", " ")
    finally:
        if verdict != "ok":
            print(target.log[-3000:], file=sys.stderr)
        target.close()
    account = case.account
    return {
        "pool": pool, "fault": entry.name, "sent": case.sent, **{what: account.total(what) for what in OUTCOMES},
        "after": sum(account.after[what] for what in ("reset", "late", "wrong")), **case.remains,
        "recovery": "" if case.recovery is None else f"{case.recovery * 1000:.0f} ms", "verdict": verdict,
    }  # fmt: skip


def table(rows: list[dict[str, object]], columns: Sequence[str] = COLUMNS) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", choices=("prefork", "threaded"), action="append")
    parser.add_argument("--row", default="", help="only rows whose name contains this")
    parser.add_argument("--short", action="store_true", help="few repetitions")
    parser.add_argument("--write", type=Path, help="write the table into this file, between its markers")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="faults-") as directory:
        for pool in options.pool or ("prefork", "threaded"):
            source = generated(Path(directory) / pool, pool)
            for entry in ROWS:
                if options.row in entry.name:
                    result = run(entry, source, pool, 1 if options.short else 10)
                    results.append(result)
                    print(" ".join(f"{column}={result[column]}" for column in COLUMNS), flush=True)
    print("\n" + table(results))
    if options.write:
        write(options.write, table(results))
    return int(any(result["verdict"] != "ok" for result in results))


def write(path: Path, text: str, name: str = "matrix") -> None:
    """Replace what stands between the two markers of this name."""
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    head, _, rest = path.read_text().partition(start)
    _, _, tail = rest.partition(end)
    made = f"Python {platform.python_version()} ran the clients, on {platform.system()}.\n\n{text}"
    path.write_text(head + start + made + end + tail)


if __name__ == "__main__":
    sys.exit(main())
