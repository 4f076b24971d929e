"""The server runtime: a supervisor, generations of servers, and their pools. Standard library only.

Where to look: `options` (all of them, in one table), `supervisor`, `reload` and `server` (the process tree), `pool_*`
(who handles requests), `poller` (who waits for clients), `http1` and `http` (the protocol), `daemon` (detaching,
pidfile, privileges), `signals`, `listeners`, `scoreboard`, `sizing`, `notify`, `logs`, `control` and `admin`.
"""

import sys

# The template's CHANGELOG.md says what each version brings, and what it asks of a project that takes it.
__version__ = "0.1.0"
PYTHON = sys.version.split()[0]  # as platform.python_version() says it, without the millisecond that its import takes
