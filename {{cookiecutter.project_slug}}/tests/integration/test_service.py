"""The service in its container: it starts, takes its settings, says what it does, reloads, and stops in time."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ +\w+\[\d+\] .+")
SLOW_START = """

def init(server):
    import time

    log.warning("init takes a while")
    time.sleep(600)
"""
# An orphan that ends: PID 1 has adopted it, and collects it.
ORPHAN = """
import os, time
reader, writer = os.pipe()
mine, theirs = os.pipe()
if not (child := os.fork()):
    if not (grandchild := os.fork()):
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.write(theirs, b"%d" % grandchild)
    os._exit(0)
os.waitpid(child, 0)
orphan = int(os.read(mine, 20))

def status():
    try:
        text = open(f"/proc/{orphan}/status").read()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

print("adopted by", status()["PPid"].strip())
os.close(reader)
os.close(writer)
deadline = time.monotonic() + 30
while status() and time.monotonic() < deadline:
    time.sleep(0.01)
print("left" if status() else "collected")
"""


def prefix(engine: Any, image: str) -> str:
    """What the names of its settings begin with in the environment."""
    names = [line.split("=")[0] for line in engine.images.get(image).attrs["Config"]["Env"]]
    return str(next(name.removesuffix("DRAIN_TIMEOUT") for name in names if name.endswith("_DRAIN_TIMEOUT")))


def test_becomes_healthy(run: Run, podman: bool) -> None:
    if podman:
        pytest.skip("Podman has systemd make health checks")
    service = run(healthcheck={"interval": 500_000_000})  # the image's own check, only sooner
    service.eventually("healthy", lambda: service.state()["Health"]["Status"] == "healthy")


def test_reload_starts_a_new_generation(service: Any) -> None:
    service.container.kill(signal="HUP")
    service.logged("ready: generation 2")
    assert service.answers()
    assert service.state()["Status"] == "running"


def test_stops_in_time(service: Any) -> None:
    service.container.stop(timeout=10)
    assert service.state()["ExitCode"] == 0  # killed at the end of the time: 137
    # The engine may write the last line down a little later.
    service.logged("stopped", running=False)


def test_stops_while_it_starts(run: Run) -> None:
    service = run(extra=SLOW_START)
    service.logged("init takes a while")
    service.container.stop(timeout=20)
    assert service.state()["ExitCode"] == 0


def test_log_is_lines_of_json(service: Any) -> None:
    service.logged("ready: ")
    for line in service.logs().splitlines():
        assert {"time", "level", "role", "pid", "message"} <= json.loads(line).keys()


def test_log_may_be_text(run: Run, image: str, engine: Any) -> None:
    service = run(environment={f"{prefix(engine, image)}LOG_FORMAT": "text"})
    service.logged("ready: ")
    assert [line for line in service.logs().splitlines() if not LINE.fullmatch(line)] == []


def test_has_no_rights(service: Any) -> None:
    status = service.python("print(open('/proc/1/status').read())")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["65532"] * 4
    assert int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"


def test_any_user_will_do(run: Run) -> None:
    """Some clusters give each namespace numbers of its own."""
    service = run(user="1234567:0")
    service.eventually("answering", service.answers)
    assert service.ctl("health")
    assert service.python("import os; print(os.getuid())") == "1234567\n"


def test_cannot_write_its_own_code(service: Any) -> None:
    code, output = service.container.exec_run(["python", "-c", "open('/app/x', 'w')"])
    assert code == 1
    assert b"Read-only file system" in output


def test_takes_settings_from_the_environment(run: Run, image: str, engine: Any) -> None:
    name = prefix(engine, image)
    service = run(environment={f"{name}IDLE": "2", f"{name}MAX": "2"})
    service.eventually("answering", service.answers)
    workers = json.loads(service.ctl("status", "--json"))["workers"]
    assert (workers["floor"], workers["max"]) == (2, 2)


def test_takes_settings_from_a_mounted_file(run: Run, volume: Callable[..., str]) -> None:
    name = volume(service_toml="max = 3\nidle = 2\n")
    service = run("--config", "/settings/service.toml", volumes={name: {"bind": "/settings", "mode": "ro"}})
    service.eventually("answering", service.answers)
    assert json.loads(service.ctl("status", "--json"))["workers"]["max"] == 3
    volume(name, service_toml="max = 4\nidle = 2\n")
    service.container.kill(signal="HUP")
    service.logged("ready: generation 2")
    assert json.loads(service.ctl("status", "--json"))["workers"]["max"] == 4


def test_fits_itself_into_its_limits(run: Run) -> None:
    service = run("-m", "5000", "-n", "2", mem_limit="64m", memswap_limit="64m", nano_cpus=500_000_000)
    service.logged("limits of the control group: 0.5 CPUs, 64 MiB of memory, -m (max) is lowered from 5000 to ")
    service.eventually("answering", service.answers)
    assert json.loads(service.ctl("status", "--json"))["workers"]["max"] < 5000


def test_wrong_option_ends_at_once_and_says_why(run: Run) -> None:
    service = run("--backlog", "10")
    assert service.container.wait()["StatusCode"] == 2
    service.logged("backlog", running=False)
    assert len(service.logs().splitlines()) == 1


def test_port_that_is_taken_is_named(run: Run, engine: Any, image: str) -> None:
    """Here by the service's own admin address."""
    settings = dict(line.split("=", 1) for line in engine.images.get(image).attrs["Config"]["Env"])
    port = settings[f"{prefix(engine, image)}ADMIN"].rpartition(":")[2]
    service = run("--interface", "127.0.0.1", "--port", port)
    assert service.container.wait()["StatusCode"] == 69
    service.logged("in use", running=False)
    assert port in service.logs().splitlines()[-1]


def test_collects_orphans(service: Any) -> None:
    assert service.python(ORPHAN).splitlines() == ["adopted by 1", "collected"]
