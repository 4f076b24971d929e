"""What people get wrong. Each mistake has its exit status, and one line: what, where, what to do."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from typing import Protocol

import pytest
from harness import (
    HANDLERS,
    LOOPBACK,
    NAME,
    NOBODY,
    ROOT,
    Service,
    as_nobody,
    assert_refused,
    eventually,
)

USAGE, UNAVAILABLE, SOFTWARE, NOPERM, CONFIG = 2, 69, 70, 77, 78
INIT = 'tell("init", uid=os.geteuid())'
WORKER_INIT = 'tell("worker_init")'
needs_root = pytest.mark.skipif(not ROOT, reason="only root can become another user")


# -- the command line --------------------------------------------------------------------------------

COMMAND_LINES = {
    "unknown option": (["--colour"], [r"--colour\b", "--help"]),
    "unknown short option": (["-Z"], ["-Z", "--help"]),
    "nearly an option": (["--pot", "80"], [r"--pot\b", r"--port\b"]),
    "an argument that is no option": (["start"], ["start", "--help"]),
    "option without its value": (["--port"], ["--port", "value|argument", "^((?!did you mean).)*$"]),
    "value for a flag": (["--foreground=3"], ["--foreground"]),
    "-l with -p": (["-l", "/tmp/s", "-p", "80"], ["-l", "-p"]),
    "-l with -i": (["-l", "/tmp/s", "-i", "127.0.0.1"], ["-l", "-i"]),
    "-m below -n": ([*LOOPBACK, "-n", "10", "-m", "5"], ["-m", r"\b5\b", "-n", r"\b10\b"]),
    "more workers than the machine can hold": (
        [*LOOPBACK, "-m", "99999999"],
        ["-m", r"\b99999999\b", r"limit|to \d+"],
    ),
    "-n below nothing": ([*LOOPBACK, "-n", "-1"], ["-n", r"-1\b"]),
    "-n not a number": ([*LOOPBACK, "-n", "many"], ["-n", "many", "number"]),
    "-q 10": ([*LOOPBACK, "-q", "10"], ["-q", r"\b10\b", r"\b1024\b"]),
    "port 70000": (["-p", "70000"], ["-p", r"\b70000\b", r"\b65535\b"]),
    "port below nothing": (["-p", "-1"], ["-p", r"-1\b"]),
    "port of no service": (["-p", "no-such-service"], ["-p", "no-such-service", "/etc/services"]),
    "interface that is no name at all": (["-i", "ü..x", "-p", "0"], ["-i", "ü..x", "address"]),
    "interface that is no address": (
        ["-i", "no address", "-p", "0"],
        ["-i", "no address", "address"],
    ),
    "timeout that is no number": (
        [*LOOPBACK, "--start-timeout", "soon"],
        ["--start-timeout", "soon"],
    ),
    "timeout below nothing": ([*LOOPBACK, "--drain-timeout", "-1"], ["--drain-timeout", "-1"]),
    "timeout that is no time": ([*LOOPBACK, "--keep-alive", "nan"], ["--keep-alive", "nan"]),
    "unknown log level": ([*LOOPBACK, "--log-level", "loud"], ["--log-level", "loud", "(?i)info"]),
    "root that is not there": ([*LOOPBACK, "-r", "/no/such"], ["-r", "/no/such"]),
    "name that is a path": ([*LOOPBACK, "--name", "../x"], ["--name", r"\.\./x"]),
    "nonsense in --bind": (["--bind", "nonsense"], ["--bind", "nonsense", "host:port|unix:"]),
    "unknown command of ctl": (["ctl", "frobnicate"], ["frobnicate", "status"]),
}


@pytest.mark.parametrize("case", COMMAND_LINES)
@pytest.mark.parametrize("mode", ["foreground", "detached"])
def test_command_line(service: Service, case: str, mode: str) -> None:
    flags, patterns = COMMAND_LINES[case]
    if flags[0] == "ctl":
        before = []
    elif mode == "foreground":
        before = ["-x"]
    else:
        before = ["--pidfile", os.fspath(service.pidfile)]
    done = service.run(*before, *flags)
    assert_refused(done, USAGE, *patterns)
    service.assert_nothing_left()


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit of util-linux")
def test_more_workers_than_the_user_may_have(service: Service) -> None:
    """`-m` is checked against the machine's limits when the service starts, not at the worst moment."""
    limited = ("prlimit", "--nproc=150")
    done = service.run("-x", *LOOPBACK, "-m", "200", prefix=limited, unprivileged=True)
    assert_refused(done, USAGE, "-m", r"\b200\b", r"\b150\b", "limit")


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit of util-linux")
def test_a_reload_needs_no_more_workers_than_run(service: Service) -> None:
    """The user's limit was lowered meanwhile: what runs may be replaced by as much, and not by more."""
    config = service.config("idle = 1\nmax = 4000\n")
    service.start("-f", config, unprivileged=True)
    subprocess.run(["prlimit", f"--pid={service.pid}", "--nproc=3000"], check=True, **as_nobody(True))
    service.signal(signal.SIGHUP)
    service.wait_ready(2)
    config.write_text("idle = 1\nmax = 5000\n")
    service.expect_errors = True
    service.signal(signal.SIGHUP)
    service.log.wait_for("reload refused: .* 5000 is above this user's limit of 3000 processes")
    service.stop()


@needs_root
@pytest.mark.parametrize(("flag", "what"), [("-u", "user"), ("-g", "group")])
def test_unknown_user_or_group(service: Service, flag: str, what: str) -> None:
    done = service.run("-x", *LOOPBACK, flag, "no-such-body")
    assert_refused(done, USAGE, flag, what, "no-such-body")


def test_interface_of_another_machine(service: Service) -> None:
    done = service.run("-x", "-i", "192.0.2.1", "-p", "0")  # TEST-NET-1: no machine has it
    assert_refused(done, UNAVAILABLE, r"192\.0\.2\.1", "address")


# -- the environment -----------------------------------------------------------------------------------

ENVIRONMENTS = {
    "port": ({"HELLO_SERVER_PORT": "70000"}, ["HELLO_SERVER_PORT", "70000", "65535"]),
    "PORT": ({"PORT": "70000"}, [r"(?<!_)\bPORT\b", "70000", "65535"]),
    "number": ({"HELLO_SERVER_IDLE": "many"}, ["HELLO_SERVER_IDLE", "many"]),
    "boolean": (
        {"HELLO_SERVER_IMMEDIATE": "maybe"},
        ["HELLO_SERVER_IMMEDIATE", "maybe", "yes|true"],
    ),
    "backlog": ({"HELLO_SERVER_BACKLOG": "10"}, ["HELLO_SERVER_BACKLOG", "1024"]),
    "floor and ceiling": (
        {"HELLO_SERVER_IDLE": "10", "HELLO_SERVER_MAX": "5"},
        ["HELLO_SERVER_MAX|--max|-m", r"\b5\b", r"\b10\b"],
    ),
}


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_environment(service: Service, case: str) -> None:
    env, patterns = ENVIRONMENTS[case]
    done = service.run("-x", "-i", "127.0.0.1", env=env)
    assert_refused(done, CONFIG, *patterns)


def test_port_that_kubernetes_injects_is_ignored_with_a_warning(service: Service) -> None:
    """A Service called hello-server puts all these into each container of its namespace."""
    injected = {
        "HELLO_SERVER_PORT": "tcp://10.0.0.1:80",
        "HELLO_SERVER_SERVICE_HOST": "10.0.0.1",
        "HELLO_SERVER_SERVICE_PORT": "80",
        "HELLO_SERVER_PORT_80_TCP": "tcp://10.0.0.1:80",
        "HELLO_SERVER_PORT_80_TCP_ADDR": "10.0.0.1",
        "HELLO_SERVER_PORT_80_TCP_PORT": "80",
        "HELLO_SERVER_PORT_80_TCP_PROTO": "tcp",
    }
    service.start(env={**injected, "PORT": "0"}, address=("-i", "127.0.0.1"))
    warnings = service.log.find(r"Z WARN(ING)? ")
    assert len(warnings) == 1, warnings
    assert "HELLO_SERVER_PORT" in warnings[0]
    assert "tcp://10.0.0.1:80" in warnings[0]
    assert service.port != 80
    assert service.get("/").text == "hello"


# -- the configuration file ------------------------------------------------------------------------------

FILES = {
    "syntax": ("idle = 3\n\nmax = = 4\n", [r":3\b|line 3\b"]),
    "unknown option": ("idle = 3\nbacklgo = 80\n", [r"\bbacklgo\b", r"\bbacklog\b"]),
    "port": ("port = 70000\n", [r"\bport\b", "70000", "65535"]),
    "type": ('idle = "many"\n', [r"\bidle\b", "many"]),
    "boolean for a number": ("idle = true\n", [r"\bidle\b", "(?i)true"]),
    "number for a boolean": ("immediate = 3\n", [r"\bimmediate\b", r"\b3\b"]),
    "list for a number": ("idle = [1, 2]\n", [r"\bidle\b"]),
    "floor and ceiling": ("idle = 10\nmax = 5\n", [r"\bmax\b", r"\b5\b", r"\b10\b"]),
    "table for an option": ("[port]\nnumber = 80\n", [r"\bport\b"]),
    "option that has no place in a file": ('config = "other.toml"\n', [r"\bconfig\b"]),
}


@pytest.mark.parametrize("case", FILES)
def test_file(service: Service, case: str) -> None:
    text, patterns = FILES[case]
    path = service.config(text)
    done = service.run("-x", "-i", "127.0.0.1", "-f", path)
    assert_refused(done, CONFIG, re.escape(str(path)), *patterns)


def test_file_that_is_not_there(service: Service) -> None:
    path = service.directory / "absent.toml"
    done = service.run("-x", *LOOPBACK, "-f", path)
    assert_refused(done, CONFIG, re.escape(str(path)), "(?i)no such file|does not exist|not there")


def test_file_that_is_a_directory(service: Service) -> None:
    done = service.run("-x", *LOOPBACK, "-f", service.directory)
    assert_refused(done, CONFIG, re.escape(str(service.directory)), "directory")


def test_file_that_cannot_be_read(service: Service) -> None:
    path = service.config("idle = 3\n")
    path.chmod(0)
    done = service.run("-x", *LOOPBACK, "-f", path, unprivileged=True)
    assert_refused(done, CONFIG, re.escape(str(path)), "(?i)permission|not permitted|read")


def test_file_that_is_no_text(service: Service) -> None:
    path = service.config("")
    path.write_bytes(b'name = "\xff\xfe"\n')
    done = service.run("-x", *LOOPBACK, "-f", path)
    assert_refused(done, CONFIG, re.escape(str(path)), "(?i)utf-8")


def test_file_named_by_a_relative_path_is_named_in_full(service: Service) -> None:
    path = service.config("idle = = 3\n")
    done = service.run("-x", *LOOPBACK, "-f", path.name)
    assert_refused(done, CONFIG, re.escape(str(path)))


# -- what the system refuses -------------------------------------------------------------------------------


@pytest.fixture
def ordinary_network() -> tuple[str, ...]:
    """A command that runs another as nobody in a network where low ports are refused."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs network namespaces")
    if ROOT:
        prefix = ("unshare", "--net", f"--setgid={NOBODY}", f"--setuid={NOBODY}")
    else:
        prefix = ("unshare", "--user", "--map-current-user", "--net")
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no network namespace of our own: {tried.stderr.strip()}")
    return prefix


def test_port_that_the_kernel_refuses(service: Service, ordinary_network: tuple[str, ...]) -> None:
    done = service.run("-x", "-i", "0.0.0.0", "-p", "80", prefix=ordinary_network)
    assert_refused(done, NOPERM, r"0\.0\.0\.0:80\b", "(?i)root|privilege|CAP_NET_BIND_SERVICE|above|1024")


def test_low_port_that_the_kernel_allows(service: Service, ordinary_network: tuple[str, ...]) -> None:
    """The kernel decides, not a number in our code: in containers the limit is 0."""
    if not ROOT:
        pytest.skip("only root may change the limit, even in a namespace of its own")
    limit = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    drop = f'exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups "$@"'
    prefix = ("unshare", "--net", "sh", "-c", f"echo 0 > {limit} && {drop}", "sh")
    service.launch("-n", "1", address=("-i", "0.0.0.0", "-p", "80"), prefix=prefix)
    service.log.wait_for(r"listening on http://0\.0\.0\.0:80$")
    service.log.wait_for("ready: ")


@pytest.mark.parametrize("mode", ["foreground", "detached"])
def test_port_in_use(service: Service, mode: str) -> None:
    flags = ["-x"] if mode == "foreground" else ["--pidfile", service.pidfile]
    with service.occupied() as port:
        done = service.run(*flags, "-i", "127.0.0.1", "-p", str(port))
    assert_refused(done, UNAVAILABLE, rf"127\.0\.0\.1:{port}\b", "in use")
    service.assert_nothing_left()
    assert service.events.everything() == []  # found out before any user code ran


def test_port_that_somebody_takes_between_bind_and_listen(service: Service) -> None:
    """`EADDRINUSE` can come from listen() too: two may bind with SO_REUSEADDR, one may listen."""
    service.handlers(HANDLERS.replace(INIT, 'gate("gate:init")'))
    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(("127.0.0.1", 0))
        port = rival.getsockname()[1]
        service.launch(address=("-i", "127.0.0.1", "-p", str(port)))
        (arrival,) = service.events.wait("gate:init")
        rival.listen()
        arrival.release()
        assert service.wait() == UNAVAILABLE
        service.log.wait_closed()
    said = service.log.find(rf"^{NAME}: ")
    assert len(said) == 1, service.log.text
    assert f"127.0.0.1:{port}" in said[0]
    assert "in use" in said[0]
    service.expect_errors = True


def test_refused_when_others_use_all_interfaces(service: Service) -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        done = service.run("-x", "-p", str(port))
    assert_refused(done, UNAVAILABLE, rf":{port}\b", "in use")


# -- the handlers --------------------------------------------------------------------------------------------


class Refused(Protocol):
    def __call__(self, handlers: str, *patterns: str, flags: tuple[str, ...] = ()) -> str: ...


@pytest.fixture(params=["foreground", "detached"])
def refused(service: Service, request: pytest.FixtureRequest) -> Refused:
    """Start with these handlers; the service must not start, and says why."""

    def start(handlers: str, *patterns: str, flags: tuple[str, ...] = ()) -> str:
        service.handlers(handlers)
        mode = ["-x"] if request.param == "foreground" else ["--pidfile", service.pidfile]
        done = service.run(*mode, *LOOPBACK, *flags, deadline=60)
        assert_refused(done, SOFTWARE, *patterns, traceback=True)
        service.assert_nothing_left()
        return done.stderr

    return start


def test_handlers_that_raise_on_import(refused: Refused) -> None:
    text = "def connect():\n    raise LookupError('no database')\n\nconnect()\n"
    said = refused(text, r"handlers", "LookupError", "no database")
    assert "Traceback (most recent call last):\n" in said
    assert re.search(r'/handlers\.py", line 4, in <module>', said)
    assert re.search(r'/handlers\.py", line 2, in connect', said)


def test_handlers_with_a_syntax_error(refused: Refused) -> None:
    said = refused("routes = \n", "handlers", r"(?i)syntax")
    assert re.search(r'/handlers\.py", line 1', said)


def test_handlers_that_need_what_is_not_installed(refused: Refused) -> None:
    refused("import no_such_module\n", "handlers", "no_such_module")


def test_handlers_that_exit_on_import(refused: Refused) -> None:
    refused("import sys; sys.exit(0)\n", "handlers", "SystemExit|exit")


def test_handlers_whose_error_has_many_lines(refused: Refused) -> None:
    refused("raise ValueError('first\\nsecond')\n", "handlers", "ValueError")


def test_handlers_without_routes(refused: Refused) -> None:
    refused("def init(server):\n    pass\n", "handlers", r"\broutes\b")


def test_handlers_whose_routes_are_something_else(refused: Refused) -> None:
    refused("routes = {'/': None}\n", "handlers", r"\broutes\b", "Router|dict")


def test_handlers_whose_function_is_no_function(refused: Refused) -> None:
    refused(f"{HANDLERS}\nworker_init = 3\n", r"\bworker_init\b", "function|callable")


def test_handlers_that_are_not_there(service: Service) -> None:
    (service.package / "handlers.py").unlink()
    done = service.run("-x", *LOOPBACK)
    assert_refused(done, SOFTWARE, "handlers", traceback=True)


def test_init_that_raises(refused: Refused) -> None:
    said = refused(HANDLERS.replace(INIT, "raise LookupError('no database')"), r"\binit\b", "no database")
    assert "Traceback (most recent call last):\n" in said
    assert re.search(r'/handlers\.py", line \d+, in init', said)


def test_init_that_exits(refused: Refused) -> None:
    refused(HANDLERS.replace(INIT, "raise SystemExit(0)"), r"\binit\b")


def test_init_that_dies(refused: Refused) -> None:
    refused(
        HANDLERS.replace(INIT, "os.kill(os.getpid(), 9)"),
        r"\binit\b|server",
        "SIGKILL|signal 9|killed",
    )


def test_init_that_crashes(refused: Refused) -> None:
    said = refused(HANDLERS.replace(INIT, "os.kill(os.getpid(), 11)"), "SIGSEGV|signal 11")
    assert re.search(r'/handlers\.py", line \d+ in init', said)  # faulthandler's


def test_init_that_leaves_a_thread_running(refused: Refused) -> None:
    text = HANDLERS.replace(
        INIT,
        "import threading; threading.Thread(target=threading.Event().wait, name='refresher', daemon=True).start()",
    )
    said = refused(text, r"\binit\b", "thread", "refresher", r"worker_init\(?")
    assert "Traceback" not in said


def test_worker_init_that_raises_for_ever(refused: Refused) -> None:
    text = HANDLERS.replace(WORKER_INIT, "raise LookupError('no database')")
    said = refused(text, "worker", "no database|worker_init", flags=("-n", "2"))
    assert re.search(r'/handlers\.py", line \d+, in worker_init', said)


def test_worker_init_that_exits_for_ever(refused: Refused) -> None:
    refused(HANDLERS.replace(WORKER_INIT, "os._exit(0)"), "worker", flags=("-n", "2"))


def test_worker_init_that_crashes_for_ever(refused: Refused) -> None:
    text = HANDLERS.replace(WORKER_INIT, "os.kill(os.getpid(), 11)")
    refused(text, "worker", flags=("-n", "1"))  # two would write their tracebacks into each other


def test_worker_init_that_raises_once(service: Service) -> None:
    """A worker that fails once is no failure of the service."""
    service.handlers(
        HANDLERS.replace(
            WORKER_INIT,
            """
    if not os.path.exists(FLAG):
        open(FLAG, "x").close()
        raise LookupError("not yet")
    tell("worker_init")
""",
        )
        + f"\nFLAG = {os.fspath(service.run_directory / 'failed-once')!r}\n"
    )
    service.expect_errors = True
    service.expect_left = {"failed-once"}
    service.start("-n", "1")
    service.events.wait("worker_init")
    assert service.get("/").text == "hello"
    service.log.wait_for("LookupError: not yet")


def test_interrupted_while_starting(service: Service) -> None:
    """Ctrl-C while init() works: ended at once, without a traceback of ours."""
    service.handlers(HANDLERS.replace(INIT, 'gate("gate:init")'))
    service.launch()
    service.events.wait("gate:init")
    service.signal(signal.SIGINT)
    service.wait(deadline=8)
    service.log.wait_closed()
    assert "Traceback" not in service.log.text
    service.assert_nothing_left()


def test_code_that_moved_away(service: Service) -> None:
    """A service whose directory is gone after its start still stops without an error."""
    service.start("-n", "1")
    moved = service.directory / "moved"
    service.source.rename(moved)
    assert service.get("/").text == "hello"
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    eventually(lambda: not service.processes(), "no process left")
    moved.rename(service.source)
