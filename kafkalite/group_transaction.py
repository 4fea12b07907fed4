"""A group's part in a transaction: what it handed out is committed with the records, or handed out again.

While the transaction is open the member gives nothing up (`Membership.is_held`: once it has partitions it takes no
notice of what the group decides), so that what it handed out is its own at the commit; unless it was fenced, and then
the commit is refused.

Offsets may also be sent to a transaction, for a consumer that is elsewhere (`SentOffsets`). Nothing holds that one
back, so it is named with its epoch, and has to be at that epoch when the offsets are sent, and still at the commit:
Kafka looks at the first moment only (KIP-447), and makes the next owner wait for the end of the transaction.
"""

from collections.abc import Mapping
from typing import Any

import lmdb

from kafkalite.consumer_group import ConsumerGroup
from kafkalite.coordinator.group import GroupError
from kafkalite.coordinator.records import check_group_id
from kafkalite.errors import ConfigError, FencedMemberError, StaleMemberEpochError, TransactionStateError
from kafkalite.group_admin import Committed, offset_records
from kafkalite.group_state import load
from kafkalite.membership import Membership, check_offsets, refuse_share_group
from kafkalite.model import GroupMetadata, TopicPartition
from kafkalite.storage.engine import Engine
from kafkalite.storage.index import read_positions
from kafkalite.storage.internal import KeyedRecord

Group = ConsumerGroup[Any, Any]


def begin(group: Group) -> Membership:
    """From now on a transaction holds the offsets of this member. Raises `ConfigError`, `TransactionStateError`,
    `ClosedError`.
    """
    if group.settings["enable_auto_commit"]:
        raise ConfigError(
            f"group {group.group_id!r} commits by itself: give consumer_group(…, enable_auto_commit=False), since its "
            "offsets are the transaction's to commit"
        )
    with group._use() as member:
        if group._in_transaction:
            raise TransactionStateError(f"group {group.group_id!r} is in a transaction: it can be in one at a time")
        if not _uncommitted(group, member):  # else what is in hand might be given up here, and not be noticed
            group._reconcile()
        now = group._entered()
        group._in_transaction = now.is_held = True
    return now


def handed_out(group: Group, member: Membership) -> dict[int, int]:
    """The offsets behind what was handed out and not committed, by log id; the record in hand included.

    Raises `ClosedError` when the group was left, `FencedMemberError` when it has joined again since `begin`.
    """
    with group._use() as now:
        if now is not member:
            raise FencedMemberError(
                f"{member.member_id} was removed from group {group.group_id!r} during the transaction: what it handed "
                "out is others'; iterate again"
            )
        if group._given_up:
            raise FencedMemberError(
                f"partitions of group {group.group_id!r} were given up after records of them were handed out, and "
                "before the transaction began: begin it before you take its records"
            )
        return _uncommitted(group, member)


def _uncommitted(group: Group, member: Membership) -> dict[int, int]:
    found = group._handed_out()
    return {log_id: offset for log_id, offset in found.items() if not member.has_committed(log_id, offset)}


def committed(group: Group, member: Membership, offsets: Mapping[int, int]) -> None:
    """The transaction was committed with these offsets."""
    group._in_transaction = member.is_held = False
    with group._use():
        member.noted(offsets)
        if group._run is not None:
            group._run.commit()


def rewind(group: Group, member: Membership) -> None:
    """The transaction was not committed: what it handed out is handed out again, from what the store has committed."""
    group._in_transaction = member.is_held = False
    group._given_up.clear()
    run = group._run
    if group._member is not member or not group._engine.is_open:
        return  # it left, or was removed: whoever has the partitions now begins there
    with group._use():
        group._run = None
        if run is not None:
            run.cut()
        if member.hand is not None:
            member.hand.drop()
        for log_id in list(group._share.positions):
            offset = member.committed(*member.owned[log_id])
            if offset is not None:
                group._share.go_to(log_id, offset)


class SentOffsets:
    """Offsets that a transaction commits for consumers that are elsewhere."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._members: set[GroupMetadata] = set()
        self._offsets: dict[str, dict[TopicPartition, Committed]] = {}

    def __bool__(self) -> bool:
        return bool(self._offsets)

    def add(self, group: GroupMetadata, offsets: Mapping[TopicPartition, Committed]) -> None:
        """Commit these as well; later ones replace earlier ones. Raises what the commit would raise now."""
        check_group_id(group.group_id)
        check_offsets(one.offset for one in offsets.values())
        with self._engine.snapshot() as (transaction, _):
            self._refuse_stale(transaction, group)
            offset_records(transaction, group.group_id, offsets)
        if offsets:
            self._members.add(group)
            self._offsets[group.group_id] = self._offsets.get(group.group_id, {}) | dict(offsets)

    def records(self, transaction: lmdb.Transaction) -> list[KeyedRecord]:
        """The records that commit them; under WRITE. Raises `FencedMemberError`, `UnknownTopicError`."""
        for group in self._members:
            self._refuse_stale(transaction, group)
        return [
            record
            for group_id, offsets in self._offsets.items()
            for record in offset_records(transaction, group_id, offsets)
        ]

    def _refuse_stale(self, transaction: lmdb.Transaction, group: GroupMetadata) -> None:
        """Raise `FencedMemberError` unless the member, if one is named, is what it says."""
        refuse_share_group(transaction, group.group_id)
        if (group.member_id, group.epoch) == ("", -1):
            return
        page, catalogue = self._engine.wakeup.page, read_positions(transaction).catalogue
        try:
            load(transaction, catalogue, group.group_id, page).group.refuse_stale(group.member_id, group.epoch)
        except GroupError as error:
            kind = StaleMemberEpochError if error.reason == "stale_member_epoch" else FencedMemberError
            raise kind(f"{error}: nothing of the transaction was committed") from error
