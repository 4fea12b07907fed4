"""The contract of transactions. What the mock cluster does not know, fencing and aborted records, is asked of `whole`.

Records are delivered before the end of a transaction there, and at its end here: nothing below looks in between.
"""

from typing import Any

import pytest

from tests.compat.conftest import Library
from tests.compat.test_contract import error_of

CALLS = ("begin_transaction", "commit_transaction", "abort_transaction")


def transactional(library: Library, name: str = "", **properties: Any) -> Any:
    """A producer that has its transactional.id."""
    producer = library.producer(transactional_id=name or library.name("transactional"), **properties)
    producer.init_transactions(30)
    return producer


def refused(library: Library, call: Any) -> Any:
    with pytest.raises(library.ck.KafkaException) as raised:
        call()
    return error_of(raised)


def nature(error: Any) -> tuple[bool, bool, bool]:
    return error.fatal(), error.retriable(), error.txn_requires_abort()


def read(library: Library, topic: str, count: int) -> list[bytes]:
    """The first values of partition 0; fails if they do not come."""
    consumer = library.consumer()
    consumer.assign([library.ck.TopicPartition(topic, 0)])
    found = [message.value() for message in consumer.consume(count, 20)]
    assert consumer.poll(0.3) is None
    consumer.close()
    return found


def joined(library: Library, topic: str, group: str) -> Any:
    """A member of a group that has its first message."""
    consumer = library.consumer(group_id=group, enable_auto_commit=False)
    consumer.subscribe([topic])
    assert consumer.poll(30).error() is None
    return consumer


def committed(library: Library, group: str, topic: str) -> tuple[int, str | None]:
    consumer = library.consumer(group_id=group)
    (found,) = consumer.committed([library.ck.TopicPartition(topic, 0)], timeout=20)
    consumer.close()
    return found.offset, found.metadata


# States


def test_every_call_before_init_is_refused(library: Library) -> None:
    producer = library.producer(transactional_id=library.name("transactional"))
    metadata = library.consumer().consumer_group_metadata()
    calls = [getattr(producer, name) for name in CALLS]
    calls.append(lambda: producer.send_offsets_to_transaction([library.ck.TopicPartition("t", 0, 1)], metadata))
    for call in calls:
        error = refused(library, call)
        assert (error, error.str()) == (library.ck.KafkaError._STATE, "Operation not valid in state Init")
        assert nature(error) == (False, False, False)
    producer.close()


def test_calls_that_need_an_open_transaction_are_refused_without_one(library: Library) -> None:
    producer = transactional(library)
    metadata = library.consumer().consumer_group_metadata()
    calls = [producer.commit_transaction, producer.abort_transaction, producer.init_transactions]
    calls.append(lambda: producer.send_offsets_to_transaction([library.ck.TopicPartition("t", 0, 1)], metadata))
    for call in calls:
        assert refused(library, call).str() == "Operation not valid in state Ready"
    assert refused(library, lambda: producer.produce("t", b"x")) == library.ck.KafkaError._STATE
    producer.close()


def test_transaction_is_begun_once(library: Library) -> None:
    producer = transactional(library)
    producer.begin_transaction()
    for call in (producer.begin_transaction, producer.init_transactions):
        assert refused(library, call).str() == "Operation not valid in state InTransaction"
    producer.abort_transaction()
    producer.close()


@pytest.mark.parametrize("end", ["commit_transaction", "abort_transaction"])
def test_empty_transaction_ends_and_another_begins(library: Library, end: str) -> None:
    producer = transactional(library)
    for _ in range(2):
        producer.begin_transaction()
        getattr(producer, end)(20)
    producer.close()


def test_closed_producer_has_no_transactions(library: Library) -> None:
    producer = transactional(library)
    producer.close()
    for name in ("init_transactions", *CALLS):
        with pytest.raises(RuntimeError, match="Producer has been closed"):
            getattr(producer, name)()


@pytest.mark.parametrize("timeout", ["x", None])
def test_timeout_that_is_no_number_raises_type_error(library: Library, timeout: Any) -> None:
    producer = library.producer(transactional_id=library.name("transactional"))
    for name in ("init_transactions", "commit_transaction", "abort_transaction"):
        with pytest.raises(TypeError, match="must be real number"):
            getattr(producer, name)(timeout)
    producer.close()


def test_group_metadata_that_is_none_is_refused_before_the_state(library: Library) -> None:
    producer = library.producer(transactional_id=library.name("transactional"))
    send = producer.send_offsets_to_transaction
    for wrong in ("text", None):
        with pytest.raises(TypeError, match="expected bytes"):
            send([], wrong)
    for wrong in (b"short", b"anything that is long enough", library.consumer().consumer_group_metadata() + b"x"):
        assert refused(library, lambda wrong=wrong: send([], wrong)) == library.ck.KafkaError._BAD_MSG
    with pytest.raises(TypeError, match="requires list of TopicPartition"):
        send("t", library.consumer().consumer_group_metadata())
    with pytest.raises(TypeError):
        send()
    producer.close()


# Records


def test_commit_reports_deliveries(library: Library) -> None:
    topic, producer, reports = library.topic(), transactional(library), []
    producer.begin_transaction()
    for _ in range(2):
        producer.produce(topic, b"x", partition=0, on_delivery=lambda error, message: reports.append((error, message)))
    producer.commit_transaction(20)
    assert [(error, message.value(), message.partition()) for error, message in reports] == [(None, b"x", 0)] * 2
    assert reports[1][1].offset() == reports[0][1].offset() + 1
    assert len(producer) == 0
    producer.close()


def test_abort_reports_what_was_not_sent_as_purged_and_the_next_one_is_delivered(library: Library) -> None:
    topic, producer, errors = library.topic(), transactional(library, linger_ms=5_000), []
    producer.begin_transaction()
    producer.produce(topic, b"never", partition=0, on_delivery=lambda error, message: errors.append((error, message)))
    producer.abort_transaction(20)
    ((error, message),) = errors
    assert (error, message.error(), message.offset()) == (library.ck.KafkaError._PURGE_QUEUE, error, None)
    assert nature(error) == (False, False, False)
    assert len(producer) == 0
    producer.begin_transaction()
    producer.produce(topic, b"next", partition=0)
    producer.commit_transaction(20)
    producer.close()
    assert read(library, topic, 1) == [b"next"]


def test_closing_aborts_an_open_transaction(library: Library) -> None:
    topic, producer, errors = library.topic(), transactional(library, linger_ms=5_000), []
    producer.begin_transaction()
    producer.produce(topic, b"never", partition=0, on_delivery=lambda error, _: errors.append(error))
    producer.close()
    assert errors == [library.ck.KafkaError._PURGE_QUEUE]


def test_what_a_delivery_callback_raises_is_raised_by_the_end_which_has_happened(library: Library) -> None:
    def fail(error: object, message: object) -> None:
        raise LookupError("mine")

    topic, producer = library.topic(), transactional(library, linger_ms=5_000)
    for end in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        producer.produce(topic, b"x", partition=0, on_delivery=fail)
        with pytest.raises(LookupError, match="mine"):
            end(20)
    producer.begin_transaction()
    producer.commit_transaction(20)
    producer.close()


def test_more_records_than_the_queue_holds_are_one_transaction(library: Library) -> None:
    topic, producer = library.topic(), transactional(library, queue_buffering_max_messages=10)
    producer.begin_transaction()
    for number in range(50):
        while True:
            try:
                producer.produce(topic, b"%d" % number, partition=0)
                break
            except BufferError:
                producer.poll(0.1)
    producer.commit_transaction(20)
    producer.close()
    assert read(library, topic, 50) == [b"%d" % number for number in range(50)]


def test_records_of_an_aborted_transaction_are_not_read(whole: Library) -> None:
    topic, producer = whole.topic(), transactional(whole)
    for value, end in ((b"1", "commit"), (b"2", "abort"), (b"3", "commit")):
        producer.begin_transaction()
        producer.produce(topic, value, partition=0)
        producer.flush(1)
        getattr(producer, f"{end}_transaction")(20)
    assert read(whole, topic, 2) == [b"1", b"3"]
    producer.close()


# Fencing


def test_second_producer_with_the_id_fences_the_first_for_good(whole: Library) -> None:
    topic, name = whole.topic(), whole.name("transactional")
    first = transactional(whole, name)
    first.begin_transaction()
    first.produce(topic, b"zombie", partition=0)
    second = transactional(whole, name)
    error = refused(whole, lambda: first.commit_transaction(20))
    assert error == whole.ck.KafkaError._FENCED
    assert nature(error) == (True, False, False)
    assert refused(whole, lambda: first.produce(topic, b"zombie")) == whole.ck.KafkaError._FATAL
    again = refused(whole, first.begin_transaction)
    assert (again, nature(again)) == (whole.ck.KafkaError._FENCED, (True, False, False))
    second.begin_transaction()
    second.produce(topic, b"new", partition=0)
    second.commit_transaction(20)
    second.close()
    assert read(whole, topic, 1) == [b"new"]


# Offsets


def test_offsets_are_committed_with_the_transaction_and_not_without(whole: Library) -> None:
    topic, out, group = whole.topic("0", "1", "2"), whole.topic(), whole.name("group")
    consumer, producer = joined(whole, topic, group), transactional(whole)
    place = whole.ck.TopicPartition
    for offset, end in ((1, "commit"), (2, "abort")):
        producer.begin_transaction()
        producer.produce(out, b"%d" % offset, partition=0)
        producer.send_offsets_to_transaction([place(topic, 0, offset, "so far")], consumer.consumer_group_metadata())
        getattr(producer, f"{end}_transaction")(20)
    assert committed(whole, group, topic) == (1, "so far")
    assert read(whole, out, 1) == [b"1"]
    consumer.close()
    producer.close()


def test_partitions_without_an_offset_are_passed_over(library: Library) -> None:
    topic = library.topic("0")
    consumer, producer = joined(library, topic, library.name("group")), transactional(library)
    producer.begin_transaction()
    for positions in ([], [library.ck.TopicPartition(topic, 1)], consumer.position(consumer.assignment())):
        producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata())
    producer.commit_transaction(20)
    consumer.close()
    producer.close()


def test_next_member_goes_on_where_the_last_transaction_stopped(whole: Library) -> None:
    topic, group = whole.topic("0", "1", "2"), whole.name("group")
    producer, seen = transactional(whole), []
    for _ in range(3):
        consumer = joined(whole, topic, group)
        message = consumer.position(consumer.assignment())
        seen.append(max(one.offset for one in message))
        producer.begin_transaction()
        producer.send_offsets_to_transaction(message, consumer.consumer_group_metadata())
        producer.commit_transaction(20)
        consumer.close()
    assert seen == [1, 2, 3]
    producer.close()


def test_offsets_of_a_member_that_left_must_be_aborted(whole: Library) -> None:
    topic, group = whole.topic("0"), whole.name("group")
    consumer, producer = joined(whole, topic, group), transactional(whole, linger_ms=5_000)
    metadata, here = consumer.consumer_group_metadata(), [whole.ck.TopicPartition(topic, 0, 1)]
    consumer.close()
    producer.begin_transaction()
    producer.produce(topic, b"never", partition=0)
    sent = refused(whole, lambda: producer.send_offsets_to_transaction(here, metadata))
    for error in (sent, refused(whole, producer.begin_transaction), refused(whole, producer.commit_transaction)):
        assert (error, nature(error)) == (whole.ck.KafkaError.UNKNOWN_MEMBER_ID, (False, False, True))
    assert refused(whole, lambda: producer.produce(topic, b"never")) == whole.ck.KafkaError._STATE
    producer.abort_transaction(20)
    producer.begin_transaction()
    producer.commit_transaction(20)
    producer.close()
    assert read(whole, topic, 1) == [b"0"]


def test_offsets_of_an_earlier_generation_must_be_aborted(whole: Library) -> None:
    topic, group = whole.topic("0"), whole.name("group")
    first, producer = joined(whole, topic, group), transactional(whole)
    old, here = first.consumer_group_metadata(), [whole.ck.TopicPartition(topic, 0, 1)]
    second = whole.consumer(group_id=group, enable_auto_commit=False)
    second.subscribe([topic])
    while not second.assignment():
        first.poll(0.1)
        second.poll(0.1)
    producer.begin_transaction()
    error = refused(whole, lambda: producer.send_offsets_to_transaction(here, old))
    assert (error, nature(error)) == (whole.ck.KafkaError.ILLEGAL_GENERATION, (False, False, True))
    producer.abort_transaction(20)
    producer.begin_transaction()
    producer.send_offsets_to_transaction(here, first.consumer_group_metadata())
    producer.commit_transaction(20)
    assert committed(whole, group, topic)[0] == 1
    for client in (first, second, producer):
        client.close()


def test_consumer_that_is_no_member_may_commit_into_a_group_that_has_some(whole: Library) -> None:
    topic, group = whole.topic("0", "1"), whole.name("group")
    member, outsider, producer = joined(whole, topic, group), whole.consumer(group_id=group), transactional(whole)
    producer.begin_transaction()
    here = [whole.ck.TopicPartition(topic, 0, 2)]
    producer.send_offsets_to_transaction(here, outsider.consumer_group_metadata())
    producer.commit_transaction(20)
    assert committed(whole, group, topic)[0] == 2
    for client in (member, outsider, producer):
        client.close()
