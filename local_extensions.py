"""The rules for answers, and how an answer is written into a file.

cookiecutter.json calls `checked` after each question: a wrong answer stops there, before anything is created.
hooks/pre_gen_project.py asks `problems` once more, because a replayed answer is not asked for again.
"""

import json
import keyword
import os
import re
import runpy
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click import ClickException
from jinja2 import Environment, pass_environment
from jinja2.ext import Extension

# Names that Python would take, but under which the project's own tests and tools would import the service itself; and
# names that only newer Pythons have, of modules and soft keywords.
TAKEN = set(
    """
    ast_serialize certifi cfgv charset_normalizer colorama conftest cookiecutter distlib docker execnet filelock
    identify idna iniconfig librt mypy mypy_extensions mypyc nodeenv packaging pathspec pip pkg_resources
    platformdirs pluggy pre_commit pre_commit_hooks py pygments pytest python_discovery requests ruamel ruff
    setuptools sitecustomize talk test tests typing_extensions urllib3 usercustomize uv virtualenv wheel xdist yaml
    """.split()
)
NEWER = {"annotationlib", "compression", "lazy", "type"}
# No file or directory of Windows, where the generator works too, can have these names.
DEVICES = {"aux", "con", "nul", "prn", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
LONGEST_NAME = 40  # so that image, unit, pidfile and environment names stay within everybody's limits
LONGEST_IMAGE = 200  # of a registry; 255 is the limit of a whole image name
# cookiecutter runs them as code when the answer comes back from a file: --config-file, or an update by cruft.
JINJA = ("{{", "{%", "{#")
# Written by `git archive`, so also into the .zip of a host: the commit, where there is no repository to ask.
ARCHIVED = "$Format:%H$"
# Characters that change the direction of the text that follows: what one reads is then not what stands there.
# Letters that are read from right to left need none of them.
TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def project_slug(answer: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", answer):
        return "use lower-case letters, digits and single dashes, and begin with a letter, as in hello-server"
    return name(answer, "-")


def package_name(answer: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", answer):
        return "use lower-case letters, digits and underscores, and begin with a letter, as in hello_server"
    if "__" in answer or answer.endswith("_"):
        return "leave out doubled and trailing underscores, as in hello_server"
    if keyword.iskeyword(answer) or keyword.issoftkeyword(answer):
        return f"it is a Python keyword; try {answer}_server"
    if answer in sys.stdlib_module_names | NEWER:
        return f"it would hide the module of that name in Python's standard library; try {answer}_server"
    if answer in TAKEN:
        return f"it would hide a package that the project's tests or tools import; try {answer}_server"
    return name(answer, "_")


def name(answer: str, joint: str) -> str:
    if answer in DEVICES:
        return f"it is the name of a device on Windows; try {answer}{joint}server"
    return f"use at most {LONGEST_NAME} characters" if len(answer) > LONGEST_NAME else ""


def port(answer: str) -> str:
    if re.fullmatch(r"[1-9][0-9]{0,4}", answer) and int(answer) < 65535:
        return ""
    return "use a number from 1 to 65534 (the next port is for health checks)"


def registry(answer: str) -> str:
    if len(answer) > LONGEST_IMAGE:
        return f"use at most {LONGEST_IMAGE} characters"
    if not answer or re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-][a-z0-9]+)*)*", answer):
        return ""
    return "use a host and a path in lower case, as in ghcr.io/acme, or nothing"


def one_line(answer: str) -> str:
    if "\n" in answer:
        return "write one line, without control characters"
    return free_text(answer)


def free_text(answer: str) -> str:
    if not answer.strip():
        return "write something here"
    if answer != answer.strip():
        return "leave out the white space before and after it"
    if any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") and one != "\n" for one in answer):
        return "write it without control characters"
    if TURNING.intersection(answer):
        return "leave out the characters that turn the direction of writing"
    if any(opening in answer for opening in JINJA):
        return f"leave out {', '.join(JINJA)}: cookiecutter would run them as code in an update"
    return ""


RULES: dict[str, Callable[[str], str]] = {
    "project_name": one_line,
    "project_slug": project_slug,
    "package_name": package_name,
    "description": free_text,
    "author": one_line,
    "port": port,
    "registry": registry,
}


def problem(option: str, answer: str) -> str:
    """What is wrong with an answer, in one line; empty if nothing is."""
    advice = RULES[option](answer)
    return f"{option} {json.dumps(answer[:60])} cannot be used: {advice}" if advice else ""


@pass_environment
def problems(environment: Environment, answers: dict[str, Any]) -> list[str]:
    """What is wrong with answers that may come from anywhere: also with choices, and with what follows from answers."""
    found = [line for option in RULES if (line := problem(option, str(answers[option])))]
    options = json.loads(Path(__file__).with_name("cookiecutter.json").read_text(encoding="utf-8"))
    for option, value in options.items():
        given = answers.get(option)
        if option.startswith("__"):
            # Without the other answers being right, what follows from them cannot be known.
            same = (
                found
                or not isinstance(value, str)
                or environment.from_string(value).render(cookiecutter=answers) == given
            )
        elif option.startswith("_"):
            same = given == value
        else:
            same = not isinstance(value, list) or given in value
        if not same and option.startswith("_"):
            found.append(f"{option} is not this template's: give your answers with --config-file, without --replay")
        elif not same:
            found.append(f"{option} {json.dumps(str(given)[:60])} cannot be used: choose one of {', '.join(value)}")
    return found


@pass_environment
def written(environment: Environment, answers: dict[str, Any]) -> list[str]:
    """The files that a generation writes before its hook chooses among them, by their paths in the project."""
    tree = Path(__file__).with_name("{{cookiecutter.project_slug}}")
    paths = [path.relative_to(tree).as_posix() for path in tree.rglob("*") if not path.is_dir()]
    return sorted(environment.from_string(path).render(cookiecutter=answers) for path in paths)


def checked(answer: object, option: str) -> str:
    """Stop the generator with one line if the answer is wrong. The value is a mere remark in the context."""
    if line := problem(option, str(answer)):
        raise ClickException(line)
    return "ok"


def source(answers: dict[str, Any]) -> dict[str, Any]:
    """What `make update` has to know of a generation: the template's repository, where in it the template lies, its
    commit, and the answers. Empty where that is unknown: a template need not lie in a repository, nor git be here."""
    prefix, top, commit = (
        git("rev-parse", "--show-prefix", "--show-toplevel", "HEAD", "HEAD:./cookiecutter.json") or [""] * 4
    )[:3]
    # A password in an address is nothing that a project may keep.
    remote = [re.sub(r"^(https?://)[^/@]*@", r"\1", url) for url in git("remote", "get-url", "origin") if commit]
    dirty = "-dirty" if commit and git("status", "--porcelain", "--untracked-files=no", "--", ".") else ""
    return {
        "template": (remote or [top])[0],
        "directory": prefix.rstrip("/"),
        "commit": commit + dirty or ("" if ARCHIVED.startswith("$") else ARCHIVED),
        "made_with": {option: answer for option, answer in answers.items() if option[0] != "_"},
    }


def git(*command: str) -> list[str]:
    """The lines that git says about the template's directory; none if it fails."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ("git", "--no-optional-locks", "-C", str(Path(__file__).parent), *command)
    try:
        done = subprocess.run(command, env=alone, capture_output=True, text=True)
    except OSError:
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def quoted(answer: object) -> str:
    """A string literal that TOML, YAML, JSON and Python read alike."""
    return json.dumps(answer, ensure_ascii=False)


def label(answer: str) -> str:
    """The same for a Dockerfile, where a dollar sign would expand, and nothing can have two lines."""
    return quoted(answer.replace("\n", " ")).replace("$", "\\$")


def unit(answer: str) -> str:
    """A systemd unit's value: one line, where a percent sign would expand, and a final backslash would join the next
    line; a space after it, which systemd drops, keeps it."""
    line = answer.replace("\n", " ").replace("%", "%%")
    return line + " " if line.endswith("\\") else line


FILTERS: tuple[Callable[..., Any], ...] = (checked, problems, written, source, quoted, label, unit)


class Answers(Extension):
    """Adds FILTERS, from the file as it is now: cruft imports this module once, checks another version of the template
    out beneath it, and goes on with both (its issue 253)."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        for function in runpy.run_path(__file__)["FILTERS"]:
            environment.filters[function.__name__] = function
