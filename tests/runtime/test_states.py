"""The life of a generation as a machine that gets any event at any time: what holds for each history."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

RUNTIME = (
    Path(__file__).resolve().parents[2] / "{{cookiecutter.project_slug}}/src/{{cookiecutter.package_name}}/runtime"
)


def load() -> Any:
    """The module `process.states`, straight from the template: it needs no rendering."""
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the template's tree stays clean
    try:
        spec = importlib.util.spec_from_file_location("runtime_of_the_template", RUNTIME / "__init__.py")
        assert spec is not None and spec.loader is not None
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return importlib.import_module("runtime_of_the_template.process.states")
    finally:
        sys.dont_write_bytecode = keep


states = load()
Event, State = states.Event, states.GenerationState
ORDER = list(State)  # no transition leads back in it


class AnyHistory(RuleBasedStateMachine):
    """A generation, and what is true of its processes."""

    @initialize(start_timeout=st.sampled_from([0.0, 30.0]), drain_timeout=st.sampled_from([0.0, 8.0]))
    def start(self, start_timeout: float, drain_timeout: float) -> None:
        self.now = 100.0
        self.drain_timeout = drain_timeout
        self.life = states.GenerationLife(self.now, start_timeout, drain_timeout)
        self.server_runs = self.pipe_is_held = True
        self.was_ready = False
        self.latest = self.life.state

    def happens(self, event: Any) -> bool:
        before = self.life.state
        known = bool(self.life.on(event, self.now, 0.05))
        assert known or self.life.state is before
        return known

    @rule(event=st.sampled_from([Event.LISTEN, Event.READY]))
    def the_server_reports(self, event: Any) -> None:
        """Perhaps late: what it wrote before its end is read after it."""
        self.was_ready |= self.happens(event) and event is Event.READY

    @rule(event=st.sampled_from([Event.REFUSE, Event.DRAIN, Event.HALT]))
    def the_supervisor_orders(self, event: Any) -> None:
        self.happens(event)

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.life.state is not State.GONE and self.now >= self.life.deadline)
    @rule()
    def a_deadline_has_passed(self) -> None:
        """As the supervisor acts on it."""
        if self.life.state is State.REFUSING:
            assert self.happens(Event.DRAIN)
        elif self.life.state is State.KILLED:
            self.the_server_ends(Event.SERVER_CRASH)
        elif self.life.state is State.LINGERING:
            self.pipe_is_held = False
            assert self.happens(Event.LAST_END)
        else:
            assert self.happens(Event.KILL)

    @precondition(lambda self: self.server_runs)
    @rule(event=st.sampled_from([Event.SERVER_EXIT, Event.SERVER_CRASH]))
    def the_server_ends(self, event: Any) -> None:
        assert self.happens(event), "the end of a server means something in every state"
        self.server_runs = False
        if not self.pipe_is_held:
            assert self.happens(Event.LAST_END)

    @precondition(lambda self: self.pipe_is_held)
    @rule()
    def the_pipe_ends(self) -> None:
        self.pipe_is_held = False
        assert self.happens(Event.LAST_END) is not self.server_runs

    @invariant()
    def there_is_no_way_back(self) -> None:
        assert ORDER.index(self.life.state) >= ORDER.index(self.latest)
        self.latest = self.life.state

    @invariant()
    def the_state_is_true(self) -> None:
        state = self.life.state
        assert (state is State.GONE) is not (self.server_runs or self.pipe_is_held)
        assert (state in (State.ORPHANED, State.LINGERING, State.GONE)) is not self.server_runs
        assert self.life.has_served is self.was_ready

    @invariant()
    def it_ends_in_time(self) -> None:
        """Each state that is on the way to the end has a deadline, but a drain without a limit."""
        if self.life.state in (State.REFUSING, State.HALTED, State.KILLED, State.LINGERING):
            assert self.life.deadline < states.NEVER
        if self.life.state in (State.DRAINING, State.ORPHANED) and self.drain_timeout:
            assert self.life.deadline < states.NEVER


AnyHistory.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None, database=None)
test_any_history = AnyHistory.TestCase
