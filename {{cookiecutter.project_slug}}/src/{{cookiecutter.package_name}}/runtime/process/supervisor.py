"""The supervisor: owns listeners, pidfile, signals and scoreboards; starts, replaces and stops generations.

PID 1 in a container. One thread, one selector loop. It imports no user code, so no user code can crash it, and it
never blocks: not on a client, not on a log, not on a server.
"""

import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from ..config.errors import OK, SOFTWARE, StartError
from ..config.service import Service
from ..config.settings import Config
from ..ipc import scoreboard, signals
from ..ipc.crash_throttle import CrashThrottle
from ..ipc.metrics import Figures
from ..ipc.scoreboard import Phase, Scoreboard
from ..log import records
from ..log.pipe_reader import PipeReader
from ..log.records import log
from ..system import cgroups
from ..system import listeners as sockets
from ..system.code_watcher import CodeWatcher
from ..system.launcher import ReadyPipe
from ..system.listeners import Listener
from ..system.pidfile import Pidfile
from ..system.privileges import Identity
from ..system.sd_notify import SdNotify
from .generation import Generation
from .heartbeat import Heartbeat
from .operations import Done, GenerationFacts, OperatorEndpoints, Snapshot
from .recycling import resident
from .reload import Reload, tell
from .server import LAST_WORDS, ServerProcess, flush

TICK = 0.5
MERCY = 2.0  # seconds beyond its own limits that a server gets before it is killed
RETRY = 1.0  # seconds until the next attempt when no process could be made


class Supervisor:
    """`run` returns the exit status of the service."""

    def __init__(
        self, service: Service, config: Config, arguments: Sequence[str], ready: ReadyPipe | None,
        relay: PipeReader, activated: Mapping[str, str], endpoints: OperatorEndpoints,
    ) -> None:  # fmt: skip
        self.service = service
        self.config = config
        self.arguments = arguments
        self.directory = os.getcwd()  # relative paths of a reload mean the same as at the start
        self.ready_pipe = ready
        self.relay = relay
        self.activated = activated  # sockets that the starter has opened for us: {address: name}
        self.pidfile: Pidfile | None = None
        self.generations: list[Generation] = []
        self.current: Generation | None = None  # the one that serves
        self.next: Generation | None = None  # the one that starts
        self.count = 0
        self.was_ready = False
        self.stopping = False
        self.status = OK
        self.restart_due = float("inf")
        self.drain_due = float("inf")
        self.ending = False  # the last drain has begun: the listeners are needed no more
        self.throttle = CrashThrottle(config.fast_time, config.fast_max, config.restart_max)
        self.listeners: list[Listener] = []
        self.started = time.monotonic()
        self.pulse = Heartbeat()  # of the current server
        self.endpoints = endpoints
        self.figures = Figures()  # what ended generations have counted
        self.reloads = Reload(self)
        self.again = False  # `ctl restart`: after the end comes a new beginning
        self.selector = selectors.DefaultSelector()
        self.notify = SdNotify()
        self.code = CodeWatcher() if config.reload else None

    # ---- start ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """From the first bind to the last process. Raises StartError when it cannot even begin."""
        config = self.config
        identity = Identity(config.user, config.group)
        if not config.foreground:
            os.chdir("/")  # keep no file system busy
        if config.pidfile:
            self.pidfile = Pidfile(config.pidfile)
            if self.pidfile.stale:
                log.warning("pidfile %s named pid %s, which is gone: taken over", config.pidfile, self.pidfile.stale)
        try:
            self.listeners = self.bind(config, identity)
            self.endpoints.open(self, self.selector)
            self.wakeup = signals.SignalPipe(signals.SUPERVISOR)
            self.watch(self.wakeup.fileno(), self.on_signal)
            self.relay.join(self.selector)
            try:
                self.start_generation(config, self.listeners, identity)
            except OSError as error:
                raise StartError(f"cannot start the server: {error.strerror}; see the limits (ulimit -a)") from None
            self.work()
        finally:
            self.clean_up()
        if self.again and self.status == OK:
            self.run_again()
        return self.status

    def run_again(self) -> None:
        """`ctl restart`: this process becomes a new supervisor, by the same command in the same directory."""
        os.chdir(self.directory)
        self.relay.close()
        os.execve(sys.executable, sys.orig_argv, os.environ)

    def bind(self, config: Config, identity: Identity) -> list[Listener]:
        """The listeners of a configuration; those that exist already are kept."""
        have = {listener.address: listener for listener in self.listeners}
        made: list[Listener] = []
        try:
            for address in config.bind:
                if address not in have:
                    made.append(sockets.bind(address, identity.uid, identity.gid))
        except StartError as error:
            for listener in made:
                listener.remove()
            ours = {one for generation in self.generations for one in generation.listeners} | {*self.listeners}
            raise sockets.explained(error, address, [one for one in ours if one.socket.fileno() >= 0]) from None
        have.update({listener.address: listener for listener in made})
        return [have[address] for address in dict.fromkeys(config.bind)]

    def watch(self, fd: int, action: Callable[[], None]) -> None:
        self.selector.register(fd, selectors.EVENT_READ, action)

    def start_generation(self, config: Config, listeners: list[Listener], identity: Identity) -> None:
        """Fork a server, without exec: it has every runtime module and nothing of the user's. Raises OSError when
        there is no process, descriptor or memory left; then nothing has changed."""
        cgroups.fit(self.service, config, resident(os.getpid()))
        with ExitStack() as undo:
            board = Scoreboard(self.service.pool.slots(config), self.service.pool.rows(config))
            undo.callback(board.close)
            channel, theirs = socket.socketpair()
            undo.callback(channel.close)
            undo.callback(theirs.close)
            lives, holding = os.pipe()
            undo.callback(os.close, lives)
            undo.callback(os.close, holding)
            flush()
            with signals.blocked():
                pid = os.fork()
                if not pid:
                    self.shed(listeners, channel, lives)
                    ServerProcess(self.service, config, board, listeners, theirs, identity).run()
            undo.pop_all()
        theirs.close()
        os.close(holding)
        self.count += 1
        generation = Generation(self.count, pid, config, board, listeners, channel, lives)
        generation.watchers, self.reloads.watchers = self.reloads.watchers, []
        if config.start_timeout:
            generation.deadline = generation.born + config.start_timeout
        self.generations.append(generation)
        self.next = generation
        self.watch(channel.fileno(), lambda: self.on_report(generation))
        self.watch(lives, lambda: self.on_last_gone(generation))

    def shed(self, listeners: list[Listener], channel: socket.socket, lives: int) -> None:
        """In the new server: close what belongs to the supervisor alone."""
        keep = {listener.socket.fileno() for listener in listeners}
        watched = {key.fd for key in self.selector.get_map().values()} - {one.descriptor for one in self.relay.outlets}
        for fd in watched - keep - {self.wakeup.fileno()}:
            os.close(fd)
        self.selector.close()
        self.wakeup.close()
        for generation in self.generations:
            generation.channel.detach()  # closed above, by its number
        channel.close()
        os.close(lives)
        for listener in self.listeners:
            if listener.socket.fileno() not in keep:
                listener.socket.close()
        for sock in self.endpoints.sockets():
            if sock.fileno() in watched:
                sock.detach()  # closed above, by its number
            else:
                sock.close()  # accepting pauses there
        if self.pidfile is not None:
            os.close(self.pidfile.descriptor)
        if self.ready_pipe is not None:
            self.ready_pipe.close()
        self.notify.close()
        self.relay.shed(watched)

    # ---- the loop ------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Until everything has stopped."""
        while self.generations or not self.stopping:
            now = time.monotonic()
            due = min(now + TICK, self.restart_due, self.drain_due, self.notify.due, self.relay.due,
                      *(min(g.deadline, g.drain_due) for g in self.generations))  # fmt: skip
            for key, _ in self.selector.select(max(0.0, due - now)):
                key.data()
            self.check_timers(time.monotonic())

    def check_timers(self, now: float) -> None:
        for generation in list(self.generations):
            if now >= generation.deadline:
                self.on_deadline(generation, now)
            if now >= generation.drain_due:
                self.drain(generation)
        if now >= self.restart_due:
            self.restart_due = float("inf")
            if not self.stopping and self.next is None:
                self.start_again()
        if now >= self.drain_due:
            self.drain_due = float("inf")
            self.ending = True
            self.turn_away(self.generations, self.listeners)
        beating = self.current is not None and not (self.current.halted or self.stopping)
        self.pulse.check(self.current if beating else None)
        self.relay.check(now, self.dropped())
        self.endpoints.expire(now)
        if self.code is not None and not self.stopping and (names := self.code.changed()):
            log.info("changed: %s", ", ".join(names))
            self.reloads.begin()
        self.notify.beat(now, self.stopping or self.next is not None, self.summary)

    def summary(self) -> str:
        """What the service does, in one line for `systemctl status`."""
        pool = self.workers()
        state = "draining" if self.stopping else "reloading" if self.current and self.next else ""
        state = state or (f"serving, generation {self.current.number}" if self.current else "starting")
        counts = ", ".join(f"{pool[name]} {name}" for name in ("busy", "idle", "starting", "leaving") if pool[name])
        trouble = f"; {self.reloads.trouble}" if self.reloads.trouble else ""
        return f"{state}: workers {counts or 'none'}, at most {pool['max']}; connections {self.connections}{trouble}"

    @property
    def connections(self) -> int:
        """Those that are held, by all generations."""
        return sum(generation.board.total(scoreboard.CONNECTIONS) for generation in self.generations)

    def on_deadline(self, generation: Generation, now: float) -> None:
        """A generation has had its time: for its start, or for its end."""
        if generation.killed:
            if generation.alive:  # somebody holds its pipe: a process that user code has forked
                log.warning("processes that workers of generation %d have started are still there", generation.number)
                self.on_last_gone(generation)
            if generation.pid:  # stopped by a debugger, or in a system call that does not end
                log.error("the server of generation %d is killed, and does not end", generation.number)
                self.on_server_end(generation, signal.SIGKILL)
            return
        if generation is self.next:
            limit = generation.config.start_timeout
            waited = "worker_init()" if generation.listens else "importing the handlers, or init(),"
            generation.failure = (SOFTWARE, f"not ready within {limit:g} s (--start-timeout): {waited} did not return")
        elif generation.pid:
            log.error("generation %d does not end: killed", generation.number)
        generation.killed = True
        generation.deadline = now + MERCY
        generation.kill()

    def start_again(self) -> None:
        """The next generation with what is known to work."""
        try:
            self.start_generation(self.config, self.listeners, self.identity())
        except (OSError, StartError) as error:
            log.error("cannot start the server: %s; trying again", getattr(error, "strerror", "") or error)
            self.restart_due = time.monotonic() + RETRY

    def identity(self) -> Identity:
        return Identity(self.config.user, self.config.group)

    def on_signal(self) -> None:
        for action in self.wakeup.take():
            if action == "reap":
                self.reap()
            elif action == "stop":
                if self.config.immediate or (self.stopping and not self.again):  # of a restart it makes a stop
                    self.halt("TERM")
                else:
                    self.stop("TERM")
            elif action == "finish":
                self.stop("USR2")
            elif action == "halt":
                self.halt("INT or QUIT")
            elif action == "reload":
                self.reloads.begin()
            elif action == "respawn":
                self.respawn()
            elif action in ("more", "fewer") and not (self.config.foreground and os.isatty(2)):
                self.change_floor(1 if action == "more" else -1)

    def reap(self) -> None:
        """Collect every child, known or not: PID 1 inherits orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for generation in list(self.generations):
                if generation.pid == pid:
                    self.on_server_end(generation, status)
            if self.relay.logger is not None and self.relay.logger.pid == pid:
                self.relay.logger.ended(status)

    # ---- what a server reports -----------------------------------------------------------------------------------

    def on_report(self, generation: Generation) -> None:
        """Read what a server says, until there is no more for now."""
        while generation in self.generations and self.read_report(generation):
            continue

    def read_report(self, generation: Generation) -> bool:
        """False when nothing more is there."""
        try:
            data = generation.channel.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            if generation.channel.fileno() in self.selector.get_map():
                self.selector.unregister(generation.channel.fileno())
            return False
        *lines, generation.rest = (generation.rest + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            if word == "listening":
                self.on_listening(generation)
            elif word == "ready":
                self.on_ready(generation)
            elif word == "failed":
                status, _, reason = rest.partition(" ")
                generation.failure = (int(status), reason)
            elif word == "name":
                generation.name = rest
                if generation is self.current:
                    self.relay.rename(rest)
        return True

    def on_listening(self, generation: Generation) -> None:
        generation.listens = True
        if self.stopping:
            return  # we are stopping: they are closed
        for listener in generation.listeners:
            if not listener.listening or generation.number == 1:
                log.info("listening on %s", listener.shown(self.service.protocol.NAME))
            listener.listening = True

    def on_ready(self, generation: Generation) -> None:
        """The first worker of a generation can work: this one event is readiness, for everybody who asks."""
        if generation is not self.next:
            return  # it is being stopped already
        self.current, self.next = generation, None
        self.relay.rename(generation.name)
        generation.deadline = float("inf")
        logging.getLogger().setLevel(generation.config.log_level.upper())
        took = time.monotonic() - generation.born
        log.info("ready: generation %d after %.0f ms", generation.number, took * 1000)
        stale = [one for one in self.listeners if one not in generation.listeners]
        self.listeners = generation.listeners
        self.config = generation.config
        self.throttle.adopt(self.config.fast_time, self.config.fast_max, self.config.restart_max)
        older = [one for one in self.generations if one is not generation]
        left = [one for one in older if any(listener in stale for listener in one.listeners)]
        self.turn_away(left, stale)
        for one in older:
            if one not in left and one.drain_due == float("inf"):  # else it is to drain, and soon
                self.drain(one, "yield")
        self.was_ready = True
        self.reloads.trouble = ""
        self.notify.send("READY=1", f"STATUS=serving, generation {generation.number}")
        self.relay.flush()
        if self.relay.logger is not None:
            self.relay.logger.take_over()
        if self.ready_pipe is not None:
            self.ready_pipe.verdict(OK)
            self.ready_pipe = None
        tell(generation.watchers, True, f"generation {generation.number} serves")
        self.reloads.go_on()

    def on_server_end(self, generation: Generation, status: int) -> None:
        """A server has ended: as asked, failed to start, or crashed."""
        pid, generation.pid = generation.pid, 0
        was_current = generation is self.current
        was_next = generation is self.next
        self.current = None if was_current else self.current
        self.next = None if was_next else self.next
        self.on_report(generation)  # its last words may still be in the socket
        reason = (
            generation.failure[1] if generation.failure
            else f"the server (pid {pid}, generation {generation.number}) ended with {signals.name(status)}"
        )  # fmt: skip
        if self.stopping:
            if generation.failure and self.status == OK and not (self.was_ready or generation.halted):
                self.status = generation.failure[0]
        elif was_next:
            self.on_failed_start(generation, reason)
        elif was_current:
            if generation.failure:
                self.give_up(generation.failure[0], reason)
            else:
                self.replace(generation, reason)
        elif status:
            log.warning("generation %d, which was draining: %s", generation.number, reason)
        if not generation.alive:
            self.forget(generation)
        elif status:
            self.drain(generation)  # its workers have seen that it is gone: they get as long as they would have had
        else:
            generation.deadline = time.monotonic() + MERCY  # it has seen its last worker go

    def on_failed_start(self, generation: Generation, reason: str) -> None:
        for listener in generation.listeners:
            if listener not in self.listeners:
                listener.remove()
        if self.current is not None:
            self.reloads.failed(f"reload failed: {reason}; generation {self.current.number} serves on")
            tell(generation.watchers, False, reason)
            self.reloads.go_on()
        elif self.was_ready:
            tell(generation.watchers, False, reason)
            self.replace(generation, reason)
        else:
            self.give_up(generation.failure[0] if generation.failure else SOFTWARE, reason)

    def replace(self, generation: Generation, reason: str) -> None:
        """A server that served is gone: start the next generation without waiting for its workers."""
        delay = self.throttle.died(time.monotonic() - generation.born)
        if delay is None:
            self.give_up(SOFTWARE, f"{reason}; {self.throttle.crashes} crashes (--restart-max)")
            return
        log.error("%s; the next generation starts%s", reason, f" in {delay:.1f} s" if delay else "")
        self.restart_due = time.monotonic() + delay

    def respawn(self) -> None:
        """End the workers now, start a new generation."""
        if self.stopping or self.next is not None:
            log.warning("respawn ignored: the service is %s", "stopping" if self.stopping else "starting")
            return
        log.info("respawn: workers end now")
        self.current = None
        for generation in self.generations:
            self.end_now(generation)
        self.start_again()

    def give_up(self, status: int, reason: str) -> None:
        """The service cannot work: say why, stop what is left, and exit with `status`."""
        self.status = status
        self.say(reason)
        self.stopping = True
        self.reloads.end_all("the service has given up")
        self.next = None
        for generation in self.generations:
            self.end_now(generation)

    def say(self, reason: str) -> None:
        """The one line, for people: on the terminal while there is one, else in the log."""
        self.relay.flush()
        if self.ready_pipe is not None or self.config.foreground:
            records.last_words(self.config.name, reason)
        else:
            log.critical(reason)

    def dropped(self) -> int:
        """Lines of the log that nobody took in time: those of ended generations, of this process, and of the others."""
        word = scoreboard.DROPPED
        boards = [generation.board for generation in self.generations]
        own = self.figures.words[word] + records.channel.words[records.channel.index]
        return own + sum(board.total(word) + board.words[word] for board in boards)

    def on_last_gone(self, generation: Generation) -> None:
        """End-of-file of the pipe whose write ends all processes of a generation hold."""
        self.selector.unregister(generation.lives)
        os.close(generation.lives)
        generation.alive = False
        self.reap()
        if not generation.pid:
            self.forget(generation)

    def forget(self, generation: Generation) -> None:
        """Nothing is left of it."""
        if generation not in self.generations:
            return
        self.generations.remove(generation)
        if generation.channel.fileno() in self.selector.get_map():  # it may have reported its end already
            self.selector.unregister(generation.channel.fileno())
        generation.channel.close()
        self.close(generation.listeners)
        self.figures.keep(generation.board)
        generation.board.close()

    # ---- stop ----------------------------------------------------------------------------------------------------

    def stop(self, cause: str) -> None:
        """Graceful: not ready first, then after --stop-delay the drain."""
        self.again = False
        if self.stopping:
            return
        self.stopping = True
        self.restart_due = float("inf")
        self.notify.send("STOPPING=1", "STATUS=draining")
        log.info("stopping gracefully (%s)", cause)
        self.reloads.end_all("the service is stopping")
        if self.next is not None:
            self.end_now(self.next)
            self.next = None
        self.drain_due = time.monotonic() + self.config.stop_delay

    def turn_away(self, generations: list[Generation], listeners: list[Listener]) -> None:
        """Let nobody in any more at these listeners, which end with these generations; those who are at the door come
        in, then the generations drain."""
        can = [listener.turn_away() for listener in listeners]
        for generation in generations:
            generation.drain_due = time.monotonic() + (sockets.HANDSHAKE if any(can) else 0)
        if not generations:
            self.close(listeners)

    def drain(self, generation: Generation, command: str = "drain") -> None:
        """Let it end. With "yield" it leaves what waits in the accept queue to its successor."""
        generation.drain_due = float("inf")
        self.close(generation.listeners)
        if generation.halted:
            return
        limit = generation.config.drain_timeout
        if limit and generation.deadline == float("inf"):
            generation.deadline = time.monotonic() + limit + LAST_WORDS + MERCY
        generation.tell(command)

    def close(self, listeners: list[Listener]) -> None:
        """Those of them that are no longer needed. Members hold them until they have emptied their queues."""
        for listener in listeners:
            if self.ending or listener not in self.listeners:
                listener.remove()

    def halt(self, cause: str) -> None:
        """At once: requests in flight are cut off, exit() still runs."""
        self.again = False
        if not self.stopping or not all(g.halted for g in self.generations):
            log.info("stopping at once (%s)", cause)
        if not self.stopping:
            self.notify.send("STOPPING=1", "STATUS=stopping at once")
        self.stopping = self.ending = True
        self.reloads.end_all("the service is stopping")
        self.drain_due = self.restart_due = float("inf")
        for listener in self.listeners:
            listener.remove()
        for generation in self.generations:
            self.end_now(generation)

    def end_now(self, generation: Generation) -> None:
        if not generation.halted:
            generation.halted = True
            generation.deadline = time.monotonic() + LAST_WORDS + MERCY
            generation.tell("halt")

    # ---- operations ----------------------------------------------------------------------------------------------

    def unready(self) -> str:
        """Why the service is not ready, "" when it is."""
        if self.stopping:
            return "stopping"
        if self.current is None:
            return "starting" if self.next is not None else "no server"
        if self.pulse.stalled > self.pulse.SILENCE:  # then what health() said last says nothing
            return f"the server has not been heard of for {self.pulse.stalled:.0f} s"
        if not self.current.board.words[scoreboard.HEALTH]:
            return "health() says no"
        return ""

    def workers(self) -> dict[str, int]:
        """Workers (threads, where the pool has threads) by state, and the bounds of the pool."""
        counts = dict.fromkeys(("idle", "busy", "starting", "leaving", "waiting"), 0)
        for generation in self.generations:
            for slot in generation.board.slots():
                counts["waiting"] += slot.waiting
                if generation.board.phase >= Phase.DRAINING:
                    counts["leaving"] += slot.threads or 1
                elif slot.threads and slot.state in (scoreboard.IDLE, scoreboard.BUSY):
                    counts["busy"] += slot.threads_busy
                    counts["idle"] += slot.threads - slot.threads_busy
                else:
                    counts[scoreboard.STATES[slot.state]] += 1
        floor = self.current.board.words[scoreboard.FLOOR] if self.current is not None else 0
        return {**counts, "floor": floor or self.config.idle, "max": self.config.max}

    def snapshot(self) -> Snapshot:
        service, current = self.service, self.current
        totals = self.figures.copy()
        for generation in self.generations:
            totals.add(generation.board, generation is current)
        due = current.board.words[scoreboard.THROTTLED_UNTIL] / 1000 if current is not None else self.restart_due
        return Snapshot(
            name=self.config.name, version=service.version, pool=service.pool_name, protocol=service.protocol_name,
            pid=os.getpid(), started=self.started, stopping=self.stopping, unready=self.unready(),
            listeners=[one for one in self.listeners if one.socket.fileno() >= 0],  # a drain closes them
            generations=[GenerationFacts(one.number, one.pid, one.born, one.board) for one in self.generations],
            serving=current.number if current is not None else 0, started_generations=self.count,
            workers=self.workers(), connections=self.connections, totals=totals,
            failed_reloads=self.reloads.failures, server_crashes=self.throttle.crashes,
            throttled_seconds=max(0.0, due - time.monotonic()) if due < float("inf") else 0.0,
            dropped_lines=self.dropped(),
            logger_restarts=self.relay.logger.restarts if self.relay.logger is not None else 0,
        )  # fmt: skip

    def reload(self, done: Done) -> None:
        self.reloads.watchers.append(done)
        self.reloads.begin()

    def reload_outcome(self, done: Done) -> None:
        """A HUP sent before the question counts: its handler has run by the time that the question can be read, so it
        only has to be taken first."""
        self.on_signal()
        if self.stopping:
            done(False, "the service is stopping")
        elif self.next is not None:
            waiting = self.reloads.watchers if self.reloads.asked else self.next.watchers
            waiting.append(done)
        elif self.reloads.trouble or self.current is None:
            done(False, self.reloads.trouble or self.unready())
        else:
            done(True, f"generation {self.current.number} serves")

    def restart(self) -> str:
        if self.stopping:
            return "it is stopping already"
        if self.notify.address or any(one.inherited for one in self.listeners):
            return "its starter holds its state or its sockets: restart it there (systemctl restart)"
        try:
            self.reloads.load()
        except (StartError, OSError) as error:
            return f"not restarted: {error}"
        self.stop("ctl restart")
        self.again = True
        return ""

    def change_floor(self, change: int) -> tuple[int, int] | None:
        for generation in self.generations:
            generation.tell(f"floor{change:+d}")
        if self.current is None:
            return None
        before = self.current.board.words[scoreboard.FLOOR]
        return before, max(1, min(self.config.max, before + change))

    def stacks(self) -> None:
        records.log_stacks()
        for generation in self.generations:
            generation.tell("stacks")

    def clean_up(self) -> None:
        """Leave nothing behind."""
        self.endpoints.close()
        for listener in self.listeners:
            listener.remove()
        if self.pidfile is not None:
            self.pidfile.remove()
        self.relay.flush()
        if self.stopping and self.status == OK:
            log.info("stopped")
            self.relay.flush()
