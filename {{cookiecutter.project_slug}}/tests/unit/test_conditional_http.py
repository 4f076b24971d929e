"""Conditional requests and ranges: every case of RFC 9110 sections 13 and 14, by table."""

import pytest

from {{ cookiecutter.package_name }}.runtime.web.conditional import matches, precondition, ranges
from {{ cookiecutter.package_name }}.runtime.web.fields import date_of, parse_date

NOW = 784_111_777 + 86_400  # a day after the date below
DATE, BEFORE, AFTER = (date_of(784_111_777 + shift) for shift in (0, -60, 60))
TAG, WEAK, OTHER = '"v1"', 'W/"v1"', '"v2"'


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # RFC 9110 5.6.7
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Thu, 29 Feb 2024 12:00:00 GMT", 1709208000),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800),  # a leap second
        ("Friday, 01-Jan-44 00:00:00 GMT", 2335219200),
        ("Friday, 01-Jan-60 00:00:00 GMT", -315619200),  # 50 years ahead of 1994 would be 2044
        ("sun, 06 nov 1994 08:49:37 gmt", None),  # case-sensitive
        ("Sun, 06 Nov 1994 08:49:37 UTC", None),
        ("Sun, 06 Nov 1994 08:49:37 +0000", None),
        ("Sun, 6 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 24:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:60:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37", None),
        ("Wed, 30 Feb 2022 00:00:00 GMT", None),
        ("Wed, 00 Mar 2022 00:00:00 GMT", None),
        ("784111777", None),
        ("", None),
    ],
)
def test_dates(text: str, expected: int | None) -> None:
    assert parse_date(text, 784_111_777) == expected


@pytest.mark.parametrize(
    ("field", "etag", "strong", "weak"),
    [  # RFC 9110 8.8.3.2, and lists of 5.6.1
        (TAG, TAG, True, True),
        (TAG, OTHER, False, False),
        (WEAK, TAG, False, True),
        (TAG, WEAK, False, True),
        (WEAK, WEAK, False, True),
        (f"{OTHER}, {TAG}", TAG, True, True),
        (f"{OTHER},{WEAK} ,{TAG}", TAG, True, True),
        (f", ,{TAG}, ,", TAG, True, True),
        ('"a,b"', '"a,b"', True, True),
        ('""', '""', True, True),
        ('"\xe9"', '"\xe9"', True, True),
        ("*", TAG, True, True),
        ("*", "", True, True),
        ("*, *", TAG, False, False),
        (f"*, {TAG}", TAG, False, False),
        ("v1", TAG, False, False),
        ("v1", "v1", False, False),
        ('w/"v1"', TAG, False, False),
        (f"{TAG} {OTHER}", TAG, False, False),
        (f"{TAG};", TAG, False, False),
        ('"v1', TAG, False, False),
        ("", TAG, False, False),
        (TAG, "", False, False),
    ],
)
def test_entity_tags(field: str, etag: str, strong: bool, weak: bool) -> None:
    assert matches(field, etag, weak=False) is strong
    assert matches(field, etag, weak=True) is weak


def given(fields: dict[str, str]):  # type: ignore[no-untyped-def]
    return {name.lower(): value for name, value in fields.items()}.get


NONE_MATCH, MATCH = "If-None-Match", "If-Match"
SINCE, UNMODIFIED = "If-Modified-Since", "If-Unmodified-Since"


@pytest.mark.parametrize(
    ("method", "fields", "expected"),
    [
        ("GET", {}, 0),
        # 13.1.1
        ("GET", {MATCH: TAG}, 0),
        ("GET", {MATCH: OTHER}, 412),
        ("GET", {MATCH: "*"}, 0),
        ("PUT", {MATCH: TAG}, 0),
        ("PUT", {MATCH: WEAK}, 412),
        ("DELETE", {MATCH: OTHER}, 412),
        ("PUT", {MATCH: "nonsense"}, 412),
        # 13.1.2
        ("GET", {NONE_MATCH: TAG}, 304),
        ("HEAD", {NONE_MATCH: WEAK}, 304),
        ("GET", {NONE_MATCH: OTHER}, 0),
        ("GET", {NONE_MATCH: "*"}, 304),
        ("PUT", {NONE_MATCH: "*"}, 412),
        ("PUT", {NONE_MATCH: TAG}, 412),
        ("POST", {NONE_MATCH: OTHER}, 0),
        ("GET", {NONE_MATCH: "nonsense"}, 0),
        # 13.1.3
        ("GET", {SINCE: DATE}, 304),
        ("HEAD", {SINCE: AFTER}, 304),
        ("GET", {SINCE: BEFORE}, 0),
        ("GET", {SINCE: "yesterday"}, 0),
        ("GET", {SINCE: "Sunday, 06-Nov-94 08:49:37 GMT"}, 304),
        ("GET", {SINCE: "Sun Nov  6 08:49:37 1994"}, 304),
        ("PUT", {SINCE: DATE}, 0),  # ignored with other methods
        ("GET", {NONE_MATCH: OTHER, SINCE: AFTER}, 0),  # ignored beside If-None-Match
        ("GET", {NONE_MATCH: TAG, SINCE: BEFORE}, 304),
        # 13.1.4
        ("GET", {UNMODIFIED: DATE}, 0),
        ("PUT", {UNMODIFIED: AFTER}, 0),
        ("PUT", {UNMODIFIED: BEFORE}, 412),
        ("GET", {UNMODIFIED: BEFORE}, 412),
        ("PUT", {UNMODIFIED: "yesterday"}, 0),
        ("PUT", {MATCH: TAG, UNMODIFIED: BEFORE}, 0),  # ignored beside If-Match
        ("PUT", {MATCH: OTHER, UNMODIFIED: AFTER}, 412),
        # 13.2.2: the order
        ("GET", {MATCH: TAG, NONE_MATCH: TAG}, 304),
        ("GET", {MATCH: OTHER, NONE_MATCH: TAG}, 412),
        ("GET", {UNMODIFIED: BEFORE, SINCE: DATE}, 412),
        ("GET", {UNMODIFIED: DATE, SINCE: DATE}, 304),
        ("PUT", {MATCH: TAG, NONE_MATCH: TAG}, 412),
    ],
)
def test_preconditions(method: str, fields: dict[str, str], expected: int) -> None:
    assert precondition(method, given(fields), TAG, DATE, NOW) == expected


@pytest.mark.parametrize(
    ("method", "fields", "etag", "modified", "expected"),
    [  # of a representation without one validator or without both
        ("GET", {SINCE: AFTER}, TAG, "", 0),
        ("PUT", {UNMODIFIED: BEFORE}, TAG, "", 0),
        ("GET", {NONE_MATCH: TAG}, "", DATE, 0),
        ("PUT", {MATCH: TAG}, "", DATE, 412),
        ("PUT", {MATCH: "*"}, "", "", 0),
        ("PUT", {NONE_MATCH: "*"}, "", "", 412),
        ("GET", {SINCE: DATE}, "", "nonsense", 0),
    ],
)
def test_preconditions_without_validators(
    method: str, fields: dict[str, str], etag: str, modified: str, expected: int
) -> None:
    assert precondition(method, given(fields), etag, modified, NOW) == expected


SIZE = 10_000
ALL = None


@pytest.mark.parametrize(
    ("value", "expected"),
    [  # 14.1.2, its examples first
        ("bytes=0-499", [(0, 500)]),
        ("bytes=500-999", [(500, 1000)]),
        ("bytes=-500", [(9500, 10000)]),
        ("bytes=9500-", [(9500, 10000)]),
        ("bytes=0-0,-1", [(0, 1), (9999, 10000)]),
        ("bytes= 0-0, -1", [(0, 1), (9999, 10000)]),
        ("bytes=500-700,601-999", [(500, 1000)]),
        ("bytes=0-", [(0, 10000)]),
        ("bytes=0-9999", [(0, 10000)]),
        ("bytes=0-99999", [(0, 10000)]),
        ("bytes=-99999", [(0, 10000)]),
        ("bytes=9999-9999", [(9999, 10000)]),
        ("BYTES=0-1", [(0, 2)]),
        ("bytes=,0-1,,", [(0, 2)]),
        ("bytes=0-1\t, 4-5", [(0, 2), (4, 6)]),
        ("bytes=00-01", [(0, 2)]),
        ("bytes=4-5,0-1", [(4, 6), (0, 2)]),  # in the order asked for
        ("bytes=4-5,0-1,0-3", [(0, 4), (4, 6)]),
        ("bytes=0-1,20000-", [(0, 2)]),  # of several what is satisfiable
        # 15.5.17
        ("bytes=10000-", []),
        ("bytes=10000-10001,20000-", []),
        ("bytes=-0", []),
        # 14.2: what is invalid, or not of bytes, is ignored
        ("bytes=1-0", ALL),
        ("bytes=0-1,5-4", ALL),
        ("bytes=", ALL),
        ("bytes=,", ALL),
        ("bytes=-", ALL),
        ("bytes=a-b", ALL),
        ("bytes=0x1-2", ALL),
        ("bytes=+1-2", ALL),
        ("bytes=1 - 2", ALL),
        ("bytes=0-1;2-3", ALL),
        ("bytes =0-1", ALL),
        ("bytes:0-1", ALL),
        ("bytes 0-1", ALL),
        ("0-1", ALL),
        ("lines=0-1", ALL),
        ("", ALL),
        ("bytes=\u0661-", ALL),
        ("bytes=" + "9" * 40 + "-", ALL),
        ("bytes=" + ",".join(["0-"] * 17), ALL),  # 17.15: too many
        ("bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(16)), [(2 * n, 2 * n + 1) for n in range(16)]),
    ],
)
def test_ranges(value: str, expected: list[tuple[int, int]] | None) -> None:
    found = ranges("GET", given({"Range": value}), TAG, DATE, SIZE, NOW)
    assert (None if found is None else [(one.start, one.stop) for one in found]) == expected
    assert ranges("HEAD", given({"Range": value}), TAG, DATE, SIZE, NOW) is None
    assert ranges("POST", given({"Range": value}), TAG, DATE, SIZE, NOW) is None


@pytest.mark.parametrize(
    ("value", "expected"), [("bytes=0-", []), ("bytes=-1", None), ("bytes=-0", []), ("x=0-", None)]
)
def test_ranges_of_nothing(value: str, expected: list[range] | None) -> None:
    assert ranges("GET", given({"Range": value}), TAG, DATE, 0, NOW) == expected


@pytest.mark.parametrize(
    ("condition", "etag", "modified", "now", "is_part"),
    [  # 13.1.5
        (TAG, TAG, DATE, NOW, True),
        (OTHER, TAG, DATE, NOW, False),
        (WEAK, TAG, DATE, NOW, False),  # strong comparison
        (WEAK, WEAK, DATE, NOW, False),
        (TAG, WEAK, DATE, NOW, False),
        (TAG, "", DATE, NOW, False),
        ("*", TAG, DATE, NOW, False),  # no entity tag
        (f"{TAG}, {OTHER}", TAG, DATE, NOW, False),  # no list
        (DATE, TAG, DATE, NOW, True),
        ("Sunday, 06-Nov-94 08:49:37 GMT", TAG, DATE, NOW, True),
        (BEFORE, TAG, DATE, NOW, False),
        (AFTER, TAG, DATE, NOW, False),  # equal, not "since"
        (DATE, TAG, DATE, 784_111_777.5, False),  # 8.8.2.2: it may change within the same second
        (DATE, TAG, "", NOW, False),
        ("nonsense", TAG, DATE, NOW, False),
    ],
)
def test_if_range(condition: str, etag: str, modified: str, now: float, is_part: bool) -> None:
    fields = given({"Range": "bytes=0-1", "If-Range": condition})
    assert (ranges("GET", fields, etag, modified, SIZE, now) is not None) is is_part
