"""The rows of the matrix's table *Hostile workers*: lines B and C of issue 18, code that runs in a server, in a worker,
in a worker's child, or elsewhere as the service's user."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from beside import CLIENTS, Case, Row, Rows, adding, wait_for
from harness import NOBODY, Background, Wire
from target import PACKAGE, PYTHON, Target, eventually
from trust_process import PRIMITIVES, SLOW_BIND, shared_inodes, swapping, without_control

ROWS: Rows = []
row = partial(adding, ROWS)

FLAGS = ("-n", "2", "-m", "3")
# A request's effect is what its handler does at once; where the handler ends its own process no answer comes.
ATTACKS = (
    PRIMITIVES
    + """
import logging

@routes.get("/scribble/{value}/{extent}")
def write(request):
    scribble(int(request.params["value"]), request.params["extent"])
    return "scribbled"

@routes.get("/text/{text}")
def text(request):
    for old in (b"harmless_and_long_enough", b"Counts what does no harm."):
        new = bytes.fromhex(request.params["text"])
        replace_bytes(old, (new * 25)[: len(old)])
    return "scribbled"

@routes.get("/pipes/{kind}/{piece}/{times}")
def pipes(request):
    kind, times = request.params["kind"], int(request.params["times"])
    piece = bytes.fromhex(request.params["piece"])
    senders = (b"\\xff\\xfe" + struct.pack("=I", number) + piece for number in range(1, times + 1))
    data = b"".join(senders) if kind == "senders" else piece * times
    fill_pipes(data)
    return "written"

@routes.get("/log/{text}")
def say(request):
    logging.getLogger("mine").warning("said: %s", request.params["text"])
    return "said"

@routes.get("/flood/{command}")
def flood(request):
    subprocess.Popen(["timeout", "6", "sh", "-c", bytes.fromhex(request.params["command"]).decode()])
    return "begun"

@routes.get("/truncate")
def truncate(request):
    for number in (1, 2):
        try:
            os.ftruncate(number, 0)
        except OSError:
            pass
    return "done"

@routes.get("/terminal")
def terminal(request):
    script = '''
import fcntl, os, termios
try:
    fcntl.ioctl(os.open("/dev/tty", os.O_RDWR), termios.TIOCSTI, b"x")
    print("pushed")
except OSError as error:
    print(error)
'''
    tried = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    return f"{tried} {[number for number in (0, 1, 2) if os.isatty(number)]}"

@routes.get("/privileges")
def privileges(request):
    said = subprocess.run(["sh", "-c", "cat /proc/self/status; echo HOME=$HOME"], capture_output=True, text=True)
    return said.stdout

def init(server):
    server.counter("harmless_and_long_enough", "Counts what does no harm.").add(3)
"""
)


def ask(target: Target, path: str, deadline: float = 20.0) -> bytes:
    """The answer to a worker's attack, or b"" where the attack ended the worker."""
    with Wire(("127.0.0.1", target.port), deadline) as wire:
        wire.send(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        return wire.rest().partition(b"\r\n\r\n")[2]


def heal(case: Case) -> None:
    """A reload with sound handlers."""
    case.handlers("")
    done = case.target.ctl("reload")
    assert done.returncode == 0, f"a reload does not heal it: {done.stderr}"
    case.told["generation replaced"] += 1


def page(case: Case, path: str) -> str:
    with Wire(case.admin, case.bound) as wire:
        answer = wire.get(path)
    assert answer.status in (200, 503), f"{path}: {answer.status}"
    return answer.body.decode()


# ---- B1: what the supervisor signals --------------------------------------------------------------------------------

CLAIMING = """
def worker_init(worker):
    scribble(VICTIM, "zeros")
    threading.Event().wait()  # never ready: its generation is killed
"""
VICTIMS = {"another's process": None, "the supervisor": 0, "beyond any": 2**40, "-1": 2**64 - 1}


def claims(number: int | None) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        target = case.start("", *FLAGS, "--start-timeout", "2")
        with subprocess.Popen(["sleep", "60"]) as other, case.others() as load:
            victim = other.pid if number is None else number or target.supervisor
            case.handlers(PRIMITIVES + CLAIMING.replace("VICTIM", str(victim)))
            done = target.ctl("reload")
            assert done.returncode == 1, f"ctl reload: {done.returncode} {done.stderr}"
            case.told["reload refused"] += 1
            case.hold(load)
            assert other.poll() is None, f"the other process was killed by {-(other.returncode or 0)}"
            other.kill()

    return run


for _victim, _number in VICTIMS.items():
    ROWS.append(Row("B1", f"a worker writes a pid into shared memory ({_victim}), and its generation has to be killed",
                    claims(_number), short=_number is None))  # fmt: skip


# ---- B2: memory, reports, frames ------------------------------------------------------------------------------------

MEMORY = {f"/scribble/{value}/{extent}": f"writes {name} over the shared memory ({extent})"
          for value, name in ((99, "99"), (2**64 - 1, "-1")) for extent in ("zeros", "head", "everything")}  # fmt: skip
MEMORY |= {f"/text/{text.hex()}": f"writes {text!r} over the names and texts of metrics"
           for text in (b"\xff\xfe\xc3\x28", b"a\nb", b"\0")}  # fmt: skip


def scribbles(path: str) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        target = case.start(ATTACKS, *FLAGS)
        with case.others() as load:
            ask(target, path)
            for shown in ("/livez", "/readyz", "/metrics", "/status") * 3:
                page(case, shown)
            assert target.ctl("status").returncode in (0, 1)
            heal(case)
            case.hold(load)

    return run


for _path, _does in MEMORY.items():
    ROWS.append(Row("B2", f"a worker {_does}", scribbles(_path), lost=2 * CLIENTS, longer=5,
                    short="99/everything" in _path))  # fmt: skip

# The server of the first generation, when the test says so, writes reports as its own are written.
REPORTING = """
def init(server):
    server.set_periodic(attack, 0.1)

def attack():
    try:
        with open(FLAG) as flag:
            if int(flag.read()) != os.getpid():
                return
    except FileNotFoundError:
        return
    for end in to_parent():
        REPORT
    os._exit(3)
"""
ONCE = "end.sendall({!r})"
FLOOD = """end.settimeout(8)
        try:
            for _ in range(2000):
                end.sendall({!r} * 20000)
        except OSError:
            pass"""
REPORTS = {
    "'failed 0 ...' (success)": ONCE.format(b"failed 0 all is well\n"),
    "'failed x y'": ONCE.format(b"failed x y\n"),
    "a status of 5,000 digits": ONCE.format(b"failed " + b"9" * 5000 + b" x\n"),
    "no UTF-8": ONCE.format(b"\xff\xfe\n"),
    "'ready' 1,000 times": ONCE.format(b"ready\n" * 1000),
    "a name that steers a terminal": ONCE.format(b"name \x1b]0;x\x07\n"),
    "240 MB without a line's end": FLOOD.format(b"report"),
    "240 MB of short lines": FLOOD.format(b"a\nb\nc\n"),
}


def reports(code: str) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        flag = case.target.directory / "attack"
        target = case.start(PRIMITIVES + REPORTING.replace("FLAG", repr(str(flag))).replace("REPORT", code), *FLAGS)
        with case.others() as load:
            case.handlers("")
            (new := flag.with_suffix(".new")).write_text(str(target.pick("server")))
            new.replace(flag)
            target.said("ready: generation 2", deadline=40)
            case.told["generation replaced"] += 1
            case.hold(load)
            flag.unlink()

    return run


for _does, _code in REPORTS.items():
    ROWS.append(Row("B2", f"a server reports {_does}", reports(_code), lost=CLIENTS, longer=3))


@row("B2", "a server takes a name of 9,000 characters")
def long_name(case: Case) -> None:
    target = case.start("", *FLAGS)
    with case.others() as load:
        case.handlers("def init(server):\n    server.set_name('n' * 9000)\n")
        done = target.ctl("reload")
        assert done.returncode == 1 and "set_name" in done.stderr, done
        case.told["reload refused"] += 1
        case.hold(load)


SENDER = b"\xff\xfe" + (12345).to_bytes(4, "little")
# Nine bytes are a record's frame without content: the mark, its sender, the kind (more follows, goes on), the length.
STRAY = {
    "one byte": ("C2", "x", b"x", 1),
    "the head of a frame": ("C2", "x", SENDER + b"\x01\xf0\x0f", 1),
    "the largest length": ("C2", "x", b"\xff" * 9, 1),
    "a line of text": ("C2", "x", b"hello world, a line\n", 1),
    "1.6 MB of unfinished records": ("B2", "x", SENDER + b"\x41\0\0", 180_000),
    "1.6 MB of unfinished records of 180,000 senders": ("B2", "senders", b"\x41\0\0", 180_000),
    "1.6 MB of frames without content": ("B2", "x", SENDER + b"\x01\0\0", 180_000),
}


def stray(kind: str, piece: bytes, times: int) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        target = case.start(ATTACKS, *FLAGS)
        with case.others() as load:
            assert ask(target, f"/pipes/{kind}/{piece.hex()}/{times}") == b"written"
            # Some lines may be lost with the rubbish, as a pipe tells no line's beginning; not all.
            for number in range(20):
                ask(target, f"/log/again-{number}")
            target.said("said: again-19", deadline=5)
            case.hold(load)
            at = len(target.log)
            heal(case)
            target.said("ready: generation 2", at, 5)

    return run


for _does, (_line, _kind, _piece, _times) in STRAY.items():
    ROWS.append(Row(_line, f"a worker writes {_does} into each of its pipes, the log's too",
                    stray(_kind, _piece, _times)))  # fmt: skip


# ---- B3: the logger -------------------------------------------------------------------------------------------------


@row("B3", "a worker writes over all memory that it shares; then the logger, which may be root, is killed")
def logger(case: Case) -> None:
    file = case.target.directory / "service.log"
    target = case.start(ATTACKS, *FLAGS, "--log-file", str(file))

    def loggers() -> list[int]:
        return [pid for pid in target.tree() if pid != target.supervisor and str(file) in opened(pid)]

    (pid,) = eventually(loggers, "the logger has its file open")
    with case.others() as load:
        for member in {*target.servers(), *target.members()} - {pid}:
            both = shared_inodes(member) & shared_inodes(pid)
            assert not both, f"process {member} shares memory with the logger"
        ask(target, f"/scribble/{2**64 - 1}/everything")
        target.kill(pid, signal.SIGKILL)
        eventually(lambda: [one for one in loggers() if one != pid], "another logger")
        heal(case)
        eventually(lambda: "ready: generation 2" in file.read_text(), "the file goes on")
        assert "ready: generation 1" in file.read_text(), "genuine lines are gone"
        case.hold(load)
    assert target.stop() == 0
    file.unlink()


ROWS[-1] = ROWS[-1]._replace(lost=2 * CLIENTS, longer=5)


def opened(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(entry))
    return found


# ---- B4: sockets ----------------------------------------------------------------------------------------------------

LOOPBACK = ("-i", "127.0.0.1", "-p", "0")


@contextlib.contextmanager
def customized(target: Target, text: str) -> Iterator[None]:
    """Inside, the interpreters of this service begin with this code."""
    path = target.source / "sitecustomize.py"
    path.write_text(text)
    try:
        yield
    finally:
        path.unlink()


@contextlib.contextmanager
def directory_of(target: Target, owner: int) -> Iterator[Path]:
    path = target.directory / "of-another"
    path.mkdir()
    os.chown(path, owner, owner)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def swaps(*flags: str) -> Callable[[Case], None]:
    """Flags with the path of the socket in them as {}."""

    def run(case: Case) -> None:
        target = case.target
        victim = target.directory / "of-root"
        victim.write_text("secret\n")
        victim.chmod(0o400)  # a mode that no socket has
        with directory_of(target, NOBODY) as directory, customized(target, SLOW_BIND), swapping(directory, victim):
            for _ in range(1 if case.short else 5):
                came_up(case, *(flag.format(directory / "socket") for flag in flags))
                now = victim.stat()
                assert (stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid) == (0o400, 0, 0), oct(now.st_mode)
                for left in directory.iterdir():
                    with contextlib.suppress(OSError):
                        left.unlink()
        victim.unlink()

    return run


def came_up(case: Case, *flags: str) -> bool:
    """Start, and stop again what was not refused."""
    process = case.target.launch("-n", "1", "-m", "2", *flags)
    eventually(lambda: "ready: generation 1" in case.target.log or process.poll() is not None, "ready, or refused")
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        case.told["started"] += 1
        return True
    assert process.returncode in (2, 69, 77, 78), f"exit status {process.returncode}"
    assert "Traceback" not in case.target.log, "a traceback, not a line"
    case.told[f"exit {process.returncode}"] += 1
    return False


for _what, _flags in {"listener": ("-l", "{}"), "control socket": (*LOOPBACK, "--control", "{}"),
                      "admin socket": (*LOOPBACK, "--admin", "unix:{}")}.items():  # fmt: skip
    ROWS.append(
        Row("B4", f"the service's user swaps the {_what} for a link to a file of root's", swaps(*_flags), root=True)
    )


# ---- B5: descriptors and terminals ----------------------------------------------------------------------------------


@row("B5", "a worker truncates its descriptors 1 and 2, where the service's are a file of root's")
def truncates(case: Case) -> None:
    target = case.start(ATTACKS, *FLAGS)
    with case.others() as load:
        assert ask(target, "/truncate") == b"done"
        case.hold(load)
    assert "ready: generation 1" in target.log, "the log is empty"


# Executes the rest on a terminal of its own, of which the log has what it shows.
TERMINAL = """
import fcntl, os, pty, sys, termios
ours, theirs = pty.openpty()
if not os.fork():
    if os.fork():
        os._exit(0)  # the other is no child of the supervisor
    os.close(theirs)
    try:
        while data := os.read(ours, 65536):
            os.write(1, data.replace(b"\\r\\n", b"\\n"))
    except OSError:
        os._exit(0)
os.wait()
os.close(ours)
fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
for number in (0, 1, 2):
    os.dup2(theirs, number)
os.execvp(sys.argv[1], sys.argv[1:])
"""
ON_TERMINAL = (PYTHON, "-c", TERMINAL)


@row("B5", "a worker's child opens the supervisor's terminal, and types into it (TIOCSTI)")
def types(case: Case) -> None:
    target = case.start(ATTACKS, *FLAGS, prefix=ON_TERMINAL)
    with case.others() as load:
        said = ask(target, "/terminal").decode()
        case.hold(load)
    assert "pushed" not in said and said.endswith(" []"), f"terminals, and what came of it: {said}"


# ---- B6: what terminals show ----------------------------------------------------------------------------------------

STEERING = "\x1b]0;owned\x07\x1b[2J\x9b31mred\x08\r"
WAYS = {
    "raises": f"raise LookupError({STEERING!r})",
    "prints": f"print({STEERING!r}, file=sys.stderr, flush=True); raise LookupError('x')",
    "logs": f"import logging; logging.error('%s', {STEERING!r}); raise LookupError('x')",
}


def steers(way: str) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        target = case.start("", *FLAGS, prefix=ON_TERMINAL)
        with case.others() as load:
            case.handlers(f"import sys\ndef init(server):\n    {way}\n")
            done = target.ctl("reload")
            assert done.returncode == 1
            case.told["reload refused"] += 1
            shown = {"ctl reload": done.stdout + done.stderr, "ctl status": target.ctl("status").stdout,
                     "the terminal": target.log}  # fmt: skip
            for where, text in shown.items():
                assert not (found := without_control(text)), f"{where} shows {found}"
            case.hold(load)

    return run


for _way, _code in WAYS.items():
    ROWS.append(Row("B6", f"init() {_way} sequences that steer a terminal, in a reload", steers(_code)))


@row("B6", "a worker writes sequences that steer a terminal over the texts of metrics", lost=CLIENTS)
def steering_metrics(case: Case) -> None:
    target = case.start(ATTACKS, *FLAGS)
    with case.others() as load:
        ask(target, f"/text/{STEERING.encode().hex()}")
        for text in (target.ctl("status").stdout, page(case, "/metrics"), page(case, "/status"), page(case, "/")):
            assert not (found := without_control(text)), f"shown to a terminal: {found}"
        case.hold(load)


# ---- B7, B8: files and names ----------------------------------------------------------------------------------------

HOLDING = """
import fcntl, sys
stream = open(sys.argv[1])
for lock in (fcntl.lockf, fcntl.flock):
    try:
        lock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        pass
print("held", flush=True)
sys.stdin.read()
"""


def detached(target: Target, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-m", PACKAGE, *LOOPBACK, "-n", "1", "-m", "2", *flags]
    return subprocess.run(command, env=target.environment, cwd=target.directory, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60)  # fmt: skip


@row("B7", "after a crash, the service's user holds read locks on the pidfile", root=True)
def read_lock(case: Case) -> None:
    target, pidfile = case.target, case.target.directory / "pid"
    assert detached(target, "--pidfile", str(pidfile)).returncode == 0
    os.kill(int(pidfile.read_text()), signal.SIGKILL)
    eventually(lambda: not target.tree(), "nothing runs")
    with subprocess.Popen([PYTHON, "-c", HOLDING, pidfile], stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=NOBODY,
                          group=NOBODY, extra_groups=[]) as holder:  # fmt: skip
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdout.readline()
        try:
            done = detached(target, "--pidfile", str(pidfile))
            assert done.returncode == 0, f"it does not start: {done.stderr}"
        finally:
            holder.stdin.close()
    os.kill(int(pidfile.read_text()), signal.SIGTERM)
    eventually(lambda: not target.tree(), "it has ended")
    assert not pidfile.exists()
    case.told["started"] += 1


SLOW_LOCKS = """
import fcntl, os, time
def slowed(real):
    def lock(*arguments):
        open(MARK, "w").close()
        time.sleep(2)
        return real(*arguments)
    return lock
fcntl.lockf, fcntl.flock = slowed(fcntl.lockf), slowed(fcntl.flock)
"""


@row("B7", "a service ends while the next one, which has opened its pidfile, is slow to lock it")
def lock_of_another_file(case: Case) -> None:
    target, pidfile, mark = case.target, case.target.directory / "pid", case.target.directory / "locking"
    flags = ("--pidfile", str(pidfile))
    assert detached(target, *flags).returncode == 0
    first = int(pidfile.read_text())
    with customized(target, SLOW_LOCKS.replace("MARK", repr(str(mark)))):
        second = Background(lambda: detached(target, *flags))
        eventually(mark.exists, "the second is about to lock")
        os.kill(first, signal.SIGTERM)
        status = second.result(60).returncode
    assert status in (0, 69), f"exit status {status}"
    case.told[f"exit {status}"] += 1
    if not status:
        third = detached(target, *flags).returncode
        assert pidfile.exists() and third == 69, "two services can run"
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
    eventually(lambda: not target.tree(), "all have ended")
    mark.unlink()


@row("B8", "the service's user makes a directory of --log-file's pattern a link", root=True)
def linked_log(case: Case) -> None:
    secret = case.target.directory / "of-root"
    secret.mkdir(mode=0o700)
    with directory_of(case.target, NOBODY) as directory:
        (directory / time.strftime("%Y")).symlink_to(secret)
        came_up(case, *LOOPBACK, "--log-file", f"{directory}/%Y/log")
        assert not list(secret.iterdir()), "root has written behind the link"
    secret.rmdir()


def fifo(option: str) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        path = case.target.directory / "fifo"
        os.mkfifo(path, 0o666)
        done = detached(case.target, option, str(path))
        assert done.returncode in (2, 69, 77, 78) and str(path) in done.stderr, done
        case.told[f"exit {done.returncode}"] += 1
        path.unlink()

    return run


for _option in ("--log-file", "--pidfile"):
    ROWS.append(Row("B8", f"the service's user makes {_option} a FIFO", fifo(_option)))

RESOLVING = """
import socket
real = socket.getaddrinfo
def getaddrinfo(host, *arguments, **options):
    name = host if isinstance(host, bytes) else (host or "").encode()
    return real("0.0.0.0" if name.endswith(b".example.org") else host, *arguments, **options)
socket.getaddrinfo = getaddrinfo
"""


@row("B8", "--admin localhost.example.org resolves to a public address", root=True)
def public_admin(case: Case) -> None:
    with customized(case.target, RESOLVING):
        assert not came_up(case, *LOOPBACK, "--admin", "localhost.example.org:0"), "it listens on a public address"


@row("B9", "a worker executes a program that is set-user-id root")
def privileges(case: Case) -> None:
    target = case.start(ATTACKS, *FLAGS, prefix=("env", "HOME=/root"))
    with case.others() as load:
        said = ask(target, "/privileges")
        assert b"NoNewPrivs:\t1" in said, "it would be root"
        assert os.geteuid() or b"HOME=/root\n" not in said, "it has root's HOME"
        case.hold(load)


# ---- C: floods ------------------------------------------------------------------------------------------------------

COMMANDS = {
    "lines on stderr": "yes >&2",
    "lines on stdout": "yes",
    "no lines on stderr": "cat /dev/zero >&2",
    "long lines on both": "yes $(head -c 9000 /dev/zero | tr '\\0' x) | tee /dev/fd/2",
}


def floods(command: str, form: str) -> Callable[[Case], None]:
    def run(case: Case) -> None:
        target = case.start(ATTACKS, *FLAGS, "--log-format", form)
        with case.others() as load:
            assert ask(target, f"/flood/{command.encode().hex()}") == b"begun"
            case.hold(load)
        took = wait_for(lambda: target.stop() == 0, "it has ended")
        assert took < case.bound, f"TERM was heard after {took:.1f} s"
        eventually(lambda: not target.tree(), "the child has ended")

    return run


for _does, _command in COMMANDS.items():
    for _form in ("text", "json"):
        ROWS.append(Row("C1", f"a worker's child writes {_does} without end (log as {_form})", floods(_command, _form),
                        short=_does == "lines on stderr" and _form == "json"))  # fmt: skip


@row("C3", "no syslog daemon is there, and the service is detached")
def no_syslog(case: Case) -> None:
    target, pidfile = case.target, case.target.directory / "pid"
    if os.path.exists("/dev/log"):
        case.told["not tried: a syslog daemon is here"] += 1
        return
    done = detached(target, "--pidfile", str(pidfile))
    assert done.returncode == 0 and "--log-file" in done.stderr, done
    os.kill(int(pidfile.read_text()), signal.SIGTERM)
    eventually(lambda: not target.tree(), "it has ended")
