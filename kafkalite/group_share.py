"""A member's share: its partitions, where it stands in each, and whose turn it is.

Partitions take turns; one keeps its turn as long as its look-up lasts (`LogReader`: some thousand batches or 1 MiB),
since each change of hands costs a commit. What a batch has left over waits in the partition's lane as `pending`.
"""

from collections.abc import Mapping
from typing import Any

from kafkalite.errors import KafkaliteError, OffsetOutOfRangeError, UnknownTopicError
from kafkalite.group_state import Owner
from kafkalite.iteration import Lane, Source
from kafkalite.membership import Membership
from kafkalite.records.native import Columns
from kafkalite.storage import reader
from kafkalite.storage.engine import Engine
from kafkalite.subscription import Subscription


class Share:
    """By log id. `positions` are the offsets of the records to be handed out next."""

    def __init__(self, engine: Engine, subscription: Subscription, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._engine = engine
        self._subscription = subscription
        self.lanes: dict[int, Lane] = {}
        self.positions: dict[int, int] = {}
        self.paused: set[int] = set()
        self._turns: list[int] = []

    def add(self, log_id: int, owner: Owner) -> Lane:
        """A partition to be read; its position is the caller's to set."""
        topic, number = owner
        key, value = self._subscription.serdes.get(topic.name, (self._subscription.key, self._subscription.value))
        lane = self.lanes[log_id] = Lane(self._engine, Source(topic, key, value, ()), number, 0)
        lane.reader.reads_committed = self._settings["isolation_level"] == "read_committed"
        self._turns.insert(0, log_id)
        return lane

    def begin(self, member: Membership, owner: Owner) -> None:
        """Take a partition up where its group is, or anew, a new one from its beginning; or drop it, raising what was
        in the way.

        Raises `OffsetOutOfRangeError`, and `FencedMemberError` when it is another's by now.
        """
        topic, number = owner
        log_id = topic.log_ids[number]
        self.add(log_id, owner)
        try:
            offset = member.committed(topic, number)
            first, end = self.bounds(log_id)
            if offset is None and member.is_new(topic, number):
                self._begin_at(member, log_id, first)
            elif offset is None or offset > end:  # beyond: by hand, or lost in a power cut
                self.reset(member, log_id)
            else:
                self.go_to(log_id, offset)
        except KafkaliteError:
            self.drop(log_id)
            member.owned.pop(log_id, None)
            raise

    def reset(self, member: Membership, log_id: int) -> None:
        """Begin a partition where `auto_offset_reset` says, and commit that at once."""
        self._begin_at(member, log_id, self.first(log_id))

    def _begin_at(self, member: Membership, log_id: int, offset: int) -> None:
        self.go_to(log_id, offset)
        member.moved(log_id)
        member.commit({log_id: offset})

    def drop(self, log_id: int) -> None:
        """A partition that is no longer this member's."""
        self.lanes.pop(log_id, None)
        self.positions.pop(log_id, None)
        self.paused.discard(log_id)
        if log_id in self._turns:
            self._turns.remove(log_id)

    def go_to(self, log_id: int, offset: int) -> None:
        """Go on in a partition at another place than where its lane is."""
        self.positions[log_id] = offset
        lane = self.lanes[log_id]
        lane.pending = None
        lane.reader.seek(offset)

    def bounds(self, log_id: int) -> tuple[int, int]:
        """A partition's first offset, and the end that readers see."""
        lane = self.lanes[log_id]
        number = lane.reader.partition
        return reader.bounds(self._engine, lane.source.topic, [number])[number]

    def first(self, log_id: int) -> int:
        """Where a partition of which no valid offset is committed begins, or `OffsetOutOfRangeError`."""
        first, end = self.bounds(log_id)
        how = self._settings["auto_offset_reset"]
        if how == "error":
            lane = self.lanes[log_id]
            raise OffsetOutOfRangeError(
                f"there is no valid offset for {lane.source.topic.name!r}, partition {lane.reader.partition}, and "
                "auto_offset_reset='error': commit one, or give 'earliest' or 'latest'"
            )
        return first if how == "earliest" else end

    def catch_up(self, member: Membership) -> None:
        """A partition that was moved away and back, with no look in between, is where the others left it."""
        for log_id, position in self.positions.items():
            offset = member.committed(*member.owned[log_id])
            if offset is not None and offset > position:
                self.go_to(log_id, offset)

    def uncommitted(self, member: Membership) -> dict[int, int]:
        """Positions beyond what is committed."""
        return {one: at for one, at in self.positions.items() if not member.has_committed(one, at)}

    def is_at(self, ends: Mapping[int, int]) -> bool:
        """Whether all of it was read, once `ready` has nothing before these ends: then only what is paused is left.

        An end may lie behind the last stable offset: what an open transaction holds back is not there to be read.
        """
        return all(self.positions[log_id] >= ends.get(log_id, 0) for log_id in self.paused)

    def readable(self) -> list[int]:
        """Partitions that are not paused."""
        return [log_id for log_id in self._turns if log_id not in self.paused]

    def has_next(self, log_id: int) -> bool:
        """Whether a partition has something; raises `OffsetOutOfRangeError` when its position was removed."""
        lane = self.lanes[log_id]
        try:
            return lane.pending is not None or lane.reader.has_next()
        except UnknownTopicError:  # deleted just now: the group will say so
            return False

    def ready(self, ends: Mapping[int, int] | None) -> int | None:
        """The first partition in turn that has something, before its end if there are `ends`; else None."""
        for log_id in self.readable():
            if ends is not None and self.positions[log_id] >= ends.get(log_id, 0):
                continue
            if self.has_next(log_id):
                return log_id
        return None

    def lost(self) -> list[int]:
        """Partitions whose position was removed."""
        found = []
        for log_id in self._turns:
            try:
                self.has_next(log_id)
            except OffsetOutOfRangeError:
                found.append(log_id)
        return found

    def next_columns(self, log_id: int, most: int | None) -> Columns | None:
        """The next records of a partition, of one batch, at most so many; None when there are none."""
        lane = self.lanes[log_id]
        columns, lane.pending = lane.pending, None
        if columns is None:
            fetched = lane.reader.next_batch()
            if fetched is None or fetched.envelope.is_control:
                self.positions[log_id] = lane.reader.offset
                return None
            lane.fetched = fetched
            columns = reader.between(fetched.columns, self.positions[log_id], None)
        if not columns.values:
            self.positions[log_id] = lane.reader.offset
            return None
        if not lane.reader.has_looked_up():
            self._turns.remove(log_id)
            self._turns.append(log_id)
        return columns if most is None else self.keep_rest(log_id, columns, most)

    def keep_rest(self, log_id: int, columns: Columns, count: int) -> Columns:
        """The first records of a batch; what is left waits for the partition's next turn."""
        if len(columns.values) <= count:
            return columns
        at = columns.offsets[count]
        self.lanes[log_id].pending = reader.between(columns, at, None)
        return reader.between(columns, columns.offsets[0], at)
