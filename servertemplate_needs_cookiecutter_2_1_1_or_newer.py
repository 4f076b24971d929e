"""The oldest cookiecutter. Those before 2.0 do not look for extensions here, so all they say is this module's name."""

import re

import cookiecutter  # type: ignore[import-untyped]
from click import ClickException
from jinja2.ext import Extension

OLDEST = (2, 1, 1)

if tuple(map(int, re.findall(r"\d+", cookiecutter.__version__)[:3])) < OLDEST:
    raise ClickException(
        "this template needs cookiecutter 2.1.1 or newer; "
        f"this is {cookiecutter.__version__}: pipx install cookiecutter"
    )


class Version(Extension):
    """Adds nothing."""
