"""The generations of a service that have a process left, and the listeners that they share: how they end, and what all
together have counted."""

import time
from collections.abc import Iterable, Iterator

from ..config.errors import StartError
from ..config.settings import Config
from ..ipc import scoreboard
from ..ipc.metrics import Figures
from ..ipc.scoreboard import Phase
from ..log import records
from ..system import binding
from ..system.listeners import HANDSHAKE, Listener, remove
from ..system.privileges import Identity
from .generation import Generation
from .states import Event, GenerationState, ServiceLife


class Generations:
    """The oldest first."""

    def __init__(self, service: ServiceLife) -> None:
        self.service = service
        self.listeners: list[Listener] = []  # of the generation that serves
        self.places: dict[str, list[binding.Place] | str] = {}  # what DNS has said for the next bind
        self.alive: list[Generation] = []
        self.count = 0  # of all that were ever started
        self.ended = Figures()  # what ended generations have counted

    def __iter__(self) -> Iterator[Generation]:
        return iter(list(self.alive))

    def add(self, generation: Generation) -> None:
        self.alive.append(generation)
        self.count += 1

    def remove(self, generation: Generation) -> None:
        """Nothing is left of it but what it has counted, if that can be believed."""
        self.alive.remove(generation)
        if not generation.distrusted:
            self.ended.keep(generation.board)
        generation.channel.close()
        generation.board.close()

    def close_boards(self) -> None:
        """In a child that is no part of them."""
        for one in self.alive:
            one.board.close()

    @property
    def serving(self) -> Generation | None:
        """The newest that serves."""
        serves = (GenerationState.SERVING, GenerationState.REFUSING)
        return next((one for one in reversed(self.alive) if one.life.state in serves), None)

    @property
    def starting(self) -> Generation | None:
        return next((one for one in reversed(self.alive) if one.life.is_starting), None)

    def unresolved(self, config: Config) -> list[str]:
        """Addresses that need DNS before they can be bound."""
        have = {one.address for one in self.listeners}
        return [one for one in config.bind if one not in have and one not in self.places and binding.is_name(one)]

    def bind(self, config: Config) -> list[Listener]:
        """The listeners of a configuration; those that exist already are kept."""
        resolved, self.places = self.places, {}
        identity = Identity(config.user, config.group)
        have = {address: [one for one in self.listeners if one.address == address] for address in config.bind}
        made: list[Listener] = []
        for address, found in have.items():
            if found:
                continue
            places: list[binding.Place] = []
            try:
                known = resolved.get(address)
                if isinstance(known, str):
                    raise StartError(known)
                places = binding.resolve(address) if known is None else known
                have[address] = binding.bind(address, identity.uid, identity.gid, places=places)
            except StartError as error:
                remove(made)
                ours = {one for generation in self for one in generation.listeners} | {*self.listeners}
                living = [one for one in ours if one.socket.fileno() >= 0]
                raise binding.explained(error, address, places, living) from None
            made += have[address]
        return [one for found in have.values() for one in found]

    def adopt(self, generation: Generation) -> None:
        """Its listeners are the service's from now on, with its --backlog and its owner of UNIX sockets."""
        self.listeners, config = generation.listeners, generation.config
        try:
            identity = Identity(config.user, config.group)
            for listener in self.listeners:
                listener.adjust(config.backlog, identity.uid, identity.gid)
        except StartError as error:
            records.log.error("%s", error)

    def close(self, listeners: list[Listener]) -> None:
        """Those of them that are no longer needed. Members hold them until they have emptied their queues."""
        remove(one for one in listeners if not self.service.needs_listeners or one not in self.listeners)

    def refuse(self, generations: Iterable[Generation], listeners: list[Listener]) -> None:
        """Refuse new clients at these listeners, which end with these generations. Handshakes in progress complete,
        then the generations drain."""
        can_refuse = [listener.refuse() for listener in listeners]
        now, delay = time.monotonic(), HANDSHAKE if any(can_refuse) else 0.0
        if not [one for one in generations if one.life.on(Event.REFUSE, now, delay)]:
            self.close(listeners)

    def drain(self, generation: Generation, command: str = "drain") -> None:
        """Let it end. With "yield" it leaves what waits in the accept queue to its successor."""
        if generation.life.on(Event.DRAIN, time.monotonic()):
            self.close(generation.listeners)
            generation.send(command)

    def halt(self, generations: Iterable[Generation]) -> None:
        """Cut off what is in flight; exit() still runs."""
        for generation in generations:
            if generation.life.on(Event.HALT, time.monotonic()):
                generation.send("halt")

    def retire_others(self, successor: Generation, stale: list[Listener]) -> None:
        """Let older generations end: those with stale listeners after handshakes in progress there have completed, the
        others at once, leaving what is in the accept queues to their successor."""
        older = [one for one in self if one is not successor]
        affected = [one for one in older if any(listener in stale for listener in one.listeners)]
        self.refuse(affected, stale)
        for one in older:
            if one not in affected and one.life.state is not GenerationState.REFUSING:
                self.drain(one, "yield")

    @property
    def deadline(self) -> float:
        """The earliest of all, in monotonic seconds."""
        return min((one.life.deadline for one in self.alive), default=float("inf"))

    @property
    def connections(self) -> int:
        return sum(one.board.total(scoreboard.CONNECTIONS) for one in self.alive)

    def totals(self) -> Figures:
        """What the service has counted since its start. Gauges that servers have set are those of the newest one that
        is ready."""
        totals = self.ended.copy()
        shown = self.serving or next((one for one in reversed(self.alive) if not one.life.is_starting), None)
        for generation in self.alive:
            totals.add(generation.board, generation is shown)
        return totals

    def dropped_lines(self) -> int:
        """Lines of the log that were dropped by all processes: this one, the living ones and the ended ones."""
        word, own = scoreboard.DROPPED, records.channel.words[records.channel.index]
        return own + self.ended.words[word] + sum(one.board.total(word) + one.board.words[word] for one in self.alive)

    def workers(self) -> dict[str, int]:
        """Workers (threads, where the pool has threads) by state, and the jobs that wait for one."""
        counts = dict.fromkeys(("idle", "busy", "starting", "leaving", "waiting"), 0)
        for generation in self.alive:
            leaves = generation.board.phase >= Phase.DRAINING
            for slot in generation.board.slots():
                counts["waiting"] += slot.waiting
                if leaves:
                    counts["leaving"] += slot.threads or 1
                elif slot.threads and slot.state in (scoreboard.IDLE, scoreboard.BUSY):
                    counts["busy"] += slot.threads_busy
                    counts["idle"] += slot.threads - slot.threads_busy
                else:
                    counts[scoreboard.STATES[slot.state]] += 1
        return counts
