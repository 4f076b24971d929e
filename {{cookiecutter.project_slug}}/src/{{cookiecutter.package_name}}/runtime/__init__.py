"""The server runtime: a supervisor, generations of servers, and their pools. Standard library only.

Each folder is a layer: `config`, `ipc`, `log`, `system`, `process` (supervisor, server, members), `pool`, `http1`,
`loop`, `web`, `http` or `stream`, `ops`, from low to high; a module imports from its own and from lower ones. The
project's docs/architecture.md says what each is for.
"""

import sys

# The template's CHANGELOG.md says what each version brings, and what it asks of a project that takes it.
__version__ = "0.1.0"
PYTHON = sys.version.split()[0]  # as platform.python_version() says it, without the millisecond that its import takes
