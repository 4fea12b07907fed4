"""Share state in a store: locks that end, are lost or late, and what survives; whose group an id is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kafkalite import (
    ConfigError,
    Store,
    Topic,
    clock,
)
from kafkalite.errors import CorruptRecordError, InvalidRecordStateError, StoreVersionError
from kafkalite.storage import index
from kafkalite.storage.commit import Append
from kafkalite.storage.page import SLOTS
from kafkalite.storage.place import resolve
from kafkalite.storage.slots import INCARNATION, SLOT, take_hand
from tests.conftest import OpenStore
from tests.share_kit import drained, spans


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    return open_store(":memory:")


@pytest.fixture
def jobs(store: Store) -> Topic[bytes, int]:
    """A topic with the jobs 0 to 9."""
    topic = store.topic("jobs", value=int)
    topic.append_many(range(10))
    return topic


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the clock of locks jump by seconds."""
    ahead = 0.0
    honest = clock.boot_ns

    def jump(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(clock, "boot_ns", lambda: honest() + int(ahead * 1e9))
    return jump


# Late


def test_late_word_is_refused_at_once(store: Store, jobs: Topic[bytes, int], now: Callable[[float], None]) -> None:
    with store.share_group("g", [jobs], acquire_timeout_ms=60_000) as group:
        [record] = group.poll(1)
        now(60)
        for say in (group.accept, group.release, group.reject):
            with pytest.raises(InvalidRecordStateError, match="offset 0 of topic 'jobs', partition 0"):
                say(record)
    assert drained(store, jobs)[0] == (0, 2)


def test_word_that_is_late_when_it_is_said_is_refused_by_commit(
    store: Store, jobs: Topic[bytes, int], now: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    with store.share_group("g", [jobs], acquire_timeout_ms=60_000) as group:
        records = group.poll(3)
        for record in records:
            group.accept(record)
        now(60)
        with pytest.raises(InvalidRecordStateError, match=r"accept offsets 0 to 2 of topic 'jobs', partition 0"):
            group.commit()
        group.commit()
    assert "too late to accept offsets 0 to 2" in caplog.text
    assert drained(store, jobs)[:3] == [(0, 2), (1, 2), (2, 2)]


def test_what_was_acquired_and_is_late_is_not_handed_out(
    store: Store, jobs: Topic[bytes, int], now: Callable[[float], None]
) -> None:
    with store.share_group("g", [jobs], acquire_timeout_ms=60_000) as group:
        records = iter(group)
        while not any(span["state"] == "ACQUIRED" and span["last"] > span["first"] for span in spans(group)):
            last = next(records)
        ahead = next(one for one in spans(group) if one["state"] == "ACQUIRED")["last"]
        assert ahead > last.offset
        now(60)
        with store.share_group("g", [jobs]) as other:
            taken = other.poll(1)[0]
            assert taken.delivery_count == 2
            assert taken.offset != next(records).offset
    drained(store, jobs)


def test_lock_of_another_boot_has_ended(open_store: OpenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store")
    jobs = store.topic("jobs", value=int)
    jobs.append_many(range(3))
    group = store.share_group("g", [jobs])
    group.__enter__()
    group.poll(2)
    group._is_entered = False  # it goes without a word, as a killed process does
    monkeypatch.setattr("kafkalite.disk.boot_id", lambda: b"\1" * 16)
    assert drained(store, jobs) == [(0, 2), (1, 2), (2, 1)]


def test_locks_go_with_the_index_and_what_was_accepted_stays(open_store: OpenStore, tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = open_store(path)
    jobs = store.topic("jobs", value=int)
    jobs.append_many(range(6))
    group = store.share_group("g", [jobs])
    group.__enter__()
    zero, one, two, *_ = group.poll(5)
    group.accept(one)
    group.release(two)
    group.commit()
    group._is_entered = False
    store.close()
    resolve(path).index.unlink()
    store = open_store(path)
    jobs = store.topic("jobs", value=int)
    assert zero.value == 0
    assert sorted(drained(store, jobs)) == [(0, 1), (2, 2), (3, 1), (4, 1), (5, 1)]


def test_locks_are_no_part_of_what_is_checked_and_damage_to_them_frees(store: Store, jobs: Topic[bytes, int]) -> None:
    group = store.share_group("g", [jobs])
    group.__enter__()
    group.poll(3)
    group._is_entered = False
    assert store.check().ok
    with store._engine.index.writing() as transaction:
        [(row, value)] = index.rows(transaction, b"\x09")
        transaction.put(row, value[:-2])
    assert drained(store, jobs) == [(value, 1) for value in range(10)]


def test_consumer_group_with_members_is_refused_and_an_empty_one_changes_its_type(
    store: Store, jobs: Topic[bytes, int]
) -> None:
    from kafkalite.coordinator.group_records import ConsumerGroupMemberMetadata, ConsumerGroupMetadata
    from kafkalite.storage import internal

    state = ConsumerGroupMetadata("g", 1)
    member = ConsumerGroupMemberMetadata("g", "m")
    engine = store._engine

    def put(*records: tuple[bytes, bytes | None]) -> None:
        engine.append([Append(internal.OFFSETS_LOG, internal.batch_of(records))])

    put((state.key(), state.value()), (member.key(), member.value()))
    with pytest.raises(ConfigError, match="'g' is a consumer group"):
        store.share_group("g", [jobs]).__enter__()
    put((member.key(), None))
    assert len(drained(store, jobs)) == 10
    with engine.snapshot() as (transaction, _):
        assert internal.state(transaction, internal.OFFSETS_LOG, state.key()) is None


def test_slots_of_dead_processes_are_free_again_but_those_with_members_to_be_removed(
    store: Store, jobs: Topic[bytes, int]
) -> None:
    slots = store._engine.slots
    slots.mine()
    dead = [number for number in range(SLOTS) if number != slots.number]
    for number in dead:
        slots.page.incarnations[number] = 7
    hand = take_hand(slots, 1, 1000, is_passive=False)
    hand.words[INCARNATION], hand.words[SLOT] = 7, dead[5]
    assert len(slots.taken()) == SLOTS
    assert len(drained(store, jobs)) == 10
    assert slots.taken() == sorted([slots.number, dead[5]])
    hand.free()


def test_state_of_a_newer_version_and_damaged_state_are_said_and_not_written_over(
    store: Store, jobs: Topic[bytes, int]
) -> None:
    from kafkalite.coordinator.records import ShareSnapshot, StateBatch
    from kafkalite.storage import internal

    good = ShareSnapshot("g", jobs._state.topic_id, 0, 0, 0, 0, 5, 0, 0, (StateBatch(7, 7, 9, 1),))
    key, engine = good.key(), store._engine
    for value, error in ((b"\x00\x09" + good.value()[2:], StoreVersionError), (good.value(), CorruptRecordError)):
        engine.append([Append(internal.SHARE_LOG, internal.batch_of([(key, value)]))])
        with pytest.raises(error, match="share group"):
            drained(store, jobs)
        with engine.snapshot() as (transaction, _):
            assert internal.state(transaction, internal.SHARE_LOG, key) == value
    engine.append([Append(internal.SHARE_LOG, internal.batch_of([(key, None)]))])
