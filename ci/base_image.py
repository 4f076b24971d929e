"""The base image python:VERSION-slim, without a registry: made from Debian's own packages.

    base_image.py VERSION ...      for example 3.13

Nothing is made of an image that the engine has or can pull. The packages come from the mirror that this machine's
apt uses; the result is kept in the cache for a week.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dockerd import CACHE, answers, docker, install

SUITES = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky"}  # the Debian release that has this Python
WEEK = 7 * 24 * 3600
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"  # has the keys of newer releases too
# What this machine's apt was told about its mirror (proxy, certificates, how old it may be) holds here too.
SETTINGS = ("Acquire::http", "Acquire::https", "Acquire::Check-Valid-Until", "Acquire::Check-Date")
UNUSED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")


class Source(NamedTuple):
    """One repository of apt's sources."""

    uri: str
    suites: list[str]
    components: list[str]
    signed_by: str  # a keyring's path, or empty


def sources(directory: Path = Path("/etc/apt")) -> Iterator[Source]:
    """What apt reads: sources.list, and in sources.list.d the .list (one line each) and .sources (deb822) files."""
    lists = [directory / "sources.list", *sorted(directory.glob("sources.list.d/*.list"))]
    for file in filter(Path.is_file, lists):
        for line in file.read_text().splitlines():
            yield from one_line(line.split("#")[0].strip())
    for file in sorted(directory.glob("sources.list.d/*.sources")):
        text = re.sub(r"(?m)^#.*\n?", "", file.read_text())
        for stanza in re.split(r"\n\s*\n", text):
            yield from deb822(stanza)


def one_line(line: str) -> Iterator[Source]:
    """deb [signed-by=/keyring] http://mirror/debian bookworm main"""
    found = re.fullmatch(r"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s*(.*)", line)
    if found:
        options = dict(option.split("=", 1) for option in (found[1] or "").split() if "=" in option)
        yield Source(found[2], [found[3]], found[4].split(), options.get("signed-by", ""))


def deb822(stanza: str) -> Iterator[Source]:
    """Fields like those of an e-mail; a line that begins with a space continues the field above."""
    unfolded = re.sub(r"\n[ \t]+", " ", stanza)
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in unfolded.splitlines())}
    if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() not in ("no", "false", "0"):
        key = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            keyring = key if key.startswith("/") else ""  # a key may also stand there itself
            yield Source(uri, fields.get("suites", "").split(), fields.get("components", "").split(), keyring)


def mirror(found: Iterator[Source], codename: str) -> Source | None:
    """The repository that this machine's own release comes from; it has the other releases too."""
    for source in found:
        if codename in source.suites and "main" in source.components and re.match(r"https?://", source.uri):
            return source
    return None


def codename() -> str:
    """This machine's release: bookworm."""
    release = Path("/etc/os-release")
    found = re.search(r'(?m)^VERSION_CODENAME="?(\w+)', release.read_text()) if release.exists() else None
    return found[1] if found else ""


def bootstrap(suite: str, target: Path, packages: str = "python3") -> None:
    """Make the file system of a Debian release with Python (and what else is named), as a compressed tar file."""
    source = mirror(sources(), codename())
    if source is None:
        sys.exit("apt's sources name no http mirror of this machine's Debian release: nothing to make an image from")
    keyring = KEYRING if Path(KEYRING).exists() else source.signed_by
    signed = f"[signed-by={keyring}] " if keyring else ""
    dump = ["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', *SETTINGS]
    settings = subprocess.run(dump, capture_output=True, text=True, check=True).stdout.splitlines()
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        tar = Path(directory) / "root.tar"
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=essential",
            f"--include={packages}",
            *(f"--aptopt={line}" for line in settings),
            *(f"--dpkgopt=path-exclude={path}" for path in UNUSED),
            '--customize-hook=ln -s ../../bin/python3 "$1/usr/local/bin/python"',
            suite,
            str(tar),
            f"deb {signed}{source.uri} {suite} main",
        ]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"{done.stderr}\nDebian's release {suite} could not be installed from {source.uri}")
        subprocess.run(["gzip", "-1", str(tar)], check=True)
        tar.with_suffix(".tar.gz").replace(target)


def provide(version: str) -> None:
    image = f"python:{version}-slim"
    if docker("image", "inspect", image).returncode == 0:
        print(f"{image} is here")
        return
    if docker("pull", "--quiet", image, timeout=300).returncode == 0:
        print(f"{image} pulled")
        return
    suite = SUITES.get(version)
    if suite is None:
        sys.exit(f"{image}: no registry answers, and no Debian release has Python {version}")
    if not shutil.which("mmdebstrap"):
        install("mmdebstrap")
    CACHE.mkdir(parents=True, exist_ok=True)
    architecture = os.uname().machine
    cached = CACHE / f"python-{version}-{suite}-{architecture}.tar.gz"
    if not cached.exists() or time.time() - cached.stat().st_mtime > WEEK:
        bootstrap(suite, cached)
    path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    done = docker("import", "--change", path, "--change", 'CMD ["python3"]', str(cached), image)
    if done.returncode != 0:
        sys.exit(f"{image}: docker import failed: {done.stderr}")
    asked = ["python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    done = docker("run", "--rm", "--network", "none", image, *asked)
    if done.stdout.strip() != version:
        docker("image", "rm", image)
        cached.unlink()
        sys.exit(f"{image}: Debian's {suite} gives Python {done.stdout.strip() or done.stderr.strip()}")
    print(f"{image} made from Debian's {suite}, {cached.stat().st_size / 1e6:.0f} MB compressed")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if not answers():
        sys.exit("no Docker engine answers: start one with `python3 ci/dockerd.py start`")
    for version in sys.argv[1:]:
        provide(version)
