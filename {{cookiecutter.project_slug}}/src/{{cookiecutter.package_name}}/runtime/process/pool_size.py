"""How many workers to start or to retire, and when they are all busy: without I/O, so that the policies can be read and
tested alone.
"""

SETTLED = 3  # looks in a row after which all workers being busy, or no longer, is worth a line in the log
CALM = 10  # how many one-second ticks the pool must have been larger than needed before it shrinks


def change(idle: int, busy: int, starting: int, floor: int, ceiling: int, history: list[int]) -> int:
    """Workers to start (positive) or to retire (negative).

    `idle`, `busy` and `starting` count the workers now; `floor` is --idle and `ceiling` is --max. `history` holds the
    numbers of idle workers at the latest one-second ticks, newest last.

    More are made when fewer than half of the floor remain idle (libserver's rule), and then as many as there are busy
    ones at least, so that a burst doubles the pool at each step instead of adding a handful. It shrinks only by what
    stood idle all through the last CALM ticks, by half of that at a time.
    """
    total = idle + busy + starting
    ready = idle + starting
    if total < floor:
        return min(floor, ceiling) - total
    if ready * 2 < floor or (floor and not ready):
        return max(0, min(max(floor - ready, busy), ceiling - total))
    if total > ceiling:
        return max(ceiling - total, -idle)
    if len(history) >= CALM and not starting:
        spare = min(*history[-CALM:], idle) - floor
        if spare > 0:
            return -((spare + 1) // 2)
    return 0


class Saturation:
    """Whether all workers are busy, as a person would say it: an idle moment between two requests is none."""

    def __init__(self) -> None:
        self.began = 0.0  # when that was said, in seconds of the monotonic clock; 0 = it is not so
        self.contrary = 0  # looks in a row that found the contrary

    def look(self, is_full: bool, now: float) -> str:
        """Called once a second. What there is to say, mostly nothing."""
        self.contrary = 0 if is_full == bool(self.began) else self.contrary + 1
        if self.contrary < SETTLED:
            return ""
        self.contrary = 0
        began, self.began = self.began, now if is_full else 0.0
        if is_full:
            return "all workers are busy: further requests wait; more workers (--max) or faster handlers would help"
        return f"workers are idle again, after {now - began:.0f} s"
