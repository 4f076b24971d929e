"""What can go wrong before a service runs, and the exit status that says so.

Statuses follow sysexits(3) where it has a word for the case.
"""

OK = 0
USAGE = 2  # wrong command line, as getopt-style programs and argparse have it
UNAVAILABLE = 69  # EX_UNAVAILABLE: address in use, or already running
SOFTWARE = 70  # EX_SOFTWARE: init or the handlers failed, or the crash throttle gave up
TIMED_OUT = 75  # EX_TEMPFAIL: of a member of the pool, whose handler exceeded --request-timeout
NOPERM = 77  # EX_NOPERM: the kernel or the file system refused
CONFIG = 78  # EX_CONFIG: wrong environment or configuration file


class StartError(Exception):
    """A user's mistake: one clear line (what, where, what to do) and the exit status that goes with it."""

    def __init__(self, message: str, status: int = SOFTWARE) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
