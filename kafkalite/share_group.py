"""ShareGroup: a work queue over topics (KIP-932). The face; `share_member` does the work.

Members take records from the same partitions. A record is *acquired*: locked for one member, for `acquire_timeout_ms`.
The member accepts it, releases it for another delivery, or rejects it. A lock that ends, or whose process does, frees
the record. There is no order between records: a partition is not worked off from front to back.
"""

import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, Literal, Self, TypeVar

from kafkalite.clock import Deadline
from kafkalite.coordinator.records import check_group_id
from kafkalite.coordinator.share_group import Verb
from kafkalite.errors import ClosedError, ConcurrentUseError, ConfigError, ForkedError, noted_on
from kafkalite.model import Record, TopicPartition
from kafkalite.share_member import Ends, Hand, ShareMember, ShareSource
from kafkalite.share_records import ShareRecord
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.engine import Engine

K = TypeVar("K")
V = TypeVar("V")

MAX_DELIVERY_COUNT: Final = 2**15 - 1
MAX_ACQUIRE_TIMEOUT_MS: Final = 3_600_000
MAX_POLL_RECORDS: Final = 2**31 - 1
MAX_DELAY: Final = 365 * 24 * 3600
"""Seconds."""


class ShareGroup(Generic[K, V]):
    """A member of a share group, from `Store.share_group`; a context manager, which is entered once.

    Asking for the next record accepts the one before; what is in hand when the block ends, however it ends, is
    released. Take records in one thread at a time; `accept`, `release`, `reject`, `commit` and `stop` may be called
    from any.
    """

    def __init__(
        self,
        engine: Engine,
        group_id: str,
        sources: Sequence[ShareSource],
        *,
        max_delivery_count: int = 5,
        acquire_timeout_ms: int = 30_000,
        dead_letter: TopicState | None = None,
    ) -> None:
        self._closed = True
        check_settings(group_id, max_delivery_count, acquire_timeout_ms)
        _check_topics(sources, dead_letter)
        self.group_id = group_id
        self._member = ShareMember(
            engine, group_id, sources,
            max_delivery_count=max_delivery_count, acquire_timeout_ms=acquire_timeout_ms, dead_letter=dead_letter,
        )  # fmt: skip
        self._busy = threading.Lock()
        self._is_entered = False
        self._closed = False

    def __repr__(self) -> str:
        path = str(self._member.engine.place.path)
        return f"<ShareGroup {self.group_id!r} of {path!r}{', closed' if self._closed else ''}>"

    @property
    def archived_count(self) -> int:
        """Records that this member gave up for the group: rejected, or delivered too often."""
        return self._member.archived_count

    # Being a member

    def __enter__(self) -> Self:
        self._check_open()
        self._member.enter()
        self._is_entered = True
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with noted_on(error, "leaving the share group"):
            self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._is_entered and self._member.is_here:
            warnings.warn(f"{self!r} was not closed: use `with`, or call close()", ResourceWarning, stacklevel=2)

    def close(self) -> None:
        """Say what is to be said, release what is in hand, give back the rest; idempotent. Raises as any commit."""
        if not self._closed:
            self._closed = True
            if self._is_entered and self._member.is_here:
                self._member.leave()

    def stop(self) -> None:
        """End the loop that runs as if there were nothing more, or the next one: its record in hand is accepted when it
        asks for the next. May be called from any thread, and from a signal handler.
        """
        if self._member.is_here:
            self._member.stop()

    def _check_open(self) -> None:
        member = self._member
        if member.incarnation != member.engine.incarnation:
            raise ForkedError(
                f"the share group {self.group_id!r} belongs to the parent process: make another in the child"
            )
        if self._closed or not member.engine.is_open:
            raise ClosedError(f"the share group {self.group_id!r} is closed: get another with store.share_group()")

    def _use(self) -> ShareMember:
        self._check_open()
        if not self._is_entered:
            raise ClosedError(f"the share group {self.group_id!r} is used outside of its block: enter it with `with`")
        return self._member

    # Taking records

    def __iter__(self) -> Iterator[ShareRecord[K, V]]:
        """Records as they become available, waiting for more; `stop()` ends it. See `records`."""
        return self.records(until=None)

    def records(
        self, until: Literal["end"] | None = "end", *, max_records: int | None = None, timeout: float | None = None
    ) -> Iterator[ShareRecord[K, V]]:
        """Records as they become available; asking for the next one accepts the one before.

        `until="end"` ends when all records that there are at the call are done, by whomever: it waits for those that
        others have in hand, since they may come back. `timeout`: seconds without a record after which it ends.
        What a former iterator left in hand comes first. While iterating raises `DeserializationError` in place of a
        record (asking for the next one rejects it), `UnknownTopicError`, `CorruptRecordError`, `ClosedError`,
        `ForkedError`, `ConcurrentUseError`, and what a commit raises.
        """
        check_reading(until, max_records)
        return _Records(self, self._reading(until, max_records), timeout)

    def _reading(self, until: Literal["end"] | None, max_records: int | None) -> "Reading":
        ends = self._use().ends() if until == "end" else None
        return Reading(ends, max_records)

    def poll(self, max_records: int = 500, timeout: float | None = 1.0) -> list[ShareRecord[K, V]]:
        """Up to `max_records` at once, waiting up to `timeout` seconds for the first; the next `poll` accepts them.

        They are locked from now on: work them off within `acquire_timeout_ms`. A record that was delivered before
        comes alone. Raises as iterating does.
        """
        _check_number("max_records", max_records, MAX_POLL_RECORDS)
        deadline = Deadline(timeout)
        member = self._use()
        self._be_alone()
        try:
            member.confirm(is_poll=True)
            member.new_hand(Hand(is_poll=True))
            found: list[ShareRecord[K, V]] = []
            while not member.is_stopped and len(found) < max_records:
                item = member.take()
                if item is None:
                    if found or not member.fetch(max_records, None, deadline):
                        break
                    self._use()
                elif item.error is None:
                    found.append(item.record)
                elif found:
                    member.put_back(item)
                    break
                else:
                    raise item.error
            member.is_stopped = member.is_stopped and bool(found)
            return found
        finally:
            self._busy.release()

    def _next(self, reading: "Reading", timeout: float | None) -> ShareRecord[K, V]:
        """The next record; raises StopIteration at the end."""
        self._use()
        self._be_alone()
        try:
            deadline = Deadline(timeout)
            while (record := self._at_hand(reading)) is None:
                if not self._fetch(reading, deadline):
                    reading.is_over = True
                    self._member.is_stopped = False
                    self._member.give_back()
                    raise StopIteration
            return record
        finally:
            self._busy.release()

    def _at_hand(self, reading: "Reading") -> ShareRecord[K, V] | None:
        """The next record, if it was acquired already; takes no lock of the store."""
        member = self._use()
        if member.hand is not reading.hand:
            member.new_hand(reading.hand)
        member.confirm(is_poll=False)
        item = member.take() if not member.is_stopped and reading.left else None
        if item is None:
            return None
        reading.left -= 1
        if item.error is not None:
            raise item.error
        record: ShareRecord[K, V] = item.record
        return record

    def _fetch(self, reading: "Reading", deadline: Deadline) -> bool:
        """Acquire more, or wait for more; False at the end."""
        member = self._member
        if member.is_stopped or not reading.left:
            return False
        want = member.next_count() if reading.left < 0 else min(member.next_count(), reading.left)
        return member.fetch(want, reading.ends, deadline)

    def _be_alone(self) -> None:
        """Raises `ConcurrentUseError` when another thread takes records now; `_busy` is to be released."""
        if not self._busy.acquire(blocking=False):
            raise ConcurrentUseError(
                f"two threads take records from one member of the share group {self.group_id!r}: give each its own"
            )

    # Acknowledging

    def accept(self, record: Record[K, V]) -> None:
        """The record is done. Raises `InvalidRecordStateError` unless it is in hand, and its lock still holds.

        It is said within 100 ms, or by `commit`: a member that is killed before has not said it.
        """
        self._use().acknowledge(record, Verb.ACCEPT)

    def release(self, record: Record[K, V], delay: float = 0.0) -> None:
        """The record is to be delivered again, after `delay` seconds; at the limit it is given up. Raises as `accept`.

        A power cut makes it available at once.
        """
        if not isinstance(delay, int | float) or not 0 <= delay <= MAX_DELAY:
            raise ConfigError(f"delay={delay!r} is not valid: give seconds, 0 to {MAX_DELAY}")
        self._use().acknowledge(record, Verb.RELEASE, delay)

    def reject(self, record: Record[K, V]) -> None:
        """The record cannot be processed: it goes to the dead letter topic if there is one. Raises as `accept`."""
        self._use().acknowledge(record, Verb.REJECT)

    def commit(self) -> None:
        """Say now what was accepted, released and rejected; durable on return as the store promises.

        Raises `InvalidRecordStateError` for what came too late since the last call; the rest is said.
        """
        self._use().commit()

    # Looking

    def lag(self) -> dict[TopicPartition, int]:
        """How many records of each partition are not done: never delivered, in somebody's hands, or to come again."""
        found = self._use().unfinished()
        return dict(sorted((TopicPartition(lane.topic.name, lane.partition), count) for lane, count in found.items()))

    def describe(self) -> list[dict[str, object]]:
        """Each partition's state, as plain data for people: start offset, end offset, and runs of records between."""
        return self._use().describe()


class Reading:
    """How far one iterator is: what it has in hand, how many records it may still give (below 0: any), its ends."""

    __slots__ = ("ends", "hand", "is_over", "left")

    def __init__(self, ends: Ends, max_records: int | None) -> None:
        self.ends = ends
        self.left = -1 if max_records is None else max_records
        self.hand = Hand()
        self.is_over = False


class _Records(Iterator[ShareRecord[K, V]], Generic[K, V]):
    """The records of a share group, one at a time. An object, which survives raising."""

    def __init__(self, group: ShareGroup[K, V], reading: Reading, timeout: float | None) -> None:
        self._group = group
        self._reading = reading
        self._timeout = timeout

    def __next__(self) -> ShareRecord[K, V]:
        if self._reading.is_over:
            raise StopIteration
        return self._group._next(self._reading, self._timeout)  # noqa: SLF001  (its iterator)


def check_settings(group_id: str, max_delivery_count: int, acquire_timeout_ms: int) -> None:
    """Raise `InvalidGroupIdError` or `ConfigError` for what no share group can have."""
    check_group_id(group_id)
    _check_number("max_delivery_count", max_delivery_count, MAX_DELIVERY_COUNT)
    _check_number("acquire_timeout_ms", acquire_timeout_ms, MAX_ACQUIRE_TIMEOUT_MS)


def check_reading(until: object, max_records: int | None) -> None:
    """Raise `ConfigError` for what `records` does not take."""
    if until not in ("end", None):
        raise ConfigError(f"until={until!r} is not valid: give 'end', or None to wait for more")
    if max_records is not None:
        _check_number("max_records", max_records, 2**63 - 1)


def _check_number(name: str, value: Any, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise ConfigError(f"{name}={value!r} is not valid: give an int, 1 to {most}")


def _check_topics(sources: Sequence[ShareSource], dead_letter: TopicState | None) -> None:
    names = [source.topic.name for source in sources]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"topics={names!r} is not valid: give at least one topic, each once")
    if dead_letter is not None and dead_letter.name in names:
        raise ConfigError(f"dead_letter={dead_letter.name!r} is a topic of the group itself: give another")
