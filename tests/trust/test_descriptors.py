"""Issue 18 B 5: servers and workers hold nothing that the starter gave the supervisor, and what they write to
descriptors 1 and 2 reaches the log whole and in order."""

from __future__ import annotations

import json
import os
import pty
import signal
from pathlib import Path

import pytest
from harness import HANDLERS, NOBODY, ROOT, Log, eventually
from trust_process import HOSTILE, NEEDS_LINUX, NIGHTLY, Place, Suspect

pytestmark = NEEDS_LINUX

WRITING = (
    HOSTILE
    + r"""
NUMBERS = "i=0; while [ $i -lt 2500 ]; do echo line $i of $0; i=$((i+1)); done"

def init(server):
    print("init begins ", end="")
    subprocess.run(["echo", "init's child"])
    print("and ends")

@routes.get("/write")
def write(request):
    print("a long line:" + "x" * 30000)
    print("in ", end="")
    print("two pieces")
    sys.stdout.buffer.write(b"garbage \xff\xfe\x00\x80\n")
    subprocess.run(["sh", "-c", NUMBERS, "stdout"])
    subprocess.run(["sh", "-c", NUMBERS + " >&2; printf 'no end' >&2", "stderr"])
    os.write(2, b" of a line, and its end\n")
    os.write(1, b"after all\n")
    return "written"

@routes.get("/harm")
def harm(request):
    done = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            os.ftruncate(int(fd), 0)
            done.append("truncated " + os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
        try:
            fcntl.ioctl(int(fd), 0x5412, b"x")  # TIOCSTI
            done.append("typed")
        except OSError:
            pass
    try:
        os.open("/dev/tty", os.O_RDWR)
        done.append("has a terminal")
    except OSError:
        pass
    return {"done": done}
"""
)
USERS = ["unprivileged", pytest.param("root", marks=pytest.mark.skipif(not ROOT, reason="starts as root"))]
BY_FORMAT: dict[str, tuple[str, ...]] = {"text": (), "json": ("--log-format", "json")}
FORMS = ["text", pytest.param("json", marks=NIGHTLY)]


def assert_shut(service: Suspect, given: str) -> None:
    """No server and no worker holds what was given to the supervisor."""
    supervisor = service.opened(service.pid)
    assert given in supervisor.values()
    for pid in (*service.servers, *service.workers):
        found = service.opened(pid)
        assert given not in found.values(), found
        assert found[0] == os.devnull and found[1].startswith("pipe:") and found[2].startswith("pipe:"), found
        assert os.getsid(pid) != os.getsid(service.pid)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("form", FORMS)
def test_terminal_is_the_supervisors_alone(pool: str, place: Place, user: str, form: str) -> None:
    ours, theirs = pty.openpty()
    name = os.ttyname(theirs)
    if ROOT:
        os.chown(name, NOBODY if user != "root" else 0, -1)
    service = place(pool, WRITING)
    flags = ["-n", "1", "-m", "2", *BY_FORMAT[form], *(("-u", "nobody") if user == "root" else ())]
    prefix = ["sh", "-c", f'exec "$@" <{name}', "sh"]  # the session's leader: it becomes its terminal
    service.launch(*flags, stdout=theirs, stderr=theirs, prefix=prefix, unprivileged=user != "root")
    os.close(theirs)
    log = Log(os.fdopen(ours, "rb"))
    service.read_log(log)
    service.wait_ready(1)
    assert_shut(service, name)
    assert service.get("/harm").json() == {"done": []}
    assert log.find("init's child") and log.find("init begins and ends")
    service.end()


@pytest.mark.parametrize("user", USERS)
def test_log_of_the_starter_cannot_be_emptied(pool: str, place: Place, user: str) -> None:
    service = place(pool, WRITING)
    path = service.directory / "log"
    path.touch()
    path.chmod(0o666)
    with path.open("ab") as file:
        service.launch("-n", "1", "-m", "2", *(("-u", "nobody") if user == "root" else ()), stderr=file.fileno(),
                       stdout=file.fileno(), unprivileged=user != "root")  # fmt: skip
    wait_for(service, path, b"ready: generation 1")
    with path.open("rb") as file:
        service.read_log(Log(file))
        service.wait_ready(1)
    assert_shut(service, os.fspath(path))
    before = path.read_text()
    assert service.get("/harm").json() == {"done": []}
    assert path.read_text().startswith(before)
    service.end()


def wait_for(service: Suspect, path: Path, text: bytes) -> None:
    eventually(lambda: text in path.read_bytes() or not service.running(), repr(text))


@pytest.mark.parametrize("form", BY_FORMAT)
@pytest.mark.parametrize("files", ["two files", "one file"])
def test_what_is_written_arrives_whole_and_in_order(pool: str, place: Place, files: str, form: str) -> None:
    service = place(pool, WRITING)
    out = service.directory / "out"
    err = service.directory / ("err" if files == "two files" else "out")
    with out.open("ab") as first, err.open("ab") as second:
        service.launch("-n", "1", "-m", "2", *BY_FORMAT[form], stdout=first.fileno(), stderr=second.fileno())
    wait_for(service, err, b"ready: generation 1")
    with err.open("rb") as file:
        service.read_log(Log(file))
        service.wait_ready(1)
    assert service.get("/write").text == "written"
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    said = {path: path.read_bytes() for path in {out, err}}
    if form == "json":
        lines = {path: [json.loads(line)["message"] for line in data.splitlines()] for path, data in said.items()}
    else:
        lines = {path: data.decode("utf-8", "replace").split("\n") for path, data in said.items()}
    assert [line for line in lines[out] if line.endswith("of stdout")] == [f"line {n} of stdout" for n in range(2500)]
    assert [line for line in lines[err] if line.endswith("of stderr")] == [f"line {n} of stderr" for n in range(2500)]
    for line in ("in two pieces", "after all", "init's child", "init begins and ends"):
        assert lines[out].count(line) == 1, line
    assert "no end of a line, and its end" in lines[err]
    assert any(line.startswith("garbage ") for line in lines[out])
    at = next(n for n, line in enumerate(lines[out]) if line.startswith("a long line:"))
    assert form == "json" or (len(lines[out][at]) > 30000 and lines[out][at + 1] == "in two pieces")
    if files == "one file" and form == "text":
        assert lines[out].index("line 2499 of stdout") < lines[out].index("line 0 of stderr")
    service.assert_nothing_left()


def test_first_messages_of_a_detached_start(pool: str, place: Place) -> None:
    """They are on the terminal, those of programs that init() starts too."""
    service = place(pool, WRITING)
    done = service.start_detached("-n", "1", "-m", "2")
    for line in ("init's child", "init begins and ends"):
        assert line in done.stderr.splitlines(), done.stderr
    service.signal(signal.SIGTERM)
    service.assert_nothing_left()


def test_check_shows_what_is_printed(pool: str, place: Place) -> None:
    service = place(pool, HANDLERS + "\nprint('imported ', end='')\nprint('whole')\nos.write(2, b'directly\\n')\n")
    done = service.run("--check")
    assert done.returncode == 0 and "imported whole\n" in done.stdout and done.stderr == "directly\n", done
