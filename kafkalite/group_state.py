"""A group as it stands in the index: read into the core, and written back as records of `__consumer_offsets`.

The core thinks in log ids, Kafka's records in topic ids and partition numbers: `Topics` translates. A group is read as
a whole, changed by the core, and only the records that came out different are written.

A group meets a topic with the first change of the group that finds it subscribed, and `ConsumerGroupPartitionMetadata`
keeps how many partitions it had then. What was added later is new to the group, whoever of its members takes it first
and however late: it begins at its beginning, whatever `auto_offset_reset` says of partitions that were there before.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import lmdb
import msgpack

from kafkalite import clock, config
from kafkalite.coordinator.group import NONE, Group, Member, Partitions, State
from kafkalite.coordinator.group_records import (
    ConsumerGroupCurrentMemberAssignment,
    ConsumerGroupMemberMetadata,
    ConsumerGroupMetadata,
    ConsumerGroupPartitionMetadata,
    ConsumerGroupTargetAssignmentMember,
    ConsumerGroupTargetAssignmentMetadata,
    TopicMetadata,
)
from kafkalite.coordinator.records import NO_TOPIC_ID, OffsetCommit, decode, group_prefix
from kafkalite.coordinator.schema import Record
from kafkalite.storage import catalogue, index, internal
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.internal import OFFSETS_LOG, KeyedRecord
from kafkalite.storage.page import SharedPage
from kafkalite.storage.slots import DEADLINE, Hand, hand_of

KINDS = (
    ConsumerGroupMetadata,
    ConsumerGroupPartitionMetadata,
    ConsumerGroupTargetAssignmentMetadata,
    ConsumerGroupMemberMetadata,
    ConsumerGroupTargetAssignmentMember,
    ConsumerGroupCurrentMemberAssignment,
)
DEFAULT_SESSION_MS: Final[int] = config.defaults("group")["session_timeout_ms"]
"""Of a static member that is away, and whose hand went with all who had the store open."""
STATES = (State.STABLE, State.UNREVOKED_PARTITIONS, State.UNRELEASED_PARTITIONS)
"""By Kafka's number."""

Owner = tuple[TopicState, int]
"""A log id's topic, and its partition there."""


class Topics:
    """The topics of one moment, by name and by id, as far as they were asked for."""

    def __init__(self, transaction: lmdb.Transaction, epoch: int) -> None:
        self._transaction = transaction
        self._epoch = epoch
        self._by_name: dict[str, TopicState | None] = {}
        self._by_id: dict[bytes, TopicState] = {}
        self._owners: dict[int, Owner] = {}

    def named(self, name: str) -> TopicState | None:
        """A topic, or None when there is none of that name."""
        if name not in self._by_name:
            found = self._by_name[name] = catalogue.read_topic(self._transaction, name, self._epoch)
            if found is not None:
                self._note(found)
        return self._by_name[name]

    def _note(self, topic: TopicState) -> None:
        self._by_id[topic.topic_id] = topic
        self._owners.update((log_id, (topic, number)) for number, log_id in enumerate(topic.log_ids))

    def _all(self) -> None:
        for key, value in index.rows(self._transaction, index.TOPICS):
            if msgpack.unpackb(value)["id"] not in self._by_id:
                self.named(key[1:].decode())

    def identified(self, topic_id: bytes) -> TopicState | None:
        """A topic by its id, or None when it was deleted."""
        if topic_id not in self._by_id:
            self._all()
        return self._by_id.get(topic_id)

    def owner(self, log_id: int) -> Owner | None:
        """The topic and partition of a log, or None when it was deleted."""
        if log_id not in self._owners:
            self._all()
        return self._owners.get(log_id)

    def logs(self, assignment: Mapping[bytes, Iterable[int]]) -> Partitions:
        """Kafka's way to name partitions as log ids; what was deleted is left out."""
        found: set[int] = set()
        for topic_id, numbers in assignment.items():
            topic = self.identified(topic_id)
            if topic is not None:
                found.update(topic.log_ids[number] for number in numbers if number < topic.partition_count)
        return frozenset(found)

    def partitions(self, logs: Partitions) -> dict[bytes, tuple[int, ...]]:
        """Log ids in Kafka's way."""
        found: dict[bytes, list[int]] = {}
        for log_id in sorted(logs):
            owner = self.owner(log_id)
            if owner is not None:
                found.setdefault(owner[0].topic_id, []).append(owner[1])
        return {topic_id: tuple(numbers) for topic_id, numbers in sorted(found.items())}


@dataclass(slots=True)
class Loaded:
    """A group read from the index, and what it was read from."""

    group: Group
    topics: Topics
    transaction: lmdb.Transaction
    raw: dict[bytes, bytes] = field(default_factory=dict)
    met: dict[bytes, TopicMetadata] = field(default_factory=dict)
    """The topics that the group met, by id, as they were then."""

    def changes(self) -> list[KeyedRecord]:
        """The records that are different by now."""
        group = self.group
        records: list[Record] = []
        gone: list[bytes] = []
        if "" in group.changed:
            records.append(ConsumerGroupMetadata(group.group_id, group.epoch))
            records.append(ConsumerGroupTargetAssignmentMetadata(group.group_id, group.target_epoch))
            self._meet()
            records.append(ConsumerGroupPartitionMetadata(group.group_id, tuple(self.met.values())))
        for member_id in sorted(group.changed - {""}):
            member = group.members.get(member_id)
            if member is not None:
                records += self._records_of(member)
            else:
                gone += [
                    ConsumerGroupCurrentMemberAssignment(group.group_id, member_id, 0, 0, 0, {}, {}).key(),
                    ConsumerGroupTargetAssignmentMember(group.group_id, member_id, {}).key(),
                    ConsumerGroupMemberMetadata(group.group_id, member_id).key(),
                ]
        written: list[KeyedRecord] = [(key, None) for key in gone if key in self.raw]
        for record in records:
            key, value = record.key(), record.value()
            if self.raw.get(key) != value:
                written.append((key, value))
        return written

    def _meet(self) -> None:
        """Note the subscribed topics that are new to the group, and forget those that were deleted."""
        names = sorted({name for member in self.group.members.values() for name in member.topics})
        for topic in filter(None, map(self.topics.named, names)):
            self.met.setdefault(topic.topic_id, TopicMetadata(topic.topic_id, topic.name, topic.partition_count))
        for topic_id in [topic_id for topic_id in self.met if self.topics.identified(topic_id) is None]:
            del self.met[topic_id]

    def _records_of(self, member: Member) -> list[Record]:
        group_id, topics = self.group.group_id, self.topics
        return [
            ConsumerGroupMemberMetadata(
                group_id, member.member_id, member.instance_id, None, member.client_id, member.client_host,
                member.topics, "|".join(member.patterns) or None, member.rebalance_timeout_ms,
                member.assignors[0] if member.assignors else None,
            ),
            ConsumerGroupTargetAssignmentMember(
                group_id, member.member_id, topics.partitions(self.group.target.get(member.member_id, NONE))
            ),
            ConsumerGroupCurrentMemberAssignment(
                group_id, member.member_id, member.epoch, member.previous_epoch, STATES.index(member.state),
                topics.partitions(member.assigned), topics.partitions(member.revoking),
            ),
        ]  # fmt: skip


def load(transaction: lmdb.Transaction, catalogue_epoch: int, group_id: str, page: SharedPage) -> Loaded:
    """A group as of a transaction; one that nobody has heard of is empty, at epoch 0."""
    topics, raw = Topics(transaction, catalogue_epoch), {}
    epoch = target_epoch = 0
    members: dict[str, Member] = {}
    met: dict[bytes, TopicMetadata] = {}
    target: dict[str, Partitions] = {}
    for kind in KINDS:
        for key, value in internal.states(transaction, OFFSETS_LOG, group_prefix(kind, group_id)):
            raw[key] = value
            match record := decode(OFFSETS_LOG, key, value):
                case ConsumerGroupMetadata():
                    epoch = record.epoch
                case ConsumerGroupPartitionMetadata():
                    met = {topic.topic_id: topic for topic in record.topics}
                case ConsumerGroupTargetAssignmentMetadata():
                    target_epoch = record.assignment_epoch
                case ConsumerGroupMemberMetadata():
                    members[record.member_id] = _member(record, page)
                case ConsumerGroupTargetAssignmentMember():
                    target[record.member_id] = topics.logs(record.topic_partitions)
                case ConsumerGroupCurrentMemberAssignment(member_id=member_id) if member_id in members:
                    _owns(members[member_id], record, topics)
    group = Group.load(group_id, epoch, target_epoch, members.values(), target, clock.boot_ms())
    return Loaded(group, topics, transaction, raw, met)


def _owns(member: Member, record: ConsumerGroupCurrentMemberAssignment, topics: Topics) -> None:
    """What a member has, as recorded; what was deleted since is not there."""
    member.epoch, member.previous_epoch = record.member_epoch, record.previous_member_epoch
    member.assigned = topics.logs(record.assigned_partitions)
    member.revoking = topics.logs(record.partitions_pending_revocation)
    member.state = STATES[record.state] if record.state < len(STATES) else State.STABLE
    if member.state is State.UNREVOKED_PARTITIONS and not member.revoking:
        member.state = State.STABLE


def _member(record: ConsumerGroupMemberMetadata, page: SharedPage) -> Member:
    hand = hand_of(page, record.member_id)
    regex, assignor = record.subscribed_topic_regex, record.server_assignor
    return Member(
        record.member_id,
        record.subscribed_topic_names,
        (regex,) if regex else (),
        record.instance_id,
        (assignor,) if assignor else (),
        hand.session_timeout_ms if hand else DEFAULT_SESSION_MS,
        record.rebalance_timeout_ms,
        record.client_id,
        record.client_host,
        deadline_ms=(hand.words[DEADLINE] or None) if hand else None,
    )


def keep_deadlines(group: Group, page: SharedPage) -> None:
    """Note in the page by when each member has to do something; under WRITE."""
    for member in group.members.values():
        hand = hand_of(page, member.member_id)
        if hand is not None:
            hand.words[DEADLINE] = member.deadline_ms or 0


def groups(transaction: lmdb.Transaction) -> list[str]:
    """The names of all groups that have members, had some, or have offsets."""
    found: set[str] = set()
    for kind in (ConsumerGroupMetadata, OffsetCommit):
        prefix = kind.SCHEMA.kind.to_bytes(2)
        for key, value in internal.states(transaction, OFFSETS_LOG, prefix):
            record = decode(OFFSETS_LOG, key, value)
            if isinstance(record, kind):
                found.add(record.group_id)
    return sorted(found)


def members_of(
    transaction: lmdb.Transaction, page: SharedPage, process: tuple[int, int]
) -> dict[str, list[tuple[str, Hand]]]:
    """Members of a process (its slot and incarnation), with their hands, by group."""
    found: dict[str, list[tuple[str, Hand]]] = {}
    prefix = ConsumerGroupMemberMetadata.SCHEMA.kind.to_bytes(2)
    for key, value in internal.states(transaction, OFFSETS_LOG, prefix):
        record = decode(OFFSETS_LOG, key, value)
        if isinstance(record, ConsumerGroupMemberMetadata):
            hand = hand_of(page, record.member_id)
            if hand is not None and hand.process == process:
                found.setdefault(record.group_id, []).append((record.member_id, hand))
    return found


def offsets_of(transaction: lmdb.Transaction, topic: str) -> list[bytes]:
    """The keys under which groups have committed offsets of a topic."""
    found: list[bytes] = []
    for key, value in internal.states(transaction, OFFSETS_LOG, OffsetCommit.SCHEMA.kind.to_bytes(2)):
        record = decode(OFFSETS_LOG, key, value)
        if isinstance(record, OffsetCommit) and record.topic == topic:
            found.append(key)
    return found


def committed(transaction: lmdb.Transaction, group_id: str, topic: str, partition: int) -> OffsetCommit | None:
    """The offset that a group committed for a partition, as appended."""
    key = OffsetCommit(group_id, topic, partition, 0, 0).key()
    value = internal.state(transaction, OFFSETS_LOG, key)
    record = decode(OFFSETS_LOG, key, value) if value is not None else None
    return record if isinstance(record, OffsetCommit) else None


def committed_offset(transaction: lmdb.Transaction, group_id: str, topic: TopicState, number: int) -> int | None:
    """A group's offset of a partition; None when it has none, or one of an earlier topic of that name."""
    found = committed(transaction, group_id, topic.name, number)
    return found.offset if found is not None and is_of(found, topic) else None


def is_of(found: OffsetCommit, topic: TopicState) -> bool:
    """Whether an offset is this topic's, not one of an earlier topic of that name. (Old versions name no topic id.)"""
    return found.topic_id in (NO_TOPIC_ID, topic.topic_id)
