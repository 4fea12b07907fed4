"""ShareGroup: a task's loop as a member of a share group, which takes single records from a work queue (KIP-932).

Underneath is the synchronous member. What was acquired is handed out in the loop, and what becomes of it is noted
there; acquiring, saying what was noted and leaving are steps, which a thread does (`steps`). Asking for the next record
accepts the one before; leaving, an exception and a cancelled task release what is in hand. A cancelled `anext` or
`poll` has taken nothing: what a thread acquired for it goes back to the group at once, and counts as no delivery.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Generic, Literal, Self, TypeVar

from kafkalite import share_group as sync
from kafkalite.aio.host import Host
from kafkalite.aio.iteration import RECORDS_A_TURN
from kafkalite.aio.steps import CANCELLED, Steps, nothing_yet
from kafkalite.errors import ClosedError, noted_on
from kafkalite.model import Record, TopicPartition
from kafkalite.share_records import ShareRecord

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class ShareGroup(Generic[K, V]):
    """A member of a share group, from `Store.share_group`, between `async with` and its end. For one task's iteration.

    `accept`, `release` and `reject` only note what became of a record, and so are not awaited; they and `stop` may be
    called from any task or thread.
    """

    def __init__(self, host: Host, group_id: str, make: Callable[[], sync.ShareGroup[K, V]]) -> None:
        """`make` looks the topics up, in a thread."""
        self._host = host
        self._make = make
        self._sync: sync.ShareGroup[K, V] | None = None
        self._steps = Steps(host, f"member of share group {group_id!r}")
        self.group_id = group_id

    def __repr__(self) -> str:
        path = str(self._host.store.path)
        return f"<aio.ShareGroup {self.group_id!r} of {path!r}{self._state()}>"

    def _state(self) -> str:
        if self._sync is None:
            return ", not entered"
        return ", closed" if self._sync._closed else ""

    @property
    def archived_count(self) -> int:
        """Records that this member gave up for the group: rejected, or delivered too often."""
        return 0 if self._sync is None else self._sync.archived_count

    # Being a member

    async def __aenter__(self) -> Self:
        self._host.use()
        try:
            await self._steps.do(self._enter)
        except CANCELLED:
            self._steps.begin_if_open(self._leave)
            raise
        return self

    def _enter(self) -> None:
        """In a thread: become a member."""
        if self._sync is None:
            self._sync = self._make()
            self._sync._member.wait = nothing_yet
        self._sync.__enter__()

    def _leave(self) -> None:
        if self._sync is not None:
            self._sync.close()

    def _withdraw(self) -> None:
        self._use()._member.withdraw()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with noted_on(error, "leaving the share group"):
            await self.close()

    async def close(self) -> None:
        """Say what is to be said, release what is in hand, give back the rest; idempotent. Raises as any commit.

        Cancelled it is done all the same.
        """
        if not self._steps.are_over:  # closing the store leaves
            await self._steps.do(self._leave)

    def stop(self) -> None:
        """End the loop that runs as if there were nothing more, or the next one: its record in hand is accepted when it
        asks for the next. May be called from any task or thread, and from a signal handler.
        """
        if self._sync is not None:
            self._sync.stop()

    def _use(self) -> sync.ShareGroup[K, V]:
        self._host.use()
        if self._sync is None:
            raise ClosedError(
                f"the share group {self.group_id!r} is used outside of its block: enter it with `async with`"
            )
        return self._sync

    # Taking records

    def __aiter__(self) -> AsyncIterator[ShareRecord[K, V]]:
        """Records as they become available, waiting for more; `stop()` ends it. See `records`."""
        return self.records(until=None)

    def records(
        self, until: Literal["end"] | None = "end", *, max_records: int | None = None, timeout: float | None = None
    ) -> AsyncIterator[ShareRecord[K, V]]:
        """Records as they become available, for `async for`; as the synchronous `ShareGroup.records`."""
        group = self._use()
        sync.check_reading(until, max_records)
        return _Records(self, lambda: group._reading(until, max_records), timeout)

    async def poll(self, max_records: int = 500, timeout: float | None = 1.0) -> list[ShareRecord[K, V]]:
        """Up to `max_records` at once, waiting up to `timeout` seconds for the first; the next `poll` accepts them.

        As the synchronous `ShareGroup.poll`.
        """
        group = self._use()
        return await self._take(lambda left: group.poll(max_records, left), timeout)

    async def _take(self, take: Callable[[float | None], T], timeout: float | None) -> T:
        return await self._steps.take(take, timeout, self._withdraw)

    # Acknowledging

    def accept(self, record: Record[K, V]) -> None:
        """The record is done. Raises `InvalidRecordStateError` unless it is in hand, and its lock still holds.

        It is said within 100 ms, or by `commit`: a member that is killed before has not said it.
        """
        self._use().accept(record)

    def release(self, record: Record[K, V], delay: float = 0.0) -> None:
        """The record is to be delivered again, after `delay` seconds; at the limit it is given up. Raises as `accept`.

        A power cut makes it available at once.
        """
        self._use().release(record, delay)

    def reject(self, record: Record[K, V]) -> None:
        """The record cannot be processed: it goes to the dead letter topic if there is one. Raises as `accept`."""
        self._use().reject(record)

    async def commit(self) -> None:
        """Say now what was accepted, released and rejected; durable on return as the store promises.

        Raises `InvalidRecordStateError` for what came too late since the last call; the rest is said.
        """
        await self._steps.do(self._use().commit)

    # Looking

    async def lag(self) -> dict[TopicPartition, int]:
        """How many records of each partition are not done: never delivered, in somebody's hands, or to come again."""
        return await self._steps.do(self._use().lag)

    async def describe(self) -> list[dict[str, object]]:
        """Each partition's state, as plain data for people: start offset, end offset, and runs of records between."""
        return await self._steps.do(self._use().describe)


class _Records(AsyncIterator[ShareRecord[K, V]], Generic[K, V]):
    """The records of a share group, one at a time; an error is raised in the place of a record."""

    def __init__(self, group: ShareGroup[K, V], begin: Callable[[], sync.Reading], timeout: float | None) -> None:
        self._group = group
        self._begin = begin
        self._timeout = timeout
        self._reading = begin() if group._steps.is_idle and group._host.may_look() else None
        self._left = RECORDS_A_TURN

    async def __anext__(self) -> ShareRecord[K, V]:
        self._left -= 1
        if not self._left:
            self._left = RECORDS_A_TURN
            await asyncio.sleep(0)
        found = self._at_hand()
        if found is None:
            found = await self._group._take(self._next, self._timeout)
        if found is None:
            raise StopAsyncIteration
        return found

    def _at_hand(self) -> ShareRecord[K, V] | None:
        """In the loop: what was acquired already, unless a thread has the member."""
        if self._reading is None or self._reading.is_over or not self._group._steps.is_idle:
            return None
        with self._group._steps.one_task():
            return self._group._use()._at_hand(self._reading)

    def _next(self, left: float | None) -> ShareRecord[K, V] | None:
        """In a thread: the next record; None at the end."""
        if self._reading is None:
            self._reading = self._begin()
        if self._reading.is_over:
            return None
        try:
            return self._group._use()._next(self._reading, left)
        except StopIteration:
            return None
