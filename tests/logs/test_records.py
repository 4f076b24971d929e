"""Records: whole, in the form asked for, and nothing that a client sends can look like one."""

from __future__ import annotations

import os
import pty
import re
import signal
import threading

import pytest
from harness import Log
from said import HOSTILE, RECORD, TALKING, Make, send_hostile, validated

EVERYTHING = (
    TALKING
    + """
import faulthandler, warnings

@routes.get("/everything")
def everything(request):
    mine.info("several\\nlines\\n")
    mine.warning("extra", extra={"number": 1, "set": {1}, "nan": float("nan"), "deep": {"a": [1, None]},
                                  "key": {(1,): 2}})
    try:
        raise ValueError("caught")
    except ValueError:
        mine.exception("with a traceback")
    mine.log(25, "an odd level", stack_info=True)
    mine.info("wrong %d", "arguments")
    warnings.warn("a warning")
    print("one\\ntwo")
    print("to stderr", file=sys.stderr)
    sys.stdout.buffer.write(b"bytes \\xff\\n")
    os.write(1, b"stray one\\n")
    os.write(2, b"stray two\\n")
    subprocess.run(["echo", "from a child"])
    faulthandler.dump_traceback()
    return request.id
"""
)


def test_every_line_of_json(make: Make, pool: str) -> None:
    """By the schema in the docs; whatever says something, and whatever a client sends."""
    service = make(pool, handlers=EVERYTHING)
    service.expect_errors = True
    service.start("--log-format", "json", "--access-log", "json", "-n", "2")
    known = service.get("/everything").text
    send_hostile(service)
    service.log.wait_for("stray two")
    service.log.wait_for('"Current thread')
    service.stop()
    service.out.wait_closed()
    records = [validated(line) for line in (*service.log.lines, *service.out.lines)]
    messages = [one.get("message") for one in records]
    for text in ("several\nlines\n", "one", "two", "to stderr", "bytes \ufffd", "stray one", "from a child", "stopped"):
        assert messages.count(text) == 1, text
    for text in HOSTILE:  # as it was: from the path, and from the body, which was read as another encoding
        assert messages.count(f"heard {text}") == 1 + text.isascii(), text
        assert messages.count(f"heard {text.encode().decode('latin-1')}") == 1 + text.isascii(), text
    assert not [one for one in records if one["level"] == "critical"]
    (extra,) = [one["extra"] for one in records if one.get("message") == "extra"]
    assert extra == {"number": 1, "set": "{1}", "nan": "nan", "deep": {"a": [1, None]}, "key": "{(1,): 2}"}
    (caught,) = [one for one in records if one.get("message") == "with a traceback"]
    assert caught["exception"].startswith("Traceback (most recent call last):\n")
    assert caught["exception"].endswith("ValueError: caught")
    assert caught["request_id"] == known
    assert (
        "Stack (most recent call last)" in next(one for one in records if one.get("message") == "an odd level")["stack"]
    )


def test_no_line_of_text_can_be_forged(make: Make, pool: str) -> None:
    """At the beginning of a line stands a record, and its message is on that line and on indented ones."""
    service = make(pool)
    service.expect_errors = True
    service.start("-n", "2")
    send_hostile(service)
    service.stop()
    records = []
    for line in service.log.lines:
        found = RECORD.fullmatch(line)
        assert found or line.startswith("    "), repr(line)
        assert line.isprintable(), repr(line)
        if found:
            records.append(found)
    assert not [one for one in records if one["level"] == "CRITICAL"]
    assert sum(one["message"].startswith("heard ") for one in records) == 2 * len(HOSTILE)


def test_large_records_are_whole(make: Make) -> None:
    """Larger than a pipe writes at once, from many processes at the same time."""
    service = make()
    service.start("--log-format", "json", "-n", "4", "-m", "4")
    service.wait_workers(4)

    def run(client: int) -> None:
        for number in range(10):
            assert service.get(f"/large/{3000 + 2000 * number}/{client}-{number}").status_code == 200

    threads = [threading.Thread(target=run, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    service.stop()
    said = dict(one["message"].split(":", 1) for one in map(validated, service.log.lines) if one["logger"] == "mine")
    assert said == {f"{c}-{n}": "x" * (3000 + 2000 * n) for c in range(4) for n in range(10)}


PRINTING = (
    TALKING
    + """
@routes.get("/pieces/{thread}")
def pieces(request):
    for number in range(50):
        print(request.params["thread"], number, "x" * 100, sep="-")
    return ""

@routes.get("/end/{thread}")
def end(request):
    print("the end of", request.params["thread"], end="")
    return ""
"""
)


def test_prints_are_whole_lines(make: Make, pool: str) -> None:
    """A print is several writes; lines of different threads and processes do not mix. None is lost at the end."""
    service = make(pool, handlers=PRINTING)
    service.start("-n", "4", "-m", "8")
    threads = [threading.Thread(target=service.get, args=(f"/pieces/{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        service.get(f"/end/{number}")
    service.stop()
    service.out.wait_closed()
    expected = [f"{thread}-{number}-{'x' * 100}" for thread in range(8) for number in range(50)]
    assert sorted(one for one in service.out.lines if one.endswith("x")) == sorted(expected)
    ends = "".join(one for one in service.out.lines if not one.endswith("x"))
    assert sorted(re.findall(r"the end of \d", ends)) == [f"the end of {n}" for n in range(8)]


@pytest.mark.parametrize(
    ("environment", "coloured"), [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False),
                                  ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": ""}, True)],
)  # fmt: skip
def test_colour_on_a_terminal(make: Make, environment: dict[str, str], coloured: bool) -> None:
    service = make()
    ours, theirs = pty.openpty()
    try:
        service.launch("-n", "1", env=environment, stderr=theirs)
    finally:
        os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as stream:
        service.read_log(Log(stream))
        service.log.wait_for("ready: ")
        assert service.get("/say/it").status_code == 200
        service.log.wait_for("heard it")
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        service.log.wait_closed()
    assert ("\x1b" in service.log.text) == coloured


def test_no_colour_in_a_pipe(make: Make) -> None:
    service = make()
    service.start("-n", "1", env={"TERM": "xterm"})
    service.stop()
    assert "\x1b" not in service.log.text


def test_priorities_for_the_journal(make: Make) -> None:
    """Only where stderr is what JOURNAL_STREAM names (systemd.exec(5)); each line of a record has its own."""
    service = make()
    service.expect_errors = True
    reader, writer = os.pipe()
    status = os.fstat(writer)
    service.launch("-n", "1", stderr=writer, env={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    os.close(writer)
    service.read_log(Log(os.fdopen(reader, "rb")))
    service.log.wait_for(r"^<6>supervisor\[\d+\] ready: ")
    assert service.get("/bug/deep").status_code == 500
    service.log.wait_for(r"^<3>worker\[\d+\] .*failed, error id")
    service.log.wait_for(r"^<3>    LookupError: deep")
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    service.log.wait_closed()
    other = make()
    other.start("-n", "1", env={"JOURNAL_STREAM": "1:1"})
    assert all(RECORD.fullmatch(line) for line in other.log.lines)


def test_nobody_reads(make: Make, pool: str) -> None:
    """A full pipe: the service answers on; what was lost is counted, and logged when the pipe is read again."""
    service = make(pool)
    reader, writer = os.pipe()
    service.launch("-n", "2", "--admin", "127.0.0.1:0", stderr=writer)
    os.close(writer)
    start = b""
    while b"ready: " not in start:
        start += os.read(reader, 65536)
    port = int(re.search(rb"listening on http://127.0.0.1:(\d+)", start)[1])  # type: ignore[index]
    admin = int(re.search(rb"admin endpoint on http://127.0.0.1:(\d+)", start)[1])  # type: ignore[index]

    def dropped() -> int:
        text = service.client.get(f"http://127.0.0.1:{admin}/metrics").text
        return int(re.search(r"^service_log_lines_dropped_total (\d+)$", text, re.MULTILINE)[1])  # type: ignore[index]

    said = 0
    while not dropped():
        for _ in range(20):
            answer = service.client.get(f"http://127.0.0.1:{port}/large/20000/flood")
            assert answer.status_code == 200
            said += 1
        assert said < 2000, "4 MiB and more than a pipe and the service hold"
    service.read_log(Log(os.fdopen(reader, "rb")))
    service.log.wait_for(r"WARNING supervisor\[\d+\] \d+ lines of the log were dropped")
    service.client.get(f"http://127.0.0.1:{port}/say/that%20was%20all")
    service.log.wait_for("heard that was all")
    lost = dropped()
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    service.log.wait_closed()
    heard = service.log.find("flood:")
    assert len(heard) == said - lost
    assert all(line.endswith(":" + "x" * 20000) for line in heard), "none is torn"


def test_after_the_supervisor(make: Make) -> None:
    """It is killed: what its workers still say goes to stderr directly."""
    service = make(
        handlers=TALKING
        + "\n@routes.get('/held')\ndef waits(request):\n    gate('gate')\n    mine.info('on my own')\n    return ''\n"
    )
    service.start("-n", "1", "--drain-timeout", "20")
    answer = service.background("/held")
    (arrival,) = service.events.wait("gate")
    service.signal(signal.SIGKILL)
    service.process.wait()  # type: ignore[union-attr]
    arrival.release()
    assert answer.result().status == 200
    service.log.wait_for("on my own")
    service.wait_nothing_runs()


def test_detached_says_everything_on_the_terminal_first(make: Make) -> None:
    """In both formats, and what init() prints too; then no process holds the terminal."""
    service = make(
        handlers=TALKING.replace('tell("init", uid=os.geteuid())', 'print("from init")\n    tell("init", uid=0)')
    )
    done = service.start_detached("--log-format", "json")
    records = [validated(line) for line in done.stderr.splitlines()]
    messages = [one["message"] for one in records]
    assert "from init" in messages and any(one.startswith("ready: ") for one in messages)


def test_a_refused_start_is_json_too(make: Make) -> None:
    service = make()
    with service.occupied() as port:
        done = service.run("-x", "-i", "127.0.0.1", "-p", str(port), "--log-format", "json")
    assert done.returncode == 69
    *_, last = map(validated, done.stderr.splitlines())
    assert last["level"] == "critical" and "in use" in last["message"]
