"""The records of the internal logs in Kafka's own schemas: offsets, groups, transactions, share groups.

Each class is one kind of record: what its key says, then what its value says, in Python. Its bytes are

    key      int16 kind     the key's fields, in the fixed form (see `schema`)
    value    int16 version  the value's fields, in the form of that version

as Apache Kafka 4.3 writes them, so that its tools can read a copy of these logs; tests hold the bytes against Kafka's
own. A null value removes what the key names, here as there.

    log                        kinds
    1 __consumer_offsets       0, 1 offsets here, the others in `group_records`:
                               2 classic groups   3 to 8, 16 consumer groups   10 to 15 share groups
    2 __transaction_state      0 transactions
    3 __share_group_state      0, 1 how far a share group is in a partition

A key starts with the group, so `group_prefix` gives the range in which all records of one kind and group stand.

`decode` meets three sorts of bytes: a record that is known; a kind or a version that is not, which is kept as it is
(`Unknown`), since a newer kafkalite or a Kafka may have written it; and damage, a `CorruptRecordError`. Unknown tagged
fields are passed over, as Kafka does: among them `AssignmentEpochs`, which fences commits and is not needed where an
owner is looked up in the same transaction.

Commits of offsets are hot, so those have an encoder of their own, `OffsetCommits`, beside the schema that says what
it has to give.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, ClassVar, Final, NamedTuple

from kafkalite.coordinator import group_records
from kafkalite.coordinator.schema import (
    ALWAYS,
    CONSUMER_OFFSETS,
    INT8,
    INT16,
    INT32,
    INT64,
    KEY_FORM,
    SHARE_GROUP_STATE,
    STRING,
    TRANSACTION_STATE,
    UUID,
    UUID_SIZE,
    VERSION,
    Field,
    Form,
    Record,
    Schema,
    Wire,
    array,
    encode_value,
    expect_end,
    numbers_by,
    put_varint,
    read,
    structure,
    utf8,
)
from kafkalite.errors import CorruptRecordError, InvalidGroupIdError
from kafkalite.model import INTERNAL_TOPICS

MAX_KEY_SIZE: Final = 509
"""Bytes of a key: with two before it, it is a key of the index, which holds 511."""
MAX_GROUP_ID_SIZE: Final = 249
"""Bytes of UTF-8: two lengths, a topic's name of 249 and a partition fit a key beside it."""
MAX_MEMBER_ID_SIZE: Final = MAX_KEY_SIZE - 2 - 2 - MAX_GROUP_ID_SIZE - 2
"""Bytes of UTF-8 that fit a key beside any group id: of a member id, or of a subscribed regular expression."""

NO_TIMESTAMP: Final = -1
NO_EPOCH: Final = -1
NO_PRODUCER: Final = -1
NO_TOPIC_ID: Final = bytes(UUID_SIZE)


@dataclass(frozen=True, slots=True)
class Unknown:
    """A record of a kind or a version that is not known here, as it is."""

    log_id: int
    key: bytes
    value: bytes


def decode(log_id: int, key: bytes, value: bytes) -> Record | Unknown:
    """The record that a key and a value (not null) of an internal log are.

    Raises `CorruptRecordError` naming it if they are of a known kind and version, and do not read as such.
    """
    assert CONSUMER_OFFSETS <= log_id <= SHARE_GROUP_STATE, f"log {log_id} does not hold such records"
    try:
        kind = RECORDS.get((log_id, _version(key)))
        if kind is None:
            return Unknown(log_id, key, value)
        schema = kind.SCHEMA
        named = _read_whole(schema.key, key, KEY_FORM)
        version = _version(value)
        if not 0 <= version <= schema.version:
            return Unknown(log_id, key, value)
        return kind(**named, **_read_whole(schema.value, value, schema.form(version)))
    except ValueError as error:
        raise _corrupt(log_id, key, value, error) from error


def group_prefix(kind: type[Record], group_id: str) -> bytes:
    """What the keys of all records of this kind and group begin with, and no others."""
    group = utf8(group_id)
    return VERSION.pack(kind.SCHEMA.kind) + VERSION.pack(len(group)) + group


def check_group_id(name: str) -> None:
    """Raise `InvalidGroupIdError` unless `name` can name a group: 1 to 249 bytes of UTF-8, none of them NUL."""
    if not isinstance(name, str):
        raise InvalidGroupIdError(f"the group id {name!r} is not valid: give a str")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidGroupIdError(f"the group id {name[:80]!r} is not Unicode: choose another name") from error
    if not 1 <= size <= MAX_GROUP_ID_SIZE or "\0" in name:
        what = "a NUL in it" if "\0" in name else f"{size} bytes in UTF-8"
        raise InvalidGroupIdError(
            f"the group id {name[:80]!r} has {what}: choose a name of 1 to {MAX_GROUP_ID_SIZE} bytes without NUL"
        )


def _version(raw: bytes) -> int:
    version: int = INT16.read(Wire(raw, 0, KEY_FORM))
    return version


def _read_whole(fields: tuple[Field, ...], raw: bytes, form: Form) -> dict[str, Any]:
    wire = Wire(raw, VERSION.size, form)
    values = read(fields, wire)
    expect_end(wire)
    return values


def _corrupt(log_id: int, key: bytes, value: bytes, error: ValueError) -> CorruptRecordError:
    kind = RECORDS.get((log_id, VERSION.unpack_from(key)[0])) if len(key) >= VERSION.size else None
    return CorruptRecordError(
        f"the {kind.__name__ if kind else 'record'} of {INTERNAL_TOPICS[log_id]} with the key {key[:80].hex()} and the"
        f" value {value[:80].hex()} ({len(value)} bytes) cannot be read: {error}"
    )


# Offsets


@dataclass(frozen=True, slots=True)
class OffsetCommit(Record):
    """The offset of the next record that a group has to process in a partition.

    `expire_timestamp_ms` is of clients of old that asked for a retention of their own; a record that has one is
    written in version 1, the only one with that field, as Kafka does: without leader epoch and topic id.
    """

    SCHEMA: ClassVar = Schema(
        CONSUMER_OFFSETS,
        1,
        key=(Field("group_id", STRING), Field("topic", STRING), Field("partition", INT32)),
        value=(
            Field("offset", INT64),
            Field("leader_epoch", INT32, versions=(3, ALWAYS[1]), default=NO_EPOCH),
            Field("metadata", STRING),
            Field("commit_timestamp_ms", INT64),
            Field("expire_timestamp_ms", INT64, versions=(1, 1), default=NO_TIMESTAMP),
            Field("topic_id", UUID, versions=(4, ALWAYS[1]), default=NO_TOPIC_ID, tag=0),
        ),
        version=4,
        flexible=4,
    )
    group_id: str
    topic: str
    partition: int
    offset: int
    commit_timestamp_ms: int
    metadata: str = ""
    leader_epoch: int = NO_EPOCH
    topic_id: bytes = NO_TOPIC_ID
    expire_timestamp_ms: int = NO_TIMESTAMP

    def value(self) -> bytes:
        """The record's value, in version 4 or 1."""
        return encode_value(self, 4 if self.expire_timestamp_ms == NO_TIMESTAMP else 1)


class OffsetCommits:
    """Encodes commits of one group: a key, made once per partition, and a value of version 4."""

    MAX_KEPT: ClassVar = 16_384
    BARE: ClassVar = Struct(">hqiBqB")
    """Version, offset, leader epoch, metadata (empty), timestamp, count of tagged fields."""
    WITH_TOPIC_ID: ClassVar = Struct(">hqiBqBBB16s")
    """The same, then one tagged field: its tag, its size, the topic id."""
    HEAD: ClassVar = Struct(">hqi")
    TAIL: ClassVar = Struct(">qB")
    PARTITION: ClassVar = Struct(">i")

    __slots__ = ("_keys", "_prefix")

    def __init__(self, group_id: str) -> None:
        self._prefix = group_prefix(OffsetCommit, group_id)
        self._keys: dict[tuple[str, int], bytes] = {}

    def key(self, topic: str, partition: int) -> bytes:
        """The key of a partition; raises `ConfigError` for a topic that is none."""
        key = self._keys.get((topic, partition))
        return self._made(topic, partition) if key is None else key

    def value(
        self,
        offset: int,
        commit_timestamp_ms: int,
        metadata: str = "",
        leader_epoch: int = NO_EPOCH,
        topic_id: bytes = NO_TOPIC_ID,
    ) -> bytes:
        """The value of a commit; raises `ConfigError` for metadata that no record can hold."""
        assert len(topic_id) == UUID_SIZE, "a topic id has 16 bytes"
        if metadata:
            return self._with_metadata(offset, commit_timestamp_ms, utf8(metadata), leader_epoch, topic_id)
        if topic_id == NO_TOPIC_ID:
            return self.BARE.pack(4, offset, leader_epoch, 1, commit_timestamp_ms, 0)
        return self.WITH_TOPIC_ID.pack(4, offset, leader_epoch, 1, commit_timestamp_ms, 1, 0, UUID_SIZE, topic_id)

    def _made(self, topic: str, partition: int) -> bytes:
        if len(self._keys) >= self.MAX_KEPT:
            self._keys.clear()
        name = utf8(topic)
        key = b"".join((self._prefix, VERSION.pack(len(name)), name, self.PARTITION.pack(partition)))
        self._keys[topic, partition] = key
        return key

    def _with_metadata(self, offset: int, timestamp_ms: int, metadata: bytes, epoch: int, topic_id: bytes) -> bytes:
        out = bytearray(self.HEAD.pack(4, offset, epoch))
        put_varint(out, len(metadata) + 1)
        has_topic_id = topic_id != NO_TOPIC_ID
        out += metadata + self.TAIL.pack(timestamp_ms, has_topic_id)
        if has_topic_id:
            out += bytes((0, UUID_SIZE)) + topic_id
        return bytes(out)


# Transactions


@dataclass(frozen=True, slots=True)
class TransactionLog(Record):
    """Where a transactional id stands; `partitions` by topic name, None as Kafka writes it for none.

    States: 0 empty, 1 ongoing, 2 prepare commit, 3 prepare abort, 4 complete commit, 5 complete abort, 6 dead,
    7 prepare epoch fence.
    """

    SCHEMA: ClassVar = Schema(
        TRANSACTION_STATE,
        0,
        key=(Field("transactional_id", STRING),),
        value=(
            Field("producer_id", INT64),
            Field("previous_producer_id", INT64, versions=(1, ALWAYS[1]), default=NO_PRODUCER, tag=0),
            Field("next_producer_id", INT64, versions=(1, ALWAYS[1]), default=NO_PRODUCER, tag=1),
            Field("producer_epoch", INT16),
            Field("next_producer_epoch", INT16, versions=(1, ALWAYS[1]), default=NO_EPOCH, tag=3),
            Field("transaction_timeout_ms", INT32),
            Field("status", INT8),
            Field("partitions", numbers_by(STRING, is_nullable=True)),
            Field("last_update_timestamp_ms", INT64),
            Field("start_timestamp_ms", INT64),
            Field("client_transaction_version", INT16, versions=(1, ALWAYS[1]), default=0, tag=2),
        ),
        version=1,
        flexible=1,
    )
    transactional_id: str
    producer_id: int
    producer_epoch: int
    transaction_timeout_ms: int
    status: int
    partitions: Mapping[str, tuple[int, ...]] | None
    last_update_timestamp_ms: int
    start_timestamp_ms: int
    previous_producer_id: int = NO_PRODUCER
    next_producer_id: int = NO_PRODUCER
    next_producer_epoch: int = NO_EPOCH
    client_transaction_version: int = 0


# Share groups: the state of their partitions (KIP-932)


class StateBatch(NamedTuple):
    """Records `first_offset` to `last_offset` (both included), delivered so often.

    Delivery states: 0 available, 2 acknowledged, 4 archived.
    """

    first_offset: int
    last_offset: int
    delivery_state: int
    delivery_count: int


_SHARE_PARTITION: Final = (Field("group_id", STRING), Field("topic_id", UUID), Field("partition", INT32))
_DELIVERY_COMPLETE_COUNT: Final = Field("delivery_complete_count", INT32, default=-1, tag=0)
_STATE_BATCHES: Final = Field(
    "state_batches",
    array(
        structure(
            StateBatch,
            Field("first_offset", INT64),
            Field("last_offset", INT64),
            Field("delivery_state", INT8),
            Field("delivery_count", INT16),
        )
    ),
)


@dataclass(frozen=True, slots=True)
class ShareSnapshot(Record):
    """How far a share group is in a partition, complete; `delivery_complete_count` of -1 is not known."""

    SCHEMA: ClassVar = Schema(
        SHARE_GROUP_STATE,
        0,
        key=_SHARE_PARTITION,
        value=(
            Field("snapshot_epoch", INT32),
            Field("state_epoch", INT32),
            Field("leader_epoch", INT32),
            Field("start_offset", INT64),
            _DELIVERY_COMPLETE_COUNT,
            Field("create_timestamp_ms", INT64),
            Field("write_timestamp_ms", INT64),
            _STATE_BATCHES,
        ),
    )
    group_id: str
    topic_id: bytes
    partition: int
    snapshot_epoch: int
    state_epoch: int
    leader_epoch: int
    start_offset: int
    create_timestamp_ms: int
    write_timestamp_ms: int
    state_batches: tuple[StateBatch, ...] = ()
    delivery_complete_count: int = -1


@dataclass(frozen=True, slots=True)
class ShareUpdate(Record):
    """What changed since the snapshot of `snapshot_epoch`; a `start_offset` of -1 did not."""

    SCHEMA: ClassVar = Schema(
        SHARE_GROUP_STATE,
        1,
        key=_SHARE_PARTITION,
        value=(
            Field("snapshot_epoch", INT32),
            Field("leader_epoch", INT32),
            Field("start_offset", INT64),
            _DELIVERY_COMPLETE_COUNT,
            _STATE_BATCHES,
        ),
    )
    group_id: str
    topic_id: bytes
    partition: int
    snapshot_epoch: int
    leader_epoch: int
    start_offset: int = -1
    state_batches: tuple[StateBatch, ...] = ()
    delivery_complete_count: int = -1


LEGACY_OFFSET_COMMIT: Final = 0
"""The kind of offset commits of before Kafka 0.9.0, whose keys and values read as those of version 0 do."""

KINDS: Final[tuple[type[Record], ...]] = (
    OffsetCommit,
    *group_records.KINDS,
    TransactionLog,
    ShareSnapshot,
    ShareUpdate,
)

RECORDS: Final[Mapping[tuple[int, int], type[Record]]] = {
    (CONSUMER_OFFSETS, LEGACY_OFFSET_COMMIT): OffsetCommit,
    **{(kind.SCHEMA.log_id, kind.SCHEMA.kind): kind for kind in KINDS},
}
"""Which record it is, by log id and what the key begins with."""
