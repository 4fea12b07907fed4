"""The contract of consumers and serializers, where `test_contract` has the one of producers: the same three ways."""

import time
from typing import Any

import pytest

from tests.compat.conftest import IN_PROCESS, MOCK_PARTITIONS, Library
from tests.compat.test_contract import error_of

# Reading without a group


def read_all(consumer: Any, count: int) -> list[Any]:
    found = consumer.consume(count, 10)
    assert [message.error() for message in found] == [None] * len(found)
    return list(found)


def test_assigned_consumer_reads_keys_values_headers_and_timestamps(library: Library) -> None:
    topic, producer = library.topic(), library.producer()
    producer.produce(topic, "v", "k", 0, timestamp=1_234, headers={"text": "a", "bytes": b"b", "null": None})
    producer.produce(topic, None, None, 0)
    producer.close()
    consumer = library.consumer()
    consumer.assign([library.ck.TopicPartition(topic, 0)])
    first, second = read_all(consumer, 2)
    assert (first.topic(), first.partition(), first.offset()) == (topic, 0, 0)
    assert (first.key(), first.value(), len(first)) == (b"k", b"v", 1)
    assert first.headers() == [("text", b"a"), ("bytes", b"b"), ("null", None)]
    assert first.timestamp() == (library.ck.TIMESTAMP_CREATE_TIME, 1_234)
    assert (first.latency(), first.error(), first.delivery_count()) == (None, None, None)
    assert (second.key(), second.value(), second.headers(), len(second)) == (None, None, None, 0)
    consumer.close()


@pytest.mark.parametrize(("offset", "expected"), [(3, 3), (-2, 0), (-1001, 0), (-2003, 7), (500, 0)])
def test_assignment_begins_where_its_offset_says(library: Library, offset: int, expected: int) -> None:
    topic = library.topic(*map(str, range(10)))
    consumer = library.consumer()
    consumer.assign([library.ck.TopicPartition(topic, 0, offset)])
    assert read_all(consumer, 1)[0].offset() == expected
    consumer.close()


def test_latest_is_the_default_and_reads_what_comes_after(library: Library) -> None:
    topic = library.topic("old")
    consumer = library.ck.Consumer(library.conf(group_id=library.name("group")))
    consumer.assign([library.ck.TopicPartition(topic, 0)])
    assert consumer.poll(1) is None
    producer = library.producer()
    producer.produce(topic, "new", partition=0)
    producer.close()
    assert read_all(consumer, 1)[0].value() == b"new"
    consumer.close()


def test_reset_to_error_is_told_as_a_message(library: Library) -> None:
    consumer = library.consumer(auto_offset_reset="error")
    topic = library.topic("0")
    consumer.assign([library.ck.TopicPartition(topic, 0)])
    message = consumer.poll(10)
    assert message.error() == library.ck.KafkaError._AUTO_OFFSET_RESET
    assert (message.topic(), message.partition()) == (topic, 0)
    consumer.close()


def test_end_of_partition_is_told_when_asked_for(library: Library) -> None:
    consumer = library.consumer(enable_partition_eof=True)
    topic = library.topic("0")
    consumer.assign([library.ck.TopicPartition(topic, 0)])
    assert consumer.poll(10).value() == b"0"
    end = consumer.poll(10)
    assert end.error() == library.ck.KafkaError._PARTITION_EOF
    assert (end.topic(), end.partition(), end.offset()) == (topic, 0, 1)
    assert consumer.poll(0.2) is None
    consumer.close()


@pytest.mark.parametrize("library", IN_PROCESS, indirect=True)  # on Apache Kafka it is waited for, without a word
def test_unknown_partition_is_told_as_a_message(library: Library) -> None:
    consumer = library.consumer()
    consumer.assign([library.ck.TopicPartition(library.topic(), 99)])
    assert consumer.poll(10).error() == library.ck.KafkaError.UNKNOWN_TOPIC_OR_PART
    consumer.close()


def test_seek_pause_and_resume(library: Library) -> None:
    topic = library.topic(*map(str, range(5)))
    place = library.ck.TopicPartition
    consumer = library.consumer()
    consumer.assign([place(topic, 0)])
    read_all(consumer, 5)
    consumer.seek(place(topic, 0, 3))
    assert consumer.position([place(topic, 0)])[0].offset == library.ck.OFFSET_INVALID
    assert read_all(consumer, 1)[0].offset() == 3
    consumer.pause([place(topic, 0), place("not-read", 0)])
    consumer.seek(place(topic, 0, 0))
    assert consumer.poll(0.3) is None
    consumer.resume([place(topic, 0)])
    assert read_all(consumer, 1)[0].offset() == 0
    with pytest.raises(library.ck.KafkaException) as raised:
        consumer.seek(place(topic, 1, 0))
    assert error_of(raised) == library.ck.KafkaError._STATE
    consumer.close()


def test_position_is_after_what_was_handed_out(library: Library) -> None:
    topic = library.topic("0", "1")
    here = [library.ck.TopicPartition(topic, 0)]
    consumer = library.consumer()
    consumer.assign(here)
    assert consumer.position(here)[0].offset == library.ck.OFFSET_INVALID
    read_all(consumer, 1)
    assert consumer.position(here)[0].offset == 1
    consumer.close()


def test_incremental_assignment_refuses_what_is_there_and_what_is_not(library: Library) -> None:
    place, consumer = library.ck.TopicPartition, library.consumer()
    topic = library.topic()
    consumer.incremental_assign([place(topic, 0), place(topic, 1)])
    assert sorted(consumer.assignment()) == [place(topic, 0), place(topic, 1)]
    with pytest.raises(library.ck.KafkaException) as raised:
        consumer.incremental_assign([place(topic, 0)])
    assert error_of(raised) == library.ck.KafkaError._CONFLICT
    consumer.incremental_unassign([place(topic, 0)])
    with pytest.raises(library.ck.KafkaException) as raised:
        consumer.incremental_unassign([place(topic, 0)])
    assert error_of(raised) == library.ck.KafkaError._INVALID_ARG
    assert consumer.assignment() == [place(topic, 1)]
    consumer.unassign()
    assert consumer.assignment() == []
    consumer.close()


def test_partition_that_is_assigned_twice_is_refused(library: Library) -> None:
    consumer = library.consumer()
    one = library.ck.TopicPartition("t", 0)
    with pytest.raises(library.ck.KafkaException) as raised:
        consumer.assign([one, one])
    assert error_of(raised) == library.ck.KafkaError._INVALID_ARG
    assert consumer.assignment() == []
    consumer.close()


def test_watermarks_are_the_first_offset_and_the_end(library: Library) -> None:
    topic = library.topic("0", "1")
    consumer = library.consumer()
    place = library.ck.TopicPartition
    assert consumer.get_watermark_offsets(place(topic, 0), timeout=10) == (0, 2)
    assert consumer.get_watermark_offsets(place(topic, 1), 10) == (0, 0)
    with pytest.raises(library.ck.KafkaException) as raised:
        consumer.get_watermark_offsets(place(topic, 99), timeout=10)
    assert error_of(raised) == library.ck.KafkaError._UNKNOWN_PARTITION
    consumer.close()


@pytest.mark.parametrize("count", [-1, 1_000_001])
def test_consume_bounds_how_many(library: Library, count: int) -> None:
    consumer = library.consumer()
    with pytest.raises(ValueError, match="num_messages must be between 0 and 1000000"):
        consumer.consume(count, 0)
    assert consumer.consume(0, 0) == []
    consumer.close()


def test_wrong_arguments_of_a_consumer_raise_type_error(library: Library) -> None:
    consumer = library.consumer()
    wrong = (
        lambda: consumer.assign("t"),
        lambda: consumer.assign(["t"]),
        lambda: consumer.pause("t"),
        lambda: consumer.seek(5),
        lambda: consumer.position("t"),
        lambda: consumer.committed("t"),
        lambda: consumer.commit(message=5),
        lambda: consumer.commit(offsets=5),
        lambda: consumer.subscribe("t"),
        lambda: consumer.subscribe(["t"], on_assign=5),
        lambda: consumer.poll(None),
        lambda: consumer.get_watermark_offsets("t"),
    )
    for call in wrong:
        with pytest.raises(TypeError):
            call()
    consumer.close()


def test_closed_consumer_raises_runtime_error(library: Library) -> None:
    with library.consumer() as consumer:
        pass
    calls = (
        lambda: consumer.poll(0),
        consumer.consume,
        consumer.assignment,
        consumer.commit,
        consumer.memberid,
        lambda: consumer.subscribe(["t"]),
        lambda: consumer.position([]),
    )
    for call in calls:
        with pytest.raises(RuntimeError, match="Consumer closed"):
            call()
    consumer.close()


# Offsets


def test_commit_without_arguments_commits_what_was_handed_out(library: Library) -> None:
    topic = library.topic("0", "1")
    here = [library.ck.TopicPartition(topic, 0)]
    consumer = library.consumer(enable_auto_commit=False)
    consumer.assign(here)
    with pytest.raises(library.ck.KafkaException) as raised:
        consumer.commit(asynchronous=False)
    assert error_of(raised) == library.ck.KafkaError._NO_OFFSET
    read_all(consumer, 2)
    assert [(one.partition, one.offset, one.error) for one in consumer.commit(asynchronous=False)] == [(0, 2, None)]
    assert consumer.committed(here, timeout=10)[0].offset == 2
    with pytest.raises(library.ck.KafkaException) as raised:
        consumer.commit(asynchronous=False)
    assert error_of(raised) == library.ck.KafkaError._NO_OFFSET
    consumer.close()


def test_commit_of_a_message_and_of_offsets(library: Library) -> None:
    topic = library.topic("0", "1", "2")
    place = library.ck.TopicPartition
    consumer = library.consumer(enable_auto_commit=False)
    consumer.assign([place(topic, 0)])
    message = read_all(consumer, 1)[0]
    assert consumer.commit(message=message, asynchronous=False)[0].offset == 1
    assert consumer.commit(offsets=[place(topic, 0, 2, "so far")], asynchronous=False)[0].offset == 2
    (found,) = consumer.committed([place(topic, 0)], timeout=10)
    assert (found.offset, found.metadata) == (2, "so far")
    assert consumer.committed([place(topic, 1)], timeout=10)[0].offset == library.ck.OFFSET_INVALID
    with pytest.raises(ValueError, match="message and offsets are mutually exclusive"):
        consumer.commit(message=message, offsets=[])
    consumer.close()


def test_next_consumer_of_the_group_goes_on_where_the_last_one_committed(library: Library) -> None:
    topic, group = library.topic("0", "1", "2"), library.name("group")
    for expected in ("0", "1"):
        consumer = library.consumer(group_id=group, enable_auto_commit=False)
        consumer.assign([library.ck.TopicPartition(topic, 0)])
        message = read_all(consumer, 1)[0]
        assert message.value() == expected.encode()
        consumer.commit(message, asynchronous=False)
        consumer.close()


def test_asynchronous_commit_is_reported_to_on_commit_by_poll(library: Library) -> None:
    topic, heard = library.topic("0"), []
    consumer = library.ck.Consumer(
        library.conf(group_id=library.name("group"), auto_offset_reset="earliest", enable_auto_commit=False)
        | {"on_commit": lambda error, partitions: heard.append((error, [one.offset for one in partitions]))}
    )
    consumer.assign([library.ck.TopicPartition(topic, 0)])
    read_all(consumer, 1)
    assert consumer.commit() is None
    ends = time.monotonic() + 10
    while not heard and time.monotonic() < ends:
        consumer.poll(0.05)
    assert heard == [(None, [1])]
    consumer.close()


def test_offsets_are_stored_by_hand_when_the_consumer_does_not(library: Library) -> None:
    topic = library.topic("0", "1")
    place = library.ck.TopicPartition
    consumer = library.consumer(enable_auto_offset_store=False, enable_auto_commit=False)
    consumer.assign([place(topic, 0)])
    first, _ = read_all(consumer, 2)
    consumer.store_offsets(first)
    assert consumer.commit(asynchronous=False)[0].offset == 1
    with pytest.raises(library.ck.KafkaException) as raised:
        consumer.store_offsets(offsets=[place(topic, 3, 4)])
    assert error_of(raised) == library.ck.KafkaError._STATE
    with pytest.raises(ValueError, match="expected either message or offsets"):
        consumer.store_offsets()
    consumer.close()


def test_offsets_cannot_be_stored_by_hand_when_the_consumer_does(library: Library) -> None:
    topic = library.topic("0")
    consumer = library.consumer()
    consumer.assign([library.ck.TopicPartition(topic, 0)])
    with pytest.raises(library.ck.KafkaException) as raised:
        consumer.store_offsets(read_all(consumer, 1)[0])
    assert error_of(raised) == library.ck.KafkaError._INVALID_ARG
    consumer.close()


def test_closing_commits_what_was_stored(library: Library) -> None:
    topic, group = library.topic("0", "1"), library.name("group")
    here = [library.ck.TopicPartition(topic, 0)]
    with library.consumer(group_id=group) as consumer:
        consumer.assign(here)
        read_all(consumer, 2)
    with library.consumer(group_id=group) as consumer:
        assert consumer.committed(here, timeout=10)[0].offset == 2


# Groups


def test_subscribed_consumer_is_told_of_its_partitions_and_of_losing_them(library: Library) -> None:
    topic, told = library.topic("0"), []
    consumer = library.consumer()

    def tell(what: str) -> Any:
        return lambda _, partitions: told.append((what, sorted(one.partition for one in partitions)))

    consumer.subscribe([topic], on_assign=tell("assign"), on_revoke=tell("revoke"))
    assert consumer.assignment() == []
    assert consumer.poll(20).value() == b"0"
    assert sorted(one.partition for one in consumer.assignment()) == list(range(MOCK_PARTITIONS))
    assert consumer.memberid()
    consumer.close()
    assert told == [(what, list(range(MOCK_PARTITIONS))) for what in ("assign", "revoke")]


def test_on_assign_may_say_where_to_begin(library: Library) -> None:
    topic = library.topic(*map(str, range(5)))
    consumer = library.consumer()

    def begin_at_three(consumer: Any, partitions: list[Any]) -> None:
        for one in partitions:
            one.offset = 3 if one.partition == 0 else library.ck.OFFSET_BEGINNING
        consumer.assign(partitions)

    consumer.subscribe([topic], on_assign=begin_at_three)
    assert consumer.poll(20).offset() == 3
    consumer.close()


def test_metadata_that_a_member_commits_is_kept_beside_the_offset(library: Library) -> None:
    topic = library.topic("0", "1")
    here = [library.ck.TopicPartition(topic, 0, 1, "so far")]
    consumer = library.consumer(enable_auto_commit=False)
    consumer.subscribe([topic])
    assert consumer.poll(20).value() == b"0"
    consumer.commit(offsets=here, asynchronous=False)
    (found,) = consumer.committed(here, timeout=10)
    assert (found.offset, found.metadata) == (1, "so far")
    consumer.close()


@pytest.mark.parametrize("topics", [[], [""], ["^(("]], ids=str)
def test_subscription_that_is_none_is_refused(library: Library, topics: list[str]) -> None:
    consumer = library.consumer()
    with pytest.raises(library.ck.KafkaException) as raised:
        consumer.subscribe(topics)
    assert error_of(raised) == library.ck.KafkaError._INVALID_ARG
    consumer.close()


# Serializers


def test_serializing_producer_and_deserializing_consumer_carry_objects(library: Library) -> None:
    ck, serialization = library.ck, library.serialization
    topic = library.topic()
    producer = ck.SerializingProducer(
        library.conf()
        | {"key.serializer": serialization.StringSerializer(), "value.serializer": serialization.IntegerSerializer()}
    )
    producer.produce(topic, key="alice", value=42, partition=0)
    producer.close()
    consumer = ck.DeserializingConsumer(
        library.conf(group_id=library.name("group"))
        | {
            "key.deserializer": serialization.StringDeserializer(),
            "value.deserializer": serialization.IntegerDeserializer(),
        }
    )
    consumer.assign([ck.TopicPartition(topic, 0, 0)])
    message = consumer.poll(10)
    assert (message.key(), message.deserialized_value()) == ("alice", 42)
    with pytest.raises(NotImplementedError):
        consumer.consume()
    consumer.close()


def test_value_that_cannot_be_deserialized_raises_and_bears_the_message(library: Library) -> None:
    ck, topic = library.ck, library.topic("too long for an int")
    consumer = ck.DeserializingConsumer(
        library.conf(group_id=library.name("group"))
        | {"value.deserializer": library.serialization.IntegerDeserializer()}
    )
    consumer.assign([ck.TopicPartition(topic, 0, 0)])
    with pytest.raises(ck.KafkaException) as raised:
        consumer.poll(10)
    assert type(raised.value).__name__ == "ValueDeserializationError"
    assert raised.value.kafka_message.value() == b"too long for an int"  # type: ignore[attr-defined]
    consumer.close()


@pytest.mark.parametrize(
    ("kind", "value", "data"),
    [("String", "ä", b"\xc3\xa4"), ("Integer", -2, b"\xff\xff\xff\xfe"), ("Double", 0.5, b"\x3f\xe0" + bytes(6))],
)
def test_serializer_writes_what_java_writes(library: Library, kind: str, value: Any, data: bytes) -> None:
    serialize = getattr(library.serialization, f"{kind}Serializer")()
    deserialize = getattr(library.serialization, f"{kind}Deserializer")()
    assert (serialize(value), deserialize(data)) == (data, value)
    assert (serialize(None), deserialize(None)) == (None, None)
    with pytest.raises(library.serialization.SerializationError):
        deserialize(b"\xff\xff\xff")
