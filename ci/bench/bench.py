"""The benchmark: this service beside its peers, in one run, by paired and interleaved rounds.

    make bench                 all workloads, 7 rounds: about half an hour
    make bench ARGS="--rounds 3 --seconds 0.5 --only small"
    make bench ARGS="--against HEAD~1"      this work tree beside an older commit, without the peers; writes no report

Everything runs under Debian's own python3 (built with PGO and LTO), in a network namespace of its own, so that neither
connection tracking nor other programs disturb. In each round every server is measured once, in an order that changes.
What decides is the CPU time per request of the whole server tree, user and system, read from /proc: on a shared machine
it is steadier than requests per second, which are reported beside it. Ratios are taken within a round, so that a
machine whose speed drifts compares like with like; medians of them are reported, with quartiles.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress as suppressed
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEMPLATE = HERE.parents[1]
SERVERS = HERE / "servers"
PYTHON = "/usr/bin/python3"
PAGES = ("ours-prefork", "ours-threaded", "limit", "bjoern", "gunicorn-gthread", "gunicorn-sync", "waitress", "cheroot",
         "uvicorn-httptools", "uvicorn-h11", "granian", "uwsgi", "node", "nginx")  # fmt: skip
SOCKETSERVER = ("socketserver-threading", "socketserver-forking")
LOGGED, LOGGED_THREADED = (
    (f"ours-{pool}-uncounted", f"ours-{pool}-text", f"ours-{pool}-json") for pool in ("prefork", "threaded")
)
BEFORE = "before:"  # in front of a server's name: the same server of the commit of --against
FAST = ("ours-prefork", "limit", "bjoern", "uvicorn-httptools", "granian", "node", "nginx")


@dataclass(frozen=True)
class Workload:
    """One kind of load: what wrk does, and which servers can take part."""

    name: str
    path: str
    servers: tuple[str, ...]
    connections: int = 64
    script: str = ""
    headers: tuple[str, ...] = ()
    held: int = 0  # other connections held open beside the load
    speaking: bool = True  # they have sent a request before
    client: str = "wrk"  # or what echo.py does: held, oneshot


DIFFERENT = """
local n = 0
request = function()
  n = n + 1
  return "GET /bytes?page=" .. n .. " HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n" ..
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\\r\\n" ..
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\\r\\n" ..
    "Accept-Language: en-US,en;q=0.5\\r\\nAccept-Encoding: gzip, deflate, br, zstd\\r\\n" ..
    "Referer: https://www.example.com/some/page?with=query&number=" .. n .. "\\r\\n" ..
    "Cookie: session=0123456789abcdef" .. n .. "; theme=dark; consent=yes; _ga=GA1.2.1234567890.1234567890\\r\\n" ..
    "X-Request-ID: 4bf92f3577b34da6a3ce929d0e0e" .. n .. "\\r\\n" ..
    "Sec-Fetch-Dest: document\\r\\nSec-Fetch-Mode: navigate\\r\\n" ..
    "Sec-Fetch-Site: same-origin\\r\\nPriority: u=0, i\\r\\n\\r\\n"
end
"""
POST = (
    'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [['
    + json.dumps({"items": [{"id": n, "name": f"item number {n}", "price": n * 1.5} for n in range(19)]})
    + "]]\n"
)
WORKLOADS = (
    Workload("small", "/bytes", PAGES),
    Workload("small-16", "/bytes", FAST, connections=16),
    Workload("small-256", "/bytes", FAST, connections=256),
    Workload("browser", "/bytes", ("ours-threaded", *FAST), script=DIFFERENT),
    Workload(
        "json",
        "/json",
        ("ours-prefork", "ours-threaded", "bjoern", "uvicorn-httptools", "granian", "node", "gunicorn-gthread"),
        script=POST,
    ),
    Workload(
        "connection",
        "/bytes",
        ("ours-prefork", "ours-threaded", "limit-close", "gunicorn-sync", "uvicorn-httptools", "bjoern"),
        headers=("Connection: close",),
    ),
    Workload("beside-idle", "/bytes", ("ours-prefork", "ours-threaded", "bjoern", "uvicorn-httptools"), held=1000),
    Workload(
        "beside-silent",
        "/bytes",
        ("ours-prefork", "ours-threaded", "bjoern", "uvicorn-httptools"),
        held=1000,
        speaking=False,
    ),
    Workload("sleep-5ms", "/sleep", ("ours-prefork-32", "ours-threaded-32", "gunicorn-gthread", "uvicorn-httptools")),
    Workload(
        "large",
        "/large",
        ("ours-prefork", "ours-threaded", "bjoern", "uvicorn-httptools", "gunicorn-gthread"),
        connections=16,
    ),
    Workload("one-process", "/bytes", ("ours-threaded-1", "limit-1", "gunicorn-gthread-1")),
    Workload("echo-held", "", ("line-prefork-64", "line-threaded-64", *SOCKETSERVER), client="held"),
    Workload("echo-oneshot", "", ("line-prefork-2", "line-threaded-2", *SOCKETSERVER), client="oneshot"),
    Workload("own-costs", "/bytes", ("ours-prefork", *LOGGED)),
    Workload("own-costs-threaded", "/bytes", ("ours-threaded", *LOGGED_THREADED)),
)


@dataclass
class Figures:
    """What one round of one server gave."""

    requests: float  # per second
    cpu: float  # microseconds per request of the whole tree
    p50: float  # milliseconds
    p99: float
    errors: int
    pss: float  # MiB after the load


@dataclass
class Stage:
    """Directories that hold what is measured."""

    scratch: Path
    peers: Path  # virtual environment of the peers
    projects: dict[str, Path] = field(default_factory=dict)

    @property
    def python(self) -> str:
        """The interpreter of all servers: the system's own would look for unused site-packages at each start."""
        return str(self.peers / "bin" / "python")

    def command(self, name: str, port: int) -> list[str]:
        """How a server is started."""
        name = name.removeprefix(BEFORE)
        binary = self.peers / "bin"
        bind = f"127.0.0.1:{port}"
        if name.startswith(("ours-", "line-")):
            kind, pool, *rest = name.split("-")
            workers = rest[0] if rest and rest[0].isdigit() else "2"
            flags = [
                "-x",
                "-i",
                "127.0.0.1",
                "-p",
                str(port),
                "--admin",
                f"127.0.0.1:{port + 1}",
                "--log-level",
                "error",
            ]
            if rest and rest[0] in ("text", "json"):
                flags += ["--access-log", "combined" if rest[0] == "text" else "json"]
                flags[flags.index("error")] = "info"
            if kind == "line":
                flags += ["-n", workers, "-m", "64" if pool == "threaded" else workers]
            elif pool == "prefork":
                flags += ["-n", workers, "-m", workers]
            else:
                one = rest and rest[0].isdigit()
                flags += ["--processes", "1" if one else "2", "-n", "4", "-m", "32" if workers == "32" else "16"]
            return [self.python, "-m", "hello_server", *flags]
        gunicorn = [str(binary / "gunicorn"), "-b", bind, "--chdir", str(SERVERS), "--log-level", "error"]
        uvicorn = [str(binary / "uvicorn"), "asgi:application", "--app-dir", str(SERVERS), "--port", str(port),
                   "--loop", "uvloop",
                   "--workers", "2", "--no-access-log", "--log-level", "error"]  # fmt: skip
        conf = self.scratch / f"nginx-{port}.conf"
        text = (SERVERS / "nginx.conf").read_text()
        conf.write_text(text.replace("DIRECTORY", str(self.scratch)).replace("PORT", str(port)))
        commands = {
            "limit": [self.python, str(SERVERS / "limit.py"), str(port), "2"],
            "limit-1": [self.python, str(SERVERS / "limit.py"), str(port), "1"],
            "limit-close": [self.python, str(SERVERS / "limit.py"), str(port), "2", "close"],
            "bjoern": [self.python, str(SERVERS / "bjoern_two.py"), str(port)],
            "gunicorn-gthread": [*gunicorn, "-k", "gthread", "-w", "2", "--threads", "8", "wsgi:application"],
            "gunicorn-gthread-1": [*gunicorn, "-k", "gthread", "-w", "1", "--threads", "8", "wsgi:application"],
            "gunicorn-sync": [*gunicorn, "-w", "2", "wsgi:application"],
            "waitress": [str(binary / "waitress-serve"), f"--listen={bind}", "--threads=8", "wsgi:application"],
            "cheroot": [str(binary / "cheroot"), "wsgi:application", "--bind", bind, "--threads", "8"],
            "uvicorn-httptools": [*uvicorn, "--http", "httptools"],
            "uvicorn-h11": [*uvicorn, "--http", "h11"],
            "granian": [str(binary / "granian"), "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(port),
                        "--workers", "2", "--no-access-log", "--no-log", "wsgi:application"],
            "uwsgi": ["uwsgi", "--plugin", "python3", "--http11-socket", bind, "--processes", "2",
                      "--master", "--disable-logging", "--chdir", str(SERVERS), "--module", "wsgi:application",
                      "--die-on-term"],
            "node": ["node", str(SERVERS / "node.js"), str(port), "2"],
            "nginx": ["nginx", "-c", str(conf)],
            "socketserver-threading": [self.python, str(SERVERS / "echo.py"), str(port), "Threading"],
            "socketserver-forking": [self.python, str(SERVERS / "echo.py"), str(port), "Forking"],
        }  # fmt: skip
        return commands[name]

    def environment(self, name: str) -> dict[str, str]:
        """Ours run from a baked project, the peers beside their application."""
        which = name if name in self.projects else "-".join(name.split("-")[:2])  # without the number of workers
        path = self.projects[which] / "src" if which in self.projects else SERVERS
        return {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": ""}


def tree(leader: int) -> list[int]:
    """A process and all that descend from it: servers of ours begin sessions of their own."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppressed(OSError):
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found = [leader]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(leader: int) -> float:
    """Time on a processor of a session, all threads, user and system, in seconds.

    From schedstat, which counts nanoseconds: the ticks of stat misjudge a server that sleeps and wakes within one.
    """
    total = 0
    for pid in tree(leader):
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(task.read_text().split()[0])
            except OSError:
                continue  # a thread that has just ended
    return total / 1e9


def cpu_seconds_with_ended(leader: int) -> float:
    """The same with threads that have ended and children that were reaped, in the ticks of stat (proc_pid_stat(5))."""
    total = 0
    for pid in tree(leader):
        with suppressed(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return total / os.sysconf("SC_CLK_TCK")


def pss(leader: int) -> float:
    """Proportional memory of a session in MiB."""
    total = 0
    for pid in tree(leader):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(value) for value in re.findall(r"^Pss:\s+(\d+)", text, re.M))
    return total / 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as sock:
            sock.sendall(b"GET /bytes HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return sock.recv(64).startswith((b"HTTP/1.1 200", b"GET /bytes"))  # or its echo
    except OSError:
        return False


@contextmanager
def running(stage: Stage, name: str) -> Iterator[tuple[int, int, float]]:
    """A server in a session of its own: (port, pid, seconds to its first answer)."""
    port = random.randrange(20000, 30000)  # below the ephemeral range: a poll must not connect to itself
    log = stage.scratch / f"{name}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            stage.command(name, port), env=stage.environment(name), cwd=stage.scratch,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        while not answers(port):
            if process.poll() is not None or time.monotonic() - began > 20:
                sys.exit(f"{name} does not answer:\n{log.read_text()}")
            time.sleep(0.001)
        yield port, process.pid, time.monotonic() - began
    finally:
        for pid in tree(process.pid):
            with suppressed(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def measure(stage: Stage, workload: Workload, name: str, seconds: float) -> Figures:
    """One server under one load."""
    script = stage.scratch / f"{workload.name}.lua"
    script.write_text(workload.script)
    with running(stage, name) as (port, leader, _):
        if workload.client != "wrk":
            return echoed(workload, port, leader, seconds)
        others = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(workload.held)]
        if workload.speaking:
            for sock in others:
                sock.sendall(b"GET /bytes HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                sock.recv(4096)
        wrk = ["wrk", "-t1", f"-c{workload.connections}", "--latency", "--timeout", "10s"]
        if workload.script:
            wrk += ["-s", str(script)]
        for header in workload.headers:
            wrk += ["-H", header]
        url = f"http://127.0.0.1:{port}{workload.path}"
        subprocess.run([*wrk, "-d1s", url], capture_output=True, check=True) if seconds >= 1 else None  # warm up
        before = cpu_seconds(leader)
        whole = max(1, round(seconds))
        text = subprocess.run([*wrk, f"-d{whole}s", url], capture_output=True, check=True, text=True).stdout
        used = cpu_seconds(leader) - before
        memory = pss(leader)
        for sock in others:
            sock.close()
    found = re.search(r"(\d+) requests in ([\d.]+)(m?s)", text)
    count = int(found[1]) if found else 0
    if not found or not count:
        return Figures(0, float("nan"), float("nan"), float("nan"), 10**6, memory)
    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0])
    errors = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", text)))
    errors += sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", text)))
    return Figures(rate, used * 1e6 / count, latency(text, "50%"), latency(text, "99%"), errors, memory)


def echoed(workload: Workload, port: int, leader: int, seconds: float) -> Figures:
    """One server of lines; its client is ours, for wrk speaks nothing but HTTP."""
    client = [sys.executable, str(HERE / "echo.py"), workload.client, str(port), str(workload.connections)]
    if seconds >= 1:
        subprocess.run([*client, "1"], capture_output=True, check=True)  # warm up
    before = cpu_seconds_with_ended(leader)
    text = subprocess.run([*client, str(max(1, round(seconds)))], capture_output=True, check=True, text=True).stdout
    used = cpu_seconds_with_ended(leader) - before
    said = json.loads(text)
    return Figures(said["rate"], used * 1e6 / said["count"], said["p50"], said["p99"], said["errors"], pss(leader))


def latency(text: str, percentile: str) -> float:
    """Milliseconds at a percentile of wrk's report."""
    found = re.search(rf"{re.escape(percentile)}\s+([\d.]+)(us|ms|s)\b", text)
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]] if found else float("nan")


STARTING = ("ours-prefork", "ours-threaded", "gunicorn-gthread", "uvicorn-httptools", "bjoern", "granian")


def starts(stage: Stage, rounds: int, names: tuple[str, ...]) -> dict[str, list[float]]:
    """Milliseconds from the command to the first answer."""
    result: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            with running(stage, name) as (_, _, took):
                result[name].append(took * 1000)
    return result


def ours(servers: tuple[str, ...]) -> tuple[str, ...]:
    """Our servers among these, each followed by the same one of the commit of --against."""
    return tuple(
        name
        for server in servers
        if re.fullmatch(r"(ours|line)-\w+(-\d+)?", server)
        for name in (server, BEFORE + server)
    )


def bake_commit(stage: Stage, commit: str) -> None:
    """The projects of an older commit of the template."""
    template = stage.scratch / "before"
    template.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=TEMPLATE, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x"], cwd=template, check=True, input=archive)
    before = Stage(template / "baked", stage.peers)
    bake(before, template, uncounted=False)
    stage.projects.update({BEFORE + name: project for name, project in before.projects.items()})


def bake(stage: Stage, template: Path = TEMPLATE, uncounted: bool = True) -> None:
    """A project of each pool, with the benchmark's handlers, compiled as an installed one would be."""
    for pool in ("prefork", "threaded"):
        for kind, protocol, handlers in (("ours", "http", "handlers.py"), ("line", "line", "handlers_line.py")):
            name = f"{kind}-{pool}"
            answers_ = [sys.executable, "-m", "cookiecutter", str(template), "--no-input", "-o",
                        str(stage.scratch / name), f"pool={pool}", f"protocol={protocol}"]  # fmt: skip
            subprocess.run(answers_, check=True, capture_output=True)
            stage.projects[name] = project = next((stage.scratch / name).iterdir())
            shutil.copy(SERVERS / handlers, project / "src" / "hello_server" / "handlers.py")
        if not uncounted:
            continue
        name = f"ours-{pool}"
        bare = stage.projects[f"{name}-uncounted"] = stage.scratch / f"{name}-uncounted"
        shutil.copytree(stage.projects[name], bare)
        count_nothing(bare / "src" / "hello_server" / "runtime")
    for project in stage.projects.values():
        subprocess.run([PYTHON, "-m", "compileall", "-q", str(project / "src")], check=True)


def count_nothing(runtime: Path) -> None:
    """What the scoreboard costs shows a runtime that writes no figures of a request to it."""
    for file, counting in (
        ("http/response_writer.py", "        server.latency[bits if bits < BUCKETS else BUCKETS - 1] += 1\n"),
        ("http/response_writer.py", "        server.microseconds += took\n"),
        ("http/connection.py", "            self.server.received += len(data)\n"),
        ("http/response_writer.py", "            server.sent += sent\n"),
        ("loop/stall_monitor.py", "        self.loop.engine.publish()\n"),
    ):
        text = (runtime / file).read_text()
        if text.count("\n" + counting) != 1:
            sys.exit(f"bench: {file} no longer counts by this line: {counting.strip()}")
        nothing = counting[: len(counting) - len(counting.lstrip())] + "pass\n"
        (runtime / file).write_text(text.replace("\n" + counting, "\n" + nothing))


def prepare(stage: Stage, peers: bool) -> None:
    """Everything that is measured must be there: a peer that cannot be installed ends the run."""
    missing = [name for name in ("wrk", *(("uwsgi", "nginx", "node") if peers else ())) if shutil.which(name) is None]
    if missing:
        sys.exit(f"bench: not installed: {', '.join(missing)}; see ci/bench/prepare")
    if not (stage.peers / "bin" / "python").exists():
        subprocess.run([PYTHON, "-m", "venv", str(stage.peers)], check=True)
    if peers:
        subprocess.run([str(stage.peers / "bin" / "pip"), "install", "-q", "-r", str(HERE / "peers.txt")], check=True)
    bake(stage)


def main() -> None:
    """Measure, print, and write results.json for `report.py`."""
    parser = argparse.ArgumentParser(description="Measure this service beside its peers.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load per server, workload and round")
    parser.add_argument("--only", action="append", help="name of a workload, or start; repeatable")
    parser.add_argument("--peers", type=Path, default=TEMPLATE / "build" / "peers", help="virtual environment")
    parser.add_argument("--output", type=Path, default=TEMPLATE / "docs" / "benchmarks")
    parser.add_argument("--against", metavar="COMMIT", help="measure this work tree and that commit, interleaved")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        with tempfile.TemporaryDirectory() as name:
            prepare(Stage(Path(name), options.peers.absolute()), not options.against)
        enter = 'ip link set lo up && exec "$@"'
        os.execvp(
            "unshare",
            ["unshare", "--net", "sh", "-c", enter, "sh", sys.executable, __file__, "--inside", *sys.argv[1:]],
        )
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        stage = Stage(Path(name), options.peers.absolute())
        bake(stage)
        if options.against:
            bake_commit(stage, options.against)
        results: dict[str, dict[str, list[Figures]]] = {}
        for workload in WORKLOADS:
            servers = ours(workload.servers) if options.against else workload.servers
            if (options.only and workload.name not in options.only) or not servers:
                continue
            rows: dict[str, list[Figures]] = {server: [] for server in servers}
            for number in range(options.rounds):
                order = list(servers)
                random.Random(number).shuffle(order)
                for server in order:
                    rows[server].append(measure(stage, workload, server, options.seconds))
            results[workload.name] = rows
            if options.against:
                compare(workload.name, rows)
            else:
                show(workload.name, rows)
        names = ours(STARTING) if options.against else STARTING
        start = starts(stage, options.rounds, names) if not options.only or "start" in options.only else {}
        for server, times in start.items():
            print(f"start {server:20} {statistics.median(times):7.1f} ms")
        if options.against:
            return
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "results.json"
    old = json.loads(path.read_text()) if path.exists() and options.only else {"workloads": {}, "start": {}}
    plain = {w: {s: [vars(f) for f in figures] for s, figures in rows.items()} for w, rows in results.items()}
    old["workloads"].update(plain)
    old["start"].update(start)
    old["machine"] = machine(options)
    path.write_text(json.dumps(old, indent=1) + "\n")


def machine(options: argparse.Namespace) -> dict[str, str]:
    """What the figures were measured on."""
    versions = subprocess.run([str(options.peers / "bin" / "pip"), "freeze"], capture_output=True, text=True).stdout
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "python": subprocess.run([PYTHON, "--version"], capture_output=True, text=True).stdout.strip(),
        "kernel": os.uname().release.split("-")[0],
        "processor": model[1] if model else os.uname().machine,
        "processors": str(os.cpu_count()),
        "rounds": str(options.rounds),
        "seconds": str(options.seconds),
        "peers": versions.strip(),
    }


def show(name: str, rows: dict[str, list[Figures]]) -> None:
    """A table: medians, and ratios of the first server to each other one, round by round."""
    print(f"\n{name}\n{'server':20} {'req/s':>9} {'CPU us':>8} {'p50 ms':>8} {'p99 ms':>8} {'PSS MiB':>8} {'errors':>7}"
          f"   {'CPU, times ours':>22}   req/s of ours", flush=True)  # fmt: skip
    first = next(iter(rows.values()))
    for server, figures in rows.items():
        ratios = [other.cpu / ours.cpu for ours, other in zip(first, figures, strict=True)]
        rates = [ours.requests / other.requests for ours, other in zip(first, figures, strict=True) if other.requests]
        low, middle, high = quartiles(ratios)
        print(
            f"{server:20} {statistics.median(f.requests for f in figures):9.0f}"
            f" {statistics.median(f.cpu for f in figures):8.1f} {statistics.median(f.p50 for f in figures):8.2f}"
            f" {statistics.median(f.p99 for f in figures):8.2f} {statistics.median(f.pss for f in figures):8.1f}"
            f" {sum(f.errors for f in figures):7}   {middle:7.2f} ({low:.2f}-{high:.2f})"
            f"   {statistics.median(rates) if rates else float('nan'):7.2f}",
            flush=True,
        )


def compare(name: str, rows: dict[str, list[Figures]]) -> None:
    """Each of our servers beside the older commit's: medians of the ratios new/old, round by round, with quartiles."""
    for server, now in rows.items():
        if server.startswith(BEFORE):
            continue
        pairs = list(zip(now, rows[BEFORE + server], strict=True))
        cpu, memory = quartiles([a.cpu / b.cpu for a, b in pairs]), quartiles([a.pss / b.pss for a, b in pairs])
        rate = quartiles([a.requests / b.requests for a, b in pairs if b.requests])
        print(
            f"{name:14} {server:18} CPU {statistics.median(f.cpu for f in now):6.1f} us, new/old"
            f" {cpu[1]:5.3f} ({cpu[0]:.2f}-{cpu[2]:.2f})   requests/s {rate[1]:5.3f} ({rate[0]:.2f}-{rate[2]:.2f})"
            f"   memory {memory[1]:5.3f}   errors {sum(a.errors for a, _ in pairs)}, {sum(b.errors for _, b in pairs)}",
            flush=True,
        )


def quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


if __name__ == "__main__":
    main()
