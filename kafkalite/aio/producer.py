"""Producer: what all tasks send in one turn of the loop is one commit, and what they send while one is under way the
next.

Underneath is the synchronous producer, with its batches, partitions, sequences and retries; only who commits differs.
`send` never does. When the turn is over a thread seals what is open and commits it, again and again until nothing is
left. With `linger_ms` it begins that much later, or when a batch is full.
"""

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from typing import Any, Final, Self, TypeVar, overload

from kafkalite import producer as sync
from kafkalite.aio.consumer_group import ConsumerGroup
from kafkalite.aio.host import Host
from kafkalite.aio.threads import tell_loop
from kafkalite.aio.topic import Topic, handle_of
from kafkalite.aio.transaction import Transaction
from kafkalite.clock import Deadline
from kafkalite.commit_queue import RETRY_SECONDS
from kafkalite.delivery import Delivery, PendingBatch
from kafkalite.errors import ClosedError, KafkaTimeoutError, noted_on
from kafkalite.model import Headers, Raw, RecordMetadata
from kafkalite.transactional_id import Identity

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

STREAM_RECORDS: Final = 1_000
"""Records of a `send_many` that are encoded before other tasks get their turn."""
ROOM_SECONDS: Final = 1.0
"""How often one that waits for memory looks although nobody said that there is some."""

_Waiter = tuple[object, "asyncio.Future[RecordMetadata]"]


class _NoRoom(Exception):  # noqa: N818  (a signal, not an error)
    """`buffer_memory` is full."""


class _Turns(sync.Producer):
    """A producer whose batches a thread commits, when the turn of the loop in which they were opened is over."""

    def __init__(
        self,
        host: Host,
        settings: Mapping[str, Any],
        identity: Identity | None,
        tell: Callable[[BaseException | None], None],
    ) -> None:
        """`tell` is called in the thread that commits, whenever it has: with the error that stopped it, if any."""
        self._host = host
        self._tell = tell
        super().__init__(host.engine, host.store._known_topic, settings, identity)
        host.store._made.add(self)

    def _begin(self) -> None:
        super()._begin()
        self._guard = threading.Lock()
        self._is_running = self._is_wanted = False
        self._due_in: asyncio.AbstractEventLoop | None = None

    # What the synchronous producer asks for

    def _linger_from_now(self, seconds: float | None = None) -> None:
        """A batch was opened, in the loop; or, with `seconds`, what was kept back is to be tried again."""
        if seconds is not None:
            super()._linger_from_now(seconds)
            return
        loop = asyncio.get_running_loop()
        if self._due_in is loop:
            return
        self._due_in = loop
        if self._linger:
            loop.call_later(self._linger, self._turn_is_over)
        else:
            loop.call_soon(self._turn_is_over)

    def _make_room(self) -> None:
        self.commit_soon()

    def _wait_for_memory(self) -> None:
        if not self.has_room():
            raise _NoRoom

    # Committing

    def has_room(self) -> bool:
        """Whether less than `buffer_memory` is uncommitted."""
        most: int = self.settings["buffer_memory"]
        open_count = sum(len(buffer.open) for buffer in list(self._buffers.values()))
        return self._queue.bytes + open_count * self._full_at <= most or self._queue.bytes + self._open_bytes() <= most

    def begin_anew_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """This loop sends from now on; what an earlier one left behind is committed."""
        if self._due_in is not None and self._due_in is not loop:
            self._due_in = None
            self.commit_soon()

    def _turn_is_over(self) -> None:
        self._due_in = None
        self.commit_soon()

    def commit_soon(self) -> None:
        """Have a thread commit what there is; the one that is at it does this as well."""
        with self._guard:
            self._is_wanted = True
            if self._is_running:
                return
            self._is_running = True
        try:
            self._host.threads.start(self._run)
        except ClosedError:  # who closes commits what there is
            self._is_running = False

    def _run(self) -> None:
        """In a thread: commit until nothing is wanted any more."""
        while self._goes_on():
            error: BaseException | None = None
            try:
                self._seal_all()
                self._commit(Deadline(None))
            except BaseException as unforeseen:  # noqa: BLE001  (every delivery is told)
                error = unforeseen
                self._linger_from_now(RETRY_SECONDS)
            self._tell(error)

    def _goes_on(self) -> bool:
        with self._guard:
            goes_on = self._is_wanted
            self._is_wanted = False
            self._is_running = goes_on
        return goes_on

    def settle(self) -> None:
        """In a thread: commit all there is; what that raises, `close` raises."""
        self._flush(Deadline(self._delivery_timeout))

    def abandon(self) -> None:
        """Closed without having committed all."""
        with self._queue.lock:
            self._closed = True
            self._lanes = {}


class Producer:
    """Sends records to topics of one store, from `Store.producer`; for the tasks of one loop at a time."""

    def __init__(self, host: Host, settings: Mapping[str, Any], identity: Identity | None = None) -> None:
        self._host = host
        self._identity = identity
        self._is_closing = False
        self._made: weakref.WeakSet[Transaction] = weakref.WeakSet()
        self._begin()
        self._sync = _Turns(host, settings, identity, self._was_run)
        self.settings: Mapping[str, Any] = self._sync.settings
        host.engine.after_fork(self._begin)

    def _begin(self) -> None:
        """Nobody waits: at first, and in a forked child."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: dict[PendingBatch, list[_Waiter]] = {}
        self._for_room: set[asyncio.Future[None]] = set()
        self._for_many: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<aio.Producer of {str(self._host.store.path)!r}{', closed' if self._is_closing else ''}>"

    async def __aenter__(self) -> Self:
        self._use()
        if self._identity is not None:
            await self._host.threads.call(partial(self._identity.claim, self.settings["max_block_ms"] / 1000))
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with noted_on(error, "closing the producer"):
            await self.close()

    def _use(self) -> asyncio.AbstractEventLoop:
        if self._is_closing:
            raise ClosedError("the producer is closed: make another with store.producer()")
        self._host.use()
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._begin()  # who waited in another loop waits no more
            self._loop = loop
            self._sync.begin_anew_in(loop)
        return loop

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
    ) -> RecordMetadata: ...
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
    ) -> RecordMetadata: ...
    async def send(
        self,
        topic: Any,
        value: Any,
        *,
        key: Any = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers = (),
    ) -> RecordMetadata:
        """Send a record; returns where it was committed, together with what other tasks sent in the same turn.

        Cancelling the task takes nothing back: from the first time that it waits for the commit, the record is sent.
        Raises at once `SerializationError`, `RecordTooLargeError`, `UnknownPartitionError`, `UnknownTopicError`,
        `ClosedError`; `KafkaTimeoutError` when `buffer_memory` stays full for `max_block_ms`, and then nothing was
        sent; later what kept the record from being committed. `timestamp_ms` is now, or since 1970 UTC.
        """
        loop = self._use()
        handle = handle_of(topic)
        delivery: Delivery[RecordMetadata] = await self._added(
            lambda: self._sync.send(
                handle, value, key=key, partition=partition, timestamp_ms=timestamp_ms, headers=headers
            )
        )
        batch = delivery._pending
        if not isinstance(batch, PendingBatch) or batch.is_done:  # nobody waits for it (acks=0)
            return delivery.result()
        known: asyncio.Future[RecordMetadata] = loop.create_future()
        waiters = self._waiters.get(batch)
        if waiters is None:
            waiters = self._waiters[batch] = []
            batch.when_done(lambda: tell_loop(loop, self._tell, batch, None))
        waiters.append((delivery._token, known))
        return await known

    async def _added(self, add: Callable[[], Delivery[T]]) -> Delivery[T]:
        """What sending gives, once there is memory for it."""
        if not self._host.may_look():
            await self._host.until_may_look()
            self._use()
        deadline: Deadline | None = None
        while True:
            try:
                return add()
            except _NoRoom:
                deadline = deadline or Deadline(self.settings["max_block_ms"] / 1000)
            await self._room(deadline)
            self._use()

    async def _room(self, deadline: Deadline) -> None:
        """Wait until less than `buffer_memory` is uncommitted; raises `KafkaTimeoutError` at the deadline."""
        loop = asyncio.get_running_loop()
        while not self._sync.has_room():
            self._sync.commit_soon()
            if deadline.passed():
                raise KafkaTimeoutError(
                    f"more than buffer_memory={self.settings['buffer_memory']} bytes wait to be committed, and were "
                    f"not within max_block_ms={self.settings['max_block_ms']}: allow more, or look at the store"
                )
            told: asyncio.Future[None] = loop.create_future()
            self._for_room.add(told)
            timer = loop.call_later(min(deadline.left(), ROOM_SECONDS), _wake, told)
            try:
                await told
            finally:
                timer.cancel()
                self._for_room.discard(told)

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
    ) -> dict[int, range]: ...
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
    ) -> dict[int, range]: ...
    async def send_many(
        self,
        topic: Any,
        values: Iterable[Any],
        *,
        keys: Iterable[Any] | None = None,
        partition: int | None = None,
        timestamps_ms: Iterable[int] | None = None,
        headers: Iterable[Headers] | None = None,
    ) -> dict[int, range]:
        """Send an iterable, the fast path: batch by batch as it comes, not as one commit; returns when all are in.

        Gives, by partition, the offsets from the first record to the last; other producers' records may lie between.
        Other tasks get their turn every thousand records. Raises as `send`; what was taken before the error, or before
        the task was cancelled, is sent.
        """
        self._use()
        handle = handle_of(topic)
        streams = [None if column is None else iter(column) for column in (values, keys, timestamps_ms, headers)]
        deliveries: list[Delivery[dict[int, range]]] = []
        while True:
            if not self._sync.has_room():
                await self._room(Deadline(self.settings["max_block_ms"] / 1000))
                self._use()
            taken, *others = [None if stream is None else list(islice(stream, STREAM_RECORDS)) for stream in streams]
            add = self._adding_many(handle, taken or [], others, partition)
            deliveries.append(await self._added(add))
            if not taken:
                break
            await asyncio.sleep(0)
        return await self._ranges(deliveries)

    def _adding_many(
        self, handle: Any, values: list[Any], others: list[list[Any] | None], partition: int | None
    ) -> Callable[[], Delivery[dict[int, range]]]:
        keys, stamps, headers = others
        return lambda: self._sync.send_many(
            handle, values, keys=keys, partition=partition, timestamps_ms=stamps, headers=headers
        )

    async def _ranges(self, deliveries: list[Delivery[dict[int, range]]]) -> dict[int, range]:
        """The outcome of deliveries, as one."""
        for delivery in deliveries:
            await self._done(delivery)
        errors = [error for error in (delivery.exception() for delivery in deliveries) if error is not None]
        if errors:
            raise errors[0]
        ranges: dict[int, range] = {}
        for delivery in deliveries:
            for partition, found in delivery.result().items():
                start = ranges[partition].start if partition in ranges else found.start
                ranges[partition] = range(start, found.stop)
        return ranges

    async def _done(self, delivery: Delivery[Any]) -> None:
        loop = asyncio.get_running_loop()
        while not delivery.done():
            told: asyncio.Future[None] = loop.create_future()
            self._for_many.add(told)
            delivery.add_done_callback(lambda _, told=told: tell_loop(loop, _wake, told))  # type: ignore[misc]
            try:
                await told
            finally:
                self._for_many.discard(told)

    # Transactions

    def transaction(self, group: ConsumerGroup[Any, Any] | None = None) -> Transaction:
        """A transaction, for one `async with` block: what is sent through it is committed as one at the block's end.

        With `group` (whose `enable_auto_commit` is False) the offsets behind what it handed out are committed with it;
        an exception, a cancelled task, `abort()` or a commit that fails hands that out again. What this producer sent
        before is committed first, and meanwhile `send` raises `TransactionStateError`. Leaving the block raises
        `OffsetConflictError`, `FencedMemberError`, `ProducerFencedError`, with nothing written; `OutcomeUnknownError`.
        """
        self._use()
        transaction = Transaction(self._host, self._sync.transaction, group)
        self._made.add(transaction)
        return transaction

    # In the loop, told by the thread that commits

    def _was_run(self, error: BaseException | None) -> None:
        """In the thread: tell the loop."""
        if self._loop is not None and (self._for_room or error is not None):
            tell_loop(self._loop, self._after_run, error)

    def _after_run(self, error: BaseException | None) -> None:
        """Those who wait for memory look again; an error of no table is raised to all who wait."""
        for told in self._for_room:
            _wake(told)
        if error is not None:
            for batch in list(self._waiters):
                self._tell(batch, error)
            for told in self._for_many:
                if not told.done():
                    told.set_exception(error)

    def _tell(self, batch: PendingBatch, error: BaseException | None) -> None:
        """The outcome of a batch, to every task that still waits for it; what nobody waits for `close` reports."""
        for token, known in self._waiters.pop(batch, ()):
            if known.done():
                continue
            failed = error or batch.error_of(token)
            if failed is None:
                known.set_result(batch.outcome_of(token))
            else:
                known.set_exception(failed)

    # Ending

    async def flush(self, timeout: float | None = None) -> None:
        """Commit everything sent so far; raises `KafkaTimeoutError`. Failures are raised by each `send`."""
        self._use()
        await self._host.threads.call(lambda: self._sync.flush(timeout))

    async def close(self) -> None:
        """Commit what is left, abort its transaction; idempotent. Raises `DeliveryError` for failures that no task was
        told.

        A cancelled close goes on in its thread; the store's own ends what it left.
        """
        if self._sync._closed:
            return
        self._is_closing = True
        if not self._host.engine.is_open:
            self._sync.close()
            return
        for transaction in list(self._made):
            await transaction.close()
        try:
            await self._host.threads.call(self._sync.settle)
        except KafkaTimeoutError:
            self._sync.abandon()
            raise
        self._sync.close()  # there is nothing left, so it does not wait


def _wake(told: "asyncio.Future[None]") -> None:
    if not told.done():
        told.set_result(None)
