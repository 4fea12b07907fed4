"""The journal: frames written at positions, read back from read-only maps, flushed, rolled, scanned.

It knows nothing of offsets or the index: a position says where, `frame` says what. One descriptor and one map for
each segment in use, opened when first touched. A map is never grown, a segment never truncated while in use; before
a map is touched the file's size is checked, since touching a map beyond its file's end kills the process.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from kafkalite import clock, disk
from kafkalite.errors import CorruptRecordError
from kafkalite.storage import frame, segment
from kafkalite.storage.frame import Frame
from kafkalite.storage.segment import BYTE_MASK, NUMBER_SHIFT, Extent, Header, Segments

MAX_MAPS: Final = 256
MAX_WRITERS: Final = 16
COPY_BYTES: Final = 1 << 20


class _Map(NamedTuple):
    file: disk.OpenFile
    end: int
    data: disk.Map


class Journal:
    """The frames of one store. Not locked: callers hold WRITE to write and roll, nothing to read."""

    def __init__(self, segments: Segments, store_id: bytes) -> None:
        self.segments = segments
        self.store_id = store_id
        self._maps: dict[int, _Map] = {}
        self._writers: dict[int, tuple[int, int]] = {}

    # Writing

    def write(self, position: int, buffers: Sequence[bytes], size: int) -> None:
        """Write buffers of `size` bytes in all from `position` on, within one segment; raises OSError as
        the disk does.
        """
        fd, start = self._writers.get(position >> NUMBER_SHIFT) or self._writer(position >> NUMBER_SHIFT)
        disk.write(fd, buffers, start + (position & BYTE_MASK), size)

    def _writer(self, number: int) -> tuple[int, int]:
        writer = self._writers.get(number)
        if writer is None:
            if len(self._writers) >= MAX_WRITERS:
                disk.close(self._writers.pop(next(iter(self._writers)))[0])
            writer = self._writers[number] = self.segments.open(number, write=True)
        return writer

    def begin_segment(self, header: Header) -> None:
        """Write the header of a prepared segment."""
        self._maps.pop(header.number, None)
        self.write(segment.position_of(header.number, 0), [header.encode()], segment.HEADER_SIZE)

    def next_header(self, size: int, era: int, tail: int, chain: int, *, number: int | None = None) -> Header:
        """The header of the segment that follows the journal's end at `tail`."""
        number = segment.number_of(tail) + 1 if number is None else number
        return Header(self.store_id, number, size, era, clock.now_ms(), tail, chain)

    def flush(self, start: int, end: int) -> None:
        """Return when all of [start, end) is on the disk; raises OSError when it is not."""
        first = segment.number_of(end if self.segments.is_single_file else start)
        for number in range(first, segment.number_of(end) + 1):
            disk.flush(self._writer(number)[0])

    def write_again(self, start: int, end: int) -> None:
        """Write the bytes of [start, end) once more, each frame verified; raises `CorruptRecordError`.

        After a failed flush the page cache may hold bytes that the disk does not and that no flush would write.
        """
        at = start
        while at != end:
            found = next(self.search(at), None)
            if found is None or found.position != at:
                raise CorruptRecordError(f"the frame at {at:#x}, appended and not flushed, no longer verifies")
            self.copy_over(at, found.end)
            at = found.end
            if found.kind == frame.END and at != end:
                header = self.header(segment.number_of(at) + 1)
                self.begin_segment(header)
                at = header.start

    def copy_over(self, start: int, end: int) -> None:
        """Write the bytes of [start, end), within one segment, over themselves."""
        while start < end:
            size = min(end - start, COPY_BYTES)
            self.write(start, [self.read(start, size)], size)
            start += size

    # Reading

    def header(self, number: int) -> Header:
        """The header of a segment; raises `CorruptRecordError`."""
        start = segment.position_of(number, 0)
        header = segment.decode_header(self.read(start, segment.HEADER_SIZE), self.store_id)
        assert header is not None, "a map is made only of a segment with a valid header"
        return header

    def read(self, position: int, length: int) -> bytes:
        """A copy of `length` bytes; raises `CorruptRecordError` when the file does not hold them (any more)."""
        found = self._maps.get(position >> NUMBER_SHIFT) or self._map(position)
        if disk.file_size(found.file.fd) < found.end:
            raise CorruptRecordError(f"segment {position >> NUMBER_SHIFT} was truncated below its size while in use")
        at = position & BYTE_MASK
        data = found.data[at : at + length]
        if len(data) != length:
            raise CorruptRecordError(f"segment {position >> NUMBER_SHIFT} has no {length} bytes at byte {at}")
        return data

    def _map(self, position: int) -> _Map:
        number = segment.number_of(position)
        try:
            fd, start = self.segments.open(number, write=False)
        except FileNotFoundError as error:
            raise CorruptRecordError(f"segment {number} is missing") from error
        file = disk.OpenFile(fd)  # readers that hold a map that is dropped here keep its file open
        header = segment.decode_header(disk.read(fd, segment.HEADER_SIZE, start), self.store_id)
        if header is None or header.number != number:
            raise CorruptRecordError(f"segment {number} has no valid header")
        if disk.file_size(fd) < start + header.size:
            raise CorruptRecordError(f"segment {number} is shorter than its header's {header.size} bytes")
        data = disk.map_read_only(fd, start, header.size)
        while len(self._maps) >= MAX_MAPS:
            self._maps.pop(next(iter(self._maps)), None)
        self._maps[number] = found = _Map(file, start + header.size, data)
        return found

    def frame(self, position: int, length: int) -> Frame | None:
        """The frame with a batch of `length` bytes at `position`, checked; None when other bytes are there."""
        data = self.read(position, frame.HEADER_SIZE + length)
        found = frame.decode(data, 0, position)
        return found if found and found.length == length else None

    def frames(self, start: int, previous: int, end: int | None = None) -> Iterator[Frame]:
        """Frames in order from `start`, as long as each follows the one before; END is yielded and ends it."""
        number = segment.number_of(start)
        data = self._whole(number)
        at = segment.byte_of(start)
        stop = len(data) if end is None else segment.byte_of(end)
        while at < stop:
            found = frame.decode(data, at, segment.position_of(number, at))
            if found is None or found.previous != previous:
                return
            yield found
            if found.kind == frame.END:
                return
            previous, at = found.chain, segment.byte_of(found.end)

    def search(self, start: int) -> Iterator[Frame]:
        """Every frame of a segment that passes its check from `start` on, whatever lies between."""
        number = segment.number_of(start)
        return valid_frames(self._whole(number), number, segment.byte_of(start))

    def search_headless(self, extent: Extent) -> Iterator[Frame]:
        """Every frame that passes its check in a range whose segment header does not."""
        fd, _ = self.segments.open(extent.number, write=False)
        try:
            size = min(extent.size, max(0, disk.file_size(fd) - extent.start))
            data = disk.map_read_only(fd, extent.start, size) if size else b""
        finally:
            disk.close(fd)
        return valid_frames(data, extent.number)

    def _whole(self, number: int) -> disk.Map:
        self.read(segment.position_of(number, 0), segment.HEADER_SIZE)
        return self._maps[number].data

    # Life

    def forget(self, number: int) -> None:
        """Let go of a segment that was removed."""
        self._maps.pop(number, None)
        writer = self._writers.pop(number, None)
        if writer:
            disk.close(writer[0])

    def close(self) -> None:
        for number in [*self._maps, *self._writers]:
            self.forget(number)


def valid_frames(data: bytes | disk.Map, number: int, at: int = segment.HEADER_SIZE) -> Iterator[Frame]:
    """Every frame of a segment that passes its check, whatever lies between."""
    while (at := disk.find(data, frame.MAGIC, at)) >= 0:
        found = None
        if at % frame.ALIGNMENT == 0:
            found = frame.decode(data, at, segment.position_of(number, at))
        if found:
            yield found
        at = segment.byte_of(found.end) if found else at + 1
