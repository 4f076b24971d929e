"""`ctl`: the status of a running service, and orders to it, over its control socket or admin address."""

import bisect
import itertools
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from ..config.errors import OK, UNAVAILABLE, USAGE, StartError
from ..config.service import Service
from ..config.settings import Config, load, nearest
from ..config.text import cleaned

COMMANDS = {
    "status": "show what runs; --json as data, --watch again every second",
    "health": "exit 0 when the service is ready",
    "reload": "start a new generation with new code and configuration; wait until it serves or has failed",
    "reloaded": "wait for the end of the reload that a HUP has begun; 1 when it, or the latest one, has failed",
    "restart": "stop gracefully and start again, the supervisor too; wait until it is ready",
    "stop": "stop gracefully; does not wait",
    "stacks": "let each process log where its threads are",
    "workers": "+N or -N: keep so many more or fewer idle workers ready, until the next reload",
}
WATCH_INTERVAL = 1.0  # seconds
CLEAR = "\x1b[H\x1b[2J"  # ECMA-48: cursor home, erase the screen


def main(service: Service, arguments: Sequence[str]) -> int:
    """Run one sub-command. Exit status: 0 done, 1 the service says no, 69 it does not answer."""
    as_json, watch = "--json" in arguments, "--watch" in arguments
    rest = [a for a in arguments if a not in ("--json", "--watch")]
    command = rest.pop(0) if rest else ""
    if command in ("-h", "--help", "help"):
        print(usage(service), end="")
        return OK
    if command not in COMMANDS:
        hint = nearest(command, list(COMMANDS))
        raise StartError(f"ctl: needs one of {', '.join(COMMANDS)}, not {command!r}{hint}", USAGE)
    if (as_json or watch) and command != "status":
        raise StartError(f"ctl: --json and --watch belong to `ctl status`, not to {command!r}", USAGE)
    change = workers_of(rest) if command == "workers" else ""
    config = load(service, rest, os.environ, running=sys.maxsize)  # it starts none
    unit = f"/run/{config.name}/{config.name}.ctl"  # the RUNTIME_DIRECTORY that a systemd unit has, seen from outside
    if config.source["control"] == "default" and not os.path.exists(config.control) and os.path.exists(unit):
        config.control = unit
    if command == "status":
        return status(config, as_json, watch)
    if command == "restart":
        return restart(config)
    method, path = ("GET", "/readyz") if command == "health" else ("POST", f"/{command}{change}")
    code, body = ask(config, method, path)
    print(cleaned(body.rstrip("\n")), file=sys.stdout if code < 300 else sys.stderr)
    return OK if code < 300 else 1


def usage(service: Service) -> str:
    lines = [f"usage: {service.name} ctl COMMAND [options]", ""]
    lines += [f"  {name:9} {text}" for name, text in COMMANDS.items()]
    lines += [
        "",
        "Orders go to the control socket (--control, or found by --pidfile or RUNTIME_DIRECTORY); questions go to",
        "the admin address (--admin) when there is one. Exit status: 0 done, 1 the service says no, 69 no answer.",
    ]
    return "\n".join(lines) + "\n"


def workers_of(rest: list[str]) -> str:
    """The query of `workers`; takes its argument out of `rest`, before it looks like an option."""
    for text in rest:
        if text[:1] in ("+", "-") and text[1:].isascii() and text[1:].isdigit():
            rest.remove(text)
            return "?" + text
    raise StartError("ctl workers: needs a number with its sign: +2 or -2", USAGE)


def status(config: Config, as_json: bool, watch: bool) -> int:
    """Print the status once, or with `watch` every second until Ctrl-C."""
    import json

    before: dict[str, Any] | None = None
    while True:
        code, body = ask(config, "GET", "/status")
        if code != 200:
            print(cleaned(body.rstrip("\n")), file=sys.stderr)
            return 1
        now = json.loads(body)
        text = body.rstrip("\n") if as_json else cleaned(table(now, before))
        print((CLEAR if watch and not as_json and sys.stdout.isatty() else "") + text, flush=True)
        if not watch:
            return OK
        before = now
        time.sleep(WATCH_INTERVAL)


def restart(config: Config) -> int:
    """Order a restart, then wait until a supervisor that started after the order is ready."""
    import json

    code, body = ask(config, "POST", "/restart")
    ordered = time.monotonic()
    if code >= 300:
        print(cleaned(body.rstrip("\n")), file=sys.stderr)
        return 1
    limit = (config.drain_timeout or 3600) + config.stop_delay + (config.start_timeout or 3600) + 10
    while time.monotonic() - ordered < limit:
        time.sleep(0.1)
        try:
            code, body = ask(config, "GET", "/status")
        except StartError:
            continue  # it is on its way down, or up
        found = json.loads(body) if code == 200 else {}
        if found and found["uptime_seconds"] < time.monotonic() - ordered and found["ready"]:
            print(f"restarted: pid {found['pid']}")
            return OK
    print(f"ctl: not ready {limit:.0f} s after the order; see the log", file=sys.stderr)
    return 1


def ask(config: Config, method: str, path: str) -> tuple[int, str]:
    """One HTTP request to the supervisor: its status and body. Raises StartError (69)."""
    admin = config.admin if method == "GET" else ""
    where = admin or ("unix:" + config.control if config.control else "")
    if not where:
        raise StartError("ctl: no address: give --control, --pidfile or RUNTIME_DIRECTORY as the service has it", USAGE)
    # A reload that is ordered while another generation starts waits for both.
    limit = 2 * (config.start_timeout or 3600) + 10 if path in ("/reload", "/reloaded") else 5.0
    try:
        with connect(where, limit) as sock:
            sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
            data = b""
            while piece := sock.recv(65536):
                data += piece
    except OSError as error:
        hint = "; only its own user and root have access" if isinstance(error, PermissionError) else ""
        raise StartError(f"ctl: {where} does not answer: {error.strerror or error}{hint}", UNAVAILABLE) from None
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        raise StartError(f"ctl: {where} closed the connection without an answer", UNAVAILABLE)
    return int(head[9:12]), body.decode()


def connect(where: str, timeout: float) -> socket.socket:
    if where.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        sock.connect(where[5:])
        return sock
    host, _, port = where.rpartition(":")
    return socket.create_connection((host.strip("[]") or "127.0.0.1", int(port)), timeout)


def table(now: dict[str, Any], before: dict[str, Any] | None) -> str:
    """The status for people; with rates when there is an earlier one to compare with."""
    state = "ready" if now["ready"] else f"NOT READY: {now['reason']}"
    workers, totals = now["workers"], now["totals"]
    pool = (
        f"{workers['busy']} busy, {workers['idle']} idle, {workers['starting']} starting, {workers['leaving']} leaving;"
        f" keeps {workers['floor']} idle, {workers['max']} at most"
    )
    queues = f"{now['queue']} in the accept queue, {workers['waiting']} wait for a thread"
    crashes = f"{totals['worker_crashes']} workers, {now['crashes']} servers"
    if now["throttled_seconds"]:
        crashes += f" (too fast: the next start in {now['throttled_seconds']:.1f} s)"
    lines = [
        f"{now['name']} {now['version']}  pid {now['pid']}  {state}  up {duration(now['uptime_seconds'])}",
        *(f"  {address}" for address in now["listeners"]),
        f"  workers      {pool}",
        f"  connections  {now['connections']} held, {queues}",
        f"  requests     {totals['requests']}, {totals['errors']} errors{rate(now, before)}",
        f"  latency      {latency(now, before)}",
        f"  crashes      {crashes}; {totals['failed_reloads']} failed reloads",
    ]
    for one in now["metrics"]:
        value = "no number" if one["value"] is None else f"{one['value']:g}"
        lines.append(f"  {one['name']:12} {value}  ({one['help']})")
    for generation in now["generations"]:
        lines.append(
            f"generation {generation['number']} ({generation['phase']}, {duration(generation['age_seconds'])}):"
            f" {generation['requests']} requests, {generation['errors']} errors"
        )
        lines.append("  SLOT     PID  STATE    CONNECTIONS    REQUESTS    ERRORS   REQUEST RUNS FOR")
        for worker in generation["workers"]:
            threads = worker["threads"]
            busy = sum(thread["state"] == "busy" for thread in threads)
            lines.append(
                f"  {worker['slot']:4} {worker['pid']:7}  {worker['state']:8} {worker['connections']:11}"
                f" {worker['requests']:11} {worker['errors']:9}   {duration(worker['request_seconds'])}"
                + (f"  {len(threads)} threads, {busy} busy" if threads else "")
            )
        if generation["unlisted"]:
            lines.append(f"  and {generation['unlisted']} more")
    return "\n".join(lines)


def rate(now: dict[str, Any], before: dict[str, Any] | None) -> str:
    if before is None or now["pid"] != before["pid"]:
        return ""
    seconds = now["uptime_seconds"] - before["uptime_seconds"]
    return f", {(now['totals']['requests'] - before['totals']['requests']) / seconds:.0f}/s" if seconds > 0 else ""


def latency(now: dict[str, Any], before: dict[str, Any] | None) -> str:
    """The median and the 99th percentile: since the previous status, or since the start."""
    counts, bounds = now["latency"]["counts"], now["latency"]["bounds_seconds"]
    if before is not None and sum(counts) > sum(before["latency"]["counts"]):
        counts = [a - b for a, b in zip(counts, before["latency"]["counts"], strict=True)]
    sums = list(itertools.accumulate(counts))
    if not sums[-1]:
        return "no requests yet"
    shown = [*(f"< {bound * 1000:.3g} ms" for bound in bounds), f"> {bounds[-1]:.0f} s"]
    return ", ".join(f"{part * 100:.0f} % {shown[bisect.bisect_left(sums, sums[-1] * part)]}" for part in (0.5, 0.99))


def duration(seconds: float | None) -> str:
    """For people: 0.25 s, 12 s, 5 min, 3 h, 2 d."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2f} s"
