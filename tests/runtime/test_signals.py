"""What each signal does, to the supervisor and to all other processes (the table of the design)."""

from __future__ import annotations

import os
import pty
import re
import signal
import sys
from signal import Signals

import pytest
from harness import HANDLERS, LOOPBACK, Background, Log, Service, eventually

BOTH_POOLS = True

INIT = 'tell("init", uid=os.geteuid())'
WORKER_INIT = 'tell("worker_init")'

# What the supervisor logs once it has begun to stop.
STOPPING = r"(?i)\bstop|\bdrain|\bSIG(TERM|INT|QUIT|USR2)\b"


def version(text: object) -> str:
    """Handlers that answer GET /version with this."""
    return f'{HANDLERS}\n@routes.get("/version")\ndef version(request):\n    return "{text}"\n'


def in_flight(service: Service) -> Background:
    """A request that is being handled now, and until its gate is opened."""
    request = service.background("/gate")
    service.events.wait("gate")
    return request


def draining(service: Service) -> None:
    """Until the word has reached the workers: the idle ones leave, and nothing listens."""
    eventually(lambda: len(service.workers) == 1 and service.refuses(), "idle workers leave")


# -- TERM, INT, QUIT, USR2 -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "flags"),
    [
        (signal.SIGTERM, ()),
        (signal.SIGUSR2, ()),
        (signal.SIGUSR2, ("-t",)),  # never shortened
    ],
)
def test_graceful_stop(service: Service, number: Signals, flags: tuple[str, ...]) -> None:
    service.start("-n", "2", *flags)
    request = in_flight(service)
    with service.wire() as idle, service.wire() as asked:
        assert asked.get("/").status == 200
        service.signal(number)
        draining(service)
        assert service.running()
        assert request.is_alive()
        service.events.all("gate")[0].release()
        answer = request.result()
        assert (answer.status, answer.body) == (200, b"released")
        assert answer.header("connection") == "close"
        idle.assert_closed()
        asked.assert_closed()
    assert service.wait() == 0
    assert len(service.events.all("exit")) == 1
    service.log.wait_closed()
    assert service.log.lines[-1].endswith(" stopped")


def test_graceful_stop_answers_who_waits_in_the_queue(service: Service) -> None:
    """Connections that the kernel has accepted before TERM are answered, though no worker was free."""
    service.start("-n", "1", "-m", "1")
    first = in_flight(service)
    waiting = [service.wire() for _ in range(5)]
    for wire in waiting:
        wire.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    mark = service.log.mark()
    service.signal(signal.SIGTERM)
    service.log.wait_for(STOPPING, after=mark)
    service.events.all("gate")[0].release()
    assert first.result().status == 200
    for wire in waiting:
        assert wire.answer().status == 200
        wire.close()
    assert service.wait() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stopping_service_takes_no_new_connection(service: Service, workers: str) -> None:
    """Refused at once, so that a client can ask elsewhere; not left in the queue behind a slow handler."""
    service.start("-n", workers)
    request = in_flight(service)
    service.signal(signal.SIGTERM)
    eventually(service.refuses, "new connections are refused", deadline=10)
    service.events.all("gate")[0].release()
    assert request.result().status == 200
    assert service.wait() == 0


def test_a_request_on_its_way_is_answered(service: Service) -> None:
    """Half a request has come before TERM; the rest comes after it."""
    service.start("-n", "2")
    with service.wire() as wire:
        wire.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nab")
        assert service.get("/").status_code == 200  # by now a worker has it
        service.signal(signal.SIGTERM)
        draining(service)
        answer = wire.send("cd").answer()
        assert (answer.status, answer.body) == (200, b"abcd")
        assert answer.header("connection") == "close"
        wire.assert_closed()
    assert service.wait() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_second_signal_stops_at_once(service: Service, second: Signals) -> None:
    service.start("-n", "1")
    in_flight(service)
    mark = service.log.mark()
    service.signal(signal.SIGTERM)
    service.log.wait_for(STOPPING, after=mark)
    service.signal(second)
    assert service.wait(deadline=8) == 0  # the request in flight is still not released
    assert len(service.events.all("exit")) == 1
    service.assert_nothing_left()


@pytest.mark.parametrize(
    ("number", "flags"),
    [
        (signal.SIGINT, ()),
        (signal.SIGQUIT, ()),
        (signal.SIGTERM, ("-t",)),
        (signal.SIGTERM, ("--immediate",)),
    ],
)
def test_immediate_stop(service: Service, number: Signals, flags: tuple[str, ...]) -> None:
    service.start("-n", "2", *flags)
    request = in_flight(service)
    service.signal(number)
    assert service.wait(deadline=8) == 0
    with pytest.raises(ConnectionResetError):
        request.result()
    assert len(service.events.all("exit")) == 1  # on every way out
    service.log.wait_closed()
    assert service.log.lines[-1].endswith(" stopped")
    service.assert_nothing_left()


def test_drain_timeout_bounds_the_graceful_stop(service: Service) -> None:
    service.expect_errors = True
    service.start("-n", "1", "--drain-timeout", "0.5")
    in_flight(service)
    service.signal(signal.SIGTERM)
    assert service.wait(deadline=8) == 0
    assert len(service.events.all("exit")) == 1
    service.assert_nothing_left()


def test_exit_may_take_its_time_but_not_for_ever(service: Service) -> None:
    """exit() has 5 s; then the service ends without it."""
    service.expect_errors = True
    service.handlers(HANDLERS.replace('tell("exit")', 'gate("gate:exit")'))
    service.start("-n", "1")
    service.signal(signal.SIGTERM)
    (arrival,) = service.events.wait("gate:exit")
    assert service.running()
    arrival.wait_gone(deadline=12)
    service.wait(deadline=8)
    service.assert_nothing_left()


def test_exit_that_raises_is_logged(service: Service) -> None:
    service.expect_errors = True
    service.handlers(HANDLERS.replace('tell("exit")', "raise LookupError('lost')"))
    service.start("-n", "1")
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    service.log.wait_closed()
    assert service.log.find(r"LookupError: lost")


@pytest.mark.parametrize("kind", ["inet", "unix"])
def test_term_while_starting(service: Service, kind: str) -> None:
    service.handlers(HANDLERS.replace(INIT, 'gate("gate:init")'))
    service.launch(address=("-l", service.socket_path) if kind == "unix" else LOOPBACK)
    (arrival,) = service.events.wait("gate:init")
    service.signal(signal.SIGTERM)
    arrival.release()
    assert service.wait() == 0
    service.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_between_listening_and_ready(service: Service, number: Signals) -> None:
    service.handlers(HANDLERS.replace(WORKER_INIT, 'gate("gate:worker")'))
    service.launch("-n", "1")
    (arrival,) = service.events.wait("gate:worker")
    service.log.wait_for("listening on ")
    service.signal(number)
    service.log.wait_for(STOPPING)
    arrival.release()
    assert service.wait() == 0
    assert len(service.events.all("exit")) == 1
    service.log.wait_closed()
    assert service.log.lines[-1].endswith(" stopped")
    service.assert_nothing_left()


# -- HUP -------------------------------------------------------------------------------------------------


def reload(service: Service, generation: int) -> None:
    """Until the new generation is ready, and alone."""
    service.signal(signal.SIGHUP)
    service.wait_ready(generation)
    service.wait_alone()


def test_hup_takes_up_changed_handlers(service: Service) -> None:
    service.handlers(version("one"))
    service.start("-n", "2")
    supervisor, before = service.pid, set(service.wait_workers(2))
    assert service.get("/version").text == "one"
    # Within the same second, and of the same size: a cached compilation would look fresh.
    service.handlers(version("two"))
    reload(service, 2)
    assert service.get("/version").text == "two"
    after = set(service.wait_workers(2))
    assert service.pid == supervisor
    assert after.isdisjoint(before)
    assert not (service.package / "__pycache__" / "handlers.pyc").exists()
    calls = [(call.tag, call.pid) for call in service.events.everything() if call.tag in ("init", "exit")]
    inits = [pid for tag, pid in calls if tag == "init"]
    assert len(set(inits)) == 2
    eventually(lambda: service.events.all("exit"), "exit() of the old generation")
    assert service.events.all("exit")[0].pid == inits[0]
    order = [call.tag for call in service.events.everything()]
    assert order.index("exit") > [i for i, tag in enumerate(order) if tag == "init"][1]


@pytest.mark.parametrize("name", ["__main__.py", "runtime/web/routes.py"])
def test_hup_says_that_it_loads_no_other_runtime(service: Service, name: str) -> None:
    service.start("-n", "1")
    reload(service, 2)
    assert "has changed since the start" not in service.log.text
    installed = service.package / name
    installed.write_text(installed.read_text())
    reload(service, 3)
    service.log.wait_for(f"{name} has changed since the start, and a reload does not load it: restart the service")


def test_hup_takes_up_changed_modules_of_the_user(service: Service) -> None:
    module = service.package / "answers.py"
    module.write_text("ANSWER = 'old'\n")
    text = f'{HANDLERS}\nfrom .answers import ANSWER\n@routes.get("/a")\ndef a(request):\n    return ANSWER\n'
    service.handlers(text)
    service.start("-n", "1")
    assert service.get("/a").text == "old"
    module.write_text("ANSWER = 'new'\n")
    reload(service, 2)
    assert service.get("/a").text == "new"
    reload(service, 3)
    assert service.get("/a").text == "new"


def test_hup_loses_no_request(service: Service) -> None:
    """One-shot clients ask while three generations follow each other; each gets its answer."""
    service.start("-n", "2")
    stop = False

    def ask() -> int:
        asked = 0
        while not stop:
            with service.wire() as wire:
                assert wire.get("/").status == 200
            asked += 1
        return asked

    clients = [Background(ask) for _ in range(4)]
    for generation in (2, 3, 4):
        reload(service, generation)
    stop = True
    assert all(client.result() > 0 for client in clients)


def test_hup_keeps_the_request_in_flight(service: Service) -> None:
    service.start("-n", "1")
    request = in_flight(service)
    service.signal(signal.SIGHUP)
    service.wait_ready(2)
    assert service.get("/").status_code == 200
    service.events.all("gate")[0].release()
    answer = request.result()
    assert (answer.status, answer.body) == (200, b"released")
    service.wait_workers(1)  # the old generation is gone


BROKEN = {
    "import": ("raise LookupError('broken')\n", "LookupError"),
    "syntax": ("routes = \n", "SyntaxError"),
    "init": (version("two").replace(INIT, "raise LookupError('broken')"), "LookupError"),
    "init that exits": (version("two").replace(INIT, "os._exit(3)"), r"\b3\b"),
    "worker_init": (version("two").replace(WORKER_INIT, "raise LookupError('broken')"), "LookupError"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_hup_with_broken_handlers_keeps_the_old_ones(service: Service, case: str) -> None:
    service.expect_errors = True
    broken, reason = BROKEN[case]
    service.handlers(version("one"))
    service.start("-n", "1", "--start-timeout", "10")
    workers = service.wait_workers(1)
    mark = service.log.mark()
    service.handlers(broken)
    service.signal(signal.SIGHUP)
    service.log.wait_for(r"(?i)reload.*(failed|keep|stay)|keep.*generation 1|generation 2 failed", after=mark)
    service.log.wait_for(reason, after=mark)
    assert service.get("/version").text == "one"
    assert service.wait_workers(1) == workers
    assert not service.events.all("exit")
    service.handlers(version("two"))
    mark = service.log.mark()
    service.signal(signal.SIGHUP)
    service.log.wait_for("ready: ", after=mark)
    service.wait_alone()
    assert service.get("/version").text == "two"


def test_hup_with_a_broken_file_keeps_the_old_configuration(service: Service) -> None:
    service.expect_errors = True
    path = service.config("idle = 2\n")
    service.start("-f", path)
    workers = sorted(service.wait_workers(2))
    mark = service.log.mark()
    service.config("idle = = 3\n")
    service.signal(signal.SIGHUP)
    service.log.wait_for(re.escape(str(path)) + r".*(:1|line 1)\b", after=mark)
    assert service.get("/").status_code == 200
    assert sorted(service.wait_workers(2)) == workers


def test_hup_twice_at_once(service: Service) -> None:
    """However many come while one is being served: the service ends up with what is on the disk."""
    service.handlers(version("one"))
    service.start("-n", "1")
    service.handlers(version("two").replace(INIT, 'gate("gate:init")'))
    service.signal(signal.SIGHUP)
    (arrival,) = service.events.wait("gate:init")
    service.handlers(version("six"))
    service.signal(signal.SIGHUP)
    service.signal(signal.SIGHUP)
    arrival.release()
    eventually(lambda: service.get("/version").text == "six", "the newest handlers answer")
    service.wait_workers(1)


def test_hup_while_stopping_changes_nothing(service: Service) -> None:
    service.start("-n", "1")
    request = in_flight(service)
    mark = service.log.mark()
    service.signal(signal.SIGTERM)
    service.log.wait_for(STOPPING, after=mark)
    service.signal(signal.SIGHUP)
    service.events.all("gate")[0].release()
    assert request.result().status == 200
    assert service.wait() == 0
    assert len(service.events.all("init")) == 1


# -- USR1 ------------------------------------------------------------------------------------------------


def test_usr1_ends_the_workers_now(service: Service) -> None:
    service.handlers(version("one"))
    service.start("-n", "2")
    before = set(service.wait_workers(2))
    request = in_flight(service)
    service.handlers(version("two"))
    service.signal(signal.SIGUSR1)
    service.wait_ready(2)
    service.wait_alone()
    with pytest.raises(ConnectionResetError):
        request.result()  # not waited for
    assert set(service.wait_workers(2)).isdisjoint(before)
    assert service.get("/version").text == "two"


# -- TTIN, TTOU ------------------------------------------------------------------------------------------


@pytest.mark.prefork
def test_ttin_and_ttou_change_the_floor(service: Service) -> None:
    service.start("-n", "2", "-m", "4")
    service.wait_workers(2)
    service.signal(signal.SIGTTIN)
    service.wait_workers(3)
    service.signal(signal.SIGTTOU)
    service.wait_workers(2, deadline=60)
    assert service.get("/").status_code == 200


@pytest.mark.threaded
def test_ttin_and_ttou_change_how_many_threads_are_idle(service: Service) -> None:
    service.start("-n", "2", "-m", "8")
    service.events.wait("worker_init", 2)
    for floor in (3, 4, 5, 6):
        service.signal(signal.SIGTTIN)
        service.log.wait_for(f"idle floor is now {floor}")
    service.events.wait("worker_init", 6)
    mark = service.log.mark()
    service.signal(signal.SIGTTOU)
    service.log.wait_for("idle floor is now 5", after=mark)
    assert service.get("/").status_code == 200


@pytest.mark.prefork
def test_ttin_stays_below_the_ceiling(service: Service) -> None:
    service.start("-n", "2", "-m", "2")
    mark = service.log.mark()
    service.signal(signal.SIGTTIN)
    service.log.wait_for("floor", after=mark)
    assert service.get("/").status_code == 200
    assert len(service.wait_workers(2)) == 2


def test_ttou_leaves_one(service: Service) -> None:
    service.start("-n", "1", "-m", "2")
    mark = service.log.mark()
    service.signal(signal.SIGTTOU)
    service.log.wait_for("floor", after=mark)
    assert service.get("/").status_code == 200
    assert len(service.wait_workers(1)) == 1


@pytest.mark.prefork
def test_ttin_and_ttou_are_ignored_at_a_terminal(service: Service) -> None:
    """There they are the terminal's own, and mean something else."""
    ours, theirs = pty.openpty()
    try:
        service.launch("-n", "2", "-m", "4", stderr=theirs)
    finally:
        os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as stream:
        service.read_log(Log(stream))
        service.log.wait_for("ready: ")
        workers = sorted(service.wait_workers(2))
        service.signal(signal.SIGTTIN)
        service.signal(signal.SIGTTOU)
        reload(service, 2)  # later signals have been seen by now
        after = service.wait_workers(2)
        assert set(after).isdisjoint(workers)
        service.stop()


# -- the ignored ones ----------------------------------------------------------------------------------------

IGNORED = [
    signal.SIGPIPE,
    signal.SIGALRM,
    signal.SIGTSTP,
    signal.SIGURG,
    signal.SIGIO,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGXFSZ,
    signal.SIGWINCH,
    signal.SIGCONT,
]


@pytest.mark.prefork
@pytest.mark.parametrize("number", IGNORED, ids=lambda number: number.name)
def test_ignored_by_the_supervisor(service: Service, number: Signals) -> None:
    service.start("-n", "1", "-m", "2")
    workers = service.wait_workers(1)
    service.signal(number)
    service.signal(signal.SIGTTIN)  # the proof that it lives, and works
    assert set(workers) < set(service.wait_workers(2))
    assert service.get("/").status_code == 200


@pytest.mark.parametrize("name", ["SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGALRM"])
def test_ignored_by_server_and_workers(service: Service, name: str) -> None:
    """A terminal's Ctrl-C and a control group's signal reach them all."""
    service.start("-n", "2")
    server, workers = service.server, service.wait_workers(2)
    request = in_flight(service)
    for pid in (server, *workers):
        service.signal(Signals[name], pid)
    service.events.all("gate")[0].release()
    answer = request.result()
    assert (answer.status, answer.body) == (200, b"released")
    for _ in range(4):
        assert service.get("/pid").json()["worker"] in workers
    assert service.server == server
    assert sorted(service.wait_workers(2)) == sorted(workers)


def test_ctrl_c_reaches_all_and_ends_all(service: Service) -> None:
    service.start("-n", "2")
    os.killpg(service.pid, signal.SIGINT)
    assert service.wait(deadline=8) == 0
    service.log.wait_closed()
    assert "Traceback" not in service.log.text
    assert service.log.lines[-1].endswith(" stopped")


def test_term_to_all_is_still_graceful(service: Service) -> None:
    """What `systemctl stop` with KillMode=control-group does."""
    service.start("-n", "2")
    request = in_flight(service)
    for process in service.processes():
        process.send_signal(signal.SIGTERM)
    service.log.wait_for(STOPPING)
    service.events.all("gate")[0].release()
    assert request.result().body == b"released"
    assert service.wait() == 0


def test_term_drains_a_worker(service: Service) -> None:
    service.start("-n", "1")
    request = in_flight(service)
    (arrival,) = service.events.all("gate")
    service.signal(signal.SIGTERM, arrival.pid)
    assert service.get("/").status_code == 200
    arrival.release()
    assert request.result().body == b"released"
    eventually(lambda: not service.alive(arrival.pid), "the worker is gone")
    assert arrival.pid not in service.wait_workers(1)
    assert service.get("/").status_code == 200


def test_term_drains_a_server(service: Service) -> None:
    service.expect_errors = True
    service.start("-n", "1")
    server = service.server
    request = in_flight(service)
    service.signal(signal.SIGTERM, server)
    service.events.all("gate")[0].release()
    assert request.result().body == b"released"
    service.wait_ready(2)
    service.wait_alone()
    assert service.server != server
    assert service.get("/").status_code == 200


# -- what user code starts -----------------------------------------------------------------------------------

DEADLY = ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "PIPE", "ALRM", "PROF", "VTALRM"]


@pytest.mark.parametrize("where", ["init", "worker_init", "handler"])
def test_programs_start_with_default_dispositions(service: Service, where: str) -> None:
    program = f"""
        import subprocess
        statuses = []
        for name in {DEADLY}:
            script = f"kill -{{name}} $$; echo survived"
            statuses.append(subprocess.run(["sh", "-c", script]).returncode)
        tell("programs", statuses=statuses)
    """
    body = "\n".join(line[4:] for line in program.splitlines())
    if where == "init":
        text = HANDLERS.replace("    " + INIT, body)
    elif where == "worker_init":
        text = HANDLERS.replace("    " + WORKER_INIT, body)
    else:
        text = HANDLERS.replace('    return "hello"', body + '\n    return "hello"')
    service.handlers(text)
    service.start("-n", "1")
    service.get("/")
    (told,) = service.events.wait("programs")
    assert told.data["statuses"] == [-Signals["SIG" + name] for name in DEADLY]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_programs_start_with_no_signal_blocked_or_ignored(service: Service) -> None:
    service.handlers(f"""{HANDLERS}
import subprocess

@routes.get("/status")
def status(request):
    return subprocess.check_output(["cat", "/proc/self/status"])
""")
    service.start("-n", "1")
    masks = dict(re.findall(r"^(Sig(?:Blk|Ign)):\s*(\w+)$", service.get("/status").text, re.MULTILINE))
    # The C library keeps 32 and 33 to itself: if the starter of these tests ignores them, it stays so.
    ours = sum(1 << (number - 1) for number in signal.valid_signals())
    assert {name: int(mask, 16) & ours for name, mask in masks.items()} == {"SigBlk": 0, "SigIgn": 0}


def test_children_of_user_code_are_its_own(service: Service) -> None:
    """Neither server nor supervisor reaps what `subprocess` waits for; nor are they left as zombies."""
    service.handlers(
        f"""{HANDLERS}
import subprocess

@routes.get("/run")
def run(request):
    statuses = [subprocess.call(["sh", "-c", "exit 7"]) for _ in range(20)]
    return {{"status": statuses, "system": os.system("exit 3")}}
""".replace('    tell("init", uid=os.geteuid())', '    tell("init", status=os.system("exit 5") >> 8)')
    )
    service.start("-n", "2")
    assert service.events.wait("init")[0].data == {"status": 5}
    answer = service.get("/run").json()
    assert answer["status"] == [7] * 20
    assert answer["system"] >> 8 == 3
