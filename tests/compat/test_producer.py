"""Producer on a store: what the contract, shared with a mock cluster, cannot show."""

import gc
import json
import time
import zlib
from pathlib import Path

import pytest

import kafkalite
from kafkalite.compat import confluent_kafka as ck
from tests.compat.conftest import Library


def values(path: Path, topic: str) -> list[bytes | None]:
    with kafkalite.connect(path) as store:
        found = [record.value for record in store.topic(topic, create=False).read()]
        assert store.check().ok
    return found


def test_topic_that_is_not_there_is_created_with_one_partition(own: Library) -> None:
    producer, topic = own.producer(), own.name("new")
    producer.produce(topic, b"x")
    assert producer.flush(10) == 0
    assert list(producer.list_topics(topic).topics[topic].partitions) == [0]
    producer.close()


def test_asking_for_a_topic_creates_nothing(own: Library) -> None:
    producer, topic = own.producer(), own.name("asked")
    assert producer.list_topics(topic).topics[topic].error == ck.KafkaError.UNKNOWN_TOPIC_OR_PART
    assert topic not in producer.list_topics().topics
    producer.close()


def test_key_goes_where_librdkafka_puts_it_unless_java_is_asked_for(own: Library) -> None:
    topic, places = own.topic(), []
    for partitioner in ("consistent_random", "murmur2_random"):
        producer = own.producer(partitioner=partitioner)
        producer.produce(topic, b"", b"abc", on_delivery=lambda _, message: places.append(message.partition()))
        producer.close()
    assert places == [zlib.crc32(b"abc") % 4, ck.murmur2(b"abc", 4)]


def test_records_without_a_key_stay_together_until_their_batch_is_full(own: Library) -> None:
    producer, topic, places = own.producer(linger_ms=1_000), own.topic(), set()
    for _ in range(20):
        producer.produce(topic, b"x", on_delivery=lambda _, message: places.add(message.partition()))
    producer.close()
    assert len(places) == 1


def test_producer_that_nobody_closed_commits_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "left.klite"
    producer = ck.Producer({"bootstrap.servers": f"file:{path}", "linger.ms": 60_000})
    producer.produce("orders", b"x")
    del producer
    gc.collect()
    assert values(path, "orders") == [b"x"]


def test_memory_store_outlives_its_clients_and_is_shared_by_name() -> None:
    conf = {"bootstrap.servers": "file::memory:", "group.id": "g"}
    topic = "kept-in-memory"
    producer = ck.Producer(conf)
    producer.produce(topic, b"x")
    producer.close()
    with ck.Consumer(conf) as consumer:
        consumer.assign([ck.TopicPartition(topic, 0, 0)])
        message = consumer.poll(10)
        assert message is not None
        assert message.value() == b"x"


def test_topic_that_was_made_anew_is_noticed(own: Library) -> None:
    producer, topic = own.producer(), own.topic("old")
    producer.produce(topic, b"1", partition=3)
    producer.flush(10)
    admin = own.admin.AdminClient(own.conf())
    admin.delete_topics([topic])[topic].result()
    admin.create_topics([own.admin.NewTopic(topic, 1)])[topic].result()
    producer.produce(topic, b"2", partition=0)
    with pytest.raises(ck.KafkaException):
        producer.produce(topic, b"3", partition=3)
    assert producer.flush(10) == 0
    producer.close()


def test_statistics_come_as_json_from_poll(own: Library) -> None:
    heard: list[str] = []
    producer = ck.Producer(own.conf(statistics_interval_ms=1) | {"stats_cb": heard.append})
    producer.produce(own.topic(), b"x")
    ends = time.monotonic() + 10
    while not heard and time.monotonic() < ends:
        producer.poll(0.01)
    found = json.loads(heard[0])
    assert (found["type"], found["client_id"], "brokers" in found) == ("producer", "rdkafka", True)
    producer.close()


def test_append_time_of_the_topic_is_what_the_report_says(own: Library) -> None:
    topic, seen = own.name("stamped"), []
    admin = own.admin.AdminClient(own.conf())
    new = own.admin.NewTopic(topic, 1, config={"message.timestamp.type": "LogAppendTime"})
    admin.create_topics([new])[topic].result()
    producer = own.producer()
    producer.produce(topic, b"x", timestamp=5, on_delivery=lambda _, message: seen.append(message.timestamp()))
    producer.close()
    ((kind, stamp),) = seen
    assert kind == ck.TIMESTAMP_LOG_APPEND_TIME
    assert stamp > 5


def test_bootstrap_without_a_store_or_the_real_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from kafkalite.compat.confluent_kafka import remote

    monkeypatch.setattr(remote, "LIBRARY", "no_such_library")
    with pytest.raises(ck.KafkaException) as raised:
        ck.Producer({"bootstrap.servers": "localhost:9092"})
    assert "give file:PATH" in raised.value.args[0].str()


@pytest.mark.parametrize("servers", ["kafka:9092", "file:"])
def test_variable_that_names_no_store_is_refused(servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKALITE_BOOTSTRAP", servers)
    with pytest.raises(ck.KafkaException, match="names no store"):
        ck.Producer({"bootstrap.servers": "localhost:9092"})


def test_directory_that_is_no_store_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(ck.KafkaException, match=r"letter\.txt"):
        ck.Producer({"bootstrap.servers": f"file:{tmp_path / 'letter.txt'}"})
    assert (tmp_path / "letter.txt").read_text() == "dear reader"
