"""ConsumerGroup in one process: what is confirmed and committed when, and what each call refuses."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import (
    ConfigError,
    DeserializationError,
    OffsetOutOfRangeError,
    Topic,
    TopicPartition,
)
from kafkalite.errors import FencedMemberError
from kafkalite.storage import internal
from kafkalite.storage.slots import Hand
from tests.conftest import OpenStore
from tests.group_kit import (
    FIRST,
    PATIENCE_S,
    SECOND,
    Store,
    filled,
    next_offset,
    offsets,
    one,
    taken_hands,
    until,
)


@pytest.fixture
def store(layout: Path | str, open_store: OpenStore) -> Store:
    """In each layout, not flushed: nothing here is about the disk."""
    return open_store(layout, durability="none")


@pytest.fixture
def topic(store: Store) -> Topic[Any, Any]:
    return filled(store)


# What is confirmed


def test_break_hands_the_record_in_hand_out_again(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        for record in group:
            if record.offset == 2:
                break
        assert group.position() == {FIRST: 2}
        assert one(group).offset == 2
    assert next_offset(store) == 2


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_confirms_nothing_of_what_is_in_hand(
    store: Store, topic: Topic[Any, Any], error: type[BaseException]
) -> None:
    with pytest.raises(error), store.consumer_group("g", topic) as group:  # noqa: PT012  (the body's error is the point)
        for record in group:
            if record.offset == 3:
                raise error
    assert next_offset(store) == 3
    with store.consumer_group("g", topic) as group:
        assert one(group).offset == 3


def test_leaving_with_nothing_read_commits_nothing_new(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic):
        pass
    with store.consumer_group("g", topic) as group:
        assert group.committed() == {FIRST: 0}
        assert one(group).offset == 0


def test_a_loop_that_ends_by_itself_has_confirmed_all(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        assert offsets(group.records(until="end")) == [0, 1, 2, 3, 4, 5]
        assert group.position() == {FIRST: 6}
        assert offsets(group.records(until="end")) == []
    assert next_offset(store) == 6


def test_a_new_iterator_does_not_confirm_what_an_old_one_gave(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        old = iter(group)
        assert offsets(itertools.islice(old, 3)) == [0, 1, 2]
        new = iter(group)
        assert next(new).offset == 2
        assert next(new).offset == 3


def test_max_records_confirms_its_last_one(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        assert offsets(group.records(max_records=3)) == [0, 1, 2]
        assert group.position() == {FIRST: 3}
        assert offsets(group.records(max_records=2)) == [3, 4]
        assert offsets(group.records(until="end", max_records=5)) == [5]
        assert offsets(group.records(max_records=0)) == []
    assert next_offset(store) == 6


def test_the_iterator_that_max_records_ended_stays_at_its_end(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        records = group.records(max_records=2)
        assert offsets(records) == [0, 1]
        assert next(records, None) is None
        assert one(group).offset == 2


def test_the_next_poll_confirms_the_one_before(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        assert offsets(group.poll(2, timeout=0)) == [0, 1]
        assert group.position() == {FIRST: 0}
        assert offsets(group.poll(3, timeout=0)) == [2, 3, 4]
    assert next_offset(store) == 2


def test_an_empty_poll_confirms_as_well(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        assert len(group.poll(timeout=0)) == 6
        assert group.poll(timeout=0) == []
    assert next_offset(store) == 6


def test_a_loop_after_a_poll_hands_out_what_the_poll_gave(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        group.poll(4, timeout=0)
        assert offsets(group.records(until="end")) == [0, 1, 2, 3, 4, 5]


def test_max_poll_records_bounds_a_poll(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic, max_poll_records=4) as group:
        assert [len(group.poll(timeout=0)) for _ in range(3)] == [4, 2, 0]


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "2"])
def test_a_poll_for_no_records_is_refused(store: Store, topic: Topic[Any, Any], most: Any) -> None:
    with store.consumer_group("g", topic) as group, pytest.raises(ConfigError, match="max_records"):
        group.poll(most)


def test_asking_for_the_next_batch_confirms_all_of_one(store: Store) -> None:
    topic = store.topic("t")
    for start in range(0, 9, 3):
        topic.append_many([b"%d" % number for number in range(start, start + 3)])
    with store.consumer_group("g", topic) as group:
        batches = group.batches()
        assert [list(next(batches).offsets) for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]
        assert group.position() == {FIRST: 3}
        batches.close()  # type: ignore[attr-defined]
        assert [list(batch.offsets) for batch in group.batches(until="end")] == [[3, 4, 5], [6, 7, 8]]
    assert next_offset(store) == 9


# Ends and waiting


@pytest.mark.parametrize("way", ["records", "batches"])
def test_ends_are_taken_at_the_call(store: Store, topic: Topic[Any, Any], way: str) -> None:
    with store.consumer_group("g", topic) as group:
        found = getattr(group, way)(until="end")
        topic.append(b"later")
        flat = found if way == "records" else itertools.chain.from_iterable(found)
        first = offsets(flat)
        # A batch is never cut: what is taken at the call is where to stop asking.
        assert first[:6] == [0, 1, 2, 3, 4, 5]
        assert first == [0, 1, 2, 3, 4, 5]
        assert offsets(group.records(until="end")) == [6]


@pytest.mark.parametrize("way", ["records", "batches"])
def test_another_until_is_refused_at_the_call(store: Store, topic: Topic[Any, Any], way: str) -> None:
    with store.consumer_group("g", topic) as group, pytest.raises(ConfigError, match="until='now'"):
        getattr(group, way)(until="now")


def test_timeout_counts_the_seconds_without_a_record(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        found = group.records(until=None, timeout=0.5)
        assert offsets(itertools.islice(found, 6)) == [0, 1, 2, 3, 4, 5]
        late = [threading.Timer(after, topic.append, [b"late"]) for after in (0.25, 0.5)]
        for timer in late:
            timer.start()
        assert offsets(found) == [6, 7]  # together more than the timeout
        for timer in late:
            timer.join()


def test_a_waiting_member_is_woken_by_a_record(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        list(group.records(until="end"))
        threading.Timer(0.05, topic.append, [b"new"]).start()
        assert offsets(group.poll(timeout=PATIENCE_S)) == [6]


def test_until_end_leaves_paused_partitions_out_of_the_records_and_not_of_the_end(store: Store) -> None:
    topic = filled(store, 3, partitions=2)
    with store.consumer_group("g", topic) as group:
        group.pause([FIRST])
        found = list(group.records(until="end", timeout=0.1))
        assert [(record.partition, record.offset) for record in found] == [(1, 0), (1, 1), (1, 2)]
        assert group.lag() == {FIRST: 3, SECOND: 0}
        group.resume([FIRST])
        assert offsets(group.records(until="end")) == [0, 1, 2]


def test_pausing_what_is_in_hand_hands_out_no_more_of_it(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        records = group.records(until=None, timeout=0.05)
        assert next(records).offset == 0
        group.pause([FIRST])
        assert offsets(records) == []
        group.resume([FIRST])
        assert one(group).offset == 1


# Commits


def test_commit_includes_the_record_in_hand(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic, enable_auto_commit=False) as group:
        records = iter(group)
        next(records)
        next(records)
        group.commit()
        assert group.committed() == {FIRST: 2}
        assert group.position() == {FIRST: 2}
        next(records)
    assert next_offset(store) == 2
    with store.consumer_group("g", topic) as group:
        assert one(group).offset == 2


def test_a_loop_that_breaks_after_commit_goes_on_behind_it(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        one(group)
        group.commit()
        assert one(group).offset == 1
        group.poll(2, timeout=0)
        group.commit()
        assert offsets(group.poll(timeout=0)) == [3, 4, 5]


def test_the_keeper_never_takes_a_commit_back(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic, auto_commit_interval_ms=1) as group:
        records = iter(group)
        next(records)
        next(records)
        group.commit()
        time.sleep(0.2)
        assert group.committed() == {FIRST: 2}


def test_confirmed_records_are_committed_while_the_body_runs(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic, auto_commit_interval_ms=1) as group:
        records = iter(group)
        assert offsets(itertools.islice(records, 4)) == [0, 1, 2, 3]
        until(lambda: next_offset(store) == 3, "what was confirmed is committed by the keeper")
        time.sleep(0.1)
        assert next_offset(store) == 3


def test_without_auto_commit_only_commit_commits(store: Store, topic: Topic[Any, Any]) -> None:
    settings: dict[str, Any] = {"enable_auto_commit": False, "auto_commit_interval_ms": 1}
    with store.consumer_group("g", topic, **settings) as group:
        list(group.records(until="end"))
        time.sleep(0.1)
        assert group.committed() == {FIRST: 0}
    with store.consumer_group("g", topic, **settings) as group:
        assert one(group).offset == 0
        group.commit({FIRST: 4})
    with store.consumer_group("g", topic, **settings) as group:
        assert one(group).offset == 4


def test_committed_offsets_are_the_next_ones(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic, enable_auto_commit=False) as group:
        group.commit({("t", 0): 3})  # type: ignore[dict-item]  # a plain pair will do
        assert group.committed() == {FIRST: 3}
        assert group.position() == {FIRST: 0}


@pytest.mark.parametrize("offset", [-1, 2**63, "3", 1.5, None, True])
def test_an_offset_that_is_none_is_not_committed(store: Store, topic: Topic[Any, Any], offset: Any) -> None:
    with store.consumer_group("g", topic) as group:
        with pytest.raises((ConfigError, OffsetOutOfRangeError), match=r"'t'|offset"):
            group.commit({FIRST: offset})
        assert group.committed() == {FIRST: 0}


def test_nobody_commits_for_others(store: Store) -> None:
    topic = filled(store, partitions=2)
    with store.consumer_group("g", topic) as one_member, store.consumer_group("g", topic) as other:
        one_member.poll(1, timeout=0)
        (foreign,) = other.assignment
        assert foreign not in one_member.assignment
        with pytest.raises(FencedMemberError, match="partition"):
            one_member.commit({**dict.fromkeys(one_member.assignment, 1), foreign: 1})
        with pytest.raises(FencedMemberError):
            one_member.commit({TopicPartition("t", 99): 1})
        assert next_offset(store, at=foreign) == 0
        assert [next_offset(store, at=mine) for mine in one_member.assignment] == [0]


def test_commit_is_not_refused_for_partitions_that_moved_unseen(store: Store) -> None:
    topic = filled(store, partitions=4)
    with store.consumer_group("g", topic) as member:
        record = one(member)
        with store.consumer_group("g", topic):
            member.commit()
            assert next_offset(store, at=TopicPartition("t", record.partition)) == 1


# Position


def test_seek_goes_where_it_is_told(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        records = iter(group)
        next(records)
        group.seek(FIRST, 4)
        assert group.position() == {FIRST: 4}
        assert next(records).offset == 4
        group.seek(FIRST, "earliest")
        assert next(records).offset == 0
        group.seek(FIRST, "latest")
        assert group.lag() == {FIRST: 0}
        topic.append(b"new")
        assert next(records).offset == 6
    assert next_offset(store) == 6


@pytest.mark.parametrize("offset", [-1, 7, "middle", 1.0, None, True])
def test_seek_outside_of_the_partition_is_refused(store: Store, topic: Topic[Any, Any], offset: Any) -> None:
    with store.consumer_group("g", topic) as group:
        with pytest.raises((OffsetOutOfRangeError, ConfigError)):
            group.seek(FIRST, offset)
        assert group.position() == {FIRST: 0}
        with pytest.raises(FencedMemberError, match="not this member's"):
            group.seek(SECOND, 0)


def test_a_sought_position_is_where_the_next_member_begins(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        list(group.records(until="end"))
        group.seek(FIRST, 2)
    with store.consumer_group("g", topic) as group:
        assert one(group).offset == 2


def test_lag_counts_the_record_in_hand(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        assert group.lag() == {FIRST: 6}
        records = iter(group)
        next(records)
        assert group.lag() == {FIRST: 6}
        next(records)
        assert group.lag() == {FIRST: 5}


@pytest.mark.parametrize(("how", "first"), [("earliest", 0), ("latest", 6)])
def test_where_a_group_begins_is_committed_at_once(store: Store, topic: Topic[Any, Any], how: Any, first: int) -> None:
    with store.consumer_group("g", topic, auto_offset_reset=how, enable_auto_commit=False) as group:
        assert group.committed() == {FIRST: first}
    topic.append(b"new")
    with store.consumer_group("g", topic, auto_offset_reset=how) as group:
        assert one(group).offset == first


def test_reset_error_refuses_entry_and_leaves_no_member(store: Store, topic: Topic[Any, Any]) -> None:
    group = store.consumer_group("g", topic, auto_offset_reset="error")
    for _ in range(2):
        with pytest.raises(OffsetOutOfRangeError, match="auto_offset_reset='error'"), group:
            pass
    with store.consumer_group("g", topic) as other:
        assert list(other.members().values()) == [[FIRST]]
    with group:
        assert one(group).offset == 0
    assert taken_hands(store) == 0


def test_a_position_beyond_the_end_is_reset(store: Store) -> None:
    topic = filled(store, partitions=1)
    with store.consumer_group("g", topic) as group:
        group.commit({FIRST: 100})
    topic.append_many([b"x"] * 4)
    with store.consumer_group("g", topic) as group:
        assert offsets(group.poll(1, timeout=0.1)) == [0]


def test_a_position_out_of_range_with_reset_error_raises_each_time(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic, enable_auto_commit=False) as group:
        group.commit({FIRST: 100})
    for _ in range(2):
        with (
            pytest.raises(OffsetOutOfRangeError, match="no valid offset"),
            store.consumer_group("g", topic, auto_offset_reset="error") as group,
        ):
            group.poll(timeout=0.1)
        assert next_offset(store) == 100
    with store.consumer_group("g", topic) as group:
        assert offsets(group.records(until=None, timeout=0.1)) == [0, 1, 2, 3, 4, 5]


# Stopping


def test_stop_ends_the_loop_and_confirms_what_it_had(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        seen = []
        for record in group:
            seen.append(record.offset)
            if record.offset == 2:
                group.stop()
        assert seen == [0, 1, 2]
        assert group.position() == {FIRST: 3}
        assert one(group).offset == 3


def test_stop_from_another_thread_ends_the_wait(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        timer = threading.Timer(0.05, group.stop)
        timer.start()
        assert offsets(group) == [0, 1, 2, 3, 4, 5]
        timer.join()
        timer = threading.Timer(0.05, group.stop)
        timer.start()
        assert group.poll(timeout=None) == []
        timer.join()


def test_stop_from_a_signal_handler(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        before = signal.signal(signal.SIGUSR2, lambda *_: group.stop())
        try:
            timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGUSR2])
            timer.start()
            assert offsets(group) == [0, 1, 2, 3, 4, 5]
            timer.join()
        finally:
            signal.signal(signal.SIGUSR2, before)


def test_stop_before_the_loop_and_outside_of_the_block(store: Store, topic: Topic[Any, Any]) -> None:
    group = store.consumer_group("g", topic)
    group.stop()
    with group:
        group.stop()
        assert offsets(group) == []
        assert one(group).offset == 0
    group.stop()


# What cannot be decoded


@pytest.fixture
def spoiled(store: Store) -> Topic[Any, Any]:
    """1, bad, 3, bad; 5."""
    raw = store.topic("t")
    raw.append_many([b"1", b"{", b"3", b"{"])
    raw.append(b"5")
    return store.topic("t", value=kafkalite.JSON)


def collected(records: Iterator[Any]) -> list[Any]:
    """Values, and in the place of bad records their offsets as strings."""
    found: list[Any] = []
    while True:
        try:
            found.append(next(records).value)
        except StopIteration:
            return found
        except DeserializationError as error:
            found.append(f"bad {error.record and error.record.offset}")


def test_iterating_goes_past_what_cannot_be_decoded(store: Store, spoiled: Topic[Any, Any]) -> None:
    with store.consumer_group("g", spoiled) as group:
        assert collected(group.records(until="end")) == [1, "bad 1", 3, "bad 3", 5]
    assert next_offset(store) == 5


def test_a_new_loop_raises_the_bad_record_again_unless_commit_passed_it(store: Store, spoiled: Topic[Any, Any]) -> None:
    with store.consumer_group("g", spoiled) as group:
        for _ in range(2):
            with pytest.raises(DeserializationError):
                list(group.records(until="end"))
            assert group.position() == {FIRST: 1}
        group.commit()
        assert group.committed() == {FIRST: 2}
        assert one(group).value == 3


def test_poll_raises_the_bad_record_in_its_place(store: Store, spoiled: Topic[Any, Any]) -> None:
    with store.consumer_group("g", spoiled) as group:
        found: list[Any] = []
        for _ in range(6):
            try:
                found.append([record.value for record in group.poll(timeout=0)])
            except DeserializationError as error:
                found.append(error.record and error.record.offset)
        assert found == [[1], 1, [3], 3, [5], []]


# Names and sizes


@pytest.mark.parametrize("group_id", ["", "x" * 250, "a\0b", "\ud800", "ü" * 125, 5, None, b"g"])
def test_a_group_id_that_is_none(store: Store, topic: Topic[Any, Any], group_id: Any) -> None:
    with pytest.raises(ValueError, match="group id"):
        store.consumer_group(group_id, topic)


def test_the_longest_group_id(store: Store) -> None:
    topic = filled(store, name="t" * 249)
    with store.consumer_group("g" * 249, topic, client_id="c" * 300) as group:
        assert len(list(group.records(until="end"))) == 6
        (name,) = group.members()
        assert name.startswith("c" * 100 + "-")


def test_ten_thousand_batches_of_one_record(store: Store) -> None:
    topic = store.topic("t", partitions=2)
    for number in range(10_000):
        topic.append(b"%d" % number, partition=number % 2)
    with store.consumer_group("g", topic) as group:
        values: dict[int, list[int]] = {0: [], 1: []}
        for record in group.records(until="end"):
            values[record.partition].append(int(record.value))
        assert values == {0: list(range(0, 10_000, 2)), 1: list(range(1, 10_000, 2))}
    with store._engine.snapshot() as (transaction, _):
        assert len(list(internal.states(transaction, internal.OFFSETS_LOG, b""))) < 10
    assert next_offset(store) == 5_000


def test_one_batch_of_a_hundred_thousand_records(store: Store) -> None:
    topic = store.topic("t")
    topic.append_many([b"x"] * 100_000)
    with store.consumer_group("g", topic) as group:
        records = iter(group)
        assert offsets(itertools.islice(records, 50_000)) == list(range(50_000))
        assert sum(1 for _ in group.records(until="end")) == 50_001
    assert next_offset(store) == 100_000


def test_what_is_in_hand_stands_in_the_shared_page(store: Store, topic: Topic[Any, Any]) -> None:
    with store.consumer_group("g", topic) as group:
        records = iter(group)
        assert group._member is not None
        hand = group._member.hand
        assert isinstance(hand, Hand)
        held = []
        for _ in range(3):
            next(records)
            held.append(hand.held())
        assert [offset for _, offset in filter(None, held)] == [0, 1, 2]
