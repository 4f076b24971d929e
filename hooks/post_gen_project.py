"""Keep the files that belong to the answers, and say what to type next. Works offline, and twice gives the same."""

import json
import shutil
from pathlib import Path

# An answer reaches this script as data: JSON, written as a string literal.
ANSWERS = json.loads({{cookiecutter | tojson | tojson}})

# What is kept only with one of these answers to this option, and else goes. A file in two rows needs both.
SRC, LIVE, UNIT = f"src/{ANSWERS['package_name']}", "tests/integration", "tests/unit"
RUNTIME = f"{SRC}/runtime"
PRUNE = (
    ("ci", "github", ".github"),
    ("ci", "gitlab", ".gitlab-ci.yml"),
    ("license", "MIT", "LICENSE.MIT"),
    ("license", "BSD-2-Clause", "LICENSE.BSD-2-Clause"),
    ("license", "Apache-2.0", "LICENSE.Apache-2.0"),
    ("license", "Proprietary", "LICENSE.Proprietary"),
    ("pool", "prefork", f"{RUNTIME}/*/*prefork.py"),
    ("pool", "threaded", f"{RUNTIME}/*/*threaded.py {RUNTIME}/pool/thread_pool.py {UNIT}/test_thread_pool.py"),
    ("pool", "threaded", f"{UNIT}/*_threaded.py {UNIT}/test_inline_http.py"),
    ("protocol", "http", f"{RUNTIME}/http {RUNTIME}/loop {RUNTIME}/web"),
    ("protocol", "http", f"{SRC}/*_http.py {LIVE}/*_http.py {UNIT}/*_http.py"),
    ("protocol", "http", f"{RUNTIME}/http1/chunked.py {RUNTIME}/http1/states.py"),
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
CACHES = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache")


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main() -> None:
    for option, answers, patterns in PRUNE:
        if ANSWERS[option] not in answers.split():
            for path in [path for pattern in patterns.split() for path in Path().glob(pattern)]:
                remove(path)
    for old, new in RENAMED.items():
        if Path(old).exists():
            Path(old).replace(new)
    for path in [path for cache in CACHES for path in Path().rglob(cache)]:
        remove(path)

    print(f"{ANSWERS['project_slug']} is ready. Next:")
    print(f"  cd {ANSWERS['project_slug']}")
    print("  make run     # start it here, in the foreground; Ctrl-C stops it")
    print("  make test    # unit tests, then the image and its container (needs a Docker engine)")


if __name__ == "__main__":
    main()
