"""Where an option's value comes from, and what the address, file and user options do."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    HANDLERS,
    LOOPBACK,
    NOBODY,
    ROOT,
    Service,
    Wire,
    assert_refused,
    eventually,
)

UNAVAILABLE = 69
LOCAL = ("-i", "127.0.0.1")
needs_root = pytest.mark.skipif(not ROOT, reason="only root can become another user")

# Each process tells who it is, as the kernel sees it.
WHO = """
def who():
    return {
        "uids": os.getresuid() if hasattr(os, "getresuid") else [os.getuid(), os.geteuid()],
        "gids": os.getresgid() if hasattr(os, "getresgid") else [os.getgid(), os.getegid()],
        "groups": sorted(os.getgroups()),
    }

@routes.get("/who")
def tell_who(request):
    return who()

@routes.get("/become-root")
def become_root(request):
    done = []
    for name, arguments in (
        ("setuid", (0,)), ("seteuid", (0,)), ("setreuid", (0, 0)), ("setresuid", (0, 0, 0)),
        ("setgid", (0,)), ("setegid", (0,)), ("setgroups", ([0],)),
    ):
        try:
            getattr(os, name)(*arguments)
        except (OSError, AttributeError):
            continue
        done.append(name)
    return {"done": done, **who()}
"""


# -- where a value comes from ------------------------------------------------------------------------------


def test_precedence(service: Service, ports: Iterator[int]) -> None:
    """flag > HELLO_SERVER_PORT > PORT > file"""
    flag, ours, generic, file = (next(ports) for _ in range(4))
    path = service.config(f"port = {file}\n")
    env = {"HELLO_SERVER_PORT": str(ours), "PORT": str(generic)}
    steps = [
        (("-p", str(flag), "-f", path), env, flag),
        (("-f", path), env, ours),
        (("-f", path), {"PORT": str(generic)}, generic),
        (("-f", path), {}, file),
    ]
    for flags, environment, expected in steps:
        service.start(*flags, address=LOCAL, env=environment)
        assert service.port == expected
        service.stop()
        service.forget()


def test_precedence_of_an_ordinary_option(service: Service) -> None:
    path = service.config("idle = 2\n")
    env = {"HELLO_SERVER_IDLE": "3"}
    for flags, environment, expected in [
        (("-n", "4", "-f", path), env, 4),
        (("-f", path), env, 3),
        (("-f", path), {}, 2),
        ((), {}, 5),
    ]:
        service.start(*flags, env=environment)
        service.wait_workers(expected)
        service.stop()
        service.forget()


def test_an_empty_variable_is_no_value(service: Service) -> None:
    service.start(env={"HELLO_SERVER_IDLE": "", "PORT": ""})
    service.wait_workers(5)


def test_the_last_flag_wins(service: Service) -> None:
    service.start("-n", "4", "-n", "2")
    service.wait_workers(2)


@pytest.mark.parametrize("form", [("-n", "2"), ("-n2",), ("--idle", "2"), ("--idle=2",)])
def test_forms_of_a_flag(service: Service, form: tuple[str, ...]) -> None:
    service.start(*form)
    service.wait_workers(2)


def test_flags_of_one_letter_can_be_joined(service: Service) -> None:
    service.start("-tn2")
    service.wait_workers(2)


@pytest.mark.parametrize("value", ["1", "true", "yes", "on", "TRUE", "0", "false", "no", "off"])
def test_booleans_of_the_environment(service: Service, value: str) -> None:
    """HELLO_SERVER_IMMEDIATE: TERM does not wait for the request in flight."""
    immediate = value.lower() in ("1", "true", "yes", "on")
    service.start("-n", "1", env={"HELLO_SERVER_IMMEDIATE": value})
    request = service.background("/gate")
    (arrival,) = service.events.wait("gate")
    service.signal(signal.SIGTERM)
    if immediate:
        assert service.wait(deadline=8) == 0
        with pytest.raises(ConnectionResetError):
            request.result()
    else:
        service.log.wait_for("(?i)stop|drain|TERM")
        arrival.release()
        assert request.result().body == b"released"
        assert service.wait() == 0


def test_flags_still_win_after_a_reload(service: Service) -> None:
    path = service.config("idle = 2\nmax = 6\n")
    service.start("-n", "3", "-f", path, env={"HELLO_SERVER_MAX": "8"})
    service.wait_workers(3)
    service.config("idle = 5\nmax = 7\n")
    reload(service, 2)
    service.wait_workers(3)
    burst(service, 8)


def test_reload_reads_the_file_again(service: Service) -> None:
    path = service.config("idle = 2\nmax = 9\n[app]\ncolour = 'red'\n")
    service.handlers(HANDLERS.replace('tell("init", uid=os.geteuid())', "tell('init', config=server.config)"))
    service.start("-f", path)
    service.wait_workers(2)
    service.config("idle = 4\nmax = 4\n[app]\ncolour = 'blue'\n")
    reload(service, 2)
    service.wait_workers(4)
    colours = [told.data["config"]["app"]["colour"] for told in service.events.all("init")]
    assert colours == ["red", "blue"]


def test_reload_says_what_needs_a_restart(service: Service, ports: Iterator[int]) -> None:
    """A value that only a restart takes up does not change silently, nor is silently kept."""
    path = service.config('name = "hello-server"\n')
    service.start("-f", path)
    service.config('name = "other"\n')
    mark = service.log.mark()
    service.signal(signal.SIGHUP)
    service.log.wait_for(r"\bname\b.*restart|restart.*\bname\b", after=mark)
    assert service.get("/").status_code == 200


def reload(service: Service, generation: int) -> None:
    service.signal(signal.SIGHUP)
    service.wait_ready(generation)
    service.wait_alone()


def burst(service: Service, ceiling: int) -> None:
    """So many handlers work at once, and no more."""
    requests = [service.background("/gate") for _ in range(ceiling + 1)]
    arrivals = service.events.wait("gate", ceiling)
    assert len(service.events.all("gate")) == ceiling
    for arrival in arrivals:
        arrival.release()
    service.events.wait("gate", ceiling + 1)[-1].release()
    assert [request.result().status for request in requests] == [200] * (ceiling + 1)


# -- addresses -----------------------------------------------------------------------------------------------


def test_port_0_is_printed(service: Service) -> None:
    service.start("-p", "0")
    assert service.port not in (0, 1966)
    assert service.get("/").text == "hello"


def test_port_by_name(service: Service) -> None:
    name, port = known_service()
    service.start("-p", name)
    assert service.port == port


def known_service() -> tuple[str, int]:
    """A name of /etc/services whose port is high and free."""
    try:
        lines = Path("/etc/services").read_text().splitlines()
    except OSError:
        pytest.skip("no /etc/services")
    for line in lines:
        if match := re.match(r"([a-z][\w-]*)\s+(\d+)/tcp", line):
            name, port = match[1], int(match[2])
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            if port > 1024:
                return name, port
    pytest.skip("no free port with a name")


def test_default_is_all_interfaces_of_both_families(service: Service) -> None:
    service.start(address=("-p", "0"))
    assert service.get("/").status_code == 200
    if not has_ipv6():
        return
    with socket.create_connection(("::1", service.port)) as six:
        six.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert six.makefile("rb").read().startswith(b"HTTP/1.1 200 ")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("flags", [("-i", "::1", "-p", "0"), ("--bind", "[::1]:0")])
def test_ipv6(service: Service, flags: tuple[str, ...]) -> None:
    service.start(address=flags)
    (port,) = service.log.wait_for(r"listening on http://\[::1\]:(\d+)$").groups()
    with socket.create_connection(("::1", int(port))) as six:
        six.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert six.makefile("rb").read().startswith(b"HTTP/1.1 200 ")


def test_interface_by_name(service: Service) -> None:
    service.start(address=("-i", "localhost", "-p", "0"))
    service.log.wait_for(r"listening on http://(127\.0\.0\.1|\[::1\]):\d+$")


def test_several_binds(service: Service, ports: Iterator[int]) -> None:
    first, second, path = next(ports), next(ports), os.fspath(service.socket_path)
    addresses = (f"127.0.0.1:{first}", f"127.0.0.1:{second}", f"unix:{path}")
    service.start(address=[word for address in addresses for word in ("--bind", address)])
    assert len(service.log.find("listening on ")) == 3
    for address in (("127.0.0.1", first), ("127.0.0.1", second), path):
        with Wire(address) as wire:
            assert wire.get("/").body == b"hello"


def test_restart_on_the_same_port_at_once(service: Service, ports: Iterator[int]) -> None:
    """Connections in TIME_WAIT do not keep the address (SO_REUSEADDR)."""
    port = str(next(ports))
    for _ in range(2):
        service.start("-p", port)
        with service.wire() as wire:
            wire.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            assert wire.answer().status == 200
            wire.assert_closed()  # the server closes first: the TIME_WAIT is on its side
        service.stop()
        service.forget()


@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss of iproute2")
def test_backlog_reaches_the_kernel(service: Service) -> None:
    service.start("-q", "1500")
    said = subprocess.check_output(["ss", "-Hltn"], text=True)
    found = re.search(rf"^LISTEN +\d+ +(\d+) +127\.0\.0\.1:{service.port} ", said, re.MULTILINE)
    assert found, said
    limit = int(Path("/proc/sys/net/core/somaxconn").read_text())
    assert int(found[1]) == min(1500, limit)


# -- UNIX sockets ----------------------------------------------------------------------------------------------


def unix(service: Service, *flags: str) -> Wire:
    service.start(*flags, address=("-l", service.socket_path))
    return Wire(os.fspath(service.socket_path))


def test_unix_socket(service: Service) -> None:
    with unix(service) as wire:
        assert wire.get("/").body == b"hello"
        status = service.socket_path.lstat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o770
        service.log.wait_for(rf"listening on unix:{re.escape(str(service.socket_path))}$")
    assert [path.name for path in service.run_directory.iterdir()] == ["sock"]
    service.stop()
    assert not service.socket_path.exists()


@needs_root
def test_unix_socket_belongs_to_user_and_group(service: Service) -> None:
    user = pwd.getpwnam("daemon")
    group = next(one for one in grp.getgrall() if one.gr_gid not in (0, user.pw_gid, NOBODY))
    with unix(service, "-u", "daemon", "-g", group.gr_name) as wire:
        assert wire.get("/").status == 200
        status = service.socket_path.lstat()
        assert (status.st_uid, status.st_gid) == (user.pw_uid, group.gr_gid)
        assert stat.S_IMODE(status.st_mode) == 0o770


def test_unix_socket_at_a_relative_path(service: Service) -> None:
    service.start("-r", "/", address=("-l", "run/sock"))
    service.log.wait_for(rf"listening on unix:{re.escape(str(service.socket_path))}$")
    with Wire(os.fspath(service.socket_path)) as wire:
        assert wire.get("/").body == b"hello"
    service.stop()
    assert not service.socket_path.exists()


def test_dead_unix_socket_is_replaced(service: Service) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(service.socket_path))
        dead.listen()
    before = service.socket_path.stat().st_ino
    with unix(service) as wire:
        assert wire.get("/").body == b"hello"
    assert service.socket_path.stat().st_ino != before


def test_live_unix_socket_is_refused(service: Service) -> None:
    service.expect_left = {"sock"}
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(os.fspath(service.socket_path))
        live.listen()
        before = service.socket_path.stat().st_ino
        done = service.run("-x", "-l", service.socket_path)
        assert_refused(done, UNAVAILABLE, re.escape(str(service.socket_path)), "in use")
        assert service.socket_path.stat().st_ino == before
        live.settimeout(5)
        with Wire(os.fspath(service.socket_path)):
            live.accept()[0].close()  # it still works


def test_live_unix_socket_with_a_full_queue_is_refused(service: Service) -> None:
    """EAGAIN at connect is a sign of life."""
    service.expect_left = {"sock"}
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(os.fspath(service.socket_path))
        live.listen(0)
        waiting = []
        for _ in range(8):
            one = socket.socket(socket.AF_UNIX)
            one.setblocking(False)
            waiting.append(one)
            try:
                one.connect(os.fspath(service.socket_path))
            except BlockingIOError:
                break
        else:
            pytest.skip("the queue never fills here")
        before = service.socket_path.stat().st_ino
        done = service.run("-x", "-l", service.socket_path)
        assert_refused(done, UNAVAILABLE, re.escape(str(service.socket_path)), "in use")
        assert service.socket_path.stat().st_ino == before
        for one in waiting:
            one.close()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
def test_what_is_no_socket_is_refused(service: Service, kind: str) -> None:
    path = service.socket_path
    service.expect_left = {"sock"}
    if kind == "file":
        path.write_text("precious\n")
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/null")
    else:
        os.mkfifo(path)
    before = path.lstat()
    done = service.run("-x", "-l", path)
    assert_refused(done, UNAVAILABLE, re.escape(str(path)), "(?i)not a socket|no socket")
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_unix_socket_path_that_is_too_long(service: Service) -> None:
    path = service.run_directory / ("x" * 120)
    done = service.run("-x", "-l", path)
    assert_refused(done, 2, "(?i)too long|longer|at most")


def test_unix_socket_in_a_directory_that_is_closed_to_us(service: Service) -> None:
    service.run_directory.chmod(0o555)
    done = service.run("-x", "-l", service.socket_path, unprivileged=True)
    assert_refused(done, 77, re.escape(str(service.socket_path)), "(?i)permission|not permitted")


def test_only_our_own_socket_is_unlinked(service: Service) -> None:
    """Another service has taken the path over meanwhile."""
    service.expect_left = {"sock"}
    unix(service).close()
    service.socket_path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(service.socket_path))
        inode = service.socket_path.stat().st_ino
        service.stop()
        assert service.socket_path.stat().st_ino == inode


def test_unix_socket_never_refuses_while_it_is_replaced(service: Service) -> None:
    """It appears under its name only when it listens."""
    service.handlers(HANDLERS.replace('tell("init", uid=os.geteuid())', 'gate("gate:init")'))
    service.launch(address=("-l", service.socket_path))
    (arrival,) = service.events.wait("gate:init")
    assert not service.socket_path.exists()
    arrival.release()
    eventually(service.socket_path.exists, "the socket")
    with Wire(os.fspath(service.socket_path)) as wire:
        assert wire.get("/").body == b"hello"


# -- inherited sockets ---------------------------------------------------------------------------------------------


def activated(*sockets: socket.socket) -> tuple[tuple[str, ...], list[int]]:
    """A command that passes these sockets as systemd does, and what to inherit for it."""
    fds = [one.fileno() for one in sockets]
    moves = " ".join(f"{3 + index}<&{fd}" for index, fd in enumerate(fds))
    script = f'exec {moves}; LISTEN_PID=$$ LISTEN_FDS={len(fds)} exec "$@"'
    return ("bash", "-c", script, "bash"), fds


def test_socket_activation(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        prefix, fds = activated(ours)
        service.start(address=(), prefix=prefix, pass_fds=fds)
        assert service.port == port
        assert service.get("/").text == "hello"
        service.stop()
        with socket.create_connection(("127.0.0.1", port)):
            pass  # the socket is the other's, and still listens


def test_socket_activation_with_an_address_flag_is_an_error(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        prefix, fds = activated(ours)
        done = service.run("-x", "-p", "8080", prefix=prefix, pass_fds=fds)
    assert_refused(done, 2, "-p", "LISTEN_FDS")


def test_listen_fds_meant_for_another_process(service: Service) -> None:
    service.start(env={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    assert service.get("/").text == "hello"


def test_bind_to_a_descriptor(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        service.start(address=("--bind", f"fd:{ours.fileno()}"), pass_fds=[ours.fileno()])
        assert service.port == ours.getsockname()[1]
        assert service.get("/").text == "hello"


def test_bind_to_a_descriptor_that_does_not_listen_yet(service: Service) -> None:
    """It is its starter's all the same: the next service on it is as good as the first."""
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        for _ in range(2):
            service.start(address=("--bind", f"fd:{ours.fileno()}"), pass_fds=[ours.fileno()])
            assert service.get("/").text == "hello"
            service.stop()
            service.forget()


# -- directories and files -------------------------------------------------------------------------------------------


def test_root_directory(service: Service) -> None:
    """-r holds for init, handlers and exit; code is found all the same."""
    there = service.directory / "there"
    there.mkdir()
    there.chmod(0o755)
    service.handlers(
        HANDLERS.replace("uid=os.geteuid()", "cwd=os.getcwd()")
        .replace('tell("exit")', 'tell("exit", cwd=os.getcwd())')
        .replace('return "hello"', "return os.getcwd()")
    )
    service.start("-r", there)
    assert service.get("/").text == str(there)
    service.stop()
    assert service.events.all("init")[0].data["cwd"] == str(there)
    assert service.events.all("exit")[0].data["cwd"] == str(there)


def test_relative_paths_are_made_absolute(service: Service) -> None:
    """Before any change of directory; a reload finds the file again."""
    service.handlers(HANDLERS.replace("uid=os.geteuid()", "file=str(server.config_file), root=str(server.root_dir)"))
    path = service.config("idle = 2\n")
    (service.directory / "there").mkdir()
    service.start("-f", path.name, "-r", "there")
    service.wait_workers(2)
    service.config("idle = 3\n")
    reload(service, 2)
    service.wait_workers(3)
    for told in service.events.all("init"):
        assert told.data == {"file": str(path), "root": str(service.directory / "there")}


def test_relative_python_path(service: Service) -> None:
    """PYTHONPATH=src, -r elsewhere: the package is still found after a reload."""
    service.start("-r", "/", env={"PYTHONPATH": "src"})
    reload(service, 2)
    assert service.get("/").text == "hello"


def test_log_level(service: Service) -> None:
    service.launch("-n", "1", "--log-level", "error")
    service.events.wait("worker_init")
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    service.log.wait_closed()
    assert service.log.lines == []


# -- privileges ------------------------------------------------------------------------------------------------------


def someone() -> tuple[pwd.struct_passwd, grp.struct_group]:
    """A user that is not nobody, and a group that is not the user's."""
    user = pwd.getpwnam("daemon")
    taken = (0, user.pw_gid, NOBODY)
    return user, next(group for group in grp.getgrall() if group.gr_gid not in taken)


@needs_root
def test_root_becomes_nobody(service: Service) -> None:
    service.handlers(HANDLERS + WHO)
    service.start()
    nobody = pwd.getpwnam("nobody")
    assert service.get("/who").json() == {
        "uids": [nobody.pw_uid] * 3,
        "gids": [nobody.pw_gid] * 3,
        "groups": [nobody.pw_gid],
    }
    assert service.events.all("init")[0].data == {"uid": 0}


@needs_root
def test_user_brings_all_groups_of_the_account(service: Service) -> None:
    user, _ = someone()
    service.handlers(HANDLERS + WHO)
    service.start("-u", user.pw_name)
    assert service.get("/who").json() == {
        "uids": [user.pw_uid] * 3,
        "gids": [user.pw_gid] * 3,
        "groups": sorted(os.getgrouplist(user.pw_name, user.pw_gid)),
    }


@needs_root
def test_user_and_group(service: Service) -> None:
    user, group = someone()
    service.handlers(HANDLERS + WHO)
    service.start("-u", user.pw_name, "-g", group.gr_name)
    who = service.get("/who").json()
    assert who["uids"] == [user.pw_uid] * 3
    assert who["gids"] == [group.gr_gid] * 3
    assert 0 not in who["groups"]


@needs_root
def test_user_by_number(service: Service) -> None:
    service.handlers(HANDLERS + WHO)
    service.start("-u", "54321", "-g", "54322")
    who = service.get("/who").json()
    assert who == {"uids": [54321] * 3, "gids": [54322] * 3, "groups": [54322]}


@needs_root
def test_nobody_of_the_workers_can_become_root_again(service: Service) -> None:
    service.handlers(HANDLERS + WHO)
    service.start()
    answer = service.get("/become-root").json()
    assert answer["done"] == []
    assert 0 not in [*answer["uids"], *answer["gids"], *answer["groups"]]


@needs_root
def test_who_runs_as_whom(service: Service) -> None:
    """init() as root; exit() and everything after the drop as nobody; the supervisor stays."""
    service.handlers(
        HANDLERS.replace('tell("worker_init")', 'tell("worker_init", uid=os.geteuid())').replace(
            'tell("exit")', 'tell("exit", uid=os.geteuid())'
        )
    )
    service.start("-n", "1")
    service.stop()
    uids = {told.tag: told.data.get("uid") for told in service.events.everything()}
    assert uids["init"] == 0
    assert uids["worker_init"] == NOBODY
    assert uids["exit"] == NOBODY


@needs_root
def test_init_is_root_again_after_a_reload(service: Service) -> None:
    service.start("-n", "1")
    reload(service, 2)
    assert [told.data["uid"] for told in service.events.all("init")] == [0, 0]


@needs_root
def test_init_can_open_what_only_root_may_read(service: Service) -> None:
    secret = service.directory / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    service.handlers(
        HANDLERS.replace('tell("init", uid=os.geteuid())', f"global stream; stream = open({str(secret)!r})").replace(
            'return "hello"', "return stream.read()"
        )
    )
    service.start("-n", "1")
    assert service.get("/").text == "s3cret"


@pytest.mark.skipif(not ROOT, reason="starts as root to become an ordinary user")
def test_user_flag_of_who_is_not_root(service: Service) -> None:
    """An ordinary user cannot become another: one line, not a traceback."""
    done = service.run("-x", *LOOPBACK, "-u", "daemon", unprivileged=True)
    assert done.returncode in (2, 77)
    assert_refused(done, done.returncode, "--user", "root")


def test_an_ordinary_user_stays_who_he_is(service: Service) -> None:
    service.handlers(HANDLERS + WHO)
    service.start("-n", "1", unprivileged=True)
    expected = NOBODY if ROOT else os.geteuid()
    assert set(service.get("/who").json()["uids"]) == {expected}
