"""Segments: where the journal's bytes are. The one module that knows which file, and where in it.

The journal is cut into segments, numbered from 1 and never renumbered. A segment starts with a header (big-endian):

    at  size  field
     0     8  magic              b"klsegmnt"
     8     2  format version
    10     6  zero
    16    16  store id
    32     8  number
    40     8  size               bytes of the segment, this header included; a multiple of 4096
    48     4  era                of the store when the segment was begun
    52     4  zero
    56     8  created            ms since 1970 UTC
    64     8  predecessor        position at which the segment before ends; 0 for the first
    72     8  predecessor chain  the chain there
    80     8  checksum           XXH3 of bytes 0 to 80; seeds the chain of the segment's first frame
    88     8  zero

and frames follow at 96. In a directory a segment is the file NUMBER.segment (20 digits); in a single-file store it
is a range, one after another behind the superblock. The next segment is prepared ahead: zeros, header included,
so that a roll only writes.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple, Protocol

from kafkalite import disk
from kafkalite.config import KIB
from kafkalite.errors import CorruptRecordError
from kafkalite.records.checksum import hash64
from kafkalite.storage import superblock

MAGIC: Final = b"klsegmnt"
FORMAT_VERSION: Final = 1
_LAYOUT: Final = Struct(">8sH6x16sQQI4xqQQ")
_CHECKSUM: Final = Struct(">Q")
HEADER_SIZE: Final = 96
UNIT: Final = 4096
FIRST_SIZE: Final = 512 * KIB
NUMBER_SHIFT: Final = 32
BYTE_MASK: Final = 0xFFFF_FFFF
_FILE_NAME: Final = re.compile(r"\d{20}\.segment")
assert _LAYOUT.size + _CHECKSUM.size <= HEADER_SIZE


class Header(NamedTuple):
    """A segment's header; `predecessor` is a position, 0 for the first segment."""

    store_id: bytes
    number: int
    size: int
    era: int
    created_ms: int
    predecessor: int
    predecessor_chain: int

    def encode(self) -> bytes:
        fields = _LAYOUT.pack(MAGIC, FORMAT_VERSION, *self)
        return (fields + _CHECKSUM.pack(hash64(fields))).ljust(HEADER_SIZE, b"\0")

    @property
    def checksum(self) -> int:
        """The seed of the first frame's chain."""
        return hash64(_LAYOUT.pack(MAGIC, FORMAT_VERSION, *self))

    @property
    def start(self) -> int:
        """Position of the first frame."""
        return position_of(self.number, HEADER_SIZE)


def decode_header(data: bytes, store_id: bytes | None = None) -> Header | None:
    """The header at the start of `data`, or None unless it passes its check, and is of this store when one is named."""
    if len(data) < HEADER_SIZE or not data.startswith(MAGIC):
        return None
    fields = data[: _LAYOUT.size]
    if _CHECKSUM.unpack_from(data, _LAYOUT.size)[0] != hash64(fields):
        return None
    _, _, *rest = _LAYOUT.unpack(fields)
    header = Header(*rest)
    return header if store_id in (None, header.store_id) else None


def position_of(number: int, byte: int) -> int:
    """The position of a byte in a segment."""
    return number << NUMBER_SHIFT | byte


def number_of(position: int) -> int:
    return position >> NUMBER_SHIFT


def byte_of(position: int) -> int:
    return position & BYTE_MASK


def next_size(current: int, needed: int, greatest: int) -> int:
    """Size of the segment after one of `current` bytes: doubled up to the greatest, or as large as is needed."""
    size = max(FIRST_SIZE, min(2 * current, greatest), HEADER_SIZE + needed)
    return -(-size // UNIT) * UNIT


class Extent(NamedTuple):
    """Where a segment lies: bytes [start, start + size) of a file."""

    number: int
    start: int
    size: int
    header: Header | None


class Segments(Protocol):
    """Where segments lie, in either layout."""

    is_single_file: bool
    """Whether one flush is a flush of all."""

    def extents(self) -> list[Extent]:
        """All segments of the store, by number; what has no valid header of this store has `header` None."""

    def open(self, number: int, *, write: bool) -> tuple[int, int]:
        """A descriptor, the caller's to close, and the byte at which the segment starts in its file."""

    def prepare(self, number: int, size: int, *, zeros: bool) -> None:
        """Make room for a segment of `size` bytes that reads as zeros, durably; an unfinished one is gone over."""

    def remove(self, number: int) -> None:
        """Give a segment's space back, where the layout can."""


class DirectorySegments:
    """A file for each segment."""

    is_single_file = False

    def __init__(self, directory: Path, store_id: bytes | None) -> None:
        self._directory = directory
        self._store_id = store_id

    def extents(self) -> list[Extent]:
        names = sorted(path for path in self._directory.iterdir() if _FILE_NAME.fullmatch(path.name))
        return [self._extent(path) for path in names]

    def _extent(self, path: Path) -> Extent:
        fd = disk.open_file(path, write=False)
        try:
            header = decode_header(disk.read(fd, HEADER_SIZE, 0), self._store_id)
            number, size = int(path.stem), disk.file_size(fd)
        finally:
            disk.close(fd)
        if header and (header.number != number or size < header.size):
            raise CorruptRecordError(
                f"{path} says it is segment {header.number} of {header.size} bytes; the file has {size} bytes"
            )
        return Extent(number, 0, size, header)

    def open(self, number: int, *, write: bool) -> tuple[int, int]:
        return disk.open_file(self.path(number), write=write), 0

    def prepare(self, number: int, size: int, *, zeros: bool) -> None:
        path = self.path(number)
        fd = disk.open_file(path, write=True, create=True)
        try:
            with disk.translated(f"cannot prepare {path} ({size} bytes)"):
                (disk.fill_with_zeros if zeros else disk.reserve)(fd, 0, size)
                disk.flush(fd)
        finally:
            disk.close(fd)
        disk.flush_directory(self._directory)

    def remove(self, number: int) -> None:
        disk.unlink(self.path(number))

    def path(self, number: int) -> Path:
        return self._directory / f"{number:020d}.segment"


class SingleFileSegments:
    """Ranges of one file, behind the superblock; found by walking from header to header."""

    is_single_file = True

    def __init__(self, path: Path, store_id: bytes | None) -> None:
        self._path = path
        self._store_id = store_id
        self._found: dict[int, Extent] = {}

    def extents(self) -> list[Extent]:
        fd = disk.open_file(self._path, write=False)
        try:
            found = list(self._walk(fd))
        finally:
            disk.close(fd)
        self._found = {extent.number: extent for extent in found if extent.header}
        return sorted(found)

    def _walk(self, fd: int) -> Iterator[Extent]:
        """Segments, and the ranges between them and behind that have no valid header, under the number that they
        would have: a prepared segment, or one whose header was damaged.
        """
        end, at, number = disk.file_size(fd), superblock.SIZE, 0
        gap = at
        while at < end:
            header = decode_header(disk.read(fd, HEADER_SIZE, at), self._store_id)
            if header is None:
                at += UNIT
                continue
            if at + header.size > end:
                raise CorruptRecordError(
                    f"{self._path} ends at byte {end}, within segment {header.number} ({header.size} bytes from {at})"
                )
            if header.number <= number:
                raise CorruptRecordError(
                    f"{self._path} has segment {header.number} at byte {at}, behind segment {number}: a block was "
                    "written where it does not belong"
                )
            if gap < at:
                yield Extent(number + 1, gap, at - gap, None)
            number = header.number
            yield Extent(number, at, header.size, header)
            at = gap = at + header.size
        if gap < end:
            yield Extent(number + 1, gap, end - gap, None)

    def open(self, number: int, *, write: bool) -> tuple[int, int]:
        start = self._start_of(number)  # first: what fails here must not leave a descriptor behind
        return disk.open_file(self._path, write=write), start

    def _start_of(self, number: int) -> int:
        """Where a segment starts: at its header, or behind all others when it is still to be begun."""
        if number not in self._found:
            self.extents()
        if number in self._found:
            return self._found[number].start
        return self._end_of_segments()

    def _end_of_segments(self) -> int:
        return max((extent.start + extent.size for extent in self._found.values()), default=superblock.SIZE)

    def prepare(self, number: int, size: int, *, zeros: bool) -> None:
        self.extents()
        start = self._start_of(number)
        fd = disk.open_file(self._path, write=True)
        try:
            with disk.translated(f"cannot extend {self._path} by {size} bytes"):
                (disk.fill_with_zeros if zeros else disk.reserve)(fd, start, start + size)
                disk.flush(fd)
        finally:
            disk.close(fd)

    def remove(self, number: int) -> None:
        """A range in the middle of a file stays; the cleaner gives it to a new segment."""
