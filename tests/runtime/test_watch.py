"""--reload: an edited file is served without an order."""

from __future__ import annotations

import signal

from harness import HANDLERS, Service


def test_an_edit_is_served(service: Service) -> None:
    service.start("--reload")
    assert service.get("/").text == "hello"
    service.handlers(HANDLERS.replace('return "hello"', 'return "good day"'))
    service.log.wait_for(r"changed: handlers\.py")
    service.wait_ready(2)
    service.wait_alone()
    assert service.get("/").text == "good day"


def test_a_broken_edit_waits_for_the_next_one(service: Service) -> None:
    service.expect_errors = True
    service.start("--reload")
    service.handlers("import nonsense")
    service.log.wait_for(r"reload failed: .*No module named 'nonsense'; .*generation 1 serves on")
    assert service.get("/").text == "hello"
    service.handlers(HANDLERS)
    service.wait_ready(3)


def test_an_edit_changes_nothing_without_it(service: Service) -> None:
    service.start()
    service.handlers(HANDLERS.replace('return "hello"', 'return "good day"'))
    service.signal(signal.SIGHUP)
    service.wait_ready(2)
    assert service.log.find("changed: ") == []
