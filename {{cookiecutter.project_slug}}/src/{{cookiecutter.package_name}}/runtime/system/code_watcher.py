"""The code watcher of --reload, for development. It looks at the files, because the events of inotify(7) do not pass
the mounts of a virtual machine, as Docker Desktop has them."""

import os
import stat

RUNTIME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGE, OURS = os.path.split(RUNTIME)


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
