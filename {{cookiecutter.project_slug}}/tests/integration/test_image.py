"""What is in the image: the service, compiled, and nothing that its user could change or that the making has left."""

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parents[2] / "src"

# Every file of /app: its path, owner, mode, and of a compiled one the flags of its header (PEP 552).
FILES = """
import json, os
found = {}
for top, _, names in os.walk("/app"):
    for name in names:
        path = os.path.join(top, name)
        facts = os.stat(path)
        flags = int.from_bytes(open(path, "rb").read(8)[4:], "little") if name.endswith(".pyc") else -1
        found[os.path.relpath(path, "/app")] = [facts.st_uid, facts.st_mode & 0o7777, flags]
print(json.dumps(found))
"""
# What the user of the service could write, outside of what the container mounts; sticky directories are for every user.
WRITABLE = """
import os
for top, directories, names in os.walk("/"):
    if top == "/":
        directories[:] = [name for name in directories if name not in ("dev", "proc", "sys")]
    for path in [top, *(os.path.join(top, name) for name in names)]:
        facts = os.lstat(path)
        if facts.st_mode & 0o170000 != 0o120000 and os.access(path, os.W_OK) and not facts.st_mode & 0o1000:
            print(path)
"""
UNCHECKED, CHECKED = 1, 3


def test_holds_the_sources_and_their_compiled_forms(service: Any) -> None:
    found = json.loads(service.python(FILES))
    kept_out = [line[3:] for line in (SOURCES.parent / ".dockerignore").read_text().splitlines() if line[:3] == "**/"]
    ours = [path.relative_to(SOURCES) for path in SOURCES.rglob("*") if path.is_file()]
    expected = {str(path) for path in ours if not any(fnmatch(part, one) for part in path.parts for one in kept_out)}
    assert {name for name in found if "__pycache__" not in name} == expected
    compiled = {name: flags for name, (_, _, flags) in found.items() if flags >= 0}
    assert len(compiled) == sum(name.endswith(".py") for name in expected)
    assert len(found) == len(expected) + len(compiled)
    for name, flags in compiled.items():
        assert flags == (UNCHECKED if "/runtime/" in name else CHECKED), name
    for name, (owner, mode, _) in found.items():
        assert (owner, mode) == (0, 0o644), name


def test_nothing_can_be_written(run: Any) -> None:
    service = run(read_only=False, tmpfs={})
    service.eventually("answering", service.answers)
    assert service.python(WRITABLE) == ""


def test_is_one_layer_above_its_base(engine: Any, image: str) -> None:
    layers = engine.images.get(image).attrs["RootFS"]["Layers"]
    base = engine.images.get(engine.images.get(image).labels["org.opencontainers.image.base.name"])
    assert layers[: len(base.attrs["RootFS"]["Layers"])] == base.attrs["RootFS"]["Layers"]
    assert len(layers) - len(base.attrs["RootFS"]["Layers"]) <= 2  # builders count an empty WORKDIR differently


def test_says_what_it_is(engine: Any, image: str, podman: bool) -> None:
    built = engine.images.get(image)
    for name in ("title", "description", "authors", "licenses", "version", "revision", "base.name"):
        assert built.labels[f"org.opencontainers.image.{name}"]
    settings = built.attrs["Config"]
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["User"].split(":")[0].isdigit()
    assert podman or settings["Healthcheck"]["Test"][0] == "CMD"  # CMD-SHELL would need a shell
