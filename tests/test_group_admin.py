"""Groups from outside: what is shown of one moment, and what is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import kafkalite
from kafkalite import TopicPartition
from kafkalite.errors import ConfigError, GroupNotEmptyError, GroupNotFoundError
from kafkalite.group_admin import (
    Committed,
    alter_offsets,
    commit_offsets,
    delete_group,
    describe_group,
    group_lag,
    list_groups,
)

ZERO, ONE = TopicPartition("t", 0), TopicPartition("t", 1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[kafkalite.Store]:
    with kafkalite.connect(tmp_path / "a.klite") as store:
        topic = store.topic("t", partitions=2)
        topic.append_many([b"a", b"b"], partition=0)
        topic.append_many([b"c"], partition=1)
        yield store
        assert store.check().ok


def test_partition_without_an_offset_lags_by_all_that_it_holds(store: kafkalite.Store) -> None:
    alter_offsets(store, "g", {ZERO: 1})
    (info,) = list_groups(store)
    assert [(one.committed, one.end, one.lag) for one in info.partitions] == [(1, 2, 1), (None, 1, None)]
    assert (info.lag, group_lag(store, "g"), group_lag(store, "nobody")) == (2, 2, 0)


def test_offset_of_a_deleted_topic_is_not_that_of_the_next_one_of_its_name(store: kafkalite.Store) -> None:
    store.topic("u")
    alter_offsets(store, "g", {ZERO: 2, TopicPartition("u", 0): 0})
    store.delete_topic("t")
    assert [one.topic for one in describe_group(store, "g").partitions] == ["u"]
    store.topic("t").append(b"new")
    assert all(one.committed is None for one in describe_group(store, "g").partitions if one.topic == "t")


def test_members_and_their_partitions_are_shown_until_they_leave(store: kafkalite.Store) -> None:
    with store.consumer_group("g", "t", client_id="desk") as group:
        next(group.records())
        info = describe_group(store, "g")
        (member,) = info.members
        assert (info.state, member.client_id, member.partitions) == ("Stable", "desk", (ZERO, ONE))
        assert {one.owner for one in info.partitions} == {member.member_id}
        for refused in (lambda: alter_offsets(store, "g", {ZERO: 0}), lambda: delete_group(store, "g")):
            with pytest.raises(GroupNotEmptyError, match=member.member_id):
                refused()
    info = describe_group(store, "g")
    assert (info.state, info.members, {one.owner for one in info.partitions}) == ("Empty", (), {None})


def test_changes_of_several_offsets_are_one_commit_or_none(store: kafkalite.Store) -> None:
    with pytest.raises(kafkalite.OffsetOutOfRangeError, match="offsets 0 to 1"):
        alter_offsets(store, "g", {ZERO: 1, ONE: 5})
    with pytest.raises(kafkalite.UnknownTopicError):
        alter_offsets(store, "g", {ZERO: 1, TopicPartition("nowhere", 0): 0})
    with pytest.raises(kafkalite.UnknownPartitionError):
        alter_offsets(store, "g", {ZERO: 1, TopicPartition("t", 9): 0})
    assert list_groups(store) == []


def test_offsets_of_a_share_group_are_refused(store: kafkalite.Store) -> None:
    """Its offsets are not a consumer group's: one that both could be found in would be of two types."""
    with store.share_group("g", ["t"]):
        pass
    for refused in (alter_offsets, commit_offsets):
        with pytest.raises(ConfigError, match="'g' is a share group"):
            refused(store, "g", {ZERO: Committed(1)})
    with pytest.raises(GroupNotFoundError):
        describe_group(store, "g")


def test_deleted_group_leaves_nothing_and_is_not_there(store: kafkalite.Store) -> None:
    with store.consumer_group("g", "t") as group:
        assert sum(1 for _ in group.records()) == 3
    delete_group(store, "g")
    assert list_groups(store) == []
    for gone in (lambda: delete_group(store, "g"), lambda: describe_group(store, "g")):
        with pytest.raises(GroupNotFoundError, match="there is no group 'g'"):
            gone()
    with store.consumer_group("g", "t") as group:
        assert sum(1 for _ in group.records()) == 3


def test_names_that_no_group_can_have_are_refused(store: kafkalite.Store) -> None:
    for call in (lambda: describe_group(store, ""), lambda: alter_offsets(store, "x" * 250, {})):
        with pytest.raises(kafkalite.InvalidGroupIdError):
            call()
