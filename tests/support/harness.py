"""Run a generated service as a subprocess and judge it only from outside.

What a test may look at is what an operator may look at: exit statuses, log lines, the process table,
sockets, files, and what the handlers tell. The handlers run in other processes, so they speak to the
test through a UNIX socket: `tell()` reports and goes on, `gate()` reports and then waits to be released.
That is how a test *knows* that a request is in flight, or that `exit()` was called, without sleeping.

Every wait has a deadline. After each test nothing may be left: no process, no pidfile, no socket.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import httpx
import psutil

NAME = "hello-server"
PACKAGE = "hello_server"
DEADLINE = 20.0  # seconds; how long an event that is sure to come may take on a loaded machine
LOOPBACK = ("-i", "127.0.0.1", "-p", "0")
ROOT = os.geteuid() == 0
# Set by tests/portability: a directory whose sitecustomize.py takes away what only Linux has.
ELSEWHERE = [os.environ["ELSEWHERE"]] if "ELSEWHERE" in os.environ else []
NOBODY = 65534

T = TypeVar("T")

# What is written beside handlers.py, so that handlers can say `from .probe import tell, gate`.
PROBE = '''
"""How handlers speak to the test that runs them."""
import json, os, socket

def _connect(tag, data):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["TEST_EVENTS"])
    message = {"tag": tag, "pid": os.getpid(), "data": data}
    connection.sendall(json.dumps(message).encode() + b"\\n")
    return connection

def tell(tag, **data):
    """Report something and go on as soon as the test has it."""
    with _connect(tag, data) as connection:
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)

def gate(tag="gate", **data):
    """Report something, then wait until the test lets go; returns what the test said."""
    with _connect(tag, data) as connection, connection.makefile("r") as answer:
        return json.loads(answer.readline())
'''

# The smallest handlers.py that most tests need.
HANDLERS = """
from .probe import gate, tell
from .runtime.http import Request, Response, Router
import os

routes = Router()

@routes.get("/")
def index(request: Request) -> str:
    return "hello"

@routes.get("/pid")
def pid(request: Request) -> dict:
    return {"worker": os.getpid(), "server": os.getppid()}

@routes.get("/gate")
def held(request: Request) -> str:
    gate("gate", query=dict(request.query))
    return "released"

@routes.post("/echo")
def echo(request: Request) -> Response:
    return Response(request.body, content_type=request.headers.get("content-type", "text/plain"))

def init(server):
    tell("init", uid=os.geteuid())

def exit(server):
    tell("exit")

def worker_init(worker):
    tell("worker_init")

def worker_exit(worker):
    tell("worker_exit")
"""


def eventually(probe: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
    """The first true value of `probe`. For what sends no event: the process table, the file system."""
    end = time.monotonic() + deadline
    while not (value := probe()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what}")
        time.sleep(0.01)
    return value


def listening(process: psutil.Process) -> set[int]:
    """The ports of its listening sockets."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return {one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    return set()


def interpreter() -> str:
    """The Python that runs the service: one that an unprivileged user can read as well."""
    if chosen := os.environ.get("TEST_PYTHON"):
        return chosen
    system = "/usr/bin/python3"
    if os.access(system, os.X_OK):
        probe = [system, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(probe, check=False).returncode == 0:
            return system
    return sys.executable


PYTHON = interpreter()


# -- what the service says -------------------------------------------------------------------------


class Log:
    """The lines of a stream, read by a thread as they come."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for line in self._stream:
                with self._changed:
                    self._lines.append(line.decode("utf-8", "backslashreplace").rstrip("\r\n"))
                    self._changed.notify_all()
        except OSError:  # the other end of a pseudo-terminal is gone
            pass
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()

    @property
    def lines(self) -> list[str]:
        with self._changed:
            return list(self._lines)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def mark(self) -> int:
        """The number of lines so far, for `after=`."""
        with self._changed:
            return len(self._lines)

    def find(self, pattern: str, after: int = 0) -> list[str]:
        return [line for line in self.lines[after:] if re.search(pattern, line)]

    def wait_for(self, pattern: str, *, after: int = 0, count: int = 1, deadline: float = DEADLINE) -> re.Match[str]:
        """The match of the `count`th line that matches, waiting until it is there."""
        end = time.monotonic() + deadline
        with self._changed:
            while True:
                found = [m for line in self._lines[after:] if (m := re.search(pattern, line))]
                if len(found) >= count:
                    return found[count - 1]
                left = end - time.monotonic()
                if self._closed or left <= 0:
                    why = "the stream ended" if self._closed else f"not within {deadline:g} s"
                    said = "\n".join(self._lines[after:])
                    raise AssertionError(f"{why}: /{pattern}/ in the log:\n{said}")
                self._changed.wait(left)

    def wait_closed(self, deadline: float = DEADLINE) -> None:
        """Until no process holds the other end any more."""
        self._thread.join(deadline)
        assert not self._thread.is_alive(), "a process still holds the service's stderr"


# -- what the handlers say -------------------------------------------------------------------------


class Arrival:
    """One `tell()` or `gate()` of a handler."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.settimeout(DEADLINE)
        with connection.makefile("r") as stream:
            message = json.loads(stream.readline())
        self.tag: str = message["tag"]
        self.pid: int = message["pid"]
        self.data: dict[str, Any] = message["data"]

    def release(self, answer: object = None) -> None:
        with contextlib.suppress(OSError):  # the process may be gone
            self._connection.sendall(json.dumps(answer).encode() + b"\n")
        self._connection.close()

    def wait_gone(self, deadline: float = DEADLINE) -> None:
        """Until the process that waits at this gate is dead."""
        self._connection.settimeout(deadline)
        try:
            assert self._connection.recv(1) == b""
        except TimeoutError:
            raise AssertionError(f"process {self.pid} still waits at gate {self.tag}") from None
        except ConnectionResetError:
            pass

    def __repr__(self) -> str:
        return f"<{self.tag} of {self.pid} {self.data}>"


class Events:
    """Where handlers report; listens on a UNIX socket that every user may use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(path))
        path.chmod(0o777)
        self._listener.listen(1024)
        self._all: list[Arrival] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._stopped:
                connection.close()
                return
            try:
                arrival = Arrival(connection)
            except (OSError, ValueError):  # killed before it could speak
                connection.close()
                continue
            with self._changed:
                self._all.append(arrival)
                self._changed.notify_all()
            if arrival.tag != "gate" and not arrival.tag.startswith("gate:"):
                arrival.release()

    def everything(self) -> list[Arrival]:
        with self._changed:
            return list(self._all)

    def all(self, tag: str) -> list[Arrival]:
        with self._changed:
            return [arrival for arrival in self._all if arrival.tag == tag]

    def wait(self, tag: str, count: int = 1, deadline: float = DEADLINE) -> list[Arrival]:
        """The first `count` arrivals of this tag."""
        end = time.monotonic() + deadline
        with self._changed:
            while True:
                found = [arrival for arrival in self._all if arrival.tag == tag]
                if len(found) >= count:
                    return found[:count]
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"{len(found)} of {count} {tag!r} within {deadline:g} s; all: {self._all}")
                self._changed.wait(left)

    def close(self) -> None:
        self._stopped = True
        with socket.socket(socket.AF_UNIX) as wake:
            wake.connect(os.fspath(self.path))
        self._thread.join(DEADLINE)
        self._listener.close()
        for arrival in self._all:
            arrival.release()
        self.path.unlink()


# -- a client that sends exactly the bytes it is told to ----------------------------------------------


@dataclasses.dataclass
class Answer:
    status: int
    version: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} more than once: {values}"
        return values[0] if values else None

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A connection; bytes out, answers in."""

    def __init__(self, address: tuple[str, int] | str, deadline: float = DEADLINE) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(deadline)
        self.socket.connect(address)
        self._reader = self.socket.makefile("rb")

    def send(self, data: bytes | str) -> Self:
        self.socket.sendall(data.encode() if isinstance(data, str) else data)
        return self

    def get(self, path: str = "/", **headers: str) -> Answer:
        lines = [f"GET {path} HTTP/1.1", "Host: test", *(f"{k}: {v}" for k, v in headers.items())]
        return self.send("\r\n".join(lines) + "\r\n\r\n").answer()

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer, and not a byte more."""
        line = self._line()
        version, status, _ = line.split(" ", 2)
        headers = []
        while field := self._line():
            name, value = field.split(":", 1)
            headers.append((name, value.strip()))
        answer = Answer(int(status), version, headers)
        if method == "HEAD" or answer.status < 200 or answer.status in (204, 304):
            return answer
        length = answer.header("content-length")
        if answer.header("transfer-encoding"):
            assert answer.header("transfer-encoding") == "chunked"
            assert length is None
            while size := int(self._line().split(";")[0], 16):
                answer.body += self.read_exactly(size)
                assert self._line() == ""
            while self._line():
                pass
        elif length is not None:
            answer.body = self.read_exactly(int(length))
        else:
            answer.body = self._reader.read()
        return answer

    def _line(self) -> str:
        line = self._reader.readline(65536)
        if not line:
            raise ConnectionResetError("closed before the answer was complete")
        assert line.endswith(b"\r\n"), f"no CRLF at the end of {line!r}"
        return line[:-2].decode("latin-1")

    def read_exactly(self, size: int) -> bytes:
        data = self._reader.read(size)
        if len(data) != size:
            raise ConnectionResetError(f"{len(data)} of {size} bytes of the body")
        return data

    def rest(self) -> bytes:
        """All that comes until the other side closes; fails if it does not."""
        try:
            return self._reader.read()
        except ConnectionResetError:
            return b""

    def more(self) -> bool:
        """Whether anything comes before the server closes."""
        try:
            return bool(self._reader.peek(1))
        except ConnectionResetError:
            return False

    def assert_closed(self) -> None:
        rest = self.rest()
        assert rest == b"", f"expected the end of the connection, not {rest[:200]!r}"

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Background(threading.Thread):
    """A call in a thread; `result()` waits for it and raises what it raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # handed to the thread that asks
            self._error = error

    def result(self, deadline: float = DEADLINE) -> Any:
        self.join(deadline)
        assert not self.is_alive(), f"no result within {deadline:g} s"
        if self._error is not None:
            raise self._error
        return self._result


# -- the service -------------------------------------------------------------------------------------


class Service:
    """One service: its files, its process tree, its log."""

    def __init__(self, source: Path, directory: Path) -> None:
        self.directory = directory
        self.shipped = source / PACKAGE  # as it was generated
        self.source = directory / "src"
        self.package = self.source / PACKAGE
        self.run_directory = directory / "run"  # pidfile and sockets: empty in the end
        self.mark = uuid.uuid4().hex
        self.process: subprocess.Popen[bytes] | None = None
        self.expect_errors = False  # set it where the log may hold errors and tracebacks
        self.expect_left: set[str] = set()  # names in run_directory that may stay
        self._log: Log | None = None
        self._pid: int | None = None
        self._starter: subprocess.CompletedProcess[str] | None = None
        shutil.copytree(source, self.source, copy_function=shutil.copy2)
        self.run_directory.mkdir()
        self.run_directory.chmod(0o777)
        self.events = Events(directory / "events")
        self.client = httpx.Client(
            trust_env=False,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            timeout=DEADLINE,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        (self.package / "probe.py").write_text(PROBE)
        self.handlers(HANDLERS)

    @property
    def pool(self) -> str:
        return "threaded" if (self.package / "runtime" / "pool" / "threaded.py").exists() else "prefork"

    # files

    def handlers(self, text: str) -> None:
        """Write handlers.py, whole at once: a reload never reads half of it."""
        temporary = self.package / "handlers.new"
        temporary.write_text(textwrap.dedent(text))
        temporary.replace(self.package / "handlers.py")

    def config(self, text: str) -> Path:
        path = self.directory / "service.toml"
        path.write_text(textwrap.dedent(text))
        return path

    @property
    def pidfile(self) -> Path:
        return self.run_directory / f"{NAME}.pid"

    @property
    def socket_path(self) -> Path:
        return self.run_directory / "sock"

    # commands

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join([os.fspath(self.source), *ELSEWHERE]),
            "TEST_MARK": self.mark,
            "TEST_EVENTS": os.fspath(self.events.path),
            **(extra or {}),
        }

    def command(self, *flags: str | Path) -> list[str]:
        return [PYTHON, "-m", PACKAGE, *(os.fspath(flag) for flag in flags)]

    def run(
        self,
        *flags: str | Path,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        deadline: float = DEADLINE,
        unprivileged: bool = False,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.CompletedProcess[str]:
        """A command that ends by itself, and soon; and whose output ends with it."""
        with subprocess.Popen(
            [*prefix, *self.command(*flags)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or self.directory,
            env=self.environment(env),
            start_new_session=True,
            pass_fds=pass_fds,
            **as_nobody(unprivileged),
        ) as process:
            try:
                out, err = process.communicate(timeout=deadline)
            except subprocess.TimeoutExpired as late:
                self.kill_all()
                out, err = process.communicate()
                ended = process.returncode
                raise AssertionError(f"{flags} did not end within {deadline:g} s ({ended}):\n{out}\n{err}") from late
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def in_background(self, *flags: str | Path, **options: Any) -> Background:
        return Background(lambda: self.run(*flags, **options))

    def launch(
        self,
        *flags: str | Path,
        address: Sequence[str | Path] = LOOPBACK,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.PIPE,
        unprivileged: bool = False,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Service:
        """Start in the foreground (-x); does not wait."""
        assert self.process is None, "one service at a time"
        self.process = subprocess.Popen(
            [*prefix, *self.command("-x", *address, *flags)],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd or self.directory,
            env=self.environment(env),
            start_new_session=True,
            pass_fds=pass_fds,
            **as_nobody(unprivileged),
        )
        self._pid = self.process.pid
        if self.process.stderr is not None:
            self._log = Log(self.process.stderr)
        return self

    def start(self, *flags: str | Path, **options: Any) -> Service:
        """Start in the foreground, and wait until it is ready."""
        self.launch(*flags, **options)
        self.wait_ready(1)
        return self

    def wait_ready(self, generation: int) -> None:
        self.log.wait_for(rf"ready: generation {generation}\b")

    def wait_alone(self) -> None:
        """Until there is one generation only: from now on no other generation answers."""
        eventually(lambda: len(self.servers) == 1, "the old generation is gone")

    def start_detached(
        self,
        *flags: str | Path,
        address: Sequence[str | Path] = LOOPBACK,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Start without -x. Returns the command, which has ended well; the service runs on."""
        assert self.process is None, "one service at a time"
        done = self.run("--pidfile", self.pidfile, *address, *flags, **options)
        assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
        self.adopt(done, int(self.pidfile.read_text()))
        return done

    def adopt(self, starter: subprocess.CompletedProcess[str], pid: int) -> None:
        """The supervisor that this command has left behind."""
        self._starter = starter
        self._pid = pid

    # processes

    @property
    def pid(self) -> int:
        assert self._pid is not None, "not started"
        return self._pid

    def read_log(self, log: Log) -> None:
        """The log comes this way, and not through the pipe of `launch`."""
        self._log = log

    @property
    def log(self) -> Log:
        assert self._log is not None, "no log: started in the foreground?"
        return self._log

    def processes(self) -> list[psutil.Process]:
        """All living processes of this test, whatever their parent is now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("TEST_MARK") != self.mark:
                    continue
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def children(self, pid: int) -> list[int]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE]
        return []

    @property
    def servers(self) -> list[int]:
        return self.children(self.pid)

    @property
    def server(self) -> int:
        (server,) = self.servers
        return server

    @property
    def workers(self) -> list[int]:
        return [worker for server in self.servers for worker in self.children(server)]

    def wait_workers(self, count: int, deadline: float = DEADLINE) -> list[int]:
        """The processes of so many workers, as soon as they are there: with threads, one host."""
        return self.wait_members(1 if self.pool == "threaded" else count, deadline)

    def wait_members(self, count: int, deadline: float = DEADLINE) -> list[int]:
        """The server's children, as soon as there are exactly so many, of one server."""

        def probe() -> list[int] | None:
            servers, workers = self.servers, self.workers
            return workers if len(servers) == 1 and len(workers) == count else None

        try:
            return eventually(probe, f"{count} workers of one server", deadline) or []
        except AssertionError as late:
            raise AssertionError(f"{late}, but {len(self.workers)} of {self.servers}") from None

    def zombies(self) -> list[int]:
        """Children of this service that are not reaped."""
        living = [self.pid, *self.servers, *self.workers]
        return [
            child.pid
            for pid in living
            for child in psutil.Process(pid).children()
            if child.status() == psutil.STATUS_ZOMBIE
        ]

    def descriptors(self, pid: int) -> int:
        return psutil.Process(pid).num_fds()

    def opened(self, pid: int) -> dict[int, str]:
        """What its descriptors are, by number; of those that it closes while we look, and of a process that ends,
        nothing."""
        found: dict[int, str] = {}
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        return found

    def signal(self, number: signal.Signals, pid: int | None = None) -> None:
        os.kill(self.pid if pid is None else pid, number)

    def alive(self, pid: int | None = None) -> bool:
        try:
            return bool(psutil.Process(pid or self.pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:  # it may end between any two looks
            return False

    def running(self) -> bool:
        if self.process is not None:
            return self.process.poll() is None
        return self._pid is not None and self.alive()

    def wait(self, deadline: float = DEADLINE) -> int:
        """Until the supervisor has ended; its exit status."""
        assert self.process is not None, "not started in the foreground"
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {deadline:g} s: {self.processes()}\n{self.log.text}") from None

    def stop(self) -> None:
        """A graceful stop; the status is the one promised for it."""
        self.signal(signal.SIGTERM)
        if self.process is not None:
            assert self.wait() == 0, self.log.text
            self.log.wait_closed()
            assert re.search(r"\bstopped(\"})?$", self.log.lines[-1]), self.log.text
        self.assert_nothing_left()

    def forget(self) -> None:
        """Forget a service that has ended, so that another can be started."""
        assert self.process is None or self.process.poll() is not None, "it still runs"
        self.process, self._pid, self._log, self._starter = None, None, None, None

    def wait_nothing_runs(self, deadline: float = DEADLINE) -> None:
        def gone() -> bool:
            return not self.processes()

        try:
            eventually(gone, "no process left", deadline)
        except AssertionError as late:
            raise AssertionError(f"{late}: {self.processes()}") from None

    def assert_nothing_left(self, deadline: float = DEADLINE) -> None:
        self.wait_nothing_runs(deadline)
        left = {path.name for path in self.run_directory.iterdir()} - self.expect_left
        assert not left, f"files left behind: {left}"

    def kill_all(self) -> None:
        for _ in range(10):  # a process that is killed may just have forked
            found = self.processes()
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if not found:
                return
            psutil.wait_procs(found, timeout=DEADLINE)

    # talk

    @property
    def port(self) -> int:
        heard = r"listening on \w+://\S*:(\d+)"
        if self._starter is None:
            return int(self.log.wait_for(heard)[1])
        found = re.search(heard, self._starter.stderr)
        assert found, f"where does it listen? {self._starter.stderr!r}"
        return int(found[1])

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str = "/", **options: Any) -> httpx.Response:
        """One request on a connection of its own."""
        return self.client.get(self.url(path), **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.client.post(self.url(path), **options)

    def background(self, path: str = "/gate") -> Background:
        """The answer to a request that is sent now, and read by a thread."""
        wire = self.wire()
        return Background(lambda: wire.get(path))

    def wire(self) -> Wire:
        return Wire(self.address)

    def refuses(self) -> bool:
        """Whether nothing listens any more: new clients are refused, and the members know that they drain."""
        try:
            self.wire().close()
        except ConnectionRefusedError:
            return not any(self.port in listening(process) for process in self.processes())
        return False

    @contextlib.contextmanager
    def occupied(self) -> Iterator[int]:
        """A port of 127.0.0.1 on which another program listens."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            yield other.getsockname()[1]

    # the end

    def close(self) -> None:
        """Stop what still runs, then insist that nothing is left and nothing unexpected was logged."""
        try:
            for arrival in self.events.all("gate"):
                arrival.release()
            if self.running():
                self.stop()
            self.assert_nothing_left()
            if not self.expect_errors:
                self.assert_quiet()
        finally:
            self.kill_all()
            if self.process is not None:
                self.process.wait(DEADLINE)
            if self._log is not None:
                print(self._log.text)  # pytest shows it when the test fails
            self.client.close()
            self.events.close()
            shutil.rmtree(self.directory)

    def assert_quiet(self) -> None:
        lines = self._log.lines if self._log is not None else []
        loud = [line for line in lines if re.search(r"Traceback|Z (ERROR|CRITICAL)\b", line)]
        assert not loud, f"errors in the log: {loud}"


def as_nobody(wanted: bool) -> dict[str, Any]:
    """Arguments for Popen: not root, if we are root."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if wanted and ROOT else {}


def free_ports() -> Iterator[int]:
    """Ports that are free; below the ephemeral ones, and different in each parallel worker."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in range(15000 + 500 * worker, 15500 + 500 * worker):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


def assert_refused(done: subprocess.CompletedProcess[str], status: int, *patterns: str, traceback: bool = False) -> str:
    """The command ended with this status and exactly one line that says all this.

    With `traceback` the user's own traceback may stand before that line.
    """
    shown = f"status {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}"
    assert done.returncode == status, shown
    assert done.stdout == "", shown
    lines = done.stderr.splitlines()
    said = [line for line in lines if line.startswith(f"{NAME}: ")]
    assert len(said) == 1, f"not one line of {NAME}:\n{shown}"
    if not traceback:
        assert lines == said, f"more than one line:\n{shown}"
    for pattern in patterns:
        assert re.search(pattern, said[0]), f"/{pattern}/ is not in: {said[0]}"
    return said[0]
