"""Membership: one member of one group, without a coordinator.

The group's state machine (`coordinator.group`) is stepped by whichever member has something to say: it is read from the
index, takes the event, and what changed is appended to `__consumer_offsets`, all in one transaction under WRITE
(`_step`, `group_step`). A target assignment is computed outside, and installed if the group is still where it was.

A member that keeps what it has needs no step: it reads its own record, and goes on whoever appends, or is stopped while
he does (`_stays`). What the group needs of it then, a target or a deadline kept, is the keeper's (`look`).

Offsets are committed in a transaction that reads what the member owns: what is another's by now is refused. Such a
commit does not wait for a flush, since losing it means reading again.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import lmdb

from kafkalite import clock
from kafkalite.coordinator.assignors import assign, named
from kafkalite.coordinator.group import (
    NONE,
    Event,
    Fence,
    Gone,
    Group,
    GroupError,
    Install,
    Join,
    Leave,
    Owns,
    Partitions,
    State,
    Tick,
    TopicsChanged,
)
from kafkalite.coordinator.group_records import (
    ConsumerGroupCurrentMemberAssignment,
    ShareGroupMetadata,
    TopicMetadata,
)
from kafkalite.coordinator.records import OffsetCommits, decode
from kafkalite.errors import ClosedError, ConfigError, FencedMemberError, KafkaliteError
from kafkalite.group_state import Loaded, Owner, Topics, committed_offset, load
from kafkalite.group_step import LOCAL_HOST, Stepped, matching, resolved, step
from kafkalite.model import TopicPartition
from kafkalite.storage import internal
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.commit import Append
from kafkalite.storage.engine import Engine
from kafkalite.storage.index import read_positions
from kafkalite.storage.internal import OFFSETS_LOG, KeyedRecord
from kafkalite.storage.page import SharedPage
from kafkalite.storage.slots import OFFSET, POLLED, Hand, epoch_place, hand_of, random_number, take_hand

MOST_ROUNDS: Final = 100

Offsets = Mapping[int, int]
"""Next offsets by log id."""


class Membership:
    """One member of one group, from `join` to `leave`. `step`s may come from the keeper; all else from one thread."""

    def __init__(self, engine: Engine, group_id: str, settings: Mapping[str, Any], *, is_passive: bool) -> None:
        self.group_id = group_id
        self.settings = settings
        self.member_id = ""
        self.epoch = 0
        self.gone_along = 0
        """The epoch up to which its own thread has gone along with the group, and begins where others left off."""
        self.owned: dict[int, Owner] = {}
        """What this member may hand out, by log id."""
        self.deadline_ms: int | None = None
        self.is_waiting = False
        self.is_held = False
        """Whether a transaction holds its offsets: until that is over it goes along with nothing, unless fenced, or
        as long as it has nothing that it could be asked to give up.
        """
        self.owes_look = False
        """Whether the group changed, nothing for this member, and `look` is to follow."""
        self.is_settled = False
        """Whether it has all that the group's target gives it, as of the last `sync`."""
        self._cut: Callable[[], Callable[[], None] | None] = lambda: None
        self._engine = engine
        self._is_passive = is_passive
        self._place = epoch_place(group_id)
        self._encoder = OffsetCommits(group_id)
        self._seen = -1
        self._key = b""
        """Of the record that says which partitions the member owns."""
        self._valid = b""
        self._valid_epoch = 0
        self._valid_logs: Partitions = NONE
        """What it owns as long as that record is `_valid`."""
        self.catalogue = -1
        """The catalogue that the group's topics were compared with."""
        self.told = -1
        """The newest catalogue that the keeper told this member of."""
        self._committed: dict[int, int] = {}
        self._met: Mapping[bytes, TopicMetadata] = {}
        self.hand: Hand | None = None
        self._subscription: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    # The group's life

    @property
    def page(self) -> SharedPage:
        """The page that all processes of the store share."""
        return self._engine.wakeup.page

    @property
    def place(self) -> int:
        """What to arm in the shared page to be woken when the group changes."""
        return self._place

    def interrupts(self, cut: Callable[[], None]) -> None:
        """What ends the run of records that is being handed out: a bound method, whose object is not kept alive."""
        self._cut = weakref.WeakMethod(cut)

    def interrupt(self) -> None:
        """The keeper's, when the group changed."""
        cut = self._cut()
        if cut is not None:
            cut()

    def has_changed(self) -> bool:
        """Whether the group, one that shares its place in the page, or the catalogue changed since `sync`."""
        if self.is_held and self.owned and self.hand is not None and self.hand.is_mine():
            return False
        try:
            return bool(self.page.epochs[self._place] != self._seen) or self.told > self.catalogue
        except ValueError as error:  # the page went with the store
            raise ClosedError("the store was closed meanwhile: open it again") from error

    def join(self, topics: tuple[str, ...], patterns: tuple[str, ...], client_id: str) -> None:
        """Become a member; raises `FencedMemberError` when the group refuses."""
        slots = self._engine.slots
        slots.mine()
        slots.stamp()
        token = random_number()
        settings = self.settings
        self._subscription = topics, patterns
        wanted = resolved(self._engine, topics, patterns)

        def prepare(group: Group) -> list[Event]:
            if self.hand is None or not self.hand.is_mine():
                self.hand = take_hand(slots, token, settings["session_timeout_ms"], is_passive=self._is_passive)
                self.member_id = f"{client_id[:100]}-{self.hand.name}"
                self._key = ConsumerGroupCurrentMemberAssignment(self.group_id, self.member_id, 0, 0, 0, {}, {}).key()
            return [*self._former(group), self._joining(client_id, wanted)]

        try:
            self._step(prepare)
        except BaseException:
            if self.hand is not None:
                self.hand.free()
            raise

    def _former(self, group: Group) -> list[Event]:
        """A static member of this name whose process has ended, perhaps not noticed yet: this one takes its place."""
        instance_id = self.settings["group_instance_id"]
        former = [one for one in group.members.values() if instance_id is not None and one.instance_id == instance_id]
        hands = [(one, hand_of(self.page, one.member_id)) for one in former if not one.is_away]
        slots = self._engine.slots
        return [Gone(one.member_id) for one, hand in hands if hand is None or not slots.is_alive(*hand.process)]

    def _joining(self, client_id: str, topics: tuple[str, ...]) -> Join:
        settings, (_, patterns) = self.settings, self._subscription
        return Join(
            self.member_id, topics, patterns, settings["group_instance_id"],
            (named(settings["partition_assignment_strategy"])[0],), settings["session_timeout_ms"],
            settings["max_poll_interval_ms"], client_id, LOCAL_HOST,
        )  # fmt: skip

    def sync(self) -> tuple[Partitions, Partitions]:
        """Learn what this member has now: what it may begin with, and what it is to give up, by log id.

        What it is to give up stays its own until `release`. Raises `FencedMemberError`.
        """
        epoch = self.page.epochs[self._place]
        if self._stays(epoch):
            self._seen, self.owes_look = epoch, True
            return frozenset(self.owned), NONE
        for _ in range(MOST_ROUNDS):
            self._seen = self.page.epochs[self._place]
            group = self._step(self._owning)
            if self._notice_topics():
                continue
            if group.target_epoch == group.epoch:
                break
            self._compute()
        member = group.members[self.member_id]
        self.epoch = member.epoch
        self.is_settled = member.state is State.STABLE and member.epoch == group.target_epoch
        return member.assigned, member.revoking | (frozenset(self.owned) - member.owned)

    def _stays(self, epoch: int) -> bool:
        """Whether the group, as of this epoch, gives this member nothing and takes nothing away, seen without WRITE.

        Not while that is not to be seen yet: the epoch is raised before its transaction is committed.
        """
        if not self.owned or self.hand is None or not self.hand.is_mine():
            return False
        with self._engine.snapshot() as (transaction, positions):
            is_seen = transaction.id() >= epoch
            raw = internal.state(transaction, OFFSETS_LOG, self._key)
        record = decode(OFFSETS_LOG, self._key, raw) if raw is not None else None
        if (
            not is_seen
            or positions.catalogue != self.catalogue
            or not isinstance(record, ConsumerGroupCurrentMemberAssignment)
            or record.partitions_pending_revocation
        ):
            return False
        has = {(topic_id, number) for topic_id, numbers in record.assigned_partitions.items() for number in numbers}
        if has != {(topic.topic_id, number) for topic, number in self.owned.values()}:
            return False
        self.epoch = record.member_epoch
        return True

    def look(self) -> None:
        """The keeper's, in place of a member that went on: the group is to have a target, and its deadline is kept."""
        self.owes_look = False
        try:
            with self._engine.snapshot() as (transaction, positions):
                group = load(transaction, positions.catalogue, self.group_id, self.page).group
            self.deadline_ms = group.next_deadline()
            self._see_to_target(group)
        except BaseException:
            self.owes_look = True
            raise

    def _see_to_target(self, group: Group) -> None:
        if group.members and group.target_epoch < group.epoch:
            self._compute()

    def _owning(self, group: Group) -> list[Event]:
        """What this member has, of what the steps of others left it, at whatever epoch they have brought it to."""
        known = group.members.get(self.member_id)
        if known is None:
            return [Owns(self.member_id, self.epoch, NONE)]
        return [Owns(self.member_id, known.epoch, known.owned & self.owned.keys())]

    def take(self, gained: Partitions) -> list[Owner]:
        """Count partitions as owned; those that were deleted meanwhile are left out."""
        with self._engine.snapshot() as (transaction, positions):
            topics = Topics(transaction, positions.catalogue)
            found = {log_id: owner for log_id in sorted(gained) if (owner := topics.owner(log_id)) is not None}
        self.owned.update(found)
        return list(found.values())

    def release(self, revoked: Partitions) -> None:
        """Give partitions up: others may take them from now on."""
        for log_id in revoked:
            self.owned.pop(log_id, None)
            self._committed.pop(log_id, None)

    def leave(self, offsets: Offsets, *, is_final: bool = True) -> None:
        """Commit what was confirmed, and be no member any more; harmless when the group has removed this one."""
        try:
            left = self._step(lambda _: [Leave(self.member_id, is_final=is_final)], offsets)
        except FencedMemberError:
            self.bury()
            return
        if is_final:
            self.bury()
        with contextlib.suppress(KafkaliteError):  # it has left; the keepers of those who stay see to it as well
            self._see_to_target(left)

    def remove(self, why: str) -> None:
        """Remove this member: the keeper's verdict. Its hand stays retired until its own thread notices."""
        self._see_to_target(self._step(lambda _: [Fence(self.member_id, why)]))

    def works(self) -> None:
        """It waits for records no more: from now on it has `max_poll_interval_ms` to ask for the next."""
        self.is_waiting = False
        if self.hand is not None:
            self.hand.words[POLLED] = clock.boot_ms()

    def bury(self) -> None:
        """Its own thread knows that it was removed, and hands out nothing of it any more."""
        if self.hand is not None:
            self.hand.free()

    def tick(self, *, is_late: bool) -> None:
        """Let the group look at its deadlines."""
        self._see_to_target(self._step(lambda _: [Tick(is_late=is_late)]))

    # Steps

    def _step(self, prepare: Callable[[Group], Sequence[Event]], offsets: Offsets | None = None) -> Group:
        """Take events, under WRITE; returns the group after them. Raises `FencedMemberError`."""
        found: list[Group] = []
        stepped = Stepped()

        def decide(transaction: lmdb.Transaction) -> list[Append]:
            nonlocal stepped
            positions = read_positions(transaction)
            loaded = load(transaction, positions.catalogue, self.group_id, self.page)
            refuse_share_group(transaction, self.group_id)
            known = loaded.group.members.get(self.member_id)
            owned = known.owned if known is not None else NONE
            try:
                stepped = step(loaded, prepare(loaded.group), self.page, self._place)
            except GroupError as error:
                raise FencedMemberError(str(error)) from error
            records = stepped.records
            if offsets:
                mine = {log_id: offset for log_id, offset in offsets.items() if log_id in owned}
                records = [*self._offset_records(loaded.topics, mine), *records]
            found[:] = [loaded.group]
            self._met = loaded.met
            return [Append(OFFSETS_LOG, internal.batch_of(records))] if records else []

        self._engine.decide(decide, waits=False)
        stepped.settle(self._engine.slots)
        if stepped.is_changed:
            self._engine.wakeup.poke([self._place])
        self.deadline_ms = found[0].next_deadline()
        return found[0]

    def _compute(self) -> None:
        """The group's target assignment, for the epoch that it is at; somebody else's may come first."""
        with self._engine.snapshot() as (transaction, positions):
            loaded = load(transaction, positions.catalogue, self.group_id, self.page)
            group = loaded.group
            names = {name for member in group.members.values() for name in member.topics}
            states = {name: loaded.topics.named(name) for name in sorted(names)}
        topics = {name: state.log_ids for name, state in states.items() if state is not None}
        strategy = self.settings["partition_assignment_strategy"]
        chosen = strategy if callable(strategy) else group.assignor("cooperative-sticky")
        install = Install(group.epoch, assign(chosen, group.wants(), topics))
        self._step(lambda _: [install])

    def _notice_topics(self) -> bool:
        """When the catalogue changed: see, and tell the group, whether subscribed topics came, went or grew."""
        if self._engine.index.positions().catalogue == self.catalogue:
            return False
        names = self._engine.topic_names()
        with self._engine.snapshot() as (transaction, positions):
            loaded = load(transaction, positions.catalogue, self.group_id, self.page)
            if loaded.group.target_epoch < loaded.group.epoch:
                return False  # looked at again once there is a target
            change = self._topics_change(loaded, names)
        if change is not None:
            self._step(lambda _: [change])
        self.catalogue = positions.catalogue
        return change is not None

    @staticmethod
    def _topics_change(loaded: Loaded, names_there: Sequence[str]) -> TopicsChanged | None:
        group = loaded.group
        meant = {
            member.member_id: matching(names_there, member.patterns)
            for member in group.members.values()
            if member.patterns
        }
        names = {name for one in group.members.values() for name in meant.get(one.member_id, one.topics)}
        states = [state for name in names if (state := loaded.topics.named(name)) is not None]
        existing = frozenset(log_id for state in states for log_id in state.log_ids)
        is_same = all(group.members[member_id].topics == topics for member_id, topics in meant.items())
        had = frozenset().union(*group.target.values()) if group.target else NONE
        if is_same and had == existing:
            return None
        return TopicsChanged(existing, meant)

    # Offsets

    def commit(self, offsets: Offsets, metadata: Mapping[int, str] | None = None) -> None:
        """Commit next offsets; raises `FencedMemberError`, committing nothing, unless all are this member's, and
        `ConfigError` for what is no offset.
        """
        check_offsets(offsets.values())
        self._commit(lambda: offsets, metadata)

    def commit_confirmed(self, offsets: Offsets) -> None:
        """Commit those of the offsets that are this member's; a step that took others away has committed them.

        Raises `FencedMemberError` when it is no member.
        """
        self._commit(lambda: offsets, only_mine=True)

    def commit_held(self) -> None:
        """The keeper's: commit what was confirmed, when it went on since."""

        def wanted() -> Offsets:
            confirmed = self.hand.confirmed() if self.hand is not None else {}
            return {
                log_id: offset
                for log_id, offset in confirmed.items()
                if log_id in self.owned and offset > self._committed.get(log_id, -1)
            }

        if wanted():
            self._commit(wanted, only_mine=True, by_keeper=True)

    def _commit(
        self,
        wanted: Callable[[], Offsets],
        metadata: Mapping[int, str] | None = None,
        *,
        only_mine: bool = False,
        by_keeper: bool = False,
    ) -> None:
        """Commit what `wanted` says under WRITE: of two threads the later one never takes an offset back."""
        given: dict[int, int] = {}

        def decide(transaction: lmdb.Transaction) -> list[Append]:
            given.update(wanted())
            if not given:
                return []
            topics = self._topics(transaction)
            if only_mine:
                for log_id in self._superseded(transaction, topics, given, by_keeper=by_keeper):
                    del given[log_id]
            else:
                self._refuse_foreign(transaction, topics, given)
            records = self._offset_records(topics, given, metadata)
            self.noted(given)
            return [Append(OFFSETS_LOG, internal.batch_of(records))] if records else []

        try:
            self._engine.decide(decide, waits=False)
        except BaseException:
            for log_id in given:
                self._committed.pop(log_id, None)
            raise

    def noted(self, offsets: Offsets) -> None:
        """These offsets are committed, perhaps with something else: what is in hand before them counts as done."""
        self._committed.update(offsets)
        held = self.hand.held() if self.hand is not None else None
        if self.hand is not None and held is not None and held[1] < offsets.get(held[0], 0):
            self.hand.words[OFFSET] = offsets[held[0]]

    def _superseded(
        self, transaction: lmdb.Transaction, topics: Topics, offsets: Offsets, *, by_keeper: bool
    ) -> set[int]:
        """Of which logs others have committed, or may: it is another's, or was, and has come back further on.

        Where the user moved, further on is no sign of that; but to the keeper it is, as long as the member's own thread
        has not gone along with what the group decided since.
        """
        found = set(self._foreign(transaction, topics, offsets))
        is_unseen = by_keeper and self._valid_epoch != self.gone_along
        for log_id in (offsets.keys() if is_unseen else offsets.keys() & self._committed.keys()) - found:
            owner = self._owner(topics, log_id)
            there = committed_offset(transaction, self.group_id, *owner) if owner is not None else None
            if there is not None and there > offsets[log_id]:
                found.add(log_id)
        return found

    def _owner(self, topics: Topics, log_id: int) -> Owner | None:
        """A log's topic and partition; of what is this member's without reading all topics."""
        return self.owned.get(log_id) or topics.owner(log_id)

    @staticmethod
    def _topics(transaction: lmdb.Transaction) -> Topics:
        return Topics(transaction, read_positions(transaction).catalogue)

    def _foreign(self, transaction: lmdb.Transaction, topics: Topics, offsets: Offsets) -> list[int]:
        """Which of these logs the member does not own; under WRITE. Raises `FencedMemberError` when it is no member."""
        raw = internal.state(transaction, OFFSETS_LOG, self._key)
        if raw is not None and raw == self._valid and offsets.keys() <= self._valid_logs:
            return []
        found = self._as_recorded(raw, topics)
        if found is None:
            raise FencedMemberError(
                f"{self.member_id} is no longer a member of group {self.group_id!r}: its records are others' now; "
                "iterating joins again"
            )
        self._valid = raw or b""
        self._valid_epoch, self._valid_logs = found
        return sorted(offsets.keys() - found[1])

    def _refuse_foreign(self, transaction: lmdb.Transaction, topics: Topics, offsets: Offsets) -> None:
        """Raise `FencedMemberError` unless the member exists and owns all these logs; under WRITE."""
        foreign = self._foreign(transaction, topics, offsets)
        if foreign:
            names = [f"{topic.name}-{number}" for topic, number in filter(None, map(topics.owner, foreign))]
            raise FencedMemberError(
                f"{', '.join(names) or foreign} of group {self.group_id!r} is not, or no longer, this member's: "
                "nothing was committed"
            )

    def _as_recorded(self, raw: bytes | None, topics: Topics) -> tuple[int, Partitions] | None:
        """The epoch at which the group has this member, and what it owns there; None when it is no member."""
        record = decode(OFFSETS_LOG, self._key, raw) if raw is not None else None
        if not isinstance(record, ConsumerGroupCurrentMemberAssignment):
            return None
        owned = topics.logs(record.assigned_partitions) | topics.logs(record.partitions_pending_revocation)
        return record.member_epoch, owned

    def current_epoch(self) -> int:
        """The epoch that others' steps have brought this member to, as long as they left it all that it has."""
        with self._engine.snapshot() as (transaction, positions):
            raw = internal.state(transaction, OFFSETS_LOG, self._key)
            found = self._as_recorded(raw, Topics(transaction, positions.catalogue))
        return found[0] if found is not None and self.owned.keys() <= found[1] else self.epoch

    def _offset_records(
        self,
        topics: Topics,
        offsets: Offsets,
        metadata: Mapping[int, str] | None = None,
    ) -> list[KeyedRecord]:
        stamp = clock.now_ms()
        records: list[KeyedRecord] = []
        for log_id, offset in offsets.items():
            owner = self._owner(topics, log_id)
            if owner is not None:
                topic, number = owner
                said = (metadata or {}).get(log_id, "")
                value = self._encoder.value(offset, stamp, said, topic_id=topic.topic_id)
                records.append((self._encoder.key(topic.name, number), value))
        return records

    def offset_records(
        self, transaction: lmdb.Transaction, offsets: Offsets, metadata: Mapping[int, str] | None = None
    ) -> list[KeyedRecord]:
        """Records that commit offsets, alone or with something else; under WRITE. Raises `FencedMemberError`."""
        topics = self._topics(transaction)
        self._refuse_foreign(transaction, topics, offsets)
        return self._offset_records(topics, offsets, metadata)

    def committed(self, topic: TopicState, number: int) -> int | None:
        """The group's offset of a partition; None when it has none, or one of an earlier topic of that name."""
        with self._engine.snapshot() as (transaction, _):
            found = committed_offset(transaction, self.group_id, topic, number)
        if found is not None:
            self._committed[topic.log_ids[number]] = found
        return found

    def is_new(self, topic: TopicState, number: int) -> bool:
        """Whether a partition was added since the group met its topic."""
        met = self._met.get(topic.topic_id)
        return met is not None and number >= met.partition_count

    def has_committed(self, log_id: int, offset: int) -> bool:
        """Whether this member committed that offset last, or found it so, or one behind it, as the user may."""
        return self._committed.get(log_id, -1) >= offset

    def moved(self, log_id: int) -> None:
        """The user moved: what is committed next may lie before what was."""
        self._committed.pop(log_id, None)

    def everybody(self) -> dict[str, list[TopicPartition]]:
        """All members of the group, and what each owns."""
        with self._engine.snapshot() as (transaction, positions):
            loaded = load(transaction, positions.catalogue, self.group_id, self.page)
            return {
                name: sorted(
                    TopicPartition(topic.name, number)
                    for topic, number in filter(None, map(loaded.topics.owner, member.owned))
                )
                for name, member in loaded.group.members.items()
            }


def check_offsets(offsets: Iterable[int]) -> None:
    """Raise `ConfigError` unless they can be committed."""
    for offset in offsets:
        if type(offset) is not int or not 0 <= offset < 2**63:
            raise ConfigError(f"the offset {offset!r} is not valid: commit that of the next record, 0 or more")


def refuse_share_group(transaction: lmdb.Transaction, group_id: str) -> None:
    """Raise `ConfigError` when the id is a share group's: a group has one type."""
    if internal.state(transaction, OFFSETS_LOG, ShareGroupMetadata(group_id, 0).key()) is not None:
        raise ConfigError(f"the group {group_id!r} is a share group: a group has one type, so give this one another id")
