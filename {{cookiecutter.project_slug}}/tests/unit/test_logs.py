"""Frames of the log, and which files a pattern of --log-file may have named."""

import os
from pathlib import Path

from {{ cookiecutter.package_name }}.runtime.log.file_writer import files_of
from {{ cookiecutter.package_name }}.runtime.log.frames import (
    ACCESS,
    GOES_ON,
    HEADER,
    MORE,
    RECORD,
    ROOM,
    UNFINISHED,
    encode,
    extent,
    split,
)


def frame(pid: int, data: bytes, flags: int = 0, stream: int = RECORD, severity: int = 6) -> bytes:
    return HEADER.pack(pid, stream | severity << 2 | flags, len(data)) + data


def test_whole_records() -> None:
    data = frame(1, b"one\n") + frame(256, b"two\n", stream=ACCESS) + frame(1, b"", severity=3)
    assert split(data) == ([(RECORD, 6, 1, b"one\n"), (ACCESS, 6, 256, b"two\n"), (RECORD, 3, 1, b"")], b"")


def test_records_in_pieces_are_joined_by_sender() -> None:
    first, second = frame(1, b"a", MORE), frame(2, b"x", MORE)
    assert split(first + second) == ([], first + second), "they wait for the rest"
    data = first + second + frame(1, b"b", GOES_ON | MORE) + frame(2, b"y", GOES_ON) + frame(1, b"c", GOES_ON)
    assert [one[2:] for one in split(data)[0]] == [(2, b"xy"), (1, b"abc")]


def test_what_is_encoded_is_split() -> None:
    for size in (0, 1, ROOM - 1, ROOM, ROOM + 1, 3 * ROOM + 7):
        data = os.urandom(size)
        frames = list(encode(7, RECORD, 3, data))
        assert all(len(one) <= ROOM + HEADER.size for one in frames) and len(frames) == max(1, -(-size // ROOM))
        assert split(b"".join(frames)) == ([(RECORD, 3, 7, data)], b"")


def test_wherever_a_read_ends() -> None:
    data = frame(1, b"a", MORE) + frame(2, b"between") + frame(1, b"b", GOES_ON)
    whole = split(data)[0]
    for cut in range(len(data) + 1):
        found, rest = split(data[:cut])
        assert found + split(rest + data[cut:])[0] == whole


def test_a_record_that_was_dropped_halfway() -> None:
    """Its sender goes on with another one."""
    assert split(frame(1, b"half", MORE) + frame(1, b"next")) == ([(RECORD, 6, 1, b"next")], b"")
    assert split(frame(1, b"rest", GOES_ON)) == ([], b""), "the beginning is not there"


def test_records_of_the_dead_do_not_pile_up() -> None:
    data = b"".join(frame(pid, bytes(4000), MORE) for pid in range(1, 400))
    assert len(split(data)[1]) <= UNFINISHED


def test_extent_ends_at_zeros() -> None:
    data = frame(256, b"\0\0\0") + frame(1, b"x", MORE)
    assert extent(data + bytes(100)) == len(data)


def test_files_of_a_pattern(tmp_path: Path) -> None:
    """The newest first; only those that it can have named."""
    for age, name in enumerate(("a-2026-11-03.log", "a-2026-11-02.log", "a-2026-11-01.log")):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    for name in ("a-2026-11-02.log.gz", "a-x.log", "a-26-11-02.log", "b-2026-11-02.log", "a-2026-11-02xlog"):
        (tmp_path / name).write_text("")
    found = files_of(str(tmp_path / "a-%F.log"))
    assert [Path(name).name for name in found] == ["a-2026-11-03.log", "a-2026-11-02.log", "a-2026-11-01.log"]
    assert files_of(str(tmp_path / "a-%Y-%m-%d.log")) == found
    assert files_of(str(tmp_path / "100%%[a]")) == []
