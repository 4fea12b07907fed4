"""Iteration: what `read` and `batches` give, for one topic or several, until an end or for ever.

A `BatchIterator` takes partitions in turn, a batch each; `records` chains the records of its batches in C, so that no
Python runs for a record beyond making it. Both are objects that survive raising: after an error the next `next()` goes
on behind what could not be read.

Who follows whole topics for ever follows partitions that are added to them as well, from their beginning: each look-up
in the index notices when the catalogue changed, and with it how many partitions a topic has.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar, overload

from kafkalite import clock
from kafkalite.clock import Deadline
from kafkalite.errors import ConfigError, DeserializationError, ForkedError, OffsetOutOfRangeError
from kafkalite.model import Position, Record, Until
from kafkalite.records.native import Columns
from kafkalite.serde import BatchSerde
from kafkalite.storage import reader
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.engine import Engine
from kafkalite.storage.reader import FetchedBatch, LogReader

K = TypeVar("K")
V = TypeVar("V")

_new: Final[Callable[..., Any]] = tuple.__new__
OFFSET_MAX: Final = 2**63 - 1
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Range(NamedTuple):
    """What to read of a partition: offsets start <= n < end; None for ever."""

    partition: int
    start: int
    end: int | None


class RecordBatch(Sequence[Record[K, V]], Generic[K, V]):
    """Records of one partition that were committed together: a sequence of `Record`, and their parts as columns.

    `offsets`, `timestamps_ms`, `keys`, `values` and `headers` are of the batch's length; `timestamp_type` is "create"
    or "log_append", `leader_epoch` the epoch in which the batch was appended.
    """

    __slots__ = (
        "headers",
        "keys",
        "leader_epoch",
        "offsets",
        "partition",
        "timestamp_type",
        "timestamps_ms",
        "topic",
        "values",
    )

    def __init__(
        self,
        topic: str,
        partition: int,
        fetched: FetchedBatch,
        columns: Columns,
        keys: Sequence[Any],
        values: Sequence[Any],
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.leader_epoch: int = fetched.envelope.leader_epoch
        self.timestamp_type: Literal["create", "log_append"] = (
            "log_append" if fetched.envelope.is_log_append_time else "create"
        )
        self.offsets = columns.offsets
        self.timestamps_ms = columns.timestamps_ms
        self.headers = columns.headers
        self.keys: Sequence[K | None] = keys
        self.values: Sequence[V] = values

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        where = f"{self.topic!r} partition {self.partition} from offset {self.offsets[0]}"
        return f"<RecordBatch of {len(self)} records, {where}>"

    @overload
    def __getitem__(self, index: int, /) -> Record[K, V]: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[Record[K, V]]: ...
    def __getitem__(self, index: int | slice, /) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return Record(
            self.topic,
            self.partition,
            self.offsets[index],
            self.timestamps_ms[index],
            self.keys[index],
            self.values[index],
            self.headers[index],
        )

    def __iter__(self) -> Iterator[Record[K, V]]:
        rows = zip(
            repeat(self.topic),
            repeat(self.partition),
            self.offsets,
            self.timestamps_ms,
            self.keys,
            self.values,
            self.headers,
        )
        return map(_new, repeat(Record), rows)


class Source(NamedTuple):
    """A topic to be read: its state, its serdes, what to read of each partition, and whether of new ones as well."""

    topic: TopicState
    key: BatchSerde[Any]
    value: BatchSerde[Any]
    ranges: Sequence[Range]
    grows: bool = False


class Lane:
    """One partition being read, up to `end` (None: for ever)."""

    __slots__ = ("end", "fetched", "pending", "reader", "source", "start")

    def __init__(self, engine: Engine, source: Source, partition: int, start: int, end: int | None = None) -> None:
        self.source = source
        self.start = start
        self.end = end
        self.reader = LogReader(engine, source.topic, partition, start)
        self.pending: Columns | None = None
        """Records of the batch `fetched` that are still to be handed out, where somebody hands out parts."""
        self.fetched: FetchedBatch | None = None

    def is_finished(self) -> bool:
        """Whether all up to the end was read."""
        return self.end is not None and self.reader.offset >= self.end


class BatchIterator(Iterator[RecordBatch[K, V]], Generic[K, V]):
    """Batches of one or several topics, partitions in turn. Belongs to the process that made it."""

    def __init__(self, engine: Engine, sources: Sequence[Source], *, follow: bool) -> None:
        self._engine = engine
        self._incarnation = engine.incarnation
        self._follow = follow
        self._lanes = [Lane(engine, source, *wanted) for source in sources for wanted in source.ranges]
        self._growing = [(source, len(source.ranges)) for source in sources if source.grows]
        """Topics that are followed as a whole, and how many partitions of each are."""
        self._turn = 0

    def __next__(self) -> RecordBatch[K, V]:
        lane, fetched, columns = self._next_columns()
        return decoded(lane, fetched, columns)

    def next_records(self) -> Iterator[Record[K, V]]:
        """The records of the next batch; those that cannot be decoded raise in their place."""
        lane, fetched, columns = self._next_columns()
        try:
            return iter(decoded(lane, fetched, columns))
        except DeserializationError:
            return OneByOne(lane, columns)

    def _next_columns(self) -> tuple[Lane, FetchedBatch, Columns]:
        while True:
            if self._incarnation != self._engine.incarnation:
                raise ForkedError("this iterator belongs to the parent process: read again in the child")
            if not self._engine.is_open:
                self._engine.use()
            lane = self._next_lane()
            at = max(lane.start, lane.reader.offset)
            fetched = lane.reader.next_batch()
            if fetched is None or fetched.envelope.is_control:
                continue
            columns = reader.between(fetched.columns, at, lane.end)
            if columns.values:
                return lane, fetched, columns

    def _next_lane(self) -> Lane:
        """The next partition that has something; waits when following, else raises StopIteration."""
        while True:
            if self._growing and self._has_grown():
                self._grow()
            for _ in range(len(self._lanes)):
                lane = self._lanes[self._turn % len(self._lanes)]
                if lane.is_finished() or (not lane.reader.has_next() and not self._follow):
                    self._lanes.remove(lane)
                elif lane.reader.has_next():
                    self._turn += 1
                    return lane
                else:
                    self._turn += 1
            if not self._lanes:
                raise StopIteration
            self._wait()

    def _has_grown(self) -> bool:
        """Whether there are partitions, as far as the last look-up knows, that are not followed yet."""
        return any(count < source.topic.partition_count for source, count in self._growing)

    def _grow(self) -> None:
        """Follow the partitions that were added, from their beginning."""
        for number, (source, known) in enumerate(self._growing):
            count = source.topic.partition_count
            self._lanes += [Lane(self._engine, source, partition, 0) for partition in range(known, count)]
            self._growing[number] = (source, count)

    def has_more(self) -> bool:
        """Whether there is something to be read by now, or a new partition to be followed."""
        return any(lane.reader.has_next() for lane in self._lanes) or self._has_grown()

    def _wait(self) -> None:
        self._engine.wakeup.wait([lane.reader.log_id for lane in self._lanes], self.has_more, Deadline(None))


def decoded(lane: Lane, fetched: FetchedBatch, columns: Columns) -> RecordBatch[Any, Any]:
    """A batch as users get it; raises `DeserializationError` naming the first record that cannot be decoded."""
    source = lane.source
    try:
        keys = columns.keys if source.key.is_identity else source.key.deserialize_many(columns.keys)
        values = columns.values if source.value.is_identity else source.value.deserialize_many(columns.values)
    except DeserializationError:
        list(OneByOne(lane, columns))  # raises for the first that cannot be decoded, and says which it is
        raise
    return RecordBatch(source.topic.name, lane.reader.partition, fetched, columns, keys, values)


class OneByOne(Iterator[Record[Any, Any]]):
    """The records of a batch of which some cannot be decoded: each of those is raised in its place."""

    def __init__(self, lane: Lane, columns: Columns) -> None:
        self._lane = lane
        self._columns = columns
        self._places = iter(range(len(columns.values)))

    def __next__(self) -> Record[Any, Any]:
        number = next(self._places)
        raw = _raw(self._lane, self._columns, number)
        source = self._lane.source
        try:
            return raw._replace(key=source.key.deserialize(raw.key), value=source.value.deserialize(raw.value))
        except DeserializationError as error:
            raise DeserializationError(
                f"topic {raw.topic!r}, partition {raw.partition}, offset {raw.offset}: {error}", raw
            ) from error


def _raw(lane: Lane, columns: Columns, number: int) -> Record[Any, Any]:
    return Record(
        lane.source.topic.name,
        lane.reader.partition,
        columns.offsets[number],
        columns.timestamps_ms[number],
        columns.keys[number],
        columns.values[number],
        columns.headers[number],
    )


def records(batches: BatchIterator[K, V]) -> Iterator[Record[K, V]]:
    """The records of batches, one after another, chained in C; raising does not end it."""
    return chain.from_iterable(Runs(batches.next_records))


class Runs(Iterator[Iterator[Record[K, V]]], Generic[K, V]):
    """Run of records after run, for `chain`; what `next_run` raises is raised by a run."""

    def __init__(self, next_run: Callable[[], Iterator[Record[K, V]]]) -> None:
        self._next = next_run

    def __next__(self) -> Iterator[Record[K, V]]:
        try:
            return self._next()
        except StopIteration:
            raise
        except BaseException as error:  # noqa: BLE001  (raised below)
            return _raising(error)


def _raising(error: BaseException) -> Iterator[Any]:
    """A run that raises and is over: `chain` ends for good when its source raises, and goes on when a run does."""
    yield from ()
    raise error


# Positions


def check_partition(topic: TopicState, partition: int) -> int:
    """The partition, if the topic has it; raises `UnknownPartitionError`."""
    topic.log_id(partition)
    return partition


def source(
    engine: Engine,
    topic: TopicState,
    key: BatchSerde[Any],
    value: BatchSerde[Any],
    partition: int | None,
    start: Position,
    until: Until,
) -> Source:
    """One partition of a topic or all of them, from `start` until `until`; raises as `resolve_range`."""
    engine.current(topic)
    partitions = range(topic.partition_count) if partition is None else [check_partition(topic, partition)]
    ranges = resolve_range(engine, topic, partitions, start, until)
    is_whole = partition is None and not isinstance(start, Mapping)
    return Source(topic, key, value, ranges, grows=until is None and is_whole)


def resolve_range(
    engine: Engine, topic: TopicState, partitions: Sequence[int], start: Position, until: Until
) -> list[Range]:
    """What to read of each partition, as of now; raises `ConfigError`, `OffsetOutOfRangeError`."""
    bounds = reader.bounds(engine, topic, partitions)
    starts = _offsets(engine, topic, bounds, start, "start")
    ends = {} if until is None else _offsets(engine, topic, bounds, "latest" if until == "end" else until, "until")
    for partition, offset in starts.items():
        first, end = bounds[partition]
        if not first <= offset <= end:
            raise OffsetOutOfRangeError(
                f"start={offset} is outside of topic {topic.name!r}, partition {partition}, which has "
                f"offsets {first} to {end}: "
                "start within them, or from 'earliest' or 'latest'"
            )
    default_end = None if until is None else bounds
    return [
        Range(partition, offset, ends.get(partition, default_end[partition][1] if default_end else None))
        for partition, offset in starts.items()
    ]


def _offsets(
    engine: Engine, topic: TopicState, bounds: Mapping[int, tuple[int, int]], position: Any, name: str
) -> dict[int, int]:
    """A position as an offset of each partition it speaks of."""
    if position == "earliest":
        return {partition: first for partition, (first, _) in bounds.items()}
    if position == "latest":
        return {partition: end for partition, (_, end) in bounds.items()}
    if isinstance(position, datetime | timedelta):
        stamp = _timestamp(position, name)
        return {partition: reader.offset_at(engine, topic, partition, stamp) for partition in bounds}
    if isinstance(position, Mapping):
        for partition in position:
            check_partition(topic, partition)
        return {partition: _offset(offset, name) for partition, offset in position.items() if partition in bounds}
    if len(bounds) != 1 and type(position) is int:
        raise ConfigError(
            f"{name}={position!r} is an offset, and topic {topic.name!r} has {topic.partition_count} partitions: "
            f"name one, or give {{partition: offset}}"
        )
    return {partition: _offset(position, name) for partition in bounds}


def _offset(offset: Any, name: str) -> int:
    if type(offset) is not int or not 0 <= offset <= OFFSET_MAX:
        raise ConfigError(
            f"{name}={offset!r} is not valid: give 'earliest', 'latest', an offset, a mapping of partition to offset, "
            "an aware datetime, or a timedelta before now"
        )
    return offset


def _timestamp(position: datetime | timedelta, name: str) -> int:
    if isinstance(position, timedelta):
        return clock.now_ms() - int(position.total_seconds() * 1000)
    if position.tzinfo is None:
        raise ConfigError(f"{name}={position!r} has no time zone: give an aware datetime, such as datetime.now(UTC)")
    return -((EPOCH - position) // timedelta(milliseconds=1))
