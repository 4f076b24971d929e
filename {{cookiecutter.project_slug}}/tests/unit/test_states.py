"""The states of service, generation and reload: all transitions, without a process."""

import itertools
from typing import Any

import pytest

from {{ cookiecutter.package_name }}.runtime.process.operations import Done
from {{ cookiecutter.package_name }}.runtime.process.states import (
    EXIT_TIMEOUT,
    GENERATION,
    KILL_MARGIN,
    NEVER,
    RELOAD,
    SERVICE,
    Event,
    GenerationLife,
    GenerationState,
    Machine,
    Reloads,
    ReloadState,
    ServiceLife,
    ServiceState,
)

NOW = 1000.0
TABLES = [
    pytest.param(GENERATION, list(GenerationState), id="generation"),
    pytest.param(SERVICE, list(ServiceState), id="service"),
    pytest.param(RELOAD, list(ReloadState), id="reload"),
]


def generation(*events: Event, start_timeout: float = 30, drain_timeout: float = 8) -> GenerationLife:
    """A generation to which all this has happened, at once."""
    life = GenerationLife(NOW, start_timeout, drain_timeout)
    for event in events:
        assert life.on(event, NOW), event
    return life


def service(*events: Event) -> ServiceLife:
    life = ServiceLife(NOW)
    for event in events:
        assert life.move(event), event
    return life


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_every_pair_of_state_and_event(table: Any, states: list[Any]) -> None:
    """A pair that the table has leads where it says; any other changes nothing, and says so."""
    assert list(table) == states
    for state, event in itertools.product(states, Event):
        machine = Machine(table, state)
        assert machine.move(event) is (event in table[state])
        assert machine.state is table[state].get(event, state)


@pytest.mark.parametrize(("table", "states"), TABLES)
def test_every_state_can_be_reached(table: Any, states: list[Any]) -> None:
    assert reached(table, states[0]) == set(states)


@pytest.mark.parametrize("state", GenerationState)
def test_every_generation_can_end(state: GenerationState) -> None:
    assert GenerationState.GONE in reached(GENERATION, state)


def reached(table: Any, first: Any) -> set[Any]:
    found, new = {first}, {first}
    while new:
        new = {state for one in new for state in table[one].values()} - found
        found |= new
    return found


# -- a generation ----------------------------------------------------------------------------------------------


def test_a_life_with_an_orderly_end() -> None:
    life = generation(Event.LISTEN, Event.READY, Event.DRAIN, Event.SERVER_EXIT, Event.LAST_END)
    assert life.state is GenerationState.GONE and life.has_served


def test_a_report_that_comes_too_late_changes_nothing() -> None:
    for order in (Event.HALT, Event.KILL, Event.SERVER_CRASH):
        life = generation(Event.LISTEN, order)
        assert not life.on(Event.READY, NOW) and not life.has_served


def test_the_pipe_alone_does_not_end_a_generation() -> None:
    """Its server has to be reaped before."""
    life = generation(Event.LISTEN, Event.READY)
    assert not life.on(Event.LAST_END, NOW) and life.state is GenerationState.SERVING


def test_deadlines_of_a_start() -> None:
    assert generation().deadline == generation(Event.LISTEN).deadline == NOW + 30
    assert generation(Event.LISTEN, Event.READY).deadline == NEVER
    assert generation(start_timeout=0).deadline == NEVER


def test_deadlines_of_an_end() -> None:
    serving = (Event.LISTEN, Event.READY)
    drained = NOW + 8 + EXIT_TIMEOUT + KILL_MARGIN
    assert generation(*serving, Event.DRAIN).deadline == drained
    assert generation(*serving, Event.DRAIN, drain_timeout=0).deadline == NEVER
    assert generation(*serving, Event.SERVER_CRASH).deadline == drained  # its workers have as long as in a drain
    assert generation(*serving, Event.SERVER_EXIT).deadline == NOW + KILL_MARGIN  # it has seen its last worker leave
    assert generation(*serving, Event.HALT).deadline == NOW + EXIT_TIMEOUT + KILL_MARGIN
    assert generation(*serving, Event.KILL).deadline == NOW + KILL_MARGIN


def test_a_crash_during_a_drain_gives_no_more_time() -> None:
    life = generation(Event.LISTEN, Event.READY, Event.DRAIN)
    before = life.deadline
    assert life.on(Event.SERVER_CRASH, NOW + 5) and life.deadline == before


def test_an_order_to_halt_only_shortens_the_time_of_orphans() -> None:
    life = generation(Event.LISTEN, Event.READY, Event.SERVER_EXIT)
    assert life.on(Event.HALT, NOW) and life.deadline == NOW + KILL_MARGIN
    assert generation(Event.SERVER_CRASH, Event.HALT, drain_timeout=60).deadline == NOW + EXIT_TIMEOUT + KILL_MARGIN


def test_refusing_lasts_as_long_as_it_is_told() -> None:
    life = generation(Event.LISTEN, Event.READY)
    assert life.on(Event.REFUSE, NOW, 0.05) and life.deadline == NOW + 0.05
    assert life.on(Event.DRAIN, NOW + 0.05) and life.state is GenerationState.DRAINING


# -- a service -------------------------------------------------------------------------------------------------


def test_the_second_term_stops_at_once() -> None:
    for between in ((), (Event.DRAIN,)):
        assert service(Event.READY, Event.TERM, *between, Event.TERM).state is ServiceState.HALTED


def test_usr2_stops_gracefully_however_often_it_comes() -> None:
    life = service(Event.READY, Event.STOP)
    assert not life.move(Event.STOP) and life.state is ServiceState.STOP_DELAYED


@pytest.mark.parametrize("order", [Event.TERM, Event.STOP])
def test_an_order_to_stop_turns_a_restart_into_a_stop(order: Event) -> None:
    life = service(Event.READY, Event.RESTART, Event.DRAIN)
    assert life.begins_again
    assert life.move(order) and life.state is ServiceState.STOP_DRAINING and not life.begins_again


def test_listeners_are_needed_until_the_drain() -> None:
    assert service(Event.READY, Event.STOP).needs_listeners
    assert not service(Event.READY, Event.STOP, Event.DRAIN).needs_listeners
    assert not service(Event.HALT).needs_listeners


def test_a_service_that_has_failed_does_not_begin_again() -> None:
    life = service(Event.READY, Event.FAIL)
    assert not life.move(Event.RESTART) and not life.begins_again and life.is_stopping


# -- reloads ---------------------------------------------------------------------------------------------------


class Told(list[tuple[str, bool, str]]):
    """What is told to those that wait for reloads."""

    def waits(self, name: str) -> Done:
        return lambda worked, text: self.append((name, worked, text))


def test_a_reload_during_a_start_follows_it() -> None:
    reloads, told = Reloads(), Told()
    assert reloads.ask(told.waits("first")) and reloads.move(Event.BEGIN)
    assert not reloads.ask(told.waits("second")) and not reloads.ask(None)
    assert reloads.end(True, "ready") and told == [("first", True, "ready")]
    assert reloads.move(Event.BEGIN) and not reloads.end(False, "no")
    assert told[1:] == [("second", False, "no")] and reloads.state is ReloadState.IDLE


def test_a_refused_reload_is_told_to_those_that_wait_for_it() -> None:
    reloads, told = Reloads(), Told()
    assert reloads.ask(told.waits("one"))
    assert not reloads.end(False, "refused") and told == [("one", False, "refused")]


def test_waiting_for_the_latest_one() -> None:
    reloads, told = Reloads(), Told()
    reloads.move(Event.BEGIN)
    reloads.follow(told.waits("first"))
    reloads.ask(None)
    reloads.follow(told.waits("second"))
    reloads.end_all("stopped")
    assert told == [("first", False, "stopped"), ("second", False, "stopped")]


def test_failures_are_counted_in_one_line_each() -> None:
    reloads = Reloads()
    assert reloads.failed("a\nb") == reloads.trouble == "a b" and reloads.failures == 1
