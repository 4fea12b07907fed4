"""Consumer on a store: groups shared between consumers, their strategies, and what a mock cluster cannot show."""

from collections.abc import Callable
from typing import Any

import pytest

import kafkalite
from kafkalite.compat import confluent_kafka as ck
from kafkalite.compat.confluent_kafka.subscribing import MOST_RECORDS
from kafkalite.testing import procs
from tests.compat.conftest import MOCK_PARTITIONS, Library

Told = list[tuple[str, list[int]]]


def teller(told: Told, what: str) -> Callable[[Any, list[Any]], None]:
    return lambda _, partitions: told.append((what, sorted(one.partition for one in partitions)))


def subscribed(own: Library, topic: str, group: str, told: Told, **properties: Any) -> Any:
    consumer = own.consumer(group_id=group, **properties)
    calls = {f"on_{what}": teller(told, what) for what in ("assign", "revoke", "lost")}
    consumer.subscribe([topic], **calls)
    return consumer


def poll_in_turn(consumers: list[Any], until: Callable[[], bool]) -> list[Any]:
    """Messages of consumers that are polled in turn until something holds."""
    found = []
    for _ in range(2_000):
        found += [message for one in consumers if (message := one.poll(0.005)) is not None]
        if until():
            return found
    raise AssertionError("it never came to hold")


def test_eager_consumer_loses_all_and_gets_what_is_left(own: Library) -> None:
    topic, group = own.topic(), own.name("group")
    told: Told = []
    first = subscribed(own, topic, group, told)
    first.poll(0.1)
    second = subscribed(own, topic, group, [])
    poll_in_turn([first, second], lambda: len(first.assignment()) == len(second.assignment()) == 2)
    everything = list(range(MOCK_PARTITIONS))
    kept = sorted(one.partition for one in first.assignment())
    assert told == [("assign", everything), ("revoke", everything), ("assign", kept)]
    first.close()
    second.close()


def test_cooperative_consumer_loses_only_what_moves(own: Library) -> None:
    topic, group = own.topic(), own.name("group")
    told: Told = []
    settings = {"partition_assignment_strategy": "cooperative-sticky"}
    first = subscribed(own, topic, group, told, **settings)
    first.poll(0.1)
    second = subscribed(own, topic, group, [], **settings)
    poll_in_turn([first, second], lambda: len(first.assignment()) == len(second.assignment()) == 2)
    moved = sorted(one.partition for one in second.assignment())
    assert told[:2] == [("assign", list(range(MOCK_PARTITIONS))), ("revoke", moved)]
    first.close()
    second.close()


def test_partitions_of_a_consumer_that_closed_are_the_others(own: Library) -> None:
    topic, group = own.topic(*map(str, range(10))), own.name("group")
    first, second = (subscribed(own, topic, group, []) for _ in range(2))
    seen = poll_in_turn([first, second], lambda: len(first.assignment()) == len(second.assignment()) == 2)
    second.close()
    seen += poll_in_turn([first], lambda: len(first.assignment()) == MOCK_PARTITIONS)
    while (message := first.poll(0.2)) is not None:
        seen.append(message)
    assert sorted({message.offset() for message in seen if message.partition() == 0}) == list(range(10))
    first.close()


def test_on_revoke_may_commit_what_was_read(own: Library) -> None:
    topic, group = own.topic(*map(str, range(4))), own.name("group")
    committed: list[int] = []

    def commit(consumer: Any, partitions: list[Any]) -> None:
        del partitions
        if not committed:  # closing revokes once more, with nothing left to commit
            committed.extend(one.offset for one in consumer.commit(asynchronous=False) if one.offset >= 0)

    first = own.consumer(group_id=group, enable_auto_commit=False)
    first.subscribe([topic], on_revoke=commit)
    assert len(first.consume(4, 10)) == 4
    second = subscribed(own, topic, group, [])
    seen = poll_in_turn([first, second], lambda: len(first.assignment()) == len(second.assignment()) == 2)
    assert committed == [4]
    assert seen == []
    first.close()
    second.close()


def test_nothing_is_committed_that_was_not(own: Library) -> None:
    topic, group = own.topic("0", "1"), own.name("group")
    with own.consumer(group_id=group, enable_auto_commit=False) as consumer:
        consumer.subscribe([topic])
        assert len(consumer.consume(2, 10)) == 2
    with own.consumer(group_id=group, enable_auto_commit=False) as consumer:
        consumer.subscribe([topic])
        assert [message.value() for message in consumer.consume(2, 10)] == [b"0", b"1"]


def test_pattern_picks_up_a_topic_that_comes_later(own: Library) -> None:
    prefix = own.name("pattern")
    consumer = own.consumer()
    consumer.subscribe([f"^{prefix}-.*"])
    assert consumer.poll(0.1) is None
    producer = own.producer()
    producer.produce(f"{prefix}-late", b"x")
    producer.close()
    message = consumer.poll(10)
    assert (message.topic(), message.value()) == (f"{prefix}-late", b"x")
    consumer.close()


def test_topic_that_is_not_there_is_told_and_read_when_it_comes(own: Library) -> None:
    topic, consumer = own.name("awaited"), own.consumer()
    consumer.subscribe([topic])
    told = consumer.poll(10)
    assert (told.error(), told.topic()) == (ck.KafkaError.UNKNOWN_TOPIC_OR_PART, topic)
    producer = own.producer()
    producer.produce(topic, b"x")
    producer.close()
    assert consumer.poll(10).value() == b"x"
    consumer.close()


def test_seek_and_pause_of_a_member_reach_what_was_fetched_ahead(own: Library) -> None:
    topic = own.topic(*map(str, range(50)))
    here, consumer = ck.TopicPartition, own.consumer()
    consumer.subscribe([topic])
    assert len(consumer.consume(20, 10)) == 20
    consumer.pause([here(topic, 0)])
    assert consumer.poll(0.1) is None
    consumer.resume([here(topic, 0)])
    assert consumer.poll(10).offset() == 20
    consumer.seek(here(topic, 0, 5))
    assert consumer.poll(10).offset() == 5
    consumer.close()


def test_quick_program_gets_large_fetches_and_a_slow_one_small_ones(own: Library) -> None:
    topic = own.topic(*map(str, range(MOST_RECORDS)))
    consumer = own.consumer()
    consumer.subscribe([topic])
    assert [message.offset() for message in consumer.consume(MOST_RECORDS, 10)] == list(range(MOST_RECORDS))
    feed = consumer._feed
    assert feed._most > 100
    feed._given_at -= 10
    feed._buffer.clear()
    consumer.poll(0)
    assert feed._most <= MOST_RECORDS // 4
    consumer.close()


def test_end_of_partition_is_told_to_a_member_once(own: Library) -> None:
    consumer = own.consumer(enable_partition_eof=True)
    consumer.subscribe([own.topic("0")])
    found = consumer.consume(1 + MOCK_PARTITIONS, 10)
    ends = {(one.partition(), one.offset()) for one in found if one.error() == ck.KafkaError._PARTITION_EOF}
    assert ends == {(0, 1), (1, 0), (2, 0), (3, 0)}
    assert consumer.poll(0.1) is None
    consumer.close()


def test_what_on_assign_raises_is_raised_by_poll_and_the_member_goes_on(own: Library) -> None:
    def fail(consumer: object, partitions: object) -> None:
        raise LookupError("mine")

    topic = own.topic("0")
    consumer = own.consumer()
    consumer.subscribe([topic], on_assign=fail)
    with pytest.raises(LookupError, match="mine"):
        consumer.poll(10)
    assert consumer.poll(10).value() == b"0"
    consumer.close()


def test_automatic_commit_is_reported_and_happens_while_polling(own: Library) -> None:
    heard: list[Any] = []
    topic, group = own.topic("0"), own.name("group")
    conf = own.conf(group_id=group, auto_offset_reset="earliest", auto_commit_interval_ms=1)
    consumer = ck.Consumer(conf | {"on_commit": lambda error, _: heard.append(error)})
    consumer.subscribe([topic])
    poll_in_turn([consumer], lambda: bool(heard))
    assert heard == [None]
    assert consumer.committed([ck.TopicPartition(topic, 0)])[0].offset == 1
    consumer.close()


@pytest.mark.parametrize("stamp", [1_003, 1_003.5])
def test_offsets_for_times_finds_the_first_at_or_after(own: Library, stamp: float) -> None:
    topic, here = own.topic(*map(str, range(10))), ck.TopicPartition
    consumer = own.consumer()
    asked = [here(topic, 0, round(stamp + 0.5)), here(topic, 0, 9_999), here(topic, 1, 0)]
    found = [one.offset for one in consumer.offsets_for_times(asked)]
    assert found == [4, ck.OFFSET_END, ck.OFFSET_END] if stamp > 1_003 else [3, ck.OFFSET_END, ck.OFFSET_END]
    with pytest.raises(ck.KafkaException) as raised:
        consumer.offsets_for_times([here("not-there", 0, 5)])
    assert raised.value.args[0] == ck.KafkaError._UNKNOWN_PARTITION
    consumer.close()


def test_offset_of_every_millisecond_is_exact(own: Library) -> None:
    topic, count = own.name("milliseconds"), 3_000
    with own.producer() as producer:
        for stamp in range(1, count + 1):
            producer.produce(topic, b"", timestamp=stamp)
    consumer = own.consumer()
    asked = [ck.TopicPartition(topic, 0, stamp) for stamp in range(1_990, 2_050)]
    assert [one.offset for one in consumer.offsets_for_times(asked)] == [one.offset - 1 for one in asked]
    consumer.close()


def test_consumer_of_an_older_kafkalite_group_goes_on_where_it_stopped(own: Library) -> None:
    topic, group = own.topic("0", "1", "2"), own.name("group")
    path = own.conf()["bootstrap.servers"].removeprefix("file:")
    with kafkalite.connect(path) as store, store.consumer_group(group, [topic]) as members:
        assert len(members.poll(max_records=2)) == 2
        members.commit()
    consumer = own.consumer(group_id=group)
    consumer.subscribe([topic])
    assert consumer.poll(10).value() == b"2"
    consumer.close()


KILLED = """
import sys, time
from kafkalite.compat.confluent_kafka import Consumer
conf = {"bootstrap.servers": sys.argv[1], "group.id": sys.argv[3], "auto.offset.reset": "earliest"}
consumer = Consumer(conf | {"enable.auto.commit": False})
consumer.subscribe([sys.argv[2]])
print(len(consumer.consume(9, 30)), flush=True)
time.sleep(60)
"""


# Fails as long as a dead member's records in hand are committed for it although it commits nothing by itself.
def test_consumer_that_was_killed_has_committed_nothing_that_it_did_not(own: Library) -> None:
    topic, group = own.topic(*map(str, range(10))), own.name("group")
    with own.consumer() as bystander:
        bystander.subscribe([topic])
        bystander.poll(10)
        with procs.python(KILLED, own.conf()["bootstrap.servers"], topic, group) as child:
            child.wait_for("9")
            child.kill()
        with own.consumer(group_id=group, enable_auto_commit=False) as consumer:
            consumer.subscribe([topic])
            assert consumer.poll(10).offset() == 0
