"""The rules for answers, and how an answer is written into a file.

cookiecutter.json calls `checked` after each question: a wrong answer stops there, before anything is created.
hooks/pre_gen_project.py asks `problems` once more, because a replayed answer is not asked for again.
"""

import json
import keyword
import re
import runpy
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click import ClickException
from jinja2 import Environment, pass_environment
from jinja2.ext import Extension

# Names that Python would take, but under which the service's own tests would import the service itself; and names that
# only newer Pythons have, of modules and soft keywords.
TAKEN = {
    "conftest",
    "docker",
    "pytest",
    "requests",
    "sitecustomize",
    "talk",
    "test",
    "tests",
    "urllib3",
    "usercustomize",
}
NEWER = {"annotationlib", "compression", "lazy", "type"}
# No file or directory of Windows, where the generator works too, can have these names.
DEVICES = {"aux", "con", "nul", "prn", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
LONGEST_NAME = 40  # so that image, unit, pidfile and environment names stay within everybody's limits
LONGEST_IMAGE = 200  # of a registry; 255 is the limit of a whole image name
# cookiecutter runs them as code when the answer comes back from a file: --config-file, or an update by cruft.
JINJA = ("{{", "{%", "{#")
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
        return f"it would hide a package that the service's tests import; try {answer}_server"
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


def checked(answer: object, option: str) -> str:
    """Stop the generator with one line if the answer is wrong. The value is a mere remark in the context."""
    if line := problem(option, str(answer)):
        raise ClickException(line)
    return "ok"


def quoted(answer: str) -> str:
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


FILTERS: tuple[Callable[..., Any], ...] = (checked, problems, quoted, label, unit)


class Answers(Extension):
    """Adds FILTERS, from the file as it is now: cruft imports this module once, checks another version of the template
    out beneath it, and goes on with both (its issue 253)."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        for function in runpy.run_path(__file__)["FILTERS"]:
            environment.filters[function.__name__] = function
