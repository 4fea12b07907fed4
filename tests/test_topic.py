"""Topic: getting or creating it, appending, what becomes of handles when it is altered or deleted. In each layout."""

import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kafkalite
from kafkalite import (
    JSON,
    MSGPACK,
    ConfigError,
    InvalidTopicError,
    OffsetConflictError,
    RecordTooLargeError,
    SerializationError,
    Store,
    TopicSettingsError,
    UnknownPartitionError,
    UnknownTopicError,
    clock,
    config,
)
from kafkalite.model import INTERNAL_TOPICS
from kafkalite.testing import procs

OpenStore = Callable[..., Store]


@dataclass
class Order:
    id: int
    amount: float


class Placed(msgspec.Struct, tag=True):
    id: int


class Paid(msgspec.Struct, tag=True):
    id: int


@pytest.fixture
def store(open_store: OpenStore, layout: Path | str) -> Store:
    return open_store(layout)


# Getting or creating


def test_a_new_topic_has_one_partition_and_the_defaults(store: Store) -> None:
    topic = store.topic("t")
    assert (topic.name, topic.partition_count) == ("t", 1)
    assert topic.settings == config.defaults("topic")
    assert (topic.settings["retention_ms"], topic.settings["retention_bytes"]) == (-1, -1)
    assert topic.settings["max_message_bytes"] == 1024 * 1024
    assert topic.beginning_offsets() == topic.end_offsets() == {0: 0}
    assert list(topic.read()) == []


def test_getting_a_topic_compares_only_what_is_given(store: Store) -> None:
    store.topic("t", partitions=3, retention_ms=7, compression_type="zstd")
    again = store.topic("t")
    assert (again.partition_count, again.settings["retention_ms"]) == (3, 7)
    assert store.topic("t", partitions=3, config={"retention.ms": 7}).settings == again.settings
    assert store.topics() == ["t"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"partitions": 2}, ["3 partitions", "not 2"]),
        ({"retention_ms": 8}, ["retention_ms=7", "not 8", "topic.alter(retention_ms=8)"]),
        ({"max_message_bytes": 5}, ["max_message_bytes=1048576", "not 5"]),
        ({"config": {"compression.type": "zstd"}}, ["compression_type='producer'", "not 'zstd'"]),
    ],
)
def test_another_value_than_the_topics_is_refused_with_both_and_the_fix(
    store: Store, given: dict[str, Any], shown: list[str]
) -> None:
    store.topic("t", partitions=3, retention_ms=7)
    with pytest.raises(TopicSettingsError, match="topic 't'") as caught:
        store.topic("t", **given)
    assert [part for part in shown if part not in str(caught.value)] == []


def test_a_topic_that_may_not_be_created_is_unknown(store: Store) -> None:
    with pytest.raises(UnknownTopicError, match=r"there is no topic 'nope' in .*store\.topic\('nope'\)") as caught:
        store.topic("nope", create=False)
    assert isinstance(caught.value, LookupError)
    assert store.topics() == []


@pytest.mark.parametrize("name", ["a", "A-b_c.9", ".a", "..a", "...", "-", "_", "x" * 249, "__consumer_offsets2"])
def test_a_name_that_kafka_takes_is_taken(store: Store, name: str) -> None:
    store.topic(name).append(b"v")
    assert store.topics() == [name]


NAMES: list[Any] = [
    "",
    ".",
    "..",
    "x" * 250,
    "a b",
    "a/b",
    "ä",
    "a\n",
    "a\0",
    "a:b",
    "a,b",
    *INTERNAL_TOPICS,
    None,
    5,
    b"a",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_kafka_refuses_is_refused(store: Store, name: Any) -> None:
    for use in (store.topic, store.delete_topic):
        with pytest.raises(InvalidTopicError) as caught:
            use(name)
        assert repr(name) in str(caught.value)
    assert store.topics() == []


@pytest.mark.parametrize("partitions", [0, -1, 1_000_001, True, 1.0, "3", [1]])
def test_a_number_of_partitions_that_cannot_be_is_refused(store: Store, partitions: Any) -> None:
    with pytest.raises(ConfigError, match=r"partitions=.* is not valid: give 1 to 1000000"):
        store.topic("t", partitions=partitions)
    assert store.topics() == []


def test_a_hundred_thousand_partitions_are_one_entry(store: Store) -> None:
    topic = store.topic("wide", partitions=100_000)
    assert topic.append(b"v", partition=99_999).offset == 0
    assert [record.partition for record in topic.read(99_999)] == [99_999]
    assert store.topic("next").append(b"w").offset == 0


def test_two_threads_that_create_a_topic_get_the_same_one(store: Store) -> None:
    found: list[int] = []

    def create() -> None:
        found.append(store.topic("t", partitions=4).append(b"v", partition=3).offset)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(8))


# Appending


def test_an_append_says_where_the_record_is(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    before = clock.now_ms()
    first = topic.append(b"v", key=b"k", partition=1, headers={"h": b"1"})
    second = topic.append(b"w", partition=1, timestamp_ms=7)
    assert (first.topic, first.partition, first.offset) == ("t", 1, 0)
    assert before <= first.timestamp_ms <= clock.now_ms()
    assert second == ("t", 1, 1, 7)
    (found, _) = topic.read()
    assert found == ("t", 1, 0, first.timestamp_ms, b"k", b"v", (("h", b"1"),))
    assert topic.end_offsets() == {0: 0, 1: 2}


def test_records_without_a_key_go_round_all_partitions(store: Store) -> None:
    topic = store.topic("t", partitions=3)
    assert sorted(topic.append(b"v").partition for _ in range(6)) == [0, 0, 1, 1, 2, 2]


def test_order_holds_per_partition_and_per_key_however_records_come(store: Store, seed: int) -> None:
    choose = random.Random(seed)
    topic = store.topic("t", partitions=5, key=str, value=int)
    sent: dict[str, list[int]] = defaultdict(list)
    with store.producer(linger_ms=0.1, batch_size=64) as producer:
        number = 0
        for _ in range(120):
            keys = [f"key {choose.randrange(9)}" for _ in range(choose.choice([1, 1, 1, 7]))]
            values = list(range(number, number + len(keys)))
            number += len(keys)
            how = choose.randrange(3)
            if how == 2:
                producer.send_many(topic, values, keys=keys)
            elif how == 1:
                for key, value in zip(keys, values, strict=True):
                    producer.send(topic, value, key=key)
            else:
                producer.flush()  # an append does not wait for earlier sends
                topic.append_many(values, keys=keys)
            for key, value in zip(keys, values, strict=True):
                sent[key].append(value)
    by_key: dict[str | None, list[int]] = defaultdict(list)
    places: dict[str | None, set[int]] = defaultdict(set)
    offsets: dict[int, list[int]] = defaultdict(list)
    for record in topic.read():
        by_key[record.key].append(record.value)
        places[record.key].add(record.partition)
        offsets[record.partition].append(record.offset)
    assert by_key == sent
    assert {key: len(some) for key, some in places.items()} == dict.fromkeys(sent, 1)
    assert all(found == list(range(len(found))) for found in offsets.values())


def test_append_many_gives_each_partition_its_range(store: Store) -> None:
    topic = store.topic("t", partitions=3)
    topic.append(b"first", partition=1)
    assert topic.append_many([b"a", b"b"], partition=1) == {1: range(1, 3)}
    ranges = topic.append_many([b"%d" % n for n in range(30)], keys=[b"%d" % n for n in range(30)])
    assert sum(map(len, ranges.values())) == 30
    assert {number: found.stop for number, found in ranges.items()} == {
        number: end for number, end in topic.end_offsets().items() if number in ranges
    }


@pytest.mark.parametrize("empty", [[], (), iter(()), (value for value in [])])
def test_appending_nothing_gives_nothing(store: Store, empty: Any) -> None:
    topic = store.topic("t")
    assert topic.append_many(empty) == {}
    assert topic.end_offsets() == {0: 0}


def test_append_many_takes_columns_of_any_kind(store: Store) -> None:
    topic = store.topic("t")

    def values() -> Iterator[bytes]:
        yield from (b"a", b"b", b"c")

    topic.append_many(
        values(), keys=iter([b"k", None, b"l"]), timestamps_ms=(3, 1, 2), headers=[{"h": b"1"}, (), [("i", None)]]
    )
    assert [(record.key, record.value, record.timestamp_ms, record.headers) for record in topic.read()] == [
        (b"k", b"a", 3, (("h", b"1"),)), (None, b"b", 1, ()), (b"l", b"c", 2, (("i", None),)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"values": [b"a", "b"]}, SerializationError),
        ({"values": [b"a", b"x" * 2_000_000]}, RecordTooLargeError),
        ({"values": [b"a", b"b"], "keys": [b"k", 5]}, SerializationError),
        ({"values": [b"a", b"b"], "keys": [b"k"]}, ConfigError),
        ({"values": [b"a", b"b"], "keys": [b"k"] * 3}, ConfigError),
        ({"values": [b"a", b"b"], "timestamps_ms": [1, -1]}, ConfigError),
        ({"values": [b"a", b"b"], "timestamps_ms": [1]}, ConfigError),
        ({"values": [b"a", b"b"], "headers": [(), [("h", 5)]]}, SerializationError),
        ({"values": [b"a", b"b"], "headers": [()]}, ConfigError),
        ({"values": [b"a", b"b"], "partition": 3}, UnknownPartitionError),
        ({"values": [b"a", b"b"], "expected_end_offset": 0}, ConfigError),
        ({"values": [b"a", b"b"], "expected_end_offset": 1, "partition": 0}, OffsetConflictError),
    ],
)
def test_one_wrong_record_keeps_all_of_an_append_many_out(
    store: Store, wrong: dict[str, Any], error: type[Exception]
) -> None:
    topic = store.topic("t", partitions=3)
    with pytest.raises(error):
        topic.append_many(**wrong)
    assert topic.end_offsets() == {0: 0, 1: 0, 2: 0}


@pytest.mark.parametrize("partition", [-1, 3, 2**31, 1.0, "0", b"0"])
def test_a_partition_that_is_not_there_is_refused(store: Store, partition: Any) -> None:
    topic = store.topic("t", partitions=3)
    producer = store.producer()
    for use in (
        lambda: topic.append(b"v", partition=partition),
        lambda: topic.append_many([b"v"], partition=partition),
        lambda: topic.read(partition),
        lambda: topic.batches(partition),
        lambda: producer.send(topic, b"v", partition=partition),
        lambda: producer.send_many(topic, [b"v"], partition=partition),
    ):
        with pytest.raises(UnknownPartitionError) as caught:
            use()
        assert f"topic 't' has no partition {partition!r}: give 0 to 2" in str(caught.value)
    producer.close()
    assert topic.end_offsets() == {0: 0, 1: 0, 2: 0}


# Optimistic concurrency


def test_an_expected_end_lets_one_writer_win(store: Store) -> None:
    stream = store.topic("order-1")
    assert stream.append(b"created", expected_end_offset=0).offset == 0
    with pytest.raises(
        OffsetConflictError, match=r"topic 'order-1', partition 0, ends at offset 1, not at 0"
    ) as caught:
        stream.append(b"created again", expected_end_offset=0)
    assert (caught.value.expected, caught.value.actual) == (0, 1)
    assert stream.append_many([b"x" * 700_000] * 4, expected_end_offset=1) == {0: range(1, 5)}
    with pytest.raises(OffsetConflictError):
        stream.append_many([b"no"], expected_end_offset=6)
    assert stream.end_offsets() == {0: 5}


def test_threads_that_append_at_an_expected_end_never_lose_an_update(store: Store) -> None:
    counter = store.topic("counter", value=int)
    wins: list[int] = []

    def count() -> None:
        for _ in range(10):
            while True:
                end = counter.end_offsets()[0]
                try:
                    counter.append(end, expected_end_offset=end)
                except OffsetConflictError:
                    continue
                wins.append(end)
                break

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == [record.value for record in counter.read()] == list(range(40))


def test_an_expected_end_needs_one_partition(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    for use in (
        lambda: topic.append(b"v", expected_end_offset=0),
        lambda: topic.append(b"v", key=b"k", expected_end_offset=0),
        lambda: topic.append_many([b"v"], keys=[b"k"], expected_end_offset=0),
    ):
        with pytest.raises(ConfigError, match=r"expected_end_offset=.*partition="):
            use()
    assert topic.append(b"v", partition=1, expected_end_offset=0).offset == 0


@pytest.mark.parametrize("expected", ["0", -1, 0.0, True, b"0"])
def test_an_expected_end_that_is_no_offset_is_refused(store: Store, expected: Any) -> None:
    topic = store.topic("t")
    for use in (
        lambda: topic.append(b"v", expected_end_offset=expected),
        lambda: topic.append_many([b"v"], expected_end_offset=expected),
    ):
        with pytest.raises(ConfigError, match="expected_end_offset="):
            use()
    assert topic.end_offsets() == {0: 0}


# Altering


def test_altered_settings_hold_for_all_handles_and_processes(store: Store) -> None:
    topic, other = store.topic("t", retention_ms=5), store.topic("t")
    topic.alter(retention_ms=9, config={"max.message.bytes": 3})
    assert (other.settings["retention_ms"], other.settings["max_message_bytes"]) == (9, 3)
    with store.producer() as producer:
        for use in (lambda: other.append(b"four"), lambda: producer.send(other, b"four").result()):
            with pytest.raises(RecordTooLargeError):
                use()
    code = """
import kafkalite, sys
with kafkalite.connect(sys.argv[1]) as store:
    store.topic("t").alter(max_message_bytes=4)
"""
    with procs.python(code, store.path if store.path.suffix else f"{store.path}/") as child:
        child.succeed()
    assert topic.settings["max_message_bytes"] == 4
    assert topic.settings["retention_ms"] == 9
    assert topic.append(b"four").offset == 0


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, "no setting"),
        ({"retenton_ms": 5}, "did you mean 'retention_ms'?"),
        ({"retention_ms": -2}, "retention_ms=-2 is out of range"),
        ({"config": {"cleanup.policy": "never"}}, "cleanup_policy='never' is not valid"),
        ({"linger_ms": 1}, "unknown topic setting 'linger_ms'"),
    ],
)
def test_a_wrong_alter_changes_nothing(store: Store, settings: dict[str, Any], shown: str) -> None:
    topic = store.topic("t")
    with pytest.raises(ConfigError) as caught:
        topic.alter(**settings)
    assert shown in str(caught.value)
    assert topic.settings == config.defaults("topic")


# Deleting, with handles open


def _uses(topic: kafkalite.Topic[Any, Any]) -> list[Callable[[], Any]]:
    return [
        lambda: topic.append(b"v"),
        lambda: topic.append_many([b"v"]),
        topic.read,
        topic.batches,
        topic.tail,
        topic.end_offsets,
        topic.beginning_offsets,
    ]


def test_handles_of_a_deleted_topic_raise_and_go_on_raising_when_it_is_created_anew(store: Store) -> None:
    old, reader = store.topic("t", partitions=2), store.topic("t")
    old.append(b"old", partition=1)
    following = reader.read(until=None)
    assert next(following).value == b"old"
    store.delete_topic("t")
    for use in (*_uses(old), lambda: next(following), lambda: old.settings, lambda: old.alter(retention_ms=1)):
        with pytest.raises(UnknownTopicError, match="'t'"):
            use()
    new = store.topic("t", partitions=3)
    assert (new.partition_count, list(new.read())) == (3, [])
    assert new.append(b"new").offset == 0
    for use in _uses(old):
        with pytest.raises(UnknownTopicError, match=r"'t' was deleted and created anew: get it again"):
            use()
    assert [record.value for record in new.read()] == [b"new"]


# Once broken: they look the topic up by name, and so find, or change, the one that took its name.
def test_a_handle_of_a_deleted_topic_does_not_alter_the_one_of_the_same_name(store: Store) -> None:
    old = store.topic("t", retention_ms=5)
    store.delete_topic("t")
    new = store.topic("t", retention_ms=6)
    with pytest.raises(UnknownTopicError):
        _ = old.settings
    with pytest.raises(UnknownTopicError):
        old.alter(retention_ms=7)
    assert new.settings["retention_ms"] == 6


def test_a_waiting_follower_of_a_topic_that_is_deleted_raises(store: Store) -> None:
    topic = store.topic("t")
    raised: list[BaseException] = []
    waits = threading.Event()

    def follow() -> None:
        records = topic.read(until=None)
        waits.set()
        try:
            next(records)
        except BaseException as error:
            raised.append(error)

    follower = threading.Thread(target=follow)
    follower.start()
    waits.wait(60)
    store.delete_topic("t")
    follower.join(60)
    assert [type(error) for error in raised] == [UnknownTopicError]


def test_a_topic_deleted_and_created_by_another_process_is_noticed(store: Store) -> None:
    topic = store.topic("t")
    topic.append(b"old")
    code = """
import kafkalite, sys
with kafkalite.connect(sys.argv[1]) as store:
    store.delete_topic("t")
    store.topic("t", value=str).append("new")
"""
    with procs.python(code, store.path if store.path.suffix else f"{store.path}/") as child:
        child.succeed()
    with pytest.raises(UnknownTopicError, match="created anew"):
        topic.append(b"lost")
    assert [record.value for record in store.topic("t").read()] == [b"new"]


# Serdes


@pytest.mark.parametrize(
    ("serde", "values"),
    [
        (bytes, [b"", b"\xff"]),
        (str, ["", "ä€😀\0"]),
        (int, [0, -(2**63), 2**63 - 1]),
        (Order, [Order(1, 2.5)]),
        (Placed, [Placed(1)]),
        (kafkalite.json(Placed | Paid), [Placed(1), Paid(2)]),
        (JSON, [{"a": [1, "x", True, {"b": None}]}, [], 0, ""]),
        (MSGPACK, [{"a": b"bytes"}, [1.5]]),
        (kafkalite.optional(Order), [None, Order(1, 0.5)]),
        (kafkalite.optional(str), [None, ""]),
    ],
    ids=str,
)
def test_values_and_keys_come_back_as_they_went(store: Store, serde: Any, values: list[Any]) -> None:
    topic = store.topic("t", value=serde)
    keyed = store.topic("k", key=serde)
    for value in values:
        topic.append(value)
    topic.append_many(values)
    keyed.append_many([b"v"] * len(values), keys=values)
    with store.producer() as producer:
        for value in values:
            producer.send(topic, value)
        producer.send_many(topic, values)
    assert [record.value for record in topic.read()] == values * 4
    assert [record.key for record in keyed.read()] == values
    assert [value for batch in topic.batches() for value in batch.values] == values * 4


def test_serdes_belong_to_the_handle_and_are_not_compared(store: Store) -> None:
    store.topic("t", value=str).append("12345678")
    assert [record.value for record in store.topic("t").read()] == [b"12345678"]
    assert [record.value for record in store.topic("t", value=int).read()] == [int.from_bytes(b"12345678")]


@pytest.mark.parametrize("serde", [float, list, object, 5, "str", None | int])
def test_what_is_no_serde_is_refused_and_creates_no_topic(store: Store, serde: Any) -> None:
    for side in ("key", "value"):
        with pytest.raises(ConfigError):
            store.topic("t", **{side: serde})
    assert store.topics() == []
