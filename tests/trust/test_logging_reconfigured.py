"""Issue 18 E 8: user code configures logging."""

from __future__ import annotations

import pytest
from trust_process import HOSTILE, NIGHTLY, Place

CONFIGURING = (
    HOSTILE
    + """
import logging, logging.config

WHERE, HOW = os.environ["WHERE"], os.environ["HOW"]

def configure(where):
    if where != WHERE:
        return
    if HOW == "defaults":
        logging.config.dictConfig({"version": 1})
    elif HOW == "keeping":
        logging.config.dictConfig({
            "version": 1, "disable_existing_loggers": False,
            "handlers": {"own": {"class": "logging.StreamHandler"}}, "root": {"handlers": ["own"], "level": "INFO"},
        })
    elif HOW == "basic":
        logging.basicConfig(force=True, level=logging.ERROR)
    elif HOW == "no handlers":
        logging.getLogger().handlers.clear()
    elif HOW == "disabled":
        logging.disable(logging.CRITICAL)

configure("import")

def init(server):
    configure("init")

def worker_init(worker):
    configure("worker_init")
    tell("worker_init")

@routes.get("/bug")
def bug(request):
    raise LookupError("a bug of ours")

@routes.get("/die")
def die(request):
    tell("dies")
    os.kill(os.getpid(), 9)
"""
)


@pytest.mark.parametrize("how", ["defaults", "keeping", "basic", "no handlers", "disabled"])
@pytest.mark.parametrize("where", [pytest.param("import", marks=NIGHTLY), "init", "worker_init"])
def test_logging_reconfigured(pool: str, place: Place, where: str, how: str) -> None:
    """The runtime's own lines get out, each once: a handler's traceback, and the death of a worker."""
    service = place(pool, CONFIGURING)
    service.watch("-n", "1", "-m", "2", env={"WHERE": where, "HOW": how})
    service.events.wait("worker_init")
    assert service.get("/bug").status_code == 500
    service.log.wait_for("LookupError: a bug of ours", deadline=5)
    with service.wire() as wire:
        wire.send("GET /die HTTP/1.1\r\nHost: test\r\n\r\n")
        wire.rest()
    member = service.events.wait("dies")[0].pid
    service.log.wait_for(rf"\b{member}\b.*SIGKILL", deadline=5)
    assert len(service.log.find("LookupError: a bug of ours")) == 1, "the traceback comes twice"
    assert len(service.log.find(rf"\b{member}\b.*SIGKILL")) == 1, "the worker's death comes twice"
    service.end()
