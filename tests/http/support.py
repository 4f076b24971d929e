"""What the HTTP tests share beside the harness."""

from __future__ import annotations

from harness import Wire


def more(wire: Wire) -> bool:
    """Whether anything comes before the server closes."""
    try:
        return bool(wire._reader.peek(1))
    except ConnectionResetError:
        return False
