"""The engine: one open store in one process, shared by every handle to it. It only composes.

Threads: `commit` may be called by any number at once; readers take snapshots. A forked child finds the engine as its
parent left it, lets go of what it inherited without unlocking anything, and opens the store again when it is used.
"""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import lmdb

from kafkalite import config, disk
from kafkalite.clock import Deadline
from kafkalite.errors import (
    ClosedError,
    OutcomeUnknownError,
    StoreBusyError,
    StoreFailedError,
    StoreFullError,
    StorePermissionError,
    StoreSettingsError,
    UnknownTopicError,
    UnsupportedError,
)
from kafkalite.storage import catalogue, index, keeper, opening, segment, superblock
from kafkalite.storage.catalogue import CATALOGUE_LOG, TopicState
from kafkalite.storage.commit import Append, Committer, Decide, NeedsSegment, Operation
from kafkalite.storage.flush import Flusher
from kafkalite.storage.frame import HEADER_SIZE as FRAME_HEADER_SIZE
from kafkalite.storage.index import Positions
from kafkalite.storage.page import ARMED_MASK
from kafkalite.storage.place import Place, resolve
from kafkalite.storage.slots import Slots
from kafkalite.storage.wakeup import Wakeup

if TYPE_CHECKING:  # imported when it is first used
    from kafkalite.storage.check import Report
    from kafkalite.storage.salvage import Progress
    from kafkalite.storage.stats import Stats

DEFAULT_TIMEOUT: Final = 60.0
LEFTOVERS_TIMEOUT: Final = 1.0
RETRY_SECONDS: Final = 1.0

_engines: dict[tuple[int, int], "Engine"] = {}
_registry = threading.RLock()


class Engine:
    """An open store. `incarnation` counts the forks between the process that opened it and this one."""

    def __init__(self, place: Place, opened: opening.Opened) -> None:
        self.place = place
        self.incarnation = 0
        self.users = 0
        self.is_open = True
        self._after_fork: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._topics: dict[str, TopicState] = {}
        self.members: object = None
        """This process's members of groups: kept here for the floor that makes them."""
        self._attach(opened)

    def _attach(self, opened: opening.Opened) -> None:
        self._opened = opened
        self.is_read_only = opened.is_read_only
        self.locks = opened.locks
        self.index = opened.environment
        self.journal = opened.journal
        self.wakeup = Wakeup(opened.run, opened.page)
        self.slots = Slots(opened.fd, opened.page)
        self._flush_is_due = False
        self._prepare_is_due = False
        self._owes_flush = False
        self._needs_reopening = False
        self._armed = opened.page.armed
        self._is_ready = not opened.is_read_only
        if not opened.is_read_only:
            self.committer = Committer(self.index, self.journal, self.locks, opened.page)
            self.flusher = Flusher(
                self.index, self.journal, self.locks, opened.page,
                lambda: opening.mark_failed(self.place, self._opened.fd),
            )  # fmt: skip

    # Committing

    def append(self, appends: Sequence[Append], timeout: float | None = DEFAULT_TIMEOUT) -> Operation:
        """Commit batches as one; see `commit`."""
        return self.commit(Operation(appends), timeout)

    def decide(self, decide: Decide, timeout: float | None = DEFAULT_TIMEOUT, *, waits: bool = True) -> Operation:
        """Commit what `decide` makes of the index as it is under WRITE; it may raise instead, and nothing
        is written. It may be called more than once.
        """
        return self.commit(Operation(decide=decide), timeout, waits=waits)

    def commit(self, operation: Operation, timeout: float | None = DEFAULT_TIMEOUT, *, waits: bool = True) -> Operation:
        """One atomic commit: return when it is appended, durable as the store promises, and visible.

        Without `waits` it is flushed with the next commit that waits, or after `flush_interval_ms`: for what a power
        cut may take without harm. Raises the operation's own error, or `StoreBusyError`, `StoreFullError`,
        `StoreFailedError`, `OutcomeUnknownError`, `ClosedError`, `StorePermissionError`.
        """
        if not self._is_ready:
            self._make_writable()
        committer = self.committer
        try:
            committer.submit(operation, timeout)
        except (NeedsSegment, StoreFailedError) as error:
            self._submit_again(operation, error, Deadline(timeout))
        if committer.publishes_at_once or not waits:
            self._owes_flush = True
            if not self._flush_is_due and committer.settings["durability"] != "none":
                self._flush_later()
        else:
            self.flusher.wait(operation.end, Deadline(timeout))
        if committer.wants_segment and not self._prepare_is_due:
            self._prepare_later()
        if operation.error is not None:
            raise operation.error
        armed = self._armed
        try:
            for append in operation.appends:
                if armed[append[0] & ARMED_MASK]:
                    self.wakeup.poke([each.log_id for each in operation.appends])
                    break
        except ValueError:  # closed meanwhile, and nobody of this process sleeps any more
            pass
        return operation

    def _make_writable(self) -> None:
        self.use()
        if self.is_read_only:
            raise StorePermissionError(
                f"{self.place.path} was opened for reading only: its files may not be written by this user"
            )

    def _submit_again(self, operation: Operation, error: Exception, deadline: Deadline) -> None:
        """Remove what kept an operation from being appended, and try again: no segment, or an earlier failed flush."""
        has_mended = False
        while True:
            if isinstance(error, NeedsSegment):
                self._prepare(error.needed, deadline)
            elif has_mended or operation.is_done or not self._mend(deadline):
                raise error
            else:
                has_mended = True
            try:
                return self.committer.submit(operation, deadline.timeout())
            except (NeedsSegment, StoreFailedError) as again:
                error = again

    def _mend(self, deadline: Deadline) -> bool:
        """After a failed flush: write again what it may have lost, and flush; whether that was what was wrong."""
        positions = self.index.positions()
        if not positions.flush_failed:
            return False
        self.flusher.wait(positions.tail, deadline)
        return True

    def flush(self, timeout: float | None = DEFAULT_TIMEOUT) -> None:
        """Return when everything appended so far is on the disk and visible."""
        self.use()
        if not self.is_read_only:
            self._flush(Deadline(timeout))

    def _flush(self, deadline: Deadline) -> None:
        self._owes_flush = False
        try:
            self.flusher.wait(self.index.positions().tail, deadline)
        except BaseException:
            self._owes_flush = True
            raise

    def flush_leftovers(self) -> None:
        """At opening: flush, and so publish, what a process that was killed had appended and not flushed."""
        positions = self.index.positions()
        if not self.is_read_only and positions.durable < positions.tail:
            with contextlib.suppress(StoreFailedError, StoreBusyError, OutcomeUnknownError):
                self.flusher.wait(positions.tail, Deadline(LEFTOVERS_TIMEOUT))

    def _flush_later(self) -> None:
        self._flush_is_due = True
        keeper.after(self.committer.settings["flush_interval_ms"] / 1000, self._task(Engine._flush_now))

    def _flush_now(self) -> None:
        self._flush_is_due = False
        with contextlib.suppress(ClosedError):
            self.flush()

    def _task(self, method: Callable[["Engine"], None]) -> Callable[[], None]:
        """A method as a task that does nothing once the engine is closed or gone."""
        reference = weakref.ref(self)

        def task() -> None:
            engine = reference()
            if engine is not None and engine.is_open and not engine._needs_reopening:
                method(engine)

        return task

    # Segments

    def _prepare_later(self) -> None:
        self._prepare_is_due = True
        keeper.after(0, self._task(Engine._prepare_now))

    def _prepare_now(self) -> None:
        """The keeper's task; when it fails, whoever needs the segment tries again and is told why."""
        try:
            self._prepare(0, Deadline(DEFAULT_TIMEOUT))
        except (StoreFullError, StoreBusyError, StoreFailedError, OSError):
            keeper.after(RETRY_SECONDS, self._task(Engine._prepare_is_over))
        else:
            self._prepare_is_over()

    def _prepare_is_over(self) -> None:
        self._prepare_is_due = False

    def _prepare(self, needed: int, deadline: Deadline) -> None:
        """See to it that the next segment is prepared, with room for `needed` bytes; raises `StoreFullError`."""
        with self.locks.spare.held(deadline):
            positions = self.index.positions()  # raises when the engine was closed before the lock was free
            wanted = segment.HEADER_SIZE + needed + FRAME_HEADER_SIZE
            if positions.spare_size >= max(wanted, 1):
                return
            settings = self.committer.settings
            size = segment.next_size(positions.segment_size, needed + FRAME_HEADER_SIZE, settings["segment_bytes"])
            number = segment.number_of(positions.tail) + 1
            if not self._announce_spare(number, 0, deadline):  # nobody may roll into it while it is written over
                return
            self.journal.segments.prepare(number, size, zeros=settings["durability"] != "none")
            self.journal.forget(number)
            self._announce_spare(number, size, deadline)
        self.committer.wants_segment = False

    def _announce_spare(self, number: int, size: int, deadline: Deadline) -> bool:
        """Say that the next segment is prepared, or with size 0 that it is not; False when it is not the next one."""
        with self.locks.write.held(deadline), self.index.writing() as transaction:
            now = index.read_positions(transaction)
            is_next = segment.number_of(now.tail) + 1 == number
            if is_next and now.spare_size != size:
                index.write_positions(transaction, now._replace(spare_size=size))
        return is_next

    # Reading

    def use(self) -> None:
        """Raise `ClosedError` when closed; in a forked child open the store again first."""
        if not self.is_open:
            raise ClosedError(f"the store {self.place.path} is closed: open it again with kafkalite.connect()")
        if self._needs_reopening:
            with _registry:
                if self._needs_reopening:
                    opened = opening.open_store(self.place, create=False, read_only=self.is_read_only)
                    try:
                        self._attach(opened)
                    except BaseException:
                        self._needs_reopening = True
                        opening.let_go(opened)
                        raise
                    self._topics.clear()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[tuple[lmdb.Transaction, Positions]]:
        """A short look at the index at one moment; raises `ClosedError`."""
        if self._needs_reopening or not self.is_open:
            self.use()
        with self.index.snapshot() as transaction:
            yield transaction, self.index.seen(transaction)
        if self.is_read_only:
            self._refuse_changed()

    def _refuse_changed(self) -> None:
        now = superblock.read(self._opened.fd, str(self.place.path))
        if now != self._opened.superblock:
            raise StoreFailedError(
                f"{self.place.path} was opened for writing by another process since this one opened it without the "
                "permission to write, and so without locks: open it again"
            )

    # The catalogue

    def topic(self, name: str) -> TopicState:
        """A topic's state, as of now; raises `UnknownTopicError`."""
        with self.snapshot() as (transaction, positions):
            known = self._topics.get(name)
            if known is not None and known.epoch == positions.catalogue:
                return known
            found = catalogue.read_topic(transaction, name, positions.catalogue)
        if found is None:
            self._topics.pop(name, None)
            raise UnknownTopicError(
                f"there is no topic {name!r} in {self.place.path}: create it with store.topic({name!r})"
            )
        if known is not None and known.topic_id == found.topic_id:
            known.settings, known.extents, known.log_ids = found.settings, found.extents, found.log_ids
            known.epoch = found.epoch
            return known
        self._topics[name] = found
        return found

    def topic_names(self) -> list[str]:
        with self.snapshot() as (transaction, _):
            return catalogue.topic_names(transaction)

    def create_topic(self, name: str, partitions: int, settings: Mapping[str, Any]) -> TopicState:
        """Create a topic, unless somebody else was faster: then the one that there is."""
        catalogue.check_name(name)

        def decide(transaction: lmdb.Transaction) -> list[Append]:
            if index.get(transaction, index.topic_key(name)) is not None:
                return []
            first, next_log = self._new_logs(transaction, name, partitions)
            return _facts(catalogue.topic_fact(name, [[first, partitions]], settings), next_log)

        self.decide(decide)
        return self.topic(name)

    def _new_logs(self, transaction: lmdb.Transaction, name: str, count: int) -> tuple[int, catalogue.Fact]:
        """The first of so many log ids that were never used, and the fact that they are now."""
        first = index.fact(transaction, "next_log") or catalogue.FIRST_USER_LOG
        if first + count > catalogue.LOG_ID_LIMIT:
            raise UnsupportedError(
                f"{self.place.path} has no {count} log ids left for topic {name!r}: it gave out {first} of "
                f"{catalogue.LOG_ID_LIMIT}, and uses none again; copy its topics to a new store"
            )
        return first, (("next_log",), first + count)

    def current(self, topic: TopicState) -> TopicState:
        """A topic brought up to date; raises `UnknownTopicError` when it was deleted, even if there is a new one."""
        with self.snapshot() as (transaction, positions):
            if topic.epoch != positions.catalogue:
                catalogue.revalidate(transaction, topic, positions.catalogue)
        return topic

    def alter_topic(self, altered: TopicState, settings: Mapping[str, Any], partitions: int | None = None) -> None:
        """Change settings of a topic for everybody, and give it `partitions` in all, which is more than it has.

        Raises `UnknownTopicError`, `InvalidPartitionsError`.
        """

        def decide(transaction: lmdb.Transaction) -> list[Append]:
            catalogue.revalidate(transaction, altered, -1)
            extents, next_log = altered.extents, []
            if partitions is not None:
                count = altered.missing(partitions)
                first, fact = self._new_logs(transaction, altered.name, count)
                extents, next_log = catalogue.extended(extents, first, count), [fact]
            settled = altered.settings | dict(settings)
            return _facts(catalogue.topic_fact(altered.name, extents, settled, altered), *next_log)

        self.decide(decide)
        self.current(altered)
        if partitions is not None:
            self.wakeup.poke(altered.log_ids[:1])  # who follows the whole topic follows this one

    def delete_topic(self, name: str, also: Decide | None = None) -> None:
        """Remove a topic from the catalogue; raises `UnknownTopicError`. Its space returns with the cleaner.

        What `also` decides is appended in the same commit.
        """

        def decide(transaction: lmdb.Transaction) -> list[Append]:
            self._appended_topic(transaction, name)
            return [*_facts((("topic", name), None)), *(also(transaction) if also else ())]

        log_ids = self.topic(name).log_ids
        self.decide(decide)
        self.wakeup.poke(log_ids[: ARMED_MASK + 1])  # who follows them is to be told

    def _appended_topic(self, transaction: lmdb.Transaction, name: str) -> TopicState:
        topic = catalogue.read_topic(transaction, name, -1)
        if topic is None:
            raise UnknownTopicError(
                f"there is no topic {name!r} in {self.place.path}: store.topics() lists what there is"
            )
        return topic

    def settings(self) -> dict[str, Any]:
        """The store's settings, as of now."""
        with self.snapshot() as (transaction, _):
            return config.defaults("store") | (index.fact(transaction, "store") or {})

    def alter(self, settings: Mapping[str, Any]) -> None:
        """Change the store's settings for everybody. To `commit`: everything is flushed before it takes effect."""
        if settings.get("durability") == "commit":
            self.flush()
        self.decide(lambda transaction: _facts((("store",), (index.fact(transaction, "store") or {}) | dict(settings))))
        if settings.get("durability") == "commit":
            self.flush()

    # Checking, closing

    def check(self, progress: "Progress | None" = None) -> "Report":
        """Prove the index against the journal; see `storage.check`."""
        self.use()
        from kafkalite.storage.check import check  # noqa: PLC0415  (rarely used, and not cheap to import)

        return check(self.index, self.journal, self.place, progress)

    def stats(self) -> "Stats":
        """Figures of this moment; see `storage.stats`."""
        from kafkalite.storage import stats  # noqa: PLC0415  (as above)

        extents = self.journal.segments.extents()
        with self.snapshot() as (transaction, positions):
            return stats.gather(transaction, positions, extents, self.place)

    def close(self) -> None:
        """Let one user go; the last one closes, flushing what it appended. Raises what that flush raised."""
        with _registry:
            self.users -= 1
            if self.users > 0 or not self.is_open:
                return
            self.is_open = self._is_ready = False
            for key in [key for key, engine in _engines.items() if engine is self]:
                del _engines[key]
            if not self._needs_reopening:
                self._close_resources()

    def _close_resources(self) -> None:
        try:
            if self._owes_flush:
                self._flush(Deadline(DEFAULT_TIMEOUT))
        finally:
            self.wakeup.close()
            opening.close_store(self.place, self._opened, self._flush_at_last, self._quiet)

    def _flush_at_last(self) -> None:
        deadline = Deadline(DEFAULT_TIMEOUT)
        self._flush(deadline)
        with contextlib.suppress(StoreFullError):  # then it is not sealed, and the next opener goes on with the page
            self.flusher.settle(deadline)

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """A block in which no thread of this process appends, flushes or prepares a segment."""
        with self.locks.flush.threads, self.locks.spare.threads, self.locks.write.threads:
            yield

    # Forking

    def before_fork(self) -> None:
        """Wait until no transaction and no flush of ours is in progress, and let none begin."""
        if not self.is_read_only:
            self.locks.flush.threads.acquire()
            self.locks.spare.threads.acquire()
            self.locks.write.threads.acquire()
        self.index.gate.acquire()

    def after_fork(self, begin_anew: Callable[[], None]) -> None:
        """Have a bound method called in every forked child, as long as its object lives."""
        self._after_fork = [known for known in self._after_fork if known() is not None]
        self._after_fork.append(weakref.WeakMethod(begin_anew))

    def after_fork_in_parent(self) -> None:
        self.index.gate.release()
        if not self.is_read_only:
            self.locks.write.threads.release()
            self.locks.spare.threads.release()
            self.locks.flush.threads.release()

    def after_fork_in_child(self) -> None:
        """Let go of what was inherited; nothing is unlocked, since the locks are the parent's too."""
        self.incarnation += 1
        for reference in self._after_fork:
            begin_anew = reference()
            if begin_anew is not None:
                begin_anew()
        self._needs_reopening = True
        self._is_ready = False
        self.index.abandon()
        self.journal.close()
        self.wakeup.close()
        disk.close(self._opened.fd)


def _facts(*facts: catalogue.Fact) -> list[Append]:
    return [Append(CATALOGUE_LOG, catalogue.batch_of(facts))]


def open_engine(
    target: str | os.PathLike[str],
    *,
    create: bool,
    read_only: bool,
    durability: str | None,
    settings: Mapping[str, Any],
) -> Engine:
    """The engine of the store at `target`: the one this process has already, or a new one. Counts as one user.

    Raises `StoreSettingsError` when the store has other settings than the ones given.
    """
    place = resolve(target)
    wanted = dict(settings) | ({"durability": durability} if durability is not None else {})
    with _registry:
        engine = _known(place)
        if engine is None:
            opened = opening.open_store(place, create=create, read_only=read_only, settings=wanted)
            try:
                engine = Engine(place, opened)
            except BaseException:
                opening.let_go(opened)
                raise
            _engines[disk.identity(opened.fd)] = engine
        engine.users += 1
    try:
        engine.flush_leftovers()
        _compare_settings(engine, wanted)
    except BaseException:
        engine.close()
        raise
    return engine


def _known(place: Place) -> Engine | None:
    identity = disk.path_identity(place.file)
    engine = _engines.get(identity) if identity else None
    if engine is not None:
        engine.use()
    return engine


def _compare_settings(engine: Engine, wanted: Mapping[str, Any]) -> None:
    has = engine.settings()
    for name, value in wanted.items():
        if has[name] != value:
            raise StoreSettingsError(
                f"{name}={value!r} was given, and the store {engine.place.path} has {has[name]!r}: "
                f"leave it out, or change it for all with store.alter({name}={value!r})"
            )


def _before_fork() -> None:
    _registry.acquire()
    for engine in _open_engines():
        engine.before_fork()


def _after_fork_in_parent() -> None:
    for engine in _open_engines():
        engine.after_fork_in_parent()
    _registry.release()


def _after_fork_in_child() -> None:
    keeper.forget()
    for engine in _open_engines():
        engine.after_fork_in_child()
    _registry.release()


def _open_engines() -> list[Engine]:
    return [engine for engine in _engines.values() if engine.is_open and not engine._needs_reopening]


disk.at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
