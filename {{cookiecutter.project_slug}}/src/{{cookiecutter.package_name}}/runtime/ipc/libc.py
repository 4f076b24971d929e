"""Functions of the C library that no module of Python has, by what lies below the package ctypes: importing that would
take three milliseconds and 0.2 MiB more."""

import mmap
from functools import cache
from typing import Any


def call(name: str, *arguments: Any) -> int:
    """What this function returns, which must be an int; integers are passed as int, bytes as a pointer to them. -1 also
    where there is no such function, or no way to it."""
    try:
        import _ctypes

        library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # the program itself (dlopen(3))
        return int(_ctypes.call_function(_ctypes.dlsym(library, name), arguments))
    except (ImportError, OSError, AttributeError):
        return -1


def address(memory: mmap.mmap) -> int:
    """Where this memory begins; 0 where that cannot be known. From here on it cannot be closed."""
    try:
        from _ctypes import addressof

        return addressof(byte().from_buffer(memory))
    except ImportError:
        return 0


@cache
def byte() -> Any:
    """The type of a byte in memory."""
    from _ctypes import _SimpleCData

    class Byte(_SimpleCData):  # type: ignore[type-arg]  # for the type checker alone it has arguments
        _type_ = "c"

    return Byte
