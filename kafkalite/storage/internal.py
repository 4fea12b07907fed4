"""The internal logs: what a record of one of them sets in the index, the same way at the commit and at a rebuild.

    log  topic                  its records                     its rows
      0  __cluster_metadata     facts (`catalogue`)             topics, logs, catalogue
      1  __consumer_offsets     Kafka's, by group               state: the last value of every key
      2  __transaction_state    Kafka's, by transactional id    state
      3  __share_group_state    Kafka's, by group               state

A null value removes. What the records of logs 1 to 3 mean is `coordinator.records`' business: here a key is bytes.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import lmdb

from kafkalite import clock
from kafkalite.records import native
from kafkalite.records.envelope import HEADER_SIZE, SealedBatch, parse
from kafkalite.storage import catalogue, index
from kafkalite.storage.catalogue import CATALOGUE_LOG, FIRST_USER_LOG

OFFSETS_LOG: Final = 1
TRANSACTION_LOG: Final = 2
SHARE_LOG: Final = 3
IS_INTERNAL: Final = FIRST_USER_LOG
"""Log ids below are internal."""

KeyedRecord = tuple[bytes, bytes | None]
"""Key and value of a record of logs 1 to 3."""


def rows(log_id: int, batch: bytes) -> list[tuple[bytes, bytes | None]]:
    """The rows of the index that a whole batch of an internal log sets, or removes where the value is None."""
    columns = native.decode(parse(batch), memoryview(batch)[HEADER_SIZE:])
    if log_id == CATALOGUE_LOG:
        return catalogue.rows(columns)
    return [(state_key(log_id, key), value) for key, value in zip(columns.keys, columns.values, strict=True) if key]


def state_key(log_id: int, key: bytes) -> bytes:
    """The row of a record's key."""
    return index.STATE + bytes((log_id,)) + key


def state(transaction: lmdb.Transaction, log_id: int, key: bytes) -> bytes | None:
    """The last value of a key, as appended."""
    return index.get(transaction, state_key(log_id, key))


def states(transaction: lmdb.Transaction, log_id: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys that begin with `prefix`, and their last values, by key."""
    start = state_key(log_id, b"")
    for key, value in index.rows(transaction, start + prefix):
        yield key[len(start) :], value


def has_state(transaction: lmdb.Transaction, log_id: int) -> bool:
    """Whether any key of a log has a value."""
    return next(states(transaction, log_id, b""), None) is not None


def batch_of(records: Sequence[KeyedRecord]) -> SealedBatch:
    """Records as a batch of log 1, 2 or 3."""
    return native.encode(
        [value for _, value in records], keys=[key for key, _ in records], base_timestamp=clock.now_ms()
    )
