"""Groups as AdminClient and consumers speak of them: Kafka's answers and errors for what the store's are."""

from collections.abc import Sequence
from typing import Any

import kafkalite
from kafkalite.compat.confluent_kafka.admin_types import (
    ConsumerGroupDescription,
    ConsumerGroupListing,
    MemberAssignment,
    MemberDescription,
)
from kafkalite.compat.confluent_kafka.cluster import Cluster
from kafkalite.compat.confluent_kafka.constants import OFFSET_INVALID
from kafkalite.compat.confluent_kafka.kafka_error import Code, KafkaException, error_of, failed
from kafkalite.compat.confluent_kafka.metadata import GroupMember, GroupMetadata
from kafkalite.compat.confluent_kafka.model import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    ConsumerGroupType,
    TopicPartition,
    answer,
)
from kafkalite.errors import GroupNotEmptyError, GroupNotFoundError
from kafkalite.group_admin import (
    Committed,
    GroupInfo,
    commit_offsets,
    committed_offsets,
    delete_group,
    describe_group,
    list_groups,
)


def listed(
    cluster: Cluster, states: set[ConsumerGroupState] | None, types: set[ConsumerGroupType] | None
) -> list[ConsumerGroupListing]:
    """All groups, or those of some states and types."""
    found = []
    for info in list_groups(cluster.store):
        state = _state(info)
        if (not states or state in states) and (not types or ConsumerGroupType.CONSUMER in types):
            found.append(ConsumerGroupListing(info.group_id, False, state, ConsumerGroupType.CONSUMER))
    return found


def _state(info: GroupInfo) -> ConsumerGroupState:
    return ConsumerGroupState.STABLE if info.members else ConsumerGroupState.EMPTY


def described(cluster: Cluster, group_id: str) -> ConsumerGroupDescription:
    """A group; one that nobody has heard of is dead."""
    try:
        info = describe_group(cluster.store, group_id)
    except GroupNotFoundError:
        return ConsumerGroupDescription(
            group_id, False, [], "", ConsumerGroupState.DEAD, cluster.node(), type=ConsumerGroupType.UNKNOWN
        )
    return ConsumerGroupDescription(
        group_id,
        False,
        [
            MemberDescription(
                one.member_id,
                one.client_id,
                one.host,
                _assignment(one.partitions),
                one.instance_id,
                _assignment(one.target),
            )
            for one in info.members
        ],
        info.assignor,
        _state(info),
        cluster.node(),
        type=ConsumerGroupType.CONSUMER,
    )


def _assignment(places: Sequence[tuple[str, int]]) -> MemberAssignment:
    return MemberAssignment([TopicPartition(*place) for place in places])


def old_metadata(cluster: Cluster, only: str | None) -> list[GroupMetadata]:
    """What the deprecated `list_groups` answers."""
    broker = next(iter(cluster.metadata(topic="").brokers.values()))
    answers = []
    for info in list_groups(cluster.store):
        if only is not None and info.group_id != only:
            continue
        found = GroupMetadata()
        found.broker, found.id, found.protocol_type, found.protocol = broker, info.group_id, "consumer", info.assignor
        found.state = "Stable" if info.members else "Empty"
        for one in info.members:
            member = GroupMember()
            member.id, member.client_id, member.client_host = one.member_id, one.client_id, one.host
            found.members.append(member)
        answers.append(found)
    return answers


def deleted(cluster: Cluster, group_id: str) -> None:
    """Delete a group without members."""
    try:
        delete_group(cluster.store, group_id)
    except GroupNotEmptyError as error:
        raise failed(Code.NON_EMPTY_GROUP, "The group is not empty.") from error
    except GroupNotFoundError as error:
        raise failed(Code.GROUP_ID_NOT_FOUND, "The group id does not exist.") from error


def fetched(cluster: Cluster, group_id: str, partitions: Sequence[TopicPartition] | None) -> list[TopicPartition]:
    """What a group has committed, for these partitions or all it has; `OFFSET_INVALID` where nothing."""
    found = committed_offsets(cluster.store, group_id)
    if partitions is None:
        return [TopicPartition(*place, one.offset, one.metadata or None) for place, one in sorted(found.items())]
    answers = []
    for asked in partitions:
        one = found.get(kafkalite.TopicPartition(asked.topic, asked.partition), Committed(OFFSET_INVALID))
        answers.append(answer(asked, one.offset, None, one.metadata or None))
    return answers


def committed(cluster: Cluster, group_id: str, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
    """Commit offsets for a group without members; raises `KafkaException` (`UNKNOWN_MEMBER_ID`) for one with some."""
    wanted = {
        kafkalite.TopicPartition(one.topic, one.partition): Committed(one.offset, one.metadata or "")
        for one in partitions
    }
    try:
        commit_offsets(cluster.store, group_id, wanted)
    except GroupNotEmptyError as error:
        raise failed(Code.UNKNOWN_MEMBER_ID, f"Commit failed: {error}") from error
    return [answer(one, one.offset, None, one.metadata) for one in partitions]


def altered(cluster: Cluster, group_id: str, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
    """The same for AdminClient: what was committed, and what was not bears its error, as a broker answers."""
    try:
        return committed(cluster, group_id, partitions)
    except KafkaException as refused:
        error = refused.args[0]
    except kafkalite.KafkaliteError as refused:
        error = error_of(refused)
    if len(partitions) == 1:
        return [answer(partitions[0], partitions[0].offset, error, partitions[0].metadata)]
    return [found for one in partitions for found in altered(cluster, group_id, [one])]


# What AdminClient is given


def check_ids(group_ids: object, verb: str) -> None:
    """Raise unless it is a list of at least one group id."""
    if not isinstance(group_ids, list):
        raise TypeError(f"Expected input to be list of group ids to be {verb}")
    if not group_ids:
        raise ValueError(f"Expected at least one group to be {verb}")


def checked_filters(
    options: dict[str, Any],
) -> tuple[set[ConsumerGroupState] | None, set[ConsumerGroupType] | None]:
    """The `states` and `types` that a list of groups is asked for."""
    for name, kind in (("states", ConsumerGroupState), ("types", ConsumerGroupType)):
        given = options.get(name)
        if given is not None and not isinstance(given, set):
            raise TypeError(f"'{name}' must be a set")
        if given and not all(isinstance(one, kind) for one in given):
            raise TypeError(f"All elements of {name} must be of type {kind.__name__}")
    return options.get("states"), options.get("types")


def checked_request(request: Any, verb: str, *, with_offsets: bool) -> list[ConsumerGroupTopicPartitions]:
    """The one group that a request about offsets is for, its partitions checked as confluent_kafka checks them."""
    if request is None:
        raise TypeError("request cannot be None")
    if not isinstance(request, list):
        raise TypeError("request must be a list")
    if len(request) != 1:
        raise ValueError(f"Currently we support {verb} offsets for a single consumer group only")
    one = request[0]
    if not isinstance(one, ConsumerGroupTopicPartitions):
        raise TypeError("Expected list of 'ConsumerGroupTopicPartitions'")
    if not isinstance(one.group_id, str):
        raise TypeError("'group_id' must be a string")
    if not one.group_id:
        raise ValueError("'group_id' cannot be empty")
    if one.topic_partitions is None:
        if with_offsets:
            raise ValueError("'topic_partitions' cannot be null")
        return [one]
    _check_partitions(one.topic_partitions, with_offsets=with_offsets)
    return [one]


def _check_partitions(partitions: Any, *, with_offsets: bool) -> None:
    if not isinstance(partitions, list):
        raise TypeError("'topic_partitions' must be a list")
    if not partitions:
        raise ValueError("'topic_partitions' cannot be empty")
    for one in partitions:
        if not isinstance(one, TopicPartition):
            raise TypeError("Element of 'topic_partitions' must be of type TopicPartition")
        if not one.topic:
            raise ValueError("Element of 'topic_partitions' must not have 'topic' attribute as Empty")
        if one.partition < 0:
            raise ValueError("Element of 'topic_partitions' must not have negative 'partition' value")
        if with_offsets and one.offset < 0:
            raise ValueError("Element of 'topic_partitions' must not have negative value for 'offset' field")
        if not with_offsets and one.offset != OFFSET_INVALID:
            raise ValueError("Element of 'topic_partitions' must not have 'offset' value")
