"""Reloads: a new generation with new configuration and code takes over. When it fails, the old one serves on; whoever
waits for the end of a reload is told which."""

import os
from typing import TYPE_CHECKING

from ..config.errors import StartError
from ..config.settings import Config, changed, load
from ..log.records import log
from ..system import socket_activation
from ..system.listeners import Listener
from ..system.privileges import Identity
from .operations import Done

if TYPE_CHECKING:
    from .supervisor import Supervisor


class Reload:
    """What there is to remember from one reload to the next."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self.asked = False  # for another one, while a generation was starting
        self.failures = 0
        self.trouble = ""  # why the latest one failed, if it did
        self.watchers: list[Done] = []  # wait for the one that begins next; later they are the generation's

    def begin(self) -> None:
        """Start the next generation; the current one serves until that is ready."""
        supervisor = self.supervisor
        if supervisor.stopping:
            log.warning("reload ignored: the service is stopping")
            self.end_all("the service is stopping")
            return
        if supervisor.next is not None:
            log.info("reload: generation %d is still starting; another one follows it", supervisor.next.number)
            self.asked = True
            return
        supervisor.notify.reloading()
        made: list[Listener] = []
        try:
            config = self.load()
            identity = Identity(config.user, config.group)
            listeners = supervisor.bind(config, identity)
            made = [one for one in listeners if one not in supervisor.listeners]
            log.info("reload: starting generation %d", supervisor.count + 1)
            supervisor.start_generation(config, listeners, identity)
        except (StartError, OSError) as error:
            for listener in made:
                listener.remove()
            rest = "the server has crashed, and starts again in a moment"
            if supervisor.current is not None:
                rest = f"generation {supervisor.current.number} serves on"
            self.failed(f"reload refused: {error}; {rest}")
            watchers, self.watchers = self.watchers, []
            tell(watchers, False, str(error))
            return
        supervisor.restart_due = float("inf")

    def go_on(self) -> None:
        """A generation has started, or has failed to: begin the reload that was asked for meanwhile."""
        if self.asked:
            self.asked = False
            self.begin()

    def failed(self, text: str) -> None:
        self.failures += 1
        self.trouble = text.replace("\n", " ")
        log.error(text)
        self.supervisor.notify.send("READY=1", f"STATUS={self.trouble}")  # else systemd waits for the reload's end

    def end_all(self, text: str) -> None:
        """No reload that somebody waits for will come to an end."""
        waiting, self.watchers = self.watchers, []
        for generation in self.supervisor.generations:
            waiting += generation.watchers
        tell(waiting, False, text)

    def load(self) -> Config:
        """The configuration as it is now; relative paths mean what they meant at the start."""
        supervisor = self.supervisor
        os.chdir(supervisor.directory)
        try:
            config = load(supervisor.service, supervisor.arguments, os.environ)
        finally:
            if not supervisor.config.foreground:
                os.chdir("/")
        socket_activation.use(config, supervisor.activated)
        keep_start_scope(supervisor.config, config)
        return config


def keep_start_scope(old: Config, new: Config) -> None:
    """What only a restart changes stays as it is, and the log says so."""
    for warning in new.warnings:
        log.warning(warning)
    for name in changed(old, new):
        log.warning("--%s changes only on a restart, not on a reload", name)
        key = name.replace("-", "_")
        new.set(key, getattr(old, key), old.source[key])


def tell(watchers: list[Done], worked: bool, text: str) -> None:
    """Say how a reload has ended, once."""
    waiting, watchers[:] = list(watchers), []
    for watcher in waiting:
        watcher(worked, text)
