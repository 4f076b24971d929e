"""The command: `ctl`, which a health check runs every few seconds, imports only what it needs; the service, all."""

import gc
import os
import signal
import sys
from collections.abc import Sequence

from .config.errors import StartError
from .config.service import Service
from .config.settings import refuse_windows
from .config.text import cleaned


def run(service: Service, arguments: Sequence[str] | None = None) -> int:
    """Run the service, or `ctl`. Returns the exit status; every mistake is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    open_standard_streams()
    if arguments[:1] != ["ctl"]:
        gc.disable()  # what is imported lives for ever: no collection looks through it, now or later, where it would
        from . import main

        service.runner  # noqa: B018  # imported now, with its engine: no worker pays for it after its fork
        gc.freeze()  # copy into each process, page by page, what they share
        gc.enable()
        return main.run(service, arguments)
    from .ops import ctl

    try:
        refuse_windows()
        return ctl.main(service, arguments[1:])
    except StartError as error:
        print(cleaned(f"{service.name}: {error.message}"), file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `ctl status | head`
        sys.stderr.close()
        return 0


def open_standard_streams() -> None:
    """A starter may have closed descriptors 0, 1 or 2 (`>&-`): the next socket would become our stderr."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor, which is this one
            setattr(sys, name, open(fd, mode))  # noqa: SIM115  # for life
