"""A Docker engine for a machine that has none.

dockerd.py start [PIDFILE]    use the engine that answers; else install Debian's and start it in the background
dockerd.py stop [PIDFILE]     stop what `start` started, and nothing else
dockerd.py check              say in one line what is missing (exit 1), or nothing (exit 0)

Runs that may overlap each give a PIDFILE of their own, so that none stops the engine of another.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "servertemplate"
LOG = CACHE / "dockerd.log"
DEADLINE = 60.0
# Published ports work without packet filter rules too (a process forwards them), so a kernel without is no obstacle.
ATTEMPTS: tuple[list[str], ...] = ([], ["--iptables=false", "--ip6tables=false"])


def docker(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run Docker's command line client: the one on PATH, or else the Debian package's."""
    client = shutil.which("docker") or "/usr/bin/docker"
    try:
        return subprocess.run([client, *arguments], capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, "", "there is no command `docker`")
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(arguments, 124, "", f"no answer after {timeout:g} s")


def answers() -> bool:
    return docker("version", timeout=10).returncode == 0


def install(*packages: str) -> None:
    """Install Debian packages; ends the script with one line if that cannot be."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit(f"missing: {' '.join(packages)}. Install it, or run this as root on Debian.")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l"}
    for action in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        command = ["apt-get", "--quiet=2", *action]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit(f"{done.stdout}\n`{' '.join(command)}` failed")


def start(pidfile: Path) -> None:
    if answers():
        print("a Docker engine answers")
        return
    if not shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin"):
        print("installing docker.io from Debian's packages")
        install("docker.io")
    CACHE.mkdir(parents=True, exist_ok=True)
    for arguments in ATTEMPTS:
        pid = launch(arguments)
        if pid is not None:
            pidfile.write_text(f"{pid}\n")
            print(f"started dockerd {' '.join(arguments)}".rstrip())
            return
    sys.exit(f"dockerd does not start here; the end of {LOG}:\n" + "\n".join(LOG.read_text().splitlines()[-5:]))


def launch(arguments: list[str]) -> int | None:
    """Start the engine in a session of its own, so that it outlives this script. None if it ends or is silent."""
    command = [shutil.which("dockerd") or "/usr/sbin/dockerd", *arguments]
    with LOG.open("w") as log:
        engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + DEADLINE
    while engine.poll() is None and time.monotonic() < deadline:
        if answers():
            return engine.pid
        time.sleep(0.1)
    if engine.poll() is None:
        engine.terminate()
        engine.wait()
    return None


def stop(pidfile: Path) -> None:
    if not pidfile.exists():
        return
    pid = int(pidfile.read_text())
    command = Path(f"/proc/{pid}/cmdline")
    if command.exists() and b"dockerd" in command.read_bytes():
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + DEADLINE
        while command.exists() and command.read_bytes():  # gone, or a zombie that its parent has not noticed
            if time.monotonic() > deadline:
                sys.exit(f"dockerd (process {pid}) did not stop within {DEADLINE:g} s")
            time.sleep(0.1)
    pidfile.unlink()


def check() -> None:
    if not answers():
        sys.exit(
            "no Docker engine answers: start one, or leave its tests out with `make test-without-docker`."
            " (`make test` as root on Debian or Ubuntu installs and starts one.)"
        )


if __name__ == "__main__":
    action, given = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    where = Path(given[0]) if given else CACHE / "dockerd.pid"
    if action in ("start", "stop") and len(given) < 2:
        (start if action == "start" else stop)(where)
    elif action == "check" and not given:
        check()
    else:
        sys.exit(__doc__)
