"""Keep the files that belong to the answers, and say what to type next. Works offline, and twice gives the same."""

import json
import shutil
import sys
from pathlib import Path

# An answer reaches this script as data: JSON, written as a string literal.
ANSWERS = json.loads({{cookiecutter | tojson | tojson}})

# A file or directory stays if each of these options has one of these answers, and else goes.
PACKAGE = f"src/{ANSWERS['package_name']}"
RUNTIME = f"{PACKAGE}/runtime"
BELONGS = {
    ".github": {"ci": "github"},
    ".gitlab-ci.yml": {"ci": "gitlab"},
    "LICENSE.MIT": {"license": "MIT"},
    "LICENSE.BSD-2-Clause": {"license": "BSD-2-Clause"},
    "LICENSE.Apache-2.0": {"license": "Apache-2.0"},
    "LICENSE.Proprietary": {"license": "Proprietary"},
    f"{RUNTIME}/access_http.py": {"protocol": "http"},
    f"{RUNTIME}/bodies.py": {"protocol": "http"},
    f"{PACKAGE}/handlers_http.py": {"protocol": "http"},
    f"{PACKAGE}/handlers_line.py": {"protocol": "line"},
    f"{PACKAGE}/handlers_stream.py": {"protocol": "stream"},
    f"{RUNTIME}/connection.py": {"protocol": "http"},
    f"{RUNTIME}/engine_prefork_http.py": {"pool": "prefork", "protocol": "http"},
    f"{RUNTIME}/engine_prefork_raw.py": {"pool": "prefork", "protocol": "line stream"},
    f"{RUNTIME}/engine_threaded_http.py": {"pool": "threaded", "protocol": "http"},
    f"{RUNTIME}/engine_threaded_raw.py": {"pool": "threaded", "protocol": "line stream"},
    f"{RUNTIME}/poller.py": {"protocol": "http"},
    f"{RUNTIME}/pool_prefork.py": {"pool": "prefork"},
    f"{RUNTIME}/pool_threaded.py": {"pool": "threaded"},
    f"{RUNTIME}/protocol_http.py": {"protocol": "http"},
    f"{RUNTIME}/protocol_line.py": {"protocol": "line"},
    f"{RUNTIME}/protocol_stream.py": {"protocol": "stream"},
    f"{RUNTIME}/raw.py": {"protocol": "line stream"},
    f"{RUNTIME}/sentry.py": {"protocol": "http"},
    f"{RUNTIME}/stream.py": {"protocol": "line stream"},
    f"{RUNTIME}/threads.py": {"pool": "threaded"},
    "tests/integration/talk_http.py": {"protocol": "http"},
    "tests/integration/talk_line.py": {"protocol": "line"},
    "tests/integration/talk_stream.py": {"protocol": "stream"},
    "tests/integration/test_http.py": {"protocol": "http"},
    "tests/integration/test_line.py": {"protocol": "line"},
    "tests/integration/test_stream.py": {"protocol": "stream"},
    "tests/unit/test_handlers_http.py": {"protocol": "http"},
    "tests/unit/test_handlers_line.py": {"protocol": "line"},
    "tests/unit/test_handlers_stream.py": {"protocol": "stream"},
    "tests/unit/test_stream.py": {"protocol": "line stream"},
    "tests/unit/test_threads.py": {"pool": "threaded"},
}
# What stayed, under the name that it has in the project.
RENAMED = {
    f"LICENSE.{ANSWERS['license']}": "LICENSE",
    f"{PACKAGE}/handlers_{ANSWERS['protocol']}.py": f"{PACKAGE}/handlers.py",
    f"tests/integration/talk_{ANSWERS['protocol']}.py": "tests/integration/talk.py",
    f"tests/unit/test_handlers_{ANSWERS['protocol']}.py": "tests/unit/test_handlers.py",
}
# What tools leave in the template's work tree, and cookiecutter copies with whole directories.
CACHES = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache")


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main() -> None:
    for name, wanted in BELONGS.items():
        if any(ANSWERS[option] not in answers.split() for option, answers in wanted.items()):
            remove(Path(name))
    for old, new in RENAMED.items():
        if Path(old).exists():
            Path(old).replace(new)
    for path in [path for name in CACHES for path in Path().rglob(name)]:
        remove(path)

    print(f"{ANSWERS['project_slug']} is ready. Next:")
    print(f"  cd {ANSWERS['project_slug']}")
    print("  make run     # start it here, in the foreground; Ctrl-C stops it")
    print("  make test    # unit tests, then the image and its container (needs a Docker engine)")


if __name__ == "__main__":
    sys.exit(main())
