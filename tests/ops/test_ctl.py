"""`ctl`: ask and steer a running service."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time

import httpx
import psutil
import pytest
from harness import PYTHON, ROOT, eventually
from watched import Watched


def test_status(either: Watched) -> None:
    either.watch("-n", "2", "-m", "4")
    assert either.get("/").text == "hello"
    shown = either.ctl("status")
    assert shown.returncode == 0, shown.stderr
    assert f"pid {either.pid}  ready" in shown.stdout
    assert "1, 0 errors" in shown.stdout
    assert "generation 1 (running" in shown.stdout
    data = json.loads(either.ctl("status", "--json").stdout)
    assert data["ready"] and data["totals"]["requests"] == 1
    assert {worker["pid"] for worker in data["generations"][0]["workers"]} == set(either.workers)


def test_watch_redraws_until_it_is_interrupted(service: Watched) -> None:
    service.watch()
    command = [*service.command("ctl", "status", "--watch", "--control", service.control)]
    with subprocess.Popen(
        command, cwd=service.directory, env=service.environment(), stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        seen = 0
        for line in watching.stdout:
            seen += line.startswith("hello-server ")
            if seen == 3:
                break
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 128 + signal.SIGINT


def test_reload_says_whether_it_worked(service: Watched) -> None:
    service.expect_errors = True
    service.watch()
    done = service.ctl("reload")
    assert (done.returncode, done.stdout) == (0, "generation 2 serves\n")
    service.handlers("this is no Python")
    done = service.ctl("reload")
    assert done.returncode == 1
    assert "handlers cannot be imported: SyntaxError" in done.stderr
    assert service.metric("service_failed_reloads_total") == 1
    assert service.get("/").text == "hello"


def test_reloaded_says_how_the_reload_of_a_signal_ended(service: Watched) -> None:
    service.expect_errors = True
    service.watch()
    works = (service.package / "handlers.py").read_text()
    os.kill(service.pid, signal.SIGHUP)
    done = service.ctl("reloaded")  # asked before the new generation can be ready, or after: the same
    assert (done.returncode, done.stdout) == (0, "generation 2 serves\n")
    service.handlers("this is no Python")
    os.kill(service.pid, signal.SIGHUP)
    for _ in range(2):  # while it fails, and when it has failed
        done = service.ctl("reloaded")
        assert done.returncode == 1
        assert "handlers cannot be imported: SyntaxError" in done.stderr
    service.handlers(works)
    assert service.ctl("reload").returncode == 0
    assert service.ctl("reloaded").returncode == 0  # a failure is history


def test_a_stopped_supervisor_takes_the_signal_before_the_question(service: Watched) -> None:
    """Both wait for it: the signal came first, so the answer is about its reload, not about the one before."""
    service.watch()
    os.kill(service.pid, signal.SIGSTOP)
    os.kill(service.pid, signal.SIGHUP)
    with subprocess.Popen(
        service.command("ctl", "reloaded", "--control", service.control),
        cwd=service.directory, env=service.environment(), stdout=subprocess.PIPE, text=True,
    ) as asking:  # fmt: skip
        eventually(lambda: psutil.Process(asking.pid).net_connections("unix"), "the question is on its way")
        os.kill(service.pid, signal.SIGCONT)
        said, _ = asking.communicate(timeout=20)
    assert (asking.returncode, said) == (0, "generation 2 serves\n")


def test_status_while_it_drains(service: Watched) -> None:
    service.watch()
    waiting = service.background("/gate")
    (arrival,) = service.events.wait("gate")
    service.signal(signal.SIGTERM)
    eventually(service.refuses, "the listeners are closed")
    shown = service.ctl("status")
    assert shown.returncode == 0, shown.stderr
    assert "NOT READY: stopping" in shown.stdout
    assert json.loads(service.ctl("status", "--json").stdout)["listeners"] == []
    arrival.release()
    assert waiting.result().status == 200
    assert service.wait() == 0


def test_stop(service: Watched) -> None:
    service.watch()
    assert service.ctl("stop").returncode == 0
    assert service.wait() == 0


def test_restart_takes_what_only_a_restart_changes(service: Watched) -> None:
    """In place: same process, new supervisor; --name is read at the start alone."""
    file = service.config('name = "one"\n')
    service.watch("--config", file)
    pid = service.pid
    assert json.loads(service.ctl("status", "--json").stdout)["name"] == "one"
    file.write_text('name = "two"\n')
    done = service.ctl("restart")
    assert (done.returncode, done.stdout) == (0, f"restarted: pid {pid}\n"), done.stderr
    assert json.loads(service.ctl("status", "--json").stdout)["name"] == "two"
    file.write_text('drain-timeout = "soon"\n')
    done = service.ctl("restart")
    assert done.returncode == 1
    assert "not restarted" in done.stderr and "'soon'" in done.stderr
    assert json.loads(service.ctl("status", "--json").stdout)["ready"]


def test_a_stop_wins_over_a_restart(service: Watched) -> None:
    """TERM while it drains for a restart: what is begun is finished, and nothing starts again."""
    service.watch()
    held = service.background("/gate")
    (arrival,) = service.events.wait("gate")
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(service.control))) as control:
        assert control.post("http://localhost/restart").status_code == 202
    again = service.ctl("restart")
    assert again.returncode == 1
    assert "stopping already" in again.stderr
    service.signal(signal.SIGTERM)
    eventually(service.refuses, "nothing listens")
    arrival.release()
    assert held.result().status == 200
    assert service.wait() == 0


def test_restart_detached(service: Watched) -> None:
    """The control socket is found by the pidfile."""
    service.start_detached()
    before = service.pid
    done = service.run("ctl", "restart", "--pidfile", service.pidfile)
    assert done.returncode == 0, done.stderr
    after = int(service.pidfile.read_text())
    assert after != before
    assert done.stdout == f"restarted: pid {after}\n"
    service._pid = after
    assert service.run("ctl", "stop", "--pidfile", service.pidfile).returncode == 0
    service.wait_nothing_runs()


@pytest.mark.parametrize("number", [3, -1])
def test_workers_prefork(service: Watched, number: int) -> None:
    service.watch("-n", "2", "-m", "6")
    done = service.ctl("workers", f"{number:+d}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"idle floor 2 -> {2 + number}")
    eventually(lambda: service.status()["workers"]["floor"] == 2 + number, "the floor is there")
    if number > 0:
        service.wait_workers(2 + number)
    beyond = service.ctl("workers", "+100")
    assert "-> 6 (the bounds are 1 and --max 6)" in beyond.stdout


def test_workers_threaded(either: Watched) -> None:
    """Threads grow as processes do: without a request coming."""
    either.watch("-n", "2", "-m", "6")
    assert either.ctl("workers", "+3").returncode == 0

    def idle() -> bool:
        workers = either.status()["workers"]
        return bool(workers["idle"] >= 4 and workers["floor"] == 5)

    eventually(idle, "more idle workers; one thread may lead the loop")


def test_stacks(either: Watched) -> None:
    """Each process logs a record per thread, as errors: they are shown whatever the --log-level is."""
    either.expect_errors = True
    either.watch("-n", "1", "-m", "2")
    assert either.ctl("stacks").returncode == 0
    for role in ("supervisor", "server"):
        either.log.wait_for(rf"{role}\[\d+\] thread MainThread is here:")


def test_wrong_use_is_said(service: Watched) -> None:
    for arguments, status, said in (
        (["statsu"], 2, "did you mean status"),
        ([], 2, "needs one of"),
        (["workers"], 2, "needs a number with its sign"),
        (["workers", "2"], 2, "needs a number with its sign"),
        (["reload", "--json"], 2, "belong to `ctl status`"),
        (["health"], 69 if ROOT else 2, "does not answer" if ROOT else "no address"),
        (["status", "--control", "/nowhere/at.all"], 69, "does not answer"),
    ):
        done = service.run("ctl", *arguments)
        assert done.returncode == status, done
        assert said in done.stderr, done
        assert len(done.stderr.splitlines()) == 1
    assert "workers" in service.run("ctl", "--help").stdout


@pytest.mark.parametrize("path", ["/nowhere/at.all", "/proc/ctl", "/dev/null/ctl"])
def test_a_control_socket_that_cannot_be_made(either: Watched, path: str) -> None:
    """From the environment, as an image gives it to all its containers, it is a warning; otherwise a refusal."""
    done = either.run("-x", "-i", "127.0.0.1", "-p", "0", "--control", path)
    assert (done.returncode in (69, 77), path in done.stderr) == (True, True), done
    either.start("-n", "1", env={**either.environment(), "HELLO_SERVER_CONTROL": path})
    assert either.log.find(f"no control socket, so no ctl: unix:{path}: ")
    assert either.get("/").text == "hello"


@pytest.mark.skipif(not ROOT, reason="needs two users")
def test_only_the_owner_gives_orders(service: Watched) -> None:
    """The file's mode keeps others out, and where the mode was opened the peer's credentials do."""
    service.watch()
    done = service.ctl("stop", unprivileged=True)
    assert done.returncode == 69 and "only its own user and root" in done.stderr, done
    service.control.chmod(0o777)
    done = service.ctl("stop", unprivileged=True)
    assert done.returncode == 1 and "only the service's own user and root" in done.stderr, done
    assert service.get("/").text == "hello"
    assert service.ctl("status").returncode == 0


def test_health_is_cheap(service: Watched) -> None:
    """The image asks every few seconds: what it costs beyond a bare interpreter's start is a small part of it."""
    service.watch()
    host, port = service.admin

    def cost(*command: str) -> float:
        """CPU milliseconds, the least of ten: other load only adds to them."""
        best = float("inf")
        for _ in range(10):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                command, env=service.environment(), cwd=service.directory, check=True, stdout=subprocess.DEVNULL,
                timeout=20,
            )  # fmt: skip
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return best * 1000

    bare = cost(PYTHON, "-c", "pass")
    health = cost(PYTHON, "-m", "hello_server", "ctl", "health", "--admin", f"{host}:{port}")
    print(f"ctl health: {health:.1f} ms of CPU, of which {bare:.1f} ms are Python's own start")
    assert health < 4 * bare or health < 40


def test_health_says_no(service: Watched) -> None:
    service.watch("--stop-delay", "30")
    assert service.ctl("health").returncode == 0
    os.kill(service.pid, signal.SIGTERM)
    service.log.wait_for("stopping gracefully")
    done = service.ctl("health")
    assert (done.returncode, done.stderr) == (1, "not ready: stopping\n")
    began = time.monotonic()
    os.kill(service.pid, signal.SIGTERM)
    assert service.wait() == 0
    assert time.monotonic() - began < 20
