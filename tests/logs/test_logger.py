"""--log-file: every line once, whatever becomes of the logger process, the file or the disk."""

from __future__ import annotations

import re
import resource
import signal
import time
from pathlib import Path

import psutil
import pytest
from harness import ROOT, Background, eventually
from said import COMBINED, RECORD, TALKING, Make, Said, ask, ask_much, numbers, validated


def logger_of(service: Said) -> int:
    """The logger process: the supervisor's child that has no children of its own and is no server."""
    found = [child.pid for child in psutil.Process(service.pid).children() if is_logger(service, child)]
    return found[0] if len(found) == 1 else 0


def is_logger(service: Said, process: psutil.Process) -> bool:
    """It has the log open, and no socket."""
    try:
        names = [file.path for file in process.open_files()]
        return any(Path(name).parent == service.logs for name in names) and not process.net_connections("tcp")
    except psutil.Error:
        return False


def lines_of(*files: Path) -> list[str]:
    return [line for file in files for line in file.read_text().splitlines()]


@pytest.fixture
def filed(make: Make) -> Make:
    """The same as `make`, with a directory for log files."""

    def prepare(*arguments: str, **options: str) -> Said:
        service = make(*arguments, **options)
        service.logs.mkdir()
        return service

    return prepare


def restarts(service: Said) -> int:
    return len([line for line in lines_of(service.file) if "the logger ended with" in line])


@pytest.mark.parametrize("form", ["combined", "json"])
def test_everything_is_in_the_file(filed: Make, pool: str, form: str) -> None:
    """Both streams of all processes; the start is shown on the terminal as well; nothing follows after it."""
    service = filed(pool)
    service.expect_errors = True
    service.start("-n", "2", "--log-file", service.file, "--access-log", form)
    assert service.get("/say/it").status_code == 200
    assert service.get("/print/that").status_code == 200
    assert service.get("/bug/deep").status_code == 500
    service.stop()
    lines = lines_of(service.file)
    found = [RECORD.fullmatch(line) for line in lines]
    messages = [one["message"] for one in found if one]
    roles = {one["role"] for one in found if one}
    assert messages.count("heard it") == 1
    assert messages.count("that") == 1, "a print is a record there"
    assert "    LookupError: deep" in lines
    assert roles == {"supervisor", "worker" if pool == "prefork" else "host"}
    assert messages[-1] == "stopped"
    assert len([line for line in lines if COMBINED.fullmatch(line) or '"logger":"access"' in line]) == 3
    assert [line.partition("] ")[2][:9] for line in service.log.lines][:2] == ["listening", "ready: ge"]
    assert not service.log.find("stopped")


def test_json_and_strays(filed: Make) -> None:
    service = filed(
        handlers=TALKING + "\n@routes.get('/stray')\ndef stray(request):\n    os.write(2, b'stray\\n')\n    return ''\n"
    )
    service.start("-n", "1", "--log-file", service.file, "--log-format", "json", "--access-log", "json")
    assert service.get("/stray").status_code == 200
    service.stop()
    records = [validated(line) for line in lines_of(service.file)]
    assert [one["logger"] for one in records if one.get("message") == "stray"] == ["stderr"]


def test_killed_again_and_again(filed: Make, pool: str) -> None:
    """Under load. Every line is there once: what the logger had read, it or its successor writes."""
    service = filed(pool)
    service.expect_errors = True
    service.start("-n", "2", "--log-file", service.file, "--access-log", "combined", "--fast-max", "1000")
    asking = Background(lambda: ask_much(service.address, 8000))
    for _ in range(6):
        known = eventually(lambda: logger_of(service), "a logger")
        size = service.file.stat().st_size
        eventually(lambda: service.file.stat().st_size > size or not asking.is_alive(), "lines")  # noqa: B023
        service.signal(signal.SIGKILL, known)
        eventually(lambda: logger_of(service) not in (0, known), "its successor")  # noqa: B023
    asking.result(60)
    service.stop()
    lines = lines_of(service.file)
    assert sorted(numbers(lines)) == list(range(8000))
    assert all(COMBINED.fullmatch(line) or RECORD.fullmatch(line) for line in lines)
    assert restarts(service) == 6
    assert not [line for line in lines if "dropped" in line]


def test_restarts_are_throttled(filed: Make) -> None:
    service = filed()
    service.expect_errors = True
    service.start("-n", "1", "--log-file", service.file, "--fast-max", "2")

    def throttled() -> bool:
        if known := logger_of(service):
            service.signal(signal.SIGKILL, known)
        return any("the next one starts in" in line for line in lines_of(service.file))

    eventually(throttled, "the throttle")
    assert service.get().status_code == 200


def test_a_file_that_was_moved(filed: Make) -> None:
    """As logrotate does it, without a word to the service; or removed."""
    service = filed()
    service.start("-n", "1", "--log-file", service.file, "--access-log", "combined")
    ask(service.address, 0, 100)
    eventually(lambda: len(numbers(lines_of(service.file))) == 100, "the first hundred")
    moved = service.file.rename(service.logs / "log.1")
    asked = 100

    def another() -> bool:
        nonlocal asked
        asked += ask(service.address, asked, 1)
        return service.file.exists()

    eventually(another, "a new file")
    service.stop()
    assert sorted(numbers(lines_of(moved, service.file))) == list(range(asked))


def test_names_by_time(filed: Make) -> None:
    """Another second, another file; the oldest go. Files that only look like it stay."""
    service = filed()
    foreign = [service.logs / name for name in ("log-x", "log-20260101", "log-1.gz", "unlike")]
    for file in foreign:
        file.write_text("")
    pattern = service.logs / "log-%s"
    service.start(
        "-n", "1", "--log-file", pattern, "--log-keep", "2", "--access-log", "combined", "--log-prefix", "%Y: "
    )
    seen: set[str] = set()

    def later() -> bool:
        service.get("/number/1")
        seen.update(file.name for file in service.logs.iterdir() if re.fullmatch(r"log-\d{10}", file.name))
        return len(seen) >= 4

    eventually(later, "four files")
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    left = sorted(
        file for file in service.logs.iterdir() if file.name in seen or re.fullmatch(r"log-\d{10}", file.name)
    )
    assert len(left) == 2
    assert left[-1].name >= max(seen)
    assert all(file.exists() for file in foreign if not re.fullmatch(r"log-\d+", file.name))
    assert all(line.startswith(time.strftime("%Y: ")) for line in lines_of(*left))


def test_a_full_disk(filed: Make) -> None:
    """The service goes on and says so on stderr; when there is room again, what waited in the pipe is written."""
    service = filed()
    service.expect_errors = True
    service.start("-n", "1", "--log-file", service.file, "--access-log", "combined")
    logger = eventually(lambda: logger_of(service), "a logger")
    limit = service.file.stat().st_size + 1000
    resource.prlimit(logger, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    assert ask(service.address, 0, 500) == 500
    service.log.wait_for(r"ERROR +logger\[\d+\] the log file \S+ cannot be written: File too large")
    assert ask(service.address, 500, 500) == 500
    assert service.file.stat().st_size == limit
    resource.prlimit(logger, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    service.log.wait_for("can be written again")
    service.stop()
    assert sorted(numbers(lines_of(service.file))) == list(range(1000))


def test_a_disk_that_stays_full(filed: Make) -> None:
    """The service ends all the same, and says what is lost."""
    service = filed()
    service.expect_errors = True
    service.start("-n", "1", "--log-file", service.file)
    logger = eventually(lambda: logger_of(service), "a logger")
    resource.prlimit(logger, resource.RLIMIT_FSIZE, (service.file.stat().st_size, resource.RLIM_INFINITY))
    assert service.get("/say/it").status_code == 200
    service.log.wait_for("cannot be written: File too large")
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    service.log.wait_for("cannot be written: its last lines are lost")


def test_detached(filed: Make, pool: str) -> None:
    service = filed(pool)
    done = service.start_detached("--log-file", service.file)
    assert "ready: generation 1" in done.stderr
    assert service.get("/say/it").status_code == 200
    service.stop()
    messages = [found["message"] for line in lines_of(service.file) if (found := RECORD.fullmatch(line))]
    assert [word for word in messages if word.startswith(("listening", "ready", "heard", "stopp"))][0:3:2] == [
        f"listening on http://127.0.0.1:{service.port}", "heard it"]  # fmt: skip
    assert messages[-1] == "stopped"


def test_a_start_that_fails(filed: Make) -> None:
    """What init() said is in the file too."""
    service = filed(handlers=TALKING.replace('tell("init", uid=os.geteuid())', "mine.info('said'); raise LookupError"))
    done = service.run("-x", "-i", "127.0.0.1", "-p", "0", "--log-file", service.file)
    assert done.returncode == 70
    assert "said" in done.stderr and "LookupError" in done.stderr
    lines = lines_of(service.file)
    assert [line for line in lines if line.endswith(" said")] and [line for line in lines if "LookupError" in line]


@pytest.mark.parametrize(
    ("flags", "status", "text"),
    [
        (("--log-file", "/nowhere/log"), 77, "--log-file /nowhere/log: cannot open it: No such file"),
        (("--log-keep", "3"), 2, "--log-keep needs --log-file"),
        (("--log-prefix", "%F"), 2, "--log-prefix needs --log-file"),
        (
            ("--log-file", "log", "--log-prefix", "%F", "--log-format", "json"),
            2,
            "--log-prefix excludes --log-format json",
        ),
        (("--log-format", "xml"), 2, "--log-format: needs one of text, json, not 'xml'"),
        (("--access-log", "on"), 2, "--access-log: needs one of off, combined, json, not 'on'"),
    ],
)
def test_mistakes(make: Make, flags: tuple[str, ...], status: int, text: str) -> None:
    done = make().run("-x", "-i", "127.0.0.1", "-p", "0", *flags)
    assert done.returncode == status
    assert text in done.stderr and done.stderr.count("\n") == 1


def test_not_through_a_symbolic_link(filed: Make) -> None:
    """Who may write to the directory does not choose what root appends to."""
    service = filed()
    target = service.directory / "target"
    target.write_text("")
    service.file.symlink_to(target)
    done = service.run("-x", "-i", "127.0.0.1", "-p", "0", "--log-file", service.file)
    assert done.returncode == 77 and "cannot open it" in done.stderr
    assert target.read_text() == ""


@pytest.mark.skipif(not ROOT, reason="only root becomes another user")
def test_the_logger_keeps_what_it_needs(filed: Make) -> None:
    """It holds no listener, pidfile or socket of the supervisor's: only the pipe, its file and the terminal."""
    service = filed()
    service.start("-n", "1", "--log-file", service.file, "--pidfile", service.pidfile, "--admin", "127.0.0.1:0")
    logger = eventually(lambda: logger_of(service), "a logger")
    kinds = sorted(name.split(":")[0] for name in service.opened(logger).values())
    assert kinds == ["/dev/null"] * 3 + [str(service.file), "pipe", "pipe"]
