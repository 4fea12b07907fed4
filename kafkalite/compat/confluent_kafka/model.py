"""The nouns: Message, TopicPartition, Uuid, Node, and what groups, topics and elections are described with."""
# ruff: noqa: SLF001  (a result is filled in by who makes it)

import base64
from collections.abc import Iterable, Iterator
from enum import Enum, IntEnum
from typing import Any, Final, Generic, TypeVar, overload

from kafkalite.compat.confluent_kafka.constants import OFFSET_INVALID, PARTITION_UA, TIMESTAMP_NOT_AVAILABLE
from kafkalite.compat.confluent_kafka.kafka_error import KafkaError

K = TypeVar("K")
V = TypeVar("V")

HeaderList = list[tuple[str, str | bytes | None]] | dict[str, str | bytes | None]
NO_TIMESTAMP: Final = (TIMESTAMP_NOT_AVAILABLE, 0)


class Message(Generic[K, V]):
    """A message that was consumed, or whose delivery is reported. Its parts are methods, as in confluent_kafka.

    `timestamp()` is (type, milliseconds since 1970 UTC), `latency()` seconds from `produce` to the acknowledgement.
    """

    __slots__ = (
        "_delivery_count",
        "_error",
        "_headers",
        "_key",
        "_latency",
        "_leader_epoch",
        "_offset",
        "_partition",
        "_timestamp",
        "_topic",
        "_value",
    )

    def __init__(
        self,
        topic: str | None = None,
        partition: int = PARTITION_UA,
        offset: int = OFFSET_INVALID,
        key: Any = None,
        value: Any = None,
        headers: Any = None,
        error: KafkaError | None = None,
        timestamp: tuple[int, int] = NO_TIMESTAMP,
        latency: float | None = None,
        leader_epoch: int | None = None,
        delivery_count: int | None = None,
    ) -> None:
        if timestamp.__class__ is not tuple:
            raise TypeError("timestamp must be a tuple of (int, int)")
        self._topic = topic
        self._partition = partition
        self._offset = offset
        self._key = key
        self._value = value
        self._headers = headers
        self._error = error
        self._timestamp = timestamp
        self._latency = latency
        self._leader_epoch = leader_epoch
        self._delivery_count = delivery_count

    def topic(self) -> str | None:
        """The topic's name."""
        return self._topic

    def partition(self) -> int | None:
        """The partition, or None if it has none yet."""
        return self._partition if self._partition != PARTITION_UA else None

    def offset(self) -> int | None:
        """The offset, or None if it has none."""
        return self._offset if self._offset >= 0 else None

    def key(self) -> Any:
        """The key: bytes, or what a deserializer made of it."""
        return self._key

    def value(self) -> Any:
        """The value: bytes, or what a deserializer made of it; of an error, its text."""
        return self._value

    def deserialized_key(self) -> K | None:
        """The same as `key()`, typed."""
        key: K | None = self._key
        return key

    def deserialized_value(self) -> V | None:
        """The same as `value()`, typed."""
        value: V | None = self._value
        return value

    def headers(self) -> Any:
        """A list of (name, bytes | None), or None where there are none."""
        return self._headers

    def error(self) -> KafkaError | None:
        """The error that this message tells of; None for one that bears data."""
        return self._error

    def timestamp(self) -> tuple[int, int]:
        """(TIMESTAMP_…, milliseconds since 1970 UTC)."""
        return self._timestamp

    def latency(self) -> float | None:
        """Seconds from `produce` to the acknowledgement; None for a consumed message."""
        return self._latency

    def leader_epoch(self) -> int | None:
        """The leader epoch in which the message was appended."""
        return self._leader_epoch

    def delivery_count(self) -> int | None:
        """How often a share group handed it out; None elsewhere."""
        return self._delivery_count

    def set_topic(self, topic: str) -> None:
        """Replace the topic."""
        self._topic = topic

    def set_key(self, key: Any) -> None:
        """Replace the key."""
        self._key = key

    def set_value(self, value: Any) -> None:
        """Replace the value."""
        self._value = value

    def set_headers(self, headers: Any) -> None:
        """Replace the headers."""
        self._headers = headers

    def set_error(self, error: KafkaError | None) -> None:
        """Replace the error."""
        self._error = error

    def __len__(self) -> int:
        return len(self._value) if self._value is not None else 0


class TopicPartition:
    """A partition of a topic, with an offset where one is meant; equal and ordered by topic and partition."""

    __slots__ = ("_error", "_leader_epoch", "_metadata", "_topic", "offset", "partition")

    def __init__(
        self,
        topic: str,
        partition: int = PARTITION_UA,
        offset: int = OFFSET_INVALID,
        metadata: str | None = None,
        leader_epoch: int | None = None,
    ) -> None:
        for place, text in ((1, topic), (4, metadata)):
            if not isinstance(text, str) and (place == 1 or text is not None):
                raise TypeError(f"argument {place} must be str, not {type(text).__name__}")
        for number in (partition, offset):
            if not isinstance(number, int):
                raise TypeError(f"{type(number).__name__!r} object cannot be interpreted as an integer")
        self._topic = topic
        self.partition = partition
        self.offset = offset
        self._metadata = metadata
        self._leader_epoch = leader_epoch if leader_epoch is not None and leader_epoch >= 0 else None
        self._error: KafkaError | None = None

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._topic

    @property
    def metadata(self) -> str | None:
        """What was committed along with the offset."""
        return self._metadata

    @property
    def leader_epoch(self) -> int | None:
        """The leader epoch of the offset, if it is known."""
        return self._leader_epoch

    @property
    def error(self) -> KafkaError | None:
        """What went wrong for this partition."""
        return self._error

    def __repr__(self) -> str:
        return (
            f"TopicPartition{{topic={self._topic},partition={self.partition},offset={self.offset},"
            f"leader_epoch={self._leader_epoch},error={self._error}}}"
        )

    def __hash__(self) -> int:
        return hash((self._topic, self.partition))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopicPartition):
            return NotImplemented
        return (self._topic, self.partition) == (other._topic, other.partition)

    def __lt__(self, other: "TopicPartition") -> bool:
        return (self._topic, self.partition) < (other._topic, other.partition)

    def __le__(self, other: "TopicPartition") -> bool:
        return (self._topic, self.partition) <= (other._topic, other.partition)

    def __gt__(self, other: "TopicPartition") -> bool:
        return (self._topic, self.partition) > (other._topic, other.partition)

    def __ge__(self, other: "TopicPartition") -> bool:
        return (self._topic, self.partition) >= (other._topic, other.partition)


def check_partitions(partitions: object) -> None:
    """Raise `TypeError` unless it is a list of `TopicPartition`."""
    if not isinstance(partitions, list):
        raise TypeError("requires list of TopicPartition")
    for one in partitions:
        check_partition(one)


def check_partition(partition: object) -> None:
    """Raise `TypeError` unless it is a `TopicPartition`."""
    if not isinstance(partition, TopicPartition):
        raise TypeError("expected cimpl.TopicPartition")


def answer(
    asked: TopicPartition, offset: int, error: KafkaError | None = None, metadata: str | None = None
) -> TopicPartition:
    """A `TopicPartition` as calls return it: the one asked for, with what was found."""
    found = TopicPartition(asked.topic, asked.partition, offset, metadata, asked.leader_epoch)
    found._error = error
    return found


class Uuid:
    """A 128-bit id, as Kafka gives topics; prints as unpadded base64."""

    __slots__ = ("_least", "_most")

    def __init__(self, most_significant_bits: int, least_significant_bits: int) -> None:
        self._most = most_significant_bits
        self._least = least_significant_bits

    def get_most_significant_bits(self) -> int:
        """The upper 64 bits, signed."""
        return self._most

    def get_least_significant_bits(self) -> int:
        """The lower 64 bits, signed."""
        return self._least

    def __str__(self) -> str:
        data = b"".join((half % 2**64).to_bytes(8, "big") for half in (self._most, self._least))
        return base64.b64encode(data).decode().rstrip("=")

    __repr__ = __str__

    def __hash__(self) -> int:
        return hash((self._most, self._least))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Uuid) and (self._most, self._least) == (other._most, other._least)


class Node:
    """A node of the cluster; a store is one, on this host."""

    def __init__(self, id: int, host: str, port: int, rack: str | None = None) -> None:  # noqa: A002
        self.id = id
        self.id_string = str(id)
        self.host = host
        self.port = port
        self.rack = rack

    def __str__(self) -> str:
        return f"({self.id}) {self.host}:{self.port} {f'(Rack - {self.rack})' if self.rack else ''}"


class Ordered(Enum):
    """An enumeration whose members order by value."""

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return bool(self.value < other.value)


class ConsumerGroupState(Ordered):
    """What a group is doing."""

    UNKNOWN = 0
    UNKOWN = 0
    PREPARING_REBALANCING = 1
    COMPLETING_REBALANCING = 2
    STABLE = 3
    DEAD = 4
    EMPTY = 5


class ConsumerGroupType(Ordered):
    """Which protocol a group's members speak."""

    UNKNOWN = 0
    CONSUMER = 1
    CLASSIC = 2


class IsolationLevel(Ordered):
    """Whether offsets count records of transactions that are not committed."""

    READ_UNCOMMITTED = 0
    READ_COMMITTED = 1


class ElectionType(Ordered):
    """How a leader is elected."""

    PREFERRED = 0
    UNCLEAN = 1


class AcknowledgeType(IntEnum):
    """What a share consumer says of a record."""

    ACCEPT = 1
    RELEASE = 2
    REJECT = 3


class ConsumerGroupTopicPartitions:
    """A group and partitions of it, for listing and altering offsets; None means all that it has."""

    def __init__(self, group_id: str, topic_partitions: list[TopicPartition] | None = None) -> None:
        self.group_id = group_id
        self.topic_partitions = topic_partitions


class TopicCollection:
    """The topics that a call is about."""

    def __init__(self, topic_names: list[str]) -> None:
        self.topic_names = topic_names


class TopicPartitionInfo:
    """A partition as `describe_topics` tells of it."""

    def __init__(self, id: int, leader: Node, replicas: list[Node], isr: list[Node]) -> None:  # noqa: A002
        self.id = id
        self.leader = leader
        self.replicas = replicas
        self.isr = isr


class Messages:
    """A batch of messages: a sequence that also counts itself."""

    def __init__(self, messages: Iterable[Message[Any, Any]] = ()) -> None:
        self._records = list(messages)

    def records(self) -> list[Message[Any, Any]]:
        """A copy of the messages as a list."""
        return list(self._records)

    def count(self) -> int:
        """How many there are."""
        return len(self._records)

    def is_empty(self) -> bool:
        """Whether there are none."""
        return not self._records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Message[Any, Any]]:
        return iter(self._records)

    @overload
    def __getitem__(self, index: int) -> Message[Any, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "Messages": ...
    def __getitem__(self, index: int | slice) -> "Message[Any, Any] | Messages":
        return Messages(self._records[index]) if isinstance(index, slice) else self._records[index]

    def __repr__(self) -> str:
        return f"Messages({self._records!r})"


class ThrottleEvent:
    """A request that a broker held up; a store never does."""

    def __init__(self, broker_name: str, broker_id: int, throttle_time: float) -> None:
        self.broker_name = broker_name
        self.broker_id = broker_id
        self.throttle_time = throttle_time

    def __str__(self) -> str:
        return f"{self.broker_name}/{self.broker_id} throttled for {int(self.throttle_time * 1000)} ms"
