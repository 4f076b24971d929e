"""Issue 18 D 11: an outage of what worker_init() needs."""

from __future__ import annotations

import time

from harness import eventually
from trust_process import HOSTILE, Place

AWAY = (
    HOSTILE
    + """
def away():
    return os.path.exists(os.environ["AWAY"])

def worker_init(worker):
    if away():
        raise ConnectionError("the database is away")

@routes.get("/row")
def row(request):
    if away():
        request.worker.fail("the database is away")
    return "a row"
"""
)


def test_an_outage_is_seen_and_soon_over(pool: str, place: Place) -> None:
    """D 11: worker_init() fails while a database is away, and handlers end their workers. /readyz says so with a
    reason, each flip is one line; 3 s after the database is back the service is ready."""
    service = place(pool, AWAY)
    away = service.directory / "away"
    service.watch("-n", "4", "-m", "5", env={"AWAY": str(away)})
    service.wait_workers(4)
    away.touch()
    for _ in range(6):
        asked = service.background("/row")
        asked.join(3)  # answered, reset, or waiting
        if service.page("/readyz")[0] == 503:
            break
    eventually(lambda: service.page("/readyz")[0] == 503, "not ready", 10)
    code, body = service.page("/readyz")
    print(code, body)
    time.sleep(5)  # the outage lasts
    assert service.page("/readyz")[0] == 503
    away.unlink()
    began = time.monotonic()
    eventually(lambda: service.page("/readyz")[0] == 200, "ready again", 15)
    took = time.monotonic() - began
    assert took < 4, f"ready {took:.1f} s after the end of the outage"
    assert service.get("/row").text == "a row"
    assert len(service.log.find("(?i)not ready")) == 1, "one line when readiness goes"
    service.end()
