"""The service in its container: it starts, answers, reloads, and stops in time."""

import re
from collections.abc import Callable
from typing import Any

Run = Callable[..., Any]

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ +\w+\[\d+\] .+")


def test_becomes_healthy(run: Run) -> None:
    service = run(healthcheck={"interval": 500_000_000})  # the image's own check, only sooner
    service.eventually("healthy", lambda: service.state()["Health"]["Status"] == "healthy")


def test_reload_starts_a_new_generation(service: Any) -> None:
    service.container.kill(signal="HUP")
    service.eventually("reloaded", lambda: "generation 2" in service.logs())
    assert service.answers()
    assert service.state()["Status"] == "running"


def test_stops_in_time(service: Any) -> None:
    service.container.stop(timeout=10)
    assert service.state()["ExitCode"] == 0, service.logs()  # killed at the end of the time: 137
    # The engine may write the last line down a little later.
    service.eventually("logged as stopped", lambda: service.logs().endswith(" stopped\n"), running=False)


def test_log_is_readable(service: Any) -> None:
    service.eventually("logged as ready", lambda: "ready: " in service.logs())
    assert [line for line in service.logs().splitlines() if not LINE.fullmatch(line)] == []


def test_has_no_rights(service: Any) -> None:
    status = service.container.exec_run(["python", "-c", "print(open('/proc/1/status').read())"]).output.decode()
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["65532"] * 4
    assert int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"


def test_cannot_write_its_own_code(service: Any) -> None:
    code, output = service.container.exec_run(["python", "-c", "open('/app/x', 'w')"])
    assert code == 1
    assert b"Read-only file system" in output


def test_takes_settings_from_the_environment(run: Run, image: str, engine: Any) -> None:
    names = [line.split("=")[0] for line in engine.images.get(image).attrs["Config"]["Env"]]
    prefix = next(name.removesuffix("_DRAIN_TIMEOUT") for name in names if name.endswith("_DRAIN_TIMEOUT"))
    service = run(environment={f"{prefix}_IDLE": "2", f"{prefix}_MAX": "2"})
    service.eventually("answering", service.answers)
    processes = service.container.top()["Processes"]
    # Supervisor and server; then 2 workers, or the one host that holds the threads.
    assert len(processes) in (3, 4), processes


def test_wrong_option_ends_at_once_and_says_why(run: Run) -> None:
    service = run("--backlog", "10")
    assert service.container.wait()["StatusCode"] == 2
    service.eventually("logged", lambda: bool(service.logs()), running=False)
    assert len(service.logs().splitlines()) == 1
    assert "backlog" in service.logs()
