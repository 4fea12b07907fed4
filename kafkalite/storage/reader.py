"""Reading: from a log and an offset to the columns of batches.

A look-up takes one short snapshot of the index and comes back with where the next batches are, up to `published`.
Then each batch is copied out of the journal's map, and exactly those bytes are verified, checked against what the
index says of them, and decoded. When they do not match, the pointer is looked up once more: the cleaner may have
moved the batch; only an unchanged pointer is corruption.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from kafkalite.errors import CorruptRecordError, OffsetOutOfRangeError
from kafkalite.records import batch
from kafkalite.records.envelope import Envelope
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
        self._rows: list[BatchRow] = []

    def has_next(self) -> bool:
        """Whether a published batch at or after `offset` is there."""
        return bool(self._rows) or self._look_up()

    def next_batch(self) -> FetchedBatch | None:
        """The next batch, records before `offset` included; None at the end. Moves `offset` behind it.

        Raises `CorruptRecordError`, and is behind the damage then, `OffsetOutOfRangeError` when `offset` was removed,
        `UnknownTopicError`.
        """
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
        rows: list[BatchRow] = []
        with self._engine.snapshot() as (transaction, positions):
            if self._topic.epoch != positions.catalogue:
                catalogue.revalidate(transaction, self._topic, positions.catalogue)
            start, _ = index.log_bounds(transaction, self.log_id)
            size = 0
            for row in index.batches(transaction, self.log_id, self.offset):
                if row.position >= positions.published or size >= LOOKUP_BYTES or len(rows) >= LOOKUP_ROWS:
                    break
                rows.append(row)
                size += row.length
        if self.offset < start:
            raise OffsetOutOfRangeError(
                f"offset {self.offset} of topic {self._topic.name!r}, partition {self.partition} was removed: "
                f"the first one left is {start}"
            )
        rows.reverse()
        self._rows = rows
        return bool(rows)

    def _read(self, row: BatchRow) -> FetchedBatch | None:
        """The batch that a row names, or None when other bytes are there."""
        try:
            data = self._engine.journal.read(row.position, frame.HEADER_SIZE + row.length)
        except CorruptRecordError:
            return None
        view = frame.batch_of(data, row.position, self.log_id)
        if view is None:
            return None
        envelope, columns = batch.decode(view)
        if envelope.last_offset != row.last_offset:
            return None
        return FetchedBatch(envelope, columns)


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
