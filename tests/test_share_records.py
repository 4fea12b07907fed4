"""The records of share groups: given up and taken to the dead letters, undecodable, damaged, removed."""

import logging
from dataclasses import dataclass
from typing import Any

import pytest

from kafkalite import (
    DeserializationError,
    Store,
    Topic,
)
from kafkalite.errors import CorruptRecordError, UnknownTopicError
from kafkalite.storage import catalogue
from kafkalite.storage.commit import Append
from kafkalite.storage.reader import LogReader
from tests.conftest import OpenStore
from tests.share_kit import drained, lag


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store(":memory:")


@pytest.fixture
def jobs(store: Store) -> Topic[bytes, int]:
    """A topic with the jobs 0 to 9."""
    topic = store.topic("jobs", value=int)
    topic.append_many(range(10))
    return topic


# Given up


def test_rejected_without_a_dead_letter_topic_is_archived_counted_and_logged(
    store: Store, jobs: Topic[bytes, int], caplog: pytest.LogCaptureFixture
) -> None:
    with store.share_group("g", [jobs]) as group:
        for record in group.records("end"):
            if record.value % 2:
                group.reject(record)
        assert (group.archived_count, lag(group)) == (5, 0)
    assert "'g' gave up 1 records from offset 9 of topic 'jobs', partition 0, after 1 deliveries" in caplog.text
    assert drained(store, jobs) == []


def test_given_up_goes_to_the_dead_letter_topic_with_why(store: Store) -> None:
    topic, dead = store.topic("jobs", partitions=2), store.topic("dead", partitions=3)
    topic.append(b"bad", key=b"k", partition=1, headers=[("h", b"v")], timestamp_ms=5)
    topic.append(b"poison", partition=0)
    topic.append(None, key=b"null", partition=0)
    with store.share_group("g", [topic], max_delivery_count=2, dead_letter="dead") as group:
        for record in group.records("end"):
            if record.value == b"poison":
                group.release(record)
            else:
                group.reject(record)
        assert (group.archived_count, lag(group)) == (3, 0)
    letters = {record.value: record for record in dead.read()}
    bad, poison = letters[b"bad"], letters[b"poison"]
    assert (bad.key, bad.timestamp_ms, bad.headers[0]) == (b"k", 5, ("h", b"v"))
    assert dict(bad.headers[1:]) == {
        "_dlq.errors.topic": b"jobs", "_dlq.errors.partition": b"1", "_dlq.errors.offset": b"0",
        "_dlq.errors.group": b"g", "_dlq.errors.delivery.count": b"1",
    }  # fmt: skip
    assert dict(poison.headers)["_dlq.errors.delivery.count"] == b"2"
    assert (letters[None].key, len(letters)) == (b"null", 3)


def test_a_thousand_dead_letters(store: Store) -> None:
    topic, dead = store.topic("jobs", value=int), store.topic("dead", value=int)
    topic.append_many(range(1200))
    with store.share_group("g", [topic], dead_letter=dead) as group:
        for record in group.poll(1200):
            group.reject(record)
        group.commit()
        assert list(group.records("end")) == []
    assert [record.value for record in dead.read()] == list(range(1200))


def test_dead_letter_that_is_too_large_is_logged_and_holds_nothing_up(
    store: Store, jobs: Topic[bytes, int], caplog: pytest.LogCaptureFixture
) -> None:
    small = store.topic("small", max_message_bytes=10)
    with store.share_group("g", [jobs], dead_letter=small) as group:
        group.reject(group.poll(1)[0])
        group.commit()
        assert group.archived_count == 1
    assert "offsets 0 to 0 of topic 'jobs', partition 0 have no dead letter" in caplog.text
    assert [record.levelno for record in caplog.records][-1] >= logging.WARNING
    assert len(drained(store, jobs)) == 9


def test_deleted_dead_letter_topic_is_said_and_what_was_acquired_is_not_lost(
    store: Store, jobs: Topic[bytes, int]
) -> None:
    dead = store.topic("dead")
    group = store.share_group("g", [jobs], dead_letter=dead)
    group.__enter__()
    records = iter(group)
    group.reject(next(records))
    store.delete_topic("dead")
    with pytest.raises(UnknownTopicError, match="dead"):
        next(records)
    assert next(records).value == 1
    with pytest.raises(UnknownTopicError, match="dead"):
        group.close()
    assert [value for value, _ in drained(store, jobs)] == list(range(1, 10))


def test_max_delivery_count_of_one_delivers_at_most_once_one_at_a_time(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs], max_delivery_count=1) as group:
        assert [record.value for record in group.poll(5)] == [0]
    assert drained(store, jobs, max_delivery_count=1) == [(value, 1) for value in range(1, 10)]


# What cannot be read


@dataclass
class Job:
    number: int


def test_undecodable_record_is_raised_in_its_place_and_rejected_by_going_on(store: Store) -> None:
    raw, dead = store.topic("jobs"), store.topic("dead")
    raw.append_many([b'{"number": 0}', b"nonsense", b'{"number": 2}'])
    topic = store.topic("jobs", value=Job)
    with store.share_group("g", [topic], dead_letter=dead) as group:
        records, seen, errors = group.records("end"), [], []
        while True:
            try:
                seen.append(next(records).value.number)
            except DeserializationError as error:
                errors.append((error.record.offset, error.record.value, error.record.delivery_count))
            except StopIteration:
                break
    assert (seen, errors) == ([0, 2], [(1, b"nonsense", 1)])
    assert [record.value for record in dead.read()] == [b"nonsense"]


def test_undecodable_record_that_ends_the_block_is_released(store: Store) -> None:
    raw = store.topic("jobs")
    raw.append_many([b"nonsense", b'{"number": 1}'])
    topic = store.topic("jobs", value=Job)
    with pytest.raises(DeserializationError), store.share_group("g", [topic]) as group:
        next(iter(group))
    with pytest.raises(DeserializationError), store.share_group("g", [topic]) as group:
        group.poll()
    assert drained(store, raw) == [(b"nonsense", 3), (b'{"number": 1}', 1)]


def test_poll_gives_what_is_before_an_undecodable_record_then_raises(store: Store) -> None:
    raw = store.topic("jobs")
    raw.append_many([b'{"number": 0}', b"nonsense", b'{"number": 2}'])
    with store.share_group("g", [store.topic("jobs", value=Job)]) as group:
        assert [record.value.number for record in group.poll()] == [0]
        with pytest.raises(DeserializationError) as caught:
            group.poll()
        group.accept(caught.value.record)  # it is in hand, as any other
        assert [record.value.number for record in group.poll()] == [2]
        assert group.archived_count == 0


def test_damaged_batch_is_raised_and_what_is_behind_it_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = store.topic("jobs", value=int)
    for value in range(3):
        topic.append(value)
    honest = LogReader.next_batch

    def damaged(reader: LogReader) -> Any:
        if reader.offset == 1:
            raise CorruptRecordError("offset 1 is damaged")
        return honest(reader)

    monkeypatch.setattr(LogReader, "next_batch", damaged)
    seen, errors = [], 0
    with store.share_group("g", [topic], max_delivery_count=3) as group:
        records = group.records("end")
        while True:
            try:
                seen.append(next(records).value)
            except CorruptRecordError:
                errors += 1
            except StopIteration:
                break
        assert group.archived_count == 1
    assert (seen, errors) == ([0, 2], 3)


def test_records_deleted_under_the_group_are_done(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        assert group.poll(2)[1].value == 1
        log_id = jobs._state.log_ids[0]
        store._engine.append([Append(0, catalogue.batch_of([(("log_start", log_id), 5)]))])
        assert [record.value for record in group.poll()] == [5, 6, 7, 8, 9]
        assert group.poll(timeout=0) == []
        assert lag(group) == 0


def test_deleted_topic_is_said(store: Store, jobs: Topic[bytes, int]) -> None:
    with store.share_group("g", [jobs]) as group:
        records = iter(group)
        next(records)
        store.delete_topic("jobs")
        with pytest.raises(UnknownTopicError, match="jobs"):
            next(records)


def test_topic_created_anew_has_no_share_state_of_the_old_one(store: Store, jobs: Topic[bytes, int]) -> None:
    assert len(drained(store, jobs)) == 10
    store.delete_topic("jobs")
    topic = store.topic("jobs", value=int)
    topic.append(7)
    assert drained(store, topic) == [(7, 1)]
