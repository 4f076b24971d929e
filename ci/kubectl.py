"""kubectl, for its kustomize, from the package of Debian's testing release: unpacked into the cache, not installed.

kubectl.py           make sure that it is there, and print its path
kubectl.py find      print its path, or fail

One that is on PATH is good as well. What is in the cache is kept for a week.
"""

import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from base_image import SUITES, WEEK, unpack
from dockerd import CACHE, install

CACHED = CACHE / "kubectl"


def find() -> str | None:
    """The program, or None."""
    return shutil.which("kubectl") or shutil.which(CACHED)


def provide() -> None:
    if not shutil.which("mmdebstrap"):
        install("mmdebstrap")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        packages = Path(directory) / "packages.tar.gz"
        # apt would clean up where there is no apt.
        unpack(SUITES["3.14"], packages, "--variant=extract", "--include=kubectl", "--skip=cleanup")
        with tarfile.open(packages) as tar:
            program = tar.extractfile("./usr/bin/kubectl")
            assert program is not None
            with (Path(directory) / "kubectl").open("wb") as file:
                shutil.copyfileobj(program, file)
        (Path(directory) / "kubectl").chmod(0o755)
        (Path(directory) / "kubectl").replace(CACHED)


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["find"]):
        sys.exit(__doc__)
    stale = not CACHED.exists() or time.time() - CACHED.stat().st_mtime > WEEK
    if not sys.argv[1:] and not shutil.which("kubectl") and stale:
        provide()
    print(find() or sys.exit("kubectl is missing: `python3 ci/kubectl.py` fetches it"))
