"""Merge what the template has become into this project; `make update` calls it. Nothing is committed.

Two plain projects are made below a temporary directory: one from the commit and the answers that .cookiecutter.yaml
says this project was made from, one from the template and the answers as they are now. Git merges the difference
between the two into the work tree, and leaves conflicts as it always does. Files that were deleted here stay deleted.
What `[tool.cruft] skip` of pyproject.toml names is yours and left alone.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ANSWERS = Path(".cookiecutter.yaml")
AUTHOR = {f"GIT_{role}_{what}": "template@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def run(*command: str, **surroundings: str) -> str:
    """What a command says; if it fails, this is the end."""
    done = subprocess.run(command, env=os.environ | surroundings, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"update: {' '.join(command)}\n{done.stdout}{done.stderr}".strip())
    return done.stdout.strip()


def arguments() -> argparse.Namespace:
    given = {name: json.loads(value) for name, value in re.findall(r"(?m)^(\w+): (.+)$", ANSWERS.read_text("utf-8"))}
    parser = argparse.ArgumentParser(prog="make update ARGS=...", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--show", action="store_true", help="only show what it would do")
    parser.add_argument("--template", default=given.get("template", ""), help="its repository (%(default)s)")
    parser.add_argument(
        "--directory", default=given.get("directory", ""), help="where the template is in it (%(default)s)"
    )
    parser.add_argument("--old", metavar="COMMIT", default=given.get("commit", ""), help="made from (%(default)s)")
    parser.add_argument("--new", metavar="COMMIT", default="HEAD", help="a commit, branch or tag (%(default)s)")
    parser.add_argument("answers", nargs="*", metavar="OPTION=ANSWER", help="an answer that changes")
    parser.set_defaults(made_with=given.get("made_with"))
    return parser.parse_args()


def check(options: argparse.Namespace) -> None:
    """Stop where an update could not be undone, or has no beginning."""
    if subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True).returncode != 0:
        sys.exit(
            "update: this project is in no git repository: `git init`, and commit it, so that an update can be undone"
        )
    if run("git", "status", "--porcelain", "--", ":/"):
        sys.exit("update: there are changes that are not committed (git status): commit or stash them first")
    if not options.template:
        sys.exit(f"update: {ANSWERS} does not say where the template is: give --template URL")
    if not re.fullmatch(r"[\w./-]+(?<!-dirty)", options.old):
        sys.exit(f"update: {ANSWERS} names no commit that this was made from ({options.old!r}): give --old COMMIT")


def bake(template: Path, config: Path, target: Path, answers: list[str]) -> Path:
    """A plain project, without what is the owner's."""
    home = {"HOME": str(target), "PYTHONDONTWRITEBYTECODE": "1"}
    quiet = ("--no-input", "--config-file", str(config), "--output-dir", str(target / "project"))
    run(sys.executable, "-P", "-m", "cookiecutter", str(template), *quiet, *answers, **home)
    project = next((target / "project").iterdir())
    settings: dict[str, Any] = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))
    for pattern in settings.get("tool", {}).get("cruft", {}).get("skip", []):
        for path in list(project.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return project


def commit(project: Path, target: Path, message: str, *parent: str) -> str:
    """The plain project as a commit of this repository, which no branch has."""
    tree = target / "tree" / run("git", "rev-parse", "--show-prefix")
    tree.parent.mkdir(parents=True, exist_ok=True)
    project.rename(tree)
    index = {"GIT_INDEX_FILE": str(target / "index")}
    top = ("git", "-C", run("git", "rev-parse", "--show-toplevel"))
    run(*top, "-c", "core.fileMode=true", f"--work-tree={target / 'tree'}", "add", "--all", "--force", ".", **index)
    return run(*top, "commit-tree", run(*top, "write-tree", **index), *parent, "-m", message, **AUTHOR)


def merge(new: str) -> int:
    """Merge the last step into the work tree; returns the exit status."""
    done = subprocess.run(
        [
            "git",
            "-c",
            "merge.directoryRenames=true",
            "-c",
            "merge.conflictStyle=merge",
            "cherry-pick",
            "--no-commit",
            new,
        ],
        capture_output=True,
        text=True,
    )
    states = re.findall(r"(?:^|\0)(\w\w) ([^\0]+)", run("git", "status", "--porcelain", "-z", "--no-renames"))
    if done.returncode != 0 and not states:
        sys.exit(f"update: git could not merge it\n{done.stderr}")
    run("git", "checkout", "--quiet", new, "--", str(ANSWERS))  # all of it follows from the update
    conflicts = []
    for state, path in states:
        if state in ("DU", "UA"):  # changed or renamed there, deleted here
            run("git", "rm", "--quiet", "--force", "--", f":/{path}")
            print(f"stays deleted: {path}")
        elif not path.endswith(ANSWERS.name):
            conflicts.append(path)
    if conflicts:
        print("Conflicts, for you to resolve and `git add`:", *conflicts, sep="\n  ")
    print("Look at it with `git diff HEAD`; commit it, or take it all back with `git reset --hard`.")
    return bool(conflicts)


def main() -> int:
    os.chdir(Path(__file__).resolve().parents[1])
    options = arguments()
    check(options)
    if importlib.util.find_spec("cookiecutter") is None:
        run(sys.executable, "-m", "pip", "install", "--quiet", "cookiecutter")
    with tempfile.TemporaryDirectory(prefix="update-") as directory:
        place = Path(directory)
        steps: list[tuple[str, str]] = []
        run("git", "clone", "--quiet", "--no-checkout", options.template, str(place / "clone"))
        git = ("git", "-C", str(place / "clone"))
        config = place / "made_with"
        config.write_text(
            json.dumps({"default_context": options.made_with}) if options.made_with else ANSWERS.read_text()
        )
        for name, wanted, file, answers in (
            ("old", options.old, config, []),
            ("new", options.new, ANSWERS, options.answers),
        ):
            found = run(*git, "rev-parse", "--verify", "--quiet", "--end-of-options", wanted + "^{commit}")
            run(*git, "worktree", "add", "--quiet", "--detach", str(place / f"template-{name}"), found)
            project = bake(place / f"template-{name}" / options.directory, file.resolve(), place / name, answers)
            parent = ("-p", steps[-1][1]) if steps else ()
            steps.append((found, commit(project, place / name, f"the template at {found[:12]}", *parent)))
        print(f"From {steps[0][0][:12]} to {steps[1][0][:12]} of {options.template}:")
        print(run(*git, "log", "--oneline", "--max-count=30", f"{steps[0][0]}..{steps[1][0]}"))
        changes = run("git", "diff", "--stat", "--find-renames", steps[0][1], steps[1][1])
        print(changes or "Nothing changes in this project.")
        return merge(steps[1][1]) if changes and not options.show else 0


if __name__ == "__main__":
    sys.exit(main())
