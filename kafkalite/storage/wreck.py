"""Wreck: the files of a damaged store, as far as they are there: where its segments lie, which are its path.

Nothing here is given up for being damaged: a superblock may be missing, a header broken, a file cut short. A segment
whose header is damaged is found all the same. In a directory its file's name has the number; in a single file its
frames tell, each of whose chains covers its position: of all places at which the segment may start, and of the likely
numbers, one makes the chain right.

The path is followed from the newest segment to the predecessor that each header names. Where a header is damaged, or
the predecessor missing, it goes on with the next older segment that is there.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from kafkalite import disk
from kafkalite.errors import CorruptRecordError, NotAStoreError
from kafkalite.records.checksum import batch_digest, hash64
from kafkalite.records.envelope import HEADER_SIZE as BATCH_HEADER_SIZE
from kafkalite.records.envelope import PREFIX_SIZE
from kafkalite.storage import frame, segment, superblock
from kafkalite.storage.journal import valid_frames
from kafkalite.storage.place import Place
from kafkalite.storage.recovery import End
from kafkalite.storage.segment import Header
from kafkalite.storage.superblock import Superblock

FIRST_GENERATION: Final = 2
"""Of a superblock that a creation writes first."""
ANCHOR_TRIES: Final = 64
ANCHOR_NUMBERS: Final = 8
_FILE_NAME: Final = re.compile(r"\d{20}\.segment")


class Piece(NamedTuple):
    """A segment as far as it is there: bytes [start, start + size) of a file; `wanted` is what its header says."""

    number: int
    file: Path
    start: int
    size: int
    wanted: int
    header: Header | None


class Stretch(NamedTuple):
    """A segment of the path, and where the journal leaves it, if something says so."""

    piece: Piece
    bound: End | None


# The files


def read_superblock(place: Place) -> tuple[Superblock | None, str]:
    """The superblock, or None and why there is none; raises `StoreVersionError`."""
    if not place.file.exists():
        return None, f"{place.file.name} is missing"
    fd = disk.open_file(place.file, write=False)
    try:
        found = superblock.read(fd, str(place.path))
    except (CorruptRecordError, NotAStoreError, ValueError) as error:  # ValueError: a state that does not exist
        return None, str(error)
    finally:
        disk.close(fd)
    return found, "" if found else f"{place.file.name} has no superblock: zeros are in its place"


def damaged_slots(place: Place) -> list[int]:
    """The superblock's slots that do not pass their check. One of zeros was damaged too, unless it is the second one
    of a store that was killed in its creation, which writes both.
    """
    data = _read(place.file, 0, superblock.SIZE) if place.file.exists() else b""
    slots = [data[: superblock.SLOT_SIZE], data[superblock.SLOT_SIZE :]]
    found = [_slot(slot) for slot in slots]
    generation = max((slot.generation for slot in found if slot), default=0)
    return [
        number
        for number, slot in enumerate(slots)
        if found[number] is None and (slot.strip(b"\0") or generation > FIRST_GENERATION)
    ]


def _slot(slot: bytes) -> Superblock | None:
    try:
        return superblock.decode(slot)
    except ValueError:  # a state that does not exist
        return None


def _segment_files(place: Place) -> list[Path]:
    return sorted(path for path in place.path.iterdir() if _FILE_NAME.fullmatch(path.name))


def _read(file: Path, at: int, size: int) -> bytes:
    fd = disk.open_file(file, write=False)
    try:
        return disk.read(fd, size, at)
    finally:
        disk.close(fd)


def data_of(piece: Piece) -> disk.Map | bytes:
    """The bytes of a piece."""
    if not piece.size:
        return b""
    fd = disk.open_file(piece.file, write=False)
    try:
        return disk.map_read_only(fd, piece.start, piece.size)
    finally:
        disk.close(fd)


def find_store_id(place: Place) -> bytes | None:
    """Whose segments these are, when the superblock does not say: the id that most headers have."""
    found: Counter[bytes] = Counter()
    if place.is_directory:
        starts = [(file, 0) for file in _segment_files(place)]
    else:
        starts = [(place.file, at) for at in range(superblock.SIZE, disk.path_size(place.file), segment.UNIT)]
    for file, at in starts:
        header = segment.decode_header(_read(file, at, segment.HEADER_SIZE))
        if header:
            found[header.store_id] += 1
    return found.most_common(1)[0][0] if found else None


def pieces(place: Place, store_id: bytes, hints: Sequence[int] = ()) -> list[Piece]:
    """All segments of a store, whole or not, by number; `hints` are numbers that segments without header may have."""
    found = _files(place, store_id) if place.is_directory else _ranges(place.file, store_id, hints)
    return sorted(found)


def _files(place: Place, store_id: bytes) -> Iterator[Piece]:
    for file in _segment_files(place):
        header = segment.decode_header(_read(file, 0, segment.HEADER_SIZE), store_id)
        number, size = int(file.name.partition(".")[0]), disk.path_size(file)
        if header and header.number == number:
            yield Piece(number, file, 0, min(size, header.size), header.size, header)
        else:
            yield Piece(number, file, 0, size, size, None)


def _ranges(file: Path, store_id: bytes, hints: Sequence[int]) -> Iterator[Piece]:
    """Segments of a single file, and what lies between them."""
    end, at, number = disk.path_size(file), superblock.SIZE, 0
    gap = at
    fd = disk.open_file(file, write=False)
    try:
        while at < end:
            header = segment.decode_header(disk.read(fd, segment.HEADER_SIZE, at), store_id)
            if header is None:
                at += segment.UNIT
                continue
            if gap < at:
                yield from _headless(file, gap, at, [number + 1, *hints])
            number = header.number
            yield Piece(number, file, at, min(header.size, end - at), header.size, header)
            at = gap = at + header.size
    finally:
        disk.close(fd)
    if gap < end:
        yield from _headless(file, gap, end, [number + 1, *hints])


def _headless(file: Path, start: int, end: int, hints: Sequence[int]) -> Iterator[Piece]:
    """The segments in a range without valid headers: where each starts, and its number, the frames' own chains tell."""
    data = data_of(Piece(0, file, start, end - start, end - start, None))
    anchors: list[tuple[int, int]] = []
    at, tries = -1, ANCHOR_TRIES
    while tries and (at := disk.find(data, frame.MAGIC, at + 1)) >= 0:
        if at % frame.ALIGNMENT:
            continue
        found = frame.decode(data, at, segment.position_of(anchors[-1][0], at - anchors[-1][1])) if anchors else None
        if found is None:
            low = anchors[-1][1] + segment.UNIT if anchors else 0
            anchor = _anchor(data, at, low, hints)
            tries -= anchor is None
            if anchor and (not anchors or anchor[0] > anchors[-1][0]):
                anchors.append(anchor)
        else:
            at = at + frame.padded_size(found.length) - 1
    anchors = anchors or [(hints[0], 0)]
    ends = [*(at for _, at in anchors[1:]), end - start]
    for (number, first), last in zip(anchors, ends, strict=True):
        yield Piece(number, file, start + first, last - first, last - first, None)


def _anchor(data: disk.Map | bytes, at: int, low: int, hints: Sequence[int]) -> tuple[int, int] | None:
    """In which segment (its number, and where it starts) the bytes at `at` are a frame."""
    head = bytes(data[at : at + frame.HEADER_SIZE])
    if len(head) < frame.HEADER_SIZE:
        return None
    _, _, _, _, _, length, durable, _ = frame.HEAD.unpack_from(head)
    body = bytes(data[at + frame.HEADER_SIZE : at + frame.HEADER_SIZE + length])
    if len(body) != length or 0 < length < BATCH_HEADER_SIZE:
        return None
    digest = batch_digest(body[PREFIX_SIZE:BATCH_HEADER_SIZE], memoryview(body)[BATCH_HEADER_SIZE:]) if length else 0
    covered = head[: frame.HEAD.size] + (body[:PREFIX_SIZE] if length else frame.NO_PREFIX)
    (chain,) = frame.CHAIN.unpack_from(head, frame.HEAD.size)
    said = segment.number_of(durable)
    near = [number + more for number in (*hints[:1], said) for more in range(ANCHOR_NUMBERS)]
    for number in dict.fromkeys([hints[0], said, *hints, *near]):
        for start in range(low, at - segment.HEADER_SIZE + 1, segment.UNIT):
            position = segment.position_of(number & 0xFFFF_FFFF, at - start)
            if hash64(covered + frame.TRAILER.pack(digest, position)) == chain:
                return number, start
    return None


# The path


def find_stretches(known: dict[int, Piece], sealed_at: End | None) -> tuple[list[Stretch], list[int]]:
    """The path, oldest first, and the numbers of segments that are on it and missing."""
    numbers, missing = _candidates(known, sealed_at)
    path: list[Stretch] = []
    bound = sealed_at
    while numbers:
        number = numbers.pop()
        piece = known[number]
        path.append(Stretch(piece, bound if bound and segment.number_of(bound.position) == number else None))
        bound = None
        if piece.header is None:
            continue
        if not piece.header.predecessor:
            break
        bound = End(piece.header.predecessor, piece.header.predecessor_chain)
        wanted = segment.number_of(bound.position)
        while numbers and numbers[-1] > wanted:
            numbers.pop()
        if wanted not in known:
            missing.append(wanted)
    return path[::-1], missing


def _candidates(known: dict[int, Piece], sealed_at: End | None) -> tuple[list[int], list[int]]:
    numbers = sorted(known)
    if sealed_at is not None:
        last = segment.number_of(sealed_at.position)
        return [number for number in numbers if number <= last], [] if last in known else [last]
    while numbers and (is_empty(known[numbers[-1]]) or _is_orphan(known, known[numbers[-1]])):
        numbers.pop()
    return numbers, []


def is_empty(piece: Piece) -> bool:
    return piece.header is None and next(valid_frames(data_of(piece), piece.number), None) is None


def _is_orphan(known: dict[int, Piece], newest: Piece) -> bool:
    """Whether the end that a header names was written over: the roll that it began was never committed."""
    if newest.header is None or not newest.header.predecessor:
        return False
    end, chain = newest.header.predecessor, newest.header.predecessor_chain
    before = known.get(segment.number_of(end))
    return before is not None and any(
        found.position < end <= found.end and (found.end, found.chain) != (end, chain)
        for found in valid_frames(data_of(before), before.number)
    )
