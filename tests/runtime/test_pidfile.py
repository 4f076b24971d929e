"""The pidfile: locked for life. Running twice, stale, unreadable, unwritable: each says so clearly."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from harness import LOOPBACK, NOBODY, ROOT, Service, assert_refused, eventually

UNAVAILABLE, NOPERM = 69, 77
WHO: dict[str, Any] = {"unprivileged": True}  # root may read and write everything


@pytest.fixture
def dead_pid() -> int:
    """A process id that was another process's a moment ago."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_running_twice(service: Service) -> None:
    service.start_detached()
    before = service.pidfile.read_text()
    done = service.run("--pidfile", service.pidfile, *LOOPBACK)
    assert_refused(
        done,
        UNAVAILABLE,
        "(?i)already running",
        rf"\b{service.pid}\b",
        re.escape(str(service.pidfile)),
    )
    assert service.pidfile.read_text() == before
    assert service.alive()
    assert len(service.events.all("init")) == 1  # the second ran no user code


def test_running_twice_as_somebody_else(service: Service) -> None:
    """Who may not write the pidfile is still told that the service runs."""
    service.start_detached()
    done = service.run("--pidfile", service.pidfile, *LOOPBACK, **WHO)
    assert done.returncode in (UNAVAILABLE, NOPERM)
    assert_refused(done, done.returncode, re.escape(str(service.pidfile)), rf"\b{service.pid}\b|(?i:permission)")
    assert service.alive()


def test_starting_again_after_the_stop(service: Service) -> None:
    for _ in range(2):
        service.start_detached()
        service.signal(signal.SIGTERM)
        service.wait_nothing_runs()
        assert not service.pidfile.exists()
        service.forget()


def test_stale(service: Service, dead_pid: int) -> None:
    """Left by a process that is no more: replaced, and mentioned."""
    service.pidfile.write_text(f"{dead_pid}\n")
    done = service.start_detached()
    assert service.pid != dead_pid
    (said,) = [line for line in done.stderr.splitlines() if str(service.pidfile) in line]
    assert re.search(rf"\b{dead_pid}\b", said)


def test_stale_of_a_pid_that_is_somebody_else_now(service: Service) -> None:
    """Process ids come again after a reboot: the lock counts, not the number."""
    service.pidfile.write_text(f"{os.getpid()}\n")
    service.start_detached()
    assert service.pid != os.getpid()


@pytest.mark.parametrize("content", ["", "\n", "-1\n", "0\n", "99999999999999999999\n", "\0" * 100])
def test_stale_without_a_pid(service: Service, content: str) -> None:
    service.pidfile.write_text(content)
    service.start_detached()
    assert re.fullmatch(r"\d+\n", service.pidfile.read_text())


def test_longer_stale_content_is_gone(service: Service) -> None:
    service.pidfile.write_text("12345678901234567890\nand more\n")
    service.start_detached()
    assert service.pidfile.read_text() == f"{service.pid}\n"


@pytest.mark.parametrize("content", ["", "nonsense\n"])
def test_locked_by_somebody_who_has_not_said_who(service: Service, content: str) -> None:
    """Between the lock and the writing there is a moment."""
    service.pidfile.write_text(content)
    service.expect_left = {service.pidfile.name}
    with service.pidfile.open("r+") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        done = service.run("--pidfile", service.pidfile, *LOOPBACK)
    assert_refused(done, UNAVAILABLE, "(?i)already running|locked", re.escape(str(service.pidfile)))
    assert service.pidfile.read_text() == content


def test_after_kill_9_the_next_start_works(service: Service) -> None:
    service.expect_errors = True
    service.start_detached()
    killed = service.pid
    service.signal(signal.SIGKILL)
    service.wait_nothing_runs()
    assert service.pidfile.exists()
    service.forget()
    service.start_detached()
    assert service.pid != killed


def test_unreadable(service: Service, dead_pid: int) -> None:
    service.pidfile.write_text(f"{dead_pid}\n")
    service.pidfile.chmod(0)
    service.expect_left = {service.pidfile.name}
    done = service.run("--pidfile", service.pidfile, *LOOPBACK, **WHO)
    assert_refused(done, NOPERM, re.escape(str(service.pidfile)), "(?i)permission|not permitted|read")


def test_unwritable_directory(service: Service) -> None:
    service.run_directory.chmod(0o555)
    done = service.run("--pidfile", service.pidfile, *LOOPBACK, **WHO)
    assert_refused(
        done,
        NOPERM,
        re.escape(str(service.pidfile)),
        "(?i)permission|not permitted|writ",
        "--pidfile",
    )


def test_directory_that_is_not_there(service: Service) -> None:
    path = service.run_directory / "absent" / "x.pid"
    done = service.run("--pidfile", path, *LOOPBACK)
    assert done.returncode in (NOPERM, 78, 2)
    assert_refused(done, done.returncode, re.escape(str(path)), "(?i)director|no such file")


def test_pidfile_that_is_a_directory(service: Service) -> None:
    done = service.run("--pidfile", service.run_directory, *LOOPBACK)
    assert done.returncode in (NOPERM, 78, 2)
    assert_refused(done, done.returncode, re.escape(str(service.run_directory)), "(?i)director")


@pytest.mark.skipif(not ROOT, reason="only root plants links for others")
def test_symbolic_link_is_not_followed(service: Service) -> None:
    """Root's pidfile in a directory that others may write to must not overwrite /etc/passwd."""
    target = service.directory / "precious"
    target.write_text("precious\n")
    os.lchown(service.run_directory, NOBODY, NOBODY)
    service.pidfile.symlink_to(target)
    os.lchown(service.pidfile, NOBODY, NOBODY)
    service.expect_left = {service.pidfile.name}
    done = service.run("--pidfile", service.pidfile, *LOOPBACK)
    assert target.read_text() == "precious\n"
    assert done.returncode != 0
    assert_refused(done, done.returncode, re.escape(str(service.pidfile)), "(?i)link")


def test_only_our_own_file_is_removed(service: Service) -> None:
    """Another program removed the pidfile and wrote its own: that one is not ours."""
    service.start_detached()
    service.pidfile.unlink()
    service.pidfile.write_text("another's\n")
    service.expect_left = {service.pidfile.name}
    service.signal(signal.SIGTERM)
    service.wait_nothing_runs()
    assert service.pidfile.read_text() == "another's\n"


def test_relative_path_is_made_absolute(service: Service) -> None:
    done = service.run("--pidfile", "run/hello-server.pid", "-r", "/", *LOOPBACK)
    assert done.returncode == 0, done.stderr
    service.adopt(done, int(service.pidfile.read_text()))
    service.signal(signal.SIGTERM)
    eventually(lambda: not service.pidfile.exists(), "the pidfile is removed")


def test_default_name_follows_the_service(service: Service) -> None:
    """--name names the pidfile's default; asked of --help, so that /var/run stays untouched."""
    said = service.run("--help").stdout
    assert re.search(r"/var/run/\S*\.pid", said)


def test_one_of_several_simultaneous_starts_wins(service: Service, ports: Iterator[int]) -> None:
    flags = ("--pidfile", service.pidfile, "-i", "127.0.0.1", "-p", str(next(ports)))
    starts = [service.in_background(*flags) for _ in range(4)]
    done = [start.result() for start in starts]
    assert sorted(one.returncode for one in done) == [0, UNAVAILABLE, UNAVAILABLE, UNAVAILABLE], done
    service.adopt(done[0], int(service.pidfile.read_text()))
    assert service.alive()
    assert len(service.events.all("init")) == 1
    for one in done:
        if one.returncode:
            assert_refused(one, UNAVAILABLE)
