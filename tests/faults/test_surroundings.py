"""What the starter gives and takes: sockets, descriptors, limits, users, a notify socket, a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from matrix import answers, ask
from target import HANDLERS, PACKAGE, PYTHON, Target, eventually

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Runs a command with listening sockets as systemd does: descriptors from 3 on, and LISTEN_PID its own number.
ACTIVATE = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(params=["prefork"])
def pool(request: pytest.FixtureRequest) -> str:
    """What a pool has no part in is tried with one."""
    return str(request.param)


def activated(
    target: Target, sockets: Sequence[socket.socket], *flags: str, **environment: str
) -> subprocess.Popen[bytes]:
    """Started with these sockets as descriptors 3, 4 and so on."""
    numbers = [one.fileno() for one in sockets]
    # Moved out of the way first: one of them may stand where another is to go.
    moves = f"import os\nhigh = [os.dup2(n, 200 + i) for i, n in enumerate({numbers})]\n"
    moves += "[os.dup2(n, 3 + i) for i, n in enumerate(high)]\n[os.close(n) for n in high]\n"
    command = [sys.executable, "-c", moves + ACTIVATE, PYTHON, "-m", PACKAGE, "-x", *flags]
    with target.log_path.open("wb") as log:
        target.process = subprocess.Popen(
            command, cwd=target.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=numbers,
            env={**target.environment, "LISTEN_FDS": str(len(numbers)), **environment}, start_new_session=True,
        )  # fmt: skip
    return target.process


@pytest.fixture
def two() -> Iterator[list[socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        yield [first, second]


def test_inherited_sockets_are_served_and_survive_a_reload(target: Target, two: list[socket.socket]) -> None:
    process = activated(target, two)
    ports = [one.getsockname()[1] for one in two]
    for one in two:
        one.close()  # from now on only the service has them
    target.said("ready: generation 1")
    for port in ports:
        assert ask(port, "/number/1").endswith(b"\r\n\r\n1")
    target.send("supervisor", signal.SIGHUP)
    target.said("ready: generation 2")
    for port in ports:
        assert ask(port, "/number/2").endswith(b"\r\n\r\n2")
    process.terminate()
    assert process.wait(20) == 0


@pytest.mark.parametrize("flags", [["-p", "0"], ["-i", "127.0.0.1"], ["--bind", "127.0.0.1:0"], ["-l", "sock"]])
def test_an_address_beside_inherited_sockets_is_refused(
    target: Target, two: list[socket.socket], flags: list[str]
) -> None:
    assert activated(target, two, *flags).wait(20) == 2
    assert re.fullmatch(r"hello-server: --[a-z-]+: .*LISTEN_FDS.*\n", target.log), target.log


@pytest.mark.parametrize("source", ["environment", "file"])
def test_an_address_elsewhere_is_ignored_and_named(target: Target, two: list[socket.socket], source: str) -> None:
    file = target.directory / "service.toml"
    file.write_text("port = 1\n")
    environment = {"HELLO_SERVER_PORT": "1"} if source == "environment" else {"HELLO_SERVER_CONFIG": str(file)}
    process = activated(target, two, **environment)
    target.said(rf"port from the {source} is ignored: .*LISTEN_FDS")
    target.said("ready: ")
    process.terminate()
    assert process.wait(20) == 0


def test_a_socket_named_admin_is_the_admin_address(target: Target, two: list[socket.socket]) -> None:
    process = activated(target, two, LISTEN_FDNAMES="web:admin", HELLO_SERVER_ADMIN="127.0.0.1:1")
    web, admin = (one.getsockname()[1] for one in two)
    target.said(r"admin from the environment is ignored: .*LISTEN_FDS")
    target.said("ready: generation 1")
    assert ask(web, "/number/1").endswith(b"\r\n\r\n1")
    assert ask(admin, "/readyz").endswith(b"\r\n\r\nready\n")
    target.send("supervisor", signal.SIGHUP)
    target.said("ready: generation 2")
    assert "changes only on a restart" not in target.log
    assert ask(admin, "/readyz").endswith(b"\r\n\r\nready\n")
    process.terminate()
    assert process.wait(20) == 0


def test_a_socket_named_admin_alone_leaves_the_addresses_alone(target: Target, two: list[socket.socket]) -> None:
    process = activated(target, two[:1], "-i", "127.0.0.1", "-p", "0", LISTEN_FDNAMES="admin")
    target.said("ready: generation 1")
    assert ask(two[0].getsockname()[1], "/readyz").endswith(b"\r\n\r\nready\n")
    assert ask(target.port, "/number/1").endswith(b"\r\n\r\n1")
    process.terminate()
    assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("names", "flags", "said"),
    [
        ("web:admin", ["--admin", "127.0.0.1:0"], "--admin: an address beside inherited sockets"),
        ("connection", [], "a connection, not a listening socket: set Accept=no"),
        ("admin:admin", [], "more than one socket is named admin"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(
    target: Target, two: list[socket.socket], names: str, flags: list[str], said: str
) -> None:
    assert activated(target, two, *flags, LISTEN_FDNAMES=names).wait(20) == 2
    assert re.fullmatch(f"hello-server: .*{re.escape(said)}.*\n", target.log), target.log


def test_sockets_for_somebody_else_are_not_taken(target: Target, two: list[socket.socket]) -> None:
    """LISTEN_PID names another process."""
    target.start()  # has no LISTEN_FDS
    port = target.port
    assert target.stop() == 0
    with target.log_path.open("wb") as log:
        target.process = subprocess.Popen(
            [PYTHON, "-m", PACKAGE, "-x", "-i", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log,
            env={**target.environment, "LISTEN_FDS": "2", "LISTEN_PID": "1"}, cwd=target.directory,
            start_new_session=True,
        )  # fmt: skip
    target.said(f"listening on http://127.0.0.1:{port}")
    assert target.stop() == 0


@linux
def test_inherited_descriptors_are_closed_in_the_foreground(target: Target) -> None:
    """But for the standard streams: the starter's files, pipes and locks are none of ours."""
    reader, writer = os.pipe()
    with target.log_path.open("wb") as log:
        target.process = subprocess.Popen(
            [PYTHON, "-m", PACKAGE, "-x", "-i", "127.0.0.1", "-p", "0"], stdout=log, stderr=log, pass_fds=[writer],
            env=target.environment, cwd=target.directory, start_new_session=True,
        )  # fmt: skip
    os.close(writer)
    try:
        target.said("ready: ")
        os.set_blocking(reader, False)
        assert os.read(reader, 1) == b"", "no process holds the pipe's other end any more"
    finally:
        os.close(reader)
    assert target.stop() == 0


@linux
def test_the_limit_of_open_files_is_raised(target: Target) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    target.start("-n", "1", prefix=("/bin/sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh"))
    limits = Path(f"/proc/{target.pick('member')}/limits").read_text()
    found = re.search(r"Max open files +(\S+) +(\S+)", limits)
    assert found and found[1] == found[2] and found[2] in (str(hard), "unlimited"), limits
    assert target.stop() == 0


def test_a_blocked_signal_does_not_stay_blocked(target: Target) -> None:
    """A starter that blocks TERM must not make a service that cannot be stopped."""
    block = "signal.pthread_sigmask(signal.SIG_BLOCK, [15, 1])"
    blocker = f"import os, signal, sys; {block}; os.execv(sys.argv[1], sys.argv[1:])"
    target.start("-n", "1", prefix=(sys.executable, "-c", blocker))
    assert target.stop() == 0


LEAVER = """
@routes.get("/leave")
def leave(request):
    if not os.fork():
        time.sleep(60)
        os._exit(0)
    return "left"
"""


def test_a_child_that_a_handler_left_does_not_keep_the_service(target: Target) -> None:
    target.handlers(HANDLERS + LEAVER)
    target.start("-n", "1")
    with socket.create_connection(("127.0.0.1", target.port), 10) as client:
        client.sendall(b"GET /leave HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.recv(4096).endswith(b"left")  # and no more: the child holds the connection, too
    assert target.stop(deadline=15) == 0
    target.said("are still there")


def test_pidfile_on_a_full_disk(target: Target) -> None:
    """RLIMIT_FSIZE stands for the disk: a write fails, and nothing is left."""
    pidfile = target.directory / "pid"
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 0; exec "$@"', "sh", PYTHON, "-m", PACKAGE, "-x", "-i", "127.0.0.1", "-p", "0",
         "--pidfile", str(pidfile)], env=target.environment, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.returncode == 69, done
    assert re.fullmatch(r"hello-server: pidfile .*: cannot write it: .*\n", done.stderr), done.stderr
    assert not pidfile.exists()


# -- privileges ------------------------------------------------------------------------------------

WHO = (
    HANDLERS
    + """
@routes.get("/who")
def who(request):
    regained = []
    for name in ("setuid", "seteuid", "setgid", "setegid"):
        try:
            getattr(os, name)(0)
            regained.append(name)
        except OSError:
            continue
    try:
        os.setgroups([0])
        regained.append("setgroups")
    except OSError:
        pass
    return {"ids": [*os.getresuid(), *os.getresgid()], "groups": os.getgroups(), "regained": regained}
"""
)


@needs_root
@linux
def test_a_worker_is_the_user_with_its_groups_and_cannot_be_root_again(target: Target) -> None:
    target.handlers(WHO)
    target.start("-n", "1", "-u", "nobody")
    body = json.loads(ask(target.port, "/who").partition(b"\r\n\r\n")[2])
    import pwd

    entry = pwd.getpwnam("nobody")
    assert body["ids"] == [entry.pw_uid] * 3 + [entry.pw_gid] * 3
    assert sorted(body["groups"]) == sorted(os.getgrouplist("nobody", entry.pw_gid))
    assert 0 not in body["groups"]
    assert body["regained"] == []
    assert target.stop() == 0


# -- sd_notify -------------------------------------------------------------------------------------


class Manager:
    """What systemd is to a service: the socket on which it says how it is."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        path.chmod(0o777)
        self.socket.settimeout(10)
        self.heard: list[str] = []

    def wait(self, line: str) -> str:
        """The first message, from now on, with a line that begins so."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            message = self.socket.recv(4096).decode()
            self.heard.append(message)
            if any(one.startswith(line) for one in message.split("\n")):
                return message
        raise AssertionError(f"no {line!r} among {self.heard}")


def test_the_manager_is_told_of_every_state(target: Target) -> None:
    path = target.directory / "notify"
    manager = Manager(path)
    with target.log_path.open("wb") as log:
        target.process = subprocess.Popen(
            [PYTHON, "-m", PACKAGE, "-x", "-i", "127.0.0.1", "-p", "0", "-n", "1"], stdout=log, stderr=log,
            env={**target.environment, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"}, cwd=target.directory,
            start_new_session=True,
        )  # fmt: skip
    assert "STATUS=" in manager.wait("READY=1")
    manager.wait("STATUS=serving, generation 1: workers 1 idle, at most 25; connections 0")
    with socket.create_connection(("127.0.0.1", target.port)):
        manager.wait("STATUS=serving, generation 1: workers 1 idle, at most 25; connections 1")
    manager.wait("STATUS=serving, generation 1: workers 1 idle, at most 25; connections 0")
    # At half the interval: three signs of life take less than three whole intervals.
    for _ in range(3):
        manager.socket.settimeout(0.4 * 3)
        manager.wait("WATCHDOG=1")
    manager.socket.settimeout(10)
    target.send("supervisor", signal.SIGHUP)
    assert re.search(r"^MONOTONIC_USEC=\d+$", manager.wait("RELOADING=1"), re.MULTILINE)
    manager.wait("READY=1")
    target.handlers("raise LookupError('broken')\n")
    target.send("supervisor", signal.SIGHUP)
    manager.wait("RELOADING=1")
    assert "reload failed" in manager.wait("READY=1")  # it serves on: systemd must not wait for ever
    with socket.create_connection(("127.0.0.1", target.port)) as client:
        client.sendall(b"GET /slow/1.5 HTTP/1.1\r\nHost: test\r\n\r\n")
        target.send("supervisor", signal.SIGTERM)
        manager.wait("STOPPING=1")
        assert re.search(r"EXTEND_TIMEOUT_USEC=\d{7,}", manager.wait("EXTEND_TIMEOUT_USEC="))
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert target.process.wait(20) == 0
    manager.socket.close()
    path.unlink()


def test_a_busy_manager_hears_of_readiness_later(target: Target) -> None:
    """Its queue is full while the service gets ready: READY=1 waits, in the right order."""
    path = target.directory / "notify"
    manager = Manager(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others:
        others.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                others.sendto(b"STATUS=another service", str(path))
    with target.log_path.open("wb") as log:
        target.process = subprocess.Popen(
            [PYTHON, "-m", PACKAGE, "-x", "-i", "127.0.0.1", "-p", "0"], stdout=log, stderr=log, cwd=target.directory,
            env={**target.environment, "NOTIFY_SOCKET": str(path)}, start_new_session=True,
        )  # fmt: skip
    target.said("ready: generation 1")
    target.send("supervisor", signal.SIGHUP)
    target.said("ready: generation 2")
    manager.wait("READY=1")
    manager.wait("RELOADING=1")
    manager.wait("READY=1")
    assert target.stop() == 0
    manager.socket.close()
    path.unlink()


def test_the_manager_listens_on_an_abstract_socket(target: Target) -> None:
    """NOTIFY_SOCKET=@name stands for a name that begins with a zero byte (sd_notify(3))."""
    name = f"servertemplate-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, target.log_path.open("wb") as log:
        manager.bind("\0" + name)
        manager.settimeout(10)
        target.process = subprocess.Popen(
            [PYTHON, "-m", PACKAGE, "-x", "-i", "127.0.0.1", "-p", "0"], stdout=log, stderr=log, cwd=target.directory,
            env={**target.environment, "NOTIFY_SOCKET": "@" + name}, start_new_session=True,
        )  # fmt: skip
        while not manager.recv(4096).startswith(b"READY=1"):
            pass
        target.process.terminate()
        while b"STOPPING=1" not in manager.recv(4096):
            pass
        assert target.process.wait(20) == 0


# -- orphans ---------------------------------------------------------------------------------------

ORPHANS = """
@routes.get("/orphan")
def orphan(request):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        parent = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == parent:
            time.sleep(0.001)
        os.write(writer, str(os.getppid()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as report:
        return report.read()
"""
ADOPT = "import ctypes; assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0\n"  # PR_SET_CHILD_SUBREAPER (prctl(2))
BECOME = ADOPT + "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
# What `docker run --init` puts above a service: it adopts orphans, reaps all and ends with its child.
INIT = (
    ADOPT
    + """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:]).pid
while True:
    pid, status = os.wait()
    if pid == child:
        os._exit(os.waitstatus_to_exitcode(status))
"""
)


def children(parent: int) -> list[int]:
    """Living ones and zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # gone in the meantime
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


@linux
@pytest.mark.parametrize("place", ["adopts", "is process 1", "below an init"])
def test_orphans_are_reaped(target: Target, place: str) -> None:
    """Without --init the supervisor is process 1 of its container, with it another one is."""
    target.handlers(HANDLERS + ORPHANS)
    prefix: tuple[str, ...] = (sys.executable, "-c", BECOME if place == "adopts" else INIT)
    if place == "is process 1":
        prefix = ("unshare", "--pid", "--fork", "--kill-child")
        if os.geteuid():
            prefix += ("--user", "--map-current-user")
        if subprocess.run([*prefix, "true"], capture_output=True, timeout=20).returncode:
            pytest.skip("no new process namespaces here")
    target.start("-n", "2", "-m", "2", prefix=prefix)
    starter = target.supervisor
    supervisor = starter if place == "adopts" else children(starter)[0]
    adopter = {"adopts": supervisor, "is process 1": 1, "below an init": starter}[place]
    for _ in range(5):
        assert ask(target.port, "/orphan").rpartition(b"\r\n")[2] == str(adopter).encode()
    eventually(lambda: len(children(supervisor)) == 1, "the supervisor's only child is the server")
    if supervisor != starter:
        eventually(lambda: children(starter) == [supervisor], "the supervisor is the only child above it")
    os.kill(supervisor, signal.SIGTERM)
    assert target.process is not None and target.process.wait(20) == 0


# -- a full file system ----------------------------------------------------------------------------

# In a mount namespace of its own, which ends with its last process: one page for files, and it is taken.
FULL = """
set -e
mount -t tmpfs -o size=4k,mode=0777 none "$1"
printf x > "$1/log"
cd "$1" && shift
if printf x > more 2>/dev/null; then echo "there is room" >&2; exit 1; fi
rm more
exec "$@"
"""


def full(target: Target) -> tuple[str, ...]:
    """The prefix of a command that finds the directory `disk` full, and is in it."""
    (target.directory / "disk").mkdir()
    prefix = ("unshare", "--mount", *(("--user", "--map-root-user") if os.geteuid() else ()))
    command = (*prefix, "/bin/sh", "-c", FULL, "sh", str(target.directory / "disk"))
    if subprocess.run([*command, "true"], capture_output=True, timeout=20).returncode:
        (target.directory / "disk").rmdir()
        pytest.skip("no new mount namespaces here; RLIMIT_FSIZE stands for a full disk above")
    return command


@linux
def test_pidfile_on_a_file_system_that_is_full(target: Target) -> None:
    command = full(target)
    done = subprocess.run(
        [*command, PYTHON, "-m", PACKAGE, "-x", "-i", "127.0.0.1", "-p", "0", "--pidfile", "pid"],
        env=target.environment, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    (target.directory / "disk").rmdir()
    assert done.returncode == 69, done
    assert re.fullmatch(r"hello-server: pidfile .*: cannot write it: No space left .*make room.*\n", done.stderr), done


@needs_root
@linux
def test_log_on_a_file_system_that_is_full(target: Target) -> None:
    """What is written there is lost; the service is not."""
    port = target.start("-n", "1").port
    assert target.stop() == 0
    command = [*full(target), "/bin/sh", "-c", 'head -c 4095 /dev/zero >> log; exec "$@" 2>> log', "sh",
               PYTHON, "-m", PACKAGE, "-x", "-i", "127.0.0.1", "-p", str(port)]  # fmt: skip
    target.process = subprocess.Popen(command, env=target.environment, start_new_session=True)
    eventually(lambda: answers(port), "it answers")
    os.kill(target.supervisor, signal.SIGHUP)
    for number in range(20):
        assert ask(port, f"/number/{number}").endswith(b"\r\n\r\n%d" % number)
    assert Path(f"/proc/{target.supervisor}/cwd/log").stat().st_size == 4096
    assert target.stop() == 0
    (target.directory / "disk").rmdir()
