"""The supervisor: owns listeners, pidfile, signals and scoreboards; starts, replaces and stops generations.

PID 1 in a container. One thread, one selector loop. It imports no user code, so no user code can crash it, and it
never blocks: not on a client, not on a log, not on a server. What may follow what is decided in `states`.
"""

import itertools
import os
import selectors
import signal
import time
from collections.abc import Callable

from ..config.errors import OK, SOFTWARE, StartError
from ..config.service import Service
from ..config.settings import Config
from ..ipc import signals
from ..ipc.crash_throttle import CrashThrottle
from ..log import records
from ..log.pipe_reader import PipeReader
from ..log.records import log
from ..system import cgroups
from ..system.code_watcher import CodeWatcher, warn_of_new_runtime
from ..system.launcher import ReadyPipe
from ..system.listeners import Listener, remove
from ..system.pidfile import Pidfile
from ..system.privileges import Identity
from ..system.refusal import Refusal
from ..system.sd_notify import SdNotify
from .generation import Generation, UntrustedError, start
from .generations import Generations
from .handlers_module import NAME_LENGTH
from .heartbeat import Heartbeat
from .operations import Operations, OperatorEndpoints
from .recycling import own_size
from .states import NEVER, Event, GenerationState, Reloads, ServiceLife

TICK = 0.5  # seconds between looks at what no event tells
REAPED = 256  # children in one turn of the loop
LAST_REPORTS = 16  # turns of reading after the end of a server
RETRY_INTERVAL = 1.0  # seconds until the next attempt when no process could be made


class Supervisor:
    """`run` returns the exit status of the service."""

    operations: Operations  # these three are set by `run`
    endpoints: OperatorEndpoints
    wakeup: signals.SignalPipe

    def __init__(
        self, service: Service, config: Config, load: Callable[[Config], Config], ready: ReadyPipe | None,
        relay: PipeReader,
    ) -> None:  # fmt: skip
        """`load` reads the configuration anew, for a reload of the one that it is given."""
        self.service = service
        self.config = config  # of the generation that serves
        self.load = load
        self.ready_pipe = ready
        self.relay = relay
        self.pidfile: Pidfile | None = None
        self.life = ServiceLife(time.monotonic())
        self.generations = Generations(self.life)
        self.throttle = CrashThrottle(config.fast_time, config.fast_max, config.restart_max)
        self.restart_at = NEVER  # monotonic seconds: after a crash
        self.next_inspection = 0.0  # of the scoreboards, in monotonic seconds
        self.heartbeat = Heartbeat()  # of the server that serves
        self.reloads = Reloads()
        self.selector = selectors.DefaultSelector()
        self.refusal = Refusal(self.selector, service.protocol.REFUSAL, self.generations.ended.refuse)
        self.notify = SdNotify()
        self.code = CodeWatcher() if config.reload else None

    # ---- start ---------------------------------------------------------------------------------------------------

    def run(self, operations: Operations, endpoints: OperatorEndpoints) -> int:
        """From the first bind to the last process. Raises StartError when it cannot even begin."""
        config, self.operations, self.endpoints = self.config, operations, endpoints
        Identity(config.user, config.group)  # an unknown one is refused before anything is made
        if not config.foreground:
            os.chdir("/")  # keep no file system busy
        if config.pidfile:
            self.pidfile = Pidfile(config.pidfile)
            if self.pidfile.stale:
                log.warning("pidfile %s named pid %s, which is gone: taken over", config.pidfile, self.pidfile.stale)
        try:
            self.generations.listeners = self.generations.bind(config)
            endpoints.open(operations, self.selector)
            self.wakeup = signals.SignalPipe(signals.SUPERVISOR)
            self.selector.register(self.wakeup, selectors.EVENT_READ, operations.on_signal)
            self.relay.join(self.selector, self.generations.close_boards)
            try:
                self.start_generation(config, self.generations.listeners)
            except OSError as error:
                raise StartError(f"cannot start the server: {error.strerror}; see the limits (ulimit -a)") from None
            self.work()
        finally:
            self.clean_up()
        return self.life.status

    def start_generation(self, config: Config, listeners: list[Listener]) -> None:
        """Raises OSError or StartError when it cannot be started; then nothing has changed."""
        cgroups.fit(self.service, config, own_size())
        generation = start(self.generations.count + 1, self.service, config, listeners, self.close_in_server)
        self.generations.add(generation)
        self.reloads.move(Event.BEGIN)
        self.selector.register(generation.channel, selectors.EVENT_READ, lambda: self.on_reports(generation))
        self.selector.register(generation.pipe, selectors.EVENT_READ, lambda: self.on_last_end(generation))

    def close_in_server(self, listeners: list[Listener]) -> None:
        """In a new server: close what is the supervisor's alone."""
        keep = {listener.socket.fileno() for listener in listeners}
        watched = {key.fd for key in self.selector.get_map().values()} - {one.descriptor for one in self.relay.outlets}
        sockets = [one.channel for one in self.generations] + [one.socket for one in self.generations.listeners]
        still_open = watched - keep - {self.wakeup.fileno()}
        for sock in (*self.endpoints.sockets(), *self.refusal.sockets(), *sockets):
            if sock.fileno() not in keep:
                still_open.discard(sock.fileno())
                sock.close()
        for fd in still_open:
            os.close(fd)
        self.selector.close()
        self.wakeup.close()
        self.generations.close_boards()  # of the others: what a member can write to is its own generation's
        if self.pidfile is not None:
            os.close(self.pidfile.descriptor)
        if self.ready_pipe is not None:
            self.ready_pipe.close()
        self.notify.close()
        self.relay.shed(watched)

    # ---- the loop ------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Until everything has stopped."""
        while self.generations.alive or not self.life.is_stopping:
            now = time.monotonic()
            deadline = min(now + TICK, self.restart_at, self.life.deadline, self.notify.next_watchdog,
                           self.relay.deadline, self.generations.deadline)  # fmt: skip
            for key, _ in self.selector.select(max(0.0, deadline - now)):
                key.data()
            self.check_timers(time.monotonic())

    def check_timers(self, now: float) -> None:
        for generation in self.generations:
            if now >= generation.life.deadline:
                self.on_deadline(generation, now)
        if now >= self.next_inspection:
            self.next_inspection = now + TICK
            for generation in self.generations:
                if not generation.distrusted and (damage := generation.board.damage()):
                    self.distrust(generation, f"its scoreboard holds what nothing of ours writes, {damage}")
        if now >= self.restart_at:
            self.restart_at = NEVER
            if not self.life.is_stopping and self.generations.starting is None:
                self.start_again()
        if now >= self.life.deadline:
            self.life.deadline = NEVER
            if self.life.move(Event.DRAIN):
                self.generations.refuse(self.generations, self.generations.listeners)
        self.heartbeat.check(None if self.life.is_stopping else self.generations.serving)
        self.operations.note_readiness(now)
        has_none = self.life.has_served and not self.life.is_stopping and self.generations.serving is None
        self.refusal.look(has_none, self.generations.listeners)
        self.relay.check(now, self.generations.dropped_lines())
        self.endpoints.expire(now)
        if self.ready_pipe is not None:
            self.ready_pipe.flush()
        if self.code is not None and not self.life.is_stopping and (names := self.code.changed()):
            log.info("changed: %s", ", ".join(names))
            self.operations.reload()
        self.notify.beat(now, self.life.is_stopping or self.generations.starting is not None, self.operations.summary)

    def on_deadline(self, generation: Generation, now: float) -> None:
        """A generation has had its time in the state that it is in."""
        state = generation.life.state
        if state is GenerationState.REFUSING:
            self.generations.drain(generation)
        elif state is GenerationState.KILLED:  # stopped by a debugger, or in a system call that does not end
            log.error("the server of generation %d is killed, and does not end", generation.number)
            self.on_server_end(generation, signal.SIGKILL)
        elif state is GenerationState.LINGERING:
            log.warning("processes that workers of generation %d have started are still there", generation.number)
            self.on_last_end(generation)
        else:
            generation.expire(now)

    def reap(self) -> None:
        """Reap every child, known or not: PID 1 inherits orphans."""
        for _ in range(REAPED):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for generation in self.generations:
                if generation.pid == pid:
                    self.on_server_end(generation, status)
            self.relay.reaped(pid, status)
        signal.raise_signal(signal.SIGCHLD)  # for the rest, in the next turn of the loop

    # ---- what a generation reports -------------------------------------------------------------------------------

    def on_reports(self, generation: Generation, turns: int = 1) -> None:
        """The border: whatever a server reports ends its own generation at most."""
        try:
            self.take_reports(generation, turns)
        except UntrustedError as error:
            self.distrust(generation, str(error))
        except Exception as error:
            log.exception("a report of generation %d cannot be handled", generation.number)
            self.distrust(generation, f"its server has reported what cannot be handled: {type(error).__name__}")

    def distrust(self, generation: Generation, reason: str) -> None:
        """A generation has done what none does: it is replaced like one whose server has crashed."""
        if generation.channel in self.selector.get_map():
            self.selector.unregister(generation.channel)
        generation.distrust(reason)

    def take_reports(self, generation: Generation, turns: int) -> None:
        for word, rest in itertools.chain.from_iterable(generation.reports() for _ in range(turns)):
            if word == "listening":
                generation.on_listening(self.service.protocol.NAME)
            elif word == "ready":
                self.on_ready(generation)
            elif word == "term":
                self.on_term(generation)
            elif word == "failed":
                generation.failed(rest)
            elif word == "name":
                generation.name = rest[:NAME_LENGTH] or generation.config.name
                if generation is self.generations.serving:
                    self.relay.rename(generation.name)
            elif word == "closed" and generation.channel in self.selector.get_map():
                self.selector.unregister(generation.channel)

    def on_ready(self, generation: Generation) -> None:
        """The first worker of a generation can work: this event is readiness, for all that ask for it."""
        if not generation.life.on(Event.READY, time.monotonic()):
            return  # it is ending already
        self.life.move(Event.READY)
        log.info("ready: generation %d after %.0f ms", generation.number, (time.monotonic() - generation.born) * 1000)
        before = self.generations.listeners
        self.adopt(generation)
        self.generations.retire_others(generation, [one for one in before if one not in generation.listeners])
        self.announce(generation)
        if self.reloads.end(True, f"generation {generation.number} serves"):
            self.begin_reload()

    def on_term(self, generation: Generation) -> None:
        """A server got a TERM: replace it as a reload does. If the supervisor got one too, as the process group or the
        control group was meant, that counts."""
        self.operations.on_signal()
        if self.life.is_stopping or generation.got_term or generation is not self.generations.serving:
            return
        generation.got_term = True
        log.warning("the server (pid %d, generation %d) got a TERM from outside the service: replacing it",
                    generation.pid, generation.number)  # fmt: skip
        if self.generations.starting is None:
            self.start_again()

    def adopt(self, generation: Generation) -> None:
        """Its settings are the service's from now on."""
        config = self.config = generation.config
        self.generations.adopt(generation)
        self.throttle.adopt(config.fast_time, config.fast_max, config.restart_max)
        self.relay.rename(generation.name)
        records.set_level(config)

    def announce(self, generation: Generation) -> None:
        """To systemd, and to the launcher, which ends."""
        self.reloads.trouble = ""
        self.notify.send("READY=1", f"STATUS=serving, generation {generation.number}")
        self.relay.service_ready()
        if self.ready_pipe is not None:
            self.ready_pipe.verdict(OK)

    # ---- the end of a generation ---------------------------------------------------------------------------------

    def on_server_end(self, generation: Generation, status: int) -> None:
        """A server has ended: as asked, failed to start, or crashed."""
        pid, generation.pid = generation.pid, 0
        before = generation.life.state
        is_crash = status or before is GenerationState.SERVING  # a server leaves when it is told to
        generation.life.on(Event.SERVER_CRASH if is_crash else Event.SERVER_EXIT, time.monotonic())
        self.on_reports(generation, LAST_REPORTS)  # they may still be in the socket
        self.generations.close(generation.listeners)
        ended = f"the server (pid {pid}, generation {generation.number}) ended with {signals.name(status)}"
        exit_status, reason = generation.failure or (SOFTWARE, ended)
        if self.life.is_stopping:
            if generation.failure and before is not GenerationState.HALTED and not self.life.has_served:
                self.life.status = self.life.status or exit_status
        elif not generation.life.has_served:
            self.on_failed_start(generation, exit_status, reason)
        elif before is not GenerationState.SERVING:
            if status:
                log.warning("generation %d, which was draining: %s", generation.number, reason)
        elif generation.failure and generation.config.restart_max:  # else no server can give up for the service
            self.fail(exit_status, reason)
        else:
            self.schedule_restart(generation, reason)
        self.forget_if_gone(generation)

    def on_failed_start(self, generation: Generation, status: int, reason: str) -> None:
        serving = self.generations.serving
        if serving is None and not self.life.has_served:
            self.fail(status, reason)
            return
        if serving is None:
            self.schedule_restart(generation, reason)
        else:
            self.report_failed_reload(f"reload failed: {reason}")
        if self.reloads.end(False, reason) and not self.life.is_stopping:
            self.begin_reload()

    def on_last_end(self, generation: Generation) -> None:
        """End-of-file of the pipe whose write ends all processes of a generation hold."""
        self.selector.unregister(generation.pipe)
        os.close(generation.pipe)
        generation.pipe = -1
        self.reap()
        self.forget_if_gone(generation)

    def forget_if_gone(self, generation: Generation) -> None:
        if generation.pipe >= 0 or not generation.life.on(Event.LAST_END, time.monotonic()):
            return  # a process is left, or SIGCHLD of the server is on its way
        if generation.channel in self.selector.get_map():  # else it is known to be closed
            self.selector.unregister(generation.channel)
        self.generations.remove(generation)
        self.generations.close(generation.listeners)

    def schedule_restart(self, generation: Generation, reason: str) -> None:
        """A server that served has crashed: start the next generation without waiting for its workers."""
        delay = self.throttle.died(time.monotonic() - generation.born)
        if delay is None:
            self.fail(SOFTWARE, f"{reason}; {self.throttle.crashes} crashes (--restart-max)")
            return
        log.error("%s; the next generation starts%s", reason, f" in {delay:.1f} s" if delay else "")
        self.restart_at = time.monotonic() + delay

    def start_again(self) -> None:
        """The next generation with what is known to work."""
        try:
            self.start_generation(self.config, self.generations.listeners)
        except (OSError, StartError) as error:
            log.error("cannot start the server: %s; trying again", getattr(error, "strerror", "") or error)
            self.restart_at = time.monotonic() + RETRY_INTERVAL

    # ---- reload --------------------------------------------------------------------------------------------------

    def begin_reload(self) -> None:
        """Start the next generation; the current one serves until that is ready."""
        self.notify.reloading()
        made: list[Listener] = []
        try:
            config = self.load(self.config)
            if self.operations.look_up(self.generations.unresolved(config)):
                return  # the reload begins anew when DNS has answered
            listeners = self.generations.bind(config)
            made = [one for one in listeners if one not in self.generations.listeners]
            log.info("reload: starting generation %d", self.generations.count + 1)
            warn_of_new_runtime()
            self.start_generation(config, listeners)
        except (StartError, OSError) as error:
            remove(made)
            self.report_failed_reload(f"reload refused: {error}")
            self.reloads.end(False, str(error))
            return
        self.restart_at = NEVER

    def report_failed_reload(self, text: str) -> None:
        serving = self.generations.serving
        rest = f"generation {serving.number} serves on" if serving else "the server has crashed, and starts again soon"
        log.error("%s", self.reloads.failed(f"{text}; {rest}"))
        self.notify.send("READY=1", f"STATUS={self.reloads.trouble}")  # else systemd waits for the reload's end

    # ---- stop ----------------------------------------------------------------------------------------------------

    def fail(self, status: int, reason: str) -> None:
        """The service cannot work: say why in one line, stop what is left, and exit with `status`."""
        self.life.status = status
        self.life.move(Event.FAIL)
        self.relay.flush()
        if (self.ready_pipe is not None and not self.ready_pipe.decided) or self.config.foreground:
            records.last_words(self.config.name, reason)  # on the terminal
        else:
            log.critical(reason)
        self.reloads.end_all("the service has given up")
        self.generations.halt(self.generations)

    def clean_up(self) -> None:
        self.endpoints.close()
        remove(self.generations.listeners)
        if self.pidfile is not None:
            self.pidfile.remove()
        self.relay.flush()
        if self.life.is_stopping and self.life.status == OK:
            log.info("stopped")
            self.relay.flush()
