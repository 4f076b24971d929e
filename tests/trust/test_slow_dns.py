"""Issue 18 D 14: the supervisor's loop waits for nothing: DNS during a reload."""

from __future__ import annotations

import os

import pytest
from harness import ELSEWHERE, HANDLERS, Background
from trust_process import Asking, Place

pytestmark = pytest.mark.skipif(bool(ELSEWHERE), reason="another sitecustomize.py is tried")

SLOW = """
import socket, time
genuine = socket.getaddrinfo

def getaddrinfo(host, port, *arguments, flags=0, **keywords):
    if host in (b"slow.test", b"missing.test") and not flags & socket.AI_NUMERICHOST:
        time.sleep(4)
        if host == b"missing.test":
            raise socket.gaierror(-2, "Name or service not known")
        host = "127.0.0.1"
    return genuine(host, port, *arguments, flags=flags, **keywords)

socket.getaddrinfo = getaddrinfo
"""


@pytest.mark.parametrize("name", ["slow.test", "missing.test"])
def test_dns_during_a_reload(pool: str, place: Place, name: str) -> None:
    """The supervisor answers meanwhile, a second reload is the same one, and a name that there is not is refused."""
    service = place(pool, HANDLERS)
    (service.directory / "resolver").mkdir()
    (service.directory / "resolver" / "sitecustomize.py").write_text(SLOW)
    env = {"PYTHONPATH": os.pathsep.join([os.fspath(service.directory / "resolver"), os.fspath(service.source)])}
    config = service.config("bind = '127.0.0.1:0'\nidle = 1\nmax = 2\n")
    service.watch("-f", config, address=(), env=env)
    config.write_text(f"bind = '{name}:0'\nidle = 1\nmax = 2\n")
    with Asking(service.admin) as asking:
        first, second = (Background(lambda: service.ctl("reload", deadline=60)) for _ in range(2))
        codes = {one.result(60).returncode for one in (first, second)}
    assert asking.worst < 1.5, f"/livez took {asking.worst:.1f} s"
    assert codes == ({0} if name == "slow.test" else {1}), service.log.text
    if name == "missing.test":
        assert service.log.find("reload refused: 'missing.test' is no address")
        assert service.get("/").text == "hello"
    service.end()
