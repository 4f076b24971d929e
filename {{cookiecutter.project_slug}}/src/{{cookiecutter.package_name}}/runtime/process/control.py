"""What operators ask of the supervisor and order, by signals, the endpoints and `ctl`: see `operations`."""

import os
import selectors
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from ..config.errors import StartError
from ..config.options import start_directory
from ..ipc import scoreboard
from ..ipc.crash_throttle import LONGEST_DELAY
from ..log import records
from ..log.records import log
from ..system.binding import Lookup
from ..system.listeners import remove
from .operations import Done, GenerationFacts, Snapshot
from .states import NEVER, Event, ServiceState
from .supervisor import Supervisor

SHOWN = ("busy", "idle", "starting", "leaving")  # states of workers in the summary


class Control:
    """The `Operations` of one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.generations = supervisor.generations
        self.lookup: Lookup | None = None  # for the reload that is under way
        self.unready_since = 0.0  # monotonic seconds, while a generation serves; 0 = it is ready

    def on_signal(self) -> None:
        supervisor = self.supervisor
        for action in supervisor.wakeup.take():
            if action == "reap":
                supervisor.reap()
            elif action == "stop":
                self.end(Event.HALT if supervisor.config.immediate else Event.TERM, "TERM")
            elif action == "finish":
                self.end(Event.STOP, "USR2")
            elif action == "halt":
                self.end(Event.HALT, "INT or QUIT")
            elif action == "reload":
                self.reload()
            elif action == "respawn":
                self.respawn()
            elif action in ("more", "fewer") and not supervisor.relay.is_terminal():
                self.change_floor(1 if action == "more" else -1)

    def unready(self) -> str:
        serving, heartbeat = self.generations.serving, self.supervisor.heartbeat
        if self.supervisor.life.is_stopping:
            return "stopping"
        if serving is None:
            return "starting" if self.generations.starting is not None else "no server"
        if heartbeat.stalled > heartbeat.UNREADY:  # then what health() said last says nothing
            return f"the server has not been heard of for {heartbeat.stalled:.0f} s"
        if heartbeat.vacant > heartbeat.VACANT:
            return "no worker is ready: worker_init() fails, or they end; the log shows why"
        return "" if serving.board.words[scoreboard.HEALTH] else "health() says no"

    def note_readiness(self, now: float) -> None:
        reason = "" if self.supervisor.life.is_stopping or self.generations.serving is None else self.unready()
        if reason and not self.unready_since:
            log.warning("not ready: %s", reason)
            self.unready_since = now
        elif self.unready_since and not reason:
            if self.generations.serving is not None and not self.supervisor.life.is_stopping:
                log.info("ready again after %.1f s", now - self.unready_since)
            self.unready_since = 0.0

    def summary(self) -> str:
        serving, trouble = self.generations.serving, self.supervisor.reloads.trouble
        state = "starting" if serving is None else f"serving, generation {serving.number}"
        if self.supervisor.life.is_stopping:
            state = "draining"
        elif serving is not None and self.generations.starting is not None:
            state = "reloading"
        workers = self.generations.workers()
        counts = ", ".join(f"{workers[name]} {name}" for name in SHOWN if workers[name]) or "none"
        return (
            f"{state}: workers {counts}, at most {self.supervisor.config.max}; connections"
            f" {self.generations.connections}{trouble and '; '}{trouble}"
        )

    def snapshot(self) -> Snapshot:
        supervisor, generations = self.supervisor, self.generations
        service, config, serving = supervisor.service, supervisor.config, generations.serving
        throttled, floor = supervisor.restart_at, config.idle
        if serving is not None:
            throttled = serving.board.words[scoreboard.THROTTLED_UNTIL] / 1000
            throttled = min(throttled, time.monotonic() + LONGEST_DELAY)
            floor = min(serving.board.words[scoreboard.FLOOR], config.max)
        return Snapshot(
            name=config.name, version=service.version, pool=service.pool_name, protocol=service.protocol_name,
            pid=os.getpid(), started=supervisor.life.started, stopping=supervisor.life.is_stopping,
            unready=self.unready(),
            listeners=[one for one in generations.listeners if one.socket.fileno() >= 0],  # a drain closes them
            generations=[GenerationFacts(one.number, one.pid, one.born, one.board) for one in generations],
            serving=serving.number if serving is not None else 0, started_generations=generations.count,
            workers={**generations.workers(), "floor": floor, "max": config.max},
            connections=generations.connections, totals=generations.totals(),
            failed_reloads=supervisor.reloads.failures, server_crashes=supervisor.throttle.crashes,
            throttled_seconds=max(0.0, throttled - time.monotonic()) if throttled < NEVER else 0.0,
            dropped_lines=generations.dropped_lines(), logger_restarts=supervisor.relay.logger_restarts,
        )  # fmt: skip

    def reload(self, done: Done | None = None) -> None:
        reloads, starting = self.supervisor.reloads, self.generations.starting
        if self.lookup is not None and not self.supervisor.life.is_stopping:
            reloads.ask(done)  # the one that waits for DNS reads the configuration anew
        elif not reloads.ask(done) and starting is not None:
            log.info("reload: generation %d is still starting; another one follows it", starting.number)
        elif self.supervisor.life.is_stopping:
            log.warning("reload ignored: the service is stopping")
            reloads.end_all("the service is stopping")
        else:
            self.supervisor.begin_reload()

    def look_up(self, names: Sequence[str]) -> bool:
        """Whether the reload that is under way has to wait: in a process of its own, as DNS takes its time."""
        if names:
            self.lookup = Lookup(names)
            self.supervisor.selector.register(self.lookup.reader, selectors.EVENT_READ, self.on_lookup)
        return bool(names)

    def on_lookup(self) -> None:
        lookup, self.lookup = self.lookup, None
        if lookup is None:
            return
        self.supervisor.selector.unregister(lookup.reader)
        self.generations.places = lookup.result()
        if not self.supervisor.life.is_stopping:
            self.reload()

    def reload_outcome(self, done: Done) -> None:
        """A HUP sent before the question counts: its handler has run by the time that the question can be read, so it
        only has to be taken first."""
        self.on_signal()
        serving, reloads = self.generations.serving, self.supervisor.reloads
        if self.supervisor.life.is_stopping:
            done(False, "the service is stopping")
        elif self.generations.starting is not None or self.lookup is not None:
            reloads.follow(done)
        elif reloads.trouble or serving is None:
            done(False, reloads.trouble or self.unready())
        else:
            done(True, f"generation {serving.number} serves")

    def stop(self, cause: str) -> None:
        self.end(Event.STOP, cause)

    def end(self, event: Event, cause: str) -> None:
        """An order to stop, gracefully or at once."""
        supervisor, generations, life = self.supervisor, self.generations, self.supervisor.life
        was_stopping = life.is_stopping
        if not life.move(event):
            return
        at_once = life.state is ServiceState.HALTED
        if not was_stopping or at_once:
            log.info("stopping %s (%s)", "at once" if at_once else "gracefully", cause)
        if not was_stopping:
            supervisor.notify.send("STOPPING=1", f"STATUS={'stopping at once' if at_once else 'draining'}")
            supervisor.restart_at = NEVER
            life.deadline = time.monotonic() + supervisor.config.stop_delay
            if generations.starting is not None:
                generations.halt([generations.starting])
            supervisor.reloads.end_all("the service is stopping")
            if self.lookup is not None:
                with suppress(ProcessLookupError):
                    os.kill(self.lookup.pid, signal.SIGKILL)
        if at_once:
            life.deadline = NEVER
            remove(generations.listeners)
            generations.halt(generations)

    def restart(self) -> str:
        supervisor = self.supervisor
        if supervisor.life.is_stopping:
            return "it is stopping already"
        if supervisor.notify.address or any(one.inherited for one in self.generations.listeners):
            return "its starter holds its state or its sockets: restart it there (systemctl restart)"
        missing = [one for one in (start_directory(), sys.executable) if one and not os.path.exists(one)]
        if missing:
            return f"not restarted: {missing[0]}, which it was started with, is gone"
        try:
            supervisor.load(supervisor.config)
        except (StartError, OSError) as error:
            return f"not restarted: {error}"
        self.end(Event.RESTART, "ctl restart")
        return ""

    def change_floor(self, change: int) -> tuple[int, int] | None:
        serving = self.generations.serving
        before = 0
        if serving is not None:
            before = min(serving.board.words[scoreboard.FLOOR], self.supervisor.config.max)  # the server changes it
        for generation in self.generations:
            generation.send(f"floor{change:+d}")
        return None if serving is None else (before, max(1, min(self.supervisor.config.max, before + change)))

    def respawn(self) -> None:
        """End the workers now, start a new generation."""
        if self.supervisor.life.is_stopping or self.generations.starting is not None:
            log.warning(
                "respawn ignored: the service is %s", "stopping" if self.supervisor.life.is_stopping else "starting"
            )
            return
        log.info("respawn: workers end now")
        self.generations.halt(self.generations)
        self.supervisor.start_again()

    def stacks(self) -> None:
        records.log_stacks()
        for generation in self.generations:
            generation.send("stacks")
