"""Control groups: how much CPU time and memory the service may use, and how much memory it uses.

Source: cgroups(7); of version 2 the kernel's cgroup-v2.rst (cpu.max, memory.max, memory.current), of version 1 its
sched-bwc.rst (cpu.cfs_*) and memory.rst (memory.*_in_bytes). A container sees its own group at the root of the mount, a
unit of systemd is some directories below it: each group from ours up to the root counts, and the tightest decides.
Where there are no control groups nothing is limited.
"""

import math
import os
from collections.abc import Iterator

from ..config.service import Service
from ..config.settings import Config
from ..log.records import log

ROOT = "/"  # a test has another one
NO_LIMIT = 2**60  # version 1 says «none» as the largest multiple of a page
SPARE = 10  # the tenth of the limit that workers are not counted on: requests in flight, the kernel's own
MIB = 2**20
CONNECTION = 8192  # bytes that a connection takes, rounded up, with what the budget does not count and the kernel's own
LEAST = 100  # connections, however little memory there is
BUFFERED = 8  # the part of the limit that may be buffered for clients


def groups(controller: str) -> Iterator[str]:
    """Directories of the control groups that we are in, ours first. A hierarchy of version 1 goes first: a controller
    is in one or the other."""
    paths: dict[str, str] = {}
    for line in read(os.path.join(ROOT, "proc/self"), "cgroup").splitlines():
        names, _, path = line.partition(":")[2].partition(":")
        paths.update(dict.fromkeys(names.split(","), path))
    base = os.path.join(ROOT, "sys/fs/cgroup", controller if controller in paths else "").rstrip("/")
    path = os.path.normpath("/" + paths.get(controller, paths.get("", "/")).lstrip("/"))
    while path != "/":
        yield base + path
        path = os.path.dirname(path)
    yield base


def read(directory: str, name: str) -> str:
    """What a file says; "" when it is not there."""
    try:
        with open(os.path.join(directory, name)) as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return ""


def cpu_quota() -> float:
    """Processors that our groups may keep busy, such as 0.5; infinite without a quota."""
    found = math.inf
    for directory in groups("cpu"):
        text = read(directory, "cpu.max") or " ".join(read(directory, f"cpu.cfs_{n}_us") for n in ("quota", "period"))
        quota, _, period = text.strip().partition(" ")
        if quota.strip().isdigit() and period.strip().isdigit() and int(period):
            found = min(found, int(quota) / int(period))
    return found


def cpus() -> int:
    """Processors worth a process each: those that we may run on, and no more than the quota, rounded up."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(number, cpu_quota())))


def memory() -> tuple[int, int]:
    """Bytes of the tightest memory limit, and bytes that its group uses without the pages of files that the kernel can
    drop (inactive_file); (0, 0) without a limit."""
    tightest, place = NO_LIMIT, ""
    for directory in groups("memory"):
        text = (read(directory, "memory.max") or read(directory, "memory.limit_in_bytes")).strip()
        if text.isdigit() and int(text) < tightest:
            tightest, place = int(text), directory
    used = (read(place, "memory.current") or read(place, "memory.usage_in_bytes")).strip() if place else ""
    if not used.isdigit():
        return (tightest, 0) if place else (0, 0)
    facts = dict(line.split(" ", 1) for line in read(place, "memory.stat").splitlines() if " " in line)
    # Version 1 has both: with and without the groups below.
    idle = facts.get("total_inactive_file", facts.get("inactive_file", "0"))
    return tightest, max(0, int(used) - int(idle))


def fit(service: Service, config: Config, resident: int) -> None:
    """Decide --processes auto, and lower --max and --max-connections to what the memory limit has room for, beside the
    `resident` bytes of the service itself. One line of the log names the limits."""
    config.processes = config.processes or cpus()
    limit, quota = memory()[0], cpu_quota()
    said = [f"{quota:g} CPUs"] if quota < math.inf else []
    lowered = asked = False
    if limit:
        said.append(f"{limit / MIB:g} MiB of memory")
        rest = limit - limit // SPARE - resident
        room = rest // service.pool.MEMORY
        if room < 1:
            least = math.ceil((resident + service.pool.MEMORY) / MIB * SPARE / (SPARE - 1))
            log.warning("%d MiB of memory are too few: the kernel may kill processes of the service, which needs %d MiB"
                        " for itself and a worker", limit // MIB, least)  # fmt: skip
        room = max(1, room)
        lowered = room < config.max
        if lowered:
            said.append(f"-m (max) is lowered from {config.max} to {room}")
            config.max, config.idle = room, min(config.idle, room)
        places = max(LEAST, rest // 2 // CONNECTION)
        if places < config.max_connections and service.protocol_name == "http":
            said.append(f"--max-connections is lowered from {config.max_connections} to {places}")
            asked = config.source["max_connections"] != "default"
            config.max_connections = places
        config.budget = limit // BUFFERED
    if not said:
        return
    if service.pool_name == "threaded":
        said.append(f"--processes is {config.processes}")
    asked |= lowered and config.source["max"] != "default"
    (log.warning if asked else log.info)("limits of the control group: %s", ", ".join(said))
