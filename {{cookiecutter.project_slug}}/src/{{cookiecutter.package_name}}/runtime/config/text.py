"""Text that others have chosen, for people: what would steer a terminal is shown, not sent."""

import re

# Whatever could end a line, begin another or steer a terminal (ECMA-48), and halves of surrogate pairs.
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
COLOURS = re.compile(rb"(\x1b\[[0-9;]{0,16}m)|(?:\xc2[\x80-\x9f]|[\x00-\x08\x0b-\x1f\x7f])")


def cleaned(text: str) -> str:
    """The text with control characters escaped, but for tabs and the ends of lines."""
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str, most: int) -> str:
    """The same as one line of so many characters at most."""
    return cleaned(text[:most].replace("\n", " "))


def coloured(data: bytes) -> bytes:
    """Lines for a terminal, cleaned too, but for colours, which people use."""
    return COLOURS.sub(lambda found: found[1] or b"\\x%02x" % found[0][-1], data)
