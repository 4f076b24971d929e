"""Issue 18 B 2: whatever a server or a worker says ends its own generation at most."""

from __future__ import annotations

import pytest
from harness import HANDLERS, eventually
from trust_process import HOSTILE, NEEDS_LINUX, NIGHTLY, Asking, Place, asked_quietly, memory

pytestmark = NEEDS_LINUX

# The server of the first generation sends bytes to the supervisor as its reports are sent, then it ends.
REPORTING = (
    HOSTILE
    + """
def init(server):
    server.set_periodic(attack, 1)

def attack():
    attacked = gate("gate:attack")
    for end in to_parent():
        end.sendall(bytes.fromhex(attacked))
    tell("attacked")
    os._exit(3)
"""
)
REPORTS = {
    "a status that is no number": b"failed x y\n",
    "no status": b"failed\n",
    "success": b"failed 0 all is well\n",
    "success in eight bits": b"failed 256 all is well\n",
    "a negative status": b"failed -1 x\n",
    "a status without end": b"failed " + b"9" * 5000 + b" x\n",
    "digits of another script": "failed ٣ x\n".encode(),
    "no words": b"\n" * 1000,
    "no UTF-8": b"\xff\xfe\n",
    "ready again": b"ready\n" * 1000,
    "listening again": b"listening\n" * 1000,
    "a long name": b"name " + b"n" * 9000 + b"\n",
    "a name that steers": b"name \x1b]0;x\x07\n",
    "an unfinished one": b"fail",
    "zeros": b"\0" * 1000,
}


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_no_report_ends_the_supervisor(pool: str, place: Place, report: bytes) -> None:
    """The server is replaced, or the service gives up with status 70: never with 0, never by a traceback."""
    service = place(pool, REPORTING)
    service.watch("-n", "1", "-m", "2", "--drain-timeout", "1")
    (attack,) = service.events.wait("gate:attack")
    service.handlers(HANDLERS)
    attack.release(report.hex())
    service.events.wait("attacked")
    eventually(
        lambda: not service.running() or service.log.find("ready: generation 2"),
        "replaced, or given up",
    )
    if not service.running():
        status = service.wait()
        assert status == 70 and "Traceback" not in service.log.text, f"the service has ended with {status}"
        return
    service.answers()
    assert service.get("/").text == "hello"
    service.end()


ENDLESS = (
    HOSTILE
    + """
def init(server):
    server.set_periodic(attack, 1)

def attack():
    attacked = gate("gate:attack")
    if not attacked or os.fork():
        return
    for end in to_parent_of(os.getppid()):
        try:
            for _ in range(2000):
                end.sendall(bytes.fromhex(attacked) * 20000)
        except OSError:
            pass
    os._exit(0)

def to_parent_of(server):
    with open(f"/proc/{server}/stat") as stat:
        supervisor = int(stat.read().rpartition(")")[2].split()[1])
    for name in os.listdir("/proc/self/fd"):
        try:
            end = socket.socket(fileno=os.dup(int(name)))
            if struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] == supervisor:
                end.settimeout(8)
                yield end
        except OSError:
            continue
"""
)
FLOODS = {"without an end": b"report", "of short lines": b"a\nb\nc\n", "of empty lines": b"\n" * 6}


@pytest.mark.parametrize("piece", FLOODS.values(), ids=FLOODS)
def test_flood_of_reports(pool: str, place: Place, piece: bytes) -> None:
    """240 MB of reports, or as many as the supervisor takes: it answers meanwhile, and does not grow."""
    service = place(pool, ENDLESS)
    service.watch("-n", "1", "-m", "2", "--drain-timeout", "1")
    (attack,) = service.events.wait("gate:attack")
    service.handlers(HANDLERS)
    before = memory(service.pid)
    with Asking(service.admin, limit=10) as asking:
        attack.release(piece.hex())
        eventually(lambda: asking.count >= 60 or asking.worst >= 10, "it answered for a while", 30)
    grown = memory(service.pid) - before
    print(f"worst {asking.worst:.2f} s, grown by {grown >> 20} MiB")
    assert asking.worst < 2, f"/livez took {asking.worst:.1f} s"
    assert grown < 2**25, f"grown by {grown >> 20} MiB"
    for arrival in service.events.all("gate:attack"):
        arrival.release(None)
    assert service.running()


LONG_NAME = HANDLERS.replace('tell("init", uid=os.geteuid())', "server.set_name(eval(os.environ['NAMED']))")
NAMES = ["'n' * 9000", "'é' * 5000", "'n' * 2**20"]


@pytest.mark.parametrize("name", NAMES)
def test_long_name(pool: str, place: Place, name: str) -> None:
    """A name that no line of syslog has room for is refused, or shortened: nothing hangs."""
    service = place(pool, LONG_NAME)
    done = service.run(
        "--pidfile", service.pidfile, "-i", "127.0.0.1", "-p", "0", "--control", service.control,
        "-n", "1", "-m", "2", env={"NAMED": name}, deadline=15,
    )  # fmt: skip
    if done.returncode:
        assert done.returncode == 70 and "Traceback" not in done.stderr.splitlines()[-1], done.stderr
        service.expect_left = {service.pidfile.name}
        return
    service.adopt(done, int(service.pidfile.read_text()))
    assert service.ctl("health", deadline=10).returncode == 0
    assert service.ctl("stop", deadline=20).returncode == 0
    service.assert_nothing_left()


PIPES = (
    HOSTILE
    + """
@routes.get("/pipes")
def write(request):
    query = request.query
    first, piece, times = bytes.fromhex(query["first"]), bytes.fromhex(query["data"]), int(query["times"])
    if first == b"senders":  # each piece is another sender's
        data = b"".join(b"\\xff\\xfe" + struct.pack("=I", number) + piece for number in range(1, times))
    else:
        data = first + piece * times
    fill_pipes(data)
    tell("written")
    return ""

@routes.get("/log/{text}")
def say(request):
    import logging
    logging.getLogger("mine").warning("said: %s", request.params["text"])
    return ""
"""
)
SENDER = b"\xff\xfe" + (12345).to_bytes(4, "little")
# What begins, what follows, and how often. Nine bytes are a record's frame without content: the mark, its sender, the
# kind (more follows, goes on) and the length.
STRAY = {
    "one byte": (b"x", b"", 0),
    "a zero": (b"\0", b"", 0),
    "half a header": (b"\x01\x02\x03", b"", 0),
    "the largest length": (b"\xff" * 9, b"", 0),
    "the head of a frame": (SENDER + b"\x01\xf0\x0f", b"", 0),
    "a line of text": (b"hello world, a line\n", b"", 0),
    "unfinished frames": (SENDER + b"\x41\0\0", SENDER + b"\xc1\0\0", 230_000),
    "unfinished records": (b"", SENDER + b"\x41\0\0", 230_000),
    "unfinished records of many senders": (b"senders", b"\x41\0\0", 230_000),
    "frames without content": (b"", SENDER + b"\x01\0\0", 230_000),
}


@pytest.mark.parametrize(
    ("first", "data", "times"),
    [pytest.param(*one, marks=NIGHTLY if name == "frames without content" else ()) for name, one in STRAY.items()],
    ids=STRAY,
)
def test_bytes_in_every_pipe(pool: str, place: Place, first: bytes, data: bytes, times: int) -> None:
    """C 2 and B 2: a worker writes bytes that are no record into every pipe that it has, that of the log included. The
    service, and the supervisor's own lines, are heard afterwards; nobody waits."""
    service = place(pool, PIPES)
    service.watch("-n", "2", "-m", "3", "--drain-timeout", "1")
    with Asking(service.admin, limit=15) as asking:
        asked_quietly(service, f"/pipes?first={first.hex()}&data={data.hex()}&times={times}", 30)
        service.events.wait("written")
        for _ in range(3):
            assert service.get("/").text == "hello"
    print(f"/livez took {asking.worst:.2f} s at worst")
    assert asking.worst < 2, f"/livez took {asking.worst:.1f} s"
    # Some lines may be lost with the rubbish, as a pipe tells no line's beginning; not all.
    for number in range(20):
        service.get(f"/log/again-{number}")
    service.log.wait_for("said: again-19", deadline=5)
    service.answers()
    service.serves_again()
    service.log.wait_for("ready: generation 2", deadline=5)
    service.end()
    assert service.log.find(r"\bstopped$")
