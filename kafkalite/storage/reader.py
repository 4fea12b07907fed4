"""Reading: from a log and an offset to the columns of batches.

A look-up takes one short snapshot of the index and comes back with where the next batches are, up to `published`.
Then each batch is copied out of the journal's map, and exactly those bytes are verified, checked against what the
index says of them, and decoded. When they do not match, the pointer is looked up once more: the cleaner may have
moved the batch; only an unchanged pointer is corruption.

Batches of a transaction over the wire bear the transactional bit, and a control batch of the same producer behind them
decides: a commit shows them, an abort hides them, and where there is none yet the reader stops, which is Kafka's last
stable offset. A reader that meets such a batch looks ahead for control batches, each batch of the log once
(`_Markers`), so nothing about them has to be kept in the index. Embedded transactions need none of this: their batches
have the bit clear, and cost one test of the attributes.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from kafkalite.errors import CorruptRecordError, OffsetOutOfRangeError
from kafkalite.records import batch, control
from kafkalite.records.envelope import CONTROL, HEADER_SIZE, TRANSACTIONAL, Envelope, parse
from kafkalite.records.native import Columns
from kafkalite.storage import catalogue, frame, index
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.engine import Engine
from kafkalite.storage.index import BatchRow

LOOKUP_BYTES: Final = 1 << 20
LOOKUP_ROWS: Final = 1024


class FetchedBatch(NamedTuple):
    """One batch read: its header, and its records as columns."""

    envelope: Envelope
    columns: Columns


def bounds(engine: Engine, topic: TopicState, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
    """For each partition the first offset that there is, and the end that readers see."""
    with engine.snapshot() as (transaction, positions):
        if topic.epoch != positions.catalogue:
            catalogue.revalidate(transaction, topic, positions.catalogue)
        return {
            partition: (
                index.log_bounds(transaction, topic.log_id(partition))[0],
                index.published_end(transaction, topic.log_id(partition), positions.published),
            )
            for partition in partitions
        }


class LogReader:
    """Reads one partition forward from an offset. `offset` is the next one to be read."""

    def __init__(self, engine: Engine, topic: TopicState, partition: int, offset: int) -> None:
        self._engine = engine
        self._topic = topic
        self.partition = partition
        self.log_id = topic.log_id(partition)
        self.offset = offset
        self.reads_committed = True
        """Whether records of transactions that are aborted or undecided are left out."""
        self._rows: list[BatchRow] = []
        self._markers: _Markers | None = None
        self._awaits: Envelope | None = None

    def seek(self, offset: int) -> None:
        """Go on at another offset."""
        self.offset = offset
        self._rows = []
        self._awaits = None
        if self._markers is not None and offset < self._markers.start:
            self._markers = None

    def has_looked_up(self) -> bool:
        """Whether the next batch's place is known already."""
        return bool(self._rows)

    def has_next(self) -> bool:
        """Whether a published batch at or after `offset` is there."""
        return bool(self._rows) or self._look_up()

    def next_batch(self) -> FetchedBatch | None:
        """The next batch, records before `offset` included; None at the end. Moves `offset` behind it.

        Batches of aborted transactions, and control batches, are passed over; one that is not decided is the end.
        Raises `CorruptRecordError`, and is behind the damage then, `OffsetOutOfRangeError` when `offset` was removed,
        `UnknownTopicError`.
        """
        start = self.offset
        while (found := self._next()) is not None:
            if not found.envelope.attributes & (TRANSACTIONAL | CONTROL) or not self.reads_committed:
                break
            if found.envelope.is_control:
                continue
            is_committed = self._verdict(found.envelope)
            if is_committed:
                break
            if is_committed is None:
                self.offset = max(start, found.envelope.base_offset)
                self._rows.clear()
                self._awaits = found.envelope
                return None
        return found

    def _verdict(self, envelope: Envelope) -> bool | None:
        """Whether a transactional batch was committed; None when that is not decided."""
        if self._markers is None:
            self._markers = _Markers(envelope.base_offset)
        return self._markers.verdict(envelope) if self._scan(envelope) else None

    def _scan(self, envelope: Envelope) -> bool:
        """Read ahead until the batch is decided, or to the end; whether it is."""
        markers = self._markers
        assert markers is not None
        while markers.verdict(envelope) is None:
            rows = self._published(markers.end)
            if not rows:
                return False
            for row in rows:
                markers.add(row, self._view(row))
        return True

    def _next(self) -> FetchedBatch | None:
        if not self._rows and not self._look_up():
            return None
        row = self._rows.pop()
        try:
            found = self._read(row)
            if found is None:
                self._rows.clear()
                if not self._look_up():
                    return None
                row = self._rows.pop()
                found = self._read(row)
                if found is None:
                    raise CorruptRecordError(self._damaged(row))
        except CorruptRecordError:
            self.offset = row.last_offset + 1  # whoever asks again reads on behind the damage
            raise
        self.offset = found.envelope.last_offset + 1
        return found

    def _damaged(self, row: BatchRow) -> str:
        return (
            f"topic {self._topic.name!r}, partition {self.partition}, offsets {self.offset} to {row.last_offset}: "
            f"segment {row.position >> 32}, byte {row.position & 0xFFFFFFFF} does not hold the batch that was "
            "acknowledged. `kafkalite check` locates the damage; read on behind it, restore a backup, or keep what is "
            "whole with `kafkalite repair`"
        )

    def _look_up(self) -> bool:
        """Fetch where the next batches are; True when there are any."""
        if self._awaits is not None:
            if not self._scan(self._awaits):
                return False
            self._awaits = None
        rows = self._published(self.offset)
        rows.reverse()
        self._rows = rows
        return bool(rows)

    def _published(self, offset: int) -> list[BatchRow]:
        """Where the next batches from an offset on are."""
        rows: list[BatchRow] = []
        with self._engine.snapshot() as (transaction, positions):
            if self._topic.epoch != positions.catalogue:
                catalogue.revalidate(transaction, self._topic, positions.catalogue)
            start, _ = index.log_bounds(transaction, self.log_id)
            size = 0
            for row in index.batches(transaction, self.log_id, offset):
                if row.position >= positions.published or size >= LOOKUP_BYTES or len(rows) >= LOOKUP_ROWS:
                    break
                rows.append(row)
                size += row.length
        if offset < start:
            raise OffsetOutOfRangeError(
                f"offset {offset} of topic {self._topic.name!r}, partition {self.partition} was removed: "
                f"the first one left is {start}"
            )
        return rows

    def _read(self, row: BatchRow) -> FetchedBatch | None:
        """The batch that a row names, or None when other bytes are there."""
        view = self._view(row)
        if view is None:
            return None
        envelope, columns = batch.decode(view)
        if envelope.last_offset != row.last_offset:
            return None
        return FetchedBatch(envelope, columns)

    def _view(self, row: BatchRow) -> bytes | memoryview | None:
        """The bytes of the batch that a row names, verified."""
        try:
            data = self._engine.journal.read(row.position, frame.HEADER_SIZE + row.length)
        except CorruptRecordError:
            return None
        return frame.batch_of(data, row.position, self.log_id)


class _Markers:
    """The control batches of a log from one offset to another, by producer."""

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self._by_producer: dict[int, list[tuple[int, bool]]] = {}

    def add(self, row: BatchRow, view: bytes | memoryview | None) -> None:
        """Take notice of the next batch. One that cannot be read decides nothing, and is damage for who comes to it."""
        self.end = row.last_offset + 1
        envelope = parse(view) if view is not None else None
        if envelope is None or view is None or not envelope.is_control:
            return
        kind = control.decode(envelope, memoryview(view)[HEADER_SIZE:]).type
        if kind in (control.ABORT, control.COMMIT):
            found = self._by_producer.setdefault(envelope.producer_id, [])
            found.append((row.last_offset, kind == control.COMMIT))

    def verdict(self, envelope: Envelope) -> bool | None:
        """What the first control batch of its producer behind a batch says; None when there is none so far."""
        found = self._by_producer.get(envelope.producer_id, ())
        at = bisect_left(found, (envelope.base_offset, False))
        return found[at][1] if at < len(found) else None


def offset_at(engine: Engine, topic: TopicState, partition: int, timestamp_ms: int) -> int:
    """The offset of a partition's first record with that timestamp or a later one; its end when there is none."""
    log_id = topic.log_id(partition)
    with engine.snapshot() as (transaction, positions):
        end = index.published_end(transaction, log_id, positions.published)
        start, _ = index.log_bounds(transaction, log_id)
        row = index.first_batch_since(transaction, log_id, timestamp_ms, end)
    if row is None:
        return end
    reader = LogReader(engine, topic, partition, max(row.last_offset, start))
    while reader.offset < end:
        found = reader.next_batch()
        if found is None:
            break
        for offset, timestamp in zip(found.columns.offsets, found.columns.timestamps_ms, strict=True):
            if timestamp >= timestamp_ms and offset >= start:
                return offset
    return end


def between(columns: Columns, start: int, end: int | None) -> Columns:
    """The records of a batch with start <= offset < end."""
    offsets = columns.offsets
    if offsets and offsets[0] >= start and (end is None or offsets[-1] < end):
        return columns
    first = bisect_left(offsets, start)
    last = len(offsets) if end is None else bisect_left(offsets, end)
    return Columns(
        offsets[first:last],
        columns.timestamps_ms[first:last],
        columns.keys[first:last],
        columns.values[first:last],
        columns.headers[first:last],
    )
