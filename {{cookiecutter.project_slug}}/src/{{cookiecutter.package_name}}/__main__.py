"""{{ cookiecutter.project_slug }}: the command. What stands before `run` happens once, in the supervisor."""

import sys

from . import __version__
from .runtime.command import run
from .runtime.config.service import Service

SERVICE = Service(
    name="{{ cookiecutter.project_slug }}",
    package="{{ cookiecutter.package_name }}",
    version=__version__,
    pool="{{ cookiecutter.pool }}",
    protocol="{{ cookiecutter.protocol }}",
    defaults={"port": {{ cookiecutter.port }}{{ cookiecutter.__defaults }}},
)

if __name__ == "__main__":
    sys.exit(run(SERVICE))
