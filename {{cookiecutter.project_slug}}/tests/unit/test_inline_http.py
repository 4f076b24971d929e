"""Which handlers run in the loop: those that have shown to be fast."""

import time

from {{ cookiecutter.package_name }}.runtime.http.engine import INLINE
from {{ cookiecutter.package_name }}.runtime.http.runner_threaded import RETRY, STALL, measure
from {{ cookiecutter.package_name }}.runtime.web.routes import Route


def measured(*runs: float) -> Route:
    route = Route("/", None)
    for took in runs:
        measure(route, took)
    return route


def goes_to_threads(route: Route) -> bool:
    return route.took > INLINE and time.monotonic() < route.retry


def test_a_single_long_run_of_a_fast_handler_is_tried_again_at_once() -> None:
    assert not goes_to_threads(measured(INLINE / 10, 100.0))


def test_two_in_a_row_are_believed() -> None:
    began = time.monotonic()
    route = measured(INLINE / 10, 100.0, 100.0)
    assert goes_to_threads(route)
    assert began + RETRY <= route.retry <= time.monotonic() + RETRY


def test_so_is_the_first_one_of_all() -> None:
    assert goes_to_threads(measured(100.0))


def test_one_short_run_is_enough_to_be_fast_again() -> None:
    assert not goes_to_threads(measured(INLINE / 10, 100.0, 100.0, INLINE / 10))


def test_what_is_a_little_too_slow_shows_on_average() -> None:
    assert goes_to_threads(measured(INLINE / 10, *[STALL / 2] * 50))
