"""The installed service under a real systemd: what an operator types, and what comes of it."""

from __future__ import annotations

import json
import re
import threading
import time
from http.client import HTTPException

import pytest
from machines import BROKEN, HANDLERS, SERVICE, SOURCES
from systemd_machine import Systemd

GATE = f"/var/lib/{SERVICE}/open"
UNITS = "/usr/local/lib/systemd/system"
PROCESSES = """
import json, pathlib
print(json.dumps([one.joinpath("cmdline").read_text() for one in pathlib.Path("/proc").glob("[0-9]*")]))
"""


def status_text(machine: Systemd) -> str:
    return machine.show("StatusText")


def test_units_are_right(machine: Systemd) -> None:
    """Nothing at all is said of them, with each drop-in, and as an instance."""
    units = [f"{UNITS}/{name}" for name in (f"{SERVICE}.service", f"{SERVICE}.socket", f"{SERVICE}@blue.service")]
    for example in ("", "low-port.conf", "socket-activated.conf"):
        if example:
            machine.example(example)
        done = machine.try_("systemd-analyze", "verify", "--man=no", *units)
        assert (done.status, done.stdout, done.stderr) == (0, "", ""), example


@pytest.mark.parametrize(("drop_in", "most"), [("", 1.1), ("socket-activated.conf", 0.9)])
def test_little_is_exposed(machine: Systemd, drop_in: str, most: float) -> None:
    if drop_in:
        machine.example(drop_in)
    said = machine.ask("systemd-analyze", "security", "--no-pager", f"{SERVICE}.service")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+) ", said)
    assert found and float(found[1]) <= most, said


def test_start_is_over_when_the_service_is_ready(machine: Systemd) -> None:
    machine.handlers(HANDLERS + "\n\ndef worker_init(worker):\n    time.sleep(1)\n")
    machine.run("systemctl", "start", SERVICE)
    machine.logged("ready: generation 1")
    assert machine.get() == "hello"
    assert machine.show("Type") == ("notify-reload" if machine.version >= 253 else "notify")
    assert int(json.loads(machine.get("/who"))["uid"]) >= 61184  # DynamicUser: systemd.exec(5)
    for directory in (f"/run/{SERVICE}", f"/var/lib/{SERVICE}"):
        machine.run("test", "-d", directory)


def test_a_start_that_fails_says_so(machine: Systemd) -> None:
    machine.handlers(BROKEN)
    done = machine.try_("systemctl", "start", SERVICE)
    assert done.status == 1
    machine.logged("LookupError: deliberate")


def test_a_crash_is_tried_again_and_later_each_time(machine: Systemd) -> None:
    machine.handlers(BROKEN)
    machine.drop_in("[Unit]\nStartLimitIntervalSec=600\nStartLimitBurst=3\n" if machine.version < 254 else "")
    assert machine.try_("systemctl", "start", SERVICE).status == 1
    if machine.version < 254:
        machine.eventually("given up", lambda: machine.show("ActiveState") == "failed")
        assert machine.show("NRestarts") == "3"
        return
    machine.eventually("tried again", lambda: int(machine.show("NRestarts")) >= 2)
    assert float(machine.show("RestartUSecNext").removesuffix("s")) > 1.5  # 1 s at first, then twice that, and so on
    machine.handlers(HANDLERS)
    machine.eventually("it serves", machine.serves)


def test_a_wrong_option_is_not_tried_again(machine: Systemd) -> None:
    machine.write(f"/etc/default/{SERVICE}", "HELLO_SERVER_MAX=many\n")
    assert machine.try_("systemctl", "start", SERVICE).status == 1
    assert machine.show("ExecMainStatus") == "78"
    assert machine.show("ActiveState") == "failed"
    assert machine.show("NRestarts") == "0"
    machine.logged("HELLO_SERVER_MAX: needs a whole number from 1 to 32768, not 'many'")


def test_status_tells_of_the_pool(service: Systemd) -> None:
    service.eventually("idle", lambda: re.search("generation 1: workers 5 idle, at most 25", status_text(service)))
    with service.held(GATE):
        service.eventually("busy", lambda: "workers 1 busy" in status_text(service))
    service.eventually("idle", lambda: "busy" not in status_text(service))


def test_the_journal_has_priorities(service: Systemd) -> None:
    connection = service.connect()
    connection.request("GET", "/broken")
    assert connection.getresponse().status == 500
    connection.close()
    service.logged("LookupError: deliberate")
    found = {str(entry["MESSAGE"]): entry["PRIORITY"] for entry in service.entries()}
    ready = [priority for message, priority in found.items() if "ready: generation 1" in message]
    failed = [priority for message, priority in found.items() if "LookupError: deliberate" in message]
    assert (ready, failed) == (["6"], ["3"])
    assert not [message for message in found if message.startswith("<")]


def test_reload_says_whether_it_worked(service: Systemd) -> None:
    pid = service.pid
    service.handlers(HANDLERS.replace('"hello"', '"hello again"'))
    service.run("systemctl", "reload", SERVICE)
    service.logged("ready: generation 2")  # one reload makes one generation, and it has ended
    assert "starting generation 3" not in service.log()
    assert service.get() == "hello again"

    service.handlers(BROKEN)
    assert service.try_("systemctl", "reload", SERVICE).status == 1
    service.logged("reload failed: ")
    assert "LookupError: deliberate" in status_text(service)
    assert service.get() == "hello again"
    assert (service.show("ActiveState"), service.show("SubState")) == ("active", "running")

    service.handlers(HANDLERS)
    service.run("systemctl", "reload", SERVICE)
    assert service.get() == "hello"
    assert service.pid == pid


class Load:
    """Clients that ask all the time, each request on a connection of its own, and never retry."""

    def __init__(self, machine: Systemd) -> None:
        self.machine = machine
        self.answered = 0
        self.failures: list[str] = []
        self.changed = threading.Condition()
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.ask, daemon=True) for _ in range(4)]

    def ask(self) -> None:
        while not self.ending.is_set():
            try:
                failure = "" if self.machine.get() == "hello" else "another answer"
            except Exception as error:
                failure = repr(error)
            with self.changed:
                self.answered += not failure
                self.failures += [failure] if failure else []
                self.changed.notify_all()

    def more(self, number: int) -> None:
        with self.changed:
            goal = self.answered + number
            assert self.changed.wait_for(lambda: self.answered >= goal or self.failures, 60), "no answers any more"

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        self.more(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join(60)


@pytest.fixture
def activated(machine: Systemd) -> Systemd:
    """systemd listens; the service does not run yet."""
    machine.example("socket-activated.conf")
    machine.run("systemctl", "enable", "--now", f"{SERVICE}.socket")
    assert machine.show("ActiveState") == "inactive"
    return machine


def test_the_first_connection_is_answered(activated: Systemd) -> None:
    assert activated.get() == "hello"
    assert activated.show("ActiveState") == "active"
    assert activated.show("RestrictAddressFamilies") == "AF_UNIX"
    # The sockets are systemd's: after a stop, the next connection starts it again.
    activated.run("systemctl", "stop", SERVICE)
    assert activated.get() == "hello"


def test_restart_under_load_drops_nothing(activated: Systemd) -> None:
    with Load(activated) as load:
        for _ in range(3):
            before = activated.pid
            activated.run("systemctl", "restart", SERVICE)
            assert activated.pid not in (0, before)
            load.more(20)
    assert load.failures == [], activated.log()
    assert activated.show("NRestarts") == "0"


def test_the_socket_stays_whatever_is_started(activated: Systemd) -> None:
    """A deployment restarts it, and what it deploys does not even start: clients wait at the socket until it does."""
    for _ in range(11):
        activated.run("systemctl", "restart", SERVICE)
    activated.handlers(BROKEN)
    assert activated.try_("systemctl", "restart", SERVICE).status == 1
    answer: list[str] = []
    client = threading.Thread(target=lambda: answer.append(activated.get()), daemon=True)
    client.start()
    activated.eventually("tried again", lambda: activated.log().count("LookupError: deliberate") >= 3)
    activated.handlers(HANDLERS)
    client.join(60)
    assert answer == ["hello"]
    assert activated.run("systemctl", "is-active", f"{SERVICE}.socket") == "active\n"


HOARDING = """
kept = []


@routes.get("/keep/{mebibytes}")
def keep(request):
    kept.append(b"x" * (int(request.params["mebibytes"]) << 20))
    return "kept"
"""


def test_memory_runs_out(machine: Systemd) -> None:
    """Workers that grow are replaced in time; one that takes more than there is ends alone, and the unit goes on."""
    machine.handlers(HANDLERS + HOARDING)
    machine.drop_in("[Service]\nMemoryMax=90M\nMemorySwapMax=0\n")
    machine.run("systemctl", "start", SERVICE)
    assert machine.show("OOMPolicy") == "continue"
    if machine.version >= 256:
        return  # its hierarchy has no memory controller here
    pid = machine.pid
    for _ in range(80):
        assert machine.get("/keep/1") == "kept"
        time.sleep(0.05)
    machine.logged("the control group uses")
    assert "SIGKILL" not in machine.log()
    with pytest.raises((OSError, HTTPException)):
        machine.get("/keep/500")
    machine.logged("ended with signal SIGKILL")
    machine.eventually("it serves", machine.serves)
    assert (machine.pid, machine.show("NRestarts")) == (pid, "0")


def test_several_sockets_and_their_names(machine: Systemd) -> None:
    machine.example("socket-activated.conf")
    machine.drop_in("[Socket]\nListenStream=1967\n", f"{SERVICE}.socket")
    machine.write(
        f"/etc/systemd/system/{SERVICE}-admin.socket",
        f"[Socket]\nListenStream=80\nFileDescriptorName=admin\nService={SERVICE}.service\n",
    )
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", f"{SERVICE}-admin.socket", f"{SERVICE}.socket")
    assert machine.get(inside=1967) == machine.get(inside=1966) == "hello"
    assert machine.get("/livez", inside=80) == "ok\n"


def test_an_address_beside_the_socket(activated: Systemd) -> None:
    """From the environment it is ignored with a line, on the command line it is an error."""
    activated.write(f"/etc/default/{SERVICE}", "HELLO_SERVER_PORT=1\n")
    assert activated.get() == "hello"
    activated.logged("port from the environment is ignored: the sockets are inherited")
    activated.drop_in(f"[Service]\nExecStart=\nExecStart=/usr/local/bin/{SERVICE} -x -p 1\n")
    assert activated.try_("systemctl", "restart", SERVICE).status == 1
    assert activated.show("ExecMainStatus") == "2"
    activated.logged("--port: an address beside inherited sockets")


def test_the_watchdog(machine: Systemd) -> None:
    """The supervisor stands still: systemd ends it and starts the service again."""
    machine.drop_in("[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n")
    machine.run("systemctl", "start", SERVICE)
    pid = machine.pid
    time.sleep(4)  # as long as it runs, nothing happens
    assert (machine.pid, machine.show("NRestarts")) == (pid, "0")
    machine.kill("SIGSTOP", pid)
    machine.eventually("started again", lambda: machine.show("NRestarts") == "1" and machine.serves())
    assert machine.pid != pid
    machine.logged("Watchdog timeout")


def test_a_killed_worker_is_replaced(service: Systemd) -> None:
    pid = service.pid
    worker = json.loads(service.get("/who"))["worker"]
    assert worker != pid
    service.kill("SIGKILL", worker)
    service.logged(f"{worker} ended with signal SIGKILL")
    assert service.get() == "hello"
    assert (service.pid, service.show("NRestarts")) == (pid, "0")


def test_a_killed_supervisor_is_replaced(service: Systemd) -> None:
    pid = service.pid
    service.kill("SIGKILL", pid)
    service.eventually("started again", lambda: service.show("NRestarts") == "1" and service.serves())


def test_stop_lets_a_request_finish(machine: Systemd) -> None:
    """Even beyond TimeoutStopSec: the service asks for more time as long as it drains."""
    machine.drop_in("[Service]\nTimeoutStopSec=2\n")
    machine.run("systemctl", "start", SERVICE)
    with machine.held(GATE) as answer:
        machine.run("systemctl", "stop", "--no-block", SERVICE)
        machine.logged("stopping gracefully (TERM)")
        time.sleep(4)  # twice its TimeoutStopSec
        assert machine.show("ActiveState") == "deactivating"
    assert answer == ["done"]
    machine.eventually("stopped", lambda: machine.show("ActiveState") != "deactivating")
    assert (machine.show("ActiveState"), machine.show("Result")) == ("inactive", "success")


def test_a_low_port_needs_one_capability(machine: Systemd) -> None:
    # Docker lets every user have every port; a machine does not.
    machine.run("mount", "-o", "remount,rw", "/proc/sys")
    machine.run("sh", "-c", "echo 1024 >/proc/sys/net/ipv4/ip_unprivileged_port_start")
    machine.write(f"/etc/default/{SERVICE}", "HELLO_SERVER_PORT=80\n")
    assert machine.try_("systemctl", "start", SERVICE).status == 1
    machine.logged(":80: not permitted to listen there")
    machine.logged("status=77")
    machine.run("systemctl", "stop", SERVICE)
    machine.run("rm", f"/etc/default/{SERVICE}")
    machine.example("low-port.conf")
    machine.run("systemctl", "start", SERVICE)
    assert int(json.loads(machine.get("/who", inside=80))["uid"]) >= 61184


def test_instances(machine: Systemd) -> None:
    """Each with its own settings and directories."""
    machine.write(f"/etc/default/{SERVICE}@blue", "HELLO_SERVER_PORT=1967\n")
    machine.run("systemctl", "start", SERVICE, f"{SERVICE}@blue")
    assert machine.get(inside=1967) == machine.get() == "hello"
    machine.run("systemctl", "reload", f"{SERVICE}@blue")
    machine.run("systemctl", "stop", SERVICE)
    assert machine.get(inside=1967) == "hello"
    assert machine.ask("ls", "/var/lib/private").split() == [SERVICE, f"{SERVICE}@blue"]


def test_nothing_is_left(service: Systemd) -> None:
    assert service.show("UnitFileState") == "enabled"
    service.run("systemctl", "disable", "--now", SERVICE)
    for directory in ("/var/lib", "/var/log"):  # its state and its log are the administrator's
        service.run("rm", "-r", f"{directory}/private/{SERVICE}", f"{directory}/{SERVICE}")
    service.run("make", "-C", SOURCES, "uninstall")
    service.run("systemctl", "daemon-reload")
    service.run("rm", "-r", SOURCES)
    assert service.try_("systemctl", "list-unit-files", "--no-legend", f"{SERVICE}*").stdout == ""
    assert service.run("find", "/", "-xdev", "-name", "*hello*server*") == ""
    assert service.run("find", "/usr/local", "-type", "f") == ""
    processes = json.loads(service.ask("python3", "-c", PROCESSES))
    assert processes and not [line for line in processes if "hello" in line]
