"""Recovery: read the journal from end to end, and derive the index from it.

`Scan` finds which frames count; `Derivation` turns them into the index's rows. The two serve the rebuild after a
crash of the machine, and `check`, which compares what they give with the index that is in use.

Which frames count:

- Segments form a path: each header names where its predecessor ends, position and chain, and of several candidates
  for the newest the highest number wins whose path is whole. A header that names an end the predecessor does not have
  is of a roll that was never committed.
- Frames are followed by their chains to that end; what lies beyond (cut by an earlier recovery) is not entered.
- A trailing run without its COMMIT frame is dropped.
- Where following stops short, everything later is searched for a frame, each checked alone, whose `durable` lies
  beyond: then acknowledged data is damaged, `CorruptRecordError`, and nothing is discarded. Nothing found means that
  nothing beyond was ever acknowledged as durable, or that nobody was left to witness the last flush.

A rebuild accepts those frames, writes them again from the last witnessed `durable` on and flushes, and goes on in a
new segment of the next era whose header is durable before anything is published.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

import lmdb

from kafkalite.errors import CorruptRecordError
from kafkalite.records.envelope import Envelope, SealedBatch, parse
from kafkalite.storage import frame, index, internal, segment
from kafkalite.storage.catalogue import CATALOGUE_LOG, FIRST_USER_LOG
from kafkalite.storage.commit import next_state, segment_row
from kafkalite.storage.frame import Frame
from kafkalite.storage.index import Index, Positions, ProducerState
from kafkalite.storage.journal import Journal
from kafkalite.storage.segment import Extent, Header

ROWS_PER_TRANSACTION: Final = 20_000


class End(NamedTuple):
    """Where a journal, or a segment of it, ends: a position, and the chain of the frame before."""

    position: int
    chain: int


class SegmentPath(NamedTuple):
    """The segments that make up a journal, oldest first, and the places of those that do not connect: prepared ones,
    rolls that were never committed, ones whose header is damaged.
    """

    headers: Sequence[Header]
    unreachable: Sequence[Extent]


class Scan:
    """One pass over a journal. Iterate `frames()`; afterwards `end`, `durable` and `entered` say what was found."""

    def __init__(self, journal: Journal, path: SegmentPath, end: End | None) -> None:
        self._journal = journal
        self._path = path.headers
        self._unreachable = path.unreachable
        self._must_end = end
        self.entered: list[tuple[Header, int]] = []
        self.end = End(self._path[0].start, self._path[0].checksum)
        self.durable = end.position if end else 0

    def frames(self) -> Iterator[Frame]:
        """The frames of all complete commits, in order; raises `CorruptRecordError` for damage."""
        for number, header in enumerate(self._path):
            following = self._path[number + 1] if number + 1 < len(self._path) else None
            bound = End(following.predecessor, following.predecessor_chain) if following else self._must_end
            self.end = End(header.start, header.checksum)
            yield from self._segment(bound)
            self.entered.append((header, self.end.position))
            if bound is not None and self.end != bound:
                self._search(self._path[number:])
                if self._must_end is not None:
                    raise CorruptRecordError(
                        f"the journal was closed at {self._must_end.position:#x}, and can be followed only "
                        f"to {self.end.position:#x}"
                    )
                if following is not None and following.era > header.era:  # written when all before it was durable
                    raise CorruptRecordError(
                        f"the journal was recovered up to {bound.position:#x}, and can be followed only to "
                        f"{self.end.position:#x}"
                    )
                return
        if self._must_end is None:
            self._search(self._path[-1:])

    def _segment(self, bound: End | None) -> Iterator[Frame]:
        group: list[Frame] = []
        for found in self._journal.frames(*self.end):
            if bound == (found.position, found.previous):
                break
            group.append(found)
            if found.is_commit:
                self.end = End(found.end, found.chain)
                self.durable = max(self.durable, found.durable)
                yield from (one for one in group if one.kind == frame.BATCH)
                group.clear()

    def _search(self, headers: Sequence[Header]) -> None:
        """Raise if any frame in what follows says that the journal was durable beyond where it can be followed."""
        end = self.end.position
        later = [self._journal.search(max(end, header.start)) for header in headers]
        later += [self._journal.search_headless(extent) for extent in self._unreachable]
        for found in chain.from_iterable(later):
            if found.durable > end:
                raise CorruptRecordError(
                    f"segment {segment.number_of(end)} is damaged at byte {segment.byte_of(end)}, or the "
                    "one after it is: "
                    f"the frame at {found.position:#x} witnesses that data beyond it was acknowledged. "
                    "Nothing was changed: restore a backup, or keep what is whole with `kafkalite repair`"
                )


def find_path(journal: Journal, era_segment: int, sealed_at: End | None = None) -> SegmentPath:
    """Which segments make up the journal.

    A segment newer than a sealed journal's tail is of a roll that was never committed, though it may connect.
    Raises `CorruptRecordError` when the segment with which the current era began is not among the first.
    """
    extents = journal.segments.extents()
    if journal.segments.is_single_file:
        _check_has_no_gap(extents)
    last = segment.number_of(sealed_at.position) if sealed_at else None
    headers = {
        extent.number: extent.header for extent in extents if extent.header and (last is None or extent.number <= last)
    }
    for newest in sorted(headers, reverse=True):
        path = _path_from(journal, headers, newest)
        if path is None:
            continue
        numbers = {header.number for header in path}
        if era_segment not in numbers:
            break
        return SegmentPath(path, [one for one in extents if one.header is None or one.number > newest])
    raise CorruptRecordError(
        f"segment {era_segment}, with which the journal's era began, is missing or damaged, or one between it and the "
        "newest: restore it, or a backup, or keep what is whole with `kafkalite repair`"
    )


def _check_has_no_gap(extents: Sequence[Extent]) -> None:
    """In a single file what has no header lies behind all that has one: a prepared segment, or what was left of one."""
    last = max((extent.start for extent in extents if extent.header), default=0)
    for gap in extents:
        if gap.header is None and gap.start < last:
            raise CorruptRecordError(
                f"the {gap.size} bytes from byte {gap.start} of the file on have no segment header, and a segment lies "
                "behind them: the header was damaged or misplaced. nothing was changed: restore a backup"
            )


def _path_from(journal: Journal, headers: dict[int, Header], newest: int) -> list[Header] | None:
    path = [headers[newest]]
    while path[-1].predecessor:
        before = headers.get(segment.number_of(path[-1].predecessor))
        if before is None or not _ends_at(journal, before, End(path[-1].predecessor, path[-1].predecessor_chain)):
            return None
        path.append(before)
    return path[::-1]


def _ends_at(journal: Journal, header: Header, end: End) -> bool:
    """Whether some frame of the segment ends at `end`: the last one of a roll, or where a recovery cut."""
    if end == (header.start, header.checksum):
        return True
    with contextlib.suppress(CorruptRecordError):
        return any(found.end == end.position and found.chain == end.chain for found in _last_frames(journal, end))
    return False


def _last_frames(journal: Journal, end: End) -> Iterator[Frame]:
    """Candidates for the frame before `end`: the END frame just before it, then all of the segment."""
    at = end.position - frame.HEADER_SIZE
    data = journal.read(at, frame.HEADER_SIZE)
    found = frame.decode(data, 0, at)
    if found is not None:
        yield found
    yield from journal.search(segment.position_of(segment.number_of(at), segment.HEADER_SIZE))


def whole_path(journal: Journal, tail: int) -> SegmentPath:
    """The path of a journal whose tail is known."""
    headers = [journal.header(segment.number_of(tail))]
    while headers[-1].predecessor:
        headers.append(journal.header(segment.number_of(headers[-1].predecessor)))
    return SegmentPath(headers[::-1], ())


class Derivation:
    """The derived tables as a function of the journal's frames, written into an empty index."""

    def __init__(self, target: Index) -> None:
        self._target = target
        self._rows: dict[bytes, bytes | None] = {}
        self._latest: dict[int, int] = {}
        self._producers: dict[tuple[int, int], ProducerState] = {}
        self._catalogue: list[tuple[int, bytes]] = []
        self.ends: dict[int, int] = {}
        self.frame_count = 0

    def add(self, found: Frame) -> Envelope:
        """Take one BATCH frame; returns its batch's envelope. Raises `CorruptRecordError` when offsets go back."""
        envelope = parse(found.batch)
        self.frame_count += 1
        key = index.BATCH_KEY.pack(index.BATCH, found.log_id, envelope.last_offset)
        latest = max(self._latest.get(found.log_id, index.NO_TIMESTAMP), envelope.max_timestamp)
        self._rows[key] = index.BATCH_ROW.pack(found.position, found.length, latest)
        if not found.flags & frame.RELOCATED:
            self._extend(found, envelope, latest)
        if len(self._rows) >= ROWS_PER_TRANSACTION:
            self.write()
        return envelope

    def _extend(self, found: Frame, envelope: Envelope, latest: int) -> None:
        log_id = found.log_id
        end = self.ends.get(log_id, 0)
        if envelope.base_offset != end:
            raise CorruptRecordError(
                f"log {log_id} goes on at offset {envelope.base_offset} where {end} is next (frame at "
                f"{found.position:#x})"
            )
        self.ends[log_id] = envelope.last_offset + 1
        self._latest[log_id] = latest
        if envelope.producer_id >= 0 and envelope.base_sequence >= 0:
            key = (log_id, envelope.producer_id)
            self._producers[key] = next_state(self._producers.get(key), _sealed(envelope), envelope.base_offset)
        if log_id == CATALOGUE_LOG:
            self._catalogue.append((envelope.base_offset, found.batch))
        elif log_id < FIRST_USER_LOG:  # in the order of the log: a later record takes the place of an earlier one
            self._rows.update(internal.rows(log_id, found.batch))

    def finish(self, headers: Sequence[Header]) -> None:
        """The tables that are known only at the end: segments, producers, the catalogue in the order of its log."""
        self._rows.update(map(segment_row, headers))
        for (log_id, producer_id), state in self._producers.items():
            self._rows[index.PRODUCER_KEY.pack(index.PRODUCER, log_id, producer_id)] = state.encode()
        for _, batch in sorted(self._catalogue):
            self._rows.update(internal.rows(CATALOGUE_LOG, batch))
        self.write()

    def positions(self, header: Header, end: End) -> Positions:
        """Where a journal stands that ends at `end`, in the segment of `header`, all of it durable and visible."""
        return Positions(
            tail=end.position, chain=end.chain, durable=end.position, published=end.position,
            flush_failed=0, era=header.era, catalogue=self.ends.get(CATALOGUE_LOG, 0), segment_size=header.size,
            spare_size=0,
        )  # fmt: skip

    def write(self, positions: Positions | None = None) -> None:
        """Write what was gathered; with `positions`, the row that makes it an index in use."""
        with self._target.writing() as transaction:
            _put_all(transaction, self._rows)
            if positions is not None:
                index.write_positions(transaction, positions)
        self._rows.clear()


def _put_all(transaction: lmdb.Transaction, rows: Mapping[bytes, bytes | None]) -> None:
    """Put rows, and remove those whose value is None."""
    transaction.cursor().putmulti(sorted((key, value) for key, value in rows.items() if value is not None))
    for key in [key for key, value in rows.items() if value is None]:
        transaction.delete(key)


def _sealed(envelope: Envelope) -> SealedBatch:
    """What the producer table needs of a batch that is in the journal."""
    return SealedBatch(
        envelope.magic,
        envelope.checksum,
        b"",
        b"",
        0,
        envelope.count,
        envelope.last_offset_delta,
        envelope.max_timestamp,
        envelope.producer_id,
        envelope.producer_epoch,
        envelope.base_sequence,
    )


class Recovered(NamedTuple):
    """What a rebuild arrived at."""

    positions: Positions
    era_segment: int


def rebuild(journal: Journal, target: Path, *, era: int, era_segment: int, sealed_at: End | None) -> Recovered:
    """Build the index at `target` (absent) from the journal, and begin the next era. The caller is alone.

    Raises `CorruptRecordError` for damage to what was acknowledged; nothing has been changed then.
    """
    path = find_path(journal, era_segment, sealed_at)
    scan = Scan(journal, path, sealed_at)
    built = Index(target, create=True)
    try:
        derivation = Derivation(built)
        for found in scan.frames():
            derivation.add(found)
        header = _begin_era(journal, scan, max(era, path.headers[-1].era) + 1)
        derivation.finish([*(entered for entered, _ in scan.entered), header])
        positions = derivation.positions(header, End(header.start, header.checksum))
        derivation.write(positions)
        built.sync()
    finally:
        built.close()
    return Recovered(positions, header.number)


def derive_first(journal: Journal, target: Path, header: Header, end: End) -> None:
    """The index of a new store at `target` (absent), whose only segment ends at `end`."""
    built = Index(target, create=True)
    try:
        derivation = Derivation(built)
        for found in Scan(journal, SegmentPath([header], ()), end).frames():
            derivation.add(found)
        derivation.finish([header])
        derivation.write(derivation.positions(header, end))
        built.sync()
    finally:
        built.close()


def _begin_era(journal: Journal, scan: Scan, era: int) -> Header:
    """Make what was accepted durable, then a new segment after it; only then remove what was not entered."""
    for header, end in scan.entered:
        if end > scan.durable:
            journal.begin_segment(header)
            journal.copy_over(max(header.start, scan.durable), end)
            journal.flush(header.start, end)
    extents = journal.segments.extents()
    number = max(extent.number for extent in extents) + 1
    size = segment.next_size(0, 0, segment.FIRST_SIZE)
    journal.segments.prepare(number, size, zeros=True)
    header = journal.next_header(size, era, *scan.end, number=number)
    journal.begin_segment(header)
    journal.flush(header.start, header.start)
    entered = {known.number for known, _ in scan.entered}
    for extent in extents:
        if extent.number not in entered:
            journal.forget(extent.number)
            journal.segments.remove(extent.number)
    return header
