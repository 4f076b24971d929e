"""Base images without a registry: made from Debian's own packages.

    base_image.py VERSION ...      for example 3.13 (python:3.13-slim) or 3.13-bare (python:3.13-bare, without a shell)

Nothing is made of an image that the engine has or can pull. The packages come from the mirror that this machine's
apt uses; the result is kept in the cache for a week. A bare image holds Python with its library compiled, what that
links to, time zones and certificates, and nothing to run but Python: the same packages give the same bytes.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dockerd import CACHE, answers, docker, install

SUITES = {
    "3.11": "bookworm",
    "3.13": "trixie",
    "3.14": "forky",
    "3.15": "forky",
}  # the Debian release that has this Python
WEEK = 7 * 24 * 3600
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"  # has the keys of newer releases too
# What this machine's apt was told about its mirror (proxy, certificates, how old it may be) holds here too.
SETTINGS = ("Acquire::http", "Acquire::https", "Acquire::Check-Valid-Until", "Acquire::Check-Date")
EPOCH = "1735689600"  # no file is younger, so the same packages give the same bytes
BARE = ("base-files", "ca-certificates", "netbase")  # and python3.x, with what it depends on; nothing is configured
# All that stays of these packages; X stands for the Python.
KEPT = (
    "bin",
    "dev",
    "etc/debian_version",
    "etc/mime.types",
    "etc/os-release",
    "etc/protocols",
    "etc/services",
    "home",
    "lib*",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/bin/pythonX",
    "usr/lib/os-release",
    "usr/lib/pythonX",
    "usr/lib/*-linux-gnu*/*.so*",
    "usr/lib/*-linux-gnu*/ossl-modules",
    "usr/lib64",
    "usr/share/ca-certificates",
    "usr/share/common-licenses",
    "usr/share/doc/*/copyright",
    "usr/share/zoneinfo",
    "var/tmp",
)
DROPPED = ("config-*", "ensurepip", "idlelib", "lib-dynload/_test*", "pydoc_data", "turtledemo")  # of Python's library
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


def codename(release: Path = Path("/etc/os-release")) -> str:
    """This machine's release of Debian: bookworm. Empty where the system is another one."""
    text = release.read_text() if release.exists() else ""
    found = re.search(r'(?m)^VERSION_CODENAME="?(\w+)', text)
    return found[1] if found and re.search(r'(?m)^ID="?debian\b', text) else ""


def bootstrap(suite: str, target: Path, packages: str = "python3", python: str = "python3") -> None:
    """Make the file system of a Debian release with Python (and what else is named), as a compressed tar file. A
    release may have more than its default Python: `python` is the command that `python` and `python3` will be."""
    unused = [f"--dpkgopt=path-exclude={path}" for path in UNUSED]
    links = [f'--customize-hook=ln -s ../../bin/{python} "$1/usr/local/bin/{name}"' for name in ("python", "python3")]
    unpack(suite, target, "--variant=essential", f"--include={packages}", *unused, *links)


def bare(version: str, target: Path) -> None:
    """Make the file system of a bare image, as a compressed tar file. Nothing is configured, so no script runs."""
    packages = ",".join((f"python{version}", *BARE))
    hook = f'{shlex.quote(sys.executable)} {shlex.quote(__file__)} whittle {version} "$1"'
    # apt would clean up where there is no apt any more.
    contents = ("--variant=extract", f"--include={packages}", f"--extract-hook={hook}", "--skip=cleanup")
    unpack(SUITES[version], target, *contents)


def unpack(suite: str, target: Path, *contents: str) -> None:
    """Run mmdebstrap with options that say what to take, and keep what it makes as a compressed tar file."""
    release = codename()
    source = mirror(sources(), release)
    if release and source is None:
        sys.exit("apt's sources name no http mirror of this machine's Debian release: nothing to make an image from")
    lines, place = [], ""  # elsewhere, as on Ubuntu, mmdebstrap has a mirror of its own
    if source is not None:
        place = f" from {source.uri}"
        keyring = KEYRING if Path(KEYRING).exists() else source.signed_by
        signed = f"[signed-by={keyring}] " if keyring else ""
        lines = [f"deb {signed}{source.uri} {suite} main"]
    dump = ["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', *SETTINGS]
    settings = subprocess.run(dump, capture_output=True, text=True, check=True).stdout.splitlines()
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        tar = Path(directory) / "root.tar"
        command = ["mmdebstrap", "--quiet", *contents, *(f"--aptopt={line}" for line in settings)]
        command += [suite, str(tar), *lines]
        surroundings = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=surroundings)
        if done.returncode != 0:
            sys.exit(f"{done.stderr}\nDebian's release {suite} could not be installed{place}")
        subprocess.run(["gzip", "-1", "--no-name", str(tar)], check=True)
        tar.with_suffix(".tar.gz").replace(target)


def whittle(version: str, root: Path) -> None:
    """Leave of unpacked packages what a bare image needs, and do what their scripts would have done."""
    kept = {path for pattern in KEPT for path in root.glob(pattern.replace("X", version))}
    parents = {parent for path in kept for parent in path.parents}
    remove(root, kept, parents)
    for path in (root / "tmp").iterdir():
        path.unlink()  # mmdebstrap's own, under a name of chance
    for pattern in DROPPED:
        for path in root.glob(f"usr/lib/python{version}/{pattern}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    certificates = root / "usr/share/ca-certificates"
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True)
    bundle.write_text("".join(path.read_text() for path in sorted(certificates.rglob("*.crt"))))
    shutil.rmtree(certificates)
    (root / "usr/lib/ssl").mkdir()
    (root / "usr/lib/ssl/cert.pem").symlink_to("/etc/ssl/certs/ca-certificates.crt")  # where OpenSSL looks
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:\nnobody:x:65534:65534:nobody:/nonexistent:\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    for name in ("usr/bin/python3", "usr/local/bin/python", "usr/local/bin/python3"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"/usr/bin/python{version}")
    library = f"/usr/lib/python{version}"
    compiled = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", library]
    subprocess.run(["chroot", str(root), f"/usr/bin/python{version}", *compiled], check=True)


def remove(directory: Path, kept: set[Path], parents: set[Path]) -> None:
    """Remove all below a directory but these paths and what leads to them."""
    for path in directory.iterdir():
        if path in parents and not path.is_symlink():
            remove(path, kept, parents)
        elif path not in kept and path not in parents:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def provide(name: str) -> None:
    version, _, variant = name.partition("-")
    variant = variant or "slim"
    image = f"python:{version}-{variant}"
    if docker("image", "inspect", image).returncode == 0:
        print(f"{image} is here")
        return
    if variant == "slim" and docker("pull", "--quiet", image, timeout=300).returncode == 0:
        print(f"{image} pulled")
        return
    suite = SUITES.get(version)
    if suite is None or variant not in ("slim", "bare"):
        sys.exit(f"{image}: no registry answers, and no Debian release has Python {name}")
    if not shutil.which("mmdebstrap"):
        install("mmdebstrap")
    CACHE.mkdir(parents=True, exist_ok=True)
    architecture = os.uname().machine
    cached = CACHE / f"python-{version}-{variant}-{suite}-{architecture}.tar.gz"
    if not cached.exists() or time.time() - cached.stat().st_mtime > WEEK:
        if variant == "bare":
            bare(version, cached)
        else:
            bootstrap(suite, cached, f"python{version}", f"python{version}")
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
    if sys.argv[1] == "whittle":  # called by mmdebstrap, in the middle of `bootstrap`
        whittle(sys.argv[2], Path(sys.argv[3]))
        sys.exit()
    if not answers():
        sys.exit("no Docker engine answers: start one with `python3 ci/dockerd.py start`")
    for name in sys.argv[1:]:
        provide(name)
