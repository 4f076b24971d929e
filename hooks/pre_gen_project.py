"""Check the answers once more, because a replayed answer was never asked for (local_extensions.py has the rules). Then
put aside what exists, because cookiecutter overwrites copied files, and removes copied directories, also with -s."""

import json
import os
import shutil
import sys
from pathlib import Path

# Answers reach this script as data: JSON, written as a string literal.
PROBLEMS = json.loads({{cookiecutter | problems | tojson | tojson}})
WRITTEN = json.loads({{cookiecutter | written | tojson | tojson}})
RUNTIME = "src/" + json.loads({{cookiecutter.package_name | tojson | tojson}}) + "/runtime"
# What a run would overwrite; post_gen_project.py moves it back. A run that was broken off leaves it to the next one.
KEPT, UNFINISHED = Path(".kept-by-cookiecutter"), Path("UNFINISHED.md")

if PROBLEMS:
    sys.exit(PROBLEMS[0])

for kept in [path for path in KEPT.rglob("*") if path.is_symlink() or not path.is_dir()]:
    place = kept.relative_to(KEPT)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    shutil.move(kept, place)
shutil.rmtree(KEPT, ignore_errors=True)
for path in [Path(name) for name in (RUNTIME, *WRITTEN)]:
    if os.path.lexists(path):
        (KEPT / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, KEPT / path)
UNFINISHED.write_bytes(b"")  # it stays empty only if cookiecutter skips what exists
