"""Topic: appending to and reading from one topic of a store.

A handle: the topic's name, what the catalogue says of it, and the serdes of this handle, which are neither stored nor
compared. Cheap to make, safe to share between threads, works in a forked child, pickles for a spawned one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

from kafkalite import config
from kafkalite.columns import TopicEncoder
from kafkalite.config import ConfigMapping, TopicSettings
from kafkalite.errors import ConfigError
from kafkalite.iteration import BatchIterator, RecordBatch, records, source
from kafkalite.model import Headers, Position, Record, RecordMetadata, Until
from kafkalite.serde import BatchSerde
from kafkalite.storage import reader
from kafkalite.storage.catalogue import TopicState, check_partitions
from kafkalite.storage.commit import Append, Operation

if TYPE_CHECKING:
    from kafkalite.store import Store

K = TypeVar("K")
V = TypeVar("V")

_new = tuple.__new__


class Topic(Generic[K, V]):
    """A topic of a store, from `Store.topic`."""

    def __init__(self, store: "Store", state: TopicState, key: BatchSerde[K], value: BatchSerde[V]) -> None:
        self._store = store
        self._engine = store._engine
        self._state = state
        self.name = state.name
        self.key_serde = key
        self.value_serde = value
        self._encoder: TopicEncoder[K, V] = TopicEncoder(state, key, value, store._engine.current)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r}, {self._state.partition_count} partitions, of {self._store!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self._store, self.name, self.key_serde, self.value_serde)

    @property
    def partition_count(self) -> int:
        """How many partitions there are now; they count from 0 to one less."""
        return self._now().partition_count

    def _now(self) -> TopicState:
        self._store._use()
        return self._engine.current(self._state)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The topic's settings as of now, Kafka's names with `_` for `.`."""
        return dict(self._now().settings)

    def alter(
        self, *, partitions: int | None = None, config: ConfigMapping | None = None, **settings: Unpack[TopicSettings]
    ) -> None:
        """Change settings of the topic, and give it more partitions, `partitions` in all: for everybody, in one commit.

        Partitions are only added (Kafka's createPartitions, KIP-195). What is there stays where it is; from now on keys
        are spread over all, so later records of a key may go to another partition than its earlier ones. Followers and
        groups read the new partitions from their beginning.
        Raises `InvalidPartitionsError` unless `partitions` is more than there are, `ConfigError`, `UnknownTopicError`.
        """
        self._store._use_to_write()
        if partitions is not None:
            check_partitions(partitions)
        self._engine.alter_topic(self._state, _given(settings, config, may_be_none=partitions is not None), partitions)

    # Appending

    def append(
        self,
        value: V,
        *,
        key: K | None = None,
        partition: int | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
        expected_end_offset: int | None = None,
    ) -> RecordMetadata:
        """Append one record; committed on return. Does not wait for earlier `Producer.send`s.

        With `expected_end_offset` only if the partition ends there: optimistic concurrency for event stores.
        Without `partition` the key chooses it (Kafka's murmur2), or each append the next one.
        Raises `SerializationError`, `RecordTooLargeError`, `UnknownPartitionError`, `OffsetConflictError`,
        `UnknownTopicError`, and what `Engine.commit` does.
        """
        self._store._use_to_write()
        partition, batch = self._encoder.one(value, key, partition, headers, timestamp_ms, expected_end_offset)
        state = self._state
        append = _new(Append, (state.log_ids[partition], batch, state, expected_end_offset))
        done = self._engine.commit(Operation((append,)))
        return _new(RecordMetadata, (self.name, partition, done.offsets[0], batch[7]))

    def append_many(
        self,
        values: Iterable[V],
        *,
        keys: Iterable[K | None] | None = None,
        partition: int | None = None,
        timestamps_ms: Iterable[int] | None = None,
        headers: Iterable[Headers] | None = None,
        expected_end_offset: int | None = None,
    ) -> dict[int, range]:
        """Append records in one atomic commit; returns the offsets that each partition's records got, in order.

        `keys`, `timestamps_ms` and `headers` are as long as `values`. Raises as `append`, appending nothing.
        """
        self._store._use_to_write()
        batches = self._encoder.many(values, keys, partition, headers, timestamps_ms, expected_end_offset)
        if not batches:
            return {}
        log_ids, state = self._state.log_ids, self._state
        expectations = _expectations(batches, expected_end_offset)
        appends = [
            Append(log_ids[number], batch, state, expected)
            for (number, batch), expected in zip(batches, expectations, strict=True)
        ]
        done = self._engine.append(appends)
        ranges: dict[int, range] = {}
        for (number, batch), offset in zip(batches, done.offsets, strict=True):
            start = ranges[number].start if number in ranges else offset
            ranges[number] = range(start, offset + batch.count)
        return ranges

    # Reading

    def read(
        self, partition: int | None = None, *, start: Position = "earliest", until: Until = "end"
    ) -> Iterator[Record[K, V]]:
        """Records of one partition, or of all, from `start` until `until` (exclusive).

        Order holds within a partition; partitions take turns by batch. `until="end"` ends at what is visible at the
        call, `None` follows for ever, sleeping while there is nothing. Raises `OffsetOutOfRangeError`, `ConfigError`
        at the call; while iterating `DeserializationError` in place of a record (the next `next()` goes past it),
        `OffsetOutOfRangeError`, `CorruptRecordError`, `ClosedError`.
        """
        return records(self._batches(partition, start, until))

    def batches(
        self, partition: int | None = None, *, start: Position = "earliest", until: Until = "end"
    ) -> Iterator[RecordBatch[K, V]]:
        """As `read`, a batch at a time: a sequence of records with their parts as columns."""
        return self._batches(partition, start, until)

    def _batches(self, partition: int | None, start: Position, until: Until) -> BatchIterator[K, V]:
        self._store._use()
        wanted = source(self._engine, self._state, self.key_serde, self.value_serde, partition, start, until)
        return BatchIterator(self._engine, [wanted], follow=until is None)

    def tail(self, n: int = 10) -> Iterator[Record[K, V]]:
        """The last `n` records of each partition, oldest first."""
        if not isinstance(n, int) or n < 0:
            raise ConfigError(f"tail({n!r}) is not valid: give the number of records, 0 or more")
        found = self._bounds()
        return self.read(start={number: max(first, end - n) for number, (first, end) in found.items()})

    def beginning_offsets(self) -> dict[int, int]:
        """The first offset that there is, by partition."""
        return {partition: start for partition, (start, _) in self._bounds().items()}

    def end_offsets(self) -> dict[int, int]:
        """The offset after the last visible record, by partition."""
        return {partition: end for partition, (_, end) in self._bounds().items()}

    def _bounds(self) -> dict[int, tuple[int, int]]:
        return reader.bounds(self._engine, self._state, range(self.partition_count))


def _given(settings: Mapping[str, Any], dotted: ConfigMapping | None, *, may_be_none: bool) -> dict[str, Any]:
    found = config.given("topic", settings, dotted)
    if not found and not may_be_none:
        raise ConfigError("alter() was given no setting: name at least one, such as retention_ms=…")
    return found


def _expectations(batches: Sequence[tuple[int, Any]], expected: int | None) -> list[int | None]:
    """What each batch of one partition expects of its end, as the ones before it will have moved it."""
    if expected is None:
        return [None] * len(batches)
    expectations: list[int | None] = []
    for _, batch in batches:
        expectations.append(expected)
        expected += batch.count
    return expectations


def _unpickled(store: "Store", name: str, key: BatchSerde[Any], value: BatchSerde[Any]) -> Topic[Any, Any]:
    return store.topic(name, key=key, value=value, create=False)
