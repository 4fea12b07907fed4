"""Topic: appending to and reading from one topic, from tasks of a loop.

The names and what they mean are the synchronous topic's. Values are serialized in the loop when the call is made, so
what is wrong with them is raised at once; a thread commits.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

from kafkalite import topic as sync
from kafkalite.aio.iteration import Batches, BatchIterator, RecordIterator
from kafkalite.config import ConfigMapping, TopicSettings
from kafkalite.errors import ConfigError
from kafkalite.iteration import RecordBatch, source
from kafkalite.model import Headers, Position, Record, RecordMetadata, Until
from kafkalite.serde import BatchSerde
from kafkalite.storage.commit import Append

if TYPE_CHECKING:
    from kafkalite.aio.store import Store

K = TypeVar("K")
V = TypeVar("V")


class Topic(Generic[K, V]):
    """A topic of a store, from `await Store.topic(…)`."""

    def __init__(self, store: "Store", topic: sync.Topic[K, V]) -> None:
        self._store = store
        self._host = store._host
        self._appender = store._appender
        self._sync = topic
        self.name: str = topic.name
        self.key_serde: BatchSerde[K] = topic.key_serde
        self.value_serde: BatchSerde[V] = topic.value_serde

    def __repr__(self) -> str:
        count = self._sync._state.partition_count
        return f"<aio.Topic {self.name!r}, {count} partitions, of {str(self._host.store.path)!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Topic, (self._store, self._sync)

    @property
    def partition_count(self) -> int:
        """How many partitions there are now; they count from 0 to one less."""
        self._host.use()
        return self._sync.partition_count

    @property
    def settings(self) -> Mapping[str, Any]:
        """The topic's settings as of now, Kafka's names with `_` for `.`."""
        self._host.use()
        return self._sync.settings

    async def alter(
        self, *, partitions: int | None = None, config: ConfigMapping | None = None, **settings: Unpack[TopicSettings]
    ) -> None:
        """Change settings of the topic, and give it more partitions, `partitions` in all, for everybody; as the
        synchronous `Topic.alter`.
        """
        self._host.use()
        await self._host.threads.call(lambda: self._sync.alter(partitions=partitions, config=config, **settings))

    # Appending

    async def append(
        self,
        value: V,
        *,
        key: K | None = None,
        partition: int | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
        expected_end_offset: int | None = None,
    ) -> RecordMetadata:
        """Append one record; committed on return. What tasks append at the same time shares a commit.

        A task that is cancelled here takes nothing back: the record is committed all the same.
        Raises as the synchronous `Topic.append`.
        """
        self._use_to_write()
        topic = self._sync
        number, batch = topic._encoder.one(value, key, partition, headers, timestamp_ms, expected_end_offset)
        appends = [Append(topic._state.log_ids[number], batch, topic._state, expected_end_offset)]
        offsets = await self._appender.commit(appends)
        return RecordMetadata(self.name, number, offsets[0], batch.max_timestamp)

    async def append_many(
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

        `keys`, `timestamps_ms` and `headers` are as long as `values`. Raises as `append`, appending nothing; cancelled
        it is committed all the same.
        """
        self._use_to_write()
        topic = self._sync
        batches = topic._encoder.many(values, keys, partition, headers, timestamps_ms, expected_end_offset)
        if not batches:
            return {}
        appends = []
        expected = expected_end_offset
        for number, batch in batches:
            appends.append(Append(topic._state.log_ids[number], batch, topic._state, expected))
            if expected is not None:
                expected += batch.count
        ranges: dict[int, range] = {}
        for (number, batch), offset in zip(batches, await self._appender.commit(appends), strict=True):
            start = ranges[number].start if number in ranges else offset
            ranges[number] = range(start, offset + batch.count)
        return ranges

    def _use_to_write(self) -> None:
        self._host.use()
        self._sync._store._use_to_write()

    # Reading

    def read(
        self, partition: int | None = None, *, start: Position = "earliest", until: Until = "end"
    ) -> AsyncIterator[Record[K, V]]:
        """Records of one partition, or of all, from `start` until `until` (exclusive), for `async for`.

        Order holds within a partition; partitions take turns by batch. `until="end"` ends at what is visible at the
        call, `None` follows for ever: the loop watches a socket meanwhile, no thread waits. Raises as the synchronous
        `Topic.read`, and `ConcurrentUseError` when two tasks wait for the next record of one iterator.
        """
        self._host.use()
        return RecordIterator(self._host, lambda: self._batches(partition, start, until))

    def batches(
        self, partition: int | None = None, *, start: Position = "earliest", until: Until = "end"
    ) -> AsyncIterator[RecordBatch[K, V]]:
        """As `read`, a batch at a time: a sequence of records with their parts as columns."""
        self._host.use()
        return BatchIterator(self._host, lambda: self._batches(partition, start, until))

    def tail(self, n: int = 10) -> AsyncIterator[Record[K, V]]:
        """The last `n` records of each partition, oldest first."""
        if not isinstance(n, int) or n < 0:
            raise ConfigError(f"tail({n!r}) is not valid: give the number of records, 0 or more")
        self._host.use()
        return RecordIterator(self._host, lambda: self._batches(None, self._last(n), "end"))

    def _batches(self, partition: int | None, start: Position, until: Until) -> Batches[K, V]:
        engine, topic = self._host.engine, self._sync
        wanted = source(engine, topic._state, topic.key_serde, topic.value_serde, partition, start, until)
        return Batches(engine, [wanted], follow=until is None)

    def _last(self, n: int) -> dict[int, int]:
        first, ends = self._sync.beginning_offsets(), self._sync.end_offsets()
        return {number: max(start, ends[number] - n) for number, start in first.items()}

    async def beginning_offsets(self) -> dict[int, int]:
        """The first offset that there is, by partition."""
        self._host.use()
        await self._host.until_may_look()
        return self._sync.beginning_offsets()

    async def end_offsets(self) -> dict[int, int]:
        """The offset after the last visible record, by partition."""
        self._host.use()
        await self._host.until_may_look()
        return self._sync.end_offsets()


def handle_of(topic: Any) -> Any:
    """The synchronous topic, or the name."""
    if isinstance(topic, Topic):
        return topic._sync
    if isinstance(topic, str):
        return topic
    raise ConfigError(f"topic={topic!r} is not valid: give a Topic of this store, or the name of one")
