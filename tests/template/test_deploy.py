"""The files for Docker, systemd and FreeBSD satisfy the programs that judge them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from baking import OPTIONS, bake, files

Tool = Callable[[str], str]
BESIDE = Path(sys.executable).parent  # programs that pip has installed
SCRIPTS = ("deploy/install", "deploy/swarm/remove", "deploy/swarm/wait")


def judge(*command: str | Path) -> str:
    """Run a linter; returns what it says, which should be nothing."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


Install = Callable[..., Path]


@pytest.fixture
def install(project: Path, tmp_path: Path) -> Install:
    """`make install` into a directory of its own; returns its PREFIX."""

    def run(**variables: str) -> Path:
        make(project, "install", {"PREFIX": str(tmp_path / "prefix"), **variables})
        return tmp_path / "prefix"

    return run


def make(project: Path, target: str, variables: dict[str, str], program: str = "make") -> str:
    usual = {"PYTHON": sys.executable, "SOURCE_DATE_EPOCH": "0"}
    given = [f"{name}={value}" for name, value in {**usual, **variables}.items()]
    return judge(program, "-C", project, target, *given)


@pytest.mark.parametrize("version", ["252", "257"])
def test_units_are_right(version: str, install: Install, tool: Tool) -> None:
    """As they are installed for this version of systemd. Of unknown keys it only speaks."""
    mine = judge(tool("systemd-analyze"), "--version").split()[1]
    units = install(INIT="systemd", SYSTEMD=version) / "lib/systemd/system"
    old = int(version) < 253
    assert ("\nRestartSteps=" in (units / "hello-server.service").read_text()) != old
    assert ("\nType=notify-reload\n" in (units / "hello-server.service").read_text()) != old
    assert sorted(path.parent.name for path in units.glob("*/before-253.conf")) == [
        f"hello-server{kind}.service.d" for kind in ("", "@") if old
    ]
    names = ["hello-server.service", "hello-server@blue.service", "hello-server.socket"]
    if int(mine) >= 253 or old:
        assert judge(tool("systemd-analyze"), "verify", "--man=no", *(units / name for name in names)) == ""


@pytest.mark.parametrize(("drop_in", "most"), [("", 11), ("socket-activated.conf", 9)])
def test_unit_exposes_little(drop_in: str, most: int, install: Install, tool: Tool) -> None:
    prefix = install(INIT="systemd", SYSTEMD="252")
    unit = prefix / "lib/systemd/system/hello-server.service"
    if drop_in:
        shutil.copy(prefix / "share/examples/hello-server" / drop_in, unit.with_name(unit.name + ".d"))
    judge(tool("systemd-analyze"), "security", "--offline=true", f"--threshold={most}", unit)


def test_script_is_right(project: Path) -> None:
    script = project / "deploy/rc.d/hello_server"
    assert judge(BESIDE / "shellcheck", "-s", "sh", "-e", "SC1091,SC2034", script) == ""
    assert judge(BESIDE / "shellcheck", *(project / name for name in SCRIPTS)) == ""


def test_script_parses(project: Path, tool: Tool) -> None:
    for script in ("deploy/rc.d/hello_server", *SCRIPTS):
        assert judge(tool("dash"), "-n", project / script) == ""


def test_script_has_its_headers(project: Path) -> None:
    lines = (project / "deploy/rc.d/hello_server").read_text().splitlines()
    assert lines[0] == "#!/bin/sh"
    for header in ("# PROVIDE: hello_server", "# REQUIRE: LOGIN", "# KEYWORD: shutdown"):
        assert header in lines


@pytest.mark.parametrize("program", ["make", "bmake"])
@pytest.mark.parametrize("init", ["systemd", "rc.d", "none"])
def test_uninstall_removes_what_install_has_put_in_place(
    init: str, program: str, project: Path, tmp_path: Path, tool: Tool
) -> None:
    variables = {"DESTDIR": str(tmp_path / "stage"), "PREFIX": "/opt/x", "INIT": init, "SYSTEMD": "252"}
    make(project, "install", variables, tool(program))
    installed = files(tmp_path / "stage")
    assert all(name.startswith("opt/x/") for name in installed)
    assert {"opt/x/bin/hello-server", "opt/x/share/man/man8/hello-server.8"} < set(installed)
    assert not [name for name, content in installed.items() if b"/usr/local" in content or b"/stage" in content]
    make(project, "install", variables, tool(program))  # over itself
    assert files(tmp_path / "stage") == installed
    make(project, "uninstall", variables, tool(program))
    assert files(tmp_path / "stage") == {}
    assert not list((tmp_path / "stage").rglob("*hello*"))


def test_install_keeps_what_is_not_its_own(project: Path, tmp_path: Path) -> None:
    variables = {"PREFIX": str(tmp_path), "INIT": "systemd", "SYSTEMD": "252"}
    make(project, "install", variables)
    mine = [tmp_path / "etc/hello-server.toml", tmp_path / "lib/systemd/system/hello-server.service.d/mine.conf"]
    for file in mine:
        file.write_text("mine\n")
    make(project, "uninstall", variables)
    assert set(files(tmp_path)) == {str(file.relative_to(tmp_path)) for file in mine}


KEPT = ("etc/default/hello-server", "etc/default/hello-server@blue", "opt/x/etc/hello-server.toml",
        "etc/systemd/system/hello-server.service.d/mine.conf", "etc/systemd/system/hello-server@b.service.d/mine.conf",
        "etc/systemd/system.control/hello-server.service.d/50-MemoryMax.conf",
        "etc/systemd/system/multi-user.target.wants/hello-server.service",
        "opt/x/lib/systemd/system/hello-server.socket.d/mine.conf", "var/lib/private/hello-server/state",
        "var/log/hello-server@blue/log", "etc/rc.conf.d/hello_server")  # fmt: skip
OTHERS = ("var/lib/hello-servers/state", "etc/default/hello-server2", "etc/systemd/system/other.service.d/mine.conf")


def test_what_install_did_not_make_is_named(project: Path, tmp_path: Path) -> None:
    """In one line; directories of ours that are empty go, wherever systemd looks for them."""
    empty = [
        tmp_path / "etc/systemd" / name
        for name in (
            "system/hello-server.socket.d",
            "system/hello-server@.service.d",
            "system.control/hello-server@blue.service.d",
        )
    ]
    given = {**os.environ, "DESTDIR": str(tmp_path), "PREFIX": "/opt/x", "INIT": "systemd", "SYSTEMD": "252"}
    command = ["sh", str(project / "deploy/install")]
    subprocess.run([*command, "install"], env={**given, "PYTHON": sys.executable}, check=True, timeout=60)
    for path in (*KEPT, *OTHERS):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("mine\n")
    for directory in empty:
        directory.mkdir()
    done = subprocess.run([*command, "uninstall"], env=given, capture_output=True, text=True, check=True, timeout=60)
    said, _, named = done.stderr.partition(": /")
    assert said == "uninstall: kept, as make install did not make it"
    named_paths = sorted(("/" + named).replace(f"{tmp_path}/", "").split())
    shown = {path if path in named_paths else str(Path(path).parent) for path in KEPT}
    assert named_paths == sorted(shown)
    assert set(files(tmp_path)) == {*KEPT, *OTHERS}
    assert not [one for one in empty if one.exists()]


def test_uninstall_of_all_says_nothing(project: Path, tmp_path: Path) -> None:
    given = {**os.environ, "DESTDIR": str(tmp_path), "INIT": "systemd", "SYSTEMD": "257", "PYTHON": sys.executable}
    command = ["sh", str(project / "deploy/install")]
    subprocess.run([*command, "install"], env=given, check=True, timeout=60)
    done = subprocess.run([*command, "uninstall"], env=given, capture_output=True, check=True, timeout=60)
    assert done.stderr == b""
    assert not (tmp_path / "usr/local/lib/systemd").exists()


def test_prefix_usr_means_etc(project: Path, tmp_path: Path) -> None:
    make(project, "install", {"PREFIX": "/usr", "DESTDIR": str(tmp_path), "INIT": "rc.d"})
    assert (tmp_path / "etc/hello-server.toml.sample").exists()
    assert '-f "/etc/hello-server.toml"' in (tmp_path / "usr/etc/rc.d/hello_server").read_text()


SEEN = "a service may not see home directories"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PREFIX": "opt"}, "opt: give an absolute path"),
        ({"PREFIX": "/opt/a|b"}, "/opt/a|b: give a path of letters, digits and /._+- alone"),
        ({"INIT": "upstart"}, "INIT=upstart: give systemd, rc.d or none"),
        ({"PYTHON": "/bin/false"}, "PYTHON=/bin/false: give Python 3.11 or newer"),
        ({"PREFIX": "/home/ada/.local", "INIT": "systemd"}, f"PREFIX=/home/ada/.local: {SEEN}: give one elsewhere"),
        ({"PREFIX": "/root/opt", "INIT": "systemd"}, f"PREFIX=/root/opt: {SEEN}: give one elsewhere"),
    ],
)
def test_mistakes_are_said_before_anything_is_done(
    variables: dict[str, str], said: str, project: Path, tmp_path: Path
) -> None:
    given = {"DESTDIR": str(tmp_path), "PYTHON": sys.executable, **variables}
    command = [str(project / "deploy/install"), "install"]
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"install: {said}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("home", ["/home/ada/.pyenv", "/root/venv", "/run/user/1000/uv"])
@pytest.mark.parametrize("what", ["sys.executable", "sys.base_prefix"])
def test_an_interpreter_in_a_home_directory(what: str, home: str, project: Path, tmp_path: Path) -> None:
    """Is refused for systemd, whose unit could not execute it; where only what it needs lies there, that is said."""
    python, place = tmp_path / "python3", tmp_path / "stage"
    code = f"import sys; {what} = sys.argv.pop(1); exec(sys.argv[2])"
    script = f'[ "$1" = -c ] || exec {sys.executable} "$@"; exec {sys.executable} -c "{code}" {home}/python "$@"'
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    given = {"DESTDIR": str(place), "PYTHON": str(python), "INIT": "systemd"}
    command = [str(project / "deploy/install"), "install"]
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, timeout=60)
    advice = f"{SEEN}: give one elsewhere, as in PYTHON=/usr/bin/python3"
    if what == "sys.executable":
        assert (done.returncode, done.stderr) == (1, f"install: PYTHON={home}/python: {advice}\n")
        assert not place.exists()
    else:
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("install: warning: PYTHON=")
        assert done.stderr.endswith(f"; {SEEN}: give one elsewhere\n")


def test_the_unit_has_a_directory_for_logs(project: Path) -> None:
    assert "\nLogsDirectory=%N\n" in (project / "deploy/systemd/hello-server.service").read_text()


def test_command_runs_from_anywhere(install: Install, tmp_path: Path) -> None:
    """By its first line, whatever the environment says of Python, and wherever it is called."""
    command = install() / "bin/hello-server"
    first = command.read_text().splitlines()[0]
    assert first == f"#!{os.path.realpath(sys.executable)} -I" or first == f"#!{sys.executable} -I"
    (tmp_path / "runpy.py").write_text("raise SystemExit('not this one')\n")
    done = subprocess.run(
        [command, "--check"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "hello-server: configuration and handlers are good\n"), done.stderr


# Signals and exit statuses.
TERMS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from hello_server.runtime.config import errors
from hello_server.runtime.ipc import signals
statuses = [str(value) for name, value in vars(errors).items() if name.isupper() and name != "TIMED_OUT"]
print(json.dumps([number.name.removeprefix("SIG") for number in signals.SUPERVISOR] + statuses))
"""


@pytest.mark.parametrize("protocol", OPTIONS["protocol"])
def test_manual_page_and_sample_have_every_option(protocol: str, template: Path, tmp_path: Path, tool: Tool) -> None:
    project = bake(template, tmp_path / "baked", protocol=protocol, description="It's -\\n 'new' `x` ^ and %d")
    prefix = tmp_path / "prefix"
    make(project, "install", {"PREFIX": str(prefix)})
    page = prefix / "share/man/man8/hello-server.8"
    assert judge(tool("mandoc"), "-T", "lint", "-W", "warning", page) == ""
    shown = judge(tool("mandoc"), "-T", "utf8", page)
    shown = re.sub(".\b", "", shown)  # bold is a letter typed twice
    command = prefix / "bin/hello-server"
    offered = set(re.findall(r"^  (?:-\w, |    )--([a-z-]+)", judge(command, "--help"), re.MULTILINE))
    assert set(re.findall(r"^       (?:-\w, )?--([a-z-]+)", shown, re.MULTILINE)) == offered
    assert "hello-server - It's -\\n 'new' `x` ^ and %d" in shown
    terms = json.loads(judge(sys.executable, "-c", TERMS, project / "src"))
    assert [term for term in terms if not re.search(rf"^ {{5,8}}{term}\b", shown, re.MULTILINE)] == []
    # Every default that the sample shows is what holds without it.
    sample = (prefix / "etc/hello-server.toml.sample").read_text()
    full = tmp_path / "full.toml"
    full.write_text(re.sub(r"^#([a-z-]+ = (?!\"\"|\[\]))", r"\1", sample, flags=re.MULTILINE))
    set_in_file = set(tomllib.loads(re.sub(r"^#([a-z-]+ = )", r"\1", sample, flags=re.MULTILINE)))
    assert set_in_file == offered - {"check", "version", "help", "config"}
    judge(command, "--check", "--config", full)


def manual_block(project: Path, word: str) -> str:
    """The block of code of the manual that has this word in it."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (project / "docs/manual.md").read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if word in block]
    return str(found)


def test_the_package_list_of_the_manual(project: Path, tmp_path: Path, tool: Tool) -> None:
    """The commands, as they stand there."""
    copy = shutil.copytree(project, tmp_path / "project")
    commands = manual_block(project, "pkg-plist").replace(
        "PYTHON=/usr/local/bin/python3.11", f"PYTHON={sys.executable}"
    )
    subprocess.run([tool("dash"), "-ec", commands], cwd=copy, check=True, capture_output=True, timeout=60)
    listed = (copy / "pkg-plist").read_text().splitlines()
    assert {"bin/hello-server", "@sample etc/hello-server.toml.sample", "etc/rc.d/hello_server"} < set(listed)
    assert sorted(line.removeprefix("@sample ") for line in listed) == sorted(files(copy / "stage/usr/local"))


def test_manual_and_files_for_freebsd_agree(project: Path) -> None:
    script = (project / "deploy/rc.d/hello_server").read_text()
    described = set(re.findall(r"^#   (hello_server_\w+) ", script, re.MULTILINE))
    section = (project / "docs/manual.md").read_text().partition("## On FreeBSD")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(hello_server_\w+)` ", section, re.MULTILINE))
    assert described <= listed <= described | {"hello_server_login_class"}  # that one is rc.subr's own
    assert "`-u nobody -g nobody`" in section and ':="-u nobody -g nobody"}' in script
    sample = (project / "deploy/rc.d/newsyslog.conf").read_text().splitlines()[-1]
    assert manual_block(project, "@T00").split() == sample.split()


def test_dockerfile_is_right(project: Path) -> None:
    assert judge(BESIDE / "hadolint", project / "Dockerfile") == ""


def test_dockerfile_suits_the_classic_builder(project: Path) -> None:
    """No syntax line (it needs a network), no heredoc, no option that only BuildKit knows, no shell."""
    text = (project / "Dockerfile").read_text()
    for absent in ("# syntax=", "<<", "--chmod", "--mount", "--link", "--start-interval"):
        assert absent not in text
    for line in text.splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction in ("RUN", "COPY", "CMD", "ENTRYPOINT"):
            assert rest.removeprefix("--from=build ").startswith("["), line


def test_shell_scripts_of_ci_are_right() -> None:
    repository = Path(__file__).parents[2]
    assert judge(BESIDE / "shellcheck", *(repository / name for name in (".ci/run", "ci/prepare", "ci/test"))) == ""
    stand_ins = [repository / "tests/rcd" / name for name in ("rc.subr", "freebsd/limits", "freebsd/pwait")]
    assert judge(BESIDE / "shellcheck", "-s", "dash", "-e", "SC2034,SC2086,SC2089,SC2090,SC2154", *stand_ins) == ""


def test_every_job_has_a_timeout(project: Path) -> None:
    for file in (project / ".github/workflows/ci.yml", Path(__file__).parents[2] / ".github/workflows/ci.yml"):
        workflow = yaml.safe_load(file.read_text())
        assert workflow["permissions"] == {}
        assert all("timeout-minutes" in job for job in workflow["jobs"].values())
