"""The records of `__consumer_offsets` that say what a group is: epoch, members, who is to have what, who has it.

Kinds 2 to 16 of the table in `records`, which reads them; consumer groups are KIP-848's, share groups KIP-932's. One
group is several records, each with one concern, so that a change writes only what it changes:

    metadata                    the group's epoch: raised with every change
    member metadata             a member and its subscription
    target assignment metadata  the epoch for which the target was computed
    target assignment member    what a member is to have in the end
    current member assignment   what it has now, and at which epoch

Topics in assignments are Kafka's topic ids of 16 bytes; who knows log ids translates. Partition numbers keep their
order, and so do topics: who wants equal groups to be equal bytes sorts them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from kafkalite.coordinator.schema import (
    ALWAYS,
    BYTES,
    CONSUMER_OFFSETS,
    INT8,
    INT32,
    INT32S,
    INT64,
    NULLABLE_STRING,
    STRING,
    UUID,
    Field,
    Record,
    Schema,
    array,
    numbers_by,
    optional,
    structure,
)

Assignment = Mapping[bytes, tuple[int, ...]]
"""Partition numbers by topic id (16 bytes)."""

NO_TIMESTAMP: Final = -1

# Classic groups


class ClassicMember(NamedTuple):
    """A member of a classic group; `subscription` and `assignment` are bytes of its protocol."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    subscription: bytes
    assignment: bytes


_CLASSIC_MEMBER: Final = structure(
    ClassicMember,
    Field("member_id", STRING),
    Field("group_instance_id", NULLABLE_STRING, versions=(3, ALWAYS[1])),
    Field("client_id", STRING),
    Field("client_host", STRING),
    Field("rebalance_timeout_ms", INT32, versions=(1, ALWAYS[1]), default=-1),
    Field("session_timeout_ms", INT32),
    Field("subscription", BYTES),
    Field("assignment", BYTES),
)


@dataclass(frozen=True, slots=True)
class GroupMetadata(Record):
    """A classic group (JoinGroup, SyncGroup) with its members."""

    SCHEMA: ClassVar = Schema(
        CONSUMER_OFFSETS,
        2,
        key=(Field("group_id", STRING),),
        value=(
            Field("protocol_type", STRING),
            Field("generation", INT32),
            Field("protocol", NULLABLE_STRING),
            Field("leader", NULLABLE_STRING),
            Field("current_state_timestamp_ms", INT64, versions=(2, ALWAYS[1]), default=NO_TIMESTAMP),
            Field("members", array(_CLASSIC_MEMBER)),
        ),
        version=4,
        flexible=4,
    )
    group_id: str
    protocol_type: str
    generation: int
    protocol: str | None = None
    leader: str | None = None
    current_state_timestamp_ms: int = NO_TIMESTAMP
    members: tuple[ClassicMember, ...] = ()


# Consumer groups (KIP-848)

_GROUP: Final = (Field("group_id", STRING),)
_MEMBER: Final = (Field("group_id", STRING), Field("member_id", STRING))
_PARTITIONS: Final = numbers_by(UUID)


@dataclass(frozen=True, slots=True)
class ConsumerGroupMetadata(Record):
    """A consumer group is at this epoch; the hash is over its topics' metadata (KIP-1101), 0 for none."""

    SCHEMA: ClassVar = Schema(
        CONSUMER_OFFSETS,
        3,
        key=_GROUP,
        value=(Field("epoch", INT32), Field("metadata_hash", INT64, default=0, tag=0)),
    )
    group_id: str
    epoch: int
    metadata_hash: int = 0


class PartitionRacks(NamedTuple):
    """The racks that a partition is in; Kafka 4.0 and later leave it out."""

    partition: int
    racks: tuple[str, ...]


class TopicMetadata(NamedTuple):
    """A topic that a group subscribes to, as the group saw it last."""

    topic_id: bytes
    topic: str
    partition_count: int
    partition_racks: tuple[PartitionRacks, ...] = ()


@dataclass(frozen=True, slots=True)
class ConsumerGroupPartitionMetadata(Record):
    """The topics of a group, as Kafka kept them before 4.1 put `metadata_hash` in their place."""

    SCHEMA: ClassVar = Schema(
        CONSUMER_OFFSETS,
        4,
        key=_GROUP,
        value=(
            Field(
                "topics",
                array(
                    structure(
                        TopicMetadata,
                        Field("topic_id", UUID),
                        Field("topic", STRING),
                        Field("partition_count", INT32),
                        Field(
                            "partition_racks",
                            array(structure(PartitionRacks, Field("partition", INT32), Field("racks", array(STRING)))),
                        ),
                    )
                ),
            ),
        ),
    )
    group_id: str
    topics: tuple[TopicMetadata, ...]


class ClassicProtocol(NamedTuple):
    """A protocol that a classic member of a consumer group supports."""

    name: str
    metadata: bytes


class ClassicMemberMetadata(NamedTuple):
    """What is known of a member of a consumer group that speaks the classic protocol."""

    session_timeout_ms: int
    supported_protocols: tuple[ClassicProtocol, ...]


@dataclass(frozen=True, slots=True)
class ConsumerGroupMemberMetadata(Record):
    """A member of a consumer group, and what it subscribes to."""

    SCHEMA: ClassVar = Schema(
        CONSUMER_OFFSETS,
        5,
        key=_MEMBER,
        value=(
            Field("instance_id", NULLABLE_STRING),
            Field("rack_id", NULLABLE_STRING),
            Field("client_id", STRING),
            Field("client_host", STRING),
            Field("subscribed_topic_names", array(STRING)),
            Field("subscribed_topic_regex", NULLABLE_STRING),
            Field("rebalance_timeout_ms", INT32),
            Field("server_assignor", NULLABLE_STRING),
            Field(
                "classic_member_metadata",
                optional(
                    structure(
                        ClassicMemberMetadata,
                        Field("session_timeout_ms", INT32),
                        Field(
                            "supported_protocols",
                            array(structure(ClassicProtocol, Field("name", STRING), Field("metadata", BYTES))),
                        ),
                    )
                ),
                tag=0,
            ),
        ),
    )
    group_id: str
    member_id: str
    instance_id: str | None = None
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    subscribed_topic_names: tuple[str, ...] = ()
    subscribed_topic_regex: str | None = None
    rebalance_timeout_ms: int = -1
    server_assignor: str | None = None
    classic_member_metadata: ClassicMemberMetadata | None = None


_TARGET: Final = (
    Field("assignment_epoch", INT32),
    Field("assignment_timestamp_ms", INT64, default=0, tag=0),
)


@dataclass(frozen=True, slots=True)
class ConsumerGroupTargetAssignmentMetadata(Record):
    """The group's target assignment is the one computed for this epoch, finished at this time (0: not known)."""

    SCHEMA: ClassVar = Schema(CONSUMER_OFFSETS, 6, key=_GROUP, value=_TARGET)
    group_id: str
    assignment_epoch: int
    assignment_timestamp_ms: int = 0


@dataclass(frozen=True, slots=True)
class ConsumerGroupTargetAssignmentMember(Record):
    """What a member is to have in the end."""

    SCHEMA: ClassVar = Schema(CONSUMER_OFFSETS, 7, key=_MEMBER, value=(Field("topic_partitions", _PARTITIONS),))
    group_id: str
    member_id: str
    topic_partitions: Assignment


_CURRENT: Final = (
    Field("member_epoch", INT32),
    Field("previous_member_epoch", INT32),
    Field("state", INT8),
    Field("assigned_partitions", _PARTITIONS),
)


@dataclass(frozen=True, slots=True)
class ConsumerGroupCurrentMemberAssignment(Record):
    """What a member has now. States: 0 stable, 1 unrevoked partitions, 2 unreleased partitions, 127 unknown."""

    SCHEMA: ClassVar = Schema(
        CONSUMER_OFFSETS, 8, key=_MEMBER, value=(*_CURRENT, Field("partitions_pending_revocation", _PARTITIONS))
    )
    group_id: str
    member_id: str
    member_epoch: int
    previous_member_epoch: int
    state: int
    assigned_partitions: Assignment
    partitions_pending_revocation: Assignment


@dataclass(frozen=True, slots=True)
class ConsumerGroupRegularExpression(Record):
    """The topics that a subscribed pattern meant, resolved against this version of the catalogue at this time."""

    SCHEMA: ClassVar = Schema(
        CONSUMER_OFFSETS,
        16,
        key=(Field("group_id", STRING), Field("regular_expression", STRING)),
        value=(Field("topics", array(STRING)), Field("version", INT64), Field("timestamp_ms", INT64)),
    )
    group_id: str
    regular_expression: str
    topics: tuple[str, ...]
    version: int
    timestamp_ms: int


# Share groups (KIP-932)


@dataclass(frozen=True, slots=True)
class ShareGroupMemberMetadata(Record):
    """A member of a share group, and what it subscribes to."""

    SCHEMA: ClassVar = Schema(
        CONSUMER_OFFSETS,
        10,
        key=_MEMBER,
        value=(
            Field("rack_id", NULLABLE_STRING),
            Field("client_id", STRING),
            Field("client_host", STRING),
            Field("subscribed_topic_names", array(STRING)),
        ),
    )
    group_id: str
    member_id: str
    rack_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    subscribed_topic_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShareGroupMetadata(Record):
    """A share group is at this epoch; the hash is over its topics' metadata, 0 for none."""

    SCHEMA: ClassVar = Schema(
        CONSUMER_OFFSETS, 11, key=_GROUP, value=(Field("epoch", INT32), Field("metadata_hash", INT64))
    )
    group_id: str
    epoch: int
    metadata_hash: int = 0


@dataclass(frozen=True, slots=True)
class ShareGroupTargetAssignmentMetadata(Record):
    """The group's target assignment is the one computed for this epoch, finished at this time (0: not known)."""

    SCHEMA: ClassVar = Schema(CONSUMER_OFFSETS, 12, key=_GROUP, value=_TARGET)
    group_id: str
    assignment_epoch: int
    assignment_timestamp_ms: int = 0


@dataclass(frozen=True, slots=True)
class ShareGroupTargetAssignmentMember(Record):
    """What a member of a share group is to read."""

    SCHEMA: ClassVar = Schema(CONSUMER_OFFSETS, 13, key=_MEMBER, value=(Field("topic_partitions", _PARTITIONS),))
    group_id: str
    member_id: str
    topic_partitions: Assignment


@dataclass(frozen=True, slots=True)
class ShareGroupCurrentMemberAssignment(Record):
    """What a member of a share group reads; states as of a consumer group's member."""

    SCHEMA: ClassVar = Schema(CONSUMER_OFFSETS, 14, key=_MEMBER, value=_CURRENT)
    group_id: str
    member_id: str
    member_epoch: int
    previous_member_epoch: int
    state: int
    assigned_partitions: Assignment


class TopicPartitions(NamedTuple):
    """Partitions of a topic, by id and name."""

    topic_id: bytes
    topic: str
    partitions: tuple[int, ...]


class TopicName(NamedTuple):
    """A topic, by id and name."""

    topic_id: bytes
    topic: str


_TOPIC: Final = (Field("topic_id", UUID), Field("topic", STRING))
_TOPIC_PARTITIONS: Final = array(structure(TopicPartitions, *_TOPIC, Field("partitions", INT32S)))


@dataclass(frozen=True, slots=True)
class ShareGroupStatePartitionMetadata(Record):
    """The partitions for which a share group has state in `__share_group_state`, gets it, or loses it."""

    SCHEMA: ClassVar = Schema(
        CONSUMER_OFFSETS,
        15,
        key=_GROUP,
        value=(
            Field("initializing_topics", _TOPIC_PARTITIONS),
            Field("initialized_topics", _TOPIC_PARTITIONS),
            Field("deleting_topics", array(structure(TopicName, *_TOPIC))),
        ),
    )
    group_id: str
    initializing_topics: tuple[TopicPartitions, ...] = ()
    initialized_topics: tuple[TopicPartitions, ...] = ()
    deleting_topics: tuple[TopicName, ...] = ()


KINDS: Final[tuple[type[Record], ...]] = (
    GroupMetadata,
    ConsumerGroupMetadata,
    ConsumerGroupPartitionMetadata,
    ConsumerGroupMemberMetadata,
    ConsumerGroupTargetAssignmentMetadata,
    ConsumerGroupTargetAssignmentMember,
    ConsumerGroupCurrentMemberAssignment,
    ConsumerGroupRegularExpression,
    ShareGroupMemberMetadata,
    ShareGroupMetadata,
    ShareGroupTargetAssignmentMetadata,
    ShareGroupTargetAssignmentMember,
    ShareGroupCurrentMemberAssignment,
    ShareGroupStatePartitionMetadata,
)
