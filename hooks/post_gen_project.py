"""Keep the files that belong to the answers, and say what to type next. Works offline, and twice gives the same.

Only what this run has written is touched: pre_gen_project.py has put aside what existed, and here it comes back.
"""

import json
import os
import shutil
from pathlib import Path

# An answer reaches this script as data: JSON, written as a string literal.
ANSWERS = json.loads({{cookiecutter | tojson | tojson}})
WRITTEN = json.loads({{cookiecutter | written | tojson | tojson}})
KEPT, UNFINISHED = Path(".kept-by-cookiecutter"), Path("UNFINISHED.md")

# What is kept only with one of these answers to this option, and else goes. A file in two rows needs both.
SRC, LIVE, UNIT = f"src/{ANSWERS['package_name']}", "tests/integration", "tests/unit"
RUNTIME = f"{SRC}/runtime"
PRUNE = (
    ("ci", "github", ".github"),
    ("ci", "gitlab", ".gitlab-ci.yml renovate.json"),
    ("license", "MIT", "LICENSE.MIT"),
    ("license", "BSD-2-Clause", "LICENSE.BSD-2-Clause"),
    ("license", "Apache-2.0", "LICENSE.Apache-2.0"),
    ("license", "Proprietary", "LICENSE.Proprietary"),
    ("pool", "prefork", f"{RUNTIME}/*/*prefork.py"),
    ("pool", "threaded", f"{RUNTIME}/*/*threaded.py {RUNTIME}/pool/thread_pool.py {UNIT}/test_thread_pool.py"),
    ("pool", "threaded", f"{UNIT}/*_threaded.py {UNIT}/test_inline_http.py"),
    ("protocol", "http", f"{RUNTIME}/http {RUNTIME}/loop {RUNTIME}/web"),
    ("protocol", "http", f"{SRC}/*_http.py {LIVE}/*_http.py {UNIT}/*_http.py"),
    ("protocol", "http", f"{RUNTIME}/http1/chunked.py {RUNTIME}/http1/states.py {RUNTIME}/testing.py docs/handlers.md"),
    ("protocol", "line stream", f"{RUNTIME}/stream {UNIT}/test_stream*.py"),
    ("protocol", "line", f"{SRC}/*_line.py {RUNTIME}/stream/*_line.py {LIVE}/*_line.py {UNIT}/*_line.py"),
    ("protocol", "stream", f"{SRC}/*_stream.py {RUNTIME}/stream/*_stream.py {LIVE}/*_stream.py {UNIT}/*s_stream.py"),
)
# What stayed, under the name that it has in the project.
RENAMED = {
    f"LICENSE.{ANSWERS['license']}": "LICENSE",
    f"{SRC}/handlers_{ANSWERS['protocol']}.py": f"{SRC}/handlers.py",
    f"{LIVE}/talk_{ANSWERS['protocol']}.py": f"{LIVE}/talk.py",
    f"{UNIT}/test_handlers_{ANSWERS['protocol']}.py": f"{UNIT}/test_handlers.py",
}
# What tools leave in the template's work tree, and cookiecutter copies with whole directories.
CACHES = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


def place(file: Path, target: Path, skips: bool) -> None:
    """Move a file to its place. What is there already is replaced, or stays."""
    if os.path.lexists(target) and skips:
        file.unlink()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)  # the runtime, where a link to another one stood
    target.unlink(missing_ok=True)
    shutil.move(file, target)


def main() -> None:
    skips = UNFINISHED.read_bytes() == b""  # cookiecutter -s
    unwanted = {Path(name) for name in WRITTEN if CACHES.intersection(name.split("/"))} | {
        UNFINISHED,
        Path("GNUmakefile"),
    }
    for option, answers, patterns in PRUNE:
        if ANSWERS[option] not in answers.split():
            unwanted |= {path for pattern in patterns.split() for path in Path().glob(pattern)}
    for file in map(Path, WRITTEN):
        if unwanted.intersection((file, *file.parents)):
            file.unlink(missing_ok=True)
    for old, new in RENAMED.items():
        if Path(old).exists():
            place(Path(old), Path(new), skips)
    for kept in [path for path in KEPT.rglob("*") if path.is_symlink() or not path.is_dir()]:
        place(kept, kept.relative_to(KEPT), os.path.lexists(kept.relative_to(KEPT)) and not skips)
    shutil.rmtree(KEPT, ignore_errors=True)
    for file in map(Path, WRITTEN):  # a .zip, and a checkout with core.fileMode=false, have lost this
        if file.is_file() and not skips and file.read_bytes()[:2] == b"#!":
            file.chmod(file.stat().st_mode | (file.stat().st_mode & 0o444) >> 2)
    for directory in sorted({folder for name in WRITTEN for folder in Path(name).parents}, reverse=True):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()

    print(f"{ANSWERS['project_slug']} is ready. Next:")
    print(f"  cd {ANSWERS['project_slug']}")
    print("  make run     # start it here, in the foreground; Ctrl-C stops it")
    print("  make test    # unit tests, then the image and its container (needs a Docker engine)")


if __name__ == "__main__":
    main()
