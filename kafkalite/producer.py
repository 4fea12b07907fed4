"""Producer: batches what `send` is given, and commits it.

`send` adds to the columns of the partition's open batch and returns. A batch is *sealed* when it is full, when its
linger is over, or when somebody wants its outcome; sealed batches wait in one queue, in order, and whoever commits
takes all that are there as one commit. One thread commits at a time, which keeps the order of every partition:

    open, by (topic, partition)  --seal-->  queue  --commit-->  done

A full batch is committed by the sender itself, which is the back-pressure; a lingering one by the keeper. A retriable
failure leaves the batches in the queue until `delivery_timeout_ms`. With idempotence each batch bears producer id and
sequence, so one that was committed although its answer was lost is recognised when it is committed again (KIP-98).
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Self, TypeVar, overload

from kafkalite import clock, disk
from kafkalite.clock import Deadline
from kafkalite.columns import TopicEncoder, check_timestamp, header_size, header_tuple, too_large
from kafkalite.delivery import Delivery, PendingBatch, PendingGroup
from kafkalite.errors import (
    ClosedError,
    ConfigError,
    DeliveryError,
    ForkedError,
    KafkaliteError,
    KafkaTimeoutError,
    OutcomeUnknownError,
)
from kafkalite.model import Headers, Raw, RecordMetadata
from kafkalite.records import compression
from kafkalite.storage import keeper
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.commit import SEQUENCE_LIMIT, Append, Operation
from kafkalite.storage.engine import Engine
from kafkalite.topic import Topic

K = TypeVar("K")
V = TypeVar("V")

STREAM_RECORDS: Final = 10_000
COMMIT_BYTES: Final = 16 * 1024 * 1024
RETRY_SECONDS: Final = 0.1
MAX_BATCH_RECORDS: Final = 100_000
SHOWN_FAILURES: Final = 3

_wall_ns = clock.wall_ns


class _Lane:
    """A topic's open batches, and where its records without a key go until the batch is full."""

    __slots__ = ("encoder", "most", "open", "sticky", "topic")

    def __init__(self, topic: TopicState, encoder: TopicEncoder[Any, Any]) -> None:
        self.topic = topic
        self.encoder = encoder
        self.open: dict[int, PendingBatch] = {}
        self.sticky = encoder.next_turn()
        self.most: int = topic.settings["max_message_bytes"]


class Producer:
    """Sends records to topics of one store, from `Store.producer`. Safe to share between threads."""

    def __init__(
        self, engine: Engine, topics: "Callable[[str], Topic[bytes, Raw]]", settings: Mapping[str, Any]
    ) -> None:
        self._engine = engine
        self._topics = topics
        self.settings = dict(settings)
        self._linger: float = settings["linger_ms"] / 1000
        self._batch_size: int = settings["batch_size"]
        self._delivery_timeout: float = settings["delivery_timeout_ms"] / 1000
        self._codec = compression.CODECS[settings["compression_type"]]
        self._awaits = str(settings["acks"]) != "0"
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        """Start empty, with a new identity: at first, and in a forked child."""
        self._incarnation = self._engine.incarnation
        self._lock = threading.Lock()
        self._turn = threading.Condition(threading.Lock())
        self._committing: object | None = None
        self._lanes: dict[TopicState, _Lane] = {}
        self._handles: dict[str, Topic[bytes, Raw]] = {}
        self._queue: deque[PendingBatch] = deque()
        self._failed: list[PendingBatch] = []
        self._bytes = 0
        self._is_due = False
        self._new_identity()

    def _new_identity(self) -> None:
        self._producer_id = int.from_bytes(disk.random_bytes(8)) >> 1 if self.settings["enable_idempotence"] else -1
        self._sequences: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Producer of {str(self._engine.place.path)!r}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        self._use()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self.close()
        except DeliveryError as failure:
            if error is None:
                raise
            error.add_note(str(failure))

    def _use(self) -> None:
        """Raise `ClosedError`; in a forked child begin anew."""
        if self._closed or not self._engine.is_open:
            raise ClosedError("the producer is closed: make another with store.producer()")
        if self._incarnation != self._engine.incarnation:
            self._begin()

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
        if self._closed or self._incarnation != self._engine.incarnation or not self._engine.is_open:
            self._use()
        if topic.__class__ is not Topic:
            topic = self._handle(topic)
        encoder: TopicEncoder[Any, Any] = topic._encoder
        raw = value if encoder.takes_bytes and value.__class__ is bytes else encoder.serialize_value(value)
        size = len(raw) if raw is not None else 0
        if key is not None:
            if not (encoder.takes_bytes_as_key and key.__class__ is bytes):
                key = encoder.serialize_key(key)
            size += len(key) if key is not None else 0
        pairs = header_tuple(headers) if headers else None
        now = _wall_ns() // 1_000_000 if timestamp_ms is None else check_timestamp(timestamp_ms)
        with self._lock:
            lane = self._lanes.get(encoder.state) or self._new_lane(encoder)
            if size > lane.most or pairs:
                size = self._check_size(lane, size, pairs)
            if partition is None:
                partition = lane.sticky if key is None else encoder.partition_of(key)
            batch = lane.open.get(partition)
            if batch is None:
                batch = self._open(lane, partition, now)
            values: list[bytes | None] = batch.values  # type: ignore[assignment]  # an open batch's columns are lists
            index = len(values)
            values.append(raw)
            batch.keys.append(key)  # type: ignore[union-attr]
            batch.deltas.append(now - batch.base)  # type: ignore[union-attr]
            if pairs or batch.headers is not None:
                _add_headers(batch, index, pairs)
            batch.size += size
            self._bytes += size
            is_full = batch.size >= self._batch_size or index >= MAX_BATCH_RECORDS - 1
            if is_full:
                self._seal(lane, batch)
        if is_full or self._bytes > self.settings["buffer_memory"]:
            self._make_room()
        return Delivery(batch, index)

    def _handle(self, topic: object) -> Topic[Any, Any]:
        if isinstance(topic, Topic):
            return topic
        if not isinstance(topic, str):
            raise ConfigError(f"topic={topic!r} is not valid: give a Topic or the name of one")
        handle = self._handles.get(topic)
        if handle is None:
            handle = self._handles[topic] = self._topics(topic)
        return handle

    def _new_lane(self, encoder: TopicEncoder[Any, Any]) -> _Lane:
        lane = self._lanes[encoder.state] = _Lane(encoder.state, encoder)
        return lane

    def _check_size(self, lane: _Lane, size: int, pairs: Any) -> int:
        size += header_size(pairs) if pairs else 0
        lane.most = lane.topic.settings["max_message_bytes"]
        if size > lane.most:
            raise too_large(lane.topic, size)
        return size

    def _open(self, lane: _Lane, partition: int, now: int) -> PendingBatch:
        lane.topic.log_id(partition)
        batch = PendingBatch(self, lane.topic, partition, now, clock.monotonic() + self._delivery_timeout)
        if not self._awaits:
            batch.is_done = True
        lane.open[partition] = batch
        self._linger_from_now()
        return batch

    def _seal(self, lane: _Lane, batch: PendingBatch) -> None:
        """No more records for this batch: into the queue with it. Under the lock."""
        if not batch.is_sealed:
            batch.is_sealed = True
            lane.open.pop(batch.partition, None)
            self._queue.append(batch)
            if lane.sticky == batch.partition:
                lane.sticky = lane.encoder.next_turn()

    def _seal_all(self) -> None:
        with self._lock:
            for lane in self._lanes.values():
                for batch in list(lane.open.values()):
                    self._seal(lane, batch)

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
        self._use()
        encoder = self._handle(topic)._encoder
        if partition is not None:
            encoder.state.log_id(partition)
        streams = [None if column is None else iter(column) for column in (values, keys, headers, timestamps_ms)]
        batches: list[PendingBatch] = []
        while True:
            taken = [None if stream is None else list(islice(stream, STREAM_RECORDS)) for stream in streams]
            if not taken[0]:
                break
            batches += self._send_columns(encoder, taken, partition)
        return Delivery(PendingGroup(batches), 0)

    def _send_columns(
        self, encoder: TopicEncoder[Any, Any], taken: Sequence[list[Any] | None], partition: int | None
    ) -> list[PendingBatch]:
        values, keys, headers, stamps = taken
        assert values is not None
        columns = encoder.columns(values, keys, headers, stamps)
        batches: list[PendingBatch] = []
        with self._lock:
            lane = self._lanes.get(encoder.state) or self._new_lane(encoder)
            for number, part in encoder.by_partition(columns, partition):
                earlier = lane.open.get(number)
                if earlier is not None:
                    self._seal(lane, earlier)
                runs = part.split(max(self._batch_size, 1))
                batches += [self._open_sealed(lane, number, run.sealable(), run.size) for run in runs]
        self._make_room()
        return batches

    def _open_sealed(self, lane: _Lane, partition: int, columns: tuple[Any, ...], size: int) -> PendingBatch:
        batch = PendingBatch(self, lane.topic, partition, columns[2], clock.monotonic() + self._delivery_timeout)
        batch.values, batch.keys, batch.base, batch.deltas, batch.headers = columns
        batch.size = size
        batch.is_sealed = True
        batch.is_done = not self._awaits
        self._bytes += size
        self._queue.append(batch)
        return batch

    # Committing

    def _make_room(self) -> None:
        """Commit what is sealed; wait until less than `buffer_memory` is uncommitted."""
        self._commit_queue(Deadline(None))
        if self._bytes <= self.settings["buffer_memory"]:
            return
        deadline = Deadline(self.settings["max_block_ms"] / 1000)
        self._seal_all()
        while self._bytes > self.settings["buffer_memory"]:
            error = self._commit_queue(deadline)
            if error is not None and deadline.passed():
                raise KafkaTimeoutError(
                    f"{self._bytes} bytes are waiting to be committed, and buffer_memory={self.settings['buffer_memory']} "
                    f"was not freed within max_block_ms={self.settings['max_block_ms']}: {error}"
                ) from error
            if error is not None:
                clock.sleep(min(RETRY_SECONDS, deadline.left()))

    @contextlib.contextmanager
    def _turn_to_commit(self, deadline: Deadline) -> Iterator[bool]:
        """One thread at a time; gives False when the deadline passes first."""
        mine = object()
        try:
            with self._turn:
                while self._committing is not None and not deadline.passed():
                    self._turn.wait(min(deadline.left(), 1.0))
                if self._committing is None:
                    self._committing = mine
            yield self._committing is mine
        finally:
            with self._turn:
                if self._committing is mine:
                    self._committing = None
                    self._turn.notify()

    def _commit_queue(self, deadline: Deadline) -> KafkaliteError | None:
        """Commit what is in the queue; returns the retriable error that keeps some of it there."""
        with self._turn_to_commit(deadline) as is_mine:
            while is_mine:
                batches = self._next_batches()
                if not batches:
                    return None
                error = self._commit(batches)
                if error is not None:
                    self._linger_from_now(RETRY_SECONDS)
                    return error
        return KafkaTimeoutError("another thread is committing this producer's batches, and has not come to an end")

    def _next_batches(self) -> list[PendingBatch]:
        """The first batches of the queue, as many as go into one commit."""
        chosen: list[PendingBatch] = []
        size = 0
        with self._lock:
            for batch in self._queue:
                if chosen and size + batch.size > COMMIT_BYTES:
                    break
                chosen.append(batch)
                size += batch.size
        return chosen

    def _commit(self, batches: Sequence[PendingBatch]) -> KafkaliteError | None:
        """Commit batches as one; each by itself when that is refused. Returns the error when trying again may help."""
        operation = Operation([batch.append or self._sealed(batch) for batch in batches])
        try:
            self._engine.commit(operation, self.settings["max_block_ms"] / 1000)
        except KafkaliteError as error:
            if error.retriable and clock.monotonic() < batches[0].expires:
                return error
            if len(batches) > 1:
                return next(filter(None, (self._commit([batch]) for batch in batches)), None)
            self._settle(batches, [-1], error)
            self._new_identity()  # the sequence has a gap now: what follows begins another
            for batch in self._queue:
                batch.append = None
            return None
        except BaseException as interrupt:
            if operation.is_done and operation.error is None:
                unknown = interrupt.__cause__ if isinstance(interrupt.__cause__, OutcomeUnknownError) else None
                self._settle(batches, operation.offsets, unknown)
            raise
        self._settle(batches, operation.offsets, None)
        return None

    def _sealed(self, batch: PendingBatch) -> Append:
        """The batch as bytes, kept: when it is committed again it must be the same."""
        topic = batch.topic
        log_id = topic.log_ids[batch.partition]
        sequence = self._sequences.get(log_id, 0)
        keys = batch.keys if batch.keys and any(key is not None for key in batch.keys) else None
        lane = self._lanes[topic]
        sealed = lane.encoder.seal(
            batch.values,
            keys,
            batch.base,
            batch.deltas,
            batch.headers,
            codec=self._codec,
            producer_id=self._producer_id,
            producer_epoch=0 if self._producer_id >= 0 else -1,
            base_sequence=sequence if self._producer_id >= 0 else -1,
        )
        self._sequences[log_id] = (sequence + len(batch.values)) % SEQUENCE_LIMIT
        batch.append = Append(log_id, sealed, topic)
        return batch.append

    def _settle(self, batches: Sequence[PendingBatch], offsets: Sequence[int], error: BaseException | None) -> None:
        with self._lock:
            for batch in batches:
                self._queue.remove(batch)
                self._bytes -= batch.size
            if error is not None:
                self._failed += batches
        for batch, offset in zip(batches, offsets, strict=True):
            batch.settle(offset if self._awaits else -1, error)

    def deliver(self, batch: PendingBatch, deadline: Deadline) -> None:
        """Commit a batch now, because somebody wants its outcome; returns when it is done or the deadline passes."""
        if self._incarnation != self._engine.incarnation:
            raise ForkedError("this delivery belongs to the parent process, which commits it: send again in the child")
        with self._lock:
            if not batch.is_sealed:
                self._seal(self._lanes[batch.topic], batch)
        self._commit_until(lambda: batch.is_done, deadline)

    def _commit_until(self, is_done: Callable[[], bool], deadline: Deadline) -> None:
        while not is_done():
            error = self._commit_queue(deadline)
            if is_done() or deadline.passed():
                return
            if error is not None:
                clock.sleep(min(RETRY_SECONDS, deadline.left()))

    # Lingering

    def _linger_from_now(self, seconds: float | None = None) -> None:
        """See to it that what is open is committed when its time has come; one task of the keeper at a time."""
        if not self._is_due:
            self._is_due = True
            keeper.after(self._linger if seconds is None else seconds, self._when_due)

    def _when_due(self) -> None:
        """The keeper's task: its reference keeps a producer alive that still has something to commit."""
        self._is_due = False
        if not self._engine.is_open or self._incarnation != self._engine.incarnation:
            return
        self._seal_all()
        self._commit_queue(Deadline(None))

    # Ending

    def flush(self, timeout: float | None = None) -> None:
        """Commit everything sent so far; raises `KafkaTimeoutError`. Failures are the deliveries', and `close`'s."""
        self._use()
        self._flush(Deadline(timeout))

    def _flush(self, deadline: Deadline) -> None:
        self._seal_all()
        with self._lock:
            waiting = list(self._queue)
        self._commit_until(lambda: not any(batch in self._queue for batch in waiting), deadline)
        left = sum(len(batch.values) for batch in waiting if not batch.is_done)
        if left:
            raise KafkaTimeoutError(
                f"{left} records were not committed in the time allowed: allow more, or look at the store"
            )

    def close(self) -> None:
        """Commit what is left; idempotent. Raises `DeliveryError` for failures that nobody looked at."""
        if self._closed:
            return
        if self._incarnation != self._engine.incarnation or not self._engine.is_open:
            self._closed = True
            return
        try:
            self._flush(Deadline(self._delivery_timeout))
        finally:
            self._closed = True
        failures = tuple(failure for batch in self._failed for failure in batch.failures())
        if failures:
            shown = "; ".join(dict.fromkeys(str(error) for _, error in failures[:SHOWN_FAILURES]))
            raise DeliveryError(f"{len(failures)} records were not committed: {shown}", failures)


def _add_headers(batch: PendingBatch, index: int, pairs: Any) -> None:
    """A column of headers begins with the first record that has any."""
    if batch.headers is None:
        batch.headers = [None] * index
    batch.headers.append(pairs)  # type: ignore[attr-defined]
