"""What holds for all tests: Ctrl-C works, and what is said at the end of a run, however many processes it had."""

import re
import signal

import pytest

COUNTED = re.compile(r"test_bake\.py::test_(?:combination|types|style|unit_tests)\[")
TUTORIAL = "step of the tutorial: "


def pytest_configure() -> None:
    """A shell that runs the tests in the background has them ignore SIGINT; what they start would do so too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many combinations of answers were baked and examined, what the tutorial's steps took."""
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and COUNTED.search(report.nodeid):
                seconds[report.nodeid] = seconds.get(report.nodeid, 0) + report.duration
    baked = [spent for test, spent in seconds.items() if "test_combination[" in test]
    judged = [spent for test, spent in seconds.items() if "test_combination[" not in test]
    if baked:
        terminalreporter.section("combinations of answers")
        terminalreporter.line(f"{len(baked)} baked and examined in {sum(baked):.0f} s of the tests' time")
        terminalreporter.line(f"{len(judged)} runs of linter, types and unit tests over it: {sum(judged):.0f} s")
    new_user_path = [
        (name.removeprefix(TUTORIAL), seconds)
        for report in terminalreporter.stats.get("passed", [])
        for name, seconds in getattr(report, "user_properties", ())
        if name.startswith(TUTORIAL)
    ]
    if new_user_path:
        terminalreporter.section("a new user's path, as executed")
        for title, spent in new_user_path:
            terminalreporter.line(f"{spent:5.1f} s  {title}")
        terminalreporter.line(f"{sum(spent for _, spent in new_user_path) / 60:5.1f} min in all")
