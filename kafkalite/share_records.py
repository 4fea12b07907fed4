"""The records of a share group: read where they were acquired, and written anew into a dead letter topic.

Records are acquired in runs of offsets, and read by the batch; the last batch of each lane is kept, so that records
acquired one by one out of a batch are read once. An offset in a run may hold no record (a control record, one that
compaction or retention removed): it is reported as a gap, for somebody has to say that it is done.
"""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, Final, NamedTuple, TypeVar

from kafkalite.columns import TopicEncoder
from kafkalite.errors import (
    CorruptRecordError,
    DeserializationError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
)
from kafkalite.model import Record
from kafkalite.records.native import Columns
from kafkalite.serde import BatchSerde
from kafkalite.share_state import Lane, Letters
from kafkalite.storage import reader
from kafkalite.storage.commit import Append
from kafkalite.storage.engine import Engine
from kafkalite.storage.reader import FetchedBatch, LogReader

K_co = TypeVar("K_co", covariant=True)
V_co = TypeVar("V_co", covariant=True)

HEADER_PREFIX: Final = "_dlq.errors."
"""Headers of dead letters begin so, after KIP-1191: topic, partition, offset, group, delivery.count."""

_new = tuple.__new__


class ShareRecord(Record[K_co, V_co]):
    """A `Record` from a share group. `delivery_count`: how often it was delivered, this time included (KIP-932)."""

    delivery_count: int

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, delivery_count={self.delivery_count})"


class Item(NamedTuple):
    """What is handed out: a record, or the error that is raised in place of one that cannot be decoded."""

    lane: "LaneReader"
    record: ShareRecord[Any, Any]
    error: DeserializationError | None
    until_ms: int
    was_handed_out: bool = False


class Run(NamedTuple):
    """What was read of an acquired run: its records, offsets without one, and from where on nothing was read: with an
    error because of damage, else because it is not to be read yet.
    """

    items: list[Item]
    gaps: list[tuple[int, int]]
    unread_from: int | None = None
    error: CorruptRecordError | None = None


class LaneReader:
    """Reads the records of one lane by the offsets that were acquired."""

    __slots__ = ("_batch", "_engine", "_key", "_reader", "_value", "average_size", "lane")

    def __init__(self, engine: Engine, lane: Lane, key: BatchSerde[Any], value: BatchSerde[Any]) -> None:
        self._engine = engine
        self.lane = lane
        self._key = key
        self._value = value
        self._reader: LogReader | None = None
        self._batch: FetchedBatch | None = None
        self.average_size = 0
        """Bytes of a record in the batch that was read last."""

    def read(self, first: int, last: int, delivery_count: int, until_ms: int) -> Run:
        """The records with first <= offset <= last; raises `UnknownTopicError`, `ClosedError`."""
        items: list[Item] = []
        gaps: list[tuple[int, int]] = []
        expected = first
        try:
            for columns in self._columns(first, last):
                for item in self._items(columns, delivery_count, until_ms):
                    if item.record.offset > expected:
                        gaps.append((expected, item.record.offset - 1))
                    expected = item.record.offset + 1
                    items.append(item)
        except CorruptRecordError as error:
            return Run(items, gaps, expected, error)
        if expected <= last:
            if self._batch is None:
                return Run(items, gaps, expected)
            gaps.append((expected, last))
        if self._batch is not None and self._batch.envelope.last_offset <= last:
            self._batch = None  # all of it was acquired: with thousands of lanes it is not to be kept
        return Run(items, gaps)

    def _columns(self, first: int, last: int) -> Iterator[Columns]:
        offset = first
        while offset <= last:
            batch = self._batch_at(offset)
            if batch is None:
                return
            offset = max(offset, batch.envelope.last_offset + 1)
            if not batch.envelope.is_control:
                columns = reader.between(batch.columns, first, last + 1)
                if columns.values:
                    yield columns

    def _batch_at(self, offset: int) -> FetchedBatch | None:
        """The first batch that ends at or after an offset; None at the end of the log."""
        batch = self._batch
        if batch is not None and batch.envelope.base_offset <= offset <= batch.envelope.last_offset:
            return batch
        if self._reader is None or self._reader.offset != offset:
            self._reader = LogReader(self._engine, self.lane.topic, self.lane.partition, offset)
        try:
            batch = self._reader.next_batch()
        except OffsetOutOfRangeError:  # removed since it was acquired: what is left begins behind it
            start = reader.bounds(self._engine, self.lane.topic, [self.lane.partition])[self.lane.partition][0]
            self._reader = LogReader(self._engine, self.lane.topic, self.lane.partition, start)
            batch = self._reader.next_batch()
        except CorruptRecordError:
            self._reader = None
            raise
        self._batch = batch
        if batch is not None:
            self.average_size = batch.envelope.batch_length // max(1, batch.envelope.count)
        return batch

    def _items(self, columns: Columns, delivery_count: int, until_ms: int) -> Iterator[Item]:
        try:
            keys = columns.keys if self._key.is_identity else self._key.deserialize_many(columns.keys)
            values = columns.values if self._value.is_identity else self._value.deserialize_many(columns.values)
        except DeserializationError:
            for record in self._records(columns, columns.keys, columns.values, delivery_count):
                yield self._one(record, until_ms)
        else:
            for record in self._records(columns, keys, values, delivery_count):
                yield Item(self, record, None, until_ms)

    def _one(self, raw: ShareRecord[Any, Any], until_ms: int) -> Item:
        """A record whose batch does not decode as a whole."""
        try:
            row = (*raw[:4], self._key.deserialize(raw.key), self._value.deserialize(raw.value), raw.headers)
        except DeserializationError as error:
            where = f"topic {raw.topic!r}, partition {raw.partition}, offset {raw.offset}"
            named = DeserializationError(f"{where}: {error}", raw)
            named.__cause__ = error
            return Item(self, raw, named, until_ms)
        return Item(self, _share_record(row, raw.delivery_count), None, until_ms)

    def _records(
        self, columns: Columns, keys: Sequence[Any], values: Sequence[Any], delivery_count: int
    ) -> Iterator[ShareRecord[Any, Any]]:
        rows = zip(
            repeat(self.lane.topic.name), repeat(self.lane.partition),
            columns.offsets, columns.timestamps_ms, keys, values, columns.headers,
        )  # fmt: skip
        for row in rows:
            yield _share_record(row, delivery_count)

    # Dead letters

    def letters(self, first: int, last: int, count: int, target: TopicEncoder[Any, Any], group_id: str) -> Letters:
        """What takes these records, delivered `count` times, as raw bytes into the dead letter topic.

        One that cannot be read, or is too large with its headers, has no append.
        """
        found: list[tuple[int, int, Sequence[Append]]] = []
        offset = first
        try:
            for columns in self._columns(first, last):
                for number, at in enumerate(columns.offsets):
                    letter = self._letter(columns, number, count, target, group_id)
                    found.append((offset, at, letter))
                    offset = at + 1
        except CorruptRecordError:
            self._batch = None
        if offset <= last:
            found.append((offset, last, ()))
        return found

    def _letter(
        self, columns: Columns, number: int, delivery_count: int, target: TopicEncoder[Any, Any], group_id: str
    ) -> Sequence[Append]:
        why = {
            "topic": self.lane.topic.name,
            "partition": str(self.lane.partition),
            "offset": str(columns.offsets[number]),
            "group": group_id,
            "delivery.count": str(delivery_count),
        }
        headers = (
            *columns.headers[number],
            *((HEADER_PREFIX + name, text.encode()) for name, text in why.items()),
        )
        try:
            partition, batch = target.one(
                columns.values[number], columns.keys[number], None, headers, columns.timestamps_ms[number], None
            )
        except RecordTooLargeError:
            return ()
        return [Append(target.state.log_ids[partition], batch, target.state)]


def _share_record(row: tuple[Any, ...], delivery_count: int) -> ShareRecord[Any, Any]:
    record: ShareRecord[Any, Any] = _new(ShareRecord, row)
    record.delivery_count = delivery_count
    return record
