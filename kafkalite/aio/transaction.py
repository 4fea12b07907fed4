"""Transaction: records, and a group's offsets, that become visible as one, sent by tasks of a loop.

Underneath is the synchronous transaction. What is sent is buffered in the loop; beginning and ending take locks, and a
thread does that, in turn with the steps of the group (`steps`). A commit that has begun is never left alone: a
cancellation that comes meanwhile is raised once it is known what became of it.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from kafkalite import transaction as sync
from kafkalite.aio.consumer_group import ConsumerGroup
from kafkalite.aio.host import Host
from kafkalite.aio.steps import Steps
from kafkalite.aio.threads import settled
from kafkalite.aio.topic import Topic, handle_of
from kafkalite.delivery import Delivery
from kafkalite.errors import ConfigError, TransactionStateError, noted_on
from kafkalite.model import GroupMetadata, Headers, Raw, RecordMetadata, TopicPartition

K = TypeVar("K")
V = TypeVar("V")


class Transaction:
    """Records that are committed as one; from `Producer.transaction` or `Store.transaction`, for an `async with` block.

    Leaving the block commits; an exception, a cancelled task's included, aborts, and is raised again. A cancellation
    during the commit is raised when its outcome is known, which the deliveries tell. What is sent waits in memory.
    """

    def __init__(
        self, host: Host, make: Callable[[Any], sync.Transaction], group: ConsumerGroup[Any, Any] | None
    ) -> None:
        """`make` gives the synchronous transaction, for the synchronous group."""
        if not isinstance(group, ConsumerGroup | None):
            raise ConfigError(f"group={group!r} is not valid: give a group of this store, from store.consumer_group()")
        self._host = host
        self._sync = make(None if group is None else group._sync)
        self._steps = Steps(host, "transaction") if group is None else group._steps
        self._is_open = False

    def __repr__(self) -> str:
        return f"<aio.Transaction that {self._sync._phase.value}>"

    async def __aenter__(self) -> Self:
        self._host.use()
        try:
            await self._steps.do(self._sync.__enter__)
        except asyncio.CancelledError:
            await settled(self._steps.begin(self._sync.close))
            raise
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        end = partial(self._sync.__exit__, kind, error, trace)
        if isinstance(error, GeneratorExit):  # nobody goes on with the coroutine: it cannot wait
            self._steps.begin_if_open(end)
            return
        with noted_on(error, "aborting the transaction"):
            ended = self._steps.begin(end)
        await settled(ended)

    # Sending

    @overload
    async def send(
        self,
        topic: Topic[K, V],
        value: V,
        *,
        key: K | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers = (),
        expected_end_offset: int | None = None,
    ) -> Delivery[RecordMetadata]: ...
    @overload
    async def send(
        self,
        topic: str,
        value: Raw,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers = (),
        expected_end_offset: int | None = None,
    ) -> Delivery[RecordMetadata]: ...
    async def send(
        self,
        topic: Any,
        value: Any,
        *,
        key: Any = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers = (),
        expected_end_offset: int | None = None,
    ) -> Delivery[RecordMetadata]:
        """Add a record to the transaction; the delivery is done, and tells the place, when the block was left.

        With `expected_end_offset` the whole transaction fails with `OffsetConflictError` unless the record gets that
        offset; records sent before it in this transaction count. Raises as the synchronous `Transaction.send`: the
        record is then not part of the transaction, which goes on.
        """
        handle = handle_of(topic)
        await self._use()
        return self._sync.send(
            handle,
            value,
            key=key,
            partition=partition,
            timestamp_ms=timestamp_ms,
            headers=headers,
            expected_end_offset=expected_end_offset,
        )

    @overload
    async def send_many(
        self,
        topic: Topic[K, V],
        values: Iterable[V],
        *,
        keys: Iterable[K | None] | None = None,
        partition: int | None = None,
        timestamps_ms: Iterable[int] | None = None,
        headers: Iterable[Headers] | None = None,
        expected_end_offset: int | None = None,
    ) -> Delivery[dict[int, range]]: ...
    @overload
    async def send_many(
        self,
        topic: str,
        values: Iterable[Raw],
        *,
        keys: Iterable[bytes | None] | None = None,
        partition: int | None = None,
        timestamps_ms: Iterable[int] | None = None,
        headers: Iterable[Headers] | None = None,
        expected_end_offset: int | None = None,
    ) -> Delivery[dict[int, range]]: ...
    async def send_many(
        self,
        topic: Any,
        values: Iterable[Any],
        *,
        keys: Iterable[Any] | None = None,
        partition: int | None = None,
        timestamps_ms: Iterable[int] | None = None,
        headers: Iterable[Headers] | None = None,
        expected_end_offset: int | None = None,
    ) -> Delivery[dict[int, range]]:
        """Add records to the transaction, the fast path: all of them, or when it raises none. As `send`."""
        handle = handle_of(topic)
        await self._use()
        return self._sync.send_many(
            handle,
            values,
            keys=keys,
            partition=partition,
            timestamps_ms=timestamps_ms,
            headers=headers,
            expected_end_offset=expected_end_offset,
        )

    async def _use(self) -> None:
        self._refuse_over()
        if not self._host.may_look():
            await self._host.until_may_look()
            self._refuse_over()

    def _refuse_over(self) -> None:
        """Raise `TransactionStateError` unless it is open; without its lock, which a thread has while it ends it."""
        self._host.use()
        if not self._is_open:
            self._sync._refuse_over()
            raise TransactionStateError("this transaction is being begun or ended by another task: begin one for each")

    async def send_offsets(
        self,
        offsets: Mapping[TopicPartition, int],
        group: GroupMetadata,
        *,
        metadata: Mapping[TopicPartition, str] | None = None,
    ) -> None:
        """Commit *next* offsets of a consumer elsewhere with the transaction; as `Transaction.send_offsets`."""
        self._refuse_over()
        await self._steps.do(partial(self._sync.send_offsets, offsets, group, metadata=metadata))

    # Ending

    async def commit(self, timeout: float | None = None) -> None:
        """End the transaction, committing it; the block may be left then. As the synchronous `Transaction.commit`."""
        self._refuse_over()
        self._is_open = False
        try:
            await settled(self._steps.begin(partial(self._sync.commit, timeout)))
        finally:
            self._is_open = self._sync._phase is sync.Phase.OPEN  # the store was busy: nothing has happened

    async def abort(self) -> None:
        """End the transaction, committing nothing; the block may be left then. Rewinds the group."""
        self._refuse_over()
        self._is_open = False
        await settled(self._steps.begin(self._sync.abort))

    async def close(self) -> None:
        """Abort it if it is open: what closing its producer or store does."""
        self._is_open = False
        if not self._steps.are_over:  # closing the store does it
            await self._steps.do(self._sync.close)
