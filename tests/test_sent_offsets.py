"""Offsets that are sent to a transaction for a consumer elsewhere, and transactions that are ended by a call."""
# ruff: noqa: PT012, SIM117  (as test_transaction)

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kafkalite import GroupMetadata, Store, TopicPartition, disk
from kafkalite.errors import (
    ConfigError,
    FencedMemberError,
    InvalidGroupIdError,
    StaleMemberEpochError,
    StoreBusyError,
    TransactionStateError,
    UnknownPartitionError,
    UnknownTopicError,
)
from kafkalite.group_admin import Committed, alter_offsets, committed_offsets
from kafkalite.storage import locks
from tests.storage.kit import values

ZERO, ONE = TopicPartition("t", 0), TopicPartition("t", 1)


@pytest.fixture
def store(open_store: Callable[..., Store], tmp_path: Path) -> Store:
    opened = open_store(tmp_path / "store.klite")
    opened.topic("t", partitions=2).append_many([b"a", b"b"], partition=0)
    return opened


@pytest.fixture
def member(store: Store) -> Iterator[Any]:
    with store.consumer_group("g", ["t"], enable_auto_commit=False) as group:
        assert group.poll(timeout=0)
        yield group._member


def metadata_of(member: Any) -> GroupMetadata:
    return GroupMetadata(member.group_id, member.member_id, member.current_epoch())


@contextmanager
def busy(store: Store) -> Iterator[None]:
    """Another process is writing."""
    fd = os.open(store._engine.place.file, os.O_RDWR)
    try:
        assert disk.is_taken(disk.lock_call(fd, locks.FIRST_BYTE + locks.WRITE))
        yield
    finally:
        os.close(fd)


def test_offsets_are_committed_with_the_records_or_not_at_all(store: Store, member: Any) -> None:
    with store.transaction() as tx:
        tx.send("t", b"out", partition=1)
        tx.send_offsets({ZERO: 1}, metadata_of(member), metadata={ZERO: "so far"})
        tx.send_offsets({ZERO: 2}, metadata_of(member))
        assert committed_offsets(store, "g") == {ZERO: Committed(0), ONE: Committed(0)}
    assert committed_offsets(store, "g")[ZERO] == Committed(2)
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        tx.send_offsets({ZERO: 1}, metadata_of(member))
        raise ZeroDivisionError
    assert committed_offsets(store, "g")[ZERO] == Committed(2)


def test_offsets_alone_are_a_transaction(store: Store) -> None:
    with store.transaction() as tx:
        tx.send_offsets({ONE: 0}, GroupMetadata("alone"), metadata={ONE: "why"})
    assert committed_offsets(store, "alone") == {ONE: Committed(0, "why")}


def test_member_that_left_is_fenced(store: Store) -> None:
    with store.consumer_group("g", ["t"], enable_auto_commit=False) as group:
        group.poll(timeout=0)
        left = metadata_of(group._member)
    with store.transaction() as tx, pytest.raises(FencedMemberError, match="no longer, a member"):
        tx.send_offsets({ZERO: 1}, left)


def test_member_that_leaves_before_the_commit_takes_the_whole_transaction_with_it(store: Store) -> None:
    with store.consumer_group("g", ["t"], enable_auto_commit=False) as group:
        group.poll(timeout=0)
        tx = store.transaction()
        tx.__enter__()
        sent = tx.send("t", b"zombie", partition=1)
        tx.send_offsets({ZERO: 1}, metadata_of(group._member))
    with pytest.raises(FencedMemberError):
        tx.commit()
    assert isinstance(sent.exception(0), FencedMemberError)
    assert values(store) == [b"a", b"b"]


def test_member_that_went_on_to_another_epoch_commits_nothing_of_the_old_one(store: Store) -> None:
    manual: Any = {"enable_auto_commit": False, "on_revoked": lambda *_: None}
    with store.consumer_group("g", ["t"], **manual) as first:
        first.poll(timeout=0)
        old = metadata_of(first._member)
        with store.consumer_group("g", ["t"], **manual) as second:
            assert metadata_of(first._member) == old  # it is asked to give one up, and has not
            first.poll(timeout=0)
            second.poll(timeout=0)
            with store.transaction() as tx:
                with pytest.raises(StaleMemberEpochError, match="is of epoch"):
                    tx.send_offsets({ZERO: 1}, old)
                tx.send_offsets({ZERO: 1}, metadata_of(first._member))
    assert committed_offsets(store, "g")[ZERO] == Committed(1)


def test_epoch_that_others_raised_is_the_members_as_long_as_it_lost_nothing(store: Store) -> None:
    manual: Any = {"enable_auto_commit": False, "on_revoked": lambda *_: None}
    with store.consumer_group("g", ["t"], **manual) as first:
        first.poll(timeout=0)
        with store.consumer_group("g", ["t"], **manual) as second:
            first.poll(timeout=0)
            second.poll(timeout=0)
            before = metadata_of(second._member)
            with store.consumer_group("g", ["t"], **manual):
                now = metadata_of(second._member)
                assert now.epoch > before.epoch == second._member.epoch  # type: ignore[union-attr]
                with store.transaction() as tx:
                    tx.send_offsets({ZERO: 1}, now)


def test_consumer_that_is_no_member_is_not_looked_for(store: Store, member: Any) -> None:
    with store.transaction() as tx:
        tx.send_offsets({ZERO: 1}, GroupMetadata(member.group_id))
    assert committed_offsets(store, "g")[ZERO] == Committed(1)


def test_what_can_not_be_committed_is_refused_when_it_is_sent(store: Store) -> None:
    group = GroupMetadata("g")
    with store.share_group("shared", ["t"]), store.transaction() as tx:
        with pytest.raises(UnknownTopicError):
            tx.send_offsets({TopicPartition("nowhere", 0): 1}, group)
        with pytest.raises(UnknownPartitionError):
            tx.send_offsets({TopicPartition("t", 9): 1}, group)
        with pytest.raises(ConfigError, match="the offset -1 is not valid"):
            tx.send_offsets({ZERO: -1}, group)
        with pytest.raises(ConfigError, match="share group"):
            tx.send_offsets({ZERO: 1}, GroupMetadata("shared"))
        with pytest.raises(InvalidGroupIdError):
            tx.send_offsets({ZERO: 1}, GroupMetadata(""))
        tx.send_offsets({}, group)
    with pytest.raises(TransactionStateError, match="was committed"):
        tx.send_offsets({ZERO: 1}, group)
    assert committed_offsets(store, "g") == {}


def test_topic_that_is_deleted_before_the_commit_takes_the_transaction_with_it(store: Store) -> None:
    store.topic("other")
    with pytest.raises(UnknownTopicError), store.transaction() as tx:
        tx.send("t", b"x", partition=1)
        tx.send_offsets({TopicPartition("other", 0): 0}, GroupMetadata("g"))
        store.delete_topic("other")
    assert values(store) == [b"a", b"b"]


def test_commit_inside_of_the_block_is_its_end(store: Store) -> None:
    with store.transaction() as tx:
        sent = tx.send("t", b"c", partition=0)
        tx.commit()
        assert sent.result(0).offset == 2
        with pytest.raises(TransactionStateError, match="was committed"):
            tx.send("t", b"d")
        with pytest.raises(TransactionStateError, match="was committed"):
            tx.commit()


def test_commit_that_found_the_store_busy_may_be_tried_again_with_more(store: Store) -> None:
    with store.transaction() as tx:
        first = tx.send("t", b"c", partition=0)
        with busy(store), pytest.raises(StoreBusyError):
            tx.commit(timeout=0)
        second = tx.send("t", b"d", partition=0)
        tx.commit(timeout=10)
    assert (first.result(0).offset, second.result(0).offset) == (2, 3)


def test_block_that_found_the_store_busy_is_over(store: Store) -> None:
    with store.producer(max_block_ms=0) as producer:
        with busy(store), pytest.raises(StoreBusyError):
            with producer.transaction() as tx:
                sent = tx.send("t", b"c", partition=0)
        assert isinstance(sent.exception(0), StoreBusyError)
    assert values(store) == [b"a", b"b"]


def test_block_that_raises_after_a_commit_that_found_the_store_busy_aborts(store: Store) -> None:
    with pytest.raises(StoreBusyError), store.transaction() as tx:
        sent = tx.send("t", b"c", partition=0)
        with busy(store):
            tx.commit(timeout=0)
    assert isinstance(sent.exception(0), TransactionStateError)
    assert values(store) == [b"a", b"b"]


def test_altered_offsets_may_say_something_along(store: Store) -> None:
    alter_offsets(store, "g", {ZERO: Committed(1, "by hand"), ONE: 0})
    assert committed_offsets(store, "g") == {ZERO: Committed(1, "by hand"), ONE: Committed(0)}
