"""Accept balance: the worker with more connections leaves the listeners to its siblings for a moment."""

YIELD = 0.002  # seconds for which it does
FULL_YIELDS = 100  # in a row at most, while its threads all run handlers and a sibling has a free one
YIELDS = 5  # in a row at most, while a sibling holds fewer by two beyond an eighth; by one: once


class AcceptBalance:
    """A policy without I/O: `pause` says whether a worker may take one more connection.

    A difference of an eighth does not count: if any did, a burst of connections would be accepted one by one, with a
    pause after each. The pauses in a row are limited, because the sibling may be busy.
    """

    def __init__(self) -> None:
        self.pauses = 0  # in a row

    def pause(self, held: int, least: int) -> float:
        """Seconds to wait before accepting, 0.0 = none, for a worker that holds `held` connections; `least` is the
        load of the sibling with the fewest."""
        surplus = held - least - ((held + 4) >> 3)
        if surplus > 0 and self.pauses < (YIELDS if surplus > 1 else 1):
            self.pauses += 1
            return YIELD
        self.pauses = 0
        return 0.0

    def pause_full(self) -> float:
        """The same for a worker whose threads all run handlers, while a sibling has a free one. It accepts when the
        sibling has not for 0.2 s: that one may be blocked."""
        self.pauses += 1
        if self.pauses <= FULL_YIELDS:
            return YIELD
        self.pauses = 0
        return 0.0
