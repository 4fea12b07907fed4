"""What AdminClient takes and answers with: new topics, configurations, groups, access rules, credentials."""

import functools
from enum import Enum
from typing import Any, ClassVar, TypeVar

from kafkalite.compat.confluent_kafka.constants import (
    OFFSET_SPEC_EARLIEST,
    OFFSET_SPEC_LATEST,
    OFFSET_SPEC_MAX_TIMESTAMP,
)
from kafkalite.compat.confluent_kafka.kafka_error import KafkaError
from kafkalite.compat.confluent_kafka.model import (
    ConsumerGroupState,
    ConsumerGroupType,
    Node,
    Ordered,
    TopicPartition,
    TopicPartitionInfo,
    Uuid,
)

E = TypeVar("E", bound=Enum)


def as_member(value: Any, enumeration: type[E]) -> E:
    """A member by itself, its name in any case, or its number."""
    if isinstance(value, str):
        try:
            return enumeration[value.upper()]
        except KeyError:
            raise ValueError(f'Unknown value "{value}": should be a {enumeration.__name__}') from None
    if isinstance(value, int):
        return enumeration(value)
    if not isinstance(value, enumeration):
        raise TypeError(f'Unknown value "{value}": should be a {enumeration.__name__}')
    return value


class ResourceType(Ordered):
    """What kind of thing has a configuration or an access rule."""

    UNKNOWN = 0
    ANY = 1
    TOPIC = 2
    GROUP = 3
    BROKER = 4
    TRANSACTIONAL_ID = 5


class ResourcePatternType(Ordered):
    """How a rule names what it is about."""

    UNKNOWN = 0
    ANY = 1
    MATCH = 2
    LITERAL = 3
    PREFIXED = 4


class ConfigSource(Enum):
    """Where a configuration value comes from."""

    UNKNOWN_CONFIG = 0
    DYNAMIC_TOPIC_CONFIG = 1
    DYNAMIC_BROKER_CONFIG = 2
    DYNAMIC_DEFAULT_BROKER_CONFIG = 3
    STATIC_BROKER_CONFIG = 4
    DEFAULT_CONFIG = 5
    GROUP_CONFIG = 8


class AlterConfigOpType(Enum):
    """What to do with a configuration entry."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


class AclOperation(Ordered):
    """What an access rule is about."""

    UNKNOWN = 0
    ANY = 1
    ALL = 2
    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12


class AclPermissionType(Ordered):
    """Whether an access rule denies or allows."""

    UNKNOWN = 0
    ANY = 1
    DENY = 2
    ALLOW = 3


class ScramMechanism(Ordered):
    """How a password is kept."""

    UNKNOWN = 0
    SCRAM_SHA_256 = 1
    SCRAM_SHA_512 = 2


class _ByTopic:
    """What `NewTopic` and `NewPartitions` share: equal and ordered by the topic's name."""

    __slots__ = ("topic",)
    topic: str

    def __hash__(self) -> int:
        return hash(self.topic)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.topic == other.topic

    def __lt__(self, other: "_ByTopic") -> bool:
        return self.topic < other.topic

    def __le__(self, other: "_ByTopic") -> bool:
        return self.topic <= other.topic

    def __gt__(self, other: "_ByTopic") -> bool:
        return self.topic > other.topic

    def __ge__(self, other: "_ByTopic") -> bool:
        return self.topic >= other.topic


class NewTopic(_ByTopic):
    """A topic to create; -1 takes the default: one partition, and a store's one replica."""

    __slots__ = ("config", "num_partitions", "replica_assignment", "replication_factor")

    def __init__(
        self,
        topic: str,
        num_partitions: int = -1,
        replication_factor: int = -1,
        replica_assignment: list[list[int]] | None = None,
        config: dict[str, str] | None = None,
    ) -> None:
        if not isinstance(topic, str):
            raise TypeError(f"argument 1 must be str, not {type(topic).__name__}")
        self.topic = topic
        self.num_partitions = num_partitions
        self.replication_factor = replication_factor
        self.replica_assignment = replica_assignment
        self.config = config

    def __repr__(self) -> str:
        return f"NewTopic(topic={self.topic},num_partitions={self.num_partitions})"


class NewPartitions(_ByTopic):
    """A topic and how many partitions it is to have."""

    __slots__ = ("new_total_count", "replica_assignment")

    def __init__(self, topic: str, new_total_count: int, replica_assignment: list[list[int]] | None = None) -> None:
        self.topic = topic
        self.new_total_count = new_total_count
        self.replica_assignment = replica_assignment

    def __repr__(self) -> str:
        return f"NewPartitions(topic={self.topic},new_total_count={self.new_total_count})"


class ConfigEntry:
    """One property of a resource: name, value, and where the value comes from."""

    def __init__(
        self,
        name: str,
        value: str | None,
        source: ConfigSource | int = ConfigSource.UNKNOWN_CONFIG,
        is_read_only: bool = False,
        is_default: bool = False,
        is_sensitive: bool = False,
        is_synonym: bool = False,
        synonyms: "dict[str, ConfigEntry] | None" = None,
        incremental_operation: AlterConfigOpType | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.source = source
        self.is_read_only = bool(is_read_only)
        self.is_default = bool(is_default)
        self.is_sensitive = bool(is_sensitive)
        self.is_synonym = bool(is_synonym)
        self.synonyms = synonyms if synonyms is not None else {}
        self.incremental_operation = incremental_operation

    def __repr__(self) -> str:
        return f'ConfigEntry({self.name}="{self.value}")'

    def __str__(self) -> str:
        return f'{self.name}="{self.value}"'


@functools.total_ordering
class ConfigResource:
    """A resource whose configuration is described or altered; equal and ordered by type and name."""

    Type: ClassVar = ResourceType

    def __init__(
        self,
        restype: ResourceType | str | int,
        name: str,
        set_config: dict[str, str] | None = None,
        described_configs: dict[str, ConfigEntry] | None = None,
        error: KafkaError | None = None,
        incremental_configs: list[ConfigEntry] | None = None,
    ) -> None:
        if name is None:
            raise ValueError("Expected resource name to be a string")
        self.restype = as_member(restype, ResourceType)
        self.restype_int = int(self.restype.value)
        self.name = name
        self.set_config_dict = dict(set_config or {})
        self.incremental_configs = list(incremental_configs or [])
        self.configs = described_configs
        self.error = error

    def __repr__(self) -> str:
        return f"ConfigResource({self.restype},{self.name}{f',{self.error!r}' if self.error is not None else ''})"

    def __hash__(self) -> int:
        return hash((self.restype, self.name))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConfigResource):
            return NotImplemented
        return (self.restype, self.name) == (other.restype, other.name)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, ConfigResource):
            return NotImplemented
        return self.restype < other.restype or self.name < other.name

    def __len__(self) -> int:
        return len(self.set_config_dict)

    def set_config(self, name: str, value: str, overwrite: bool = True) -> None:
        """Set a property for `alter_configs`, which puts what is not set back to its default."""
        if overwrite or name not in self.set_config_dict:
            self.set_config_dict[name] = value

    def add_incremental_config(self, config_entry: ConfigEntry) -> None:
        """Add an entry for `incremental_alter_configs`, which leaves the others as they are."""
        self.incremental_configs.append(config_entry)


class OffsetSpec:
    """Which offset `list_offsets` is to find: `earliest()`, `latest()`, `max_timestamp()`, `for_timestamp(ms)`."""

    def __init__(self, index: int) -> None:
        """The specification of a number: below zero a place, else a timestamp in milliseconds."""
        self._value = index

    @classmethod
    def earliest(cls) -> "OffsetSpec":
        """The first offset there is."""
        return cls(OFFSET_SPEC_EARLIEST)

    @classmethod
    def latest(cls) -> "OffsetSpec":
        """The offset after the last record."""
        return cls(OFFSET_SPEC_LATEST)

    @classmethod
    def max_timestamp(cls) -> "OffsetSpec":
        """The offset of the record with the greatest timestamp."""
        return cls(OFFSET_SPEC_MAX_TIMESTAMP)

    @classmethod
    def for_timestamp(cls, timestamp: int) -> "OffsetSpec":
        """The first offset whose record is at or after a time, in milliseconds since 1970 UTC."""
        return cls(timestamp)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, OffsetSpec):
            return NotImplemented
        return self._value < other._value


class ListOffsetsResultInfo:
    """An offset that was found; timestamp -1 where none was asked for, leader epoch None where it is not known."""

    def __init__(self, offset: int, timestamp: int, leader_epoch: int) -> None:
        self.offset = offset
        self.timestamp = timestamp
        self.leader_epoch = leader_epoch if leader_epoch >= 0 else None


class DeletedRecords:
    """Where a partition begins after records were deleted."""

    def __init__(self, low_watermark: int) -> None:
        self.low_watermark = low_watermark


def _operations(given: Any) -> list[AclOperation] | None:
    return [as_member(one, AclOperation) for one in given] if given else None


class TopicDescription:
    """A topic: `name`, `topic_id`, `is_internal`, `partitions`."""

    def __init__(
        self,
        name: str,
        topic_id: Uuid,
        is_internal: bool,
        partitions: list[TopicPartitionInfo],
        authorized_operations: list[Any] | None = None,
    ) -> None:
        self.name = name
        self.topic_id = topic_id
        self.is_internal = is_internal
        self.partitions = partitions
        self.authorized_operations = _operations(authorized_operations)


class DescribeClusterResult:
    """The cluster: `cluster_id`, `controller`, `nodes`."""

    def __init__(
        self,
        controller: Node,
        nodes: list[Node],
        cluster_id: str | None = None,
        authorized_operations: list[Any] | None = None,
    ) -> None:
        self.cluster_id = cluster_id
        self.controller = controller
        self.nodes = nodes
        self.authorized_operations = _operations(authorized_operations)


class ConsumerGroupListing:
    """A group in a list of groups."""

    def __init__(
        self,
        group_id: str,
        is_simple_consumer_group: bool,
        state: Any = None,
        type: Any = None,  # noqa: A002
    ) -> None:
        self.group_id = group_id
        self.is_simple_consumer_group = is_simple_consumer_group
        if state is not None:
            self.state = as_member(state, ConsumerGroupState)
        if type is not None:
            self.type = as_member(type, ConsumerGroupType)


class ListConsumerGroupsResult:
    """Groups in `valid`, what went wrong in `errors`."""

    def __init__(self, valid: list[ConsumerGroupListing] | None = None, errors: list[Exception] | None = None) -> None:
        self.valid = valid
        self.errors = errors


class MemberAssignment:
    """The partitions of a member."""

    def __init__(self, topic_partitions: list[TopicPartition] | None) -> None:
        self.topic_partitions = topic_partitions or []


class MemberDescription:
    """A member of a group."""

    def __init__(
        self,
        member_id: str,
        client_id: str,
        host: str,
        assignment: MemberAssignment,
        group_instance_id: str | None = None,
        target_assignment: MemberAssignment | None = None,
    ) -> None:
        self.member_id = member_id
        self.client_id = client_id
        self.host = host
        self.assignment = assignment
        self.target_assignment = target_assignment
        self.group_instance_id = group_instance_id


class ConsumerGroupDescription:
    """A group: its members, state, assignor and coordinator."""

    def __init__(
        self,
        group_id: str,
        is_simple_consumer_group: bool,
        members: list[MemberDescription],
        partition_assignor: str,
        state: Any,
        coordinator: Node,
        authorized_operations: list[Any] | None = None,
        type: Any = ConsumerGroupType.UNKNOWN,  # noqa: A002
    ) -> None:
        self.group_id = group_id
        self.is_simple_consumer_group = is_simple_consumer_group
        self.members = members
        self.authorized_operations = _operations(authorized_operations)
        self.partition_assignor = partition_assignor
        if state is not None:
            self.state = as_member(state, ConsumerGroupState)
        if type is not None:
            self.type = as_member(type, ConsumerGroupType)
        self.coordinator = coordinator
