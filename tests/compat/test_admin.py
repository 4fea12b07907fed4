"""AdminClient on a store: where it differs from one broker of Apache Kafka, with a reason in the guide."""

from tests.compat.conftest import Library
from tests.compat.test_contract_admin import refused


def test_only_topics_have_a_configuration(own: Library) -> None:
    broker = own.admin.ConfigResource("broker", "1")
    with own.admin.AdminClient(own.conf()) as admin:
        assert refused(admin.describe_configs([broker])[broker]) == own.ck.KafkaError.INVALID_REQUEST


def test_topic_that_was_made_for_a_cluster_is_taken(own: Library) -> None:
    topic = own.name("production")
    resource = own.admin.ConfigResource("topic", topic)
    with own.admin.AdminClient(own.conf()) as admin:
        new = own.admin.NewTopic(topic, 1, 3, config={"min.insync.replicas": "2", "compression.type": "lz4"})
        assert admin.create_topics([new])[topic].result() is None
        assert admin.describe_configs([resource])[resource].result()["compression.type"].value == "zstd"
        assert len(admin.describe_topics(own.ck.TopicCollection([topic]))[topic].result().partitions[0].replicas) == 1


def test_topic_without_a_number_of_partitions_gets_one(own: Library) -> None:
    topic = own.name("default")
    with own.admin.AdminClient(own.conf()) as admin:
        admin.create_topics([own.admin.NewTopic(topic)])[topic].result()
        assert list(admin.list_topics(topic).topics[topic].partitions) == [0]
