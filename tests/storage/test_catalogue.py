"""The catalogue: names, topics and settings as records of log 0, and what a handle sees of a change."""

from pathlib import Path

import pytest

import kafkalite
from kafkalite.errors import (
    InvalidPartitionsError,
    InvalidTopicError,
    UnknownPartitionError,
    UnknownTopicError,
    UnsupportedError,
)
from kafkalite.records import native
from kafkalite.records.envelope import parse
from kafkalite.storage import catalogue, index
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.engine import Engine

from .kit import values

VALUE = {"id": bytes(16), "logs": [[16, 3]], "settings": {"retention_ms": 5}, "created_ms": 1}


@pytest.mark.parametrize("name", ["a", ".a", "a.", "...", "A-Z_0.9", "x" * 249])
def test_names_that_kafka_allows(name: str) -> None:
    catalogue.check_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "é", "a\n", "x" * 250, "__consumer_offsets", None, 7])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidTopicError, match="is"):
        catalogue.check_name(name)


def test_partitions_of_one_extent_and_of_several() -> None:
    state = TopicState("t", VALUE, 1)
    assert (state.partition_count, state.log_id(0), state.log_id(2)) == (3, 16, 18)
    state.update(VALUE | {"logs": [[16, 3], [40, 2]]})
    assert [state.log_id(partition) for partition in range(5)] == [16, 17, 18, 40, 41]
    assert state.settings["retention_ms"] == 5
    assert state.settings["cleanup_policy"] == "delete"


@pytest.mark.parametrize("partition", [-1, 3, "0", None, 1.0])
def test_a_partition_that_there_is_not(partition: int) -> None:
    with pytest.raises(UnknownPartitionError, match="give 0 to 2"):
        TopicState("t", VALUE, 1).log_id(partition)


def test_facts_become_rows_and_rows_go_with_them() -> None:
    topic = catalogue.topic_fact("t", [[16, 1]], {})
    facts = [
        topic,
        (("next_log",), 17),
        (("store",), {"durability": "none"}),
        (("log_start", 16), 40),
        (("topic", "u"), None),
    ]
    sealed = catalogue.batch_of(facts)
    envelope = parse(sealed.prefix(0, 0) + sealed.fields + sealed.payload)
    rows = dict(catalogue.rows(native.decode(envelope, sealed.payload)))
    assert rows[index.topic_key("t")] is not None
    assert rows[index.topic_key("u")] is None
    assert rows[index.LOG_KEY.pack(index.LOG, 16)] == index.LOG_ROW.pack(40, 40)
    assert set(rows) >= {index.CATALOGUE + b"store", index.CATALOGUE + b"next_log"}


def test_a_fact_of_a_later_version_is_kept_and_not_understood() -> None:
    sealed = catalogue.batch_of([(("quota", "x"), 5)])
    envelope = parse(sealed.prefix(0, 0) + sealed.fields + sealed.payload)
    ((key, value),) = catalogue.rows(native.decode(envelope, sealed.payload))
    assert key.startswith(index.CATALOGUE)
    assert value == b"\x05"


def test_log_ids_are_never_given_out_twice(engine: Engine) -> None:
    first = engine.create_topic("a", 3, {})
    engine.delete_topic("a")
    second = engine.create_topic("a", 2, {})
    third = engine.create_topic("b", 1, {})
    ids = [*first.log_ids, *second.log_ids, *third.log_ids]
    assert ids == list(range(16, 22))


def test_creating_what_there_is_gives_what_there_is(engine: Engine) -> None:
    first = engine.create_topic("a", 3, {"retention_ms": 7})
    tail = engine.index.positions().tail
    again = engine.create_topic("a", 9, {})
    assert again.log_ids == first.log_ids
    assert engine.index.positions().tail == tail


def test_names_come_sorted_and_internal_logs_not_at_all(engine: Engine) -> None:
    for name in ("b", "a.b", "a", "Z"):
        engine.create_topic(name, 1, {})
    assert engine.topic_names() == ["Z", "a", "a.b", "b"]


def test_a_setting_changed_through_one_handle_is_seen_by_others(path: Path) -> None:
    with kafkalite.connect(path) as store, kafkalite.connect(path) as other:
        topic, handle = store.topic("t"), other.topic("t")
        topic.alter(retention_ms=9)
        assert handle.settings["retention_ms"] == 9
        handle.append(b"x")
        assert store.check().ok


def test_a_handle_of_a_deleted_topic_fails_and_writes_nothing(path: Path) -> None:
    with kafkalite.connect(path) as store:
        topic = store.topic("t")
        topic.append(b"old")
        store.delete_topic("t")
        with pytest.raises(UnknownTopicError, match="deleted"):
            topic.append(b"lost")
        with pytest.raises(UnknownTopicError, match="deleted"):
            list(topic.read())
        store.topic("t").append(b"new")
        with pytest.raises(UnknownTopicError, match="created anew"):
            topic.append(b"lost")
        assert values(store) == [b"new"]
        assert store.check().ok


@pytest.mark.parametrize(
    ("extents", "first", "expected"),
    [
        ([[16, 3]], 19, [[16, 5]]),
        ([[16, 3]], 20, [[16, 3], [20, 2]]),
        ([[16, 3], [30, 1]], 31, [[16, 3], [30, 3]]),
        ([[16, 3], [30, 1]], 40, [[16, 3], [30, 1], [40, 2]]),
    ],
)
def test_logs_that_are_added_join_the_last_extent_or_begin_another(
    extents: list[list[int]], first: int, expected: list[list[int]]
) -> None:
    before = [list(extent) for extent in extents]
    assert catalogue.extended(extents, first, 2) == expected
    assert extents == before


def test_growing_is_one_commit_and_moves_no_partition(engine: Engine) -> None:
    topic, other = engine.create_topic("a", 2, {"retention_ms": 7}), engine.create_topic("b", 1, {})
    before = engine.index.positions()
    engine.alter_topic(topic, {"compression_type": "zstd"}, 5)
    after = engine.index.positions()
    assert (after.commits - before.commits, after.batches - before.batches) == (1, 1)
    assert [topic.log_id(number) for number in range(5)] == [16, 17, 19, 20, 21]
    assert topic.extents == [[16, 2], [19, 3]]
    assert (topic.settings["retention_ms"], topic.settings["compression_type"]) == (7, "zstd")
    engine.alter_topic(topic, {}, 6)
    assert topic.extents == [[16, 2], [19, 4]]
    assert (engine.topic("b").extents, other.log_ids) == ([[18, 1]], range(18, 19))
    assert list(engine.create_topic("c", 1, {}).log_ids) == [23]


def test_settings_changed_after_growing_leave_the_partitions_alone(engine: Engine) -> None:
    topic = engine.create_topic("a", 1, {})
    engine.alter_topic(topic, {}, 3)
    engine.alter_topic(topic, {"retention_ms": 7})
    assert (topic.partition_count, engine.topic("a").settings["retention_ms"]) == (3, 7)


@pytest.mark.parametrize("count", [2, 3])
def test_a_topic_does_not_shrink_and_nothing_is_written(engine: Engine, count: int) -> None:
    topic = engine.create_topic("a", 3, {})
    tail = engine.index.positions().tail
    with pytest.raises(InvalidPartitionsError, match=f"'a' has 3 partitions, and {count} would be no more"):
        engine.alter_topic(topic, {"retention_ms": 7}, count)
    assert (engine.current(topic).partition_count, topic.settings["retention_ms"]) == (3, -1)
    assert engine.index.positions().tail == tail


def test_no_log_ids_left_to_grow_by(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = engine.create_topic("a", 3, {})
    monkeypatch.setattr(catalogue, "LOG_ID_LIMIT", 21)
    engine.alter_topic(topic, {}, 5)
    with pytest.raises(UnsupportedError, match="no 1 log ids left for topic 'a'"):
        engine.alter_topic(topic, {}, 6)
    assert engine.topic("a").extents == [[16, 5]]


def test_a_deleted_topic_does_not_grow(engine: Engine) -> None:
    topic = engine.create_topic("a", 1, {})
    engine.delete_topic("a")
    engine.create_topic("a", 1, {})
    with pytest.raises(UnknownTopicError, match="created anew"):
        engine.alter_topic(topic, {}, 2)
    assert engine.topic("a").partition_count == 1
