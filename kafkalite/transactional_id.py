"""A claim of a transactional id: whoever made the last one may commit under that name, all others are fenced.

A store handle claims an id with an epoch, which goes into `__transaction_state` (`coordinator.transaction` is the state
machine). Each commit under that name carries a record of it, decided under WRITE: there an older epoch is refused.
"""

import threading
from typing import Any, Final

from kafkalite import clock, disk
from kafkalite.coordinator import transaction as core
from kafkalite.coordinator.records import MAX_KEY_SIZE, TransactionLog, decode
from kafkalite.coordinator.transaction import Claim, State, TransactionalId, Whole
from kafkalite.errors import ConfigError, CorruptRecordError
from kafkalite.storage import internal
from kafkalite.storage.commit import Append
from kafkalite.storage.engine import Engine
from kafkalite.storage.internal import TRANSACTION_LOG

MAX_ID_SIZE: Final = MAX_KEY_SIZE - 4
"""Bytes of UTF-8 of a transactional id: a version and a length come before it in the record's key."""
TIMEOUT_MS: Final = 60_000
"""Recorded with a claim, as Kafka's producers do; a transaction that is one commit needs none."""


class Identity:
    """A store handle's claim of a transactional id; claimed anew in a forked child, which is another handle."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self._engine = engine
        self._incarnation = -1
        self._lock = threading.Lock()
        self.producer_id = self.epoch = -1
        engine.after_fork(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()

    def claim(self, timeout: float) -> None:
        """Become the one who may commit under this name, unless this handle was that before.

        Raises `StoreBusyError` when the store is not free within `timeout` seconds.
        """
        with self._lock:
            if self._incarnation == self._engine.incarnation:
                return
            found: list[TransactionalId] = []

            def decide(transaction: Any) -> list[Append]:
                event = Claim(int.from_bytes(disk.random_bytes(8)) >> 1, TIMEOUT_MS, clock.now_ms())
                done = core.step(read_state(transaction, self.name), event)
                found[:] = [done.after]
                return [_recorded(done.after)]

            self._engine.decide(decide, timeout)
            self.producer_id, self.epoch = found[0].producer_id, found[0].epoch
            self._incarnation = self._engine.incarnation

    def committed(self, transaction: Any) -> Append:
        """The record of a whole transaction; raises `ProducerFencedError` when somebody else has the id by now."""
        event = Whole(self.producer_id, self.epoch, clock.now_ms())
        return _recorded(core.step(read_state(transaction, self.name), event).after)


def read_state(transaction: Any, name: str) -> TransactionalId:
    """A transactional id as the index has it; a new one when it has none."""
    key = TransactionLog(name, -1, -1, 0, 0, None, 0, 0).key()
    raw = internal.state(transaction, TRANSACTION_LOG, key)
    if raw is None:
        return TransactionalId(name)
    record = decode(TRANSACTION_LOG, key, raw)
    if not isinstance(record, TransactionLog) or record.status not in set(State) or record.partitions:
        raise CorruptRecordError(
            f"the state of transactional_id={name!r} is not one that this version writes: {record}; it is ended by "
            "whoever wrote it"
        )
    return TransactionalId(
        name, record.producer_id, record.producer_epoch, State(record.status), record.transaction_timeout_ms,
        record.last_update_timestamp_ms, record.start_timestamp_ms,
    )  # fmt: skip


def _recorded(state: TransactionalId) -> Append:
    record = TransactionLog(
        state.name, state.producer_id, state.epoch, state.timeout_ms, state.state, None, state.updated_ms,
        state.started_ms,
    )  # fmt: skip
    return Append(TRANSACTION_LOG, internal.batch_of([(record.key(), record.value())]))


def check_transactional_id(name: Any) -> None:
    """Raise `ConfigError` unless it is a name that a record's key can hold."""
    if not isinstance(name, str) or not 1 <= len(name.encode(errors="surrogatepass")) <= MAX_ID_SIZE:
        raise ConfigError(f"transactional_id={name!r} is not valid: give a str of 1 to {MAX_ID_SIZE} bytes of UTF-8")
