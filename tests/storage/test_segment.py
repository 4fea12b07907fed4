"""Segments: the header's bytes, and finding segments again in either layout."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkalite import disk
from kafkalite.config import MIB
from kafkalite.errors import CorruptRecordError
from kafkalite.storage import segment, superblock
from kafkalite.storage.place import resolve
from kafkalite.storage.segment import FIRST_SIZE, HEADER_SIZE, UNIT, Header, Segments, decode_header
from kafkalite.testing import golden

from .kit import hexdump

EXAMPLE = Header(bytes(range(16)), 3, FIRST_SIZE, 2, 1_357_041_600_000, 2 << 32 | 4096, 0x0123456789ABCDEF)
CHECKED = 88


def test_the_bytes_of_version_1() -> None:
    golden.compare(Path(__file__).parent / "golden" / "segment.hex", hexdump(EXAMPLE.encode()))


def test_what_is_written_is_read() -> None:
    assert decode_header(EXAMPLE.encode() + b"frames") == EXAMPLE
    assert len(EXAMPLE.encode()) == HEADER_SIZE


def test_every_flipped_bit_is_detected() -> None:
    data = bytearray(EXAMPLE.encode())
    for at in range(CHECKED):
        for bit in range(8):
            data[at] ^= 1 << bit
            assert decode_header(bytes(data)) is None, (at, bit)
            data[at] ^= 1 << bit


def test_the_eight_bytes_behind_the_checksum_say_nothing() -> None:
    assert decode_header(EXAMPLE.encode()[:CHECKED] + b"\xff" * 8) == EXAMPLE


@pytest.mark.parametrize("size", [0, 8, CHECKED - 1, HEADER_SIZE - 1])
def test_a_shorter_piece_is_no_header(size: int) -> None:
    assert decode_header(EXAMPLE.encode()[:size]) is None


def test_two_headers_never_seed_the_same_chain() -> None:
    assert EXAMPLE.checksum != EXAMPLE._replace(number=4).checksum
    assert EXAMPLE.checksum == decode_header(EXAMPLE.encode()).checksum  # type: ignore[union-attr]


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_position_is_number_and_byte(number: int, byte: int) -> None:
    position = segment.position_of(number, byte)
    assert (segment.number_of(position), segment.byte_of(position)) == (number, byte)


@given(st.integers(0, 1 << 30), st.integers(0, 1 << 30), st.integers(FIRST_SIZE, 1 << 30))
def test_a_segment_has_room_for_what_it_is_made_for(current: int, needed: int, greatest: int) -> None:
    size = segment.next_size(current, needed, greatest)
    assert size % UNIT == 0
    assert size >= HEADER_SIZE + needed
    assert size >= FIRST_SIZE


def test_segments_double_up_to_the_greatest() -> None:
    sizes = [FIRST_SIZE]
    for _ in range(8):
        sizes.append(segment.next_size(sizes[-1], 0, 64 * MIB))
    assert [size / MIB for size in sizes] == [0.5, 1, 2, 4, 8, 16, 32, 64, 64]


@pytest.fixture
def segments(path: Path) -> Segments:
    """Of an empty store: the superblock's place, and nothing else."""
    place = resolve(path)
    place.file.parent.mkdir(exist_ok=True)
    place.file.write_bytes(bytes(superblock.SIZE))
    return place.segments(EXAMPLE.store_id)


def begin(segments: Segments, number: int, size: int = FIRST_SIZE) -> Header:
    header = EXAMPLE._replace(number=number, size=size)
    fd, start = segments.open(number, write=True)
    os.pwrite(fd, header.encode(), start)
    disk.close(fd)
    return header


@pytest.mark.parametrize("zeros", [True, False])
def test_segments_are_prepared_begun_and_found(segments: Segments, zeros: bool) -> None:
    for number, size in ((1, FIRST_SIZE), (2, 2 * FIRST_SIZE), (3, FIRST_SIZE)):
        segments.prepare(number, size, zeros=zeros)
        begin(segments, number, size)
    found = segments.extents()
    assert [extent.number for extent in found] == [1, 2, 3]
    assert [extent.size for extent in found] == [FIRST_SIZE, 2 * FIRST_SIZE, FIRST_SIZE]
    assert all(extent.header for extent in found)


def test_a_prepared_segment_reads_as_zeros_and_is_none_yet(segments: Segments) -> None:
    segments.prepare(1, FIRST_SIZE, zeros=True)
    assert [extent for extent in segments.extents() if extent.header] == []
    fd, start = segments.open(1, write=False)
    assert disk.read(fd, FIRST_SIZE, start) == bytes(FIRST_SIZE)
    disk.close(fd)


def test_an_unfinished_preparation_is_gone_over(segments: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    segments.prepare(1, FIRST_SIZE, zeros=True)
    begin(segments, 1)
    monkeypatch.setattr(disk, "on_step", _raise_at_flush)
    with pytest.raises(KeyboardInterrupt):
        segments.prepare(2, FIRST_SIZE, zeros=True)
    monkeypatch.setattr(disk, "on_step", None)
    segments.prepare(2, 2 * FIRST_SIZE, zeros=True)
    begin(segments, 2, 2 * FIRST_SIZE)
    assert [extent.size for extent in segments.extents()] == [FIRST_SIZE, 2 * FIRST_SIZE]


def _raise_at_flush(step: str) -> None:
    if step == "flush":
        raise KeyboardInterrupt


def test_a_file_shorter_than_its_header_says_is_damage(segments: Segments, path: Path) -> None:
    segments.prepare(1, FIRST_SIZE, zeros=True)
    begin(segments, 1)
    file = path if path.is_file() else path / f"{1:020d}.segment"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 1)
    with pytest.raises(CorruptRecordError, match="segment 1"):
        segments.extents()


def test_a_segment_under_another_number_is_damage(tmp_path: Path) -> None:
    segments = segment.DirectorySegments(tmp_path, EXAMPLE.store_id)
    segments.prepare(1, FIRST_SIZE, zeros=False)
    begin(segments, 1)
    segments.path(1).rename(segments.path(2))
    with pytest.raises(CorruptRecordError, match="says it is segment 1"):
        segments.extents()


def test_other_files_in_the_directory_are_no_segments(tmp_path: Path) -> None:
    for name in ("1.segment", f"{1:020d}.segment.bak", "notes.txt"):
        (tmp_path / name).write_bytes(EXAMPLE.encode())
    assert segment.DirectorySegments(tmp_path, EXAMPLE.store_id).extents() == []


def test_a_removed_segment_is_gone_from_a_directory(tmp_path: Path) -> None:
    segments = segment.DirectorySegments(tmp_path, EXAMPLE.store_id)
    segments.prepare(1, FIRST_SIZE, zeros=False)
    segments.remove(1)
    segments.remove(1)
    assert segments.extents() == []


def test_a_damaged_header_hides_its_own_segment_only(tmp_path: Path) -> None:
    file = tmp_path / "s.klite"
    file.write_bytes(bytes(superblock.SIZE))
    segments = segment.SingleFileSegments(file, EXAMPLE.store_id)
    for number in (1, 2, 3):
        segments.prepare(number, FIRST_SIZE, zeros=True)
        begin(segments, number)
    with file.open("r+b") as stream:
        stream.seek(superblock.SIZE + FIRST_SIZE + 20)
        stream.write(b"\xff")
    assert [(extent.number, extent.header is None) for extent in segments.extents()] == [
        (1, False), (2, True), (3, False),
    ]  # fmt: skip


def test_a_header_of_another_store_is_none(segments: Segments) -> None:
    segments.prepare(1, FIRST_SIZE, zeros=True)
    fd, start = segments.open(1, write=True)
    os.pwrite(fd, EXAMPLE._replace(number=1, store_id=bytes(16)).encode(), start)
    disk.close(fd)
    assert [extent.header for extent in segments.extents()] == [None]
