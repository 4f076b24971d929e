"""The crash throttle: how soon to replace a process or thread that died."""

FIRST_DELAY = 0.1  # seconds
NEVER = float("inf")
LONGEST_DELAY = 60.0  # seconds; the back-off grows no further
# The same for workers, of which one at a time is tried while none works: an attempt costs a fork or a thread, and the
# service is ready again at most 2 s after worker_init() works again.
LONGEST_MEMBER_DELAY = 1.6


class CrashThrottle:
    """Counts crashes. A life shorter than `fast_time` seconds is fast; after `fast_max` fast ones in a row each
    replacement waits twice as long as the last; after `restart_max` crashes in all (0 = never) it gives up."""

    def __init__(self, fast_time: float, fast_max: int, restart_max: int, longest: float = LONGEST_DELAY) -> None:
        self.fast_time = fast_time
        self.fast_max = fast_max
        self.restart_max = restart_max
        self.longest = longest  # seconds
        self.counted = 0.0  # when the latest fast one was, in the time of its caller
        self.fast = 0  # in a row
        self.crashes = 0

    def adopt(self, fast_time: float, fast_max: int, restart_max: int) -> None:
        """Count on with other limits, after a reload."""
        self.fast_time, self.fast_max, self.restart_max = fast_time, fast_max, restart_max

    def died(self, life: float, now: float = NEVER) -> float | None:
        """Seconds to wait before the replacement; None to give up. With `now`, all that lived at the time of the latest
        fast crash are one batch with it: they have one cause, and are one crash in the row."""
        self.crashes += 1
        if life >= self.fast_time:
            self.fast = 0
        elif now - life >= self.counted:
            self.fast += 1
            self.counted = now if now < NEVER else 0.0
        if self.restart_max and self.crashes >= self.restart_max:
            return None
        if self.fast < self.fast_max:
            return 0.0
        return float(min(self.longest, FIRST_DELAY * 2 ** min(self.fast - self.fast_max, 16)))

    @property
    def hopeless(self) -> bool:
        """As many fast crashes in a row as are replaced at once: where none ever worked, none will."""
        return self.fast >= self.fast_max
