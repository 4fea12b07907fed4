"""Producer: batches what `send` is given, and commits it.

`send` adds to the columns of the partition's open batch and returns. A batch is *sealed* when it is full, when its
linger is over, or when somebody wants its outcome; sealed batches wait in one queue, in order, and whoever commits
takes all that are there as one commit. One thread commits at a time, which keeps the order of every partition:

    open, by (topic, partition)  --seal-->  queue  --commit-->  done

A full batch is committed by the sender itself, which is the back-pressure; a lingering one by the keeper.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

from kafkalite import clock
from kafkalite.clock import Deadline
from kafkalite.columns import TopicEncoder, check_timestamp, header_size, header_tuple, too_large
from kafkalite.commit_queue import RETRY_SECONDS, CommitQueue
from kafkalite.delivery import Delivery, PendingBatch, PendingGroup, delivery_of, tokens
from kafkalite.errors import (
    ClosedError,
    ConfigError,
    DeliveryError,
    ForkedError,
    KafkaliteError,
    KafkaTimeoutError,
    TransactionStateError,
    UnknownPartitionError,
    UnknownTopicError,
    noted_on,
)
from kafkalite.model import Headers, Raw, RecordMetadata
from kafkalite.records.envelope import MAX_BATCH_RECORDS
from kafkalite.records.native import HeaderTuple
from kafkalite.storage import keeper
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.engine import Engine
from kafkalite.topic import Topic

if TYPE_CHECKING:
    from kafkalite.consumer_group import ConsumerGroup
    from kafkalite.transaction import Transaction
    from kafkalite.transactional_id import Identity

K = TypeVar("K")
V = TypeVar("V")

STREAM_RECORDS: Final = 10_000
RECORD_OVERHEAD: Final = 8
MAX_LANES: Final = 10_000
SHOWN_FAILURES: Final = 3

_wall_ns = clock.wall_ns


class _Buffer:
    """A topic's open batches by partition, and where its records without a key go until that batch is full."""

    __slots__ = ("encoder", "open", "sticky", "topic")

    def __init__(self, encoder: TopicEncoder[Any, Any]) -> None:
        self.topic = encoder.state
        self.encoder = encoder
        self.open: dict[int, PendingBatch] = {}
        self.sticky = encoder.next_turn()


class _Lane:
    """What `send` needs of a topic handle, in one place."""

    __slots__ = (
        "buffer",
        "encoder",
        "key_is_plain",
        "most",
        "open",
        "partitions",
        "serialize_key",
        "serialize_value",
        "value_is_plain",
    )

    def __init__(self, handle: Topic[Any, Any], buffer: _Buffer) -> None:
        self.encoder = encoder = handle._encoder
        self.buffer = buffer
        self.open = buffer.open
        self.partitions = encoder.partitions
        self.serialize_key = encoder.serialize_key
        self.serialize_value = encoder.serialize_value
        self.key_is_plain = encoder.takes_bytes_as_key
        self.value_is_plain = encoder.takes_bytes
        self.most: int = encoder.state.settings["max_message_bytes"]

    def has_grown(self) -> bool:
        """Whether keys are spread over more partitions than so far: from now on they are."""
        if self.partitions.partition_count == self.encoder.state.partition_count:
            return False
        self.partitions = self.encoder.key_partitions()
        return True


class Producer:
    """Sends records to topics of one store, from `Store.producer`. Safe to share between threads."""

    def __init__(
        self,
        engine: Engine,
        topics: "Callable[[str], Topic[bytes, Raw]]",
        settings: Mapping[str, Any],
        identity: "Identity | None" = None,
    ) -> None:
        self._engine = engine
        self._topics = topics
        self.settings = dict(settings)
        self._linger: float = settings["linger_ms"] / 1000
        self._batch_size: int = settings["batch_size"]
        self._delivery_timeout: float = settings["delivery_timeout_ms"] / 1000
        self._awaits = str(settings["acks"]) != "0"
        self._full_at = max(1, min(self._batch_size, MAX_BATCH_RECORDS * RECORD_OVERHEAD))
        self._handles: dict[str, Topic[bytes, Raw]] = {}
        self._closed = False
        self._identity = identity
        self._begin()
        engine.after_fork(self._begin)

    def _begin(self) -> None:
        """Start empty, with a new identity: at first, and in a forked child."""
        self._transaction: Transaction | None = None
        self._lanes: dict[object, _Lane] = {}
        self._buffers: dict[TopicState, _Buffer] = {}
        self._queue = CommitQueue(self._engine, self.settings, lambda topic: self._buffers[topic].encoder)
        self._is_due = False

    def __repr__(self) -> str:
        return f"<Producer of {str(self._engine.place.path)!r}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        self._use()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with noted_on(error, "closing the producer"):
            self.close()

    def _use(self) -> None:
        if self._closed or not self._engine.is_open:
            raise ClosedError("the producer is closed: make another with store.producer()")

    # Sending

    @overload
    def send(
        self,
        topic: Topic[K, V],
        value: V,
        *,
        key: K | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers = (),
    ) -> Delivery[RecordMetadata]: ...
    @overload
    def send(
        self,
        topic: str,
        value: Raw,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers = (),
    ) -> Delivery[RecordMetadata]: ...
    def send(
        self,
        topic: Any,
        value: Any,
        *,
        key: Any = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers = (),
    ) -> Delivery[RecordMetadata]:
        """Add a record to its partition's batch; it is committed within `linger_ms`, or when the batch is full.

        Raises at once `SerializationError`, `RecordTooLargeError`, `UnknownPartitionError`, `UnknownTopicError`,
        `ClosedError`, and `KafkaTimeoutError` when `buffer_memory` stays full for `max_block_ms`; what goes wrong later
        is the delivery's. The timestamp is now, or given in ms since 1970 UTC.
        """
        lane = self._lanes.get(topic) or self._lane(topic)
        if value.__class__ is bytes and lane.value_is_plain:
            size = len(value) + RECORD_OVERHEAD
        else:
            value = lane.serialize_value(value)
            size = (len(value) if value is not None else 0) + RECORD_OVERHEAD
        if key is not None:
            if key.__class__ is not bytes or not lane.key_is_plain:
                key = lane.serialize_key(key)
            size += len(key) if key is not None else 0
        now = _wall_ns() // 1_000_000 if timestamp_ms is None else check_timestamp(timestamp_ms)
        pairs = header_tuple(headers) if headers else None
        if pairs or size > lane.most:
            self._check_size(lane, size, pairs)
        if partition is not None:
            try:
                lane.buffer.topic.log_id(partition)
            except UnknownPartitionError:
                lane.encoder.check_partition(partition)
        token = next(tokens)
        while True:
            chosen = partition
            if chosen is None:
                chosen = lane.buffer.sticky if key is None else lane.partitions[key]
            batch = lane.open.get(chosen)
            if batch is None:
                try:
                    self._engine.current(lane.buffer.topic)
                    if lane.has_grown():
                        continue
                    batch = self._open(lane.buffer, chosen)
                except UnknownTopicError:
                    lane = self._lane_anew(topic)
                    continue
            if pairs:
                batch.has_headers = True
            rows = batch.rows
            rows += (value, key, now, pairs, token)  # one atomic call: nothing that runs Python in it
            if not batch.is_sealed or self._was_counted(batch, token):
                break
        batch.size = size = batch.size + size
        if size >= self._full_at:
            self._seal(lane.buffer, batch)
            self._make_room()
        delivery: Delivery[RecordMetadata] = Delivery()
        delivery._pending = batch
        delivery._token = token
        return delivery

    def _lane(self, topic: object) -> _Lane:
        """The lane of a topic handle or name, made when it is first used."""
        self._use()
        self._refuse_transactional()
        handle = topic
        if isinstance(topic, str):
            handle = self._handles.get(topic) or self._handles.setdefault(topic, self._topics(topic))
        if not isinstance(handle, Topic):
            raise ConfigError(f"topic={topic!r} is not valid: give a Topic or the name of one")
        with self._queue.lock:
            encoder = handle._encoder
            buffer = self._buffers.get(encoder.state) or self._buffers.setdefault(encoder.state, _Buffer(encoder))
            if len(self._lanes) >= MAX_LANES:  # a program that makes a handle for each record
                self._lanes.clear()
            lane = self._lanes[topic] = _Lane(handle, buffer)
        return lane

    def _lane_anew(self, topic: object) -> _Lane:
        """A name may mean another topic by now; a handle's topic is gone for good."""
        if not isinstance(topic, str):
            raise UnknownTopicError(
                f"topic {getattr(topic, 'name', topic)!r} was deleted: get it again with store.topic()"
            )
        with self._queue.lock:
            self._lanes.pop(topic, None)
            self._handles.pop(topic, None)
        return self._lane(topic)

    def _check_size(self, lane: _Lane, size: int, pairs: HeaderTuple | None) -> None:
        state = lane.buffer.topic
        lane.most = state.settings["max_message_bytes"]
        size += header_size(pairs or ()) - RECORD_OVERHEAD
        if size > lane.most:
            raise too_large(state, size)

    def _open(self, buffer: _Buffer, partition: int) -> PendingBatch:
        """A new batch for a partition, unless another thread was faster."""
        self._wait_for_memory()
        with self._queue.lock:
            self._use()
            batch = buffer.open.get(partition)
            if batch is None:
                expires = clock.monotonic() + self._delivery_timeout
                batch = PendingBatch(self._queue, self._deliver, buffer.topic, partition, expires)
                batch.is_done = not self._awaits
                buffer.open[partition] = batch
        self._linger_from_now()
        return batch

    def _was_counted(self, batch: PendingBatch, token: object) -> bool:
        """Whether a record that was appended while its batch was being sealed is in it."""
        with self._queue.lock:
            return batch.holds(token)

    def _seal(self, buffer: _Buffer, batch: PendingBatch) -> None:
        """No more records for this batch: into the queue with it."""
        with self._queue.lock:
            self._seal_locked(buffer, batch)

    def _seal_locked(self, buffer: _Buffer, batch: PendingBatch) -> None:
        if batch.is_sealed:
            return
        batch.seal()
        if buffer.open.get(batch.partition) is batch:
            del buffer.open[batch.partition]
        if buffer.sticky == batch.partition:
            buffer.sticky = buffer.encoder.next_turn()
        if batch.count:
            self._queue.add([batch])

    def _seal_all(self) -> None:
        with self._queue.lock:
            for buffer in self._buffers.values():
                for batch in list(buffer.open.values()):
                    self._seal_locked(buffer, batch)

    @overload
    def send_many(
        self,
        topic: Topic[K, V],
        values: Iterable[V],
        *,
        keys: Iterable[K | None] | None = None,
        partition: int | None = None,
        timestamps_ms: Iterable[int] | None = None,
        headers: Iterable[Headers] | None = None,
    ) -> Delivery[dict[int, range]]: ...
    @overload
    def send_many(
        self,
        topic: str,
        values: Iterable[Raw],
        *,
        keys: Iterable[bytes | None] | None = None,
        partition: int | None = None,
        timestamps_ms: Iterable[int] | None = None,
        headers: Iterable[Headers] | None = None,
    ) -> Delivery[dict[int, range]]: ...
    def send_many(
        self,
        topic: Any,
        values: Iterable[Any],
        *,
        keys: Iterable[Any] | None = None,
        partition: int | None = None,
        timestamps_ms: Iterable[int] | None = None,
        headers: Iterable[Headers] | None = None,
    ) -> Delivery[dict[int, range]]:
        """Send an iterable, the fast path: batch by batch as it comes, not as one commit.

        `keys`, `timestamps_ms` and `headers` go along with `values`. The delivery gives, by partition, the offsets from
        the first record to the last; other producers' records may lie between. Raises as `send`; what was taken before
        the error is sent.
        """
        lane = self._lanes.get(topic) or self._lane(topic)
        try:
            self._engine.current(lane.buffer.topic)
        except UnknownTopicError:
            if isinstance(topic, str):  # the name may mean another topic by now
                lane = self._lane_anew(topic)
        buffer = lane.buffer
        handle = self._handles[topic] if isinstance(topic, str) else topic
        if partition is not None:
            lane.encoder.check_partition(partition)
        streams = [None if column is None else iter(column) for column in (values, keys, headers, timestamps_ms)]
        batches: list[PendingBatch] = []
        while True:
            taken = [None if stream is None else list(islice(stream, STREAM_RECORDS)) for stream in streams]
            if not taken[0]:
                _refuse_longer(taken[1:])
                break
            batches += self._send_columns(handle._encoder, buffer, taken, partition)
            self._make_room()
        return delivery_of(PendingGroup(batches))

    def _send_columns(
        self, encoder: TopicEncoder[Any, Any], buffer: _Buffer, taken: Sequence[list[Any] | None], partition: int | None
    ) -> list[PendingBatch]:
        values, keys, headers, stamps = taken
        assert values is not None
        columns = encoder.columns(values, keys, headers, stamps)
        expires = clock.monotonic() + self._delivery_timeout
        batches: list[PendingBatch] = []
        with self._queue.lock:
            self._use()
            for number, part in encoder.by_partition(columns, partition):
                earlier = buffer.open.get(number)
                if earlier is not None:
                    self._seal_locked(buffer, earlier)
                for run in part.split(self._full_at):
                    batch = PendingBatch(self._queue, self._deliver, buffer.topic, number, expires)
                    batch.seal(run)
                    batch.size = run.size
                    batch.is_done = not self._awaits
                    batches.append(batch)
            self._queue.add(batches)
        return batches

    # Transactions

    def transaction(self, group: "ConsumerGroup[Any, Any] | None" = None) -> "Transaction":
        """A transaction, for one `with` block: what is sent through it is committed as one when the block is left.

        With `group` (whose `enable_auto_commit` is False) the offsets behind what it handed out are committed with it;
        an exception, `abort()` or a commit that fails hands that out again. What this producer sent before is committed
        first, and meanwhile `send` raises `TransactionStateError`. Leaving the block raises `OffsetConflictError`,
        `FencedMemberError`, `ProducerFencedError`, with nothing written; `OutcomeUnknownError`.
        """
        from kafkalite.transaction import Transaction  # noqa: PLC0415  (imported when the first one is made)

        self._use()
        return Transaction(self._engine, self._topics, self.settings, group, self._identity, self)

    def _begin_transaction(self, transaction: "Transaction") -> None:
        with self._queue.lock:
            self._use()
            if self._transaction is not None:
                raise TransactionStateError("this producer has a transaction open: it can have one at a time")
            self._transaction = transaction
            self._lanes = {}  # so that `send` looks for its lane, and finds that there is a transaction
        try:
            self._flush(Deadline(self.settings["max_block_ms"] / 1000))
        except BaseException:
            self._end_transaction()
            raise

    def _end_transaction(self) -> None:
        self._transaction = None

    def _refuse_transactional(self) -> None:
        if self._transaction is not None:
            raise TransactionStateError("a transaction of this producer is open: send through it, or end it first")
        if self._identity is not None:
            raise TransactionStateError(
                f"a producer with transactional_id={self._identity.name!r} sends in transactions only: "
                "with producer.transaction() as tx: tx.send(…)"
            )

    # Committing

    def _commit(self, deadline: Deadline) -> KafkaliteError | None:
        """Commit what is sealed; what a retriable failure keeps back is tried again by the keeper."""
        error = self._queue.commit_all(deadline)
        if error is not None:
            self._linger_from_now(RETRY_SECONDS)
        return error

    def _make_room(self) -> None:
        """Commit what is sealed; wait while `buffer_memory` is full of it."""
        self._commit(Deadline(None))
        self._wait_for_memory()

    def _wait_for_memory(self) -> None:
        """Wait until less than `buffer_memory` is uncommitted; raises `KafkaTimeoutError` after `max_block_ms`."""
        most: int = self.settings["buffer_memory"]
        open_count = sum(len(buffer.open) for buffer in list(self._buffers.values()))
        if self._queue.bytes + open_count * self._full_at <= most or self._queue.bytes + self._open_bytes() <= most:
            return
        deadline = Deadline(self.settings["max_block_ms"] / 1000)
        self._seal_all()
        error = self._queue.commit_until(lambda: self._queue.bytes <= most, deadline)
        if self._queue.bytes > most:
            raise KafkaTimeoutError(
                f"{self._queue.bytes} bytes are waiting to be committed, more than buffer_memory={most}, and were not "
                f"within max_block_ms={self.settings['max_block_ms']}: {error}"
            ) from error

    def _open_bytes(self) -> int:
        with self._queue.lock:
            return sum(batch.size for buffer in self._buffers.values() for batch in buffer.open.values())

    def _deliver(self, batch: PendingBatch, deadline: Deadline) -> None:
        """Commit a batch now, because somebody wants its outcome; returns when it is done or the deadline passes."""
        if batch.queue is not self._queue:
            raise ForkedError("this delivery belongs to the parent process, which commits it: send again in the child")
        self._seal(self._buffers[batch.topic], batch)
        self._queue.commit_until(lambda: batch.is_done, deadline)

    # Lingering

    def _linger_from_now(self, seconds: float | None = None) -> None:
        """See to it that what is open is committed when its time has come; one task of the keeper at a time."""
        if not self._is_due:
            self._is_due = True
            keeper.after(self._linger if seconds is None else seconds, self._when_due)

    def _when_due(self) -> None:
        """The keeper's task: its reference keeps a producer alive that still has something to commit."""
        self._is_due = False
        if not self._engine.is_open:
            return
        self._seal_all()
        self._commit(Deadline(None))

    # Ending

    def flush(self, timeout: float | None = None) -> None:
        """Commit everything sent so far; raises `KafkaTimeoutError`. Failures are the deliveries', and `close`'s."""
        self._use()
        self._flush(Deadline(timeout))

    def _flush(self, deadline: Deadline) -> None:
        self._seal_all()
        waiting = set(self._queue.waiting())
        error = self._queue.commit_until(lambda: waiting.isdisjoint(self._queue.waiting()), deadline)
        left = sum(batch.count for batch in waiting.intersection(self._queue.waiting()))
        if left:
            raise KafkaTimeoutError(
                f"{left} records were not committed in the time allowed: allow more, or look at the store ({error})"
            ) from error

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._engine.is_open:
            warnings.warn(f"{self!r} was not closed: use `with`, or call close()", ResourceWarning, stacklevel=2)

    def close(self) -> None:
        """Commit what is left; idempotent. Raises `DeliveryError` for failures that nobody looked at."""
        if self._closed:
            return
        if not self._engine.is_open:
            self._closed = True
            return
        if self._transaction is not None:
            self._transaction.close()
        try:
            self._flush(Deadline(self._delivery_timeout))
        finally:
            with self._queue.lock:
                self._closed = True
                self._lanes = {}
        failures = tuple(failure for batch in self._queue.failed for failure in batch.failures())
        if failures:
            shown = "; ".join(dict.fromkeys(str(error) for _, error in failures[:SHOWN_FAILURES]))
            raise DeliveryError(f"{len(failures)} records were not committed: {shown}", failures)


def _refuse_longer(columns: Sequence[list[Any] | None]) -> None:
    """The values are at their end, and so must be what goes along with them."""
    if any(columns):
        raise ConfigError("keys=, headers= or timestamps_ms= has more entries than there are values: give one for each")
