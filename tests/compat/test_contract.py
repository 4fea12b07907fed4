"""What code written for confluent-kafka relies on: the same tests against ours, the real one, and ours in front of it.

The real one runs against librdkafka's mock cluster and, with `-m long`, against Apache Kafka. The mock cluster has no
admin calls and stores no timestamps' type: what needs these is in `test_contract_admin`, `test_consumer`.
"""

from typing import Any

import pytest

from tests.compat.conftest import MOCK_PARTITIONS, Library


def error_of(raised: pytest.ExceptionInfo[BaseException]) -> Any:
    return raised.value.args[0]


# Errors and plain values


def test_error_equals_its_code_and_prints_it(library: Library) -> None:
    error = library.ck.KafkaError(library.ck.KafkaError._TIMED_OUT)
    assert error == -185
    assert error == library.ck.KafkaError(-185, "in other words")
    assert (error.name(), error.str(), error.fatal(), error.retriable()) == (
        "_TIMED_OUT",
        "Local: Timed out",
        False,
        False,
    )
    assert str(error) == 'KafkaError{code=_TIMED_OUT,val=-185,str="Local: Timed out"}'
    assert str(library.ck.KafkaError(3, "boo", fatal=True)) == (
        'KafkaError{FATAL,code=UNKNOWN_TOPIC_OR_PART,val=3,str="boo"}'
    )


def test_partition_is_equal_by_topic_and_number_and_orders_so(library: Library) -> None:
    made = library.ck.TopicPartition
    assert made("t", 1, 5) == made("t", 1, 9)
    assert hash(made("t", 1)) == hash(made("t", 1, 7))
    assert sorted([made("b", 0), made("a", 2), made("a", 1)]) == [made("a", 1), made("a", 2), made("b", 0)]
    assert str(made("t", 1, 5)) == "TopicPartition{topic=t,partition=1,offset=5,leader_epoch=None,error=None}"
    with pytest.raises(AttributeError):
        made("t").topic = "u"


def test_partitioner_hashes_are_those_of_librdkafka(library: Library) -> None:
    ck = library.ck
    assert [ck.murmur2(b"abc", 10), ck.consistent(b"abc", 10), ck.fnv1a(b"abc", 10)] == [7, 8, 1]
    assert [ck.murmur2(b"", 10), ck.consistent(b"", 10), ck.fnv1a(b"", 10)] == [1, 0, 5]
    with pytest.raises(ValueError, match="partition_count must be > 0"):
        ck.murmur2(b"abc", 0)


def test_uuid_prints_as_base64(library: Library) -> None:
    assert str(library.ck.Uuid(12345, -6)) == "AAAAAAAAMDn/////////+g"


# Configuration


@pytest.mark.parametrize(
    ("property_name", "value", "says"),
    [
        ("no.such.property", 1, 'No such configuration property: "no.such.property"'),
        ("linger.ms", "soon", 'Invalid value for configuration property "queue.buffering.max.ms"'),
        ("linger.ms", -5, 'Configuration property "queue.buffering.max.ms" value -5 is outside allowed range'),
        ("acks", "some", 'Invalid value for configuration property "request.required.acks"'),
        ("compression.type", "zip", 'Invalid value "zip" for configuration property "compression.codec"'),
        ("auto.offset.reset", "later", 'Invalid value "later" for configuration property "auto.offset.reset"'),
        ("enable.auto.commit", "maybe", 'Expected bool value for "enable.auto.commit": true or false'),
        ("partitioner", "mine", 'Invalid value for configuration property "partitioner": mine'),
        ("dr_cb", print, 'Property "dr_cb" must be set through dedicated .._set_..() function'),
        ("fetch.min.bytes", None, 'Integer configuration property "fetch.min.bytes" cannot be set to empty value'),
    ],
)
def test_property_is_refused_as_librdkafka_does(library: Library, property_name: str, value: Any, says: str) -> None:
    with pytest.raises(library.ck.KafkaException) as raised:
        library.ck.Producer(library.conf() | {property_name: value})
    assert error_of(raised) == library.ck.KafkaError._INVALID_ARG
    assert says in error_of(raised).str()


@pytest.mark.parametrize(
    "properties",
    [
        {"acks": "all"},
        {"acks": "-1"},
        {"compression.type": "GZIP"},
        {"enable.auto.commit": "t"},
        {"linger.ms": "7x"},
        {"retries": "0x10"},
        {"client.id": None},
        {"security.protocol": "plaintext"},
        {"default.topic.config": {"auto.offset.reset": "earliest"}},
    ],
    ids=lambda given: next(iter(given)),
)
def test_property_is_taken_as_librdkafka_does(library: Library, properties: dict[str, Any]) -> None:
    library.ck.Producer(library.conf() | properties).close()


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        ({"enable.idempotence": True, "acks": 1}, "`acks` must be set to `all` when `enable.idempotence` is true"),
        ({"enable.idempotence": True, "max.in.flight": 10}, "`max.in.flight` must be set <= 5"),
        ({"transactional.id": "t", "enable.idempotence": False}, "`transactional.id` requires"),
        ({"message.timeout.ms": 100, "linger.ms": 5000}, "`message.timeout.ms` must be greater than `linger.ms`"),
        ({"partition.assignment.strategy": "mine"}, "Unsupported partition.assignment.strategy: mine"),
    ],
)
def test_properties_that_contradict_each_other_are_refused(
    library: Library, properties: dict[str, Any], says: str
) -> None:
    with pytest.raises(library.ck.KafkaException) as raised:
        library.ck.Producer(library.conf() | properties)
    assert f"Failed to create producer: {says}" in error_of(raised).str()


def test_consumer_needs_a_group_id(library: Library) -> None:
    with pytest.raises(ValueError, match=r"Failed to create consumer: group\.id must be set"):
        library.ck.Consumer(library.conf())


def test_constructor_takes_a_dictionary_or_keywords(library: Library) -> None:
    library.ck.Producer(library.conf(), **{"linger.ms": 1}).close()
    for wrong in ((), (None,), ("x",)):
        with pytest.raises(TypeError):
            library.ck.Producer(*wrong)
    for name in ("error_cb", "stats_cb", "throttle_cb"):
        with pytest.raises((TypeError, ValueError), match=f"expected {name} property as a callable function"):
            library.ck.Producer(library.conf() | {name: 5})


# Producing


def test_delivery_is_reported_by_poll_and_flush_only(library: Library) -> None:
    topic, producer, reports = library.topic(), library.producer(), []
    producer.produce(topic, "value", "key", 2, on_delivery=lambda error, message: reports.append((error, message)))
    assert (len(producer), reports) == (1, [])
    assert producer.flush(10) == 0
    ((error, message),) = reports
    assert error is None
    assert (message.topic(), message.partition(), message.offset()) == (topic, 2, 0)
    assert (message.key(), message.value(), message.headers(), message.error()) == (b"key", b"value", None, None)
    assert message.latency() >= 0
    assert len(producer) == 0
    producer.close()


def test_record_without_a_callback_stays_counted_until_it_is_polled(library: Library) -> None:
    producer = library.producer(queue_buffering_max_messages=3)
    topic = library.topic()
    for _ in range(3):
        producer.produce(topic, b"x")
    with pytest.raises(BufferError, match="Local: Queue full"):
        producer.produce(topic, b"x")
    assert producer.flush(10) == 0
    producer.produce(topic, b"x")
    producer.close()


def test_callback_wins_over_on_delivery_and_both_over_the_configuration(library: Library) -> None:
    heard = []
    producer = library.ck.Producer(library.conf() | {"on_delivery": lambda *_: heard.append("configured")})
    topic = library.topic()
    producer.produce(
        topic, b"", callback=lambda *_: heard.append("callback"), on_delivery=lambda *_: heard.append("on_delivery")
    )
    producer.produce(topic, b"", on_delivery=lambda *_: heard.append("on_delivery"))
    producer.produce(topic, b"")
    producer.flush(10)
    assert sorted(heard) == ["callback", "configured", "on_delivery"]
    producer.close()


def test_what_a_delivery_callback_raises_is_raised_by_flush(library: Library) -> None:
    def fail(error: object, message: object) -> None:
        raise LookupError("mine")

    producer = library.producer()
    producer.produce(library.topic(), b"x", callback=fail)
    with pytest.raises(LookupError, match="mine"):
        producer.flush(10)
    assert producer.flush(10) == 0
    producer.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"topic": None},
        {"topic": 5},
        {"value": 5},
        {"key": 5},
        {"value": bytearray(b"x")},
        {"partition": "x"},
        {"partition": None},
        {"timestamp": "x"},
        {"headers": 5},
        {"headers": [("a", 5)]},
        {"headers": [("a",)]},
        {"headers": (("a", "b"),)},
        {"no_such": 1},
    ],
    ids=str,
)
def test_produce_raises_type_error(library: Library, arguments: dict[str, Any]) -> None:
    producer = library.producer()
    with pytest.raises(TypeError):
        producer.produce(**{"topic": "t", **arguments})
    assert len(producer) == 0
    producer.close()


def test_partition_that_is_not_there_is_refused_once_the_topic_is_known(library: Library) -> None:
    producer, topic = library.producer(), library.topic()
    producer.produce(topic, b"x")
    producer.flush(10)
    with pytest.raises(library.ck.KafkaException) as raised:
        producer.produce(topic, b"x", partition=99)
    assert error_of(raised) == library.ck.KafkaError._UNKNOWN_PARTITION
    producer.close()


def test_record_above_message_max_bytes_is_refused(library: Library) -> None:
    producer = library.producer()
    with pytest.raises(library.ck.KafkaException) as raised:
        producer.produce(library.name("t"), bytes(2_000_000))
    assert error_of(raised) == library.ck.KafkaError.MSG_SIZE_TOO_LARGE
    producer.close()


def test_closed_producer_raises_runtime_error(library: Library) -> None:
    with library.producer() as producer:
        pass
    for call in (lambda: producer.produce("t", b""), lambda: producer.poll(0), producer.flush):
        with pytest.raises(RuntimeError, match="Producer has been closed"):
            call()
    with pytest.raises(RuntimeError, match="Handle has been closed"):
        producer.list_topics()
    assert producer.close() is True
    assert (len(producer), bool(producer)) == (0, True)


def test_produce_batch_counts_what_was_taken_and_marks_what_was_not(library: Library) -> None:
    producer, topic = library.producer(), library.topic()
    batch: list[dict[str, Any]] = [{"value": b"good"}, {"value": bytes(2_000_000)}, {"value": "text", "key": "k"}]
    assert producer.produce_batch(topic, batch) == 2
    assert batch[1]["_error"] == library.ck.KafkaError.MSG_SIZE_TOO_LARGE
    assert "_error" not in batch[0]
    assert producer.produce_batch(topic, []) == 0
    with pytest.raises(TypeError, match="messages must be a list"):
        producer.produce_batch(topic, "x")
    assert producer.flush(10) == 0
    producer.close()


def test_transactions_need_a_transactional_id(library: Library) -> None:
    producer = library.producer()
    for call in (producer.init_transactions, producer.begin_transaction, producer.commit_transaction):
        with pytest.raises(library.ck.KafkaException) as raised:
            call()
        assert error_of(raised) == library.ck.KafkaError._NOT_CONFIGURED
    producer.close()


def test_transactional_producer_produces_nothing_outside_of_a_transaction(library: Library) -> None:
    producer = library.producer(transactional_id=library.name("transactional"))
    for call in (lambda: producer.produce("t", b""), producer.begin_transaction):
        with pytest.raises(library.ck.KafkaException) as raised:
            call()
        assert error_of(raised) == library.ck.KafkaError._STATE
    producer.close()


# What there is


def test_list_topics_tells_partitions_and_brokers(library: Library) -> None:
    topic, producer = library.topic(), library.producer()
    found = producer.list_topics(topic, timeout=10)
    assert list(found.topics) == [topic]
    assert sorted(found.topics[topic].partitions) == list(range(MOCK_PARTITIONS))
    assert {one.leader for one in found.topics[topic].partitions.values()} == set(found.brokers)
    assert producer.cluster_id(timeout=10)
    producer.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Expected non-empty list of NewPartitions objects"),
        ([("t", 0)], r"Invalid NewPartitions\(t\): new_total_cnt out of expected range 1..100000"),
        ([("t", 100_001)], r"Invalid NewPartitions\(t\): new_total_cnt out of expected range 1..100000"),
        ([("t", 3, [0])], "replica_assignment must be a list of int lists with an outer size of new_total_count"),
        ([("t", 3, [["a"]])], "replica_assignment must be a list of int lists with an outer size of new_total_count"),
    ],
)
def test_new_partitions_are_refused_as_librdkafka_does(library: Library, arguments: list[Any], says: str) -> None:
    admin = library.admin.AdminClient(library.conf())
    with pytest.raises(ValueError, match=says):
        admin.create_partitions([library.admin.NewPartitions(*one) for one in arguments])
    with pytest.raises(TypeError, match="Expected validate_only to be bool type, not str"):
        admin.create_partitions([library.admin.NewPartitions("t", 3)], validate_only="yes")
