"""confluent_kafka.admin: AdminClient on a store. Calls do their work at once and answer with futures that are done.

A store is a cluster of one node: replication factors are taken and give one replica, elections find the leader that is
there, access rules are answered as a broker without an authorizer answers.
"""
# ruff: noqa: SLF001  (reads what a specification stands for)

import uuid
import warnings
from concurrent.futures import Future
from typing import Any, ClassVar, Final, Self

import kafkalite
from kafkalite.compat.confluent_kafka import groups, properties, topic_configs
from kafkalite.compat.confluent_kafka.absent import absent_method
from kafkalite.compat.confluent_kafka.admin_access import (
    AclBinding,
    AclBindingFilter,
    ScramCredentialInfo,
    UserScramCredentialAlteration,
    UserScramCredentialDeletion,
    UserScramCredentialsDescription,
    UserScramCredentialUpsertion,
)
from kafkalite.compat.confluent_kafka.admin_types import (
    AclOperation,
    AclPermissionType,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    ConsumerGroupDescription,
    ConsumerGroupListing,
    DeletedRecords,
    DescribeClusterResult,
    ListConsumerGroupsResult,
    ListOffsetsResultInfo,
    MemberAssignment,
    MemberDescription,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
    ScramMechanism,
    TopicDescription,
)
from kafkalite.compat.confluent_kafka.client import Local
from kafkalite.compat.confluent_kafka.cluster import Cluster
from kafkalite.compat.confluent_kafka.constants import (
    OFFSET_END,
    OFFSET_INVALID,
    OFFSET_SPEC_EARLIEST,
    OFFSET_SPEC_LATEST,
)
from kafkalite.compat.confluent_kafka.futures import done, for_each
from kafkalite.compat.confluent_kafka.kafka_error import Code, KafkaError, KafkaException, failed
from kafkalite.compat.confluent_kafka.metadata import (
    BrokerMetadata,
    ClusterMetadata,
    GroupMember,
    GroupMetadata,
    PartitionMetadata,
    TopicMetadata,
)
from kafkalite.compat.confluent_kafka.model import (
    ConsumerGroupTopicPartitions,
    ElectionType,
    IsolationLevel,
    TopicCollection,
    TopicPartition,
    TopicPartitionInfo,
    Uuid,
)
from kafkalite.compat.confluent_kafka.reading import max_timestamp, offset_at

CONFIG_SOURCE_UNKNOWN_CONFIG: Final = 0
CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG: Final = 1
CONFIG_SOURCE_DYNAMIC_BROKER_CONFIG: Final = 2
CONFIG_SOURCE_DYNAMIC_DEFAULT_BROKER_CONFIG: Final = 3
CONFIG_SOURCE_STATIC_BROKER_CONFIG: Final = 4
CONFIG_SOURCE_DEFAULT_CONFIG: Final = 5
CONFIG_SOURCE_GROUP_CONFIG: Final = 8
RESOURCE_UNKNOWN: Final = 0
RESOURCE_ANY: Final = 1
RESOURCE_TOPIC: Final = 2
RESOURCE_GROUP: Final = 3
RESOURCE_BROKER: Final = 4
RESOURCE_TRANSACTIONAL_ID: Final = 5

__all__ = [
    "AclBinding",
    "AclBindingFilter",
    "AclOperation",
    "AclPermissionType",
    "AdminClient",
    "AlterConfigOpType",
    "BrokerMetadata",
    "CONFIG_SOURCE_DEFAULT_CONFIG",
    "CONFIG_SOURCE_DYNAMIC_BROKER_CONFIG",
    "CONFIG_SOURCE_DYNAMIC_DEFAULT_BROKER_CONFIG",
    "CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG",
    "CONFIG_SOURCE_GROUP_CONFIG",
    "CONFIG_SOURCE_STATIC_BROKER_CONFIG",
    "CONFIG_SOURCE_UNKNOWN_CONFIG",
    "ClusterMetadata",
    "ConfigEntry",
    "ConfigResource",
    "ConfigSource",
    "ConsumerGroupDescription",
    "ConsumerGroupListing",
    "DeletedRecords",
    "DescribeClusterResult",
    "GroupMember",
    "GroupMetadata",
    "KafkaError",
    "KafkaException",
    "ListConsumerGroupsResult",
    "ListOffsetsResultInfo",
    "MemberAssignment",
    "MemberDescription",
    "NewPartitions",
    "NewTopic",
    "OFFSET_INVALID",
    "OffsetSpec",
    "PartitionMetadata",
    "RESOURCE_ANY",
    "RESOURCE_BROKER",
    "RESOURCE_GROUP",
    "RESOURCE_TOPIC",
    "RESOURCE_TRANSACTIONAL_ID",
    "RESOURCE_UNKNOWN",
    "ResourcePatternType",
    "ResourceType",
    "ScramCredentialInfo",
    "ScramMechanism",
    "TopicDescription",
    "TopicMetadata",
    "UserScramCredentialAlteration",
    "UserScramCredentialDeletion",
    "UserScramCredentialUpsertion",
    "UserScramCredentialsDescription",
]

NO_AUTHORIZER: Final = "No Authorizer is configured on the broker"
MAX_NEW_PARTITIONS: Final = 100_000
"""What librdkafka takes."""
Futures = dict[Any, "Future[Any]"]


class AdminClient(Local):
    """Creates, describes, alters and deletes topics and groups. `request_timeout` and the like are taken, and nothing
    waits for them.
    """

    _client: ClassVar[properties.Client] = "admin client"

    def __init__(self, conf: dict[str, Any], **kwargs: Any) -> None:
        """Take a configuration dictionary; raises `KafkaException` (`_INVALID_ARG`), `TypeError`."""
        self._connect((conf,), kwargs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._release()

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return True

    def _use(self) -> Cluster:
        if self._lease is None:
            raise RuntimeError("AdminClient has been closed")
        return self._lease.cluster

    def poll(self, timeout: float = -1) -> int:
        """Nothing is ever pending: 0."""
        del timeout
        self._use()
        return 0

    # Topics

    def create_topics(self, new_topics: list[NewTopic], **kwargs: Any) -> Futures:
        """Create topics; by name, a future that is None or raises (`TOPIC_ALREADY_EXISTS`, `INVALID_PARTITIONS` …)."""
        cluster = self._use()
        wanted = {topic.topic: topic for topic in new_topics}
        if not wanted:
            raise ValueError("Expected non-empty list of NewTopic objects")
        validate_only = bool(kwargs.get("validate_only", False))
        return for_each(wanted, lambda name: _create(cluster, wanted[name], validate_only=validate_only))

    def delete_topics(self, topics: list[str], **kwargs: Any) -> Futures:
        """Delete topics; by name, a future that is None or raises (`UNKNOWN_TOPIC_OR_PART`)."""
        del kwargs
        cluster = self._use()
        if not topics or not isinstance(topics, list):
            raise ValueError("Expected non-empty list of topic strings")

        def delete(name: str) -> None:
            cluster.forget_topic(name)
            cluster.store.delete_topic(name)

        return for_each(topics, delete)

    def describe_topics(self, topics: TopicCollection, **kwargs: Any) -> Futures:
        """By name, a future of a `TopicDescription`."""
        del kwargs
        cluster = self._use()
        if not isinstance(topics, TopicCollection):
            raise TypeError("Expected input to be instance of TopicCollection")
        if not isinstance(topics.topic_names, list):
            raise TypeError("Expected list of topic names to be described")

        def describe(name: str) -> TopicDescription:
            node = cluster.node()
            count = cluster.topic(name).partition_count
            partitions = [TopicPartitionInfo(number, node, [node], [node]) for number in range(count)]
            return TopicDescription(name, _topic_id(cluster, name), False, partitions)

        return for_each(topics.topic_names, describe)

    def create_partitions(self, new_partitions: list[NewPartitions], **kwargs: Any) -> Futures:
        """Give topics more partitions; by name, a future that is None or raises (`INVALID_PARTITIONS`,
        `UNKNOWN_TOPIC_OR_PART` …). With `validate_only` nothing is done.
        """
        cluster = self._use()
        wanted = {one.topic: one for one in new_partitions}
        if not wanted or not isinstance(new_partitions, list):
            raise ValueError("Expected non-empty list of NewPartitions objects")
        for one in new_partitions:
            _check_new_partitions(one)
        validate_only = kwargs.get("validate_only", False)
        if not isinstance(validate_only, bool):
            raise TypeError(f"Expected validate_only to be bool type, not {type(validate_only).__name__}")
        return for_each(wanted, lambda name: _grow(cluster, wanted[name], validate_only=validate_only))

    delete_records = absent_method("AdminClient.delete_records")

    def describe_cluster(self, **kwargs: Any) -> "Future[DescribeClusterResult]":
        """A future of a `DescribeClusterResult`: one node, which is its controller."""
        del kwargs
        cluster = self._use()
        return done(lambda: DescribeClusterResult(cluster.node(), [cluster.node()], cluster.id))

    def elect_leaders(
        self, election_type: ElectionType, partitions: list[TopicPartition] | None = None, **kwargs: Any
    ) -> "Future[Any]":
        """A future of {partition: KafkaError}: the leader that is there is the only one there can be."""
        del kwargs
        cluster = self._use()
        if not isinstance(election_type, ElectionType):
            raise TypeError("Expected 'election_type' to be of type 'ElectionType'")
        _check_partitions(partitions, "partitions")
        return done(lambda: {one: _election(cluster, one) for one in partitions or []})

    # Configurations

    def describe_configs(self, resources: list[ConfigResource], **kwargs: Any) -> Futures:
        """By resource, a future of {name: ConfigEntry}; topics have one."""
        del kwargs
        cluster = self._use()
        return for_each(_checked_resources(resources), lambda one: topic_configs.entries(_topic_of(cluster, one)))

    def alter_configs(self, resources: list[ConfigResource], **kwargs: Any) -> Futures:
        """Replace configurations; what is not given goes back to its default. Deprecated, as in confluent_kafka."""
        warnings.warn(
            "alter_configs has been deprecated. Use incremental_alter_configs instead.",
            category=DeprecationWarning,
            stacklevel=2,
        )
        cluster = self._use()

        def alter(resource: ConfigResource) -> None:
            topic = _topic_of(cluster, resource)
            settings = topic_configs.settings({**topic_configs.DEFAULTS, **resource.set_config_dict})
            if not kwargs.get("validate_only"):
                topic.alter(**settings)

        return for_each(_checked_resources(resources), alter)

    def incremental_alter_configs(self, resources: list[ConfigResource], **kwargs: Any) -> Futures:
        """Alter the entries that are given and leave the others."""
        cluster = self._use()
        for resource in resources:
            if not isinstance(resource, ConfigResource):
                raise TypeError(f"Expected list of {ConfigResource!r}")

        def alter(resource: ConfigResource) -> None:
            topic = _topic_of(cluster, resource)
            settings = topic_configs.altered(topic, resource.incremental_configs)
            if settings and not kwargs.get("validate_only"):
                topic.alter(**settings)

        return for_each(resources, alter)

    # Offsets

    def list_offsets(self, topic_partition_offsets: dict[TopicPartition, OffsetSpec], **kwargs: Any) -> Futures:
        """By partition, a future of a `ListOffsetsResultInfo`."""
        cluster = self._use()
        if not isinstance(topic_partition_offsets, dict):
            raise TypeError(
                "Expected topic_partition_offsets to be dict of [TopicPartitions,OffsetSpec] for list offsets request"
            )
        _check_partitions(list(topic_partition_offsets), "topic_partition_offsets")
        if not all(isinstance(spec, OffsetSpec) for spec in topic_partition_offsets.values()):
            raise TypeError("Value must be a OffsetSpec")
        if not isinstance(kwargs.get("isolation_level", IsolationLevel.READ_UNCOMMITTED), IsolationLevel):
            raise TypeError("isolation_level argument should be an IsolationLevel")
        return for_each(
            topic_partition_offsets, lambda one: _listed_offset(cluster, one, topic_partition_offsets[one]._value)
        )

    # Groups

    def list_groups(self, group: str | None = None, timeout: float = -1) -> list[GroupMetadata]:
        """All groups, or one. Deprecated, as in confluent_kafka."""
        del timeout
        warnings.warn(
            "list_groups() is deprecated, use list_consumer_groups() and describe_consumer_groups() instead.",
            category=DeprecationWarning,
            stacklevel=2,
        )
        return groups.old_metadata(self._use(), group)

    def list_consumer_groups(self, **kwargs: Any) -> "Future[ListConsumerGroupsResult]":
        """A future of the groups, those of some `states` and `types` only if they are given."""
        cluster = self._use()
        states, types = groups.checked_filters(kwargs)
        return done(lambda: ListConsumerGroupsResult(groups.listed(cluster, states, types), []))

    def describe_consumer_groups(self, group_ids: list[str], **kwargs: Any) -> Futures:
        """By group, a future of a `ConsumerGroupDescription`; one that is not there is described as dead."""
        del kwargs
        cluster = self._use()
        groups.check_ids(group_ids, "described")
        return for_each(group_ids, lambda group_id: groups.described(cluster, group_id))

    def delete_consumer_groups(self, group_ids: list[str], **kwargs: Any) -> Futures:
        """By group, a future that is None or raises (`GROUP_ID_NOT_FOUND`, `NON_EMPTY_GROUP`)."""
        del kwargs
        cluster = self._use()
        groups.check_ids(group_ids, "deleted")
        return for_each(group_ids, lambda group_id: groups.deleted(cluster, group_id))

    def list_consumer_group_offsets(
        self, list_consumer_group_offsets_request: list[ConsumerGroupTopicPartitions], **kwargs: Any
    ) -> Futures:
        """By group, a future of `ConsumerGroupTopicPartitions` with the offsets it has committed."""
        del kwargs
        cluster = self._use()
        (request,) = groups.checked_request(list_consumer_group_offsets_request, "listing", with_offsets=False)
        return for_each(
            [request.group_id],
            lambda group_id: ConsumerGroupTopicPartitions(
                group_id, groups.fetched(cluster, group_id, request.topic_partitions)
            ),
        )

    def alter_consumer_group_offsets(
        self, alter_consumer_group_offsets_request: list[ConsumerGroupTopicPartitions], **kwargs: Any
    ) -> Futures:
        """Commit offsets for a group without members; by group, a future of them, each with its `error` or None."""
        del kwargs
        cluster = self._use()
        (request,) = groups.checked_request(alter_consumer_group_offsets_request, "altering", with_offsets=True)
        return for_each(
            [request.group_id],
            lambda group_id: ConsumerGroupTopicPartitions(
                group_id, groups.altered(cluster, group_id, request.topic_partitions or [])
            ),
        )

    # Access rules and credentials

    def create_acls(self, acls: list[AclBinding], **kwargs: Any) -> Futures:
        """By rule, a future that raises `SECURITY_DISABLED`: there is no authorizer."""
        return self._without_authorizer(acls, AclBinding, "ACL bindings", kwargs)

    def delete_acls(self, acl_binding_filters: list[AclBindingFilter], **kwargs: Any) -> Futures:
        """By filter, a future that raises `SECURITY_DISABLED`."""
        return self._without_authorizer(acl_binding_filters, AclBindingFilter, "ACL binding filters", kwargs)

    def describe_acls(self, acl_binding_filter: AclBindingFilter, **kwargs: Any) -> "Future[Any]":
        """A future of no rules: there is no authorizer."""
        self._without_authorizer([acl_binding_filter], AclBindingFilter, "filters", kwargs)
        return done(list)

    def _without_authorizer(self, rules: list[Any], kind: type, shown: str, options: dict[str, Any]) -> Futures:
        del options
        self._use()
        for rule in rules:
            if not isinstance(rule, kind):
                raise ValueError(f"Expected list of {kind!r}")  # noqa: TRY004  (confluent-kafka's)
        if len(set(rules)) < len(rules):
            raise ValueError(f"duplicate {shown} not allowed")

        def refuse(_: object) -> None:
            raise failed(Code.SECURITY_DISABLED, NO_AUTHORIZER)

        return for_each(rules, refuse)

    describe_user_scram_credentials = absent_method("AdminClient.describe_user_scram_credentials")
    alter_user_scram_credentials = absent_method("AdminClient.alter_user_scram_credentials")


def _create(cluster: Cluster, wanted: NewTopic, *, validate_only: bool) -> None:
    """Create a topic, or only find out whether it could be; raises what a broker answers."""
    count = 1 if wanted.num_partitions == -1 else wanted.num_partitions
    if wanted.replica_assignment:
        count = len(wanted.replica_assignment)
    if count < 1:
        raise failed(Code.INVALID_PARTITIONS, "Number of partitions must be larger than 0.")
    settings = topic_configs.settings(wanted.config or {})
    if wanted.topic in cluster.store.topics():
        raise failed(Code.TOPIC_ALREADY_EXISTS, f"Topic '{wanted.topic}' already exists.")
    if not validate_only:
        cluster.store.topic(wanted.topic, partitions=count, **settings)


def _check_new_partitions(wanted: NewPartitions) -> None:
    """Raise what librdkafka refuses before it asks a broker."""
    if not 1 <= wanted.new_total_count <= MAX_NEW_PARTITIONS:
        raise ValueError(
            f"Invalid NewPartitions({wanted.topic}): new_total_cnt out of expected range 1..{MAX_NEW_PARTITIONS}"
        )
    replicas = wanted.replica_assignment
    is_list = isinstance(replicas, list) and all(isinstance(one, list) for one in replicas)
    if replicas is not None and not (is_list and all(isinstance(node, int) for one in replicas for node in one)):
        raise ValueError(
            "replica_assignment must be a list of int lists with an outer size of new_total_count - existing partition "
            "count"
        )


def _grow(cluster: Cluster, wanted: NewPartitions, *, validate_only: bool) -> None:
    """Add partitions to a topic, or only find out whether they could be; raises what a broker answers."""
    topic, count = cluster.topic(wanted.topic), wanted.new_total_count
    has, replicas = topic.partition_count, wanted.replica_assignment
    if count == has:
        raise failed(Code.INVALID_PARTITIONS, f"Topic already has {has} partition(s).")
    if count < has:
        raise failed(
            Code.INVALID_PARTITIONS,
            f"The topic {wanted.topic} currently has {has} partition(s); {count} would not be an increase.",
        )
    if replicas is not None and len(replicas) != count - has:
        raise failed(
            Code.INVALID_REPLICA_ASSIGNMENT,
            f"Attempted to add {count - has} additional partition(s), but only {len(replicas)} assignment(s) were "
            "specified.",
        )
    if not validate_only:
        topic.alter(partitions=count)


def _topic_id(cluster: Cluster, name: str) -> Uuid:
    """A topic's id: the same as long as the store lies where it does."""
    found = uuid.uuid5(uuid.NAMESPACE_URL, f"{cluster.id}/{name}").int
    halves = [part - 2**64 if part >= 2**63 else part for part in (found >> 64, found & 2**64 - 1)]
    return Uuid(*halves)


def _topic_of(cluster: Cluster, resource: ConfigResource) -> kafkalite.Topic[bytes, bytes | None]:
    if resource.restype is not ResourceType.TOPIC:
        kind = resource.restype.name.lower()
        raise failed(Code.INVALID_REQUEST, f"A store has no configuration of a {kind}: only its topics have one")
    return cluster.topic(resource.name)


def _checked_resources(resources: list[ConfigResource]) -> list[ConfigResource]:
    for resource in resources:
        if not isinstance(resource, ConfigResource):
            raise ValueError(f"Expected list of {ConfigResource!r}")  # noqa: TRY004  (confluent-kafka's)
    return resources


def _check_partitions(partitions: list[TopicPartition] | None, name: str) -> None:
    if partitions is None:
        return
    if not isinstance(partitions, list):
        raise TypeError(f"Expected '{name}' to be a list, got '{type(partitions).__name__}'")
    for one in partitions:
        if not isinstance(one, TopicPartition):
            raise TypeError(f"Element of the '{name}' list must be of type 'TopicPartition' got '{type(one).__name__}'")
        if one.partition < 0:
            raise ValueError(f"Elements of the '{name}' list must not have negative value for 'partition' field")


def _exists(cluster: Cluster, one: TopicPartition) -> bool:
    try:
        return one.partition < cluster.topic(one.topic).partition_count
    except kafkalite.UnknownTopicError:
        return False


def _election(cluster: Cluster, one: TopicPartition) -> KafkaError:
    if _exists(cluster, one):
        return KafkaError(Code.ELECTION_NOT_NEEDED, "Leader election not needed for topic partition.")
    return KafkaError(Code.UNKNOWN_TOPIC_OR_PART, "The partition does not exist.")


def _listed_offset(cluster: Cluster, one: TopicPartition, spec: int) -> ListOffsetsResultInfo:
    if not _exists(cluster, one):
        raise failed(Code.NOENT, "Failed to query partition leaders: No leaders found")
    topic = cluster.topic(one.topic)
    if spec == OFFSET_SPEC_EARLIEST:
        return ListOffsetsResultInfo(topic.beginning_offsets()[one.partition], -1, -1)
    if spec == OFFSET_SPEC_LATEST:
        return ListOffsetsResultInfo(topic.end_offsets()[one.partition], -1, -1)
    if spec >= 0:
        found = offset_at(topic, one.partition, spec)
        return ListOffsetsResultInfo(OFFSET_END, -1, -1) if found is None else ListOffsetsResultInfo(*found, -1)
    offset, stamp = max_timestamp(topic, one.partition)
    return ListOffsetsResultInfo(offset, stamp, -1)
