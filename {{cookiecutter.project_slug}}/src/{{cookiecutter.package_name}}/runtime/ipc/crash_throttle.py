"""The crash throttle: how soon to replace a process or thread that died."""

FIRST_DELAY = 0.1  # seconds
LONGEST_DELAY = 60.0  # seconds; the back-off grows no further


class CrashThrottle:
    """Counts crashes. A life shorter than `fast_time` seconds is fast; after `fast_max` fast ones in a row each
    replacement waits twice as long as the last; after `restart_max` crashes in all (0 = never) it gives up."""

    def __init__(self, fast_time: float, fast_max: int, restart_max: int) -> None:
        self.fast_time = fast_time
        self.fast_max = fast_max
        self.restart_max = restart_max
        self.fast = 0  # in a row
        self.crashes = 0

    def adopt(self, fast_time: float, fast_max: int, restart_max: int) -> None:
        """Count on with other limits, after a reload."""
        self.fast_time, self.fast_max, self.restart_max = fast_time, fast_max, restart_max

    def died(self, life: float) -> float | None:
        """Seconds to wait before the replacement; None to give up."""
        self.crashes += 1
        self.fast = self.fast + 1 if life < self.fast_time else 0
        if self.restart_max and self.crashes >= self.restart_max:
            return None
        if self.fast < self.fast_max:
            return 0.0
        return float(min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(self.fast - self.fast_max, 16)))

    @property
    def hopeless(self) -> bool:
        """As many fast crashes in a row as are replaced at once: where none ever worked, none will."""
        return self.fast >= self.fast_max
