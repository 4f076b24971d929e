"""Issue 18 B 4, 7 and 8, D 7: files and names that others can change."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from harness import LOOPBACK, NOBODY, PYTHON, ROOT, Wire, eventually
from trust_process import NEEDS_LINUX, SLOW_BIND, Place, swapping

AS_ROOT = pytest.mark.skipif(not ROOT, reason="starts as root and becomes nobody")
pytestmark = NEEDS_LINUX


@AS_ROOT
@pytest.mark.parametrize("which", ["listener", "control", "admin"])
def test_links_beside_sockets_are_not_followed(place: Place, which: str) -> None:
    """B 4: the directory of a socket belongs to the service's user, who swaps the socket for a link while the service
    starts: the mode and the owner of what the link names stay what they were."""
    service = place("prefork")
    victim = service.directory / "of-root"
    victim.write_text("secret\n")
    victim.chmod(0o400)  # a mode that no socket has
    directory = service.directory / "sockets"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    path = directory / "socket"
    (service.source / "sitecustomize.py").write_text(SLOW_BIND)
    flags: dict[str, list[str | Path]] = {
        "listener": ["-l", path],
        "control": [*LOOPBACK, "--control", path],
        "admin": [*LOOPBACK, "--admin", f"unix:{path}"],
    }
    with swapping(directory, victim):
        for _ in range(3):
            service.launch("-n", "1", "-m", "2", "-t", *flags[which], address=())
            eventually(lambda: not service.running() or service.log.find("ready: generation 1"), "ready, or refused")
            if service.running():
                service.signal(signal.SIGTERM)
            service.wait()
            service.wait_nothing_runs()
            service.forget()
            now = victim.stat()
            assert (stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid) == (0o400, 0, 0), oct(now.st_mode)
            for left in directory.iterdir():
                with contextlib.suppress(OSError):
                    left.unlink()
    assert victim.read_text() == "secret\n"


HOLDING = """
import fcntl, sys
try:
    stream = open(sys.argv[1])
    getattr(fcntl, sys.argv[2])(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    print("held", flush=True)
except OSError as error:
    print(error, flush=True)
sys.stdin.read()
"""


@AS_ROOT
@pytest.mark.parametrize("lock", ["lockf", "flock"])
def test_a_read_lock_does_not_block_the_start(place: Place, lock: str) -> None:
    """B 7: after a crash any local user holds what locks it can get on the pidfile that was left: the start works."""
    service = place("prefork")
    service.start_detached("-n", "1", "-m", "2")
    service.signal(signal.SIGKILL)
    service.wait_nothing_runs()
    service.forget()
    with subprocess.Popen(
        [PYTHON, "-c", HOLDING, service.pidfile, lock],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=NOBODY, group=NOBODY, extra_groups=[],
    ) as holder:  # fmt: skip
        assert holder.stdin is not None and holder.stdout is not None
        print(holder.stdout.readline())
        try:
            service.start_detached("-n", "1", "-m", "2")
        finally:
            holder.stdin.close()
    service.signal(signal.SIGTERM)
    service.assert_nothing_left()


SLOW_LOCKS = """
import fcntl, os, time
def slowed(real):
    def lock(*arguments):
        if "SLOW_LOCKS" in os.environ:
            open(os.environ["SLOW_LOCKS"], "w").close()
            time.sleep(2)
        return real(*arguments)
    return lock
fcntl.lockf, fcntl.flock = slowed(fcntl.lockf), slowed(fcntl.flock)
"""


def test_the_locked_file_is_the_one_at_the_path(place: Place) -> None:
    """B 7: a start that is slow between opening and locking the pidfile while the service that had it ends: the file
    that it locks is at the path, so a third start is refused."""
    service = place("prefork")
    (service.source / "sitecustomize.py").write_text(SLOW_LOCKS)
    service.start_detached("-n", "1", "-m", "2")
    first = service.pid
    mark = service.directory / "locking"
    second = service.in_background(
        "--pidfile", service.pidfile, *LOOPBACK, "-n", "1", "-m", "2", env={"SLOW_LOCKS": str(mark)}
    )
    eventually(mark.exists, "the second start is about to lock")
    service.signal(signal.SIGTERM)
    eventually(lambda: not service.alive(first), "the first has ended")
    started = second.result()
    assert started.returncode in (0, 69), started.stderr
    if started.returncode == 0:
        assert service.pidfile.exists(), "two services can run: the second holds no file at the path"
        third = service.run("--pidfile", service.pidfile, *LOOPBACK, "-n", "1", "-m", "2")
        assert third.returncode == 69, f"two services run: {third.stderr}"


RESOLVING = """
import socket
real = socket.getaddrinfo
def getaddrinfo(host, *arguments, **options):
    name = host if isinstance(host, bytes) else (host or "").encode()
    return real("0.0.0.0" if name.endswith(b".example.org") else host, *arguments, **options)
socket.getaddrinfo = getaddrinfo
"""


@AS_ROOT
@pytest.mark.parametrize("name", ["localhost.example.org", "127.0.0.1.example.org", "localhost6.example.org"])
def test_admin_judges_the_bound_address(place: Place, name: str) -> None:
    """B 8: a name that begins like a loopback address, and is none, is refused as root."""
    service = place("prefork")
    (service.source / "sitecustomize.py").write_text(RESOLVING)
    service.launch("-n", "1", "-m", "2", "--admin", f"{name}:0")
    eventually(lambda: not service.running() or service.log.find("ready: generation 1"), "ready, or refused")
    assert not service.running(), f"it listens: {service.log.find('admin endpoint')}"
    assert service.wait() in (2, 77, 78), service.log.text


@pytest.mark.parametrize("path", ["/status", "/metrics", "/"])
def test_admin_looks_at_the_host(pool: str, place: Place, path: str) -> None:
    """B 8: a page of another site whose name was rebound to 127.0.0.1 reads nothing; its own names do."""
    service = place(pool)
    service.watch("-n", "1", "-m", "2")
    port = service.admin[1]

    def ask(host: str) -> int:
        with Wire(service.admin) as wire:
            return wire.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").answer().status

    for host in ("127.0.0.1", f"127.0.0.1:{port}", "localhost", f"localhost:{port}", f"LOCALHOST:{port}", "[::1]"):
        assert ask(host) == 200, host
    names = (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil-localhost",
    )
    for host in names:
        assert ask(host) in (400, 403, 421), host
    service.end()


@AS_ROOT
@pytest.mark.parametrize("pattern", ["%Y/log", "%Y/%m/log", "logs-%Y/sub/log"])
def test_log_file_follows_no_linked_directory(place: Place, pattern: str) -> None:
    """B 8: a directory of the pattern is a link that another user has made: root writes nothing behind it."""
    service = place("prefork")
    secret = service.directory / "of-root"
    secret.mkdir(mode=0o700)
    base = service.directory / "base"
    base.mkdir()
    os.chown(base, NOBODY, NOBODY)
    link = base / time.strftime(pattern.partition("/")[0])
    link.symlink_to(secret)
    service.launch("-n", "1", "-m", "2", "--log-file", base / pattern)
    eventually(lambda: not service.running() or service.log.find("ready: generation 1"), "ready, or refused")
    time.sleep(0.5)  # for the logger to open its file
    assert list(secret.iterdir()) == []


@pytest.mark.parametrize("option", ["--log-file", "--pidfile"])
def test_fifo_in_place_of_a_file(pool: str, place: Place, option: str) -> None:
    """B 8, D 7: refused with a line; the start does not wait for a reader."""
    service = place(pool)
    path = service.directory / "fifo"
    os.mkfifo(path, 0o666)
    flags: list[str | Path] = ["--pidfile", service.pidfile] if option == "--log-file" else []
    done = service.run(*LOOPBACK, *flags, option, path, deadline=15)
    assert done.returncode in (2, 69, 77, 78), done.stderr
    assert str(path) in done.stderr and "Traceback" not in done.stderr
    assert stat.S_ISFIFO(path.lstat().st_mode)


def no_pidfile(directory: Path, kind: str) -> Path:
    path = directory / "is-no-pidfile"
    if kind == "device":
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    elif kind == "directory":
        path.mkdir()
    elif kind == "configuration":
        path.write_text("[table]\nimportant = true\n" * 20)
    elif kind == "word":
        path.write_text("hostname\n")
    elif kind == "binary":
        path.write_bytes(bytes(range(256)) * 40)
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.fspath(path))
    elif kind == "link":
        (directory / "target").write_text("important\n" * 20)
        path.symlink_to(directory / "target")
    return path


@pytest.mark.parametrize(
    "kind", [pytest.param("device", marks=AS_ROOT), "directory", "configuration", "word", "binary", "socket", "link"]
)
def test_pidfile_that_is_none(place: Place, kind: str) -> None:
    """D 7: what is no pidfile of ours is refused with one line, and stays as it is."""
    service = place("prefork")
    path = no_pidfile(service.directory, kind)
    before = path.lstat(), path.read_bytes() if kind in ("configuration", "word", "binary", "link") else b""
    done = service.run("--pidfile", path, *LOOPBACK, "-n", "1", "-m", "2", deadline=15)
    assert done.returncode in (2, 69, 77, 78), f"{done.returncode}: {done.stderr}"
    assert str(path) in done.stderr and "Traceback" not in done.stderr
    assert os.path.lexists(path), "it is removed"
    after = path.lstat(), path.read_bytes() if kind in ("configuration", "word", "binary", "link") else b""
    assert (before[0].st_ino, before[0].st_mode, before[1]) == (after[0].st_ino, after[0].st_mode, after[1])
