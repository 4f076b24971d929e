"""How many workers to start or to retire: a pure function, so that the policy can be read and tested alone."""

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
