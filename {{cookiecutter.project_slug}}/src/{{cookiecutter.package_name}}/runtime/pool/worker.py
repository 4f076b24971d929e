"""What `worker_init(worker)` and handlers see of their worker."""

import os
from typing import TYPE_CHECKING, Any, NoReturn

from ..log.records import log


class WorkerFailed(BaseException):
    """Raised by Worker.fail; not an Exception, so that a handler's own `except Exception` does not stop it."""


class Worker:
    """One worker (a process or a thread). Put what lives as long as it, such as a database connection, on it as
    attributes of your own: `worker.db = connect()`."""

    draining = False  # the service stops, or a reload replaces it, and waits for the work of this process

    def __init__(self, number: int) -> None:
        self.number = number  # a process: of its slot in the pool, which a successor gets again; a thread: counts up
        self.pid = os.getpid()
        self.failure = ""  # the reason given to `fail`
        self._bodies_begun = 0  # response bodies that are user code, made by its handlers; counted by this worker
        self._bodies_ended = 0  # of those; counted by the loop
        self._request: Any = None  # that it handles, if any; log lines show the ids of its `trace`

    def fail(self, reason: str) -> NoReturn:
        """End this worker after an error that it cannot recover from; the pool replaces it. sys.exit() in a handler
        does the same."""
        raise WorkerFailed(reason)

    def failed(self, cause: BaseException) -> None:
        """For the runtime: note why this worker ends."""
        self.failure = str(cause) or "no reason given"
        log.error("worker fails: %s", self.failure)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"worker has no attribute {name!r}; set it in worker_init(worker)")

    if TYPE_CHECKING:  # at run time it would cost 290 ns per attribute that is set

        def __setattr__(self, name: str, value: Any) -> None: ...
