"""AdminClient on a store: where it differs from one broker of Apache Kafka, with a reason in the guide."""

from functools import partial
from typing import Any

from kafkalite.clock import Deadline
from kafkalite.partitioner import KeyPartitions
from tests.compat.conftest import MOCK_PARTITIONS, Library
from tests.compat.test_contract_admin import refused

PATIENCE_S = 30.0


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


def test_clients_use_partitions_that_were_added(own: Library) -> None:
    topic, second = own.topic("old"), own.name("second")
    producer, consumer = own.producer(partitioner="murmur2"), own.consumer(auto_offset_reset="latest")
    consumer.subscribe([topic])
    deadline = Deadline(PATIENCE_S)
    while len(consumer.assignment()) < MOCK_PARTITIONS and not deadline.passed():
        consumer.poll(0.05)
    with own.admin.AdminClient(own.conf()) as admin:
        admin.create_topics([own.admin.NewTopic(second, 1)])[second].result()
        placed = own.admin.NewPartitions(second, 3, [[0], [0]])
        grown = admin.create_partitions([own.admin.NewPartitions(topic, 6), placed])
        assert {name: future.result() for name, future in grown.items()} == {topic: None, second: None}
    producer.produce(topic, "new", partition=5)
    producer.flush(PATIENCE_S)
    message = consumer.poll(PATIENCE_S)
    assert (message.partition(), message.offset(), message.value()) == (5, 0, b"new")
    for number in range(20):
        producer.produce(topic, "", key=str(number), on_delivery=partial(_placed, str(number), 6))
    producer.flush(PATIENCE_S)
    consumer.close()


def _placed(key: str, count: int, error: Any, message: Any) -> None:
    assert error is None
    assert message.partition() == KeyPartitions(count)[key.encode()]
