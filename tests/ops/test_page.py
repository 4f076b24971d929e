"""The status page, in a real browser. With SCREENSHOTS=DIRECTORY it also keeps the pictures of the docs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Browser
from harness import HANDLERS, Background
from watched import Watched

SHOP = (
    HANDLERS
    + """
import random, time

def init(server):
    global orders, basket
    orders = server.counter("orders", "Orders taken")
    basket = server.gauge("basket_items", "Items in baskets")
    server.set_periodic(lambda: basket.set(random.randint(40, 60)), 1.0)

@routes.get("/orders")
def order(request):
    orders.add()
    time.sleep(random.choice((0.0, 0.0, 0.001, 0.004)))
    return "thank you"
"""
)


@pytest.fixture
def browser(tool: Callable[..., str]) -> Iterator[Browser]:
    tool("chromium", "chromium-browser")
    with Browser() as browser:
        yield browser


class Customers:
    """A calm load of real requests."""

    def __init__(self, service: Watched, number: int = 2) -> None:
        self.service = service
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(number)]
        for thread in self.threads:
            thread.start()

    def run(self) -> None:
        while not self.done.wait(0.01):
            with self.service.wire() as wire:
                assert wire.get("/orders", Connection="close").status == 200

    def stop(self) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join(20)


def keep(browser: Browser, name: str) -> None:
    """On a large screen and on a phone; nothing may stick out of the phone."""
    browser.size(390, 844, phone=True)
    browser.wait_for("innerWidth === 390")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    # Text that one can read and links that one can hit.
    assert browser.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 14
    directory = os.environ.get("SCREENSHOTS")
    if directory:
        browser.screenshot(Path(directory) / f"status-{name}-phone.png")
    browser.size(1100, 700)
    browser.wait_for("innerWidth === 1100")
    if directory:
        browser.screenshot(Path(directory) / f"status-{name}.png")


def release(service: Watched, held: list[Background]) -> None:
    """Let all that wait at a gate go, and those that follow them."""
    end = time.monotonic() + 60
    while any(one.is_alive() for one in held):
        for arrival in service.events.all("gate"):
            arrival.release()
        assert time.monotonic() < end
        held[0].join(0.05)


def samples(browser: Browser, number: int) -> None:
    """Until the page has heard so often from the service."""
    if os.environ.get("SCREENSHOTS"):
        number *= 6  # for a fuller curve
    browser.wait_for(f"past.length >= {number}", deadline=90)


@pytest.mark.timeout(300)
def test_calm_saturated_draining(service: Watched, browser: Browser) -> None:
    service.handlers(SHOP)
    service.watch("-n", "2", "-m", "4", "--stop-delay", "60")
    host, port = service.admin
    browser.size(1100, 700)
    browser.open(f"http://{host}:{port}/")
    customers = Customers(service)
    browser.wait_for("document.getElementById('state').textContent === 'ready'")
    samples(browser, 3)
    assert browser.evaluate("document.title") == "hello-server: ready"
    assert browser.evaluate("document.querySelectorAll('#generations .card').length") == 1
    assert "orders" in browser.evaluate("document.getElementById('metrics').textContent")
    browser.wait_for("parseInt(document.getElementById('rate').textContent) > 0")
    shown = int(browser.evaluate("past.at(-1).totals.requests"))
    assert 0 < shown <= service.status()["totals"]["requests"]
    keep(browser, "calm")
    customers.stop()

    held = [service.background("/gate") for _ in range(4)]
    service.events.wait("gate", 4)
    held += [service.background("/gate") for _ in range(12)]
    browser.wait_for("document.getElementById('state').textContent === 'saturated'")
    browser.wait_for("document.querySelectorAll('.cells .busy').length === 4")
    samples(browser, 6)
    keep(browser, "saturated")

    release(service, held)
    assert [one.result().status for one in held] == [200] * 16
    before = len(service.events.all("gate"))
    held = [service.background("/gate") for _ in range(2)]
    service.events.wait("gate", before + 2)
    customers = Customers(service)
    service.signal(signal.SIGHUP)
    service.wait_ready(2)
    browser.wait_for("document.getElementById('state').textContent === 'ready, draining'")
    assert browser.evaluate("document.querySelectorAll('#generations .card').length") == 2
    keep(browser, "draining")
    customers.stop()
    release(service, held)
    assert [one.result().status for one in held] == [200] * 2

    service.signal(signal.SIGTERM)
    browser.wait_for("document.getElementById('state').textContent === 'stopping'")
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    browser.wait_for("document.getElementById('state').textContent === 'no answer'")
    assert browser.exceptions == []


def test_names_are_text_not_markup(service: Watched, browser: Browser) -> None:
    """Nothing that a service says becomes HTML; and the page loads nothing but itself."""
    service.handlers(
        HANDLERS.replace('    tell("init"', '    server.gauge("x", "<img src=x onerror=boom()>")\n    tell("init"')
    )
    service.watch("--name", "<b>bold")
    host, port = service.admin
    browser.open(f"http://{host}:{port}/")
    browser.wait_for("document.getElementById('state').textContent === 'ready'")
    assert browser.evaluate("document.querySelectorAll('img, h1 b').length") == 0
    assert browser.evaluate("document.getElementById('name').textContent") == "<b>bold"
    assert browser.evaluate("performance.getEntriesByType('resource').every((e) => e.name.endsWith('/status'))")
    assert browser.exceptions == []
