"""Images whose PID 1 is systemd, made from Debian's own packages, for tests/linux.

    systemd_image.py VERSION ...      252 or 257

The file systems are kept in the cache for a week.
"""

import os
import shutil
import sys
import time

from base_image import WEEK, bootstrap
from dockerd import CACHE, answers, docker, install

SUITES = {"252": "bookworm", "257": "trixie"}  # the Debian release that has this systemd
PACKAGES = "systemd,systemd-sysv,python3,make"


def provide(version: str) -> None:
    image = f"systemd:{version}"
    if docker("image", "inspect", image).returncode == 0:
        print(f"{image} is here")
        return
    if not shutil.which("mmdebstrap"):
        install("mmdebstrap")
    CACHE.mkdir(parents=True, exist_ok=True)
    cached = CACHE / f"systemd-{version}-{SUITES[version]}-{os.uname().machine}.tar.gz"
    if not cached.exists() or time.time() - cached.stat().st_mtime > WEEK:
        bootstrap(SUITES[version], cached, PACKAGES)
    done = docker("import", "--change", 'CMD ["/sbin/init"]', str(cached), image)
    if done.returncode != 0:
        sys.exit(f"{image}: docker import failed: {done.stderr}")
    done = docker("run", "--rm", "--network", "none", image, "systemctl", "--version")
    if done.stdout.split()[1:2] != [version]:
        docker("image", "rm", image)
        cached.unlink()
        sys.exit(f"{image}: Debian's {SUITES[version]} gives {done.stdout[:20].strip() or done.stderr.strip()}")
    print(f"{image} made from Debian's {SUITES[version]}, {cached.stat().st_size / 1e6:.0f} MB compressed")


if __name__ == "__main__":
    if not sys.argv[1:] or set(sys.argv[1:]) - set(SUITES):
        sys.exit(__doc__)
    if not answers():
        sys.exit("no Docker engine answers: start one with `python3 ci/dockerd.py start`")
    for version in sys.argv[1:]:
        provide(version)
