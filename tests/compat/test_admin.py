"""AdminClient on a store; librdkafka's mock cluster knows none of this."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from kafkalite.clock import Deadline
from kafkalite.compat import confluent_kafka as ck
from kafkalite.compat.confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)
from kafkalite.partitioner import KeyPartitions
from tests.compat.conftest import MOCK_PARTITIONS, Library

PATIENCE_S = 30.0


@pytest.fixture
def admin(own: Library) -> Iterator[AdminClient]:
    with AdminClient(own.conf()) as client:
        yield client


def refused(future: Any) -> int:
    """The code with which a future fails."""
    with pytest.raises(ck.KafkaException) as raised:
        future.result()
    code: int = raised.value.args[0].code()
    return code


def test_topics_are_created_described_and_deleted(own: Library, admin: AdminClient) -> None:
    first, second = own.name("first"), own.name("second")
    made = admin.create_topics([NewTopic(first, 3, 1), NewTopic(second)])
    assert {name: future.result() for name, future in made.items()} == {first: None, second: None}
    described = admin.describe_topics(ck.TopicCollection([first]))[first].result()
    assert (described.name, [one.id for one in described.partitions], described.is_internal) == (
        first,
        [0, 1, 2],
        False,
    )
    assert described.partitions[0].leader.id == admin.describe_cluster().result().controller.id
    assert len(admin.list_topics().topics[second].partitions) == 1
    assert admin.delete_topics([first])[first].result() is None
    assert first not in admin.list_topics().topics


def test_topic_errors_are_kafkas(own: Library, admin: AdminClient) -> None:
    topic = own.topic()
    assert refused(admin.create_topics([NewTopic(topic, 1)])[topic]) == ck.KafkaError.TOPIC_ALREADY_EXISTS
    assert refused(admin.create_topics([NewTopic("a b", 1)])["a b"]) == ck.KafkaError.TOPIC_EXCEPTION
    assert refused(admin.create_topics([NewTopic("none", 0)])["none"]) == ck.KafkaError.INVALID_PARTITIONS
    assert refused(admin.delete_topics(["absent"])["absent"]) == ck.KafkaError.UNKNOWN_TOPIC_OR_PART
    unknown = NewTopic("odd", 1, config={"no.such": "1"})
    assert refused(admin.create_topics([unknown])["odd"]) == ck.KafkaError.INVALID_CONFIG
    with pytest.raises(ValueError, match="Expected non-empty list"):
        admin.create_topics([])


def test_topics_get_more_partitions_and_clients_use_them(own: Library, admin: AdminClient) -> None:
    first, second = own.topic("old"), own.name("second")
    admin.create_topics([NewTopic(second, 1)])[second].result()
    producer, consumer = own.producer(partitioner="murmur2"), own.consumer(auto_offset_reset="latest")
    consumer.subscribe([first])
    deadline = Deadline(PATIENCE_S)
    while len(consumer.assignment()) < MOCK_PARTITIONS and not deadline.passed():
        consumer.poll(0.05)
    grown = admin.create_partitions([NewPartitions(first, 6), NewPartitions(second, 3, [[0], [0]])])
    assert {name: future.result() for name, future in grown.items()} == {first: None, second: None}
    assert [len(admin.list_topics().topics[name].partitions) for name in (first, second)] == [6, 3]
    producer.produce(first, "new", partition=5)
    producer.flush(PATIENCE_S)
    message = consumer.poll(PATIENCE_S)
    assert (message.partition(), message.offset(), message.value()) == (5, 0, b"new")
    for number in range(20):
        producer.produce(first, "", key=str(number), on_delivery=partial(_placed, str(number), 6))
    producer.flush(PATIENCE_S)
    consumer.close()


def _placed(key: str, count: int, error: Any, message: Any) -> None:
    assert error is None
    assert message.partition() == KeyPartitions(count)[key.encode()]


def test_validating_more_partitions_adds_none(own: Library, admin: AdminClient) -> None:
    topic = own.topic()
    for count in (MOCK_PARTITIONS, MOCK_PARTITIONS + 3):
        future = admin.create_partitions([NewPartitions(topic, count)], validate_only=True)[topic]
        if count > MOCK_PARTITIONS:
            assert future.result() is None
        else:
            assert refused(future) == ck.KafkaError.INVALID_PARTITIONS
    assert len(admin.list_topics().topics[topic].partitions) == MOCK_PARTITIONS


def test_partition_errors_are_kafkas(own: Library, admin: AdminClient) -> None:
    topic = own.topic()
    asked = [NewPartitions(topic, 2), NewPartitions("absent", 2)]
    made = admin.create_partitions(asked)
    assert refused(made[topic]) == ck.KafkaError.INVALID_PARTITIONS
    assert refused(made["absent"]) == ck.KafkaError.UNKNOWN_TOPIC_OR_PART
    odd = admin.create_partitions([NewPartitions(topic, 6, [[0]])])
    assert refused(odd[topic]) == ck.KafkaError.INVALID_REPLICA_ASSIGNMENT
    assert len(admin.list_topics().topics[topic].partitions) == MOCK_PARTITIONS


def test_one_failure_does_not_keep_the_others_back(own: Library, admin: AdminClient) -> None:
    there, new = own.topic(), own.name("new")
    made = admin.create_topics([NewTopic(there, 1), NewTopic(new, 1)])
    assert refused(made[there]) == ck.KafkaError.TOPIC_ALREADY_EXISTS
    assert made[new].result() is None


def test_validate_only_creates_nothing(own: Library, admin: AdminClient) -> None:
    topic = own.name("validated")
    assert admin.create_topics([NewTopic(topic, 1)], validate_only=True)[topic].result() is None
    assert topic not in admin.list_topics().topics


def test_configuration_of_a_production_topic_is_taken(own: Library, admin: AdminClient) -> None:
    topic = own.name("configured")
    config = {"retention.ms": "604800000", "min.insync.replicas": "2", "compression.type": "lz4"}
    admin.create_topics([NewTopic(topic, 1, 3, config=config)])[topic].result()
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found = admin.describe_configs([resource])[resource].result()
    assert (found["retention.ms"].value, found["compression.type"].value) == ("604800000", "zstd")
    assert found["retention.ms"].source is ConfigSource.DYNAMIC_TOPIC_CONFIG
    assert found["cleanup.policy"].is_default


def test_incremental_change_leaves_the_rest_and_a_full_one_resets_it(own: Library, admin: AdminClient) -> None:
    topic = own.topic()

    def value(name: str) -> str:
        resource = ConfigResource("topic", topic)
        found: str = admin.describe_configs([resource])[resource].result()[name].value
        return found

    changes = [
        ConfigEntry("retention.ms", "5000", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.APPEND),
    ]
    resource = ConfigResource("topic", topic, incremental_configs=changes)
    assert admin.incremental_alter_configs([resource])[resource].result() is None
    assert (value("retention.ms"), value("cleanup.policy")) == ("5000", "compact,delete")
    full = ConfigResource("topic", topic, set_config={"retention.bytes": "7"})
    with pytest.warns(DeprecationWarning, match="incremental_alter_configs"):
        admin.alter_configs([full])[full].result()
    assert (value("retention.bytes"), value("retention.ms"), value("cleanup.policy")) == ("7", "-1", "delete")
    removal = ConfigEntry("retention.bytes", None, incremental_operation=AlterConfigOpType.DELETE)
    back = ConfigResource("topic", topic, incremental_configs=[removal])
    admin.incremental_alter_configs([back])[back].result()
    assert value("retention.bytes") == "-1"


def test_only_topics_have_a_configuration(admin: AdminClient) -> None:
    broker = ConfigResource("broker", "1")
    assert refused(admin.describe_configs([broker])[broker]) == ck.KafkaError.INVALID_REQUEST


def test_offsets_are_listed_by_place_and_time(own: Library, admin: AdminClient) -> None:
    topic = own.topic(*map(str, range(5)))
    producer = own.producer()
    producer.produce(topic, b"late, of an early time", partition=0, timestamp=10)
    producer.close()
    here = ck.TopicPartition(topic, 0)

    def listed(spec: OffsetSpec) -> tuple[int, int]:
        found = admin.list_offsets({here: spec})[here].result()
        return found.offset, found.timestamp

    assert listed(OffsetSpec.earliest()) == (0, -1)
    assert listed(OffsetSpec.latest()) == (6, -1)
    assert listed(OffsetSpec.for_timestamp(1_002)) == (2, 1_002)
    assert listed(OffsetSpec.for_timestamp(9_999)) == (-1, -1)
    assert listed(OffsetSpec.max_timestamp()) == (4, 1_004)
    absent = ck.TopicPartition(topic, 99)
    assert refused(admin.list_offsets({absent: OffsetSpec.latest()})[absent]) == ck.KafkaError.UNKNOWN_TOPIC_OR_PART


def group_with_offsets(own: Library) -> tuple[str, str]:
    topic, group = own.topic("0", "1"), own.name("group")
    with own.consumer(group_id=group) as consumer:
        consumer.subscribe([topic])
        assert len(consumer.consume(2, 10)) == 2
    return topic, group


def test_group_is_listed_described_and_deleted(own: Library, admin: AdminClient) -> None:
    topic, group = own.topic("0"), own.name("group")
    with own.consumer(group_id=group, client_id="teller") as consumer:
        consumer.subscribe([topic])
        consumer.poll(10)
        described = admin.describe_consumer_groups([group])[group].result()
        (member,) = described.members
        assert (described.state, member.client_id) == (ck.ConsumerGroupState.STABLE, "teller")
        assert sorted(one.partition for one in member.assignment.topic_partitions) == list(range(MOCK_PARTITIONS))
        assert refused(admin.delete_consumer_groups([group])[group]) == ck.KafkaError.NON_EMPTY_GROUP
    listed = {one.group_id: one.state for one in admin.list_consumer_groups().result().valid}
    assert listed[group] is ck.ConsumerGroupState.EMPTY
    stable = admin.list_consumer_groups(states={ck.ConsumerGroupState.STABLE}).result().valid
    assert group not in [one.group_id for one in stable]
    assert admin.delete_consumer_groups([group])[group].result() is None
    assert refused(admin.delete_consumer_groups([group])[group]) == ck.KafkaError.GROUP_ID_NOT_FOUND
    assert admin.describe_consumer_groups([group])[group].result().state is ck.ConsumerGroupState.DEAD
    with pytest.warns(DeprecationWarning, match="list_groups"):
        assert group not in [one.id for one in admin.list_groups()]


def test_offsets_of_a_group_are_listed_and_altered(own: Library, admin: AdminClient) -> None:
    topic, group = group_with_offsets(own)
    request = ck.ConsumerGroupTopicPartitions(group)
    found = admin.list_consumer_group_offsets([request])[group].result().topic_partitions
    assert found[0] == ck.TopicPartition(topic, 0)
    assert found[0].offset == 2
    wanted = ck.ConsumerGroupTopicPartitions(group, [ck.TopicPartition(topic, 0, 1, "again")])
    admin.alter_consumer_group_offsets([wanted])[group].result()
    with own.consumer(group_id=group) as consumer:
        consumer.subscribe([topic])
        assert consumer.poll(10).value() == b"1"
        assert refused(admin.alter_consumer_group_offsets([wanted])[group]) == ck.KafkaError.UNKNOWN_MEMBER_ID


def test_access_rules_are_refused_as_by_a_broker_without_an_authorizer(admin: AdminClient) -> None:
    shape = (ResourceType.TOPIC, "t", ResourcePatternType.LITERAL, "User:alice", "*")
    rule = AclBinding(*shape, AclOperation.READ, AclPermissionType.ALLOW)
    everything = AclBindingFilter("any", None, "any", None, None, "any", "any")  # type: ignore[arg-type]
    answers = [admin.create_acls([rule])[rule], admin.describe_acls(everything)]
    answers.append(admin.delete_acls([everything])[everything])
    assert list(map(refused, answers)) == [ck.KafkaError.SECURITY_DISABLED] * 3
    with pytest.raises(ValueError, match="Cannot use enum"):
        AclBinding(*shape, AclOperation.ANY, AclPermissionType.ALLOW)


def test_election_finds_the_leader_that_is_there(own: Library, admin: AdminClient) -> None:
    here, absent = ck.TopicPartition(own.topic(), 0), ck.TopicPartition("absent", 0)
    found = admin.elect_leaders(ck.ElectionType.PREFERRED, [here, absent]).result()
    assert found[here].args[0] == ck.KafkaError.ELECTION_NOT_NEEDED
    assert found[absent].args[0] == ck.KafkaError.UNKNOWN_TOPIC_OR_PART


def test_closed_admin_client_raises_runtime_error(own: Library) -> None:
    with AdminClient(own.conf()) as client:
        assert (client.poll(0), len(client)) == (0, 0)
    with pytest.raises(RuntimeError, match="Handle has been closed"):
        client.list_topics()
    with pytest.raises(RuntimeError, match="AdminClient has been closed"):
        client.create_topics([NewTopic("t", 1)])
