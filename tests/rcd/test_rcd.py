"""The rc.d script: every verb, against the real service."""

from __future__ import annotations

import json
import threading

import pytest
from freebsd_machine import PIDFILE, SCRIPT, FreeBSD
from machines import BROKEN, HANDLERS, SERVICE, SOURCES

TOML = f"/usr/local/etc/{SERVICE}.toml"


def test_start_status_stop(machine: FreeBSD) -> None:
    assert "hello_server is not running" in machine.fails("status").stdout
    assert "Starting hello_server." in machine.works("start").stdout
    who = json.loads(machine.get("/who"))  # ready when `start` returns, so the first request is answered
    assert who["uid"] == 65534  # nobody, as the default of hello_server_flags says
    assert machine.ask("cat", "/tmp/login-class") == "daemon\n"
    assert f"hello_server is running as pid {machine.pid}." in machine.works("status").stdout
    pid = machine.pid
    assert f"(pid={pid})" in machine.fails("start").stderr
    machine.works("stop")
    machine.run("test", "!", "-e", f"/proc/{pid}")  # it has waited
    machine.run("test", "!", "-e", PIDFILE)
    machine.fails("status")
    assert "not running?" in machine.fails("stop").stderr


def test_a_disabled_service(machine: FreeBSD) -> None:
    """It does not start, which is no failure; the one… and force… forms do it all the same."""
    machine.rc_conf(enable="NO")
    for verb in ("start", "restart", "reload", "configtest"):
        assert "Set hello_server_enable to YES" in machine.works(verb).stdout
    machine.fails("onestatus")
    machine.works("onestart")
    machine.works("status")
    machine.works("onestatus")
    machine.works("onereload")
    machine.works("oneconfigtest")
    pid = machine.pid
    machine.works("onerestart")
    assert machine.pid != pid
    machine.works("stop")  # what runs may be stopped
    machine.works("forcestart")
    pid = machine.pid
    machine.works("forcerestart")
    assert machine.pid != pid
    machine.works("forcereload")
    machine.works("forcestop")
    machine.fails("forcestatus")


def test_quiet_and_fast_forms(machine: FreeBSD) -> None:
    """What /etc/rc uses at boot, and service(8) with -q."""
    assert "Starting" not in machine.works("faststart").stdout
    assert "hello_server is running" in machine.works("quietstatus").stdout
    machine.works("faststop")
    machine.works("faststop")


def test_asking_verbs(machine: FreeBSD) -> None:
    assert 'hello_server_enable="YES"' in machine.works("rcvar").stdout
    assert machine.works("describe").stdout == "hello-server\n"
    assert machine.works("extracommands").stdout.split() == ["configtest", "reload"]
    machine.works("enabled")
    machine.works("poll")
    machine.rc_conf(enable="NO")
    machine.fails("enabled")
    assert "configtest|reload" in machine.fails("dance").stderr


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda machine: machine.handlers(BROKEN), "LookupError: deliberate"),
        (lambda machine: machine.handlers(HANDLERS + "\ndef init(server):\n    1 / 0\n"), "ZeroDivisionError"),
        (lambda machine: machine.rc_conf(flags="-m many"), "-m"),
        (lambda machine: machine.rc_conf(config="/none"), "/none: cannot read the configuration"),
    ],
)
def test_start_fails_when_the_service_is_not_ready(prepare: object, said: str, machine: FreeBSD) -> None:
    assert callable(prepare)
    prepare(machine)
    done = machine.fails("start")
    assert said in done.stdout + done.stderr, done
    machine.fails("status")
    machine.run("test", "!", "-e", PIDFILE)


def test_reload_says_whether_it_worked(running: FreeBSD) -> None:
    pid = running.pid
    running.handlers(HANDLERS.replace('"hello"', '"hello again"'))
    assert "generation 2 serves" in running.works("reload").stdout
    assert running.get() == "hello again"
    running.handlers(BROKEN)
    assert "LookupError: deliberate" in running.fails("reload").stderr
    assert (running.get(), running.pid) == ("hello again", pid)
    running.works("stop")
    assert "not running" in running.fails("reload").stderr


def test_restart_waits_for_the_drain(running: FreeBSD) -> None:
    pid, ended = running.pid, []
    thread = threading.Thread(target=lambda: ended.append(running.service("restart")), daemon=True)
    with running.held("/tmp/open") as answer:
        thread.start()
        status = ("/usr/local/bin/hello-server", "ctl", "status")
        running.eventually("it stops", lambda: "NOT READY: stopping" in running.try_(*status).stdout)
    assert answer == ["done"]
    thread.join(60)
    assert [done.status for done in ended] == [0], ended
    assert str(pid) in ended[0].stdout  # it was waited for
    assert running.pid != pid
    assert running.get() == "hello"


def test_a_wrong_configuration_does_not_stop_what_works(running: FreeBSD) -> None:
    pid = running.pid
    assert "configuration and handlers are good" in running.works("configtest").stdout
    running.write(TOML, "max = 0\n")
    for verb in ("configtest", "restart"):
        assert f"{TOML}: max: needs a whole number" in running.fails(verb).stderr
    running.fails("reload")
    assert (running.pid, running.get()) == (pid, "hello")
    running.write(TOML, "max = 7\n")
    running.works("restart")
    assert "7 at most" in running.ask("/usr/local/bin/hello-server", "ctl", "status")


def test_variables(machine: FreeBSD) -> None:
    """Low ports and init() have root, because hello_server_user stays unset."""
    machine.handlers(HANDLERS + "\ndef init(server):\n    open('/root/proof', 'w').write(str(os.getuid()))\n")
    machine.write("/root/other.toml", "idle = 3\n")
    machine.run("mkdir", "/var/run/other")
    machine.rc_conf(
        flags="-p 80 -u www-data -g www-data",
        config="/root/other.toml",
        pidfile="/var/run/other/my.pid",
        env="HELLO_SERVER_MAX=6 HELLO_SERVER_LOG_LEVEL=debug",
        login_class="staff",
    )
    machine.works("start")
    assert json.loads(machine.get("/who", inside=80))["uid"] == 33
    assert machine.ask("cat", "/root/proof") == "0"
    assert machine.ask("cat", "/tmp/login-class") == "staff\n"
    assert machine.ask("cat", "/var/run/other/my.pid").strip() in machine.works("status").stdout
    status = machine.ask("/usr/local/bin/hello-server", "ctl", "status", "--pidfile", "/var/run/other/my.pid")
    assert "keeps 3 idle, 6 at most" in status
    machine.works("reload")
    machine.works("stop")


def test_somebody_elses_number_in_the_pidfile(machine: FreeBSD) -> None:
    """Of a process that is no service, as after a crash and a reboot: it is not taken for one, and not stopped."""
    machine.write(PIDFILE, "1\n")
    machine.fails("status")
    machine.fails("stop")
    machine.works("start")
    assert machine.pid != 1
    machine.kill("SIGKILL", machine.pid)
    machine.eventually("gone", lambda: machine.service("status").status == 1)
    machine.eventually("its workers are gone", lambda: machine.service("start").status == 0)
    assert machine.get() == "hello"


def test_uninstall(running: FreeBSD) -> None:
    running.works("stop")
    running.run("sh", f"{SOURCES}/deploy/install", "uninstall")
    running.run("test", "!", "-e", SCRIPT)
    running.run("rm", "-r", SOURCES)
    assert running.run("find", "/", "-xdev", "-name", "*hello*server*", "-not", "-path", "/proc/*") == ""


def test_another_python_is_installed_meanwhile(running: FreeBSD) -> None:
    """The service that runs is still found, whichever Python the command names by now."""
    first = running.pid
    running.run("sh", "-c", "ln -s $(python -c 'import sys; print(sys.executable)') /usr/local/bin/python9")
    install = f"INIT=rc.d PYTHON=/usr/local/bin/python9 {SOURCES}/deploy/install install"
    running.run("sh", "-c", install)
    assert f"is running as pid {first}" in running.works("status").stdout
    assert "already running" in running.fails("start").stderr
    running.works("reload")
    running.works("restart")
    assert running.pid != first
    assert running.ask("cat", f"/proc/{running.pid}/cmdline").startswith("/usr/local/bin/python9\0")
    running.works("status")
    running.run("sh", "-c", install.replace("python9", "python"))
    running.works("stop")
    running.fails("status")
