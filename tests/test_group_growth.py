"""Topics that grow under groups: who reads the new partitions, from where, whoever added them and whenever."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from kafkalite import Record, TopicPartition, group_admin
from kafkalite.coordinator.group_records import ConsumerGroupPartitionMetadata
from kafkalite.partitioner import KeyPartitions
from kafkalite.storage import internal, wakeup
from kafkalite.storage.internal import OFFSETS_LOG
from tests import elsewhere
from tests.conftest import OpenStore
from tests.group_kit import FIRST, PATIENCE_S, SECOND, Calls, Group, Store, filled, next_offset, until
from tests.share_kit import drained

THIRD = TopicPartition("t", 2)


@pytest.fixture
def store(layout: Path | str, open_store: OpenStore) -> Store:
    """In each layout, not flushed: nothing here is about the disk."""
    return open_store(layout, durability="none")


@contextmanager
def following(group: Group) -> Iterator[Queue[Record[Any, Any]]]:
    """The records of a group that a thread of its own reads for ever, as they come."""
    found: Queue[Record[Any, Any]] = Queue()

    def read() -> None:
        with group:
            for record in group:
                found.put(record)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield found
    finally:
        group.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("topics", [["t"], [re.compile("t")]])
def test_a_member_that_waits_takes_new_partitions_and_their_records(store: Store, topics: Any) -> None:
    topic = filled(store, 1)
    with following(store.consumer_group("g", topics)) as found:
        assert found.get(timeout=PATIENCE_S).partition == 0
        topic.alter(partitions=3)
        topic.append_many([b"a", b"b"], partition=2)
        topic.append(b"c", partition=1)
        records = [found.get(timeout=PATIENCE_S) for _ in range(3)]
        assert [record.value for record in records if record.partition == 2] == [b"a", b"b"]
    assert [next_offset(store, at=at) for at in (FIRST, SECOND, THIRD)] == [1, 1, 2]


def test_a_member_takes_what_another_process_added(store: Store) -> None:
    filled(store, 1)
    with following(store.consumer_group("g", ["t"])) as found:
        assert found.get(timeout=PATIENCE_S).partition == 0
        elsewhere.grow(store, "t", 4, "theirs")
        record = found.get(timeout=PATIENCE_S)
        assert (record.partition, record.offset, record.value) == (3, 0, b"theirs")


def test_new_partitions_go_to_somebody_and_nobody_is_interrupted_for_them(store: Store) -> None:
    topic, one_calls, other_calls = filled(store, 1, partitions=2), Calls(), Calls()
    one, other = (store.consumer_group("g", topic, **calls.settings()) for calls in (one_calls, other_calls))
    with one, other:
        until(lambda: [one.poll(timeout=0), other.poll(timeout=0)] and len(other.assignment) == 1, "both have one")
        had = [set(member.assignment) for member in (one, other)]
        one_calls.seen.clear()
        other_calls.seen.clear()
        topic.alter(partitions=6)
        until(
            lambda: [m.poll(timeout=0) for m in (one, other)] and len(one.assignment) == len(other.assignment) == 3,
            "three each",
        )
        assert [set(member.assignment) >= owned for member, owned in zip((one, other), had, strict=True)] == [True] * 2
        assert {what for what, _ in one_calls.seen + other_calls.seen} == {"assigned"}


@pytest.mark.parametrize("how", ["latest", "error"])
def test_partitions_that_were_added_begin_at_their_beginning_whatever_the_reset_says(store: Store, how: Any) -> None:
    topic = filled(store, 2, partitions=2)
    group_admin.alter_offsets(store, "g", {FIRST: 2, SECOND: 2})
    with store.consumer_group("g", topic, auto_offset_reset=how) as group:
        assert list(group.records()) == []
        topic.alter(partitions=3)
        topic.append_many([b"a", b"b"], partition=2)
        found = list(group.records(until=None, max_records=2, timeout=PATIENCE_S))
        assert [(record.partition, record.value) for record in found] == [(2, b"a"), (2, b"b")]


def test_partitions_that_were_added_while_nobody_was_there_begin_at_their_beginning(store: Store) -> None:
    topic = filled(store, 2)
    with store.consumer_group("g", topic, auto_offset_reset="latest") as group:
        assert group.position() == {FIRST: 2}
    topic.alter(partitions=3)
    for partition in range(3):
        topic.append(b"meanwhile", partition=partition)
    topic.alter(partitions=4)
    for _ in range(2):
        with store.consumer_group("g", topic, auto_offset_reset="latest") as group:
            assert group.position() == {FIRST: 2, SECOND: 0, THIRD: 0, TopicPartition("t", 3): 0}
    with store.consumer_group("g", topic, auto_offset_reset="latest") as group:
        assert Counter(record.value for record in group.records()) == {b"meanwhile": 3}


def test_partitions_that_a_group_finds_when_it_begins_are_not_new_to_it(store: Store) -> None:
    filled(store, 2).alter(partitions=2)
    store.topic("t").append(b"before", partition=1)
    with store.consumer_group("g", ["t"], auto_offset_reset="latest") as group:
        assert group.position() == {FIRST: 2, SECOND: 1}


def test_a_partition_nobody_has_read_yet_is_not_new_because_others_were(store: Store) -> None:
    """What was there when the group began follows the reset, also for who takes it late."""
    topic = filled(store, 2, partitions=2)
    group_admin.alter_offsets(store, "g", {FIRST: 1})
    with store.consumer_group("g", topic, auto_offset_reset="latest") as group:
        assert group.position() == {FIRST: 1, SECOND: 2}


def test_a_topic_created_anew_is_met_anew(store: Store) -> None:
    filled(store, 2)
    with store.consumer_group("g", ["t"], auto_offset_reset="latest"):
        pass
    store.delete_topic("t")
    filled(store, 2, partitions=3)
    with store.consumer_group("g", ["t"], auto_offset_reset="latest") as group:
        assert group.position() == {FIRST: 2, SECOND: 2, THIRD: 2}
        store.topic("t").alter(partitions=4)
        until(lambda: group.poll(timeout=0.01) == [] and len(group.position()) == 4, "the new one comes")
        assert group.position()[TopicPartition("t", 3)] == 0


def test_a_deleted_group_remembers_nothing(store: Store) -> None:
    topic = filled(store, 2)
    with store.consumer_group("g", topic):
        pass
    topic.alter(partitions=2)
    topic.append(b"x", partition=1)
    group_admin.delete_group(store, "g")
    with store._engine.snapshot() as (transaction, _):
        assert internal.state(transaction, OFFSETS_LOG, ConsumerGroupPartitionMetadata("g", ()).key()) is None
    with store.consumer_group("g", topic, auto_offset_reset="latest") as group:
        assert group.position() == {FIRST: 2, SECOND: 1}


def test_lag_and_ends_know_the_new_partitions(store: Store) -> None:
    topic = filled(store, 2)
    with store.consumer_group("g", topic) as group:
        list(group.records())
        topic.alter(partitions=2)
        topic.append_many([b"a", b"b", b"c"], partition=1)
        until(lambda: len(group.lag()) == 2 or group.poll(1, timeout=0.01), "it is known")
        assert sum(group.lag().values()) in (2, 3)
        list(group.records())
        assert group.lag() == {FIRST: 0, SECOND: 0}
    (info,) = store.groups()
    assert [(one.partition, one.lag) for one in info.partitions] == [(0, 0), (1, 0)]


# Transactions


def test_a_transaction_writes_to_and_reads_from_new_partitions(store: Store) -> None:
    origin, target = filled(store, 1), store.topic("target")
    keys = [b"%d" % number for number in range(20)]
    with store.producer() as producer, store.consumer_group("g", origin, enable_auto_commit=False) as group:
        with producer.transaction(group) as tx:
            for record in group.records():
                tx.send(target, record.value)
        origin.alter(partitions=3)
        target.alter(partitions=5)
        until(lambda: group.poll(timeout=0.01) == [] and len(group.assignment) == 3, "the new ones come")
        origin.append_many(keys, partition=2)
        with producer.transaction(group) as tx:
            for record in group.records(until=None, max_records=20, timeout=PATIENCE_S):
                tx.send(target, record.value, key=record.value)
            tx.send_many("target", keys, keys=keys)
            tx.send(target, b"last", partition=4)
    assert next_offset(store, at=THIRD) == 20
    placed = [record for record in target.read() if record.key is not None]
    assert len(placed) == 40
    assert all(record.partition == KeyPartitions(5)[record.key or b""] for record in placed)


def test_a_transaction_of_one_process_knows_what_another_added(store: Store) -> None:
    topic = store.topic("t")
    with store.transaction() as tx:
        tx.send(topic, b"a")
        elsewhere.grow(store, "t", 3)
        tx.send(topic, b"b", partition=2)
        elsewhere.grow(store, "t", 4)
        tx.send_many(topic, [b"c"], partition=3)
    assert [record.value for record in topic.read()] == [b"a", b"b", b"c"]


# Share groups


def test_a_share_group_that_waits_takes_what_is_new(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "LONGEST_SLEEP", 2 * PATIENCE_S)  # woken by nothing else
    store.topic("t")
    with store.share_group("g", "t") as group:
        found: Queue[tuple[int, Any]] = Queue()

        def read() -> None:
            for record in group.records(until=None, max_records=2):
                found.put((record.partition, record.value))

        thread = threading.Thread(target=read)
        thread.start()
        until(lambda: any(store._engine.wakeup.page.armed), "it sleeps")
        elsewhere.grow(store, "t", 3, "theirs")
        assert found.get(timeout=PATIENCE_S) == (2, b"theirs")
        until(lambda: any(store._engine.wakeup.page.armed), "it sleeps")
        store.topic("t").append(b"mine", partition=1)
        assert found.get(timeout=PATIENCE_S) == (1, b"mine")
        thread.join(PATIENCE_S)
    assert drained(store, store.topic("t")) == []


def test_dead_letters_go_to_a_topic_that_grew(store: Store) -> None:
    topic, letters = filled(store, 1), store.topic("letters")
    with store.share_group("g", topic, max_delivery_count=1, dead_letter=letters) as group:
        elsewhere.grow(store, "letters", 3)
        for record in group.records():
            group.reject(record)
    assert len(list(letters.read())) == 1
