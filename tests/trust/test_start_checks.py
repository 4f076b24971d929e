"""Issue 18 E 5 and E 11: what cannot work is said before the service starts, in one line; where a service listens and
where it was started."""

from __future__ import annotations

import os
import shutil
import socket
import zipfile
from pathlib import Path

import psutil
import pytest
from harness import ELSEWHERE, PACKAGE, ROOT, Service, Wire, eventually, free_ports
from trust_client import BEGIN, Prepare, get
from trust_process import NIGHTLY

ONE_SITECUSTOMIZE = pytest.mark.skipif(bool(ELSEWHERE), reason="another sitecustomize.py is tried")

# -- addresses --------------------------------------------------------------------------------------------

LINK_LOCAL = {
    "interface": ("-i", "fe80::1", "-p", "0"),
    "capitals": ("-i", "FEBF:0::1", "-p", "0"),
    "bind": ("--bind", "[fe80::1]:0"),
    "admin": ("-p", "0", "-i", "127.0.0.1", "--admin", "[fe80::1]:0"),
}


@pytest.mark.parametrize("flags", LINK_LOCAL.values(), ids=LINK_LOCAL)
def test_link_local_address_needs_its_interface(prepare: Prepare, flags: tuple[str, ...]) -> None:
    """One line, with a hint at %interface."""
    done = prepare("prefork", BEGIN).run("-x", *flags)
    assert done.returncode == 2, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "%" in lines[0]


RESOLVER = """
import socket
genuine = socket.getaddrinfo

def getaddrinfo(host, port, *arguments, **keywords):
    if host not in ("many.test", b"many.test"):
        return genuine(host, port, *arguments, **keywords)
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port or 0)) for one in {addresses}]

socket.getaddrinfo = getaddrinfo
"""


def resolving(service: Service, *addresses: str) -> dict[str, str]:
    """An environment in which many.test has these addresses."""
    place = service.directory / "resolver"
    place.mkdir()
    (place / "sitecustomize.py").write_text(RESOLVER.replace("{addresses}", repr(addresses)))
    return {"PYTHONPATH": os.pathsep.join([os.fspath(place), os.fspath(service.source)])}


def serves_at(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(5)
        try:
            client.connect((host, port))
        except ConnectionRefusedError:
            return False
        client.sendall(b"GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n")
        return client.recv(1000).startswith(b"HTTP/1.1 ")


@ONE_SITECUSTOMIZE
@pytest.mark.parametrize("way", ["interface", "bind", "free port"])
def test_name_means_all_its_addresses(prepare: Prepare, pool: str, way: str) -> None:
    """On one port, in the service and at --admin, before and after a reload; without those that are not here."""
    service = prepare(pool, BEGIN)
    number = 0 if way == "free port" else next(free_ports())
    flags = ("--bind", f"many.test:{number}") if way == "bind" else ("-i", "many.test", "-p", str(number))
    env = resolving(service, "198.51.100.1", "127.0.0.1", "127.0.0.2", "127.0.0.1")
    service.start("-n", "1", "-t", "--admin", "many.test:0", "--control", service.control, address=flags, env=env)
    admin = int(service.log.wait_for(r"admin endpoint on http://\S+:(\d+)")[1])
    for _ in range(2):
        for host in ("127.0.0.1", "127.0.0.2"):
            assert serves_at(host, service.port) and serves_at(host, admin), host
        assert service.ctl("reload").returncode == 0
    assert not number or service.port == number
    assert len(service.log.find(rf"INFO .* listening on http://127.0.0.[12]:{service.port}$")) == 2


@ONE_SITECUSTOMIZE
@pytest.mark.parametrize("taken", ["taken", "missing"])
def test_name_of_which_an_address_cannot_be_had(prepare: Prepare, taken: str) -> None:
    """One line, 69, when another program has one of them, or none is here."""
    service = prepare("prefork", BEGIN)
    env = resolving(service, *(["127.0.0.2", "127.0.0.1"] if taken == "taken" else ["198.51.100.1", "198.51.100.2"]))
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = service.run("-x", "-i", "many.test", "-p", str(other.getsockname()[1]), env=env)
    assert done.returncode == 69, done
    assert ("in use" if taken == "taken" else "no such address") in done.stderr.splitlines()[-1], done


@ONE_SITECUSTOMIZE
@pytest.mark.skipif(not ROOT, reason="only root is refused")
def test_admin_name_with_one_public_address(prepare: Prepare) -> None:
    """Each address of the name is judged."""
    service = prepare("prefork", BEGIN)
    public = next((one for one in own_addresses() if not one.startswith("127.")), "")
    if not public:
        pytest.skip("this machine has no other address than loopback")
    env = resolving(service, "127.0.0.1", public)
    done = service.run("-x", "-i", "127.0.0.1", "-p", "0", "--admin", "many.test:0", env=env)
    assert done.returncode == 2 and "loopback" in done.stderr, done


def own_addresses() -> list[str]:
    return [one.address for each in psutil.net_if_addrs().values() for one in each if one.family == socket.AF_INET]


# -- the environment --------------------------------------------------------------------------------------

MISSPELT = {
    "HELLO_SERVER_MXA": "HELLO_SERVER_MAX",
    "HELLO_SERVER_MAX-REQUESTS": "HELLO_SERVER_MAX_REQUESTS",
    "HELLO_SERVER_LOGLEVEL": "HELLO_SERVER_LOG_LEVEL",
    "HELLO_SERVER_max": "HELLO_SERVER_MAX",
    "hello_server_IDLE": "HELLO_SERVER_IDLE",
}
MORE = {
    "HELLO_SERVER_IDEL": "HELLO_SERVER_IDLE",
    "HELLO_SERVER_MAX_CONECTIONS": "HELLO_SERVER_MAX_CONNECTIONS",
    "HELLO_SERVER_KEEPALIVE": "HELLO_SERVER_KEEP_ALIVE",
}


@pytest.mark.parametrize("names", [MISSPELT, pytest.param(MORE, marks=NIGHTLY)], ids=["few", "more"])
def test_misspelt_variable_is_worth_a_warning(prepare: Prepare, names: dict[str, str]) -> None:
    service = prepare("prefork", BEGIN)
    service.start("-n", "1", "-t", env=dict.fromkeys(names, "3"))
    for name, meant in names.items():
        lines = service.log.find(rf"{name} .*did you mean {meant}\?")
        assert len(lines) == 1 and "WARNING" in lines[0], (name, service.log.text)


def test_other_variables_are_worth_none(prepare: Prepare) -> None:
    """Our own, the user's own, and what Kubernetes and Docker inject for a service of the same name."""
    service = prepare("prefork", BEGIN)
    env = {
        "HELLO_SERVER_MAX": "3",
        "HELLO_SERVER_VERSION": "3",
        "HELLO_SERVER_DATABASE_URL": "postgres://",
        "HELLO_SERVER_SERVICE_HOST": "10.0.0.1",
        "HELLO_SERVER_SERVICE_PORT": "80",
        "HELLO_SERVER_SERVICE_PORT_HTTP": "80",
        "HELLO_SERVER_PORT_80_TCP": "tcp://10.0.0.1:80",
        "HELLO_SERVER_PORT_80_TCP_ADDR": "10.0.0.1",
        "HELLO_SERVER_PORT_80_TCP_PORT": "80",
        "HELLO_SERVER_PORT_80_TCP_PROTO": "tcp",
        "HELLO_SERVER_ENV_MAX": "1",
        "HELLO_SERVERX": "1",
    }
    service.start("-n", "1", "-t", env=env)
    assert get(service).status == 200
    assert not service.log.find("(?i)hello_server_")


# -- where it is started ----------------------------------------------------------------------------------

GONE = ("sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh")


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (("--check",), 0),
        (("--version",), 0),
        (("--help",), 0),
        (("--check", "-r", "relative"), 2),
        (("--check", "-f", "relative"), 2),
        (("--check", "--log-file", "relative.log"), 2),
        (("-x", "-p", "0", "-r", "relative"), 2),
        (("-x", "-l", "relative"), 2),
        (("ctl", "status", "--control", "relative"), 2),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else str(one),
)
def test_deleted_working_directory_is_one_line(prepare: Prepare, flags: tuple[str, ...], status: int) -> None:
    """Never a traceback: works where no directory is needed, else says what is wrong."""
    done = prepare("prefork", BEGIN).run(*flags, prefix=GONE)
    assert done.returncode == status, done
    assert "Traceback" not in done.stderr, done.stderr
    assert not status or (len(done.stderr.splitlines()) == 1 and "gone" in done.stderr), done.stderr


def test_service_in_a_deleted_working_directory(prepare: Prepare, pool: str) -> None:
    """It serves, reloads, and starts again."""
    service = prepare(pool, BEGIN)
    service.watch("-n", "1", "-t", prefix=GONE)
    assert get(service).status == 200
    assert service.ctl("reload").returncode == 0
    assert service.ctl("restart").returncode == 0
    service.log.wait_for("ready: generation 1", count=2)
    assert "Traceback" not in service.log.text


def release(service_source: Path, package: Path, place: Path, text: str) -> None:
    """A release of the code, as a deployment puts it in a directory of its own."""
    shutil.copytree(service_source, place, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "conf.toml").write_text(f"drain-timeout = {len(text)}\n[app]\ntext = '{text}'\n")


DEPLOYED = (
    BEGIN
    + """
def init(server):
    global text
    text = server.config["app"]["text"]

@routes.get("/release")
def found(request):
    with open("conf.toml") as file:
        return {"handlers": RELEASE, "config": text, "file": file.read()}
"""
)


@pytest.mark.parametrize("way", ["module", "pythonpath"])
def test_deployment_by_a_link(prepare: Prepare, pool: str, way: str) -> None:
    """The directory of the start is one below a link, which the deployment exchanges: a reload takes the new code and
    configuration, and so does `ctl restart`, though the old directory is gone."""
    service = prepare(pool, "")
    releases = service.directory / "releases"
    current = service.directory / "current"
    for name in ("one", "two", "three"):
        service.handlers(f"RELEASE = {name!r}\n{DEPLOYED}")
        release(service.source, service.package, releases / name, name)
    current.symlink_to("releases/one")
    env = {"PYTHONPATH": "" if way == "module" else ".", "PWD": os.fspath(current)}
    enter = ("sh", "-c", f'cd "{current}" && exec "$@"', "sh")
    service.watch("-n", "1", "-t", "-f", "conf.toml", prefix=enter, env=env)

    def deploy(name: str) -> None:
        (service.directory / "new").symlink_to(f"releases/{name}")
        (service.directory / "new").rename(current)

    def serves(name: str) -> bool:
        said = get(service, "/release").json()
        return {said["handlers"], said["config"]} == {name} and f"text = '{name}'" in said["file"]

    assert serves("one")
    deploy("two")
    shutil.rmtree(releases / "one")
    done = service.ctl("reload")
    assert done.returncode == 0, done.stderr
    eventually(lambda: serves("two"), "the second release serves")
    deploy("three")
    shutil.rmtree(releases / "two")
    done = service.ctl("restart")
    assert done.returncode == 0, done.stderr
    service.log.wait_for("ready: generation 1", count=2)
    port = int(service.log.find(r"listening on ")[-1].rsplit(":", 1)[1])
    with Wire(("127.0.0.1", port)) as wire:
        assert wire.get("/release").json()["handlers"] == "three"


def test_start_directory_that_is_gone_is_named(prepare: Prepare, pool: str) -> None:
    """Without a link to follow: reload and restart are refused, name the directory, and the service serves on."""
    service = prepare(pool, "")
    service.handlers(f"RELEASE = 'one'\n{DEPLOYED}")
    place = service.directory / "only"
    release(service.source, service.package, place, "one")
    service.watch("-n", "1", "-t", "-f", "conf.toml", cwd=place, env={"PYTHONPATH": ""})
    shutil.rmtree(place)
    for order in ("reload", "restart"):
        done = service.ctl(order)
        assert done.returncode == 1 and os.fspath(place) in done.stderr, done
        assert len(done.stderr.splitlines()) == 1
    assert get(service).status == 200
    service.expect_errors = True


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_configuration_that_is_no_file(prepare: Prepare, kind: str) -> None:
    """It neither hangs the start nor reads without end."""
    service = prepare("prefork", BEGIN)
    path = service.directory / "conf.toml"
    if kind == "fifo":
        os.mkfifo(path)
    done = service.run("-x", "-f", path if kind == "fifo" else "/dev/zero", deadline=15)
    assert done.returncode == 78 and len(done.stderr.splitlines()) == 1, done
    assert f"is a {'FIFO' if kind == 'fifo' else kind}, " in done.stderr


# -- in a zip ---------------------------------------------------------------------------------------------


def zipped(service_source: Path, package: Path) -> Path:
    path = service_source.parent / "app.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(package.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.write(file, Path(PACKAGE) / file.relative_to(package))
    return path


def test_service_runs_out_of_a_zip(prepare: Prepare, pool: str) -> None:
    """With --admin, whose page is a file of the package; --check and a reload too."""
    service = prepare(pool, BEGIN)
    path = zipped(service.source, service.package)
    env = {"PYTHONPATH": os.pathsep.join([os.fspath(path), *filter(None, [os.environ.get("ELSEWHERE")])])}
    shutil.move(service.package, service.directory / "elsewhere")
    try:
        checked = service.run("--check", "--admin", "127.0.0.1:0", env=env)
        assert checked.returncode == 0, checked
        service.watch("-n", "1", "-t", env=env)
        assert service.run("ctl", "reload", "--control", service.control, env=env).returncode == 0
    finally:
        shutil.move(service.directory / "elsewhere", service.package)
    assert get(service).status == 200
    for page in ("/", "/status", "/metrics", "/livez", "/readyz"):
        code, body = service.page(page)
        assert code == 200, (page, body)
    assert "Traceback" not in service.log.text
