"""The access log (--access-log): addresses and times in its lines, for all protocols."""

import time
from typing import Any

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def address_of(peer: Any) -> str:
    """An address, which no client can choose freely; "-" on a UNIX socket."""
    return str(peer[0]) if peer else "-"


def date(second: int) -> str:
    """The time of a line in the Combined Log Format; the month's name is English in every locale."""
    year, month, day, hour, minute, sec, *_ = time.gmtime(second)
    return f"[{day:02}/{MONTHS[month - 1]}/{year}:{hour:02}:{minute:02}:{sec:02} +0000]"
