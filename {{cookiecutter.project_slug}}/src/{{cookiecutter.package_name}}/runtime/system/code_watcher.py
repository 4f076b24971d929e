"""The code watcher of --reload, for development. It looks at the files, because the events of inotify(7) do not pass
the mounts of a virtual machine, as Docker Desktop has them."""

import os
import stat
import time

from ..log.records import log

RUNTIME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGE, OURS = os.path.split(RUNTIME)
LOADED = time.time()  # by the supervisor, as it starts; all that a reload does not load is older


def warn_of_new_runtime() -> None:
    """At a reload: log that what runs is not what is installed by now, by the times of inodes, which no tool sets."""
    paths = [os.path.join(top, name) for top, _, names in os.walk(RUNTIME) for name in names if name.endswith(".py")]
    for path in [os.path.join(PACKAGE, "__main__.py"), *paths]:
        try:
            is_newer = os.stat(path).st_ctime > LOADED
        except OSError:  # from a zip
            continue
        if is_newer:
            name = os.path.relpath(path, PACKAGE)
            log.warning("%s has changed since the start, and a reload does not load it: restart the service", name)
            return


class CodeWatcher:
    """The package's Python files, but not those of the runtime."""

    def __init__(self, directory: str = PACKAGE) -> None:
        self.directory = directory
        self.seen = self.look()

    def look(self) -> dict[str, tuple[int, int, int]]:
        """What shows that a file has changed: time, size, and the inode, as editors put a new file in its place."""
        found = {}
        for top, directories, names in os.walk(self.directory):
            directories[:] = [name for name in directories if name != OURS]
            for path in [os.path.join(top, name) for name in names if name.endswith(".py")]:
                try:
                    facts = os.stat(path)
                except OSError:
                    continue  # it is being replaced: the next look shows by what
                if stat.S_ISREG(facts.st_mode):
                    found[path] = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        return found

    def changed(self) -> list[str]:
        """Names of the files that are new, changed or gone since the last call."""
        before, self.seen = self.seen, self.look()
        paths = [one for one in sorted({*before, *self.seen}) if before.get(one) != self.seen.get(one)]
        return [os.path.relpath(path, self.directory) for path in paths]
