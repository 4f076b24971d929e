"""Issue 18 B 5 and 9, D 8 and 9: terminals, privileges, and what a reload changes."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import NOBODY, PYTHON, ROOT, eventually
from trust_process import HOSTILE, NEEDS_LINUX, Place

AS_ROOT = pytest.mark.skipif(not ROOT, reason="starts as root and becomes nobody")
pytestmark = NEEDS_LINUX

# Replaces whatever appears in a directory by a link to a file of root's; stops when its standard input is closed.

PRIVILEGES = (
    HOSTILE
    + """
@routes.get("/facts")
def facts(request):
    child = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
    return {"child": child, "home": os.environ.get("HOME"), "user": os.environ.get("USER"),
            "logname": os.environ.get("LOGNAME"), "expanded": os.path.expanduser("~")}
"""
)


@pytest.mark.parametrize("rights", [pytest.param("root", marks=AS_ROOT), "unprivileged"])
def test_no_new_privileges(pool: str, place: Place, rights: str) -> None:
    """B 9: what a worker executes gains nothing by a set-user-id bit."""
    service = place(pool, PRIVILEGES)
    service.start("-n", "1", "-m", "2", unprivileged=rights == "unprivileged")
    assert "NoNewPrivs:\t1" in service.get("/facts").json()["child"]
    service.end()


@AS_ROOT
def test_home_of_the_user(pool: str, place: Place) -> None:
    """B 9: root's HOME, USER and LOGNAME do not follow into the user that the service becomes."""
    service = place(pool, PRIVILEGES)
    service.start("-n", "1", "-m", "2", "-u", "nobody", env={"HOME": "/root", "USER": "root", "LOGNAME": "root"})
    facts = service.get("/facts").json()
    home = pwd.getpwnam("nobody").pw_dir
    assert (facts["home"], facts["expanded"]) == (home, home)
    assert "root" not in (facts["user"], facts["logname"])
    service.end()


def queue_length(port: int) -> int:
    """The length of the accept queue of a listening socket of 127.0.0.1, as the kernel says it."""
    ss = shutil.which("ss")
    if ss is None:
        pytest.skip("ss is not installed")
    lines = subprocess.run([ss, "-Hltn"], capture_output=True, text=True, check=True).stdout.splitlines()
    (found,) = [line.split() for line in lines if line.split()[3] == f"127.0.0.1:{port}"]
    return int(found[2])


def test_reload_changes_the_backlog(pool: str, place: Place) -> None:
    """D 8: as the manual says of it."""
    service = place(pool)
    config = service.config("idle = 1\nmax = 2\nport = 0\ninterface = '127.0.0.1'\nbacklog = 1024\n")
    service.watch("--config", config, address=())
    limit = int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert queue_length(service.port) == min(1024, limit)
    config.write_text(config.read_text().replace("1024", "2048"))
    assert service.ctl("reload").returncode == 0
    assert queue_length(service.port) == min(2048, limit)
    service.end()


@AS_ROOT
def test_reload_changes_the_owner_of_a_socket(pool: str, place: Place) -> None:
    """D 8: -u and -g give a UNIX socket its owner; a reload changes them."""
    service = place(pool)
    other = pwd.getpwnam("daemon")
    config = service.config(f"idle = 1\nmax = 2\nlisten-unix = '{service.socket_path}'\nuser = 'nobody'\n")
    service.watch("--config", config, address=())
    assert service.socket_path.stat().st_uid == NOBODY
    config.write_text(config.read_text().replace("nobody", other.pw_name))
    assert service.ctl("reload").returncode == 0
    owner = service.socket_path.stat()
    assert (owner.st_uid, owner.st_gid) == (other.pw_uid, other.pw_gid)
    service.end()


@AS_ROOT
def test_group_that_is_supplementary(pool: str, place: Place) -> None:
    """D 9: without root, -g of a group that the starter is a member of is refused, or taken: never ignored."""
    service = place(
        pool, HOSTILE + '\n@routes.get("/group")\ndef group(request):\n    return {"group": os.getegid()}\n'
    )
    number = pwd.getpwnam("daemon").pw_gid
    drop = (
        "import os, sys; os.setgroups([int(sys.argv[1])]); os.setgid(65534); os.setuid(65534);"
        "os.execvp(sys.argv[2], sys.argv[2:])"
    )
    service.launch("-n", "1", "-m", "2", "-g", "daemon", prefix=[PYTHON, "-c", drop, str(number)])
    eventually(lambda: not service.running() or service.log.find("ready: generation 1"), "ready, or refused")
    if service.running():
        assert service.get("/group").json() == {"group": number}
        service.end()
    else:
        assert service.wait() in (2, 77, 78), service.log.text
