"""Store: one open store, and `connect`, which opens it.

Thin: it checks what it is given, hands out topics and producers that share the engine, and closes what it made.
"""

import atexit
import contextlib
import os
import re
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from kafkalite import config, disk
from kafkalite.config import ConfigMapping, GroupSettings, ProducerSettings, StoreSettings, TopicSettings
from kafkalite.errors import (
    ClosedError,
    ConfigError,
    StorePermissionError,
    TopicSettingsError,
    UnknownTopicError,
    UnsupportedError,
    noted_on,
)
from kafkalite.iteration import BatchIterator, records, source
from kafkalite.model import Durability, Position, Raw, Record, Until
from kafkalite.producer import Producer
from kafkalite.serde import Serde, resolve, resolve_key
from kafkalite.storage import internal
from kafkalite.storage.catalogue import TopicState, check_name, check_partitions
from kafkalite.storage.commit import Append
from kafkalite.storage.engine import Engine, open_engine
from kafkalite.topic import Topic

if TYPE_CHECKING:  # imported when first used, with the groups: half of what this package's import would cost
    from kafkalite.consumer_group import Callback, ConsumerGroup
    from kafkalite.group_admin import GroupInfo
    from kafkalite.share_group import ShareGroup
    from kafkalite.storage.backup import BackupReport
    from kafkalite.storage.check import Report
    from kafkalite.storage.salvage import Progress
    from kafkalite.storage.stats import Stats
    from kafkalite.transaction import Transaction
    from kafkalite.transactional_id import Identity

K = TypeVar("K")
V = TypeVar("V")

_open_stores: "weakref.WeakSet[Store]" = weakref.WeakSet()


def connect(
    target: str | os.PathLike[str],
    *,
    durability: Durability | None = None,
    create: bool = True,
    read_only: bool = False,
    config: ConfigMapping | None = None,
    **settings: Unpack[StoreSettings],
) -> "Store":
    """Open a store, creating it unless `create=False`: a file, a directory, or `":memory:"`.

    `target`: an existing directory, or a path that ends in a separator or has no suffix, is a directory store; a path
    with a suffix ("shop.klite") is a single file. `":memory:"` is a private one that goes when it is closed.

    `durability` belongs to the store, not to this handle: "commit" (a new store's default: acknowledged means on disk,
    and no reader sees what a power cut could take), "interval" (a crash of a process loses nothing, a power cut at
    most the last `flush_interval_ms`), "none" (flushed on close). Likewise the other settings, in Kafka's units.

    Raises `StoreNotFoundError`, `NotAStoreError`, `StoreSettingsError`, `StorePermissionError`, `StoreVersionError`,
    `StoreLocationError`, `CorruptRecordError`, `ConfigError`.
    """
    found = given_store_settings(durability, settings, config)
    if isinstance(target, str) and target.startswith("kafka://"):
        raise UnsupportedError(f"{target!r}: connecting to a Kafka cluster is not part of this version; open a path")
    if not os.fspath(target):
        raise ConfigError("the path '' is empty: give a file, a directory, or ':memory:'")
    if target == ":memory:":
        return Store(_private_directory(), create=True, read_only=False, settings=found, is_private=True)
    return Store(Path(os.fspath(target)), create=create, read_only=read_only, settings=found, text=os.fspath(target))


def given_store_settings(
    durability: str | None, settings: Mapping[str, Any], dotted: ConfigMapping | None
) -> dict[str, Any]:
    """The store's settings that a caller gave, checked."""
    wanted = dict(settings) | ({} if durability is None else {"durability": durability})
    return config.given("store", wanted, dotted)


def _private_directory() -> Path:
    import tempfile  # noqa: PLC0415  (rarely used, and not cheap to import)

    shared_memory = Path("/dev/shm")  # noqa: S108  (a private directory is made in it)
    base = shared_memory if shared_memory.is_dir() and disk.may_write(shared_memory) else None
    return Path(tempfile.mkdtemp(prefix="kafkalite-", dir=base))


class Store:
    """An open store, from `kafkalite.connect`. Safe to share between threads; a context manager.

    Two stores of one path in a process share the engine. Closing one closes what it made. In a forked child it goes
    on working; it pickles (path and serdes) for spawned ones.
    """

    def __init__(
        self,
        path: Path,
        *,
        create: bool,
        read_only: bool,
        settings: Mapping[str, Any],
        is_private: bool = False,
        text: str | None = None,
    ) -> None:
        self._closed = True
        self._is_owned = True
        self._read_only = read_only
        self._private_pid = disk.process_id() if is_private else None
        self._made: weakref.WeakSet[Producer | Transaction | ShareGroup[Any, Any] | ConsumerGroup[Any, Any]]
        self._made = weakref.WeakSet()
        self._identities: dict[str, Identity] = {}
        self._engine: Engine = open_engine(
            text or path,
            create=create,
            read_only=read_only,
            durability=settings.get("durability"),
            settings={name: value for name, value in settings.items() if name != "durability"},
        )
        self.path: Path = self._engine.place.path
        self._closed = False
        _open_stores.add(self)

    def __repr__(self) -> str:
        return f"<Store {str(self.path)!r}{', closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        self._use()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with noted_on(error, "closing the store"):
            self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            if self._is_owned:
                warnings.warn(
                    f"{self!r} was not closed: use `with`, or call close()", ResourceWarning, source=self, stacklevel=2
                )
            with contextlib.suppress(Exception):
                self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (str(self.path), self._read_only)

    def _use(self) -> None:
        """Raise `ClosedError` unless the store is open."""
        if self._closed:
            raise ClosedError(f"the store {self.path} is closed: open it again with kafkalite.connect()")

    def _use_to_write(self) -> None:
        """Raise `ClosedError` unless the store is open, `StorePermissionError` when it was opened for reading."""
        if self._closed or self._read_only:
            self._use()
            raise StorePermissionError(
                f"the store {self.path} was opened with read_only=True: open it without to write"
            )

    # Topics

    @overload
    def topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        create: bool = True,
        config: ConfigMapping | None = None,
        **settings: Unpack[TopicSettings],
    ) -> Topic[bytes, Raw]: ...
    @overload
    def topic(
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
    def topic(
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
    def topic(
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
    def topic(
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
        Raises `InvalidTopicError`, `InvalidPartitionsError`, `TopicSettingsError`, `UnknownTopicError`, `ConfigError`.
        """
        self._use()
        check_name(name)
        wanted = given_topic_settings(settings, config)
        key_serde, value_serde = resolve_key(key), resolve(value)
        if partitions is not None:
            check_partitions(partitions)
        try:
            state = self._engine.topic(name)
        except UnknownTopicError:
            if not create or self._read_only:
                raise
            state = self._engine.create_topic(name, partitions or 1, wanted)
        _compare_topic(state, partitions, wanted)
        return Topic(self, state, key_serde, value_serde)

    def topics(self) -> list[str]:
        """The names of all topics, sorted, without internal ones."""
        self._use()
        return self._engine.topic_names()

    def delete_topic(self, name: str) -> None:
        """Delete a topic and all its records, for everybody; raises `UnknownTopicError`."""
        self._use_to_write()
        check_name(name)

        def forget_offsets(transaction: Any) -> list[Append]:
            if not internal.has_state(transaction, internal.OFFSETS_LOG):
                return []
            from kafkalite.group_state import offsets_of  # noqa: PLC0415  (as above)

            records = [(key, None) for key in offsets_of(transaction, name)]
            return [Append(internal.OFFSETS_LOG, internal.batch_of(records))] if records else []

        self._engine.delete_topic(name, forget_offsets)

    def read(
        self, topics: Sequence[str | Topic[Any, Any]], *, start: Position = "earliest", until: Until = "end"
    ) -> Iterator[Record[Any, Any]]:
        """Records of several topics, without a group; as `Topic.read`. Names are read as bytes."""
        self._use()
        if isinstance(topics, str | bytes | Topic):
            raise ConfigError(f"topics={topics!r} is one topic, where a list of them belongs: give [{topics!r}]")
        handles = [one if isinstance(one, Topic) else self.topic(one, create=False) for one in topics]
        sources = [
            source(self._engine, topic._state, topic.key_serde, topic.value_serde, None, start, until)
            for topic in handles
        ]
        return records(BatchIterator(self._engine, sources, follow=until is None))

    # Producers

    def producer(self, *, config: ConfigMapping | None = None, **settings: Unpack[ProducerSettings]) -> Producer:
        """A producer with Kafka's settings; use it as a context manager. Raises `ConfigError`."""
        self._use_to_write()
        found = resolve_producer(settings, config)
        name = found["transactional_id"]
        identity = None if name is None else self._identity(name)
        if identity is not None:
            identity.claim(found["max_block_ms"] / 1000)
        producer = Producer(self._engine, self._known_topic, found, identity)
        self._made.add(producer)
        return producer

    def _identity(self, transactional_id: str) -> "Identity":
        """What claims a transactional id for this handle; made once."""
        from kafkalite.transactional_id import Identity, check_transactional_id  # noqa: PLC0415  (as above)

        check_transactional_id(transactional_id)
        return self._identities.setdefault(transactional_id, Identity(self._engine, transactional_id))

    def transaction(self, group: "ConsumerGroup[Any, Any] | None" = None) -> "Transaction":
        """As `Producer.transaction`, without a producer: any number may be open at once."""
        from kafkalite.transaction import Transaction  # noqa: PLC0415  (as above)

        self._use_to_write()
        transaction = Transaction(self._engine, self._known_topic, config.defaults("producer"), group)
        self._made.add(transaction)
        return transaction

    def _known_topic(self, name: str) -> Topic[bytes, Raw]:
        return self.topic(name, create=False)

    # Groups

    def groups(self) -> "list[GroupInfo]":
        """All consumer groups, by name: their state, members, partitions and lag."""
        from kafkalite.group_admin import list_groups  # noqa: PLC0415  (as above)

        self._use()
        return list_groups(self)

    @overload
    def consumer_group(
        self,
        group_id: str,
        topics: Topic[K, V] | Sequence[Topic[K, V]],
        *,
        on_assigned: "Callback | None" = None,
        on_revoked: "Callback | None" = None,
        on_lost: "Callback | None" = None,
        config: ConfigMapping | None = None,
        **settings: Unpack[GroupSettings],
    ) -> "ConsumerGroup[K, V]": ...
    @overload
    def consumer_group(
        self,
        group_id: str,
        topics: str | re.Pattern[str] | Sequence[str | re.Pattern[str]],
        *,
        on_assigned: "Callback | None" = None,
        on_revoked: "Callback | None" = None,
        on_lost: "Callback | None" = None,
        config: ConfigMapping | None = None,
        **settings: Unpack[GroupSettings],
    ) -> "ConsumerGroup[bytes, Raw]": ...
    @overload
    def consumer_group(
        self,
        group_id: str,
        topics: str | re.Pattern[str] | Sequence[str | re.Pattern[str]],
        *,
        key: type[K] | Serde[K],
        value: type[V] | Serde[V],
        on_assigned: "Callback | None" = None,
        on_revoked: "Callback | None" = None,
        on_lost: "Callback | None" = None,
        config: ConfigMapping | None = None,
        **settings: Unpack[GroupSettings],
    ) -> "ConsumerGroup[K, V]": ...
    @overload
    def consumer_group(
        self,
        group_id: str,
        topics: Sequence[Topic[Any, Any] | str | re.Pattern[str]],
        *,
        on_assigned: "Callback | None" = None,
        on_revoked: "Callback | None" = None,
        on_lost: "Callback | None" = None,
        config: ConfigMapping | None = None,
        **settings: Unpack[GroupSettings],
    ) -> "ConsumerGroup[Any, Any]": ...
    def consumer_group(
        self,
        group_id: str,
        topics: Any,
        *,
        key: Any = None,
        value: Any = None,
        on_assigned: "Callback | None" = None,
        on_revoked: "Callback | None" = None,
        on_lost: "Callback | None" = None,
        config: ConfigMapping | None = None,
        **settings: Any,
    ) -> "ConsumerGroup[Any, Any]":
        """A member of a consumer group, once it is entered: the group's members share the topics' partitions.

        `topics` are names, topics with their types, or compiled patterns of whole names (`key` and `value` are the
        types of what these match). The callbacks are called in the member's thread with the group and partitions.
        Raises `InvalidGroupIdError`, `ConfigError`; entering raises `UnknownTopicError`.
        """
        from kafkalite.consumer_group import ConsumerGroup  # noqa: PLC0415  (as above)
        from kafkalite.subscription import given_group_settings, subscription  # noqa: PLC0415

        self._use_to_write()
        found = given_group_settings(settings, config)
        wanted = subscription(topics, resolve_key(key), resolve(value))
        group: ConsumerGroup[Any, Any] = ConsumerGroup(
            self._engine, group_id, wanted, found, (on_assigned, on_revoked, on_lost)
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
    ) -> "ShareGroup[K, V]": ...
    @overload
    def share_group(
        self,
        group_id: str,
        topics: str | Sequence[str],
        *,
        max_delivery_count: int = 5,
        acquire_timeout_ms: int = 30_000,
        dead_letter: str | Topic[Any, Any] | None = None,
    ) -> "ShareGroup[bytes, Raw]": ...
    @overload
    def share_group(
        self,
        group_id: str,
        topics: Sequence[str | Topic[Any, Any]],
        *,
        max_delivery_count: int = 5,
        acquire_timeout_ms: int = 30_000,
        dead_letter: str | Topic[Any, Any] | None = None,
    ) -> "ShareGroup[Any, Any]": ...
    def share_group(
        self,
        group_id: str,
        topics: Any,
        *,
        max_delivery_count: int = 5,
        acquire_timeout_ms: int = 30_000,
        dead_letter: str | Topic[Any, Any] | None = None,
    ) -> "ShareGroup[Any, Any]":
        """A work queue over topics (KIP-932); use it as a context manager, which makes this a member. Names are read
        as bytes.

        A record is locked for its member for `acquire_timeout_ms`, and given up when it was delivered
        `max_delivery_count` times in vain, or was rejected: then it goes to the topic `dead_letter`, if there is one.
        A group begins with the first record that there is. Raises `ConfigError`, `UnknownTopicError`.
        """
        from kafkalite.share_group import ShareGroup  # noqa: PLC0415  (as above)
        from kafkalite.share_member import ShareSource  # noqa: PLC0415

        self._use_to_write()
        wanted = [topics] if isinstance(topics, str | Topic) else topics
        handles = [one if isinstance(one, Topic) else self.topic(one, create=False) for one in wanted]
        letters = self.topic(dead_letter, create=False) if isinstance(dead_letter, str) else dead_letter
        group: ShareGroup[Any, Any] = ShareGroup(
            self._engine,
            group_id,
            [ShareSource(topic._state, topic.key_serde, topic.value_serde) for topic in handles],
            max_delivery_count=max_delivery_count,
            acquire_timeout_ms=acquire_timeout_ms,
            dead_letter=None if letters is None else letters._state,
        )
        self._made.add(group)
        return group

    # The store as a whole

    def alter(
        self,
        *,
        durability: Durability | None = None,
        config: ConfigMapping | None = None,
        **settings: Unpack[StoreSettings],
    ) -> None:
        """Change settings of the store, for everybody who has it open. To "commit": flushed before it takes effect."""
        self._use_to_write()
        found = given_store_settings(durability, settings, config)
        if not found:
            raise ConfigError('alter() was given no setting: name at least one, such as durability="commit"')
        self._engine.alter(found)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The store's settings as of now, `durability` among them."""
        self._use()
        return self._engine.settings()

    def flush(self, timeout: float | None = 60.0) -> None:
        """Return when everything committed so far is on the disk; raises `StoreFailedError`."""
        self._use()
        self._engine.flush(timeout)

    def stats(self) -> "Stats":
        """Figures of the store at this moment: what is in it, and what all processes together did with it."""
        self._use()
        return self._engine.stats()

    def check(self, *, progress: "Progress | None" = None) -> "Report":
        """Read the whole journal and prove the index against it; `report.ok`, `print(report)`.

        Others may go on writing. `progress` is called with bytes done and bytes in all, in this thread.
        """
        self._use()
        return self._engine.check(progress)

    def backup(self, path: str | os.PathLike[str], *, progress: "Progress | None" = None) -> "BackupReport":
        """Copy the whole store to `path`, which must not exist, while any number of processes write; a store of one
        moment: everything visible when this was called is in it, and of later commits none or all of each.

        `path` means a directory or a single file as in `connect`, whatever this store is; so a backup also changes the
        layout. What is there at the end is closed cleanly and opens at once, for reading only as well; what an
        interrupted backup leaves is named `path`-unfinished, and goes with the next one. `progress` is called with
        bytes done and bytes in all, in this thread; what it raises ends the backup. Reading and writing go on, but
        threads of this process that read wait while the index (some 90 bytes a batch) is copied.

        Returns what was made: `.path`, `.segments`, `.bytes`. Raises `StoreExistsError`, `StoreBusyError` while another
        backup to that path is made, `StoreFullError`, `StorePermissionError`, `CorruptRecordError` for a segment
        that is missing or cut, `StoreFailedError`, `ConfigError`, `ClosedError`. It proves nothing: `check()` on the
        backup does.
        """
        self._use()
        from kafkalite.storage.backup import backup  # noqa: PLC0415  (rarely used, and not cheap to import)

        return backup(self._engine, path, progress)

    def close(self) -> None:
        """Flush its producers, let the store go; idempotent. Raises what could not be delivered or flushed."""
        if self._closed:
            return
        self._closed = True
        _open_stores.discard(self)
        with contextlib.ExitStack() as stack:
            if self._private_pid is not None:
                stack.callback(self._remove_private)
            stack.callback(self._engine.close)
            for made in list(self._made):
                stack.callback(made.close)

    def _remove_private(self) -> None:
        import shutil  # noqa: PLC0415  (rarely used)

        if self._private_pid == disk.process_id():
            shutil.rmtree(self.path, ignore_errors=True)


def given_topic_settings(settings: Mapping[str, Any], dotted: ConfigMapping | None) -> dict[str, Any]:
    """A topic's settings that a caller gave, checked."""
    return config.given("topic", settings, dotted)


def resolve_producer(settings: Mapping[str, Any], dotted: ConfigMapping | None) -> dict[str, Any]:
    """All settings of a producer: the defaults, and what a caller gave."""
    return config.resolved("producer", settings, dotted)


def _compare_topic(state: TopicState, partitions: int | None, wanted: Mapping[str, Any]) -> None:
    if partitions is not None and partitions != state.partition_count:
        raise TopicSettingsError(
            f"topic {state.name!r} has {state.partition_count} partitions, not {partitions}: leave partitions= out"
            + (f", or add some with topic.alter({partitions=})" if partitions > state.partition_count else "")
        )
    for name, value in wanted.items():
        if state.settings[name] != value:
            raise TopicSettingsError(
                f"topic {state.name!r} has {name}={state.settings[name]!r}, not {value!r}: leave it out to "
                "take what it "
                f"has, or change it for all with topic.alter({name}={value!r})"
            )


def _unpickled(path: str, read_only: bool) -> Store:
    store = connect(path if Path(path).suffix else path + os.sep, create=False, read_only=read_only)
    store._is_owned = False  # it came with something else, and goes with it
    return store


@atexit.register
def _close_all() -> None:
    """Close what a script left open, so that no store has to be recovered for it."""
    for store in list(_open_stores):
        with contextlib.suppress(Exception):
            store.close()
