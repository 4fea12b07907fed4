"""Store: one open store for the tasks of a loop, and `connect`, which opens it.

Thin, like the synchronous one that it holds: what takes a lock or a flush goes to its threads, what only looks does so
in the loop. One loop at a time uses it; another may go on when that one has ended.
"""

import asyncio
import contextlib
import os
import re
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeVar, Unpack, overload

from kafkalite import config as settings_table
from kafkalite import share_group as sync_share_group
from kafkalite import store as sync
from kafkalite.aio.appending import Appender
from kafkalite.aio.consumer_group import Callback, ConsumerGroup
from kafkalite.aio.host import Host
from kafkalite.aio.iteration import Batches, RecordIterator
from kafkalite.aio.producer import Producer
from kafkalite.aio.share_group import ShareGroup
from kafkalite.aio.threads import CHORES, Threads, outcome, tell_loop
from kafkalite.aio.topic import Topic, handle_of
from kafkalite.aio.transaction import Transaction
from kafkalite.config import ConfigMapping, GroupSettings, ProducerSettings, StoreSettings, TopicSettings
from kafkalite.errors import ClosedError, ConfigError, noted_on
from kafkalite.group_admin import GroupInfo
from kafkalite.iteration import source
from kafkalite.model import Durability, Position, Raw, Record, Until
from kafkalite.serde import Serde, resolve, resolve_key
from kafkalite.storage.backup import BackupReport, Progress
from kafkalite.storage.check import Report
from kafkalite.storage.stats import Stats
from kafkalite.subscription import given_group_settings, subscription

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


def connect(
    target: str | os.PathLike[str],
    *,
    durability: Durability | None = None,
    create: bool = True,
    read_only: bool = False,
    config: ConfigMapping | None = None,
    **settings: Unpack[StoreSettings],
) -> "Connecting":
    """Open a store for the tasks of a loop: `async with aio.connect(…) as store`, or `store = await aio.connect(…)`.

    Arguments, settings and errors are those of `kafkalite.connect`; a thread opens it.
    """

    def connected() -> sync.Store:
        return sync.connect(
            target, durability=durability, create=create, read_only=read_only, config=config, **settings
        )

    return Connecting(connected)


class Connecting(Awaitable["Store"], AbstractAsyncContextManager["Store"]):
    """A store about to be opened, once."""

    def __init__(self, connected: Callable[[], sync.Store]) -> None:
        self._connected = connected
        self._store: Store | None = None

    def __await__(self) -> Generator[Any, None, "Store"]:
        return self._open().__await__()

    async def __aenter__(self) -> "Store":
        self._store = await self._open()
        return self._store

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._store is not None:
            await self._store.__aexit__(kind, error, traceback)

    async def _open(self) -> "Store":
        threads = Threads()
        opening = threads.start(self._connected)
        try:
            return Store(await outcome(opening), threads)
        except BaseException:
            threads.start(lambda: _let_go(opening))
            threads.close()
            raise


def _let_go(opening: "Future[sync.Store]") -> None:
    """In a thread: close what nobody has asked for any more, if it can be opened at all."""
    if opening.exception() is None:
        opening.result().close()


class Store:
    """An open store, from `kafkalite.aio.connect`: the names of `kafkalite.Store`, to be awaited.

    Any number of tasks of one loop share it. Closing it closes what it made: producers flush, iterators that wait raise
    `ClosedError`.
    """

    def __init__(self, store: sync.Store, threads: Threads | None = None) -> None:
        self._sync = store
        self._host = Host(store, threads or Threads())
        self._appender = Appender(self._host.engine, self._host.threads)
        self._made: weakref.WeakSet[Producer | Transaction | ConsumerGroup[Any, Any] | ShareGroup[Any, Any]]
        self._made = weakref.WeakSet()
        self._closing: Future[None] | None = None
        self.path = store.path

    def __repr__(self) -> str:
        return f"<aio.Store {str(self.path)!r}{', closed' if self._host.is_closed else ''}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self._sync,)

    async def __aenter__(self) -> Self:
        self._host.use()
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with noted_on(error, "closing the store"):
            await self.close()

    # Topics

    @overload
    async def topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        create: bool = True,
        config: ConfigMapping | None = None,
        **settings: Unpack[TopicSettings],
    ) -> Topic[bytes, Raw]: ...
    @overload
    async def topic(
        self,
        name: str,
        *,
        value: type[V] | Serde[V],
        partitions: int | None = None,
        create: bool = True,
        config: ConfigMapping | None = None,
        **settings: Unpack[TopicSettings],
    ) -> Topic[bytes, V]: ...
    @overload
    async def topic(
        self,
        name: str,
        *,
        key: type[K] | Serde[K],
        partitions: int | None = None,
        create: bool = True,
        config: ConfigMapping | None = None,
        **settings: Unpack[TopicSettings],
    ) -> Topic[K, Raw]: ...
    @overload
    async def topic(
        self,
        name: str,
        *,
        key: type[K] | Serde[K],
        value: type[V] | Serde[V],
        partitions: int | None = None,
        create: bool = True,
        config: ConfigMapping | None = None,
        **settings: Unpack[TopicSettings],
    ) -> Topic[K, V]: ...
    async def topic(
        self,
        name: str,
        *,
        key: Any = None,
        value: Any = None,
        partitions: int | None = None,
        create: bool = True,
        config: ConfigMapping | None = None,
        **settings: Any,
    ) -> Topic[Any, Any]:
        """Get a topic, or create it (unless `create=False`): with 1 partition, or `partitions` of them.

        Only what is given is compared with a topic that exists. `key` and `value` are types or serdes of this handle.
        Raises `InvalidTopicError`, `TopicSettingsError`, `UnknownTopicError`, `ConfigError`.
        """
        self._host.use()
        found = await self._host.threads.call(
            lambda: self._sync.topic(
                name, key=key, value=value, partitions=partitions, create=create, config=config, **settings
            )
        )
        return Topic(self, found)

    async def topics(self) -> list[str]:
        """The names of all topics, sorted, without internal ones."""
        self._host.use()
        return await self._host.threads.call(self._sync.topics)

    async def delete_topic(self, name: str) -> None:
        """Delete a topic and all its records, for everybody; raises `UnknownTopicError`."""
        self._host.use()
        await self._host.threads.call(lambda: self._sync.delete_topic(name))

    def read(
        self, topics: Sequence[str | Topic[Any, Any]], *, start: Position = "earliest", until: Until = "end"
    ) -> AsyncIterator[Record[Any, Any]]:
        """Records of several topics, without a group; as `Topic.read`. Names are read as bytes."""
        self._host.use()
        if isinstance(topics, str | bytes | Topic):
            raise ConfigError(f"topics={topics!r} is one topic, where a list of them belongs: give [{topics!r}]")
        given = list(topics)
        return RecordIterator(self._host, lambda: self._batches(given, start, until))

    def _batches(self, topics: Sequence[str | Topic[Any, Any]], start: Position, until: Until) -> Batches[Any, Any]:
        engine = self._host.engine
        handles = [one._sync if isinstance(one, Topic) else self._sync.topic(one, create=False) for one in topics]
        sources = [
            source(engine, topic._state, topic.key_serde, topic.value_serde, None, start, until) for topic in handles
        ]
        return Batches(engine, sources, follow=until is None)

    # Producers

    def producer(self, *, config: ConfigMapping | None = None, **settings: Unpack[ProducerSettings]) -> Producer:
        """A producer with Kafka's settings, for `async with`; raises `ConfigError`.

        `linger_ms` is 0 unless it is given: what the tasks send in one turn of the loop shares a commit anyway. A
        `transactional_id` is claimed when the producer is entered, or else when its first transaction is.
        """
        self._host.use()
        self._sync._use_to_write()
        given = settings_table.given("producer", settings, config)
        name = given.get("transactional_id")
        identity = None if name is None else self._sync._identity(name)
        producer = Producer(self._host, settings_table.defaults("producer") | {"linger_ms": 0.0} | given, identity)
        self._made.add(producer)
        return producer

    def transaction(self, group: ConsumerGroup[Any, Any] | None = None) -> Transaction:
        """As `Producer.transaction`, without a producer: any number may be open at once."""
        self._host.use()
        transaction = Transaction(self._host, self._sync.transaction, group)
        self._made.add(transaction)
        return transaction

    # Groups

    async def groups(self) -> list[GroupInfo]:
        """All consumer groups, by name: their state, members, partitions and lag."""
        self._host.use()
        return await self._host.threads.call(self._sync.groups)

    @overload
    def consumer_group(
        self,
        group_id: str,
        topics: Topic[K, V] | Sequence[Topic[K, V]],
        *,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: ConfigMapping | None = None,
        **settings: Unpack[GroupSettings],
    ) -> ConsumerGroup[K, V]: ...
    @overload
    def consumer_group(
        self,
        group_id: str,
        topics: str | re.Pattern[str] | Sequence[str | re.Pattern[str]],
        *,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: ConfigMapping | None = None,
        **settings: Unpack[GroupSettings],
    ) -> ConsumerGroup[bytes, Raw]: ...
    @overload
    def consumer_group(
        self,
        group_id: str,
        topics: str | re.Pattern[str] | Sequence[str | re.Pattern[str]],
        *,
        key: type[K] | Serde[K],
        value: type[V] | Serde[V],
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: ConfigMapping | None = None,
        **settings: Unpack[GroupSettings],
    ) -> ConsumerGroup[K, V]: ...
    @overload
    def consumer_group(
        self,
        group_id: str,
        topics: Sequence[Topic[Any, Any] | str | re.Pattern[str]],
        *,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: ConfigMapping | None = None,
        **settings: Unpack[GroupSettings],
    ) -> ConsumerGroup[Any, Any]: ...
    def consumer_group(
        self,
        group_id: str,
        topics: Any,
        *,
        key: Any = None,
        value: Any = None,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: ConfigMapping | None = None,
        **settings: Any,
    ) -> ConsumerGroup[Any, Any]:
        """A member of a consumer group, for `async with`; as `kafkalite.Store.consumer_group`.

        The callbacks are functions or coroutine functions, called in the loop with the group and partitions.
        """
        self._host.use()
        self._sync._use_to_write()
        given = [topics] if isinstance(topics, str | re.Pattern | Topic) else list(topics)
        wanted = subscription(
            [one._sync if isinstance(one, Topic) else one for one in given], resolve_key(key), resolve(value)
        )
        callbacks = (on_assigned, on_revoked, on_lost)
        group: ConsumerGroup[Any, Any] = ConsumerGroup(
            self._host, group_id, wanted, given_group_settings(settings, config), callbacks
        )
        self._made.add(group)
        return group

    @overload
    def share_group(
        self,
        group_id: str,
        topics: Topic[K, V] | Sequence[Topic[K, V]],
        *,
        max_delivery_count: int = 5,
        acquire_timeout_ms: int = 30_000,
        dead_letter: str | Topic[Any, Any] | None = None,
    ) -> ShareGroup[K, V]: ...
    @overload
    def share_group(
        self,
        group_id: str,
        topics: str | Sequence[str],
        *,
        max_delivery_count: int = 5,
        acquire_timeout_ms: int = 30_000,
        dead_letter: str | Topic[Any, Any] | None = None,
    ) -> ShareGroup[bytes, Raw]: ...
    @overload
    def share_group(
        self,
        group_id: str,
        topics: Sequence[str | Topic[Any, Any]],
        *,
        max_delivery_count: int = 5,
        acquire_timeout_ms: int = 30_000,
        dead_letter: str | Topic[Any, Any] | None = None,
    ) -> ShareGroup[Any, Any]: ...
    def share_group(
        self,
        group_id: str,
        topics: Any,
        *,
        max_delivery_count: int = 5,
        acquire_timeout_ms: int = 30_000,
        dead_letter: str | Topic[Any, Any] | None = None,
    ) -> ShareGroup[Any, Any]:
        """A work queue over topics (KIP-932), for `async with`; as `kafkalite.Store.share_group`.

        Raises `ConfigError`, `InvalidGroupIdError`; entering raises `UnknownTopicError`.
        """
        self._host.use()
        self._sync._use_to_write()
        sync_share_group.check_settings(group_id, max_delivery_count, acquire_timeout_ms)
        wanted = [handle_of(one) for one in ([topics] if isinstance(topics, str | Topic) else topics)]
        letters = None if dead_letter is None else handle_of(dead_letter)

        def make() -> sync_share_group.ShareGroup[Any, Any]:
            return self._sync.share_group(
                group_id,
                wanted,
                max_delivery_count=max_delivery_count,
                acquire_timeout_ms=acquire_timeout_ms,
                dead_letter=letters,
            )

        group: ShareGroup[Any, Any] = ShareGroup(self._host, group_id, make)
        self._made.add(group)
        return group

    # The store as a whole

    async def alter(
        self,
        *,
        durability: Durability | None = None,
        config: ConfigMapping | None = None,
        **settings: Unpack[StoreSettings],
    ) -> None:
        """Change settings of the store, for everybody who has it open. To "commit": flushed before it takes effect."""
        self._host.use()
        await self._host.threads.call(lambda: self._sync.alter(durability=durability, config=config, **settings))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The store's settings as of now, `durability` among them."""
        self._host.use()
        return self._sync.settings

    async def flush(self, timeout: float | None = 60.0) -> None:
        """Return when everything committed so far is on the disk; raises `StoreFailedError`."""
        self._host.use()
        await self._host.threads.call(lambda: self._sync.flush(timeout))

    async def stats(self) -> Stats:
        """Figures of the store at this moment: what is in it, and what all processes together did with it."""
        self._host.use()
        return await self._host.threads.call(self._sync.stats, pool=CHORES)

    async def check(self, *, progress: Progress | None = None) -> Report:
        """Read the whole journal and prove the index against it; `report.ok`, `print(report)`.

        `progress` is called in the loop with bytes done and bytes in all; what it raises ends the check, as cancelling
        the task does.
        """
        return await self._chore(progress, lambda report: self._sync.check(progress=report))

    async def backup(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> BackupReport:
        """Copy the whole store to `path`, as `kafkalite.Store.backup`; cancelled it ends soon, and leaves nothing.

        `progress` is called in the loop with bytes done and bytes in all; what it raises ends the backup.
        """
        return await self._chore(progress, lambda report: self._sync.backup(path, progress=report))

    async def _chore(self, progress: Progress | None, work: Callable[[Progress], T]) -> T:
        """Something long in a thread, which its progress can end."""
        self._host.use()
        reported = _Progress(asyncio.get_running_loop(), progress)
        try:
            return await self._host.threads.call(lambda: work(reported), pool=CHORES)
        except (asyncio.CancelledError, GeneratorExit):
            reported.stop = ClosedError("the task that asked for this was cancelled")
            raise

    async def close(self) -> None:
        """Flush its producers, let the store go; idempotent. Raises what could not be delivered or flushed.

        It is closed even if the task is cancelled meanwhile: that is raised when it has been, or a second time at once.
        """
        if self._closing is None:
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(self._close)
                for made in list(self._made):
                    stack.push_async_callback(made.close)
                self._host.close()
        else:
            await outcome(self._closing)

    async def _close(self) -> None:
        if self._closing is None:
            self._closing = self._host.threads.start(self._close_in_thread)
            self._host.threads.close()
        await outcome(self._closing)

    def _close_in_thread(self) -> None:
        self._appender.finish()
        self._sync.close()


class _Progress:
    """The progress of a chore, from its thread to the loop; and what is to end it, the other way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, progress: Progress | None) -> None:
        self.stop: Exception | None = None
        self._loop = loop
        self._progress = progress

    def __call__(self, done: int, total: int) -> None:
        if self.stop is not None:
            raise self.stop
        if self._progress is not None:
            tell_loop(self._loop, self._report, self._progress, done, total)

    def _report(self, progress: Progress, done: int, total: int) -> None:
        try:
            progress(done, total)
        except Exception as error:  # noqa: BLE001  (raised where the call is awaited)
            self.stop = error
