"""What `list_topics` and `list_groups` answer with."""

from typing import Any

from kafkalite.compat.confluent_kafka.kafka_error import KafkaError


class BrokerMetadata:
    """A broker: `id`, `host`, `port`."""

    def __init__(self) -> None:
        self.id = -1
        self.host: str | None = None
        self.port = -1

    def __repr__(self) -> str:
        return f"BrokerMetadata({self.id}, {self.host}:{self.port})"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.id}"


class PartitionMetadata:
    """A partition: `id`, the broker ids of `leader`, `replicas` and `isrs`, and `error`."""

    def __init__(self) -> None:
        self.id = -1
        self.leader = -1
        self.replicas: list[int] = []
        self.isrs: list[int] = []
        self.error: KafkaError | None = None

    def __repr__(self) -> str:
        return f"PartitionMetadata({self.id}{f', {self.error}' if self.error is not None else ''})"

    def __str__(self) -> str:
        return str(self.id)


class TopicMetadata:
    """A topic: `topic`, its `partitions` by id, and `error`."""

    def __init__(self) -> None:
        self.topic: str | None = None
        self.partitions: dict[int, PartitionMetadata] = {}
        self.error: KafkaError | None = None

    def __repr__(self) -> str:
        error = f", {self.error}" if self.error is not None else ""
        return f"TopicMetadata({self.topic}, {len(self.partitions)} partitions{error})"

    def __str__(self) -> str:
        return str(self.topic)


class ClusterMetadata:
    """A cluster: `cluster_id`, `controller_id`, `brokers` by id and `topics` by name."""

    def __init__(self) -> None:
        self.cluster_id: str | None = None
        self.controller_id = -1
        self.brokers: dict[int, BrokerMetadata] = {}
        self.topics: dict[str, TopicMetadata] = {}
        self.orig_broker_id = -1
        self.orig_broker_name: str | None = None

    def __repr__(self) -> str:
        return f"ClusterMetadata({self.cluster_id})"

    def __str__(self) -> str:
        return str(self.cluster_id)


class GroupMember:
    """A member of a group as `list_groups` tells of it."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.client_id: str | None = None
        self.client_host: str | None = None
        self.metadata: bytes | None = None
        self.assignment: bytes | None = None


class GroupMetadata:
    """A group as `list_groups` tells of it."""

    def __init__(self) -> None:
        self.broker: BrokerMetadata | None = None
        self.id: str | None = None
        self.error: KafkaError | None = None
        self.state: str | None = None
        self.protocol_type: str | None = None
        self.protocol: str | None = None
        self.members: list[Any] = []

    def __repr__(self) -> str:
        return f"GroupMetadata({self.id}{f', {self.error}' if self.error is not None else ''})"

    def __str__(self) -> str:
        return str(self.id)
