"""Texts of header fields, made and read: percent-encoding, dates, cookies, file names, preferences. Pure."""

import re
from collections.abc import Iterable
from time import gmtime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# RFC 9110 5.6.7: the preferred form, that of RFC 850, and that of asctime. Names are case-sensitive.
DATE = re.compile(
    rf"(?:{'|'.join(DAYS)}), ([0-9]{{2}}) ({'|'.join(MONTHS)}) ([0-9]{{4}}) ([0-9:]{{8}}) GMT"
    rf"|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, ([0-9]{{2}})-({'|'.join(MONTHS)})-([0-9]{{2}}) ([0-9:]{{8}}) GMT"
    rf"|(?:{'|'.join(DAYS)}) ({'|'.join(MONTHS)}) ([0-9 ][0-9]) ([0-9:]{{8}}) ([0-9]{{4}})"
)
TIME = re.compile("([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)")
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
COOKIE_VALUE = re.compile(r'[!#-+\--:<-\[\]-~]*|"[!#-+\--:<-\[\]-~]*"')  # RFC 6265 4.1.1
COOKIE_DOMAIN = re.compile(r"\.?[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
COOKIE_PATH = re.compile(r"/[ -:<-~]*")
COOKIE_SIZE = 4096  # bytes of name and value: browsers ignore a larger one (RFC 6265bis 5.7)
URI = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*")  # RFC 3986 2


def unescape(text: str) -> str:
    """Percent-decode once (RFC 3986 2.4); bytes that are not UTF-8 become U+FFFD."""
    if "%" not in text:
        return text
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes((int(found[1], 16),)), text.encode("utf-8"))
    return raw.decode("utf-8", "replace")


def escape(text: str, safe: str) -> str:
    """Percent-encode (RFC 3986 2.1) all but letters, digits and these; urllib.parse takes 2 ms to import."""
    data = text.encode("utf-8", "replace")
    return "".join(chr(b) if b < 128 and (chr(b).isalnum() or chr(b) in safe) else f"%{b:02X}" for b in data)


def date_of(seconds: float) -> str:
    """Unix time as an HTTP-date; not strftime, whose names depend on the locale. Raises ValueError or OverflowError for
    a year that is not of four digits."""
    year, month, day, hour, minute, second, weekday, *_ = gmtime(seconds)
    if not 1000 <= year <= 9999:
        raise ValueError(f"no HTTP-date has the year {year}")
    return f"{DAYS[weekday]}, {day:02} {MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{second:02} GMT"


def parse_date(text: str, now: float) -> int | None:
    """An HTTP-date in any of its three forms as Unix time; None for what is none."""
    found = DATE.fullmatch(text)
    if found is None:
        return None
    if found[1]:
        day, month, year, clock = found.group(1, 2, 3, 4)
    elif found[5]:
        day, month, year, clock = found.group(5, 6, 7, 8)
    else:
        month, day, clock, year = found.group(9, 10, 11, 12)
    time = TIME.fullmatch(clock)
    if time is None:
        return None
    number = int(year)
    if found[5]:  # RFC 9110 5.6.7: two digits that seem to be more than 50 years ahead mean the past
        this = gmtime(now).tm_year
        number = this + 50 - (this + 50 - number) % 100
    hour, minute, second = (int(part) for part in time.groups())
    days = days_since_epoch(number, MONTHS.index(month) + 1, int(day))
    if gmtime(days * 86400).tm_mday != int(day):  # such as the 30th of February
        return None
    return days * 86400 + hour * 3600 + minute * 60 + second


def days_since_epoch(year: int, month: int, day: int) -> int:
    """In the Gregorian calendar; years that begin in March have their leap day at the end."""
    year -= month < 3
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * ((month - 3) % 12) + 2) // 5 + day - 719469


def members(value: str) -> list[tuple[str, float]]:
    """A list of preferences (RFC 9110 12.4.2), in lower case, each with its weight: of `gzip;q=0.5` 0.5. A malformed
    weight counts as 0."""
    found = []
    for member in value.lower().split(","):
        name, *parameters = (part.strip() for part in member.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                weight = float(parameter[2:]) if WEIGHT.fullmatch(parameter[2:]) else 0.0
        if name:
            found.append((name, weight))
    return found


def preferred(accept_encoding: str, offered: Iterable[str]) -> str:
    """The content coding to use (RFC 9110 12.5.3): of those that are offered, the best first, the one with the greatest
    weight, or "" for none."""
    weights = {name.removeprefix("x-"): weight for name, weight in members(accept_encoding)}  # x-gzip is gzip
    rest = weights.get("*", 0.0)
    best, chosen = 0.0, ""
    for coding in offered:
        weight = weights.get(coding, rest)
        if weight > best:
            best, chosen = weight, coding
    return chosen if best >= weights.get("identity", 0.0) else ""


def disposition(filename: str, inline: bool = False) -> str:
    """A Content-Disposition field (RFC 6266): under which name a file is saved, or shown. Beyond ASCII the name stands
    there twice, the second time as RFC 8187 says. What a client could take for a directory or an escape becomes "_"."""
    name = "".join("_" if one in '/\\"' or not one.isprintable() else one for one in filename) or "_"
    plain = name
    if not name.isascii():
        import unicodedata  # a large module, for few names

        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = plain.replace("%", "_") or "_"
    kind = "inline" if inline else "attachment"
    extended = escape(name, "!#$&+-.^_`|~")
    return f'{kind}; filename="{plain}"' + (f"; filename*=UTF-8''{extended}" if plain != name else "")


def reference(location: str) -> str:
    """A URI reference for a Location field, what is not ASCII or may not stand in one percent-encoded (RFC 3987 3.1).
    Raises ValueError for control characters."""
    if URI.fullmatch(location):
        return location
    if not location.isprintable():
        raise ValueError(f"location {location!r} has control characters")
    return escape(location, "-._~:/?#[]@!$&'()*+,;=%")


def cookie(
    name: str, value: str, max_age: int | None, expires: "datetime | float | None", domain: str, path: str,
    secure: bool, httponly: bool, samesite: str, partitioned: bool,
) -> str:  # fmt: skip
    """A Set-Cookie field (RFC 6265, and 6265bis for prefixes and SameSite). Raises ValueError for one that a browser
    would ignore or understand in another way."""
    if not TOKEN.fullmatch(name):
        raise ValueError(f"cookie name {name!r} is no token")
    if not COOKIE_VALUE.fullmatch(value):
        raise ValueError(f"cookie {name}: its value may not hold {value!r}: encode it, by urllib.parse.quote or base64")
    if len(name) + len(value) > COOKIE_SIZE:
        raise ValueError(f"cookie {name} has more than {COOKIE_SIZE} bytes: browsers ignore it")
    if domain and not COOKIE_DOMAIN.fullmatch(domain):
        raise ValueError(f"cookie {name}: domain {domain!r} is no host name")
    if path and not COOKIE_PATH.fullmatch(path):
        raise ValueError(f"cookie {name}: path {path!r} has to begin with a slash and may not hold a semicolon")
    if samesite.lower() not in ("", "lax", "strict", "none"):
        raise ValueError(f"cookie {name}: samesite is Lax, Strict, None or empty, not {samesite!r}")
    lower = name.lower()
    needs = (samesite.lower() == "none" or partitioned, lower.startswith(("__secure-", "__host-")))
    if any(needs) and not secure:
        raise ValueError(f"cookie {name}: browsers ignore it without secure=True")
    if lower.startswith("__host-") and (domain or path != "/"):
        raise ValueError(f"cookie {name}: a __Host- cookie has path='/' and no domain")
    until = "" if expires is None else date_of(expires if isinstance(expires, int | float) else expires.timestamp())
    parts = [
        f"{name}={value}",
        f"Expires={until}" if until else "",
        f"Max-Age={int(max_age)}" if max_age is not None else "",
        f"Domain={domain}" if domain else "",
        f"Path={path}" if path else "",
        "Secure" if secure else "",
        "HttpOnly" if httponly else "",
        f"SameSite={samesite.capitalize()}" if samesite else "",
        "Partitioned" if partitioned else "",
    ]
    return "; ".join(filter(None, parts))
