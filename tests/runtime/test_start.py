"""Starting: in the foreground, detached, and the commands that only say something."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from harness import (
    HANDLERS,
    LOOPBACK,
    NAME,
    PYTHON,
    ROOT,
    Background,
    Log,
    Service,
    Wire,
    assert_refused,
    eventually,
)

BOTH_POOLS = True

LINE = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR|CRITICAL) +\w+\[\d+\] \S"


# -- in the foreground -----------------------------------------------------------------------------


def test_foreground_serves_and_stops(service: Service) -> None:
    service.start()
    assert service.get("/").text == "hello"
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    service.log.wait_closed()
    assert service.log.lines[-1].endswith(" stopped")


def test_the_stubs_work_as_they_come(service: Service) -> None:
    service.handlers((service.shipped / "handlers.py").read_text())
    service.start()
    hello = service.get("/")
    assert (hello.status_code, hello.text) == (200, f"Hello from {NAME}\n")
    assert hello.headers["content-type"].startswith("text/plain")
    echo = service.post("/echo", content=b"\0\xff{}", headers={"content-type": "x/y"})
    assert (echo.status_code, echo.content) == (200, b"\0\xff{}")
    assert echo.headers["content-type"] == "x/y"
    health = service.get("/healthz")
    assert (health.status_code, health.text) == (200, "ok\n")


def test_log_lines_have_one_form(service: Service) -> None:
    service.start()
    service.get("/")
    service.stop()
    odd = [line for line in service.log.lines if not re.match(LINE, line)]
    assert not odd
    roles = {re.split(r" +", line)[2].split("[")[0] for line in service.log.lines}
    assert roles <= {"supervisor", "server", "worker"}
    assert f"supervisor[{service.pid}]" in service.log.lines[0]


def test_the_address_is_logged_before_readiness(service: Service) -> None:
    service.start("-n", "3")
    listening = service.log.find(r"listening on http://127\.0\.0\.1:\d+$")
    ready = service.log.find(r"ready: generation 1\b")
    assert len(listening) == len(ready) == 1
    assert service.log.lines.index(listening[0]) < service.log.lines.index(ready[0])
    assert 0 < service.port < 65536


def test_three_levels_of_processes(service: Service) -> None:
    service.start("-n", "3")
    workers = service.wait_workers(3)
    seen = service.get("/pid").json()
    assert seen["server"] == service.server
    assert seen["worker"] in workers
    expected = {service.pid, service.server, *workers}
    assert {process.pid for process in service.processes()} == expected


def test_foreground_writes_no_pidfile(service: Service) -> None:
    service.start()
    assert list(service.run_directory.iterdir()) == []


def test_foreground_stays_in_its_session(service: Service) -> None:
    """The supervisor does; a server and its members have one of their own, without a terminal."""
    service.start()
    assert os.getsid(service.pid) == service.pid
    assert {os.getsid(process.pid) for process in service.processes() if process.pid != service.pid} == {service.server}


def test_ready_means_that_worker_init_has_returned(service: Service) -> None:
    service.handlers(HANDLERS.replace('tell("worker_init")', 'gate("gate:init")'))
    service.launch("-n", "1")
    arrival = service.events.wait("gate:init")[0]
    assert not service.log.find("ready: ")
    arrival.release()
    service.wait_ready(1)


def test_nothing_is_answered_before_init_is_done(service: Service, ports: Iterator[int]) -> None:
    service.handlers(HANDLERS.replace('tell("init", uid=os.geteuid())', 'gate("gate:init")'))
    port = next(ports)
    service.launch("-p", str(port))
    arrival = service.events.wait("gate:init")[0]
    with pytest.raises(ConnectionRefusedError):
        Wire(("127.0.0.1", port))
    arrival.release()
    service.log.wait_for("ready: ")
    assert service.get("/").text == "hello"


def test_start_to_first_answer_is_fast(service: Service) -> None:
    """Aim: 45 ms. What is judged is the processor's time, which other work on the machine does not lengthen."""
    took, worked = [], []
    for _ in range(3):
        began = time.monotonic()
        service.start()
        assert service.wire().get("/").status == 200
        took.append(time.monotonic() - began)
        worked.append(sum(sum(process.cpu_times()[:2]) for process in service.processes()))
        service.stop()
        service.forget()
    print(f"start to first answer: {min(took) * 1000:.0f} ms, of it at work {min(worked) * 1000:.0f} ms")
    assert min(worked) < 0.25


# Milliseconds and hundreds of KiB each, in every service (record 20).
HEAVY = """argparse asyncio ctypes dataclasses glob http.client inspect pathlib pickle pkgutil platform random shutil
subprocess tempfile tomllib urllib.parse uuid"""


def test_a_start_imports_nothing_heavy(service: Service) -> None:
    service.handlers("""
        import sys
        from .runtime.http import Router
        routes = Router()
        @routes.get("/")
        def index(request):
            return " ".join(sys.modules)
    """)
    service.start()
    heavy = sorted(set(service.get("/").text.split()) & set(HEAVY.split()))
    assert not heavy


def test_user_functions_are_called_in_order(service: Service) -> None:
    service.start("-n", "1")
    service.get("/")
    service.stop()
    calls = service.events.everything()
    init, *workers, end = calls
    assert (init.tag, end.tag) == ("init", "exit")
    assert init.pid == end.pid
    tags = [call.tag for call in workers]
    assert tags[0] == "worker_init"
    assert tags.count("worker_init") == tags.count("worker_exit") == len(tags) / 2
    assert len(tags) == 2 or service.pool == "threaded"  # there is one more thread, which runs the loop
    assert len({call.pid for call in workers} | {init.pid}) == 2


def test_handlers_alone_are_enough(service: Service) -> None:
    """All functions but the service function are optional."""
    service.handlers("""
        from .runtime.http import Router
        routes = Router()
        @routes.get("/")
        def index(request):
            return "alone"
    """)
    service.start()
    assert service.get("/").text == "alone"


def test_init_learns_how_the_service_was_started(service: Service) -> None:
    service.handlers(
        HANDLERS.replace(
            'tell("init", uid=os.geteuid())',
            "tell('init', file=str(server.config_file), config=server.config,"
            " root=str(server.root_dir), interface=server.interface, port=server.port)",
        )
    )
    path = service.config("""
        idle = 2
        [app]
        colour = "green"
    """)
    service.start("-f", path, "-r", service.directory)
    told = service.events.wait("init")[0].data
    assert told["file"] == str(path)
    assert told["config"]["app"] == {"colour": "green"}
    assert told["root"] == str(service.directory)
    assert told["interface"] == "127.0.0.1"
    assert told["port"] == service.port


# -- detached -----------------------------------------------------------------------------------------


def test_detached_returns_when_the_first_worker_is_ready(service: Service) -> None:
    service.handlers(HANDLERS.replace('tell("worker_init")', 'gate("gate:init")'))
    started = Background(lambda: service.start_detached("-n", "1"))
    arrival = service.events.wait("gate:init")[0]
    assert started.is_alive()  # the command waits
    arrival.release()
    done = started.result()
    assert done.returncode == 0
    assert re.search(r"listening on http://127\.0\.0\.1:\d+$", done.stderr, re.MULTILINE)
    assert service.get("/").text == "hello"


def test_detached_leaves_the_terminal(service: Service) -> None:
    service.start_detached()
    supervisor = psutil.Process(service.pid)
    assert supervisor.ppid() != os.getpid()
    session = os.getsid(service.pid)
    assert session != service.pid  # forked twice: it can never get a terminal again
    assert supervisor.terminal() is None
    assert supervisor.cwd() == "/"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_detached_holds_nothing_of_the_shell(service: Service) -> None:
    """Standard input is /dev/null; a descriptor that the shell left open is closed."""
    inherited = os.open(service.directory, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        service.start_detached(pass_fds=[inherited])
    finally:
        os.close(inherited)
    for process in service.processes():
        opened = service.opened(process.pid)
        assert opened[0] == "/dev/null"
        assert {1, 2} <= opened.keys()
        assert os.fspath(service.directory) not in opened.values()


def test_detached_handlers_may_print(service: Service) -> None:
    """As much as they like: a pipe that no process reads would fill, or break."""
    service.handlers(
        HANDLERS.replace(
            'return "hello"',
            'print("x" * 10_000, flush=True); os.write(2, b"y" * 10_000); return "hello"',
        )
    )
    service.start_detached("-n", "2")
    for _ in range(50):
        assert service.get("/").text == "hello"


def test_detached_pidfile_is_written_and_locked(service: Service) -> None:
    service.start_detached()
    assert re.fullmatch(r"\d+\n", service.pidfile.read_text())
    assert service.pidfile.stat().st_mode & 0o777 == 0o644
    with service.pidfile.open("r+") as stream, pytest.raises(BlockingIOError):
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert service.alive()
    assert service.servers
    service.stop()
    assert not service.pidfile.exists()


def test_detached_stops_gracefully(service: Service) -> None:
    service.start_detached("-n", "2")
    request = service.background("/gate")
    (arrival,) = service.events.wait("gate")
    service.signal(signal.SIGTERM)
    eventually(lambda: len(service.workers) == 1, "the idle worker leaves")
    assert service.alive()
    arrival.release()
    assert request.result().body == b"released"
    service.wait_nothing_runs()
    assert service.events.all("exit")


def test_detached_relays_what_init_says(service: Service) -> None:
    service.handlers(
        HANDLERS.replace(
            'tell("init", uid=os.geteuid())',
            "import sys, subprocess; print('init speaks', file=sys.stderr);"
            " subprocess.run(['sh', '-c', 'echo its child speaks >&2'], check=True)",
        )
    )
    done = service.start_detached()
    assert "init speaks\n" in done.stderr
    assert "its child speaks\n" in done.stderr


def test_detached_reports_a_failing_init(service: Service) -> None:
    service.handlers(HANDLERS.replace('tell("init", uid=os.geteuid())', "raise LookupError('no database')"))
    done = service.run("--pidfile", service.pidfile, *LOOPBACK)
    assert_refused(done, 70, "init", "no database", traceback=True)
    assert "Traceback (most recent call last)" in done.stderr
    assert "handlers.py" in done.stderr
    service.assert_nothing_left()


def test_detached_reports_a_port_in_use(service: Service) -> None:
    with service.occupied() as port:
        done = service.run("--pidfile", service.pidfile, "-i", "127.0.0.1", "-p", str(port))
    assert_refused(done, 69, rf"127\.0\.0\.1:{port}", "in use")
    service.assert_nothing_left()


@pytest.mark.parametrize("mode", ["foreground", "detached"])
def test_start_timeout_bounds_the_start(service: Service, mode: str) -> None:
    service.handlers(HANDLERS.replace('tell("init", uid=os.geteuid())', 'gate("gate:init")'))
    flags = ["-x"] if mode == "foreground" else ["--pidfile", service.pidfile]
    began = time.monotonic()
    done = service.run(*flags, *LOOPBACK, "--start-timeout", "1")
    took = time.monotonic() - began
    said = [line for line in done.stderr.splitlines() if line.startswith(f"{NAME}: ")]
    assert done.returncode == 70, done.stderr
    assert len(said) == 1, done.stderr
    assert re.search(r"--start-timeout|start timeout", said[0])
    assert re.search(r"\b1 s", said[0])
    assert 1 <= took < 5
    service.assert_nothing_left()


def test_start_timeout_holds_for_worker_init(service: Service) -> None:
    service.handlers(HANDLERS.replace('tell("worker_init")', 'gate("gate:init")'))
    done = service.run("-x", *LOOPBACK, "--start-timeout", "1")
    assert done.returncode == 70, done.stderr
    assert re.search(rf"^{NAME}: .*worker_init", done.stderr, re.MULTILINE), done.stderr
    service.assert_nothing_left()


def test_detached_survives_a_closed_stderr(service: Service) -> None:
    """`service ... start >&-` is what a cron job may do."""
    prefix = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    done = service.run("--pidfile", service.pidfile, *LOOPBACK, prefix=prefix)
    assert done.returncode == 0
    service.adopt(done, int(service.pidfile.read_text()))
    assert service.alive()
    assert len(service.events.wait("worker_init", 5)) == 5


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_foreground_survives_closed_streams(service: Service, closed: str) -> None:
    """Some supervisors start their children like that. A socket must not become the standard error either."""
    service.launch("-n", "1", prefix=("sh", "-c", f'exec "$@" {closed}', "sh"))
    service.events.wait("worker_init")
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    assert service.events.all("exit")


@pytest.fixture
def syslog(service: Service) -> Iterator[tuple[tuple[str, ...], Log]]:
    """A /dev/log of our own: a command that runs another with it, and what is sent to it."""
    if not ROOT or sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs root, and mount namespaces")
    device = service.directory / "dev"
    device.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(os.fspath(service.directory / "log"))
        (service.directory / "log").chmod(0o777)
        script = f"""
            mount -t tmpfs -o mode=755 none {device} &&
            for name in null zero full random urandom; do
                : > {device}/$name && mount --bind /dev/$name {device}/$name || exit
            done &&
            : > {device}/log && mount --bind {service.directory}/log {device}/log &&
            mount --rbind {device} /dev && exec "$@"
        """
        prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
        if subprocess.run([*prefix, "true"], check=False).returncode != 0:
            pytest.skip("no mount namespace of our own")
        reading, writing = os.pipe()

        def relay() -> None:
            with os.fdopen(writing, "wb", buffering=0) as stream:
                while message := receiver.recv(65536):
                    stream.write(message.rstrip(b"\0\n") + b"\n")

        relaying = Background(relay)
        log = Log(os.fdopen(reading, "rb"))
        yield prefix, log
        receiver.shutdown(socket.SHUT_RDWR)
        relaying.result()
        log.wait_closed()


DAEMON, LOCAL0 = 3 << 3, 16 << 3
ERROR, WARNING, INFO = 3, 4, 6


def test_syslog_once_detached(service: Service, syslog: tuple[tuple[str, ...], Log]) -> None:
    """Facility daemon, ident and process id of the service; levels are syslog's."""
    service.expect_errors = True
    prefix, log = syslog
    service.handlers(HANDLERS.replace('return "hello"', "raise LookupError('said to syslog')"))
    service.start_detached(prefix=prefix)
    assert service.get("/").status_code == 500
    log.wait_for(rf"^<{DAEMON | ERROR}>.*\b{NAME}\[\d+\]: ")
    log.wait_for("LookupError: said to syslog")
    for said in ("listening on ", "ready: generation 1 "):  # on the terminal as well
        log.wait_for(rf"^<{DAEMON | INFO}>.*\b{NAME}\[{service.pid}\]: supervisor\[{service.pid}\] {said}")
    service.signal(signal.SIGTERM)
    log.wait_for(rf"^<{DAEMON | INFO}>.*\b{NAME}\[{service.pid}\]: .*\bstopped$")
    service.wait_nothing_runs()


def test_syslog_facility(service: Service, syslog: tuple[tuple[str, ...], Log]) -> None:
    prefix, log = syslog
    service.start_detached("--log-facility", "local0", "--name", "other", prefix=prefix)
    service.signal(signal.SIGTERM)
    log.wait_for(rf"^<{LOCAL0 | INFO}>.*\bother\[\d+\]: .*\bstopped$")


NAMED = HANDLERS.replace("def init(server):", "def init(server):\n    server.set_name('generation one')")


def test_syslog_has_the_name_that_init_gives(service: Service, syslog: tuple[tuple[str, ...], Log]) -> None:
    """set_name(): as long as that generation serves. A generation that fails names nothing."""
    prefix, log = syslog
    service.expect_errors = True
    service.handlers(NAMED)
    service.start_detached(prefix=prefix)
    log.wait_for(r"\bgeneration one\[\d+\]: .* ready: generation 1 ")
    service.handlers(NAMED.replace("'generation one')", "'never'); raise LookupError('deliberate')"))
    service.signal(signal.SIGHUP)
    log.wait_for(r"\bgeneration one\[\d+\]: .* reload failed: ")
    service.handlers(HANDLERS)
    service.signal(signal.SIGHUP)
    log.wait_for(rf"\b{NAME}\[\d+\]: .* ready: generation 3 ")
    assert not log.find(r"\bnever\[")


@pytest.mark.parametrize("name", ["", "two\nlines"])
def test_a_name_is_one_line(service: Service, name: str) -> None:
    service.handlers(NAMED.replace("'generation one'", repr(name)))
    done = service.run("-x", *LOOPBACK)
    assert_refused(done, 70, "init", "set_name needs 1 to 64 bytes without control characters", traceback=True)


def test_syslog_is_not_waited_for(service: Service, syslog: tuple[tuple[str, ...], Log]) -> None:
    """Nothing listens to syslog any more: the service goes on."""
    prefix, _ = syslog
    service.start_detached(prefix=prefix)
    (service.directory / "log").unlink()
    for _ in range(50):
        assert service.get("/").status_code == 200


# -- commands that only say something -----------------------------------------------------------------


def test_version(service: Service) -> None:
    done = service.run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    python = re.escape(subprocess.check_output([PYTHON, "-V"], text=True).strip())
    assert re.fullmatch(rf"{NAME} 0\.1\.0 \(runtime \d+\.\d+\.\d+, {python}\)\n", done.stdout)


OPTIONS = {
    "-x",
    "--foreground",
    "-p",
    "--port",
    "-i",
    "--interface",
    "-l",
    "--listen-unix",
    "-n",
    "--idle",
    "-m",
    "--max",
    "-q",
    "--backlog",
    "-r",
    "--root",
    "-u",
    "--user",
    "-g",
    "--group",
    "-t",
    "--immediate",
    "-f",
    "--config",
    "--bind",
    "--pidfile",
    "--start-timeout",
    "--drain-timeout",
    "--request-timeout",
    "--keep-alive",
    "--header-timeout",
    "--body-timeout",
    "--log-level",
    "--max-connections",
    "--stop-delay",
    "--max-requests",
    "--fast-time",
    "--fast-max",
    "--restart-max",
    "--control",
    "--admin",
    "--log-facility",
    "--name",
    "--check",
    "--version",
    "--help",
}


def test_help_lists_every_option(service: Service) -> None:
    done = service.run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    listed = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", done.stdout))
    assert OPTIONS - listed == set()
    assert NAME in done.stdout
    for default in ("1966", "1024", "25"):
        assert default in done.stdout
    assert "HELLO_SERVER_PORT" in done.stdout or "HELLO_SERVER_" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_names_no_option_that_is_not_there(service: Service) -> None:
    """Every long option that --help lists is known to the command line."""
    done = service.run("--help")
    listed = set(re.findall(r"^\s+(?:-\w, )?(--[a-z-]+)", done.stdout, re.MULTILINE))
    assert len(listed) > 12
    for option in sorted(listed - {"--help", "--version"}):
        said = service.run("--check", f"{option}=nonsense").stderr
        assert not re.search("not recognized|unknown", said), f"{option} is listed, but: {said}"


def test_check_of_a_good_service(service: Service) -> None:
    with service.occupied() as port:  # a check listens nowhere
        done = service.run("--check", "-i", "127.0.0.1", "-p", str(port))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert service.events.everything() == []  # ... and calls no handler
    service.assert_nothing_left()


def test_check_of_a_bad_configuration(service: Service) -> None:
    path = service.config("idle = 3\nmax = 'many'\n")
    done = service.run("--check", "-f", path)
    assert_refused(done, 78, re.escape(str(path)), r"\bmax\b", "many")


def test_check_of_handlers_that_raise(service: Service) -> None:
    service.handlers("raise LookupError('no such thing')\n")
    done = service.run("--check")
    assert_refused(done, 70, "handlers", "no such thing", traceback=True)
    assert "Traceback (most recent call last)" in done.stderr


def test_check_of_handlers_without_routes(service: Service) -> None:
    service.handlers("def init(server):\n    pass\n")
    done = service.run("--check")
    assert_refused(done, 70, "handlers", "routes")
