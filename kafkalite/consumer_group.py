"""ConsumerGroup: the calling thread as a member of a group, and the records that are its share.

    asking the iterator for more   confirms what it handed out before
    break, an exception, leaving   confirm nothing: the record in hand is handed out again, by the next loop or member

Records are handed out in runs (`group_runs`); what is in hand, and how far the partitions before it came, stands in the
shared page. Confirmed offsets are committed by the keeper, every `auto_commit_interval_ms` and while the member waits
for records; at the end of a loop, before a partition is given up, and on leaving; whoever removes a member that was
killed commits what its hand says. When the group changes the keeper cuts the run short, and the next one begins by
going along with what it decided (`_reconcile`).
"""

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from operator import setitem
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeVar

from kafkalite.clock import Deadline
from kafkalite.coordinator.records import check_group_id
from kafkalite.errors import (
    ClosedError,
    ConfigError,
    DeserializationError,
    FencedMemberError,
    OffsetOutOfRangeError,
    TransactionStateError,
    noted_on,
)
from kafkalite.group_runs import Ending, Run, SlowRun, WholeRun, Write, readable
from kafkalite.group_share import Share
from kafkalite.group_step import fence, resolved
from kafkalite.group_use import Use
from kafkalite.iteration import RecordBatch, Runs, decoded
from kafkalite.members import members_of_store
from kafkalite.membership import Membership
from kafkalite.model import Record, TopicPartition
from kafkalite.records.native import Columns
from kafkalite.storage import reader
from kafkalite.storage.engine import Engine
from kafkalite.storage.slots import OFFSET, Hand
from kafkalite.subscription import Subscription
from kafkalite.topic import Topic

K = TypeVar("K")
V = TypeVar("V")

Callback = Callable[["ConsumerGroup[Any, Any]", list[TopicPartition]], object]
CLOSE_PATIENCE: Final = 5.0
POLL: Final = "poll"
"""Who asks for records by `poll`: every call is the same one."""


class ConsumerGroup(Generic[K, V]):
    """A member of a group, from `Store.consumer_group`, between `with` and its end. For one thread, `stop` excepted."""

    def __init__(
        self,
        engine: Engine,
        group_id: str,
        subscription: Subscription,
        settings: Mapping[str, Any],
        callbacks: tuple[Callback | None, Callback | None, Callback | None] = (None, None, None),
    ) -> None:
        check_group_id(group_id)
        self.group_id = group_id
        self.settings = dict(settings)
        self._engine = engine
        self._subscription = subscription
        self._on_assigned, self._on_revoked, self._on_lost = callbacks
        self._incarnation = engine.incarnation
        self._member: Membership | None = None
        self._share = Share(self._engine, self._subscription, self.settings)
        self._run: Run | WholeRun | None = None
        self._asker: object = None
        self._stops = False
        self._is_synced = False
        self._in_transaction = False
        self._given_up: set[int] = set()
        """Partitions of which something was handed out, not committed, and taken away: no transaction rests on it."""
        self._thread = threading.RLock()  # callbacks may commit and seek

    def __del__(self) -> None:
        if getattr(self, "_member", None) is not None and self._incarnation == self._engine.incarnation:
            warnings.warn(
                f"{self!r} was not left: use `with`, or call close()", ResourceWarning, source=self, stacklevel=2
            )
            with contextlib.suppress(Exception):
                self.close()

    def __repr__(self) -> str:
        return f"<ConsumerGroup {self.group_id!r}{'' if self._member else ', not entered'}>"

    # Entering and leaving

    def __enter__(self) -> Self:
        self.join()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        with noted_on(error, f"leaving group {self.group_id!r}"):
            self.close()

    def join(self) -> None:
        """Become a member, as entering does; raises `UnknownTopicError`, `FencedMemberError`."""
        with self._use(joins=True):
            if self._member is None:
                self._stops = False
                try:
                    self._join()
                except BaseException:
                    self._withdraw()
                    raise

    def _join(self) -> None:
        names = tuple(sorted(self._subscription.serdes))
        for name in names:
            self._engine.topic(name)  # raises UnknownTopicError
        has_callbacks = any((self._on_assigned, self._on_revoked, self._on_lost))
        is_passive = not has_callbacks and bool(self.settings["enable_auto_commit"])
        member = Membership(self._engine, self.group_id, self.settings, is_passive=is_passive)
        members_of_store(self._engine).expel_dead()
        member.join(names, self._subscription.patterns, self.settings["client_id"])
        member.interrupts(self._cut)
        members_of_store(self._engine).add(member)
        self._member = member
        self._is_synced = False
        self._reconcile()

    def _withdraw(self) -> None:
        """Entering failed half way: be no member."""
        member, self._member = self._member, None
        self._forget()
        if member is not None:
            members_of_store(self._engine).remove(member)
            member.leave({})

    def close(self) -> None:
        """Leave: commit what was confirmed, give up all. Idempotent; stops another thread that is waiting here."""
        if self._incarnation != self._engine.incarnation or self._member is None or not self._engine.is_open:
            self._member = None
            return
        with self._use(joins=True, patience=CLOSE_PATIENCE) as member:
            if not self.member_id:  # another thread was faster
                return
            self._settle(confirms=False)
            offsets = self._share.uncommitted(member) if self.settings["enable_auto_commit"] else {}
            try:
                if self._on_revoked is not None and self._share.positions:
                    self._on_revoked(self, self.assignment)
            finally:
                members_of_store(self._engine).remove(member)
                self._member = None
                self._forget()
                member.leave(offsets, is_final=self.settings["group_instance_id"] is None)

    def _forget(self) -> None:
        self._share = Share(self._engine, self._subscription, self.settings)
        self._run = None

    def stop(self) -> None:
        """End the loop as if there were nothing more; from any thread, or a signal's handler."""
        self._stops = True
        member = self._member
        self._cut()
        if member is not None and self._engine.is_open:
            self._engine.wakeup.poke([member.place])

    def _cut(self) -> None:
        run = self._run
        if run is not None:
            run.cut()

    # Records

    def __iter__(self) -> Iterator[Record[K, V]]:
        """Records for ever; waits while there are none. `stop()` ends it."""
        return self.records(until=None)

    def records(
        self, *, until: Literal["end"] | None = "end", max_records: int | None = None, timeout: float | None = None
    ) -> Iterator[Record[K, V]]:
        """Records of this member's partitions, each partition's in order.

        `until="end"` ends once everything that was visible at the call has been read, as far as it is this member's and
        `isolation_level` shows it; `None` goes on. `timeout` ends it after so many seconds without a record,
        `max_records` after so many records.
        Raises `DeserializationError` in place of a record that cannot be decoded (iterating on goes past it),
        `OffsetOutOfRangeError`, `ClosedError`, `ForkedError`, `ConcurrentUseError`.
        """
        asker = object()
        found = chain.from_iterable(Runs(partial(self._next_run, asker, self._ends(until), timeout)))
        if max_records is None:
            return found
        return chain(islice(found, max_records), Ending(partial(self._confirm, asker)))

    def _confirm(self, asker: object) -> None:
        """Somebody asked for more than he said that he wants."""
        with self._use():
            if asker is self._asker:
                self._settle(confirms=True)

    def batches(
        self, *, until: Literal["end"] | None = None, timeout: float | None = None
    ) -> Iterator[RecordBatch[K, V]]:
        """As `records`, a batch at a time: asking for the next one confirms all of it."""
        return self._batches(self._ends(until), timeout)

    def _batches(self, ends: Mapping[int, int] | None, timeout: float | None) -> Iterator[RecordBatch[K, V]]:
        asker = object()
        while (batch := self._next_batch(asker, ends, None, Deadline(timeout))) is not None:
            yield batch

    def poll(self, max_records: int | None = None, timeout: float | None = 1.0) -> list[Record[K, V]]:
        """Up to `max_records` (`max_poll_records`) of one partition; waits `timeout` seconds for the first.

        Confirms what the call before gave. Raises as `records`.
        """
        most = self.settings["max_poll_records"] if max_records is None else max_records
        if type(most) is not int or most < 1:
            raise ConfigError(f"max_records={max_records!r} is not valid: give 1 or more")
        batch = self._next_batch(POLL, None, most, Deadline(timeout))
        return [] if batch is None else list(batch)

    def _next_batch(
        self, asker: object, ends: Mapping[int, int] | None, most: int | None, deadline: Deadline
    ) -> RecordBatch[K, V] | None:
        with self._use():
            self._settle(confirms=asker is self._asker)
            self._asker = asker
            while (log_id := self._next_partition(ends, deadline)) is not None:
                columns = self._hold(log_id, most)
                if columns is not None:
                    return self._whole(log_id, columns)
            return None

    def _next_run(self, asker: object, ends: Mapping[int, int] | None, timeout: float | None) -> Iterator[Record[K, V]]:
        """The next run of records; raises StopIteration at the end."""
        with self._use() as member:
            self._settle(confirms=asker is self._asker)
            self._asker = asker
            deadline = Deadline(timeout)
            while (log_id := self._next_partition(ends, deadline)) is not None:
                columns = self._hold(log_id, None)
                if columns is not None:
                    assert member.hand is not None
                    return self._begin(log_id, columns, partial(setitem, member.hand.words, OFFSET)).records
            raise StopIteration

    def _ends(self, until: object) -> dict[int, int] | None:
        """Where each subscribed partition ends now, by log id; None when there is no end."""
        if until is None:
            return None
        if until != "end":
            raise ConfigError(f"until={until!r} is not valid: give 'end', or None to go on for ever")
        self._engine.use()
        member = self._member
        if member is not None and self._engine.index.positions().catalogue != member.catalogue:
            self._is_synced = False  # topics came or went: see to them before anything is read
        ends: dict[int, int] = {}
        for name in resolved(self._engine, tuple(self._subscription.serdes), self._subscription.patterns):
            topic = self._engine.topic(name)
            found = reader.bounds(self._engine, topic, range(topic.partition_count))
            ends.update((topic.log_ids[number], end) for number, (_, end) in found.items())
        return ends

    # Runs

    def _hold(self, log_id: int, most: int | None) -> Columns | None:
        """Take a partition's next records in hand; None when there are none, or the group changed just now."""
        member = self._entered()
        columns = self._share.next_columns(log_id, most)
        if columns is None:
            return None
        assert member.hand is not None
        if self.settings["enable_auto_commit"]:
            member.hand.hold(log_id, columns.offsets[0])
        else:  # going on confirms nothing, so nobody is to commit what is in hand; but it shows that the member is well
            member.hand.words[OFFSET] = columns.offsets[0]
        fence()
        if member.has_changed() or self._stops:
            member.hand.drop()
            self._share.go_to(log_id, self._share.positions[log_id])
            return None
        return columns

    def _begin(self, log_id: int, columns: Columns, write: Write) -> Run:
        """A run of these records, whose offsets pass by `write`."""
        lane = self._share.lanes[log_id]
        assert lane.fetched is not None
        try:
            run = Run(log_id, columns.offsets[0], decoded(lane, lane.fetched, columns), write)
        except DeserializationError:
            run = SlowRun(log_id, columns.offsets[0], lane, columns, write)
        self._run = run
        if self._stops:
            run.cut()
        return run

    def _whole(self, log_id: int, columns: Columns) -> RecordBatch[K, V]:
        """Records as a batch, all in hand at once: up to the first that cannot be decoded, or it is raised."""
        lane = self._share.lanes[log_id]
        assert lane.fetched is not None
        try:
            batch = decoded(lane, lane.fetched, columns)
        except DeserializationError:
            columns = self._share.keep_rest(log_id, columns, max(1, readable(lane, columns)))
            self._run = WholeRun(log_id, columns)
            batch = decoded(lane, lane.fetched, columns)
        self._run = WholeRun(log_id, columns)
        return batch

    def _settle(self, *, confirms: bool) -> None:
        """Note how far what is in hand came: behind its last record, or with `confirms` False before it."""
        run, self._run = self._run, None
        if run is None or run.log_id not in self._share.lanes:
            return
        position = run.position(confirms=confirms)
        if position > run.columns[-1]:
            self._share.positions[run.log_id] = position
        else:
            self._share.go_to(run.log_id, position)
        member = self._member
        if member is not None and member.hand is not None and member.hand.held() is not None:
            member.hand.words[OFFSET] = position

    # Turns

    def _next_partition(self, ends: Mapping[int, int] | None, deadline: Deadline) -> int | None:
        """The partition whose turn it is; waits for one. None at the end, or when the deadline passes."""
        while True:
            self._reconcile()
            if self._stops:
                self._stops = False
                return None
            try:
                log_id = self._share.ready(ends)
            except OffsetOutOfRangeError:
                for lost in self._share.lost():
                    with contextlib.suppress(FencedMemberError):
                        self._share.reset(self._entered(), lost)
                continue
            member = self._entered()
            assert member.hand is not None
            held = member.hand.held()
            if held is not None and held[0] != log_id:
                self._put_aside(member, member.hand, held[0])
            if log_id is not None:
                return log_id
            if (ends is not None and self._is_at(ends)) or deadline.passed():
                self._commit_confirmed()
                return None
            self._wait(member, deadline)

    def _put_aside(self, member: Membership, hand: Hand, log_id: int) -> None:
        """Another partition's turn comes: keep how far this one came. Nobody is waited for while there is room."""
        position = self._share.positions.get(log_id, 0)
        if self.settings["enable_auto_commit"] and not member.has_committed(log_id, position):
            if not hand.put_aside(log_id, position):
                hand.forget(member.has_committed)
            if not hand.put_aside(log_id, position):
                self._commit_confirmed()
        hand.drop()

    def _is_at(self, ends: Mapping[int, int]) -> bool:
        """Whether all that this member owns was read; not before it has its first partitions, if it is to have any."""
        member = self._entered()
        return (bool(member.owned) or member.is_settled) and self._share.is_at(ends)

    def _wait(self, member: Membership, deadline: Deadline) -> None:
        member.is_waiting = True
        share = self._share
        logs = share.readable()

        def ready() -> bool:
            return self._stops or member.has_changed() or any(map(share.has_next, logs))

        try:
            self._engine.wakeup.wait([*logs, member.place], ready, deadline)
        finally:
            member.works()

    # The group's changes

    def _entered(self) -> Membership:
        if self._member is None:
            raise ClosedError(f"group {self.group_id!r} is used outside of its block: enter it with `with`")
        return self._member

    def _reconcile(self) -> None:
        """Go along with what the group decided; a member that was removed joins again."""
        member = self._entered()
        if self._is_synced and not member.has_changed():
            return
        epoch = member.epoch
        while True:
            try:
                assigned, revoked = member.sync()
            except FencedMemberError:
                self._lose()
                return
            if revoked:
                self._give_up(member, revoked)
                continue
            gained = assigned - member.owned.keys()
            if not gained:
                break
            self._gain(member, gained)
        if member.epoch != epoch:
            self._share.catch_up(member)
        member.gone_along = member.epoch
        self._is_synced = True

    def _give_up(self, member: Membership, revoked: frozenset[int]) -> None:
        with contextlib.suppress(FencedMemberError):  # a step moved some that nobody had in hand: nothing is lost
            self._commit_confirmed()
        names = self._names(revoked)
        if self._on_revoked is not None and names:
            self._on_revoked(self, names)
        self._given_up |= revoked & self._share.uncommitted(member).keys()
        for log_id in revoked:
            self._share.drop(log_id)
        if member.hand is not None:
            member.hand.let_go(revoked)
        member.release(revoked)

    def _gain(self, member: Membership, gained: frozenset[int]) -> None:
        for owner in member.take(gained):
            with contextlib.suppress(FencedMemberError):  # a step has moved it on already: the next look sees that
                self._share.begin(member, owner)
        if self._on_assigned is not None:
            self._on_assigned(self, self._names(gained))

    def _lose(self) -> None:
        """This member was removed: what it had is others'. Join again."""
        member, lost = self._entered(), self.assignment
        members_of_store(self._engine).remove(member)
        self._cut()
        self._forget()
        member.bury()
        callback = self._on_lost or self._on_revoked
        if callback is not None and lost:
            callback(self, lost)
        self._join()

    # Offsets

    def _commit_confirmed(self) -> None:
        """Commit how far each partition came."""
        member = self._entered()
        if self.settings["enable_auto_commit"] and (offsets := self._share.uncommitted(member)):
            member.commit_confirmed(offsets)

    def commit(
        self,
        offsets: Mapping[TopicPartition, int] | None = None,
        *,
        metadata: Mapping[TopicPartition, str] | None = None,
    ) -> None:
        """Commit `offsets`, the *next* ones, or all that was handed out, the record in hand included.

        `metadata` is kept beside given offsets. Raises `FencedMemberError`, committing nothing, unless all these
        partitions are this member's, and `TransactionStateError` while a transaction holds them.
        """
        with self._use() as member:
            self._refuse_transaction("commit()")
            if offsets is not None:
                said = {self._log_of(one): text for one, text in (metadata or {}).items()}
                wanted = {self._log_of(one): offset for one, offset in offsets.items()}
                member.commit(wanted, said)
                return
            member.commit(self._handed_out())
            self._given_up.clear()
            if self._run is not None:
                self._run.commit()

    def _refuse_transaction(self, call: str) -> None:
        if self._in_transaction:
            raise TransactionStateError(f"{call} of {self!r} while a transaction holds its offsets: end that first")

    def _handed_out(self) -> dict[int, int]:
        """The offsets behind all that was handed out and is not committed, by log id."""
        wanted = self._share.uncommitted(self._entered())
        if self._run is not None:
            wanted[self._run.log_id] = self._run.position(confirms=True)
        return wanted

    def committed(self) -> dict[TopicPartition, int | None]:
        """What the group has committed for this member's partitions; None where nothing."""
        with self._use() as member:
            owned = [member.owned[log_id] for log_id in self._share.positions]
            return {TopicPartition(topic.name, number): member.committed(topic, number) for topic, number in owned}

    def position(self) -> dict[TopicPartition, int]:
        """The next offset of each of this member's partitions: of the record in hand where there is one."""
        with self._use() as member:
            found = dict(self._share.positions)
            if self._run is not None:
                found[self._run.log_id] = self._run.position(confirms=False)
            owned = [(log_id, member.owned[log_id]) for log_id in self._share.positions]
            return {TopicPartition(topic.name, number): found[log_id] for log_id, (topic, number) in owned}

    @property
    def member_id(self) -> str:
        """The name under which the group knows this member; "" outside of the block."""
        return self._member.member_id if self._member is not None else ""

    @property
    def assignment(self) -> list[TopicPartition]:
        """This member's partitions, sorted."""
        return self._names(self._share.positions)

    def seek(self, partition: TopicPartition, offset: int | Literal["earliest", "latest"]) -> None:
        """Go on at an offset of a partition, whatever is in hand there; raises `OffsetOutOfRangeError`."""
        with self._use() as member:
            self._refuse_transaction("seek()")
            log_id = self._log_of(partition)
            first, end = self._share.bounds(log_id)
            wanted: Any = {"earliest": first, "latest": end}.get(offset, offset) if isinstance(offset, str) else offset
            if type(wanted) is not int or not first <= wanted <= end:
                raise OffsetOutOfRangeError(
                    f"offset {offset!r} is outside of {partition[0]!r}, partition {partition[1]}, which has offsets "
                    f"{first} to {end}"
                )
            if self._run is not None and self._run.log_id == log_id:
                self._run.cut()
                self._run = None
            if member.hand is not None:
                member.hand.let_go({log_id})
            self._share.go_to(log_id, wanted)
            member.moved(log_id)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out nothing of these partitions until `resume`."""
        with self._use():
            self._share.paused.update(map(self._log_of, partitions))
            if self._run is not None and self._run.log_id in self._share.paused:
                self._run.cut()

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out records of these partitions again."""
        with self._use():
            self._share.paused.difference_update(map(self._log_of, partitions))

    def lag(self) -> dict[TopicPartition, int]:
        """How many offsets this member's partitions have beyond its position."""
        positions = self.position()
        with self._use():
            return {one: self._share.bounds(self._log_of(one))[1] - position for one, position in positions.items()}

    def members(self) -> dict[str, list[TopicPartition]]:
        """All members of the group, and what each owns."""
        with self._use() as member:
            return member.everybody()

    def _log_of(self, partition: TopicPartition) -> int:
        for log_id, (topic, number) in self._entered().owned.items():
            if (topic.name, number) == tuple(partition):
                return log_id
        raise FencedMemberError(
            f"{partition[0]!r}, partition {partition[1]}, is not this member's: its partitions are {self.assignment}"
        )

    def _names(self, logs: Iterable[int]) -> list[TopicPartition]:
        owned = self._member.owned if self._member is not None else {}
        found = [owned[log_id] for log_id in logs if log_id in owned]
        return sorted(TopicPartition(topic.name, number) for topic, number in found)

    def _use(self, *, joins: bool = False, patience: float = 0) -> Use:
        return Use(self, joins=joins, patience=patience)

    # Workers

    def run(
        self,
        handler: Callable[[Record[K, V]], object],
        *,
        workers: int = 1,
        retries: int = 3,
        dead_letter: "str | Topic[Any, Any] | None" = None,
        until: Literal["end"] | None = None,
    ) -> None:
        """Handle the group's records in `workers` spawned processes, until SIGTERM, Ctrl-C or `stop()`; on a group that
        is not entered.

        `handler` is importable (defined at the top of a module) and takes a record; returning confirms it. One that
        raises is tried `retries` times more, with back-off. A record that failed them all, killed its worker three
        times, or cannot be decoded goes to the topic `dead_letter` in the commit of its offset; without one the group
        ends with a `WorkerError` that names it. Crashed workers are started anew. Signals finish the records in hand; a
        second one ends at once. `until="end"` ends when all that there was has been handled.

        Raises `ConfigError`, `ConcurrentUseError`, `UnknownTopicError`, `WorkerError`.
        """
        from kafkalite import workers as pool  # noqa: PLC0415  (which makes members itself, in its processes)

        pool.run(self, handler, workers=workers, retries=retries, dead_letter=dead_letter, until=until)
