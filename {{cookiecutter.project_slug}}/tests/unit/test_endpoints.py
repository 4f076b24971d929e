"""The pages of the supervisor, asked without one: `Operations` is faked."""

import time
from collections.abc import Sequence

from {{ cookiecutter.package_name }}.runtime.config.settings import Config
from {{ cookiecutter.package_name }}.runtime.ipc.metrics import Figures
from {{ cookiecutter.package_name }}.runtime.ipc.scoreboard import BUSY, HANDED_OVER, STATE, Scoreboard
from {{ cookiecutter.package_name }}.runtime.ops import exposition, figures
from {{ cookiecutter.package_name }}.runtime.ops.admin_http import Answer
from {{ cookiecutter.package_name }}.runtime.ops.endpoints import Endpoints, metrics, outcome
from {{ cookiecutter.package_name }}.runtime.process.operations import (
    Done,
    GenerationFacts,
    Operations,
    Snapshot,
)


class Service(Operations):
    """What the endpoints see of a service with one worker."""

    def __init__(self) -> None:
        self.ordered: list[str] = []
        self.refusal = ""
        self.floors: tuple[int, int] | None = (2, 4)
        self.board = Scoreboard(2)
        self.board.words[self.board.base(0) + STATE] = BUSY
        self.board.words[self.board.base(0) + HANDED_OVER] = 3
        self.board.record(self.board.base(0), 0.001)

    def note_readiness(self, now: float) -> None:
        pass

    def look_up(self, names: Sequence[str]) -> bool:
        return True

    def on_signal(self) -> None:
        self.ordered.append("signals")

    def summary(self) -> str:
        return "serving"

    def unready(self) -> str:
        return "starting" if self.floors is None else ""

    def snapshot(self) -> Snapshot:
        totals = Figures()
        totals.add(self.board, True)
        return Snapshot(
            name='a "name"', version="1", pool="prefork", protocol="http", pid=7, started=time.monotonic() - 60,
            stopping=False, unready=self.unready(), listeners=[],
            generations=[GenerationFacts(1, 8, time.monotonic(), self.board)], serving=1, started_generations=1,
            workers={"idle": 0, "busy": 1, "starting": 0, "leaving": 0, "waiting": 0, "floor": 2, "max": 5},
            connections=0, totals=totals, failed_reloads=4, server_crashes=5, throttled_seconds=0.0,
            dropped_lines=6, logger_restarts=0,
        )  # fmt: skip

    def reload(self, done: Done | None = None) -> None:
        assert done is not None
        done(True, "generation 2 serves")

    def reload_outcome(self, done: Done) -> None:
        done(False, "it failed")

    def stop(self, cause: str) -> None:
        self.ordered.append(f"stop by {cause}")

    def restart(self) -> str:
        return self.refusal

    def change_floor(self, change: int) -> tuple[int, int] | None:
        return self.floors

    def stacks(self) -> None:
        self.ordered.append("stacks")


def endpoints(service: Service) -> Endpoints:
    found = Endpoints(Config())
    found.operations = service
    return found


def test_both_pages_show_the_same_figures() -> None:
    seen = Service().snapshot()
    tree, text = figures.status(seen), exposition.render(figures.families(seen)).splitlines()
    for figure in figures.FIGURES:
        if figure.field and not figure.label:
            value = tree
            for name in figure.field.split("."):
                value = value[name]
            assert f"{figure.metric} {exposition.number(value)}" in text  # type: ignore[arg-type]
    assert tree["totals"]["requests"] == 1 and tree["totals"]["handed_over"] == 3
    assert tree["ready"] is True and tree["pid"] == 7 and 60 <= tree["uptime_seconds"] < 70
    assert tree["generations"][0]["workers"][0]["state"] == "busy"
    assert 'service_workers{state="busy"} 1' in text
    assert any(line.startswith('service_info{name="a \\"name\\"",version="1"') for line in text)


def test_workers() -> None:
    service = Service()
    answers = [endpoints(service).workers(query) for query in ("+2", "2", "+", "-1000000", "+x")]
    assert [one.status for one in answers] == [200, 400, 400, 400, 400]
    assert answers[0].body.startswith("idle floor 2 -> 4;")
    assert "(the bounds are 1 and --max 5)" in endpoints(service).workers("+9").body
    service.floors = None
    assert endpoints(service).workers("+2") == Answer(409, "starting\n")


def test_orders() -> None:
    service = Service()
    pages = endpoints(service)
    answers = [pages.restart()]
    service.refusal = "not now"
    answers += [pages.restart(), pages.stop(), pages.stacks()]
    service.reload(outcome(answers.append))
    service.reload_outcome(outcome(answers.append))
    assert [one.status for one in answers] == [202, 409, 202, 202, 200, 409]
    assert service.ordered == ["stop by ctl", "stacks"]


def test_a_page_is_made_once_per_turn_of_the_loop() -> None:
    service, pages = Service(), endpoints(Service())
    pages.operations = service
    first = pages.once(metrics)
    assert pages.once(metrics) is first
    pages.expire(time.monotonic())
    assert pages.once(metrics) is not first
