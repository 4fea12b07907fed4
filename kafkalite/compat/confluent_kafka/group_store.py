"""Offsets of groups with what was said along with them, read and committed by who is no member.

As `kafkalite.group_admin` does it, with the metadata that Kafka's commits carry, and without looking at the partition's
ends: a consumer that assigns its partitions itself may commit any offset, as in Kafka. Committing is for groups without
members, decided under the store's lock.
"""
# ruff: noqa: SLF001  (goes to the store's engine for what has no public face yet)

from collections.abc import Mapping
from typing import NamedTuple

import lmdb

import kafkalite
from kafkalite import clock
from kafkalite.coordinator.records import OffsetCommit, OffsetCommits, check_group_id, decode, group_prefix
from kafkalite.errors import GroupNotEmptyError
from kafkalite.group_admin import remove_dead
from kafkalite.group_state import Topics, load
from kafkalite.storage import internal
from kafkalite.storage.commit import Append
from kafkalite.storage.index import read_positions
from kafkalite.storage.internal import OFFSETS_LOG, KeyedRecord

Place = tuple[str, int]


class Committed(NamedTuple):
    """A committed offset: the next one to read, and what was said along with it."""

    offset: int
    metadata: str


def fetch(store: kafkalite.Store, group_id: str) -> dict[Place, Committed]:
    """All offsets that a group has committed, of topics as they are now."""
    with store._engine.snapshot() as (transaction, positions):
        topics = Topics(transaction, positions.catalogue)
        return {
            (one.topic, one.partition): Committed(one.offset, one.metadata)
            for one in _commits(transaction, group_id)
            if (topic := topics.named(one.topic)) is not None and one.topic_id in (bytes(16), topic.topic_id)
        }


def _commits(transaction: lmdb.Transaction, group_id: str) -> list[OffsetCommit]:
    rows = internal.states(transaction, OFFSETS_LOG, group_prefix(OffsetCommit, group_id))
    decoded = [decode(OFFSETS_LOG, key, value) for key, value in rows]
    return [one for one in decoded if isinstance(one, OffsetCommit)]


def commit(store: kafkalite.Store, group_id: str, offsets: Mapping[Place, Committed]) -> None:
    """Commit offsets of a group without members; raises `GroupNotEmptyError`, `UnknownTopicError`."""
    check_group_id(group_id)
    engine = store._engine
    remove_dead(engine)

    def decide(transaction: lmdb.Transaction) -> list[Append]:
        catalogue = read_positions(transaction).catalogue
        if load(transaction, catalogue, group_id, engine.wakeup.page).group.members:
            raise GroupNotEmptyError(f"group {group_id!r} has members: end them, or commit as one of them")
        return [Append(OFFSETS_LOG, internal.batch_of(_records(transaction, group_id, catalogue, offsets)))]

    if offsets:
        engine.decide(decide, waits=False)


def _records(
    transaction: lmdb.Transaction, group_id: str, catalogue: int, offsets: Mapping[Place, Committed]
) -> list[KeyedRecord]:
    encoder, topics = OffsetCommits(group_id), Topics(transaction, catalogue)
    stamp = clock.now_ms()
    records: list[KeyedRecord] = []
    for (name, number), wanted in offsets.items():
        topic = topics.named(name)
        if topic is None or not 0 <= number < topic.partition_count:
            raise kafkalite.UnknownTopicError(f"{name} [{number}]: Broker: Unknown topic or partition")
        value = encoder.value(wanted.offset, stamp, wanted.metadata, topic_id=topic.topic_id)
        records.append((encoder.key(name, number), value))
    return records
