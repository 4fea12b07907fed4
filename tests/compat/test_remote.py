"""Clients of a cluster: what the contract does not show of the border between this package and the real library."""

from collections.abc import Iterator
from typing import Any

import pytest

from kafkalite.compat import confluent_kafka as ck
from kafkalite.compat.confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType
from tests.compat.conftest import Library, through_ours


@pytest.fixture(scope="module")
def cluster() -> Iterator[Library]:
    yield from through_ours()


def test_subclass_of_a_producer_stays_what_it_is_on_a_cluster(cluster: Library) -> None:
    class Shouting(ck.Producer):
        def produce(self, topic: str, value: Any = None, *args: Any, **kwargs: Any) -> None:
            super().produce(topic, value.upper(), *args, **kwargs)

    topic, heard = cluster.topic(), []
    producer = Shouting(cluster.conf())
    assert isinstance(producer, Shouting)
    producer.produce(topic, "quiet", on_delivery=lambda _, message: heard.append(message))
    assert producer.flush(10) == 0
    assert (type(heard[0]), heard[0].value()) == (ck.Message, b"QUIET")
    producer.close()


def test_callbacks_get_this_package_s_objects_and_the_consumer_itself(cluster: Library) -> None:
    told: list[Any] = []
    consumer = cluster.consumer()
    consumer.subscribe([cluster.topic("0")], on_assign=lambda *arguments: told.append(arguments))
    message = consumer.poll(20)
    assert message is not None
    ((who, partitions),) = told
    assert who is consumer
    assert {type(one) for one in partitions} == {ck.TopicPartition}
    assert consumer.commit(message=message, asynchronous=False)[0].offset == 1
    consumer.close()


def test_errors_inside_of_futures_are_this_package_s(cluster: Library) -> None:
    admin = AdminClient(cluster.conf())
    (future,) = admin.create_topics([NewTopic("t", 1, config={"retention.ms": "5"})], request_timeout=0.1).values()
    with pytest.raises(ck.KafkaException) as raised:
        future.result(timeout=20)
    assert isinstance(raised.value.args[0], ck.KafkaError)
    resource = ConfigResource(ResourceType.TOPIC, "t")
    (key,) = admin.describe_configs([resource], request_timeout=0.1)
    assert (type(key), key) == (ConfigResource, resource)


def test_store_named_by_the_environment_replaces_the_cluster(
    cluster: Library, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKALITE_BOOTSTRAP", f"file:{tmp_path / 's.klite'}")
    producer = ck.Producer(cluster.conf())
    assert type(producer) is ck.Producer
    producer.close()
