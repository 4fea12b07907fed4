"""Columns: what a record may be, from `append`, `append_many`, `send` and `send_many` alike. In each layout."""

import random
from array import array
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from kafkalite import ConfigError, Record, RecordTooLargeError, SerializationError, Store, Topic, clock, optional
from kafkalite.columns import RawColumns
from kafkalite.testing import procs

OpenStore = Callable[..., Store]
Way = Callable[..., None]
MIB = 1024 * 1024


@pytest.fixture
def store(open_store: OpenStore, layout: Path | str) -> Store:
    return open_store(layout, durability="none")  # nothing here is about when it is on the disk


# One record, with what goes along with it, by each of the four ways in.


def _append(store: Store, topic: Topic[Any, Any], value: Any, **others: Any) -> None:
    topic.append(value, **others)


def _append_many(store: Store, topic: Topic[Any, Any], value: Any, **others: Any) -> None:
    topic.append_many([value], **_columns(others))


def _send(store: Store, topic: Topic[Any, Any], value: Any, **others: Any) -> None:
    with store.producer() as producer:
        producer.send(topic, value, **others).result(60)


def _send_many(store: Store, topic: Topic[Any, Any], value: Any, **others: Any) -> None:
    with store.producer() as producer:
        producer.send_many(topic, [value], **_columns(others)).result(60)


def _columns(others: dict[str, Any]) -> dict[str, Any]:
    names = {"key": "keys", "timestamp_ms": "timestamps_ms", "headers": "headers"}
    return {names[name]: [value] for name, value in others.items()}


each_way = pytest.mark.parametrize("put", [_append, _append_many, _send, _send_many], ids=lambda put: put.__name__[1:])


def only(records: Iterable[Record[Any, Any]]) -> Record[Any, Any]:
    (record,) = records
    return record


# Sizes


@each_way
@pytest.mark.parametrize("size", [0, 1, 4095, 65536, MIB])
def test_every_size_up_to_max_message_bytes_comes_back(store: Store, put: Way, size: int) -> None:
    topic = store.topic("t")
    value = random.Random(size).randbytes(size)
    put(store, topic, value)
    assert only(topic.read()).value == value


@each_way
@pytest.mark.parametrize(
    "record",
    [
        {"value": b"x" * 101},
        {"value": b"x" * 100, "key": b"k"},
        {"value": None, "key": b"k" * 101},
        {"value": b"x" * 98, "headers": [("h", b"12")]},
        {"value": b"", "headers": {"h" * 101: None}},
    ],
)
def test_one_byte_more_than_max_message_bytes_is_refused(store: Store, put: Way, record: dict[str, Any]) -> None:
    topic = store.topic("t", max_message_bytes=100)
    with pytest.raises(RecordTooLargeError) as caught:
        put(store, topic, **record)
    message = str(caught.value)
    assert "a record of 101 bytes exceeds max_message_bytes=100 of topic 't'" in message
    assert "topic.alter(max_message_bytes=" in message
    assert topic.end_offsets() == {0: 0}


@each_way
def test_key_value_and_headers_together_may_be_max_message_bytes(store: Store, put: Way) -> None:
    topic = store.topic("t", max_message_bytes=100)
    put(store, topic, b"v" * 60, key=b"k" * 30, headers=[("name", b"123456")])
    assert only(topic.read()).headers == (("name", b"123456"),)


@each_way
def test_a_topic_of_max_message_bytes_0_takes_empty_records_only(store: Store, put: Way) -> None:
    topic = store.topic("t", max_message_bytes=0)
    put(store, topic, b"", key=b"")
    put(store, topic, None)
    with pytest.raises(RecordTooLargeError):
        put(store, topic, b"x")
    assert [(record.key, record.value) for record in topic.read()] == [(b"", b""), (None, None)]


@each_way
def test_a_record_of_many_mebibytes_gets_through_where_the_topic_allows_it(store: Store, put: Way) -> None:
    topic = store.topic("t", max_message_bytes=8 * MIB)
    value = random.Random(1).randbytes(8 * MIB)
    put(store, topic, value)
    put(store, topic, b"after")
    assert [len(record.value) for record in topic.read()] == [8 * MIB, 5]
    assert only(topic.read(0, start=0, until=1)).value == value


@pytest.mark.parametrize(
    ("others", "stored"),
    [
        ([b"second"], [b"second"]),
        ([None, b""], [None, b""]),
        ([bytearray(b"copied"), memoryview(b"seen")], [b"copied", b"seen"]),
        ([memoryview(b"ab")[::-1]], [b"ba"]),
    ],
)
def test_a_column_that_begins_with_bytes_may_go_on_with_what_is_like_them(
    store: Store, others: list[Any], stored: list[Any]
) -> None:
    topic = store.topic("t")
    assert topic.append_many([b"first", *others]) == {0: range(1 + len(others))}
    assert [record.value for record in topic.read()] == [b"first", *stored]


@pytest.mark.parametrize("value", ["text", 5, 1.5, [b"x"], array("B", b"x"), {"a": 1}, True])
def test_a_column_that_begins_with_bytes_takes_nothing_else(store: Store, value: Any) -> None:
    topic = store.topic("t")
    with pytest.raises(SerializationError, match="bytes"):
        topic.append_many([b"first", value])
    assert topic.end_offsets() == {0: 0}


def test_a_column_of_bytes_longer_than_a_batch_is_split_into_several(store: Store) -> None:
    topic = store.topic("t", max_message_bytes=2 * MIB)
    values = [b"", bytes(700_000), bytes(700_000)]
    assert topic.append_many(values) == {0: range(3)}
    assert [len(batch) for batch in topic.batches()] == [2, 1]
    assert [record.value for record in topic.read()] == values


@pytest.mark.parametrize("count", [99_999, 100_000, 100_001])
def test_batches_of_a_hundred_thousand_records(store: Store, count: int) -> None:
    topic = store.topic("t")
    assert topic.append_many([b"%d" % number for number in range(count)]) == {0: range(count)}
    with store.producer() as producer:
        delivery = producer.send_many(topic, (b"%d" % number for number in range(count)), partition=0)
        assert delivery.result(60) == {0: range(count, 2 * count)}
    expected = [b"%d" % number for number in range(count)] * 2
    assert [record.value for record in topic.read()] == expected
    assert [record.offset for record in topic.read(start={0: count - 1}, until={0: count + 1})] == [count - 1, count]


def test_a_batch_of_a_hundred_thousand_empty_records_sent_one_by_one(store: Store) -> None:
    topic = store.topic("t")
    with store.producer(linger_ms=60_000, batch_size=2**24) as producer:
        for _ in range(100_001):
            producer.send(topic, None)
    assert topic.end_offsets() == {0: 100_001}
    assert max(map(len, topic.batches())) == 100_000


# Null


@each_way
def test_null_and_empty_are_two_things(store: Store, put: Way) -> None:
    topic = store.topic("t")
    for key, value in [(None, None), (b"", b""), (b"", None), (None, b"")]:
        put(store, topic, value, key=key)
    found = [(record.key, record.value) for record in topic.read()]
    assert found == [(None, None), (b"", b""), (b"", None), (None, b"")]


@each_way
@pytest.mark.parametrize("serde", [bytes, str, int, dict])
def test_only_the_default_and_optional_carry_a_null_value(store: Store, put: Way, serde: Any) -> None:
    import kafkalite

    spec: Any = kafkalite.json(dict) if serde is dict else serde
    topic = store.topic("t", key=spec, value=spec)
    with pytest.raises(SerializationError, match="optional"):
        put(store, topic, None)
    assert topic.end_offsets() == {0: 0}
    put(store, store.topic("t", key=spec, value=optional(spec)), None, key=None)
    found = only(store.topic("t", key=spec, value=optional(spec)).read())
    assert (found.key, found.value) == (None, None)


# Types


@each_way
@pytest.mark.parametrize("value", ["text", 5, 1.5, ["x"], {"a": 1}, object()])
def test_a_value_of_another_type_is_named_with_what_to_give(store: Store, put: Way, value: Any) -> None:
    topic = store.topic("t")
    for others in ({"value": value}, {"value": b"v", "key": value}):
        with pytest.raises(SerializationError, match="bytes") as caught:
            put(store, topic, **others)
        assert isinstance(caught.value, TypeError)
        assert type(value).__name__ in str(caught.value)
    assert topic.end_offsets() == {0: 0}


@each_way
def test_what_is_like_bytes_becomes_bytes(store: Store, put: Way) -> None:
    topic = store.topic("t")
    changing = bytearray(b"v")
    put(store, topic, changing, key=memoryview(b"key")[1:])
    changing[0] = 0
    found = only(topic.read())
    assert (found.key, found.value, type(found.key), type(found.value)) == (b"ey", b"v", bytes, bytes)


# Timestamps


@each_way
@pytest.mark.parametrize("timestamp_ms", [0, 1, 1_700_000_000_123, 2**62, 2**63 - 1])
def test_timestamps_within_their_bounds_come_back(store: Store, put: Way, timestamp_ms: int) -> None:
    topic = store.topic("t")
    put(store, topic, b"v", timestamp_ms=timestamp_ms)
    assert only(topic.read()).timestamp_ms == timestamp_ms


@each_way
@pytest.mark.parametrize(
    "timestamp_ms", [-1, 2**63, 1.0, "1", True, datetime(2024, 1, 1, tzinfo=UTC)], ids=lambda value: repr(value)[:12]
)
def test_timestamps_outside_of_their_bounds_are_refused(store: Store, put: Way, timestamp_ms: Any) -> None:
    topic = store.topic("t")
    with pytest.raises(ConfigError, match="milliseconds since 1970") as caught:
        put(store, topic, b"v", timestamp_ms=timestamp_ms)
    assert f"timestamp_ms={timestamp_ms!r}" in str(caught.value)
    assert topic.end_offsets() == {0: 0}


def test_timestamps_of_one_batch_may_lie_as_far_apart_as_they_can(store: Store) -> None:
    topic = store.topic("t")
    stamps = [5, 2**63 - 1, 0, 2**63 - 1, 7]
    topic.append_many([b"v"] * 5, timestamps_ms=stamps)
    with store.producer() as producer:
        for stamp in stamps:
            producer.send(topic, b"v", timestamp_ms=stamp)
    assert [record.timestamp_ms for record in topic.read()] == stamps * 2
    assert next(record.offset for record in topic.read(start=datetime(2024, 1, 1, tzinfo=UTC))) == 1


@each_way
def test_without_one_the_timestamp_is_now(store: Store, put: Way) -> None:
    topic = store.topic("t")
    before = clock.now_ms()
    put(store, topic, b"v")
    found = only(topic.read())
    assert before <= found.timestamp_ms <= clock.now_ms()
    assert found.timestamp.tzinfo is UTC
    assert abs(found.timestamp.timestamp() * 1000 - found.timestamp_ms) < 1


@each_way
def test_log_append_time_takes_the_place_of_the_senders(store: Store, put: Way) -> None:
    topic = store.topic("t", message_timestamp_type="LogAppendTime")
    before = clock.now_ms()
    put(store, topic, b"v", timestamp_ms=5)
    (batch,) = topic.batches()
    assert batch.timestamp_type == "log_append"
    assert before <= batch.timestamps_ms[0] <= clock.now_ms()
    topic.alter(message_timestamp_type="CreateTime")
    put(store, topic, b"v", timestamp_ms=5)
    (_, batch) = topic.batches()
    assert (batch.timestamp_type, list(batch.timestamps_ms)) == ("create", [5])


def test_log_append_time_is_what_an_answer_says_too(store: Store) -> None:
    topic = store.topic("t", message_timestamp_type="LogAppendTime")
    with store.producer() as producer:
        answers = [topic.append(b"v", timestamp_ms=5), producer.send(topic, b"v", timestamp_ms=5).result()]
    assert [record.timestamp_ms for record in topic.read()] == [answer.timestamp_ms for answer in answers]
    assert answers[0].timestamp_ms > 5


# Headers


@each_way
@pytest.mark.parametrize(
    ("headers", "stored"),
    [
        ((), ()),
        ([], ()),
        ({}, ()),
        ({"a": b"1", "b": None}, (("a", b"1"), ("b", None))),
        (MappingProxyType({"a": b""}), (("a", b""),)),
        ([("a", b"1"), ("a", b"2"), ("a", None)], (("a", b"1"), ("a", b"2"), ("a", None))),
        ([["a", b"1"]], (("a", b"1"),)),
        ([("", b""), ("ä€😀", b"\xff")], (("", b""), ("ä€😀", b"\xff"))),
        ([("n", bytes(300))] * 300, (("n", bytes(300)),) * 300),
    ],
    ids=range(9),
)
def test_headers_come_back_in_order(store: Store, put: Way, headers: Any, stored: Any) -> None:
    topic = store.topic("t")
    put(store, topic, b"v", headers=headers)
    assert only(topic.read()).headers == stored


@each_way
def test_headers_may_come_from_a_generator(store: Store, put: Way) -> None:
    topic = store.topic("t")
    put(store, topic, b"v", headers=(pair for pair in [("a", b"1"), ("b", b"2")]))
    assert only(topic.read()).headers == (("a", b"1"), ("b", b"2"))


def test_only_the_records_that_have_headers_have_them(store: Store) -> None:
    topic = store.topic("t")
    with store.producer() as producer:
        for number in range(5):
            producer.send(topic, b"v", headers={"n": b"%d" % number} if number in (1, 3) else ())
    assert [record.headers for record in topic.read()] == [(), (("n", b"1"),), (), (("n", b"3"),), ()]


@each_way
@pytest.mark.parametrize(
    "headers",
    [5, "ab", b"ab", [("a",)], [("a", b"1", b"2")], [(b"a", b"1")], [("a", "1")], [("a", 1)], {"a": "1"}, {1: b"1"},
     [("a", bytearray(b"1"))], [None], {"a": [b"1"]}],
    ids=repr,
)  # fmt: skip
def test_what_is_no_header_is_refused(store: Store, put: Way, headers: Any) -> None:
    topic = store.topic("t")
    with pytest.raises(SerializationError, match="str, bytes"):
        put(store, topic, b"v", headers=headers)
    assert topic.end_offsets() == {0: 0}


LONE_SURROGATE = r"""
import sys
import kafkalite

store = kafkalite.connect(sys.argv[1])
topic, producer = store.topic("t"), store.producer()
headers = [("\ud800", b"")]
for name, call in {
    "append": lambda: topic.append(b"v", headers=headers),
    "append_many": lambda: topic.append_many([b"v"], headers=[headers]),
    "send": lambda: producer.send(topic, b"v", headers=headers),
    "send_many": lambda: producer.send_many(topic, [b"v"], headers=[headers]),
    "after": lambda: producer.send(topic, b"after").result(5),
    "close": producer.close,
}.items():
    try:
        call()
        print(name, "done")
    except Exception as error:
        print(name, type(error).__name__)
"""


# Once broken: found out only when the batch is sealed, it stays in the producer's queue and fails all after it.
def test_a_header_that_is_not_utf8_is_refused_by_the_call_that_brought_it(
    open_store: OpenStore, tmp_path: Path
) -> None:
    store = open_store(tmp_path / "s.klite")  # a child's affair: what is stuck in a producer is stuck for good
    with procs.python(LONE_SURROGATE, store.path) as child:
        said = dict(line.split() for line in child.succeed())
    refused = dict.fromkeys(["append", "append_many", "send", "send_many"], "SerializationError")
    assert said == refused | {"after": "done", "close": "done"}
    assert only(store.topic("t").read()).value == b"after"


# Compression


@each_way
@pytest.mark.parametrize("compression", ["none", "zstd", "producer"])
def test_compression_changes_the_size_and_nothing_else(store: Store, put: Way, compression: Any) -> None:
    topic = store.topic("t", compression_type=compression)
    value = b"so much of the same " * 5000
    put(store, topic, value, key=b"k", headers={"h": value[:100]}, timestamp_ms=7)
    put(store, topic, None)
    (first, second) = topic.read()
    assert first == ("t", 0, 0, 7, b"k", value, (("h", value[:100]),))
    assert second.value is None
    assert (store.check().bytes < len(value)) is (compression == "zstd")


@pytest.mark.parametrize(("topics", "is_small"), [("producer", True), ("zstd", True), ("none", False)])
def test_a_producers_compression_holds_where_the_topic_leaves_it_to_him(
    store: Store, topics: Any, is_small: bool
) -> None:
    topic = store.topic("t", compression_type=topics)
    value = b"so much of the same " * 500
    with store.producer(compression_type="zstd") as producer:
        for _ in range(50):
            producer.send(topic, value)
        producer.send_many(topic, [value] * 50)
    assert [record.value for record in topic.read()] == [value] * 100
    assert (store.check().bytes < 100 * len(value)) is is_small


# The columns themselves


@pytest.mark.parametrize("count", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("batch_bytes", [0, 1, 7, 64, 10**6])
def test_split_columns_are_the_whole_in_order(count: int, batch_bytes: int) -> None:
    values = [b"x" * (number % 5) for number in range(count)]
    columns = RawColumns(values, [None, b"k"] * count, [(("h", None),)] * count, list(range(count)))
    columns.keys = (columns.keys or [])[:count]
    parts = columns.split(batch_bytes)
    assert [value for part in parts for value in part.values] == values
    assert [stamp for part in parts for stamp in part.stamps or ()] == list(range(count))
    assert all(len(part.values) == len(part.keys or ()) == len(part.headers or ()) for part in parts)


def test_picked_columns_are_the_chosen_ones_in_order() -> None:
    columns = RawColumns([b"a", b"b", b"c"], [b"1", None, b"3"], None, [1, 2, 3])
    part = columns.pick([2, 0])
    assert (part.values, part.keys, part.headers, part.stamps) == ([b"c", b"a"], [b"3", b"1"], None, [3, 1])
