"""The rules for answers, and how an answer is written into a file.

cookiecutter.json calls `checked` after each question: a wrong answer stops there, before anything is created.
hooks/pre_gen_project.py asks `problems` once more, because a replayed answer is not asked for again.
"""

import json
import keyword
import re
import sys
from collections.abc import Callable

from click import ClickException
from jinja2 import Environment
from jinja2.ext import Extension

# Names that Python would take, but under which the service's own tests would import the service itself.
TAKEN = {"conftest", "docker", "pytest", "requests", "talk", "tests", "urllib3"}
LONGEST_NAME = 40  # so that image, unit, pidfile and environment names stay within everybody's limits


def project_slug(answer: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", answer):
        return "use lower-case letters, digits and single dashes, and begin with a letter, as in hello-server"
    return too_long(answer)


def package_name(answer: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", answer):
        return "use lower-case letters, digits and underscores, and begin with a letter, as in hello_server"
    if "__" in answer or answer.endswith("_"):
        return "leave out doubled and trailing underscores, as in hello_server"
    if keyword.iskeyword(answer) or keyword.issoftkeyword(answer):
        return f"it is a Python keyword; try {answer}_server"
    if answer in sys.stdlib_module_names:
        return f"it would hide the module of that name in Python's standard library; try {answer}_server"
    if answer in TAKEN:
        return f"it would hide a package that the service's tests import; try {answer}_server"
    return too_long(answer)


def port(answer: str) -> str:
    if re.fullmatch(r"[1-9][0-9]{0,4}", answer) and int(answer) < 65535:
        return ""
    return "use a number from 1 to 65534 (the next port is for health checks)"


def registry(answer: str) -> str:
    if not answer or re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+([._-][a-z0-9]+)*)*", answer):
        return ""
    return "use a host and a path in lower case, as in ghcr.io/acme, or nothing"


def free_text(answer: str) -> str:
    if not answer.strip():
        return "write something here"
    if any(ord(character) < 32 or ord(character) == 127 for character in answer):
        return "write one line, without control characters"
    return ""


def too_long(answer: str) -> str:
    return f"use at most {LONGEST_NAME} characters" if len(answer) > LONGEST_NAME else ""


RULES: dict[str, Callable[[str], str]] = {
    "project_name": free_text,
    "project_slug": project_slug,
    "package_name": package_name,
    "description": free_text,
    "author": free_text,
    "port": port,
    "registry": registry,
}


def problem(option: str, answer: str) -> str:
    """What is wrong with an answer, in one line; empty if nothing is."""
    advice = RULES[option](answer)
    return f"{option} {json.dumps(answer[:60])} cannot be used: {advice}" if advice else ""


def problems(answers: dict[str, str]) -> list[str]:
    return [line for option in RULES if (line := problem(option, str(answers[option])))]


def checked(answer: object, option: str) -> str:
    """Stop the generator with one line if the answer is wrong. The value is a mere remark in the context."""
    if line := problem(option, str(answer)):
        raise ClickException(line)
    return "ok"


def quoted(answer: str) -> str:
    """A string literal that TOML, YAML, JSON and Python read alike."""
    return json.dumps(answer, ensure_ascii=False)


def label(answer: str) -> str:
    """The same for a Dockerfile, where a dollar sign would expand."""
    return quoted(answer).replace("$", "\\$")


def unit(answer: str) -> str:
    """A systemd unit's value, where a percent sign would expand and a final backslash would join lines."""
    return answer.replace("%", "%%").rstrip("\\")


class Answers(Extension):
    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        for function in (checked, problems, quoted, label, unit):
            environment.filters[function.__name__] = function
