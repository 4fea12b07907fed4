"""Topics that grow: what handles, producers and followers make of partitions that are added, here or elsewhere.

Groups are in `test_group_growth`. In each layout.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from queue import Queue
from typing import Any, Final

import pytest

from kafkalite import (
    ConfigError,
    InvalidPartitionsError,
    Producer,
    Record,
    Store,
    Topic,
    TopicSettingsError,
    UnknownPartitionError,
)
from kafkalite.partitioner import KeyPartitions
from kafkalite.storage import wakeup
from tests import elsewhere
from tests.conftest import OpenStore

PATIENCE: Final = 60
AN_HOUR: Final = 3_600_000


@pytest.fixture
def store(open_store: OpenStore, layout: Path | str) -> Store:
    return open_store(layout)


def numbered(store: Store, partitions: int, count: int) -> Topic[bytes, bytes | None]:
    """A topic whose partitions hold "0", "1" …, each in a batch of its own."""
    topic = store.topic("t", partitions=partitions)
    for number in range(partitions * count):
        topic.append(b"%d" % (number // partitions), partition=number % partitions)
    return topic


def values(records: Iterator[Record[Any, Any]]) -> list[Any]:
    return [record.value for record in records]


# Handles


def test_a_topic_grows_and_what_is_there_stays(store: Store) -> None:
    topic, handle = store.topic("t", partitions=2), store.topic("t", value=str)
    store.topic("between")
    topic.append_many([b"%d" % number for number in range(20)], keys=[b"%d" % number for number in range(20)])
    before = {number: list(topic.read(number)) for number in range(2)}
    topic.alter(partitions=5)
    assert (topic.partition_count, handle.partition_count, store.topic("t").partition_count) == (5, 5, 5)
    assert {number: list(topic.read(number)) for number in range(2)} == before
    assert [topic.end_offsets()[number] for number in (2, 3, 4)] == [0, 0, 0]
    assert handle.append("x", partition=4)[:3] == ("t", 4, 0)
    assert topic.append_many([b"y", b"z"], partition=3) == {3: range(2)}
    assert [record.value for record in topic.tail(1)][2:] == [b"z", b"x"]
    assert len(list(store.read(["t", "between"]))) == 23


def test_a_key_goes_where_the_new_number_of_partitions_says(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    keys = [b"%d" % number for number in range(40)]
    topic.append(b"", key=keys[0])
    topic.alter(partitions=7)
    found = [topic.append(b"", key=key).partition for key in keys]
    many = topic.append_many(keys, keys=keys)
    assert found == [KeyPartitions(7)[key] for key in keys]
    assert {number: len(offsets) for number, offsets in many.items()} == Counter(found)


def test_records_without_a_key_go_to_new_partitions_as_well(store: Store) -> None:
    topic = store.topic("t")
    topic.alter(partitions=4)
    assert {topic.append(b"").partition for _ in range(8)} == {0, 1, 2, 3}


def test_settings_and_partitions_are_altered_together_or_not_at_all(store: Store) -> None:
    topic = store.topic("t")
    topic.alter(partitions=2, config={"retention.ms": 5})
    assert (topic.partition_count, topic.settings["retention_ms"]) == (2, 5)
    with pytest.raises(InvalidPartitionsError) as caught:
        topic.alter(partitions=2, retention_ms=6)
    assert (caught.value.code, topic.settings["retention_ms"]) == (37, 5)
    with pytest.raises(ConfigError, match="no setting"):
        topic.alter()


@pytest.mark.parametrize("count", [0, -1, 1_000_001, True, "3", 2.0])
def test_what_is_no_number_of_partitions_is_refused(store: Store, count: Any) -> None:
    with pytest.raises(InvalidPartitionsError, match=r"partitions=.* is not valid: give 1 to 1000000"):
        store.topic("t").alter(partitions=count)


def test_another_process_adds_partitions_and_this_one_sees_them(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    topic.append(b"old", key=b"k")
    elsewhere.grow(store, "t", 5, "theirs")
    assert topic.append(b"mine", partition=3).offset == 0
    elsewhere.grow(store, "t", 6)
    assert topic.partition_count == 6
    elsewhere.grow(store, "t", 7)
    assert set(topic.end_offsets()) == set(range(7))
    elsewhere.grow(store, "t", 8)
    assert [record.value for record in topic.read(7)] == []
    assert sorted(record.value or b"" for record in topic.read()) == [b"mine", b"old", b"theirs"]


def test_another_process_added_partitions_and_keys_follow_from_the_next_commit_on(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    keys = [b"%d" % number for number in range(20)]
    topic.append(b"", key=b"k")
    elsewhere.grow(store, "t", 9)
    topic.append_many([b""], keys=[b"k"])
    many = topic.append_many(keys, keys=keys)
    assert {number: len(offsets) for number, offsets in many.items()} == Counter(KeyPartitions(9)[key] for key in keys)
    elsewhere.grow(store, "t", 30)
    topic.append(b"", key=b"k")
    assert [topic.append(b"", key=key).partition for key in keys] == [KeyPartitions(30)[key] for key in keys]


def test_a_grown_topic_is_what_code_that_names_its_first_number_is_told(store: Store) -> None:
    store.topic("t", partitions=2).alter(partitions=3)
    with pytest.raises(TopicSettingsError, match=r"has 3 partitions, not 2: leave partitions= out$"):
        store.topic("t", partitions=2)
    with pytest.raises(TopicSettingsError, match=r"or add some with topic.alter\(partitions=4\)"):
        store.topic("t", partitions=4)


# Producers


def test_keys_are_spread_over_new_partitions_from_the_next_batch_on(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    keys = [b"%d" % number for number in range(40)]
    with store.producer(linger_ms=AN_HOUR) as producer:
        open_ones = [producer.send(topic, b"", key=key) for key in keys]
        topic.alter(partitions=9)
        producer.flush()
        assert [one.result().partition for one in open_ones] == [KeyPartitions(2)[key] for key in keys]
        for target in (topic, "t", store.topic("t")):
            later = [producer.send(target, b"", key=key) for key in keys]
            assert [one.result().partition for one in later] == [KeyPartitions(9)[key] for key in keys]


def test_another_process_adds_partitions_and_the_next_batch_knows(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    keys = [b"%d" % number for number in range(40)]
    with store.producer(linger_ms=AN_HOUR) as producer:
        producer.send(topic, b"", key=b"k").result()
        elsewhere.grow(store, "t", 9)
        later = [producer.send(topic, b"", key=key) for key in keys]
        assert [one.result().partition for one in later] == [KeyPartitions(9)[key] for key in keys]
        elsewhere.grow(store, "t", 20)
        many = producer.send_many(topic, keys, keys=keys).result()
        assert set(many) == {KeyPartitions(20)[key] for key in keys}
        elsewhere.grow(store, "t", 30)
        assert producer.send(topic, b"", partition=29).result().offset == 0
        elsewhere.grow(store, "t", 31)
        assert producer.send_many(topic, [b""], partition=30).result() == {30: range(1)}
        with pytest.raises(UnknownPartitionError, match="give 0 to 30"):
            producer.send(topic, b"", partition=31)


def test_records_without_a_key_reach_new_partitions(store: Store) -> None:
    topic = store.topic("t")
    with store.producer(linger_ms=AN_HOUR) as producer:
        producer.send(topic, b"").result()
        topic.alter(partitions=3)
        assert {producer.send(topic, b"").result().partition for _ in range(7)} == {0, 1, 2}


def test_threads_send_by_key_while_the_topic_grows(store: Store) -> None:
    topic = store.topic("t")
    counts = range(2, 12)

    def send(producer: Producer, name: int) -> None:
        for number in range(600):
            producer.send(topic, b"%d" % number, key=b"%d" % name)

    with store.producer(linger_ms=0) as producer:
        threads = [threading.Thread(target=send, args=(producer, name)) for name in range(3)]
        for thread in threads:
            thread.start()
        for count in counts:
            topic.alter(partitions=count)
        for thread in threads:
            thread.join(PATIENCE)
    found = defaultdict(list)
    for number in range(topic.partition_count):
        for record in topic.read(number):
            found[record.key].append(int(record.value or b""))
            assert record.partition in {KeyPartitions(count)[record.key or b""] for count in (1, *counts)}
    assert {key: sorted(numbers) for key, numbers in found.items()} == {
        b"%d" % name: list(range(600)) for name in range(3)
    }


# Followers


@pytest.mark.parametrize("start", ["earliest", "latest", timedelta(days=1)])
def test_a_follower_of_a_whole_topic_follows_new_partitions_from_their_beginning(store: Store, start: Any) -> None:
    topic = numbered(store, partitions=2, count=2)
    following = topic.read(start=start, until=None)
    several = store.read([topic, store.topic("other")], start=start, until=None)
    topic.alter(partitions=4)
    topic.append_many([b"a", b"b"], partition=3)
    topic.append(b"c", partition=2)
    for records in (following, several):
        found = values(islice(records, 3 if start == "latest" else 7))
        assert [value for value in found if value in (b"a", b"b")] == [b"a", b"b"]
        assert b"c" in found


def test_a_follower_of_one_partition_or_of_those_it_named_stays_with_them(store: Store) -> None:
    topic = numbered(store, partitions=2, count=1)
    one, named = topic.read(1, until=None), topic.read(start={0: 0}, until=None)
    assert (next(one).partition, next(named).partition) == (1, 0)
    topic.alter(partitions=3)
    topic.append(b"new", partition=2)
    topic.append(b"next", partition=1)
    topic.append(b"next", partition=0)
    assert (next(one).value, next(named).value) == (b"next", b"next")


def test_reading_to_the_end_reads_the_partitions_of_the_call(store: Store) -> None:
    topic = numbered(store, partitions=2, count=2)
    reading = topic.read()
    next(reading)
    topic.alter(partitions=3)
    topic.append(b"new", partition=2)
    assert len(list(reading)) == 3
    assert len(list(topic.read())) == 5


def until_asleep(store: Store) -> None:
    """Wait until somebody sleeps, or is about to, until a log grows."""
    end = time.monotonic() + PATIENCE
    while not any(store._engine.wakeup.page.armed):
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_follower_that_sleeps_is_woken_by_new_partitions(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "LONGEST_SLEEP", 2.0 * PATIENCE)  # by nothing else
    topic = store.topic("t")
    found: Queue[Record[bytes, bytes | None]] = Queue()
    follower = threading.Thread(target=lambda: [found.put(record) for record in islice(topic.read(until=None), 2)])
    follower.start()
    until_asleep(store)
    elsewhere.grow(store, "t", 3, "there before it is followed")
    assert found.get(timeout=PATIENCE).partition == 2
    until_asleep(store)
    topic.append(b"wakes at once", partition=1)
    assert found.get(timeout=PATIENCE).partition == 1
    follower.join(PATIENCE)
