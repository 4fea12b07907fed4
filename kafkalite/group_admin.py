"""Groups seen from outside, by who is no member: what there is, who has what, how far they are; and changing it.

Looking takes one snapshot of the index, so what it shows is of one moment. Changing offsets and deleting are for groups
without members and are decided under WRITE, so that nobody joins in between. Members whose process has died are removed
first, by the same round that a living member's keeper makes: after a crash of all members nobody else would.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import lmdb

from kafkalite import clock
from kafkalite.coordinator.group import Group
from kafkalite.coordinator.group_records import ConsumerGroupMetadata
from kafkalite.coordinator.records import OffsetCommit, OffsetCommits, check_group_id, decode, group_prefix
from kafkalite.errors import GroupNotEmptyError, GroupNotFoundError, OffsetOutOfRangeError, UnknownTopicError
from kafkalite.group_state import KINDS, Topics, groups, is_of, load
from kafkalite.members import members_of_store
from kafkalite.membership import refuse_share_group
from kafkalite.model import TopicPartition
from kafkalite.storage import internal, reader
from kafkalite.storage.commit import Append
from kafkalite.storage.engine import Engine
from kafkalite.storage.index import read_positions
from kafkalite.storage.internal import OFFSETS_LOG, KeyedRecord
from kafkalite.storage.slots import hand_of

if TYPE_CHECKING:
    from kafkalite.store import Store


class GroupMember(NamedTuple):
    """A member: what it calls itself, the epoch it is at, what it has, and what it is to have in the end."""

    member_id: str
    client_id: str
    host: str
    instance_id: str | None
    epoch: int
    partitions: tuple[TopicPartition, ...]
    target: tuple[TopicPartition, ...]


class GroupPartition(NamedTuple):
    """A partition that a group reads, or has an offset of. `lag` counts offsets; it is None without a committed one.

    `committed` is the next offset to be read, `end` the end that readers see; `owner` is a member's id.
    """

    topic: str
    partition: int
    owner: str | None
    committed: int | None
    end: int
    lag: int | None


class Committed(NamedTuple):
    """A committed offset: the next one to read, and what was said along with it."""

    offset: int
    metadata: str = ""


class GroupInfo(NamedTuple):
    """A consumer group as of one moment. `state` is Kafka's word: Empty, Assigning, Reconciling, Stable."""

    group_id: str
    state: str
    epoch: int
    assignor: str
    members: tuple[GroupMember, ...]
    partitions: tuple[GroupPartition, ...]

    @property
    def lag(self) -> int:
        """Offsets that are not confirmed yet; of a partition without an offset, all that it holds."""
        return sum(one.end if one.lag is None else one.lag for one in self.partitions)


def list_groups(store: "Store") -> list[GroupInfo]:
    """All consumer groups that have members, had some, or have offsets, by name."""
    engine = _engine(store)
    remove_dead(engine)
    with engine.snapshot() as (transaction, _):
        names = groups(transaction)
    return [_info(engine, name) for name in names]


def describe_group(store: "Store", group_id: str) -> GroupInfo:
    """One group; raises `GroupNotFoundError`, `InvalidGroupIdError`."""
    check_group_id(group_id)
    engine = _engine(store)
    remove_dead(engine)
    with engine.snapshot() as (transaction, _):
        if not _exists(transaction, group_id):
            raise _not_found(group_id)
    return _info(engine, group_id)


def group_lag(store: "Store", group_id: str) -> int:
    """How many offsets a group has not confirmed yet, as far as it committed; 0 for one that nobody has heard of."""
    return _info(_engine(store), group_id).lag


def alter_offsets(store: "Store", group_id: str, offsets: Mapping[TopicPartition, int | Committed]) -> None:
    """Commit offsets, the *next* ones, for a group without members, which need not exist yet; one atomic commit.

    `Committed` says something along with an offset. Raises `GroupNotEmptyError`, `ConfigError` for a share group,
    `UnknownTopicError`, `UnknownPartitionError`, and `OffsetOutOfRangeError` for an offset outside of its partition.
    """
    check_group_id(group_id)
    engine = _engine(store)
    remove_dead(engine)
    wanted = {place: one if isinstance(one, Committed) else Committed(one) for place, one in offsets.items()}
    _check_offsets(engine, wanted)
    _commit(engine, group_id, wanted, waits=True)


def committed_offsets(store: "Store", group_id: str) -> dict[TopicPartition, Committed]:
    """All that a group has committed, of topics as they are now."""
    with _engine(store).snapshot() as (transaction, positions):
        topics = Topics(transaction, positions.catalogue)
        return {
            TopicPartition(one.topic, one.partition): Committed(one.offset, one.metadata)
            for one in _commits(transaction, group_id)
            if (topic := topics.named(one.topic)) is not None and is_of(one, topic)
        }


def commit_offsets(store: "Store", group_id: str, offsets: Mapping[TopicPartition, Committed]) -> None:
    """As a consumer commits that assigns its partitions itself: any offset, not waiting for the flush, as members do.

    Raises `GroupNotEmptyError`, `ConfigError` for a share group, `UnknownTopicError`, `UnknownPartitionError`.
    """
    check_group_id(group_id)
    engine = _engine(store)
    remove_dead(engine)
    if offsets:
        _commit(engine, group_id, offsets, waits=False)


def delete_group(store: "Store", group_id: str) -> None:
    """Delete a group without members and its offsets, in one commit.

    Raises `GroupNotFoundError`, `GroupNotEmptyError`.
    """
    check_group_id(group_id)
    engine = _engine(store)
    remove_dead(engine)

    def decide(transaction: lmdb.Transaction) -> list[Append]:
        if not _exists(transaction, group_id):
            raise _not_found(group_id)
        _refuse_members(engine, transaction, group_id)
        gone: list[KeyedRecord] = [
            (key, None)
            for kind in (OffsetCommit, *KINDS)
            for key, _ in internal.states(transaction, OFFSETS_LOG, group_prefix(kind, group_id))
        ]
        return [Append(OFFSETS_LOG, internal.batch_of(gone))]

    engine.decide(decide)


# Behind it


def _engine(store: "Store") -> Engine:
    store._use()
    return store._engine


def remove_dead(engine: Engine) -> None:
    """Remove the members of processes that died, committing what they had confirmed."""
    if not engine.is_read_only:
        members_of_store(engine).expel_dead()


def _commit(engine: Engine, group_id: str, offsets: Mapping[TopicPartition, Committed], *, waits: bool) -> None:
    def decide(transaction: lmdb.Transaction) -> list[Append]:
        refuse_share_group(transaction, group_id)
        _refuse_members(engine, transaction, group_id)
        records = offset_records(transaction, group_id, offsets)
        return [Append(OFFSETS_LOG, internal.batch_of(records))] if records else []

    engine.decide(decide, waits=waits)


def offset_records(
    transaction: lmdb.Transaction, group_id: str, offsets: Mapping[TopicPartition, Committed]
) -> list[KeyedRecord]:
    """The records that commit offsets, whoever does; raises `UnknownTopicError`, `UnknownPartitionError`."""
    encoder, topics = OffsetCommits(group_id), Topics(transaction, read_positions(transaction).catalogue)
    stamp = clock.now_ms()
    records: list[KeyedRecord] = []
    for (name, number), (offset, metadata) in offsets.items():
        topic = topics.named(name)
        if topic is None:
            raise UnknownTopicError(f"there is no topic {name!r}: store.topics() lists what there is")
        topic.log_id(number)  # raises UnknownPartitionError
        value = encoder.value(offset, stamp, metadata, topic_id=topic.topic_id)
        records.append((encoder.key(name, number), value))
    return records


def _info(engine: Engine, group_id: str) -> GroupInfo:
    with engine.snapshot() as (transaction, positions):
        group, topics = _loaded(engine, transaction, positions.catalogue, group_id)
        offsets = {(one.topic, one.partition): one for one in _commits(transaction, group_id)}
        names = sorted({name for name, _ in offsets} | {name for one in group.members.values() for name in one.topics})
        states = [state for name in names if (state := topics.named(name)) is not None]
        members = tuple(_member(group, topics, member_id) for member_id in sorted(group.members))
    owners = {one: member.member_id for member in members for one in member.partitions}
    partitions = []
    for state in states:
        bounds = reader.bounds(engine, state, range(state.partition_count))
        for number, (_, end) in bounds.items():
            found = offsets.get((state.name, number))
            at = found.offset if found is not None and is_of(found, state) else None
            lag = None if at is None else max(0, end - at)
            owner = owners.get(TopicPartition(state.name, number))
            partitions.append(GroupPartition(state.name, number, owner, at, end, lag))
    return GroupInfo(
        group_id, str(group.state).capitalize(), group.epoch, group.assignor(""), members, tuple(partitions)
    )


def _loaded(engine: Engine, transaction: lmdb.Transaction, catalogue: int, group_id: str) -> tuple[Group, Topics]:
    """A group without members whose process has ended: a store that is only read may have some left over."""
    loaded = load(transaction, catalogue, group_id, engine.wakeup.page)
    group, slots = loaded.group, engine.slots
    for member in list(group.members.values()):
        hand = hand_of(slots.page, member.member_id)
        if hand is None or not (member.is_away or slots.is_alive(*hand.process)):
            del group.members[member.member_id]
    return group, loaded.topics


def _member(group: Group, topics: Topics, member_id: str) -> GroupMember:
    one = group.members[member_id]
    return GroupMember(
        member_id, one.client_id, one.client_host, one.instance_id, one.epoch, _names(topics, one.owned),
        _names(topics, group.target.get(member_id, frozenset())),
    )  # fmt: skip


def _names(topics: Topics, logs: frozenset[int]) -> tuple[TopicPartition, ...]:
    owners = filter(None, map(topics.owner, logs))
    return tuple(sorted(TopicPartition(topic.name, number) for topic, number in owners))


def _commits(transaction: lmdb.Transaction, group_id: str) -> Iterator[OffsetCommit]:
    for key, value in internal.states(transaction, OFFSETS_LOG, group_prefix(OffsetCommit, group_id)):
        record = decode(OFFSETS_LOG, key, value)
        if isinstance(record, OffsetCommit):
            yield record


def _exists(transaction: lmdb.Transaction, group_id: str) -> bool:
    prefixes = [group_prefix(kind, group_id) for kind in (ConsumerGroupMetadata, OffsetCommit)]
    return any(next(internal.states(transaction, OFFSETS_LOG, prefix), None) is not None for prefix in prefixes)


def _not_found(group_id: str) -> GroupNotFoundError:
    return GroupNotFoundError(f"there is no group {group_id!r}: it has neither members nor offsets")


def _refuse_members(engine: Engine, transaction: lmdb.Transaction, group_id: str) -> None:
    group, _ = _loaded(engine, transaction, read_positions(transaction).catalogue, group_id)
    members = group.members
    if members:
        raise GroupNotEmptyError(
            f"group {group_id!r} has members, {', '.join(sorted(members))}: end them first, then try again"
        )


def _check_offsets(engine: Engine, offsets: Mapping[TopicPartition, Committed]) -> None:
    for (name, number), (offset, _) in offsets.items():
        state = engine.topic(name)
        state.log_id(number)
        first, end = reader.bounds(engine, state, [number])[number]
        if type(offset) is not int or not first <= offset <= end:
            raise OffsetOutOfRangeError(
                f"offset {offset!r} is outside of {name!r}, partition {number}, which has offsets {first} to {end}"
            )
