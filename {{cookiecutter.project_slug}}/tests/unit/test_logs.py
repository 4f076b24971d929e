"""Frames of the log, and which files a pattern of --log-file may have named."""

import os
import time
from pathlib import Path

from {{ cookiecutter.package_name }}.runtime.config.text import cleaned, coloured, one_line
from {{ cookiecutter.package_name }}.runtime.log.file_writer import files_of
from {{ cookiecutter.package_name }}.runtime.log.frames import (
    ACCESS,
    GOES_ON,
    HEADER,
    MARK,
    MORE,
    RECORD,
    ROOM,
    UNFINISHED,
    encode,
    extent,
    split,
)
from {{ cookiecutter.package_name }}.runtime.log.pipe_reader import MESSAGES, bounded


def frame(pid: int, data: bytes, flags: int = 0, stream: int = RECORD, severity: int = 6) -> bytes:
    return HEADER.pack(MARK, pid, stream | severity << 2 | flags, len(data)) + data


def test_whole_records() -> None:
    data = frame(1, b"one\n") + frame(256, b"two\n", stream=ACCESS) + frame(1, b"", severity=3)
    assert split(data) == ([(RECORD, 6, 1, b"one\n"), (ACCESS, 6, 256, b"two\n"), (RECORD, 3, 1, b"")], b"")


def test_records_in_pieces_are_joined_by_sender() -> None:
    a, b, x = (letter * ROOM for letter in (b"a", b"b", b"x"))  # a frame that goes on is full
    first, second = frame(1, a, MORE), frame(2, x, MORE)
    assert split(first + second) == ([], first + second), "they wait for the rest"
    data = first + second + frame(1, b, GOES_ON | MORE) + frame(2, b"y", GOES_ON) + frame(1, b"c", GOES_ON)
    assert [one[2:] for one in split(data)[0]] == [(2, x + b"y"), (1, a + b + b"c")]


def test_what_is_encoded_is_split() -> None:
    for size in (0, 1, ROOM - 1, ROOM, ROOM + 1, 3 * ROOM + 7):
        data = os.urandom(size).replace(MARK, b"")
        frames = list(encode(7, RECORD, 3, data))
        assert all(len(one) <= ROOM + HEADER.size for one in frames) and len(frames) == max(1, -(-len(data) // ROOM))
        assert split(b"".join(frames)) == ([(RECORD, 3, 7, data)], b"")


def test_any_sender() -> None:
    """Also those in whose number the mark is."""
    for pid in range(0xFE00, 0x30000):
        (one,) = encode(pid, RECORD, 3, b"x")
        assert [found[3] for found in split(MARK + one)[0]] == [b"x"], pid


def test_wherever_a_read_ends() -> None:
    data = frame(1, b"a" * ROOM, MORE) + frame(2, b"between") + frame(1, b"b", GOES_ON)
    whole = split(data)[0]
    for cut in range(len(data) + 1):
        found, rest = split(data[:cut], whole=False)
        assert found + split(rest + data[cut:])[0] == whole


def test_what_is_no_frame_is_left_out() -> None:
    """Wherever it stands: no frame is lost with it, and what looks like the head of one swallows none."""
    one, two = frame(1, b"one\n"), frame(2, b"two\n")
    for rubbish in (b"x", b"\0", MARK, MARK[:1], MARK * 9, b"\xff" * 9, one[:-1], frame(1, b"")[:-1] + b"\x0f"):
        for data in (rubbish + one + two, one + rubbish + two, one + two + rubbish):
            messages, rest = split(data)
            assert ([found[3] for found in messages], rest) == ([b"one\n", b"two\n"], b""), (rubbish, data)


def test_frames_that_never_end_cost_little() -> None:
    """Neither bytes nor time: a frame that goes on is full, so no seven bytes of it are kept."""
    began = time.process_time()
    assert split(frame(1, b"", MORE) + frame(1, b"", MORE | GOES_ON) * 100_000) == ([], b"")
    assert split(MARK * 500_000) == ([], b"")
    assert time.process_time() - began < 2


def test_one_turn_looks_at_so_many_heads() -> None:
    """Whatever 256 KiB in the pipe hold, the supervisor has other work: what is beyond is dropped unseen."""
    one = frame(1, b"")
    assert bounded(one * MESSAGES) == one * MESSAGES
    assert bounded(one * 30_000) == one * (MESSAGES - 1)
    assert len(split(bounded(MARK + one * 30_000))[0]) < MESSAGES


def test_a_record_that_was_dropped_halfway() -> None:
    """Its sender goes on with another one."""
    assert split(frame(1, b"h" * ROOM, MORE) + frame(1, b"next")) == ([(RECORD, 6, 1, b"next")], b"")
    assert split(frame(1, b"rest", GOES_ON)) == ([], b""), "the beginning is not there"


def test_records_of_the_dead_do_not_pile_up() -> None:
    data = b"".join(frame(pid, bytes(ROOM), MORE) for pid in range(1, 400))
    assert UNFINISHED // 2 < len(split(data)[1]) <= UNFINISHED


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


def test_nothing_steers_a_terminal() -> None:
    """Escaped, not sent; the colours of printed lines stay."""
    assert cleaned("a\x1b]0;x\x07\x9b1m\tb\nc\ud800") == "a\\x1b]0;x\\x07\\x9b1m\tb\nc\\ud800"
    assert one_line("a\nb\rc", 4) == "a b\\r"
    assert coloured(b"\x1b[1;31mred\x1b[0m\t\x1b[2J\xc2\x9b1m\n") == b"\x1b[1;31mred\x1b[0m\t\\x1b[2J\\x9b1m\n"
