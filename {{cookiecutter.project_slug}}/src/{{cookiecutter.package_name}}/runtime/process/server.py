"""The server: one process per generation, always single-threaded. It imports the handlers, runs init(), gives up
root, forks the pool's members and replaces them, and runs periodic functions and health().

It talks to the supervisor over one socket: a line is a command or a report, end-of-file the end of the other side.
"""

import faulthandler
import gc
import os
import selectors
import signal
import socket
import threading
import time
from typing import NoReturn

from ..config.errors import OK, SOFTWARE, StartError
from ..config.service import Service
from ..config.settings import Config
from ..ipc import forks, scoreboard, signals
from ..ipc.crash_throttle import LONGEST_MEMBER_DELAY, CrashThrottle
from ..ipc.scoreboard import Phase, Scoreboard
from ..ipc.waker import Waker
from ..log import records
from ..log.records import log
from ..system.background import disown, finish
from ..system.daemonize import enter
from ..system.listeners import HANDSHAKE, Listener, State
from ..system.privileges import Identity, forbid_new_privileges
from ..system.refusal import Refusal
from . import pool_size
from .handlers_module import Server, attempt, call, described, load_handlers
from .member import Context, Member
from .recycling import Recycling
from .states import EXIT_TIMEOUT

LONGEST_REPORT = 4096  # bytes of a line for the supervisor
TICK_INTERVAL = 1.0  # seconds between looks at sizes and health
BEAT_INTERVAL = 0.4  # seconds between signs of life


class ServerProcess:
    """The server; `run` never returns."""

    def __init__(
        self, service: Service, config: Config, board: Scoreboard, listeners: list[Listener], channel: socket.socket,
        identity: Identity,
    ) -> None:  # fmt: skip
        self.service = service
        self.config = config
        self.board = board
        self.listeners = listeners
        self.channel = channel
        self.identity = identity
        self.members: dict[int, Member] = {}
        self.recycling = Recycling(config, board, self.members, self.start)
        self.saturation = pool_size.Saturation()
        self.fork_failed = False  # the last time that one was tried
        self.throttle = CrashThrottle(config.fast_time, config.fast_max, config.restart_max, LONGEST_MEMBER_DELAY)
        self.ready = False
        self.stopping = False
        self.got_term = False
        self.ends_at = 0.0  # when exit() and what it leaves behind are cut off
        self.deadline = float("inf")  # when members still there are killed
        self.not_before = 0.0  # the throttle: no member is started earlier
        self.history: list[int] = []
        self.next_tick = time.monotonic() + TICK_INTERVAL
        self.floor = service.pool.bounds(config)[0]
        board.words[scoreboard.FLOOR] = config.idle

    # ---- set-up ------------------------------------------------------------------------------------------------

    def run(self) -> NoReturn:
        status = SOFTWARE
        try:
            self.set_up()
            self.work()
            self.leave()
            status = OK
        except StartError as error:
            self.report(f"failed {error.status} {error.message}")
            status = error.status
            self.kill_all(signal.SIGKILL)
            if self.ready:
                self.leave()
        except BaseException as error:
            log.critical("the server failed", exc_info=True)
            if not self.ready:  # later it is a crash: the supervisor replaces it, and the members finish what they have
                self.report(f"failed {SOFTWARE} the server failed: {described(error)}")
                self.kill_all(signal.SIGKILL)
        finally:
            end = self.ends_at or time.monotonic() + EXIT_TIMEOUT
            finish("server", end, f"the server has {EXIT_TIMEOUT:g} s to end", status)
            records.flush()
            os._exit(status)

    def set_up(self) -> None:
        """Read the user's code, listen, give up root, start the first members. Raises StartError."""
        self.enter_process()
        self.run_init()
        self.identity.check_imports()
        self.listen()
        self.identity.become()
        self.service.protocol.check_surroundings(self.config)
        if not self.config.new_privileges:
            forbid_new_privileges()
        self.open_loop()
        self.check_health()
        gc.collect()
        gc.freeze()  # workers share what is here now; a collection would copy it page by page
        self.resize()

    def enter_process(self) -> None:
        self.wakeup = signals.SignalPipe(signals.MEMBER)
        disown()
        forks.withhold(self.descriptors)
        records.setup("server", self.config)
        records.channel.count_in(self.board.words, scoreboard.DROPPED)
        faulthandler.enable()
        enter(self.config)
        self.service.pool.prepare()

    def run_init(self) -> None:
        self.handlers = load_handlers(self.service)
        self.server = Server(self.service, self.config, self.listeners, self.identity, self.board, self.report)
        call(self.handlers, "init", self.server)
        self.server.in_init = False
        left = ", ".join(one.name for one in threading.enumerate() if one is not threading.main_thread())
        if left:
            what = f"init() left threads running ({left}), which no worker would have after the fork"
            raise StartError(f"{what}; start them in worker_init()")

    def listen(self) -> None:
        for listener in self.listeners:
            if listener.state is State.BOUND:
                listener.listen(self.config.backlog)
        self.report("listening")

    def open_loop(self) -> None:
        self.parent, self.parent_writer = os.pipe()
        self.waker = Waker()
        self.pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in self.pair:
            end.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.channel.setblocking(False)
        self.selector.register(self.wakeup, selectors.EVENT_READ, self.on_signal)
        self.selector.register(self.waker, selectors.EVENT_READ, self.on_wake)
        self.selector.register(self.channel, selectors.EVENT_READ, self.on_command)
        self.refusal = Refusal(self.selector, self.service.protocol.REFUSAL, self.board.refuse)

    def descriptors(self) -> list[int]:
        """Those that no child of user code gets; some are not there yet in init()."""
        found = [self.wakeup.reader, self.wakeup.writer, self.channel.fileno()]
        if hasattr(self, "selector"):
            found += [self.waker.reader, self.waker.writer, self.parent, self.parent_writer]
            found += [end.fileno() for end in (*self.pair, *self.refusal.sockets())] + [self.selector.fileno()]
        return [*found, *(listener.socket.fileno() for listener in self.listeners)]

    def report(self, line: str) -> None:
        try:
            self.channel.setblocking(True)
            data = line.replace("\n", " ").encode("utf-8", "backslashreplace")
            self.channel.sendall(data[: LONGEST_REPORT - 1] + b"\n")
            self.channel.setblocking(False)
        except OSError:
            log.info("not reported, as the supervisor is gone: %s", line)  # end-of-file tells the loop

    # ---- the loop ----------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Until the last member has left after a stop."""
        while not (self.stopping and not self.members):
            now = time.monotonic()
            self.board.words[scoreboard.BEAT] = int(now * 1000)
            deadline = min(self.next_tick, self.deadline, self.recycling.next_look, self.not_before or self.next_tick,
                           *[periodic.deadline for periodic in self.server.periodic])  # fmt: skip
            for key, _ in self.selector.select(max(0.0, min(deadline - now, BEAT_INTERVAL))):
                key.data()
            for periodic in self.server.periodic:
                periodic.run(time.monotonic())
            now = time.monotonic()
            if now >= self.next_tick:
                self.tick(now)
            if now >= self.recycling.next_look:
                self.recycling.measure(now)
            if now >= self.deadline:
                self.deadline = float("inf")
                log.warning("drain took longer than --drain-timeout: %d workers are killed", len(self.members))
                self.kill_all(signal.SIGKILL)
            if 0 < self.not_before <= now:
                self.not_before = 0.0
                self.resize()

    def tick(self, now: float) -> None:
        """Once a second."""
        self.next_tick = now + TICK_INTERVAL
        self.check_health()
        self.recycling.check(now)
        self.history = [*self.history[1 - pool_size.CALM :], self.tally()[0]]
        self.resize()
        said = self.saturation.look(self.board.are_all_busy(self.config.max), now)
        if said and not self.stopping:
            log.warning(said)

    def check_health(self) -> None:
        """health() says whether the service can do its work; the supervisor answers probes with it."""
        healthy = attempt(getattr(self.handlers, "health", None), "health()") is not False
        self.board.words[scoreboard.HEALTH] = int(healthy)

    def on_signal(self) -> None:
        for action in self.wakeup.take():
            if action == "reap":
                self.reap()
            elif action == "drain":  # not by the supervisor, which sends commands: it decides what follows
                self.got_term = True
                self.report("term")

    def on_wake(self) -> None:
        self.waker.clear()
        idle, busy, _ = self.board.tally()
        if not (self.ready or self.stopping) and idle + busy:
            self.ready = True
            self.board.phase = Phase.RUNNING
            self.report("ready")
        self.resize()

    def on_command(self) -> None:
        try:
            data = self.channel.recv(4096)
        except OSError:  # it ended with a report unread, which resets the connection
            data = b""
        if not data:
            log.warning("the supervisor is gone: finishing what is in flight")
            self.selector.unregister(self.channel.fileno())
            can_refuse = [listener.refuse() for listener in self.listeners]
            time.sleep(HANDSHAKE if any(can_refuse) else 0.0)  # as the supervisor waits before a drain
            self.drain()
        for command in data.decode().split():
            if command in ("drain", "yield"):
                self.drain(Phase.DRAINING if command == "drain" else Phase.REPLACED)
            elif command == "halt":
                self.drain()
                self.kill_all(signal.SIGKILL)
            elif command == "stacks":
                records.log_stacks()
                self.board.words[scoreboard.STACKS] += 1
                self.kill_all(signal.SIGURG)  # for members
            elif command.startswith("floor"):
                self.change_floor(int(command.removeprefix("floor")))

    def change_floor(self, change: int) -> None:
        """TTIN, TTOU and `ctl workers`: keep more or fewer workers idle, until the next reload."""
        wanted = max(1, min(self.config.max, self.board.words[scoreboard.FLOOR] + change))
        self.board.words[scoreboard.FLOOR] = wanted
        self.floor = self.service.pool.floor(self.config, wanted)
        log.info("idle floor is now %d", wanted)
        self.kill_all(signal.SIGURG)  # hosts look at the scoreboard
        self.resize()

    # ---- members -----------------------------------------------------------------------------------------------

    def tally(self) -> tuple[int, int, int]:
        """How many members are idle, busy and starting; those asked to leave count no more."""
        states = [self.board.states[m.slot] for m in self.members.values() if not m.leaving]
        return states.count(scoreboard.IDLE), states.count(scoreboard.BUSY), states.count(scoreboard.STARTING)

    def resize(self) -> None:
        """Start or retire members as the sizing policy says."""
        self.refusal.look(self.ready and not self.stopping and not self.board.has_workers(), self.listeners)
        if self.stopping or self.not_before:
            return
        idle, busy, starting = self.tally()
        ceiling = self.service.pool.bounds(self.config)[1]
        change = pool_size.change(idle, busy, starting, self.floor, ceiling, self.history)
        if self.throttle.hopeless and not (idle or busy):
            change = min(change, max(0, 1 - starting))  # one attempt at a time, until one works
        for _ in range(change):
            if self.start() is None:
                break
        if change < 0:
            self.history.clear()
            spare = [m for m in self.members.values() if not m.leaving]
            spare.sort(key=lambda m: (self.board.states[m.slot] != scoreboard.IDLE, self.board.connections[m.slot]))
            for member in spare[:-change]:
                member.leave()
        self.recycling.recycle()

    def start(self) -> Member | None:
        """Fork one member; None when that cannot be done now."""
        slot = self.board.claim()
        if slot is None:
            return None  # those that leave still hold theirs; the next tick tries again
        taken = {member.share for member in self.members.values() if not member.leaving}
        share = next(number for number in range(len(taken) + 1) if number not in taken)
        context = Context(
            self.service, self.config, self.board, self.handlers, self.listeners, self.pair, self.parent,
            self.waker, self.server.stack_size, share,
        )  # fmt: skip
        try:
            with signals.blocked():
                pid = os.fork()
                if not pid:
                    self.member_main(context, slot)
        except OSError as error:
            self.board.release(slot)
            if not self.fork_failed:
                log.error("cannot start a worker: fork: %s; trying again every second", error.strerror)
            self.fork_failed = True
            self.wait(1.0)
            return None
        if self.fork_failed:
            self.fork_failed = False
            log.info("workers can be started again")
        self.board.words[self.board.base(slot) + scoreboard.PID] = pid
        member = self.members[pid] = Member(pid, slot, share, self.board)
        return member

    def wait(self, seconds: float) -> None:
        """Start no member for a while."""
        self.not_before = time.monotonic() + seconds
        self.board.words[scoreboard.THROTTLED_UNTIL] = int(self.not_before * 1000)

    def member_main(self, context: Context, slot: int) -> NoReturn:
        """The child's side of the fork."""
        status = SOFTWARE
        try:
            self.selector.close()
            self.channel.close()
            self.wakeup.close()
            os.close(self.parent_writer)
            os.close(self.waker.reader)  # it only wakes
            self.refusal.disinherit()
            status = context.live(slot)
        except BaseException:
            log.critical("a worker failed", exc_info=True)
        finally:
            records.flush()
            os._exit(status)

    def reap(self) -> None:
        """Collect our own children, and no others: user code may have started some."""
        for member in list(self.members.values()):
            status = member.wait()
            if status is not None:
                self.on_end(member, status)
        self.resize()

    def on_end(self, member: Member, status: int) -> None:
        del self.members[member.pid]
        state = self.board.states[member.slot]
        self.board.release(member.slot)
        # One that ends well by itself got a TERM from outside; but not before it has begun to work.
        if self.stopping or member.leaving:
            return
        if status == 0 and state != scoreboard.STARTING:
            if not self.got_term:  # else a control group or the like was meant
                log.warning("worker %d got a TERM from outside the service, and has left; replacing it", member.pid)
            return
        life = time.monotonic() - member.born
        log.error("worker %d ended with %s after %.1f s; replacing it", member.pid, signals.name(status), life)
        delay = self.throttle.died(life, time.monotonic())
        self.board.words[scoreboard.CRASHES] = self.throttle.crashes
        if delay is None:
            raise StartError(f"{self.throttle.crashes} workers have died (--restart-max): giving up")
        if not self.ready and self.throttle.hopeless:
            where = "worker_init()" if state == scoreboard.STARTING else "its start"
            raise StartError(f"no worker came through {where} in {self.throttle.fast} attempts; see the log above")
        if delay:
            log.warning("workers die too fast: the next one starts in %.1f s", delay)
            self.wait(delay)

    def kill_all(self, number: signal.Signals) -> None:
        for member in self.members.values():
            member.kill(number)

    # ---- the end -----------------------------------------------------------------------------------------------

    def drain(self, phase: Phase = Phase.DRAINING) -> None:
        """No more connections; members leave when theirs are done, at --drain-timeout at the latest. After a reload
        that keeps the listeners (REPLACED), what waits in their queue is the next generation's."""
        if self.stopping:
            return
        self.stopping = True
        self.board.phase = phase
        if self.config.drain_timeout:
            self.deadline = time.monotonic() + self.config.drain_timeout
        self.refusal.end()
        for listener in self.listeners:
            listener.socket.close()
        self.kill_all(signal.SIGTERM)

    def leave(self) -> None:
        """exit(), for at most EXIT_TIMEOUT seconds."""
        self.ends_at = time.monotonic() + EXIT_TIMEOUT
        faulthandler.dump_traceback_later(EXIT_TIMEOUT, exit=True)
        attempt(getattr(self.handlers, "exit", None), "exit()", self.server)
        faulthandler.cancel_dump_traceback_later()
