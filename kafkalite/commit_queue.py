"""The queue behind a producer: sealed batches in order, and one thread at a time that commits them.

Whoever commits takes all that are there, up to `COMMIT_BYTES`, as one commit; the one thread at a time keeps the order
of every partition. A batch leaves the queue when its outcome is known, so an interrupt loses none. A retriable failure
leaves the batches where they are until `delivery_timeout_ms` is over; another kind of failure is the batch's own, and
its neighbours are then committed each by itself.

With idempotence each batch bears producer id, epoch and sequence: one that was committed although its answer was lost
is recognised when it is committed again (KIP-98). Where a batch failed for good its log's sequence has a gap, and goes
on under the next epoch (KIP-360).
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from kafkalite import clock, disk
from kafkalite.clock import Deadline
from kafkalite.columns import TopicEncoder
from kafkalite.delivery import PendingBatch
from kafkalite.errors import KafkaliteError, KafkaTimeoutError, OutcomeUnknownError
from kafkalite.records import compression
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.commit import SEQUENCE_LIMIT, Append, Operation
from kafkalite.storage.engine import Engine

COMMIT_BYTES: Final = 16 * 1024 * 1024
RETRY_SECONDS: Final = 0.1
LONGEST_WAIT: Final = 1.0


class CommitQueue:
    """Batches of one producer on their way to the store. `lock` guards the queue, and the producer's open batches."""

    def __init__(
        self, engine: Engine, settings: Mapping[str, Any], encoder_of: Callable[[TopicState], TopicEncoder[Any, Any]]
    ) -> None:
        self.lock = threading.Lock()
        self.bytes = 0
        """Of what is in the queue."""
        self.failed: list[PendingBatch] = []
        self._engine = engine
        self._encoder_of = encoder_of
        self._codec = compression.CODECS[settings["compression_type"]]
        self._awaits = str(settings["acks"]) != "0"
        self._max_block: float = settings["max_block_ms"] / 1000
        self._batches: deque[PendingBatch] = deque()
        self._turn = threading.Condition(threading.Lock())
        self._committing: object | None = None
        self._producer_id = int.from_bytes(disk.random_bytes(8)) >> 1 if settings["enable_idempotence"] else -1
        self._sequences: dict[int, tuple[int, int]] = {}

    def add(self, batches: Iterable[PendingBatch]) -> None:
        """Put sealed batches behind the others; under `lock`."""
        for batch in batches:
            batch.queued_size = batch.size
            self.bytes += batch.queued_size
            self._batches.append(batch)

    def waiting(self) -> list[PendingBatch]:
        """The batches whose outcome is not known, in order."""
        with self.lock:
            return list(self._batches)

    def commit_all(self, deadline: Deadline) -> KafkaliteError | None:
        """Commit what is in the queue; returns the retriable error that keeps some of it there."""
        with self._turn_to_commit(deadline) as is_mine:
            while is_mine:
                batches = self._next()
                if not batches:
                    return None
                error = self._commit(batches)
                if error is not None:
                    return error
        return KafkaTimeoutError("another thread is committing this producer's batches, and has not come to an end")

    def commit_until(self, is_done: Callable[[], bool], deadline: Deadline) -> KafkaliteError | None:
        """Commit, again and again where that may help, until `is_done()` or the deadline passes: then what kept it."""
        error: KafkaliteError | None = None
        while not is_done():
            error = self.commit_all(deadline)
            if is_done() or deadline.passed():
                break
            if error is not None:
                clock.sleep(min(RETRY_SECONDS, deadline.left()))
        return error

    @contextlib.contextmanager
    def _turn_to_commit(self, deadline: Deadline) -> Iterator[bool]:
        """One thread at a time; gives False when the deadline passes first."""
        mine = object()
        try:
            with self._turn:
                while self._committing is not None and not deadline.passed():
                    self._turn.wait(min(deadline.left(), LONGEST_WAIT))
                if self._committing is None:
                    self._committing = mine
            yield self._committing is mine
        finally:
            with self._turn:
                if self._committing is mine:
                    self._committing = None
                    self._turn.notify()

    def _next(self) -> list[PendingBatch]:
        """The first batches of the queue, as many as go into one commit."""
        chosen: list[PendingBatch] = []
        size = 0
        with self.lock:
            for batch in self._batches:
                if chosen and size + batch.queued_size > COMMIT_BYTES:
                    break
                chosen.append(batch)
                size += batch.queued_size
        return chosen

    def _commit(self, batches: Sequence[PendingBatch]) -> KafkaliteError | None:
        """Commit batches as one; each by itself when that is refused. Returns the error when trying again may help."""
        operation = Operation()
        try:
            operation.appends = [batch.append or self._sealed(batch) for batch in batches]
            self._engine.commit(operation, self._max_block)
        except KafkaliteError as error:
            if error.retriable and clock.monotonic() < batches[0].expires:
                return error
            if len(batches) > 1:
                return next(filter(None, (self._commit([batch]) for batch in batches)), None)
            self._settle(batches, [-1], error)
            self._bump_epoch(batches[0])
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
        epoch, sequence = self._sequences.get(log_id, (0, 0))
        is_idempotent = self._producer_id >= 0
        sealed = self._encoder_of(topic).seal(
            *batch.sealed_columns().sealable(),
            codec=self._codec,
            producer_id=self._producer_id,
            producer_epoch=epoch if is_idempotent else -1,
            base_sequence=sequence if is_idempotent else -1,
        )
        self._sequences[log_id] = (epoch, (sequence + batch.count) % SEQUENCE_LIMIT)
        batch.append = Append(log_id, sealed, topic)
        return batch.append

    def _settle(self, batches: Sequence[PendingBatch], offsets: Sequence[int], error: BaseException | None) -> None:
        with self.lock:
            for batch in batches:
                self._batches.remove(batch)
                self.bytes -= batch.queued_size
            if error is not None:
                self.failed += batches
        for batch, offset in zip(batches, offsets, strict=True):
            batch.settle(offset if self._awaits else -1, error)

    def _bump_epoch(self, failed: PendingBatch) -> None:
        """What follows in this log begins another sequence; what was sealed for it is sealed anew."""
        log_id = failed.topic.log_ids[failed.partition]
        epoch, _ = self._sequences.get(log_id, (0, 0))
        self._sequences[log_id] = (epoch + 1, 0)
        for batch in self.waiting():
            if batch.append is not None and batch.append.log_id == log_id:
                batch.append = None
