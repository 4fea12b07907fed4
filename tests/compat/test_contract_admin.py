"""The contract of AdminClient: ours on a store, the real one on Apache Kafka; the mock cluster knows none of this."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.compat.conftest import MOCK_PARTITIONS, Library, until


@pytest.fixture
def admin(whole: Library) -> Iterator[Any]:
    with whole.admin.AdminClient(whole.conf()) as client:
        yield client


def refused(future: Any) -> int:
    """The code with which a future fails."""
    code: int = future.exception(30).args[0].code()
    return code


def test_topics_are_created_described_and_deleted(whole: Library, admin: Any) -> None:
    first, second = whole.name("first"), whole.name("second")
    made = admin.create_topics([whole.admin.NewTopic(first, 3, 1), whole.admin.NewTopic(second, 2)])
    assert {name: future.result() for name, future in made.items()} == {first: None, second: None}
    described = admin.describe_topics(whole.ck.TopicCollection([first]))[first].result()
    assert (described.name, [one.id for one in described.partitions], described.is_internal) == (
        first,
        [0, 1, 2],
        False,
    )
    assert described.partitions[0].leader.id == admin.describe_cluster().result().controller.id
    assert len(admin.list_topics().topics[second].partitions) == 2
    assert admin.delete_topics([first])[first].result() is None
    until(lambda: first not in admin.list_topics().topics)


def test_topic_errors_are_kafkas(whole: Library, admin: Any) -> None:
    topic = whole.topic()
    assert (
        refused(admin.create_topics([whole.admin.NewTopic(topic, 1)])[topic])
        == whole.ck.KafkaError.TOPIC_ALREADY_EXISTS
    )
    assert refused(admin.create_topics([whole.admin.NewTopic("a b", 1)])["a b"]) == whole.ck.KafkaError.TOPIC_EXCEPTION
    assert (
        refused(admin.create_topics([whole.admin.NewTopic("none", 0)])["none"])
        == whole.ck.KafkaError.INVALID_PARTITIONS
    )
    assert refused(admin.delete_topics(["absent"])["absent"]) == whole.ck.KafkaError.UNKNOWN_TOPIC_OR_PART
    unknown = whole.admin.NewTopic("odd", 1, config={"no.such": "1"})
    assert refused(admin.create_topics([unknown])["odd"]) == whole.ck.KafkaError.INVALID_CONFIG
    with pytest.raises(ValueError, match="Expected non-empty list"):
        admin.create_topics([])


def test_topics_get_more_partitions(whole: Library, admin: Any) -> None:
    first, second = whole.topic(), whole.name("second")
    admin.create_topics([whole.admin.NewTopic(second, 1)])[second].result()
    until(lambda: second in admin.list_topics().topics)
    asked = [whole.admin.NewPartitions(first, 6), whole.admin.NewPartitions(second, 3)]
    grown = admin.create_partitions(asked)
    assert {name: future.result() for name, future in grown.items()} == {first: None, second: None}
    until(lambda: [len(admin.list_topics().topics[name].partitions) for name in (first, second)] == [6, 3])


def test_validating_more_partitions_adds_none(whole: Library, admin: Any) -> None:
    topic = whole.topic()
    for count in (MOCK_PARTITIONS, MOCK_PARTITIONS + 3):
        future = admin.create_partitions([whole.admin.NewPartitions(topic, count)], validate_only=True)[topic]
        if count > MOCK_PARTITIONS:
            assert future.result() is None
        else:
            assert refused(future) == whole.ck.KafkaError.INVALID_PARTITIONS
    assert len(admin.list_topics().topics[topic].partitions) == MOCK_PARTITIONS


def test_partition_errors_are_kafkas(whole: Library, admin: Any) -> None:
    topic = whole.topic()
    asked = [whole.admin.NewPartitions(topic, 2), whole.admin.NewPartitions("absent", 2)]
    made = admin.create_partitions(asked)
    assert refused(made[topic]) == whole.ck.KafkaError.INVALID_PARTITIONS
    assert refused(made["absent"]) == whole.ck.KafkaError.UNKNOWN_TOPIC_OR_PART
    odd = admin.create_partitions([whole.admin.NewPartitions(topic, 6, [[0]])])
    assert refused(odd[topic]) == whole.ck.KafkaError.INVALID_REPLICA_ASSIGNMENT
    assert len(admin.list_topics().topics[topic].partitions) == MOCK_PARTITIONS


def test_one_failure_does_not_keep_the_others_back(whole: Library, admin: Any) -> None:
    there, new = whole.topic(), whole.name("new")
    made = admin.create_topics([whole.admin.NewTopic(there, 1), whole.admin.NewTopic(new, 1)])
    assert refused(made[there]) == whole.ck.KafkaError.TOPIC_ALREADY_EXISTS
    assert made[new].result() is None


def test_validate_only_creates_nothing(whole: Library, admin: Any) -> None:
    topic = whole.name("validated")
    assert admin.create_topics([whole.admin.NewTopic(topic, 1)], validate_only=True)[topic].result() is None
    assert topic not in admin.list_topics().topics


def test_configuration_of_a_production_topic_is_taken(whole: Library, admin: Any) -> None:
    topic = whole.name("configured")
    config = {"retention.ms": "604800000", "min.insync.replicas": "2", "compression.type": "zstd"}
    admin.create_topics([whole.admin.NewTopic(topic, 1, config=config)])[topic].result()
    until(lambda: topic in admin.list_topics().topics)
    resource = whole.admin.ConfigResource(whole.admin.ResourceType.TOPIC, topic)
    found = admin.describe_configs([resource])[resource].result()
    assert (found["retention.ms"].value, found["compression.type"].value) == ("604800000", "zstd")
    assert found["retention.ms"].source == whole.admin.ConfigSource.DYNAMIC_TOPIC_CONFIG.value
    assert found["cleanup.policy"].is_default


def test_incremental_change_leaves_the_rest_and_a_full_one_resets_it(whole: Library, admin: Any) -> None:
    topic = whole.topic()

    def value(name: str) -> str:
        resource = whole.admin.ConfigResource("topic", topic)
        found: str = admin.describe_configs([resource])[resource].result()[name].value
        return found

    kept_for = value("retention.ms")
    changes = [
        whole.admin.ConfigEntry("retention.ms", "5000", incremental_operation=whole.admin.AlterConfigOpType.SET),
        whole.admin.ConfigEntry(
            "cleanup.policy", "compact", incremental_operation=whole.admin.AlterConfigOpType.APPEND
        ),
    ]
    resource = whole.admin.ConfigResource("topic", topic, incremental_configs=changes)
    assert admin.incremental_alter_configs([resource])[resource].result() is None
    until(lambda: value("retention.ms") == "5000")
    assert sorted(value("cleanup.policy").split(",")) == ["compact", "delete"]
    full = whole.admin.ConfigResource("topic", topic, set_config={"retention.bytes": "7"})
    with pytest.warns(DeprecationWarning, match="incremental_alter_configs"):
        admin.alter_configs([full])[full].result()
    until(lambda: value("retention.bytes") == "7")
    assert (value("retention.ms"), value("cleanup.policy")) == (kept_for, "delete")
    removal = whole.admin.ConfigEntry(
        "retention.bytes", None, incremental_operation=whole.admin.AlterConfigOpType.DELETE
    )
    back = whole.admin.ConfigResource("topic", topic, incremental_configs=[removal])
    admin.incremental_alter_configs([back])[back].result()
    until(lambda: value("retention.bytes") == "-1")


def test_offsets_are_listed_by_place_and_time(whole: Library, admin: Any) -> None:
    topic = whole.topic(*map(str, range(5)))
    producer = whole.producer()
    producer.produce(topic, b"late, of an early time", partition=0, timestamp=10)
    producer.close()
    here = whole.ck.TopicPartition(topic, 0)

    def listed(spec: Any) -> tuple[int, int]:
        found = admin.list_offsets({here: spec})[here].result()
        return found.offset, found.timestamp

    assert listed(whole.admin.OffsetSpec.earliest()) == (0, -1)
    assert listed(whole.admin.OffsetSpec.latest()) == (6, -1)
    assert listed(whole.admin.OffsetSpec.for_timestamp(1_002)) == (2, 1_002)
    assert listed(whole.admin.OffsetSpec.for_timestamp(9_999)) == (-1, -1)
    assert listed(whole.admin.OffsetSpec.max_timestamp()) == (4, 1_004)
    for absent in (whole.ck.TopicPartition(topic, 99), whole.ck.TopicPartition(whole.name("absent"), 0)):
        asked = admin.list_offsets({absent: whole.admin.OffsetSpec.latest()})[absent]
        assert refused(asked) == whole.ck.KafkaError._NOENT


def group_with_offsets(whole: Library) -> tuple[str, str]:
    topic, group = whole.topic("0", "1"), whole.name("group")
    with whole.consumer(group_id=group) as consumer:
        consumer.subscribe([topic])
        assert len(consumer.consume(2, 10)) == 2
    return topic, group


def test_group_is_listed_described_and_deleted(whole: Library, admin: Any) -> None:
    topic, group = whole.topic("0"), whole.name("group")
    with whole.consumer(group_id=group, client_id="teller") as consumer:
        consumer.subscribe([topic])
        consumer.poll(10)
        described = admin.describe_consumer_groups([group])[group].result()
        (member,) = described.members
        assert (described.state, member.client_id) == (whole.ck.ConsumerGroupState.STABLE, "teller")
        assert sorted(one.partition for one in member.assignment.topic_partitions) == list(range(MOCK_PARTITIONS))
        assert refused(admin.delete_consumer_groups([group])[group]) == whole.ck.KafkaError.NON_EMPTY_GROUP
    listed = {one.group_id: one.state for one in admin.list_consumer_groups().result().valid}
    assert listed[group] is whole.ck.ConsumerGroupState.EMPTY
    stable = admin.list_consumer_groups(states={whole.ck.ConsumerGroupState.STABLE}).result().valid
    assert group not in [one.group_id for one in stable]
    assert admin.delete_consumer_groups([group])[group].result() is None
    assert refused(admin.delete_consumer_groups([group])[group]) == whole.ck.KafkaError.GROUP_ID_NOT_FOUND
    assert admin.describe_consumer_groups([group])[group].result().state is whole.ck.ConsumerGroupState.DEAD
    with pytest.warns(DeprecationWarning, match="list_groups"):
        assert group not in [one.id for one in admin.list_groups()]


def test_offsets_of_a_group_are_listed_and_altered(whole: Library, admin: Any) -> None:
    topic, group = group_with_offsets(whole)
    request = whole.ck.ConsumerGroupTopicPartitions(group)
    found = admin.list_consumer_group_offsets([request])[group].result().topic_partitions
    assert found[0] == whole.ck.TopicPartition(topic, 0)
    assert found[0].offset == 2
    wanted = whole.ck.ConsumerGroupTopicPartitions(group, [whole.ck.TopicPartition(topic, 0, 1, "again")])
    admin.alter_consumer_group_offsets([wanted])[group].result()
    with whole.consumer(group_id=group) as consumer:
        consumer.subscribe([topic])
        assert consumer.poll(10).value() == b"1"
        answer = admin.alter_consumer_group_offsets([wanted])[group].result().topic_partitions
        assert [one.error for one in answer] == [whole.ck.KafkaError.UNKNOWN_MEMBER_ID]


def test_offset_of_a_partition_that_is_not_there_keeps_no_other_from_being_altered(whole: Library, admin: Any) -> None:
    topic, group, place = whole.topic("0", "1"), whole.name("group"), whole.ck.TopicPartition
    places = [place(whole.name("absent"), 0, 1), place(topic, 0, 1), place(topic, 99, 1)]
    asked = admin.alter_consumer_group_offsets([whole.ck.ConsumerGroupTopicPartitions(group, places)])
    errors = {one: one.error for one in asked[group].result().topic_partitions}
    unknown = whole.ck.KafkaError.UNKNOWN_TOPIC_OR_PART
    assert [errors[one] for one in places] == [unknown, None, unknown]
    found = admin.list_consumer_group_offsets([whole.ck.ConsumerGroupTopicPartitions(group)])[group].result()
    assert [(one, one.offset) for one in found.topic_partitions] == [(place(topic, 0), 1)]


def test_access_rules_are_refused_as_by_a_broker_without_an_authorizer(whole: Library, admin: Any) -> None:
    shape = (whole.admin.ResourceType.TOPIC, "t", whole.admin.ResourcePatternType.LITERAL, "User:alice", "*")
    rule = whole.admin.AclBinding(*shape, whole.admin.AclOperation.READ, whole.admin.AclPermissionType.ALLOW)
    everything = whole.admin.AclBindingFilter("any", None, "any", None, None, "any", "any")  # type: ignore[arg-type]
    answers = [admin.create_acls([rule])[rule], admin.delete_acls([everything])[everything]]
    assert list(map(refused, answers)) == [whole.ck.KafkaError.SECURITY_DISABLED] * 2
    assert admin.describe_acls(everything).result() == []
    with pytest.raises(ValueError, match="Cannot use enum"):
        whole.admin.AclBinding(*shape, whole.admin.AclOperation.ANY, whole.admin.AclPermissionType.ALLOW)


def test_election_finds_the_leader_that_is_there(whole: Library, admin: Any) -> None:
    here, absent = whole.ck.TopicPartition(whole.topic(), 0), whole.ck.TopicPartition("absent", 0)
    found = admin.elect_leaders(whole.ck.ElectionType.PREFERRED, [here, absent]).result()
    assert found == {
        here: whole.ck.KafkaError.ELECTION_NOT_NEEDED,
        absent: whole.ck.KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
    assert admin.elect_leaders(whole.ck.ElectionType.PREFERRED).result() == {}


def test_closed_admin_client_raises_runtime_error(whole: Library) -> None:
    with whole.admin.AdminClient(whole.conf()) as client:
        assert (client.poll(0), len(client)) == (0, 0)
    with pytest.raises(RuntimeError, match="Handle has been closed"):
        client.list_topics()
    with pytest.raises(RuntimeError, match="AdminClient has been closed"):
        client.create_topics([whole.admin.NewTopic("t", 1)])
