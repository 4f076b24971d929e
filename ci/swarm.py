"""A Docker Swarm of two nodes on one machine, without a registry, that leaves nothing behind.

    swarm.py run COMMAND ...      make it, run the command with DOCKER_HOST set to the manager's engine, take it down

Each node is an engine in namespaces of its own (network, processes, mounts, name), so whatever it starts dies with the
first process in there, and that one dies with this script, however it ends. A cable (a pair of veth devices) joins the
two; neither reaches this machine's network. Needs root. Only files can outlive a killed run: the next one removes them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PREFIX = "servertemplate-swarm-"  # of directories and control groups; the number of the process that made them follows
ADDRESSES = ("192.0.2.1", "192.0.2.2")  # RFC 5737: for documentation, so no machine has them
DEADLINE = 120.0
CABLE = "cable"
# Ports are published by a process, without packet filter rules; the overlay network needs none.
ENGINE = [
    "dockerd",
    "--bridge=none",
    "--iptables=false",
    "--ip6tables=false",
    "--exec-opt=native.cgroupdriver=cgroupfs",
]
# PID 1 in there: it reaps, and gives the engine what a booted machine has.
FIRST = 'hostname "$0" && mount -t tmpfs none /run && ip link set lo up && { "$@" & wait $!; }'


class Node:
    """One engine. `host` is what DOCKER_HOST has to be."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory / name
        self.directory.mkdir()
        self.group = f"{directory.name}-{name}"
        self.host = f"unix://{self.directory}/engine.sock"
        self.log = self.directory / "engine.log"
        options = {
            "host": self.host,
            "data-root": self.directory / "data",
            "exec-root": self.directory / "exec",
            "pidfile": self.directory / "engine.pid",
            "cgroup-parent": f"/{self.group}",
        }
        namespaces = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "sh", "-c", FIRST, name, *ENGINE]
        command += [f"--{option}={value}" for option, value in options.items()]
        # An image that is here is taken, without asking a registry first.
        surroundings = {
            **os.environ,
            "DOCKER_SERVICE_PREFER_OFFLINE_IMAGE": "1",
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        ours = os.readlink("/proc/self/ns/net")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=surroundings)
        self.until("in a network of its own", lambda: os.readlink(f"/proc/{self.process.pid}/ns/net") != ours)
        # Held open: a node that has lost its power still hangs on the cable, it does not take the other end along.
        self.network = os.open(f"/proc/{self.process.pid}/ns/net", os.O_RDONLY)

    def until(self, what: str, happened: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not happened():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                said = "\n".join(self.log.read_text().splitlines()[-20:])
                sys.exit(f"{self.name}: not {what}; the engine says:\n{said}")
            time.sleep(0.05)

    def docker(self, *arguments: str) -> str:
        """What a command to this engine says; raises CalledProcessError, with its words on stderr, if it fails."""
        command = ["docker", "--host", self.host, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        if done.returncode != 0:
            print(f"{self.name}: {done.stderr}", file=sys.stderr)
        done.check_returncode()
        return done.stdout.strip()

    def answers(self) -> bool:
        return subprocess.run(["docker", "--host", self.host, "version"], capture_output=True).returncode == 0

    def ip(self, *arguments: str) -> None:
        """Run ip(8) in its network."""
        descriptor = f"/proc/{os.getpid()}/fd/{self.network}"
        subprocess.run(["nsenter", f"--net={descriptor}", "ip", *arguments], check=True, timeout=DEADLINE)

    def lose(self) -> None:
        """Pull the cable, then the plug."""
        self.ip("link", "set", CABLE, "down")
        self.kill()

    def kill(self) -> None:
        """All its processes, at once."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        os.close(self.network)
        # The processes are gone; their control groups are empty directories, which nothing else removes.
        deadline = time.monotonic() + DEADLINE
        while not remove_groups(self.group):
            if time.monotonic() > deadline:
                print(f"{self.name}: its control groups {self.group} are still in use", file=sys.stderr)
                break
            time.sleep(0.05)


class Swarm:
    """`manager` and `worker`."""

    def __init__(self, directory: Path) -> None:
        self.nodes: list[Node] = []
        self.directory = directory

    def start(self) -> None:
        for name in ("manager", "worker"):
            self.nodes.append(Node(name, self.directory))
        self.manager, self.worker = self.nodes
        self.manager.ip("link", "add", CABLE, "type", "veth", "peer", CABLE, "netns", str(self.worker.process.pid))
        for node, address in zip(self.nodes, ADDRESSES, strict=True):
            node.ip("address", "add", f"{address}/24", "dev", CABLE)
            node.ip("link", "set", CABLE, "up")
            node.until("answering", node.answers)
        # A lost node is noticed after three beats.
        own = ["--listen-addr", ADDRESSES[0], "--advertise-addr", ADDRESSES[0]]
        self.manager.docker("swarm", "init", *own, "--dispatcher-heartbeat", "1s")
        token = self.manager.docker("swarm", "join-token", "--quiet", "worker")
        own = ["--listen-addr", ADDRESSES[1], "--advertise-addr", ADDRESSES[1]]
        self.worker.docker("swarm", "join", "--token", token, *own, ADDRESSES[0])

    def load(self, *images: str) -> None:
        """Give both nodes images that this machine's engine has: there is no registry."""
        file = self.directory / "images.tar"
        subprocess.run(["docker", "save", "--output", str(file), *images], check=True, timeout=DEADLINE)
        for node in self.nodes:
            node.docker("load", "--quiet", "--input", str(file))
        file.unlink()

    def close(self) -> None:
        for node in self.nodes:
            node.close()


def groups(pattern: str) -> list[Path]:
    """Control groups, in every hierarchy: version 1 has several."""
    return [path for depth in ("", "*/") for path in Path("/sys/fs/cgroup").glob(depth + pattern)]


def remove_groups(name: str) -> bool:
    """Remove control groups of this name with all below. False while there are processes in them."""
    for top in groups(name):
        for group, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(group)
            except FileNotFoundError:
                continue
            except OSError:
                return False
    return True


def leftovers() -> list[Path]:
    """What killed runs have left: files and control groups whose maker is gone."""
    found = [*Path(tempfile.gettempdir()).glob(PREFIX + "*"), *groups(PREFIX + "*")]
    pids = {path: re.match(re.escape(PREFIX) + r"(\d+)", path.name) for path in found}
    return [path for path, pid in pids.items() if pid and not Path(f"/proc/{pid[1]}").exists()]


def sweep() -> None:
    for path in leftovers():
        if path.is_relative_to("/sys"):
            remove_groups(path.name)
        else:
            shutil.rmtree(path, ignore_errors=True)  # another run may be sweeping too


@contextlib.contextmanager
def swarm() -> Iterator[Swarm]:
    """A Swarm, until the end of the block."""
    sweep()
    directory = Path(tempfile.gettempdir()) / f"{PREFIX}{os.getpid()}"
    directory.mkdir(mode=0o755)
    made = Swarm(directory)
    try:
        made.start()
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)


if __name__ == "__main__":
    if sys.argv[1:2] != ["run"] or not sys.argv[2:]:
        sys.exit(__doc__)
    if os.geteuid() != 0:
        sys.exit("namespaces and engines need root")
    with swarm() as made:
        sys.exit(subprocess.run(sys.argv[2:], env={**os.environ, "DOCKER_HOST": made.manager.host}).returncode)
