"""Share partitions in a store: loaded, stepped under WRITE by whichever member calls, and saved.

What has to survive (`Snapshot`) is a record of `__share_group_state`, Kafka's ShareSnapshot, complete each time: the
state table keeps a key's last value, so Kafka's ShareUpdate, which holds changes, has no use here. What may be lost,
the locks, stands in the index alone, in a table of its own that is not derived and that a rebuild leaves empty:

    key      LOCKS, then the key of the partition's ShareSnapshot
    value    boot id (16), then for each lock: first and last offset, end in ms since boot (8 each), delivery count (2),
             length of the owner's name (1), and the name

Both change in one LMDB transaction, so that they always fit. To acquire is to write a lock: it appends nothing to the
journal and waits for no flush; an acknowledgement does. Locks are of one boot: an index that was closed cleanly is
trusted after the next, whose clock begins anew, and locks with another boot id count as ended.

An owner is `share-{slot}-{incarnation}-{number}`: slot and incarnation name a process, whose liveness is a lock.
"""

import itertools
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Final, NamedTuple

import lmdb

from kafkalite import clock, disk
from kafkalite.coordinator import records
from kafkalite.coordinator.group_records import (
    ConsumerGroupMemberMetadata,
    ConsumerGroupMetadata,
    GroupMetadata,
    ShareGroupMetadata,
)
from kafkalite.coordinator.records import ShareSnapshot, StateBatch
from kafkalite.coordinator.share_group import (
    NOBODY,
    Acknowledge,
    Acknowledgement,
    Acquire,
    Acquired,
    Archived,
    Batch,
    Bury,
    Freed,
    Gone,
    Lock,
    LogStart,
    Output,
    Refused,
    SharePartition,
    Snapshot,
    Span,
    State,
    Tick,
)
from kafkalite.errors import ConfigError, CorruptRecordError, StoreVersionError, UnknownTopicError
from kafkalite.storage import catalogue, index, internal
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.commit import Append
from kafkalite.storage.engine import Engine
from kafkalite.storage.index import Positions
from kafkalite.storage.internal import OFFSETS_LOG, SHARE_LOG
from kafkalite.storage.page import HAND_WORDS
from kafkalite.storage.slots import Hand, Slots

LOCKS: Final = b"\x09"
"""The table of locks in the index: volatile, no part of what is derived, and of what `check` compares."""
MAX_CANDIDATES: Final = 8
"""Partitions that one visit takes records from: the work under WRITE is bounded."""
PROBE_MS: Final = 200
"""How often who waits asks whether the processes that have something still live."""
_numbers = itertools.count(1)
_LOCK: Final = Struct(">QQQHB")
_BOOT_ID_SIZE: Final = 16

Letters = Sequence[tuple[int, int, Sequence[Append]]]
"""First and last offset of records that were given up, and what takes them to the dead letter topic."""


class Lane:
    """One partition of one share group, by where its state stands."""

    __slots__ = ("key", "log_id", "partition", "row", "topic")

    def __init__(self, group_id: str, topic: TopicState, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.log_id = topic.log_id(partition)
        self.key = ShareSnapshot(group_id, topic.topic_id, partition, 0, 0, 0, 0, 0, 0).key()
        self.row = LOCKS + self.key

    def __repr__(self) -> str:
        return f"<Lane {self.topic.name!r}, partition {self.partition}>"


class Taken(NamedTuple):
    """Records of a lane that were acquired."""

    lane: Lane
    acquired: Acquired


@dataclass(slots=True)
class Visit:
    """What one visit under WRITE is to do, lane by lane, and what came of it."""

    acknowledgements: Mapping[Lane, Sequence[Acknowledgement]] = field(default_factory=dict)
    candidates: Sequence[Lane] = ()
    """Lanes to acquire from, at most `max_records` in all, none at or beyond their `ends`."""
    max_records: int = 0
    ends: Mapping[Lane, int] | None = None
    leaves: Sequence[Lane] = ()
    """Lanes in which the owner gives up whatever it still has."""
    letters: Mapping[Lane, Letters] = field(default_factory=dict)
    taken: list[Taken] = field(default_factory=list)
    refused: list[tuple[Lane, Refused]] = field(default_factory=list)
    archived: list[tuple[Lane, Archived]] = field(default_factory=list)
    freed: set[Lane] = field(default_factory=set)
    archiving: dict[Lane, list[Span]] = field(default_factory=dict)
    """What was given up and is to be taken to the dead letter topic."""

    def lanes(self) -> list[Lane]:
        """All lanes that it is about."""
        return list(dict.fromkeys([*self.acknowledgements, *self.candidates, *self.leaves, *self.letters]))

    def begin(self) -> None:
        """Forget what came of it: a transaction may be aborted, and decided again."""
        for results in (self.taken, self.refused, self.archived, self.freed, self.archiving):
            results.clear()


class Survey(NamedTuple):
    """A look at a group's lanes: what is to be had, and when to look again (ms since boot) if nothing happens."""

    candidates: list[Lane]
    look_again: int | None
    unfinished: int


class _Loaded(NamedTuple):
    partition: SharePartition
    was: ShareSnapshot | None
    snapshot: Snapshot
    locks: list[Lock]


class ShareState:
    """The share partitions of one group, seen by one owner."""

    def __init__(
        self,
        engine: Engine,
        group_id: str,
        *,
        max_delivery_count: int,
        acquire_timeout_ms: int,
        has_dead_letter: bool,
    ) -> None:
        self._engine = engine
        self.group_id = group_id
        self.owner = NOBODY
        self._max_delivery_count = max_delivery_count
        self._acquire_timeout_ms = acquire_timeout_ms
        self._has_dead_letter = has_dead_letter

    def become_owner(self) -> None:
        """Get a name to acquire under, and this process its slot; raises `StoreBusyError` when all are taken."""
        slots = self._engine.slots
        self.owner = f"share-{slots.mine():04x}-{slots.incarnation:016x}-{next(_numbers)}"

    # Looking

    def survey(self, lanes: Sequence[Lane], ends: Mapping[Lane, int] | None = None) -> Survey:
        """Look, without a lock, where something is to be had or done before `ends`, and what is not done there."""
        candidates: list[Lane] = []
        deadlines: list[int] = []
        unfinished = 0
        now_ms = clock.boot_ms()
        with self._engine.snapshot() as (transaction, positions):
            for lane in lanes:
                partition = self._load(transaction, positions, lane).partition
                end = _end(transaction, positions, lane, ends)
                unfinished += partition.unfinished(end)
                if partition.is_available(end, now_ms, self._dead(partition)):
                    candidates.append(lane)
                    if len(candidates) == MAX_CANDIDATES:
                        break
                deadline = partition.next_deadline()
                if deadline is not None:
                    deadlines.append(deadline)
                if partition.owners() - {self.owner}:  # their processes may end before their locks do
                    deadlines.append(now_ms + PROBE_MS)
        return Survey(candidates, min(deadlines, default=None), unfinished)

    def ends(self, lanes: Sequence[Lane]) -> dict[Lane, int]:
        """The visible end of each lane."""
        with self._engine.snapshot() as (transaction, positions):
            return {lane: _end(transaction, positions, lane) for lane in lanes}

    def unfinished(self, lanes: Sequence[Lane]) -> dict[Lane, int]:
        """How many records of each lane are not done."""
        with self._engine.snapshot() as (transaction, positions):
            return {
                lane: self._load(transaction, positions, lane).partition.unfinished(_end(transaction, positions, lane))
                for lane in lanes
            }

    def describe(self, lanes: Sequence[Lane]) -> list[dict[str, object]]:
        """The partitions for people."""
        with self._engine.snapshot() as (transaction, positions):
            return [
                {"topic": lane.topic.name, "partition": lane.partition}
                | self._load(transaction, positions, lane).partition.describe()
                for lane in lanes
            ]

    # Stepping

    def decide(self, visit: Visit) -> Callable[[lmdb.Transaction], Sequence[Append]]:
        """The step of a visit, for `Operation(decide=…)`."""

        def decide(transaction: lmdb.Transaction) -> Sequence[Append]:
            visit.begin()
            positions = self._engine.index.seen(transaction)
            changed: list[internal.KeyedRecord] = []
            locked: list[tuple[bytes, bytes | None]] = []
            appends: list[Append] = []
            for lane in visit.lanes():
                try:
                    loaded = self._load(transaction, positions, lane)
                except UnknownTopicError:  # deleted, and its state with it; who wants more of it is told by `survey`
                    continue
                appends += self._step(transaction, positions, visit, lane, loaded.partition)
                self._save(lane, loaded, changed, locked)
            for append in appends:
                if append.topic is not None and append.topic.epoch != positions.catalogue:
                    catalogue.revalidate(transaction, append.topic, positions.catalogue)
            # What is put here stays even if the operation is refused later: nothing raises from here on.
            for row, value in locked:
                _put(transaction, row, value)
            return [Append(SHARE_LOG, internal.batch_of(changed)), *appends] if changed else appends

        return decide

    def _step(
        self, transaction: lmdb.Transaction, positions: Positions, visit: Visit, lane: Lane, partition: SharePartition
    ) -> list[Append]:
        now_ms = clock.boot_ms()
        outputs = partition.step(Tick(), now_ms)
        said = visit.acknowledgements.get(lane)
        if said:
            outputs += partition.step(Acknowledge(self.owner, said), now_ms)
        gone = self._dead(partition)
        if lane in visit.leaves:
            gone |= {self.owner}
        if gone:
            outputs += partition.step(Gone(gone), now_ms)
        appends = self._bury(visit, lane, partition, outputs, now_ms)
        left = visit.max_records - sum(one.acquired.last - one.acquired.first + 1 for one in visit.taken)
        is_alone = any(one.acquired.delivery_count > 1 for one in visit.taken)
        if left > 0 and lane in visit.candidates and not is_alone:
            end = _end(transaction, positions, lane, visit.ends)
            outputs += partition.step(Acquire(self.owner, left, end, is_fresh=bool(visit.taken)), now_ms)
        _sort(visit, lane, outputs)
        return appends

    def _bury(
        self, visit: Visit, lane: Lane, partition: SharePartition, outputs: list[Output], now_ms: int
    ) -> list[Append]:
        """Take what was given up where it belongs: without a dead letter topic nowhere, else with the letters."""
        appends: list[Append] = []
        if not self._has_dead_letter:
            spans = [(span.first, span.last) for span in partition.archiving()]
            outputs += partition.step(Bury(spans), now_ms) if spans else []
            return appends
        for first, last, letters in visit.letters.get(lane, ()):
            if any(span.first <= first and last <= span.last for span in partition.archiving()):
                outputs += partition.step(Bury([(first, last)]), now_ms)
                appends += letters
        left = partition.archiving()
        if left:
            visit.archiving[lane] = left
        return appends

    def _dead(self, partition: SharePartition) -> frozenset[str]:
        owners = partition.owners() - {self.owner}
        return frozenset(owner for owner in owners if not _is_alive(self._engine.slots, owner))

    # Loading and saving

    def _load(self, transaction: lmdb.Transaction, positions: Positions, lane: Lane) -> _Loaded:
        if lane.topic.epoch != positions.catalogue:
            catalogue.revalidate(transaction, lane.topic, positions.catalogue)
        start, _ = index.log_bounds(transaction, lane.log_id)
        was = _read(transaction, lane.key)
        partition = SharePartition(
            max_delivery_count=self._max_delivery_count, acquire_timeout_ms=self._acquire_timeout_ms
        )
        locks = _locks_of(index.get(transaction, lane.row))
        partition.restore(Snapshot(start) if was is None else _snapshot_of(was), locks)
        if start > partition.start_offset:
            partition.step(LogStart(start), 0)
        return _Loaded(partition, was, partition.snapshot(), partition.locks())

    def _save(
        self,
        lane: Lane,
        loaded: _Loaded,
        changed: list[internal.KeyedRecord],
        locked: list[tuple[bytes, bytes | None]],
    ) -> None:
        snapshot, locks = loaded.partition.snapshot(), loaded.partition.locks()
        if snapshot != loaded.snapshot:
            now_ms = clock.now_ms()
            was = loaded.was
            record = ShareSnapshot(
                self.group_id,
                lane.topic.topic_id,
                lane.partition,
                was.snapshot_epoch + 1 if was else 0,
                0,
                0,
                snapshot.start_offset,
                was.create_timestamp_ms if was else now_ms,
                now_ms,
                tuple(StateBatch(*batch) for batch in snapshot.batches),
            )
            changed.append((lane.key, record.value()))
        if locks != loaded.locks:
            locked.append((lane.row, _packed(locks)))

    # The group

    def enter(self, transaction: lmdb.Transaction) -> Sequence[Append]:
        """Become a share group, if the id is of none or of an empty one; raises `ConfigError`."""
        _free_slots(self._engine.slots)
        group_id = self.group_id
        own = ShareGroupMetadata(group_id, 1)
        if internal.state(transaction, OFFSETS_LOG, own.key()) is not None:
            return []
        members = records.group_prefix(ConsumerGroupMemberMetadata, group_id)
        classic = records.group_prefix(GroupMetadata, group_id)
        if any(True for _ in internal.states(transaction, OFFSETS_LOG, members)) or (
            internal.state(transaction, OFFSETS_LOG, classic) is not None
        ):
            raise ConfigError(
                f"the group {group_id!r} is a consumer group, and has members: a group has one type, so give this "
                "share group another id"
            )
        former = records.group_prefix(ConsumerGroupMetadata, group_id)
        said: list[internal.KeyedRecord] = [(own.key(), own.value())]
        if internal.state(transaction, OFFSETS_LOG, former) is not None:
            said.append((former, None))
        return [Append(OFFSETS_LOG, internal.batch_of(said))]


def _free_slots(slots: Slots) -> None:
    """Free the slots of dead processes, under WRITE, unless they have members of consumer groups to be removed."""
    page = slots.page
    if dead := slots.dead():
        tokens = page.hands[::HAND_WORDS]
        kept = {Hand(page, number, token).process for number, token in enumerate(tokens) if token}
        for process in dead:
            if process not in kept:
                slots.free(*process)


def _is_alive(slots: Slots, owner: str) -> bool:
    """Whether an owner's process lives; one that is named in another way does not."""
    try:
        _, number, incarnation, _ = owner.split("-")
        return slots.is_alive(int(number, 16), int(incarnation, 16))
    except (ValueError, IndexError):
        return False


def _sort(visit: Visit, lane: Lane, outputs: Iterable[Output]) -> None:
    for output in outputs:
        match output:
            case Acquired():
                visit.taken.append(Taken(lane, output))
            case Refused():
                visit.refused.append((lane, output))
            case Archived():
                visit.archived.append((lane, output))
            case Freed():
                visit.freed.add(lane)


def _end(
    transaction: lmdb.Transaction, positions: Positions, lane: Lane, ends: Mapping[Lane, int] | None = None
) -> int:
    """Up to where records of a lane may be had: to its visible end, or not as far."""
    end = index.published_end(transaction, lane.log_id, positions.published)
    return end if ends is None else min(end, ends.get(lane, 0))


def _read(transaction: lmdb.Transaction, key: bytes) -> ShareSnapshot | None:
    value = internal.state(transaction, SHARE_LOG, key)
    if value is None:
        return None
    record = records.decode(SHARE_LOG, key, value)
    if isinstance(record, ShareSnapshot):
        return record
    raise StoreVersionError(
        f"the share group's record with the key {key.hex()} was written by a newer kafkalite: upgrade this one"
    )


def _snapshot_of(record: ShareSnapshot) -> Snapshot:
    try:
        batches = tuple(Batch(one[0], one[1], State(one[2]), one[3]) for one in record.state_batches)
    except ValueError as error:
        raise CorruptRecordError(
            f"the state of share group {record.group_id!r}, partition {record.partition}, cannot be read: {error}"
        ) from error
    return Snapshot(record.start_offset, batches)


def _put(transaction: lmdb.Transaction, row: bytes, value: bytes | None) -> None:
    if value is None:
        transaction.delete(row)
    else:
        transaction.put(row, value)


def _packed(locks: Sequence[Lock]) -> bytes | None:
    if not locks:
        return None
    parts = [disk.boot_id()]
    for lock in locks:
        owner = lock.owner.encode()
        parts += (_LOCK.pack(lock.first, lock.last, lock.until_ms, lock.delivery_count, len(owner)), owner)
    return b"".join(parts)


def _locks_of(row: bytes | None) -> list[Lock]:
    """The locks of a row. One that does not read as such is damage to what may be lost: then there are none."""
    if row is None:
        return []
    is_of_this_boot = row[:_BOOT_ID_SIZE] == disk.boot_id()
    locks: list[Lock] = []
    at = _BOOT_ID_SIZE
    try:
        while at < len(row):
            first, last, until_ms, delivery_count, size = _LOCK.unpack_from(row, at)
            at += _LOCK.size
            owner = row[at : at + size].decode()
            at += size
            if at > len(row) or first > last:
                return []
            # a lock of another boot ended with it: at time 1, so that its delivery is counted
            locks.append(Lock(first, last, delivery_count, owner, until_ms if is_of_this_boot else 1))
    except (struct.error, UnicodeDecodeError):
        return []
    return locks
