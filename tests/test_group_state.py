"""A group in the index: what the core says comes back as it was, whatever happened to the topics meanwhile."""

from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite import TopicPartition
from kafkalite.coordinator.group import Group, Install, Join, Leave
from kafkalite.group_state import Loaded, Topics, committed, groups, load, members_of
from kafkalite.storage import internal
from kafkalite.storage.commit import Append
from kafkalite.storage.index import read_positions
from kafkalite.storage.internal import OFFSETS_LOG
from tests.conftest import OpenStore
from tests.group_kit import filled

Store = kafkalite.Store
NOW_MS = 1_000


@pytest.fixture
def store(layout: Path | str, open_store: OpenStore) -> Store:
    return open_store(layout, durability="none")


def loaded(store: Store, group_id: str = "g") -> Loaded:
    with store._engine.snapshot() as (transaction, positions):
        found = load(transaction, positions.catalogue, group_id, store._engine.wakeup.page)
        found.changes()  # reads the topics that it needs while it can
        return found


def stepped(store: Store, *events: Any, group_id: str = "g") -> list[bytes]:
    """Step a group under WRITE; returns the keys of what was written."""
    keys: list[bytes] = []

    def decide(transaction: Any) -> list[Append]:
        positions = read_positions(transaction)
        found = load(transaction, positions.catalogue, group_id, store._engine.wakeup.page)
        for event in events:
            found.group.step(event, NOW_MS)
        records = found.changes()
        keys[:] = [key for key, _ in records]
        return [Append(OFFSETS_LOG, internal.batch_of(records))] if records else []

    store._engine.decide(decide, waits=False)
    return keys


def join(name: str, *topics: str, **fields: Any) -> Join:
    settings: dict[str, Any] = {"patterns": (), "instance_id": None, "assignors": ("range",)} | fields
    return Join(
        name, topics or ("t",), settings["patterns"], settings["instance_id"], settings["assignors"],
        45_000, 300_000, "client", "/local",
    )  # fmt: skip


def facts(group: Group) -> dict[str, Any]:
    """What must come back: all but deadlines, which are volatile."""
    return group.describe()


def test_a_group_that_nobody_has_heard_of(store: Store) -> None:
    found = loaded(store)
    assert (found.group.epoch, found.group.members, found.raw) == (0, {}, {})
    assert found.changes() == []


@pytest.mark.parametrize("fields", [{}, {"patterns": ("t.*", "u"), "instance_id": "i"}, {"assignors": ()}])
def test_what_was_written_comes_back(store: Store, fields: dict[str, Any]) -> None:
    logs = filled(store, partitions=3)._state.log_ids
    stepped(store, join("a", **fields), join("b", assignors=fields.get("assignors", ("range",))))
    group = loaded(store).group
    stepped(store, Install(group.epoch, {"a": frozenset(logs[:2]), "b": frozenset(logs[2:])}))
    found = loaded(store).group
    assert found.check() == []
    assert {name: member.assigned for name, member in found.members.items()} == {
        "a": frozenset(logs[:2]),
        "b": frozenset(logs[2:]),
    }
    assert found.members["a"].instance_id == fields.get("instance_id")
    assert "|".join(found.members["a"].patterns) == "|".join(fields.get("patterns", ()))
    assert facts(found) == facts(loaded(store).group)


def test_what_did_not_change_is_not_written(store: Store) -> None:
    filled(store)
    first = stepped(store, join("a"))
    assert len(first) == len(set(first))
    assert stepped(store, join("a")) == []
    assert stepped(store, Install(99, {})) == []


def test_a_member_that_left_leaves_nothing_behind(store: Store) -> None:
    filled(store)
    stepped(store, join("a"), join("b"))
    stepped(store, Leave("a", is_final=True))
    stepped(store, Leave("b", is_final=True))
    found = loaded(store)
    assert found.group.members == {}
    assert found.group.epoch == found.group.target_epoch > 0
    assert len(found.raw) == 3, "the group's epoch, its target's, and the topics it met"


def test_what_was_deleted_is_owned_by_nobody(store: Store) -> None:
    logs, others = filled(store, partitions=2)._state.log_ids, filled(store, name="u")._state.log_ids
    stepped(store, join("a", "t", "u"))
    stepped(store, Install(loaded(store).group.epoch, {"a": frozenset([*logs, *others])}))
    store.delete_topic("t")
    member = loaded(store).group.members["a"]
    assert member.assigned == frozenset(others)
    filled(store, partitions=2)
    assert loaded(store).group.members["a"].assigned == frozenset(others), "a new topic of that name is another one"


def test_topics_translate_both_ways(store: Store) -> None:
    topic, other = filled(store, partitions=3)._state, filled(store, name="u")._state
    with store._engine.snapshot() as (transaction, positions):
        topics = Topics(transaction, positions.catalogue)
        logs = frozenset([topic.log_ids[0], topic.log_ids[2], *other.log_ids])
        named = topics.partitions(logs)
        assert named == {topic.topic_id: (0, 2), other.topic_id: (0,)}
        assert topics.logs(named) == logs
        assert topics.logs({topic.topic_id: (0, 99), b"?" * 16: (0,)}) == {topic.log_ids[0]}
        assert topics.owner(10_000) is None
        assert topics.named("nothing") is None
        assert topics.identified(b"?" * 16) is None
        assert topics.partitions(frozenset([10_000])) == {}


@pytest.mark.parametrize("name", ["g", "g" * 249, "ü" * 124, "g\x01", " "])
def test_groups_whose_names_begin_alike_are_kept_apart(store: Store, name: str) -> None:
    topic = filled(store)
    names = {name, "g", "gg", "G"}
    for each in sorted(names):
        with store.consumer_group(each, topic) as group:
            group.commit({TopicPartition("t", 0): len(each) % 5 + 1})
    with store._engine.snapshot() as (transaction, _):
        assert groups(transaction) == sorted(names)
        for each in names:
            found = committed(transaction, each, "t", 0)
            assert found is not None
    for each in names:
        assert loaded(store, each).group.members == {}


def test_offsets_alone_make_a_group(store: Store) -> None:
    filled(store)
    with store._engine.snapshot() as (transaction, _):
        assert groups(transaction) == []
        assert committed(transaction, "g", "t", 0) is None


def test_the_members_of_a_process_are_found_by_their_hands(store: Store) -> None:
    topic, slots = filled(store), store._engine.slots
    one_group, same_group, other_group = (store.consumer_group(name, topic) for name in ("g", "g", "h"))
    with one_group, same_group, other_group, store._engine.snapshot() as (transaction, _):
        found = members_of(transaction, store._engine.wakeup.page, (slots.number, slots.incarnation))
        assert {name: len(members) for name, members in found.items()} == {"g": 2, "h": 1}
        assert members_of(transaction, store._engine.wakeup.page, (slots.number, 1)) == {}
