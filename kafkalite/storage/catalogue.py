"""The catalogue: topics, their logs and settings, and the store's settings, as records of log 0.

`__cluster_metadata` is a log like any other; its records are keyed facts, the last of a key counts and a null value
removes it. Keys and values are msgpack:

    key                   value
    ["topic", name]       {"id": bin 16, "logs": [[first log id, count], …], "settings": {…}, "created_ms": int}
    ["store"]             {setting: value, …}, all of them
    ["next_log"]          the first log id not given out yet: ids are never used again
    ["log_start", id]     log start offset: records before it were deleted
    ["lost", id]          [[first offset, end offset], …]: lost to damage, and given up by a repair (`salvage`)

`rows` turns a batch of them into rows of the index, the same way at the commit and at a rebuild. A partition is a
log, found by counting through the topic's extents: creating a topic of 100,000 partitions is one record, and so is
adding as many to it. Partitions are only ever added, behind the others, so a partition keeps its log for life.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import lmdb
import msgpack

from kafkalite import clock, config, disk
from kafkalite.errors import (
    CorruptRecordError,
    InvalidPartitionsError,
    InvalidTopicError,
    UnknownPartitionError,
    UnknownTopicError,
)
from kafkalite.model import INTERNAL_TOPICS
from kafkalite.records import native
from kafkalite.records.envelope import SealedBatch
from kafkalite.records.native import Columns
from kafkalite.storage import index

CATALOGUE_LOG: Final = 0
FIRST_USER_LOG: Final = 16
MAX_PARTITIONS: Final = 1_000_000
LOG_ID_LIMIT: Final = 2**32
_NAME: Final = re.compile(r"[a-zA-Z0-9._-]{1,249}")

Fact = tuple[tuple[Any, ...], Any]
"""A record of log 0 before it is packed: its key and its value."""


def check_name(name: str) -> None:
    """Raise `InvalidTopicError` unless `name` follows Kafka's rules and is not an internal topic's."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidTopicError(
            f"the topic name {name!r} is not valid: use 1 to 249 of a-z A-Z 0-9 . _ -, and neither '.' nor '..'"
        )
    if name in INTERNAL_TOPICS:
        raise InvalidTopicError(f"the topic name {name!r} is kafkalite's own: choose another")


def check_partitions(count: Any) -> int:
    """A number of partitions that a topic can have; raises `InvalidPartitionsError`."""
    if type(count) is not int or not 1 <= count <= MAX_PARTITIONS:
        raise InvalidPartitionsError(f"partitions={count!r} is not valid: give 1 to {MAX_PARTITIONS}")
    return count


class TopicState:
    """What the catalogue says of a topic. One for all of a process; `epoch` is the catalogue it was checked against."""

    __slots__ = ("created_ms", "epoch", "extents", "log_ids", "name", "settings", "topic_id")

    def __init__(self, name: str, value: Mapping[str, Any], epoch: int) -> None:
        self.name = name
        self.topic_id: bytes = value["id"]
        self.created_ms: int = value["created_ms"]
        self.epoch = epoch
        self.update(value)

    def update(self, value: Mapping[str, Any]) -> None:
        """Take what may change in a topic's life."""
        self.extents: list[list[int]] = value["logs"]
        self.settings: dict[str, Any] = config.defaults("topic") | value["settings"]
        ranges = [range(first, first + count) for first, count in self.extents]
        self.log_ids: Sequence[int] = ranges[0] if len(ranges) == 1 else [log for some in ranges for log in some]

    @property
    def partition_count(self) -> int:
        return len(self.log_ids)

    def missing(self, partitions: int) -> int:
        """How many partitions are to be added so that there are so many; raises `InvalidPartitionsError` for none."""
        has = len(self.log_ids)
        if partitions <= has:
            raise InvalidPartitionsError(
                f"topic {self.name!r} has {has} partitions, and {partitions} would be no more: partitions are only "
                f"ever added, give more than {has}"
            )
        return partitions - has

    def log_id(self, partition: int) -> int:
        """The log of a partition; raises `UnknownPartitionError`."""
        if type(partition) is not int or not 0 <= partition < len(self.log_ids):
            raise UnknownPartitionError(
                f"topic {self.name!r} has no partition {partition!r}: give 0 to {len(self.log_ids) - 1}"
            )
        return self.log_ids[partition]


def topic_fact(
    name: str, extents: list[list[int]], settings: Mapping[str, Any], topic: TopicState | None = None
) -> Fact:
    """The record that creates a topic, or changes `topic`."""
    return ("topic", name), {
        "id": topic.topic_id if topic else disk.random_bytes(16),
        "logs": extents,
        "settings": dict(settings),
        "created_ms": topic.created_ms if topic else clock.now_ms(),
    }


def extended(extents: Sequence[Sequence[int]], first: int, count: int) -> list[list[int]]:
    """Extents with so many logs more behind them, joined to the last where they follow on it."""
    *others, (last, size) = extents
    if last + size == first:
        return [*map(list, others), [last, size + count]]
    return [*map(list, extents), [first, count]]


def batch_of(facts: Sequence[Fact]) -> SealedBatch:
    """Facts as a batch of log 0; a value of None removes."""
    return native.encode(
        [None if value is None else msgpack.packb(value) for _, value in facts],
        keys=[msgpack.packb(key) for key, _ in facts],
        base_timestamp=clock.now_ms(),
    )


def rows(columns: Columns) -> list[tuple[bytes, bytes | None]]:
    """Rows of the index that a batch of log 0 sets, or removes where the row is None.

    Raises `CorruptRecordError` for a record that is no fact.
    """
    facts = [(key, value) for key, value in zip(columns.keys, columns.values, strict=True) if key]
    try:
        return [_row(msgpack.unpackb(key), value) for key, value in facts]
    except (ValueError, TypeError, struct.error, msgpack.exceptions.UnpackException) as error:
        raise CorruptRecordError(
            f"log 0 has a record that is no fact, from offset {columns.offsets[0]}: {error}"
        ) from error


def _row(key: Sequence[Any], value: bytes | None) -> tuple[bytes, bytes | None]:
    match key:
        case ["topic", str(name)]:
            return index.topic_key(name), value
        case [("store" | "next_log") as fact]:
            return index.CATALOGUE + fact.encode(), value
        case ["log_start", int(log_id)]:
            start = msgpack.unpackb(value or b"\0")
            return index.LOG_KEY.pack(index.LOG, log_id), index.LOG_ROW.pack(start, start)
    # A fact that a later version added and that this one can do without.
    return index.CATALOGUE + msgpack.packb(key), value


def read_topic(transaction: lmdb.Transaction, name: str, epoch: int) -> TopicState | None:
    row = index.get(transaction, index.topic_key(name))
    return None if row is None else TopicState(name, msgpack.unpackb(row), epoch)


def topic_names(transaction: lmdb.Transaction) -> list[str]:
    return [key[1:].decode() for key, _ in index.rows(transaction, index.TOPICS)]


def revalidate(transaction: lmdb.Transaction, topic: TopicState, epoch: int) -> None:
    """Bring a topic's state up to the catalogue of `epoch`; raises `UnknownTopicError` when it was deleted."""
    row = index.get(transaction, index.topic_key(topic.name))
    value = None if row is None else msgpack.unpackb(row)
    if value is None or value["id"] != topic.topic_id:
        raise UnknownTopicError(
            f"topic {topic.name!r} was deleted"
            + ("" if value is None else " and created anew: get it again with store.topic()")
        )
    topic.update(value)
    topic.epoch = epoch
