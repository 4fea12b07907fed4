"""The journal: what is written at a position is read there, searched and written again; a shrunk file is an error."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kafkalite import disk
from kafkalite.errors import CorruptRecordError
from kafkalite.storage import frame, journal, segment, superblock
from kafkalite.storage.journal import Journal
from kafkalite.storage.place import resolve
from kafkalite.storage.segment import FIRST_SIZE, Header

from .kit import batch

STORE_ID = bytes(range(16))


class Written:
    """A journal, and where its frames were put."""

    def __init__(self, path: Path) -> None:
        place = resolve(path)
        place.file.parent.mkdir(exist_ok=True)
        place.file.write_bytes(bytes(superblock.SIZE))
        self.journal = Journal(place.segments(STORE_ID), STORE_ID)
        self.begin(Header(STORE_ID, 1, FIRST_SIZE, 0, 1, 0, 0))

    def begin(self, header: Header) -> None:
        self.journal.segments.prepare(header.number, header.size, zeros=True)
        self.journal.begin_segment(header)
        self.at, self.chain = header.start, header.checksum

    def put(self, *data: bytes) -> int:
        """A batch at the end; returns its position."""
        sealed, position = batch(*data), self.at
        head, self.chain = frame.encode_batch(sealed, 16, 0, 0, frame.COMMIT, 0, self.chain, position)
        self._write([head, sealed.payload, frame.PADDING[sealed.size % frame.ALIGNMENT]])
        return position

    def roll(self) -> None:
        """END, and the next segment."""
        end, self.chain = frame.encode_end(0, self.chain, self.at)
        self._write([end])
        self.begin(self.journal.next_header(FIRST_SIZE, 0, self.at, self.chain))

    def _write(self, buffers: list[bytes]) -> None:
        size = sum(map(len, buffers))
        self.journal.write(self.at, buffers, size)
        self.at += size


@pytest.fixture
def written(path: Path) -> Iterator[Written]:
    found = Written(path)
    yield found
    found.journal.close()


def test_frames_are_read_where_they_were_written(written: Written) -> None:
    start, chain = written.at, written.chain
    positions = [written.put(bytes([number]) * number) for number in range(50)]
    found = list(written.journal.frames(start, chain))
    assert [one.position for one in found] == positions
    assert (found[-1].end, found[-1].chain) == (written.at, written.chain)
    for one in found:
        assert written.journal.frame(one.position, one.length) == one
        assert written.journal.frame(one.position, one.length + 8) is None
    assert list(written.journal.search(start)) == found


def test_frames_end_where_one_does_not_follow(written: Written) -> None:
    start, chain = written.at, written.chain
    first, second, third = (written.put(b"x") for _ in range(3))
    assert [one.position for one in written.journal.frames(start, chain)] == [first, second, third]
    assert list(written.journal.frames(start, chain ^ 1)) == []
    assert [one.position for one in written.journal.frames(start, chain, third)] == [first, second]
    written.journal.write(second + 50, [b"\xff"], 1)
    assert [one.position for one in written.journal.frames(start, chain)] == [first]
    assert [one.position for one in written.journal.search(start)] == [first, third]


def test_an_end_ends_a_segment_though_bytes_follow(written: Written) -> None:
    start, chain = written.at, written.chain
    written.put(b"before")
    stale, after = written.at + frame.HEADER_SIZE, written.chain
    written.at = stale
    written.put(b"stale")
    written.at, written.chain = stale - frame.HEADER_SIZE, after
    written.roll()
    assert [one.kind for one in written.journal.frames(start, chain)] == [frame.BATCH, frame.END]


def test_a_value_that_holds_frames_is_not_searched_into(written: Written) -> None:
    start = written.at
    inner = b"".join(frame.encode_end(2**62, written.chain, written.at + shift)[0] for shift in range(0, 800, 8))
    outer = written.put(bytes(3), inner)
    assert [one.position for one in written.journal.search(start)] == [outer]
    written.journal.write(outer, [b"X"], 1)
    assert list(written.journal.search(start)) == []


def test_a_flush_covers_every_segment_between(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[tuple[int, int]] = []
    start = written.at
    written.put(b"1")
    written.roll()
    written.roll()
    written.put(b"3")
    monkeypatch.setattr(disk, "flush", lambda fd: flushed.append(disk.identity(fd)))
    written.journal.flush(start, written.at)
    is_directory = isinstance(written.journal.segments, segment.DirectorySegments)
    assert len(set(flushed)) == len(flushed) == (3 if is_directory else 1)


def test_what_is_written_again_is_what_was_there(written: Written) -> None:
    start, chain = written.at, written.chain
    written.put(b"a" * 100)
    written.roll()
    written.put(b"b" * 100_000)
    before = [list(written.journal.frames(start, chain)), list(written.journal.search(segment.position_of(2, 96)))]
    written.journal.write_again(start, written.at)
    written.journal.write_again(written.at, written.at)
    assert [
        list(written.journal.frames(start, chain)),
        list(written.journal.search(segment.position_of(2, 96))),
    ] == before


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_damaged_frame_is_not_written_again(written: Written, which: int) -> None:
    start = written.at
    positions = [written.put(b"value") for _ in range(3)]
    written.journal.write(positions[which] + 45, [b"\xff"], 1)
    with pytest.raises(CorruptRecordError, match="no longer verifies"):
        written.journal.write_again(start, written.at)


def test_short_writes_are_continued(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    taken = []

    def short(fd: int, buffers: list[bytes], position: int) -> int:
        taken.append(position)
        return real(fd, [b"".join(bytes(one) for one in buffers)[:7]], position)

    monkeypatch.setattr(disk, "_pwritev", short)
    start, chain = written.at, written.chain
    position = written.put(b"value", b"", b"another")
    monkeypatch.undo()
    assert len(taken) > 10
    assert [one.position for one in written.journal.frames(start, chain)] == [position]


def test_more_buffers_than_the_system_takes_at_once(written: Written) -> None:
    pieces = [bytes([number % 256]) * (number % 3) for number in range(5000)]
    written.journal.write(written.at, pieces, sum(map(len, pieces)))
    whole = b"".join(pieces)
    assert written.journal.read(written.at, len(whole)) == whole


def test_a_file_shrunk_under_its_map_is_an_error_and_not_a_dead_process(written: Written, path: Path) -> None:
    position = written.put(b"value")
    assert written.journal.frame(position, batch(b"value").size)
    file = path if path.is_file() else path / f"{1:020d}.segment"
    os.truncate(file, 4096)
    with pytest.raises(CorruptRecordError, match="truncated"):
        written.journal.read(position, 100)
    fresh = Journal(written.journal.segments, STORE_ID)
    with pytest.raises(CorruptRecordError, match="segment 1"):
        fresh.read(position, 100)


@pytest.mark.parametrize(
    ("position", "length"), [(segment.position_of(9, 96), 8), (segment.position_of(1, FIRST_SIZE - 4), 8)]
)
def test_reading_what_is_not_there_is_an_error(written: Written, position: int, length: int) -> None:
    with pytest.raises(CorruptRecordError, match="segment"):
        written.journal.read(position, length)


def test_a_segment_of_another_store_is_not_read(written: Written) -> None:
    stranger = Journal(written.journal.segments, bytes(16))
    with pytest.raises(CorruptRecordError, match="no valid header"):
        stranger.header(1)


def test_more_segments_than_are_kept_open(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_MAPS", 2)
    monkeypatch.setattr(journal, "MAX_WRITERS", 2)
    positions = []
    for _ in range(6):
        positions.append(written.put(b"value"))
        written.roll()
    for _ in range(2):
        for position in positions:
            assert written.journal.frame(position, batch(b"value").size) is not None
    written.journal.flush(positions[0], written.at)
    written.journal.write_again(positions[0], written.at)
    assert len(written.journal._maps) <= 2
    assert len(written.journal._writers) <= 2
