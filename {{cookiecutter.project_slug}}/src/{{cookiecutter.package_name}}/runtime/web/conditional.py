"""Conditional requests (RFC 9110 section 13) and ranges of bytes (section 14): what the request's fields mean for a
representation with these validators. Pure.

A validator is what a response says of its version: `etag`, as in the field, or ""; `modified`, its Last-Modified,
or "".
"""

import re
from collections.abc import Callable

from .fields import parse_date

MOST_RANGES = 16  # of one request; with more it gets the whole (RFC 9110 14.2 and 17.15)
ETAG = re.compile(r'(W/)?("[!#-~\x80-\xff]*")')  # 8.8.3
ETAGS = re.compile(r'(?:[ \t]*,)*[ \t]*(?:W/)?"[!#-~\x80-\xff]*"[ \t]*(?:,[ \t]*(?:(?:W/)?"[!#-~\x80-\xff]*"[ \t]*)?)*')
UNIT = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=(.*)", re.DOTALL)
RANGE = re.compile(r"([0-9]+)-([0-9]*)|-([0-9]+)")
DIGITS = 18  # of a position: more are beyond any file

Field = Callable[[str], str | None]  # the value of a request's field by its name


def matches(value: str, etag: str, weak: bool) -> bool:
    """Whether an entity tag is in the list of If-Match or If-None-Match, by weak or by strong comparison (8.8.3.2); any
    that exists fits "*". A malformed list fits nothing."""
    if value == "*":
        return True
    own = ETAG.fullmatch(etag)
    if own is None or not ETAGS.fullmatch(value):
        return False
    return any(other[1] == own[2] and (weak or not (other[0] or own[1])) for other in ETAG.findall(value))


def precondition(method: str, field: Field, etag: str, modified: str, now: float) -> int:
    """Evaluate a request's preconditions in the order of 13.2.2: 304, 412, or 0 when the method is to be performed."""
    stored = parse_date(modified, now)
    found = field("if-match")
    if found is not None:
        if not matches(found, etag, weak=False):
            return 412
    elif (found := field("if-unmodified-since")) is not None and stored is not None:
        limit = parse_date(found, now)  # 13.1.4: ignored when it is no date
        if limit is not None and stored > limit:
            return 412
    reads = method in ("GET", "HEAD")
    found = field("if-none-match")
    if found is not None:
        if matches(found, etag, weak=True):
            return 304 if reads else 412
    elif reads and stored is not None and (found := field("if-modified-since")) is not None:
        limit = parse_date(found, now)
        if limit is not None and stored <= limit:
            return 304
    return 0


def is_current(value: str, etag: str, modified: str, now: float) -> bool:
    """If-Range (13.1.5): whether the client's part and this representation fit together. An entity tag is compared
    strongly; a date is equal, and strong itself: a second old (8.8.2.2), so that nothing has changed after it."""
    if ETAG.fullmatch(value):
        return matches(value, etag, weak=False)
    stored = parse_date(modified, now)
    return stored is not None and parse_date(value, now) == stored and now - stored >= 1


def ranges(method: str, field: Field, etag: str, modified: str, size: int, now: float) -> list[range] | None:
    """What a Range field selects of so many bytes: None, the whole; an empty list, nothing that there is (416). Where
    ranges overlap they are joined."""
    wanted = field("range")
    if wanted is None or method != "GET":  # 14.2: defined for GET alone
        return None
    condition = field("if-range")
    if condition is not None and not is_current(condition, etag, modified, now):
        return None
    unit = UNIT.fullmatch(wanted)
    if unit is None or unit[1].lower() != "bytes":
        return None
    specifiers = [part for part in (one.strip(" \t") for one in unit[2].split(",")) if part]
    if not specifiers or len(specifiers) > MOST_RANGES:
        return None
    selected: list[range] = []
    for specifier in specifiers:
        found = RANGE.fullmatch(specifier)
        if found is None or len(specifier) > 2 * DIGITS:
            return None
        first, last, suffix = found.groups()
        if suffix is not None:
            if int(suffix) and not size:
                return None  # satisfiable by 14.1.2, but no Content-Range says "nothing"
            one = range(max(0, size - int(suffix)), size)
        elif last and int(last) < int(first):
            return None  # 14.1.1: invalid, so the whole field is
        else:
            one = range(int(first), min(int(last) + 1, size) if last else size)
        if len(one):
            selected.append(one)
    return joined(selected)


def joined(parts: list[range]) -> list[range]:
    """In their own order when none touch another; else in that of the bytes, those that overlap as one (15.3.7.2)."""
    merged: list[range] = []
    for part in sorted(parts, key=lambda one: one.start):
        if merged and part.start < merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, part.stop))
        else:
            merged.append(part)
    return parts if len(merged) == len(parts) else merged
