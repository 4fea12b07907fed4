"""ConsumerGroup: a task's loop as a member of a group.

Underneath is the synchronous member. What it does under a lock (joining, committing, going along with the group's
changes, taking the next batch in hand) is a step, which a thread does (`steps`); the records of a batch are handed out
in the loop. So the rules are the same ones: asking the iterator for more confirms what was handed out before, and
leaving, an exception or a cancelled task confirm nothing. A cancelled `anext`, `poll` or `batches` has taken nothing.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import wait
from functools import partial
from typing import Any, Final, Generic, Literal, Self, TypeVar

from kafkalite import consumer_group as sync
from kafkalite.aio.host import Host
from kafkalite.aio.iteration import RECORDS_A_TURN
from kafkalite.aio.steps import CANCELLED, NothingYet, Steps
from kafkalite.clock import Deadline
from kafkalite.errors import OffsetOutOfRangeError, noted_on
from kafkalite.iteration import RecordBatch
from kafkalite.membership import Membership
from kafkalite.model import Record, TopicPartition
from kafkalite.subscription import Subscription

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

Callback = Callable[["ConsumerGroup[Any, Any]", list[TopicPartition]], Awaitable[object] | object]
"""Called in the loop, awaited if it is a coroutine; the group waits for its end, so it may use it no further."""

LOOK_SECONDS: Final = 1.0
"""How often a thread that waits for a callback looks whether its loop is still there."""


class _Member(sync.ConsumerGroup[K, V]):
    """A member that says so when it would have to wait."""

    def _wait(self, member: Membership, deadline: Deadline) -> None:
        member.is_waiting = True
        share = self._share
        logs = share.readable()

        def ready() -> bool:
            try:
                return self._stops or member.has_changed() or any(map(share.has_next, logs))
            except OffsetOutOfRangeError:  # the next step sees to it
                return True

        raise NothingYet([*logs, member.place], ready, deadline)

    def asked(self, take: Callable[[float | None], T], left: float | None) -> T:
        """A step for who asks for records: he waits no more, unless it says so again."""
        with self._use() as member:
            member.works()
            return take(left)

    def put_back(self) -> None:
        """Nobody got what was taken in hand: it is the next to be handed out."""
        with self._use():
            self._settle(confirms=False)


class ConsumerGroup(Generic[K, V]):
    """A member of a group, from `Store.consumer_group`, between `async with` and its end. For one task's iteration."""

    def __init__(
        self,
        host: Host,
        group_id: str,
        subscription: Subscription,
        settings: Mapping[str, Any],
        callbacks: tuple[Callback | None, Callback | None, Callback | None],
    ) -> None:
        self._host = host
        self._loop: asyncio.AbstractEventLoop | None = None
        called = tuple(None if callback is None else self._caller(callback) for callback in callbacks)
        self._sync: _Member[K, V] = _Member(host.engine, group_id, subscription, settings, called)  # type: ignore[arg-type]
        host.store._made.add(self._sync)
        self._steps = Steps(host, f"member of group {group_id!r}")
        self.group_id = group_id
        self.settings: Mapping[str, Any] = self._sync.settings

    def __repr__(self) -> str:
        return f"<aio.ConsumerGroup {self.group_id!r}{'' if self._sync._member else ', not entered'}>"

    # Entering and leaving

    async def __aenter__(self) -> Self:
        await self.join()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with noted_on(error, f"leaving group {self.group_id!r}"):
            await self.close()

    async def join(self) -> None:
        """Become a member, as entering does; cancelled meanwhile it leaves again. Raises `UnknownTopicError`."""
        self._host.use()
        self._loop = asyncio.get_running_loop()
        try:
            await self._steps.do(self._sync.join)
        except CANCELLED:
            self._steps.begin_if_open(self._sync.close)
            raise

    async def close(self) -> None:
        """Leave: commit what was confirmed, give up all partitions. Idempotent; cancelled it is done all the same."""
        if not self._steps.are_over:  # closing the store leaves
            await self._steps.do(self._sync.close)

    def stop(self) -> None:
        """End the loop as if there were nothing more; from any task or thread, or a signal's handler."""
        self._sync.stop()

    # Records

    def __aiter__(self) -> AsyncIterator[Record[K, V]]:
        """Records for ever; waits while there are none. `stop()` ends it."""
        return self.records(until=None)

    def records(
        self, *, until: Literal["end"] | None = "end", max_records: int | None = None, timeout: float | None = None
    ) -> AsyncIterator[Record[K, V]]:
        """Records of this member's partitions, for `async for`; as the synchronous `ConsumerGroup.records`."""
        self._host.use()
        return _Records(self, self._sync._ends(until), max_records, timeout)

    def batches(
        self, *, until: Literal["end"] | None = None, timeout: float | None = None
    ) -> AsyncIterator[RecordBatch[K, V]]:
        """As `records`, a batch at a time: asking for the next one confirms all of it."""
        self._host.use()
        return _GroupBatches(self, self._sync._ends(until), timeout)

    async def poll(self, max_records: int | None = None, timeout: float | None = 1.0) -> list[Record[K, V]]:
        """Up to `max_records` (`max_poll_records`) of one partition; waits `timeout` seconds for the first.

        Confirms what the call before gave.
        """
        return await self._take(lambda left: self._sync.poll(max_records, left), timeout)

    async def _take(self, take: Callable[[float | None], T], timeout: float | None) -> T:
        return await self._steps.take(partial(self._sync.asked, take), timeout, self._sync.put_back)

    # Callbacks

    def _caller(self, callback: Callback) -> sync.Callback:
        """A callback of the synchronous member, in its thread, that has the loop call ours."""

        async def call(partitions: list[TopicPartition]) -> None:
            result = callback(self, partitions)
            if inspect.isawaitable(result):
                await result

        def called(_group: object, partitions: list[TopicPartition]) -> None:
            loop = self._loop
            if loop is None or loop.is_closed():
                return
            done = asyncio.run_coroutine_threadsafe(call(partitions), loop)
            while not done.done() and not loop.is_closed():
                wait([done], LOOK_SECONDS)
            if done.done():
                done.result()

        return called

    # Offsets

    async def commit(
        self,
        offsets: Mapping[TopicPartition, int] | None = None,
        *,
        metadata: Mapping[TopicPartition, str] | None = None,
    ) -> None:
        """Commit `offsets`, the *next* ones, or all that was handed out, the record in hand included.

        `metadata` is kept beside given offsets. Raises `FencedMemberError`, committing nothing, unless all these
        partitions are this member's.
        """
        await self._used(lambda: self._sync.commit(offsets, metadata=metadata))

    async def committed(self) -> dict[TopicPartition, int | None]:
        """What the group has committed for this member's partitions; None where nothing."""
        return await self._used(self._sync.committed)

    async def position(self) -> dict[TopicPartition, int]:
        """The next offset of each of this member's partitions: of the record in hand where there is one."""
        return await self._used(self._sync.position)

    @property
    def member_id(self) -> str:
        """The name under which the group knows this member; "" outside of the block."""
        return self._sync.member_id

    @property
    def assignment(self) -> list[TopicPartition]:
        """This member's partitions."""
        return self._sync.assignment

    async def seek(self, partition: TopicPartition, offset: int | Literal["earliest", "latest"]) -> None:
        """Go on at an offset, for this member's next records; raises `OffsetOutOfRangeError`, `ConfigError`."""
        await self._used(lambda: self._sync.seek(partition, offset))

    async def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out nothing of these partitions until `resume`."""
        wanted = list(partitions)
        await self._used(lambda: self._sync.pause(wanted))

    async def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Hand out records of these partitions again."""
        wanted = list(partitions)
        await self._used(lambda: self._sync.resume(wanted))

    async def lag(self) -> dict[TopicPartition, int]:
        """How many offsets this member's partitions have beyond its position."""
        return await self._used(self._sync.lag)

    async def members(self) -> dict[str, list[TopicPartition]]:
        """All members of the group, and what each owns."""
        return await self._used(self._sync.members)

    async def _used(self, work: Callable[[], T]) -> T:
        self._host.use()
        return await self._steps.do(work)


class _Records(AsyncIterator[Record[K, V]], Generic[K, V]):
    """A member's records; an error is raised in the place of a record, and the next `anext` goes past it."""

    def __init__(
        self, group: ConsumerGroup[K, V], ends: dict[int, int] | None, most: int | None, timeout: float | None
    ) -> None:
        self._group = group
        self._ends = ends
        self._most = most
        self._timeout = timeout
        self._run: Iterator[Record[Any, Any]] = iter(())
        self._count = 0

    async def __anext__(self) -> Record[K, V]:
        if self._count == self._most:
            raise StopAsyncIteration
        if self._count % RECORDS_A_TURN == RECORDS_A_TURN - 1:
            await asyncio.sleep(0)
        while True:
            for record in self._run:
                self._count += 1
                return record
            run = await self._group._take(self._next_run, self._timeout)
            if run is None:
                raise StopAsyncIteration
            self._run = run

    def _next_run(self, left: float | None) -> Iterator[Record[Any, Any]] | None:
        try:
            return self._group._sync._next_run(ends=self._ends, timeout=left, asker=self)
        except StopIteration:
            return None


class _GroupBatches(AsyncIterator[RecordBatch[K, V]], Generic[K, V]):
    """A member's batches."""

    def __init__(self, group: ConsumerGroup[K, V], ends: dict[int, int] | None, timeout: float | None) -> None:
        self._group = group
        self._ends = ends
        self._timeout = timeout

    async def __anext__(self) -> RecordBatch[K, V]:
        found = await self._group._take(
            lambda left: self._group._sync._next_batch(asker=self, ends=self._ends, most=None, deadline=Deadline(left)),
            self._timeout,
        )
        if found is None:
            raise StopAsyncIteration
        return found
