"""A producer's transactions: librdkafka's states and errors over the store's own (`kafkalite.Transaction`).

    state            init    begin           produce  send_offsets  commit  abort
    Init             Ready
    Ready                    InTransaction
    InTransaction                            stays    stays         Ready   Ready
    AbortableError                                                          Ready
    FatalError

`TRANSITIONS` is that table. A call that has no place in it raises what led to AbortableError or FatalError, else
`_STATE`. What a call that has a place fails with decides where it leads instead (`_failed`):

    the store was busy for too long          stays            _TIMED_OUT, retriable
    somebody else has the transactional.id   FatalError       _FENCED
    nobody knows whether it was committed    FatalError
    anything else                            AbortableError   txn_requires_abort; from Init it stays there

The store's transaction is one commit: what is produced waits in memory, and is delivered, with its offsets, when it is
committed. A broker would deliver at once, and hide it. A transactional.id is claimed by a store handle, so each
producer opens one for itself: two in one process fence each other, as two processes do.
"""

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, Final

import kafkalite
from kafkalite.compat.confluent_kafka.cluster import Cluster
from kafkalite.compat.confluent_kafka.group_metadata import unpacked
from kafkalite.compat.confluent_kafka.kafka_error import TEXTS, Code, KafkaError, KafkaException, error_of, failed
from kafkalite.compat.confluent_kafka.model import TopicPartition, check_partitions

NOT_CONFIGURED: Final = "The Transactional API requires transactional.id to be configured"
FINAL: Final = (
    kafkalite.ProducerFencedError,
    kafkalite.OutcomeUnknownError,
    kafkalite.ClosedError,
    kafkalite.ForkedError,
)
"""After these nobody can say what became of the transaction, or do anything about it."""
CODES: Final[Mapping[type, int]] = {
    kafkalite.ProducerFencedError: Code.FENCED,
    kafkalite.FencedMemberError: Code.UNKNOWN_MEMBER_ID,
    kafkalite.StaleMemberEpochError: Code.ILLEGAL_GENERATION,
}
"""What librdkafka says of its own instance, and a group coordinator of a member whose offsets it refuses."""


class State(Enum):
    """Of a transactional producer, by librdkafka's names."""

    INIT = "Init"
    READY = "Ready"
    OPEN = "InTransaction"
    ABORTABLE = "AbortableError"
    FATAL = "FatalError"


class Call(Enum):
    """Of the transactional API."""

    INIT = "init_transactions"
    BEGIN = "begin_transaction"
    PRODUCE = "produce"
    SEND_OFFSETS = "send_offsets_to_transaction"
    COMMIT = "commit_transaction"
    ABORT = "abort_transaction"


TRANSITIONS: Final[Mapping[tuple[State, Call], State]] = {
    (State.INIT, Call.INIT): State.READY,
    (State.READY, Call.BEGIN): State.OPEN,
    (State.OPEN, Call.PRODUCE): State.OPEN,
    (State.OPEN, Call.SEND_OFFSETS): State.OPEN,
    (State.OPEN, Call.COMMIT): State.READY,
    (State.OPEN, Call.ABORT): State.READY,
    (State.ABORTABLE, Call.ABORT): State.READY,
}


class Transactions:
    """The transactions of one producer, one after another. For any thread."""

    def __init__(self, cluster: Cluster, settings: Mapping[str, Any], transactional_id: str | None, limit: int) -> None:
        self._cluster = cluster
        self._settings = settings
        self._id = transactional_id
        self._limit = limit / 1000
        self._lock = threading.RLock()
        self._state = State.INIT
        self._error: KafkaError | None = None
        """What led to AbortableError or FatalError."""
        self._producer: kafkalite.Producer | None = None
        self._transaction: kafkalite.Transaction | None = None
        self._end: Callable[[], object] = lambda: None

    @property
    def is_open(self) -> bool:
        """Whether records wait for the end of a transaction."""
        return self._state in (State.OPEN, State.ABORTABLE)

    def sender(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """What `produce` sends with: `plain` for a producer without transactions. Raises `_STATE`, `_FATAL`."""
        if not self._id:
            return plain
        transaction = self._transaction
        if (self._state, Call.PRODUCE) not in TRANSITIONS or transaction is None:
            code = Code.FATAL if self._state is State.FATAL else Code.STATE
            raise failed(code, f"Unable to produce message: {TEXTS[code]}")
        return transaction.send

    def init(self, timeout: float) -> None:
        """`init_transactions`: claim the id; whoever had it is fenced."""
        self._take(Call.INIT, lambda: self._claim(self._seconds(timeout, 2 * self._limit)))

    def begin(self) -> None:
        """`begin_transaction`."""
        self._take(Call.BEGIN, self._begin)

    def commit(self, timeout: float) -> None:
        """`commit_transaction`."""
        seconds = self._seconds(timeout, self._limit)
        self._take(Call.COMMIT, lambda: self._opened().commit(seconds))

    def abort(self, timeout: float) -> None:
        """`abort_transaction`: what is aborted was never written, so nothing can fail and nothing is waited for."""
        self._seconds(timeout, 0)
        self._take(Call.ABORT, self._drop)

    def send_offsets(self, positions: Any, group_metadata: object, timeout: float) -> None:
        """`send_offsets_to_transaction`; partitions without an offset are passed over."""
        check_partitions(positions)
        group = unpacked(group_metadata)
        self._seconds(timeout, 0)
        self._take(Call.SEND_OFFSETS, lambda: self._send_offsets(positions, group))

    @staticmethod
    def _seconds(timeout: object, for_ever: float) -> float:
        """A call's `timeout`; -1 is as long as librdkafka waits then."""
        if not isinstance(timeout, int | float):
            raise TypeError(f"must be real number, not {type(timeout).__name__}")
        return timeout if timeout >= 0 else for_ever

    def _take(self, call: Call, work: Callable[[], None]) -> None:
        """Do what the call says, if it has a place in this state, and be in the state that it leads to."""
        with self._lock:
            if not self._id:
                raise failed(Code.NOT_CONFIGURED, NOT_CONFIGURED)
            after = TRANSITIONS.get((self._state, call))
            if after is None:
                error = self._error or KafkaError(Code.STATE, f"Operation not valid in state {self._state.value}")
                raise KafkaException(error)
            try:
                work()
            except kafkalite.KafkaliteError as error:
                raise KafkaException(self._failed(error)) from error
            self._state, self._error = after, None

    def _failed(self, error: kafkalite.KafkaliteError) -> KafkaError:
        """What an error is here, having gone to the state that it leads to."""
        if isinstance(error, kafkalite.StoreBusyError):
            return KafkaError(Code.TIMED_OUT, str(error), retriable=True)
        if self._state is State.INIT:
            return error_of(error)
        code = CODES.get(type(error), error_of(error).code())
        if isinstance(error, FINAL):
            self._state, self._error = State.FATAL, KafkaError(code, str(error), fatal=True)
            self._drop()
        else:
            self._state, self._error = State.ABORTABLE, KafkaError(code, str(error), txn_requires_abort=True)
        return self._error

    def _claim(self, seconds: float) -> None:
        handle = kafkalite.connect(self._cluster.store.path)
        settings = {**self._settings, "transactional_id": self._id, "max_block_ms": int(seconds * 1000)}
        try:
            self._producer = handle.producer(**settings)
        except BaseException:
            handle.close()
            raise
        self._end = weakref.finalize(self, _closed_quietly, self._producer, handle)

    def _begin(self) -> None:
        assert self._producer is not None
        transaction = self._producer.transaction()
        transaction.__enter__()  # what ends it are calls
        self._transaction = transaction

    def _opened(self) -> kafkalite.Transaction:
        assert self._transaction is not None
        return self._transaction

    def _drop(self) -> None:
        """Abort what the store has not ended itself."""
        if self._transaction is not None:
            self._transaction.close()

    def _send_offsets(self, positions: Sequence[TopicPartition], group: kafkalite.GroupMetadata) -> None:
        valid = {kafkalite.TopicPartition(one.topic, one.partition): one for one in positions if one.offset >= 0}
        offsets = {place: one.offset for place, one in valid.items()}
        self._opened().send_offsets(
            offsets, group, metadata={place: one.metadata or "" for place, one in valid.items()}
        )

    def close(self) -> None:
        """Abort what is open, and let go of the store."""
        with self._lock:
            self._end()


def _closed_quietly(producer: kafkalite.Producer, handle: kafkalite.Store) -> None:
    """Abort what is open; nobody is there to be told of a failure."""
    for one in (producer, handle):
        with suppress(kafkalite.KafkaliteError):
            one.close()
