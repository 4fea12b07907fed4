"""Transactions: records for any number of topics, and a group's offsets, that become visible as one or not at all.

What is sent is buffered in this process. The end of the block is one commit (`Engine.decide`) of all batches, of the
offsets behind what the group handed out (`__consumer_offsets`), and of the state of the transactional id
(`__transaction_state`). So there are no markers and nothing to await: the transactional bit of the batches is clear,
and no reader ever sees a part.

    OPEN  --commit-->  COMMITTED                      the block's end, `commit()`
          --abort--->  ABORTED                        an exception, `abort()`, or the producer or store was closed
          --commit-->  ABORTED                        the commit failed, and nothing was written
          --commit-->  UNKNOWN                        it was appended, and cannot be said to be on the disk
          --commit-->  OPEN                            `commit()` was not let in within the time it was given

Whatever does not end in COMMITTED rewinds the group to what the store says is committed.

The batches bear no sequences. Sequences recognise what is sent again, and nothing here is: an operation knows whether
it was appended (`Operation.is_done`). Where the wait was cut short while another thread had it in hand, it is taken
back: its decision refuses from then on, and a commit of nothing behind it tells which came first (`_withdraw`).

With a *transactional id* (`transactional_id`) each commit looks under WRITE at who claimed it last: an older claimant
is fenced.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

from kafkalite import clock, group_transaction
from kafkalite.clock import Deadline
from kafkalite.columns import RawColumns, TopicEncoder, check_timestamp, header_size, header_tuple, too_large
from kafkalite.delivery import ROW, Delivery, PendingBatch, PendingGroup, delivery_of, tokens
from kafkalite.errors import (
    ConfigError,
    ForkedError,
    KafkaliteError,
    OutcomeUnknownError,
    RecordTooLargeError,
    StoreBusyError,
    TransactionStateError,
    noted_on,
)
from kafkalite.group_admin import Committed
from kafkalite.model import GroupMetadata, Headers, Raw, RecordMetadata, TopicPartition
from kafkalite.records import compression
from kafkalite.records.envelope import MAX_BATCH_RECORDS
from kafkalite.records.native import HeaderTuple
from kafkalite.storage import internal
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.engine import Engine
from kafkalite.storage.frame import MOST_OVERHEAD
from kafkalite.storage.internal import OFFSETS_LOG
from kafkalite.topic import Topic
from kafkalite.transactional_id import Identity

if TYPE_CHECKING:
    from kafkalite.consumer_group import ConsumerGroup
    from kafkalite.membership import Membership
    from kafkalite.producer import Producer

K = TypeVar("K")
V = TypeVar("V")

RECORD_OVERHEAD: Final = 24
"""Most bytes that a record takes beside key, value and headers."""
HEADER_OVERHEAD: Final = 16


class Phase(Enum):
    """Of a transaction."""

    NEW = "was not begun"
    OPEN = "is open"
    COMMITTING = "is being committed"
    COMMITTED = "was committed"
    ABORTED = "was aborted"
    UNKNOWN = "has an unknown outcome"


class _Batches:
    """What is sent in a transaction, in order, by topic and partition."""

    def __init__(self, full_at: int, deliver: Callable[[PendingBatch, Deadline], None]) -> None:
        self.all: list[tuple[PendingBatch, TopicEncoder[Any, Any], int | None]] = []
        self.bytes = 0
        self._full_at = full_at
        self._deliver = deliver
        self._open: dict[tuple[TopicState, int], PendingBatch] = {}
        self._sticky: dict[TopicState, int] = {}

    def choose(self, encoder: TopicEncoder[Any, Any], key: bytes | None) -> int:
        """The partition of a record that names none: its key's, or one after another as batches are full."""
        if key is not None:
            return encoder.partition_of(key)
        if encoder.state not in self._sticky:
            self._sticky[encoder.state] = encoder.next_turn()
        return self._sticky[encoder.state]

    def open(self, encoder: TopicEncoder[Any, Any], partition: int, expected: int | None) -> PendingBatch:
        """The batch that the partition's next record goes into; one that expects something begins a batch."""
        place = (encoder.state, partition)
        batch = self._open.get(place)
        if batch is None or expected is not None:
            batch = self._open[place] = self._new(encoder, partition, expected)
        return batch

    def grown(self, batch: PendingBatch, size: int) -> None:
        """A record was put into a batch; a full one takes no more."""
        batch.size += size
        self.bytes += size
        if batch.size >= self._full_at or len(batch.rows) >= MAX_BATCH_RECORDS * ROW:
            del self._open[batch.topic, batch.partition]
            self._sticky.pop(batch.topic, None)

    def add(
        self, encoder: TopicEncoder[Any, Any], parts: Sequence[tuple[int, RawColumns]], expected: int | None, size: int
    ) -> list[PendingBatch]:
        """Whole columns as batches, behind what their partitions have."""
        added: list[PendingBatch] = []
        for number, part in parts:
            self._open.pop((encoder.state, number), None)
            for run in part.split(self._full_at):
                batch = self._new(encoder, number, expected)
                batch.columns = run
                batch.count = len(run.values)
                added.append(batch)
                expected = None if expected is None else expected + batch.count
        self.bytes += size
        return added

    def _new(self, encoder: TopicEncoder[Any, Any], partition: int, expected: int | None) -> PendingBatch:
        batch = PendingBatch(self, self._deliver, encoder.state, partition, 0.0)
        self.all.append((batch, encoder, expected))
        self.bytes += MOST_OVERHEAD
        return batch

    def appends(self, codec: int) -> list[Append]:
        """All of it, sealed; once more, it is what it was, and what was sent since."""
        self._open.clear()
        self._sticky.clear()
        for batch, encoder, expected in self.all:
            if batch.is_sealed:
                continue
            batch.seal(batch.columns)
            if batch.count:
                sealed = encoder.seal(*batch.sealed_columns().sealable(), codec=codec)
                batch.append = Append(batch.topic.log_ids[batch.partition], sealed, batch.topic, expected)
        return [batch.append for batch, _, _ in self.all if batch.append is not None]

    def settle(self, offsets: Iterable[int], error: BaseException | None) -> None:
        """Tell the deliveries."""
        places = iter(offsets)
        for batch, _, _ in self.all:
            if not batch.is_sealed:
                batch.seal(batch.columns)
            batch.settle(next(places) if batch.count and error is None else -1, error)


class Transaction:
    """Records that are committed as one; from `Producer.transaction` or `Store.transaction`, for one `with` block.

    Leaving the block commits; an exception aborts, and is raised again. What is sent waits in memory until then.
    """

    def __init__(
        self,
        engine: Engine,
        topics: Callable[[str], Topic[bytes, Raw]],
        settings: Mapping[str, Any],
        group: "ConsumerGroup[Any, Any] | None" = None,
        identity: Identity | None = None,
        owner: "Producer | None" = None,
    ) -> None:
        self._engine = engine
        self._topics = topics
        self._group = group
        self._identity = identity
        self._owner = owner
        self._member: Membership | None = None
        self._sent_offsets = group_transaction.SentOffsets(engine)
        self._codec = compression.CODECS[settings["compression_type"]]
        self._max_block: float = settings["max_block_ms"] / 1000
        self._incarnation = engine.incarnation
        self._phase = Phase.NEW
        self._why = ""
        self._lock = threading.RLock()
        self._encoders: dict[Any, TopicEncoder[Any, Any]] = {}
        self._batches = _Batches(max(1, settings["batch_size"]), self._deliver)
        self._most = 0
        self._is_withdrawn = False

    def __repr__(self) -> str:
        return f"<Transaction that {self._phase.value}>"

    def __enter__(self) -> Self:
        self._refuse_forked()
        with self._lock:
            if self._phase is not Phase.NEW:
                raise TransactionStateError(f"this transaction {self._phase.value}: make another for each block")
            if self._group is not None and self._group._engine is not self._engine:
                raise ConfigError(f"group {self._group.group_id!r} is of another store: a transaction is of one store")
            if self._identity is not None:
                self._identity.claim(self._max_block)
            self._most = self._engine.settings()["max_commit_bytes"]
            if self._owner is not None:
                self._owner._begin_transaction(self)
            try:
                if self._group is not None:
                    self._member = group_transaction.begin(self._group)
            except BaseException:
                self._leave_owner()
                raise
            self._phase = Phase.OPEN
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._incarnation != self._engine.incarnation:
            return  # the parent's, which ends it
        with self._lock:
            if error is not None:
                self._end_after(error)
            elif self._phase is Phase.OPEN:
                self._commit(self._max_block, may_try_again=False)
            elif self._why:
                raise TransactionStateError(f"nothing was committed: {self._why}")

    def _end_after(self, error: BaseException) -> None:
        with noted_on(error, "aborting the transaction"):
            self._abort(f"the transaction was aborted: {error!r}")

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
        expected_end_offset: int | None = None,
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
        expected_end_offset: int | None = None,
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
        expected_end_offset: int | None = None,
    ) -> Delivery[RecordMetadata]:
        """Add a record to the transaction; the delivery is done when the transaction is over.

        With `expected_end_offset` the whole transaction fails with `OffsetConflictError` unless the record gets that
        offset; records sent before it in this transaction count. Raises `TransactionStateError` when it is over,
        `RecordTooLargeError` also when the transaction would exceed the store's max_commit_bytes, and as
        `Producer.send`: the record is then not part of the transaction, which goes on.
        """
        self._refuse_forked()
        with self._lock:
            encoder = self._encoder(topic)
            state = encoder.state
            if expected_end_offset is not None:
                encoder._check_expected(expected_end_offset, partition)
            raw, raw_key = encoder.serialize_value(value), None if key is None else encoder.serialize_key(key)
            pairs = header_tuple(headers) if headers else None
            stamp = clock.now_ms() if timestamp_ms is None else check_timestamp(timestamp_ms)
            size = len(raw or b"") + len(raw_key or b"") + header_size(pairs or ())
            if size > state.settings["max_message_bytes"]:
                raise too_large(state, size)
            size += RECORD_OVERHEAD + HEADER_OVERHEAD * len(pairs or ())
            self._check_room(size + MOST_OVERHEAD)
            if partition is None:
                partition = self._batches.choose(encoder, raw_key) if expected_end_offset is None else 0
            encoder.check_partition(partition)
            batch = self._batches.open(encoder, partition, expected_end_offset)
            token = next(tokens)
            batch.has_headers = batch.has_headers or bool(pairs)
            batch.rows += (raw, raw_key, stamp, pairs, token)
            self._batches.grown(batch, size)
        return delivery_of(batch, token)

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
        expected_end_offset: int | None = None,
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
        expected_end_offset: int | None = None,
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
        expected_end_offset: int | None = None,
    ) -> Delivery[dict[int, range]]:
        """Add records to the transaction, the fast path: all of them, or when it raises none. As `send`."""
        self._refuse_forked()
        with self._lock:
            encoder = self._encoder(topic)
            if expected_end_offset is not None:
                encoder._check_expected(expected_end_offset, partition)
            if partition is not None:
                encoder.check_partition(partition)
            columns = encoder.columns(values, keys, headers, timestamps_ms)
            self._refuse_over()  # what gives the values may have ended it
            size = columns.size + RECORD_OVERHEAD * len(columns.values) + _headers_size(columns.headers)
            parts = encoder.by_partition(columns, partition) if columns.values else []
            batches = sum(len(part.split(self._batches._full_at)) for _, part in parts)
            self._check_room(size + batches * MOST_OVERHEAD)
            return delivery_of(PendingGroup(self._batches.add(encoder, parts, expected_end_offset, size)))

    def send_offsets(
        self,
        offsets: Mapping[TopicPartition, int],
        group: GroupMetadata,
        *,
        metadata: Mapping[TopicPartition, str] | None = None,
    ) -> None:
        """Commit *next* offsets of a consumer with the transaction: Kafka's `sendOffsetsToTransaction` (KIP-447).

        For a consumer that is not the transaction's `group`, whose offsets need no sending. `metadata` is kept beside
        the offsets. Raises `FencedMemberError`, here or at the commit, when the member is gone or has gone on to
        another epoch (`StaleMemberEpochError`); `UnknownTopicError`, `UnknownPartitionError`, `TransactionStateError`.
        """
        with self._lock:
            self._refuse_over()
            said = metadata or {}
            wanted = {place: Committed(offset, said.get(place, "")) for place, offset in offsets.items()}
            self._sent_offsets.add(group, wanted)

    def _encoder(self, topic: Any) -> TopicEncoder[Any, Any]:
        self._refuse_over()
        found = self._encoders.get(topic)
        if found is None:
            handle = self._topics(topic) if isinstance(topic, str) else topic
            if not isinstance(handle, Topic) or handle._engine is not self._engine:
                raise ConfigError(f"topic={topic!r} is not valid: give a Topic of this store, or the name of one")
            self._engine.current(handle._state)
            found = self._encoders[topic] = handle._encoder
        return found

    def _check_room(self, more: int) -> None:
        if self._batches.bytes + more > self._most:
            raise RecordTooLargeError(
                f"the transaction has {self._batches.bytes} bytes, and {more} more would exceed the store's "
                f"max_commit_bytes={self._most}: commit it in parts, or raise the limit with store.alter()"
            )

    def _deliver(self, _batch: PendingBatch, _deadline: Deadline) -> None:
        """Somebody wants the outcome of a record that has none yet."""
        self._refuse_forked()
        raise TransactionStateError("the transaction is open: its deliveries are done when its block is left")

    def _refuse_forked(self) -> None:
        if self._incarnation != self._engine.incarnation:
            raise ForkedError("this transaction is the parent process's: begin one in the child")

    def _refuse_over(self) -> None:
        self._refuse_forked()
        if self._phase is not Phase.OPEN:
            raise TransactionStateError(
                f"this transaction {self._phase.value}{': ' if self._why else ''}{self._why}; begin another with `with`"
            )
        self._engine.use()

    # Ending

    def commit(self, timeout: float | None = None) -> None:
        """End the transaction, committing it; the block may be left then. Raises what leaving the block does.

        After a `StoreBusyError`, when the store was not free within `timeout` seconds (None: max_block_ms), nothing has
        happened, and it may be called again.
        """
        self._refuse_forked()
        with self._lock:
            self._refuse_over()
            self._commit(self._max_block if timeout is None else timeout, may_try_again=True)

    def abort(self) -> None:
        """End the transaction, committing nothing; the block may be left then. Rewinds the group."""
        self._refuse_forked()
        with self._lock:
            self._refuse_over()
            self._abort("the transaction was aborted")
            self._why = ""

    def close(self) -> None:
        """Abort it if it is open: what closing its producer or store does."""
        if self._incarnation != self._engine.incarnation:
            return
        with self._lock:
            if self._phase is Phase.OPEN:
                self._abort("its producer or store was closed while it was open")

    def _abort(self, why: str, cause: BaseException | None = None) -> None:
        if self._phase not in (Phase.OPEN, Phase.COMMITTING):
            return
        self._why = why
        self._finish(Phase.ABORTED, (), cause or TransactionStateError(f"nothing was committed: {why}"))

    def _finish(self, phase: Phase, offsets: Sequence[int], error: BaseException | None) -> None:
        self._phase = phase
        try:
            if self._group is not None and self._member is not None and error is not None:
                group_transaction.rewind(self._group, self._member)
        finally:
            self._leave_owner()
            self._batches.settle(offsets, error)

    def _leave_owner(self) -> None:
        if self._owner is not None:
            self._owner._end_transaction()

    def _commit(self, seconds: float, *, may_try_again: bool) -> None:
        handed_out: dict[int, int] = {}
        self._phase = Phase.COMMITTING
        operation = Operation()
        try:
            if self._group is not None and self._member is not None:
                handed_out = group_transaction.handed_out(self._group, self._member)
            appends = self._batches.appends(self._codec)
            operation.decide = self._decision(appends, handed_out)
            if appends or handed_out or self._sent_offsets or self._identity is not None:
                self._engine.commit(operation, seconds)
        except BaseException as failure:
            if may_try_again and _is_untouched(operation, failure):
                self._phase = Phase.OPEN
                raise
            self._settle_failed(operation, failure, handed_out)
            return
        self._committed(operation, handed_out)

    def _decision(self, appends: Sequence[Append], offsets: Mapping[int, int]) -> Callable[[Any], list[Append]]:
        def decide(transaction: Any) -> list[Append]:
            if self._is_withdrawn:
                raise TransactionStateError("the transaction was withdrawn, since its commit took too long")
            found = list(appends)
            records = self._sent_offsets.records(transaction)
            if offsets and self._member is not None:
                records += self._member.offset_records(transaction, offsets)
            if records:
                found.append(Append(OFFSETS_LOG, internal.batch_of(records)))
            if self._identity is not None:
                found.append(self._identity.committed(transaction))
            return found

        return decide

    def _committed(self, operation: Operation, handed_out: Mapping[int, int]) -> None:
        if self._group is not None and self._member is not None:
            group_transaction.committed(self._group, self._member, handed_out)
        self._finish(Phase.COMMITTED, operation.offsets, None)

    def _settle_failed(self, operation: Operation, failure: BaseException, handed_out: Mapping[int, int]) -> None:
        """The commit raised: find out whether it happened, and raise unless it did and that is all that is wanted."""
        is_known = operation.is_done or self._withdraw(failure)
        is_appended = operation.is_done and operation.error is None
        if not is_appended and is_known:
            self._abort(f"its commit failed: {failure}", failure)
            raise failure
        if is_appended and not isinstance(failure, KafkaliteError):  # interrupted
            self._committed(operation, handed_out)
            raise failure
        if is_appended and self._is_flushed():
            self._committed(operation, handed_out)
            return
        unknown = OutcomeUnknownError(
            f"the transaction may be committed or not, as a whole ({failure}); do not send it again blindly: with a "
            "group iterate on, which goes on behind it or repeats it as the store decides; else read back first"
        )
        self._why = str(unknown)
        self._finish(Phase.UNKNOWN, (), unknown)
        raise unknown from failure

    def _withdraw(self, failure: BaseException) -> bool:
        """Take back a commit that another thread may have in hand; whether it is known now what became of it."""
        if not isinstance(failure, OutcomeUnknownError) and not isinstance(failure.__cause__, OutcomeUnknownError):
            return True
        self._is_withdrawn = True
        try:
            self._engine.decide(lambda _: [], self._max_block, waits=False)  # behind it in the queue
        except KafkaliteError:
            return False
        return True

    def _is_flushed(self) -> bool:
        """It was appended, and its flush failed: try that once more."""
        try:
            self._engine.flush(self._max_block)
        except KafkaliteError:
            return False
        return True


def _is_untouched(operation: Operation, failure: BaseException) -> bool:
    """Whether a commit that failed was not let in, and nobody else has it in hand."""
    return isinstance(failure, StoreBusyError) and failure.__cause__ is None and not operation.is_done


def _headers_size(headers: Sequence[HeaderTuple] | None) -> int:
    return sum(header_size(one) + HEADER_OVERHEAD * len(one) for one in headers or ())
