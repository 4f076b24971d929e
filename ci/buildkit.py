"""A newer Docker engine beside the machine's own, for what only BuildKit can: reproducible images.

Debian's testing release has engine, buildx and compose; the programs run unpacked on older releases too, with the
machine's own runc. It gets a network namespace of its own, or it would take the bridge docker0 from the other engine.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from base_image import WEEK, unpack
from dockerd import CACHE, DEADLINE, install

SUITE = "forky"
PACKAGES = "containerd,docker-buildx,docker-cli,docker-compose,docker.io"
PROGRAMS = {
    "usr/bin": ("containerd", "containerd-shim-runc-v2", "docker"),
    "usr/sbin": ("dockerd", "docker-proxy"),
    "usr/libexec/docker/cli-plugins": ("docker-buildx", "docker-compose"),
}


def provide() -> Path:
    """The programs as a compressed tar file, at most a week old."""
    CACHE.mkdir(parents=True, exist_ok=True)
    cached = CACHE / f"buildkit-{SUITE}-{os.uname().machine}.tar.gz"
    if not cached.exists() or time.time() - cached.stat().st_mtime > WEEK:
        if not shutil.which("mmdebstrap"):
            install("mmdebstrap")
        hook = f'{shlex.quote(sys.executable)} {shlex.quote(__file__)} whittle "$1"'
        contents = ("--variant=extract", f"--include={PACKAGES}", f"--extract-hook={hook}", "--skip=cleanup")
        unpack(SUITE, cached, *contents)
    return cached


def whittle(root: Path) -> None:
    """Leave the programs alone, all in one directory."""
    (root / "programs").mkdir()
    for below, names in PROGRAMS.items():
        for name in names:
            (root / below / name).rename(root / "programs" / name)
    for path in root.iterdir():
        if path.name not in ("dev", "programs", "proc", "sys"):  # mmdebstrap has mounted some
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextlib.contextmanager
def engine() -> Iterator[dict[str, str]]:
    """Run the engine; the environment in which `docker`, `docker buildx` and `docker compose` are the new ones."""
    with tempfile.TemporaryDirectory(prefix="buildkit-", dir="/tmp") as directory:
        programs, plugins = Path(directory) / "programs", Path(directory) / "config/cli-plugins"
        with tarfile.open(provide()) as archive:
            archive.extractall(directory, filter=below_programs)
        plugins.mkdir(parents=True)
        for plugin in programs.glob("docker-*"):
            (plugins / plugin.name).symlink_to(plugin)
        environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin",
            "DOCKER_HOST": f"unix://{directory}/socket",
            "DOCKER_CONFIG": str(plugins.parent),
        }
        command = ["dockerd", "--feature", "containerd-snapshotter=true", "--iptables=false", "--ip6tables=false"]
        for option in ("data-root", "exec-root", "pidfile"):
            command += [f"--{option}", f"{directory}/{option}"]
        command += ["--host", environment["DOCKER_HOST"]]
        apart = ["unshare", "--net", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        log = Path(directory) / "log"
        with log.open("w") as said:
            process = subprocess.Popen(
                [*apart, *command], env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        try:
            deadline = time.monotonic() + DEADLINE
            while subprocess.run(["docker", "version"], env=environment, capture_output=True).returncode != 0:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the newer dockerd does not start here:\n{log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield environment
        finally:
            process.terminate()
            process.wait(DEADLINE)


def below_programs(member: tarfile.TarInfo, directory: str) -> tarfile.TarInfo | None:
    return tarfile.data_filter(member, directory) if member.name.startswith("./programs") else None


def copy_image(image: str, environment: dict[str, str]) -> None:
    """Bring an image of the machine's engine into this one."""
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        for arguments, where in (
            (["save", "--output", file.name, image], None),
            (["load", "--input", file.name], environment),
        ):
            subprocess.run(["docker", *arguments], env=where, check=True, capture_output=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["whittle"]:  # called by mmdebstrap, in the middle of `provide`
        whittle(Path(sys.argv[2]))
    else:
        print(f"{provide().stat().st_size / 1e6:.0f} MB compressed")
