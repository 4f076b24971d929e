"""{{ cookiecutter.project_slug }}: the command. What stands before `run` happens once, in the supervisor."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  # in one line, before anything is imported that an older one cannot read
    sys.exit("{{ cookiecutter.project_slug }} needs Python 3.11 or newer, not " + sys.version.split()[0])

from . import __version__
from .runtime.command import run
from .runtime.config.service import Service

SERVICE = Service(
    name="{{ cookiecutter.project_slug }}",
    package="{{ cookiecutter.package_name }}",
    version=__version__,
    pool="{{ cookiecutter.pool }}",
    protocol="{{ cookiecutter.protocol }}",
    defaults={"port": {{ cookiecutter.port }}},
)


def main() -> int:
    return run(SERVICE)


if __name__ == "__main__":
    sys.exit(main())
