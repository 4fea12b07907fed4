"""Consumer: confluent_kafka's, on a store: by `subscribe` a member of a group, by `assign` a reader of partitions.

An offset goes three ways, each only ever as far as the one before:

    handed out by poll --> stored (at once, or by store_offsets) --> committed (every auto.commit.interval.ms, by
                                                                     commit, before a partition is given up, by close)

As in librdkafka a message is *stored* when it is handed out, before it is processed: with `enable.auto.commit` a crash
can lose the one in hand. kafkalite's own groups confirm a record when the next one is asked for, and do not.
"""
# ruff: noqa: SLF001  (a consumer, its listener and its messages know each other)

import re
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final, Self

import kafkalite
from kafkalite import GroupMetadata
from kafkalite.compat.confluent_kafka import groups, properties
from kafkalite.compat.confluent_kafka.client import Local
from kafkalite.compat.confluent_kafka.cluster import Cluster
from kafkalite.compat.confluent_kafka.constants import OFFSET_END, OFFSET_INVALID, OFFSET_STORED, OFFSET_TAIL_BASE
from kafkalite.compat.confluent_kafka.group_metadata import packed
from kafkalite.compat.confluent_kafka.kafka_error import (
    Code,
    KafkaError,
    KafkaException,
    exception_of,
    failed,
)
from kafkalite.compat.confluent_kafka.model import (
    Message,
    TopicPartition,
    answer,
    check_partition,
    check_partitions,
)
from kafkalite.compat.confluent_kafka.reading import Place, Raw, Reading, offset_at
from kafkalite.compat.confluent_kafka.statistics import Statistics
from kafkalite.compat.confluent_kafka.subscribing import Callbacks, Subscribed

RebalanceCallback = Callable[["Consumer", list[TopicPartition]], object]
MOST_MESSAGES: Final = 1_000_000
SLICE_SECONDS: Final = 0.1
"""How long one wait lasts at most, so that callbacks and commits that fall due are served."""


class _Held:
    """A partition that the consumer has: where it was to begin, and how far it came."""

    __slots__ = ("committed", "position", "start", "stored")

    def __init__(self, start: int = OFFSET_STORED) -> None:
        self.start = start
        self.position = OFFSET_INVALID
        self.stored = OFFSET_INVALID
        self.committed = OFFSET_INVALID


class Consumer(Local):
    """Reads records; confluent_kafka.Consumer's methods, errors and callbacks. For one thread at a time."""

    _client: ClassVar[properties.Client] = "consumer"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take a configuration dictionary, keywords, or both; `group.id` is required.

        Raises `ValueError` without one, `KafkaException` (`_INVALID_ARG`), `TypeError`.
        """
        config = self._config = self._connect(args, kwargs)
        self._group_id: str = config["group.id"]
        self._stores: bool = config["enable.auto.offset.store"]
        self._commits: bool = config["enable.auto.commit"] and config["auto.commit.interval.ms"] > 0
        self._interval: float = config["auto.commit.interval.ms"] / 1000
        self._due = time.monotonic() + self._interval
        self._on_commit = config.callback("on_commit")
        self._reports: deque[tuple[KafkaError | None, list[TopicPartition]]] = deque()
        self._held: dict[Place, _Held] = {}
        self._feed: Reading | Subscribed | None = None
        self._is_in_callback = False
        self._statistics = Statistics(config, "consumer")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_lease", None) is not None:
            with suppress(Exception):
                self._leave()
                self._release()

    def _use(self) -> Cluster:
        if self._lease is None:
            raise RuntimeError("Consumer closed")
        return self._lease.cluster

    # Subscribing and assigning

    def subscribe(
        self,
        topics: list[str],
        on_assign: RebalanceCallback | None = None,
        on_revoke: RebalanceCallback | None = None,
        on_lost: RebalanceCallback | None = None,
    ) -> None:
        """Become a member of the group for these topics; "^…" is a regular expression of their names.

        The group is joined, and callbacks are called, by `poll` and `consume`. A topic that is not there is told as a
        message with an error, and read when it comes. Raises `KafkaException` (`_INVALID_ARG`), `TypeError`.
        """
        cluster = self._use()
        if not isinstance(topics, list):
            raise TypeError("expected list of topic unicode strings")
        given = {"on_assign": on_assign, "on_revoke": on_revoke, "on_lost": on_lost}
        for name, callback in given.items():
            if callback is not None and not callable(callback):
                raise TypeError(f"{name} expects a callable")
        names = [str(topic) for topic in topics]
        if not names or not all(map(_is_subscribable, names)):
            raise failed(Code.INVALID_ARG, "Failed to set subscription: Local: Invalid argument or configuration")
        self._leave()
        callbacks = Callbacks(*(self._told(callback) for callback in given.values()))
        try:
            self._feed = Subscribed(cluster, self._config, names, callbacks, _Listener(self))
        except kafkalite.KafkaliteError as error:
            raise exception_of(error, "Failed to set subscription: ") from error

    def _told(self, callback: RebalanceCallback | None) -> Callable[[list[TopicPartition]], object] | None:
        """A rebalance callback, which may call this consumer's `assign`, `commit` and `seek`."""
        if callback is None:
            return None
        consumer = weakref.ref(self)

        def told(partitions: list[TopicPartition]) -> None:
            me = consumer()
            if me is None:
                return
            me._is_in_callback = True
            try:
                callback(me, partitions)
            finally:
                me._is_in_callback = False

        return told

    def unsubscribe(self) -> None:
        """Leave the group."""
        self._use()
        self._leave()

    def _leave(self) -> None:
        """Commit what is stored, if that is automatic, and have no partitions any more."""
        feed, self._feed = self._feed, None
        if isinstance(feed, Subscribed):
            self._feed = feed  # its callbacks may still commit
            try:
                feed.close()
            finally:
                self._feed = None
        elif feed is not None:
            self._commit_stored(list(self._held))
        self._held.clear()

    def assign(self, partitions: list[TopicPartition], /) -> None:
        """Read these partitions, each from its offset, without a group; inside `on_assign` say where to begin.

        Raises `KafkaException` (`_INVALID_ARG`) for a partition that is named twice.
        """
        cluster = self._use()
        check_partitions(partitions)
        if self._is_in_callback and isinstance(self._feed, Subscribed):
            self._begin_at(self._feed, partitions)
            return
        self._leave()
        self._feed = self._reading(cluster)
        places = [(one.topic, one.partition) for one in partitions]
        if len(set(places)) < len(places) or not all(map(_is_offset, partitions)):
            raise failed(Code.INVALID_ARG, "Failed to set assignment: Local: Invalid argument or configuration")
        self._add(partitions)

    def _reading(self, cluster: Cluster) -> Reading:
        config = self._config
        group_id = self._group_id

        def committed(place: Place) -> int | None:
            (found,) = groups.fetched(cluster, group_id, [TopicPartition(*place)])
            return found.offset if found.offset >= 0 else None

        return Reading(cluster, config["auto.offset.reset"], committed, tells_eof=config["enable.partition.eof"])

    def _add(self, partitions: Sequence[TopicPartition]) -> None:
        assert isinstance(self._feed, Reading)
        self._feed.add(partitions)
        for one in partitions:
            start = OFFSET_STORED if one.offset == OFFSET_INVALID else one.offset
            self._held[one.topic, one.partition] = _Held(start)

    def _begin_at(self, feed: Subscribed, partitions: Sequence[TopicPartition]) -> None:
        """What `on_assign` says: where to begin, and by what it leaves out what not to read."""
        for one in partitions:
            place = one.topic, one.partition
            if place in self._held and one.offset not in (OFFSET_INVALID, OFFSET_STORED):
                self._seek(feed, place, one.offset)
                self._held[place].start = one.offset
        if feed.is_eager:
            wanted = {(one.topic, one.partition) for one in partitions}
            feed.pause([place for place in self._held if place not in wanted])

    def unassign(self) -> None:
        """Read nothing; inside `on_revoke`, and of a member, nothing that is not done anyway."""
        self._use()
        if not isinstance(self._feed, Subscribed):
            self._leave()

    def incremental_assign(self, partitions: list[TopicPartition], /) -> None:
        """Read these as well; raises `KafkaException` (`_CONFLICT`) for one that is read already."""
        cluster = self._use()
        check_partitions(partitions)
        if self._is_in_callback and isinstance(self._feed, Subscribed):
            self._begin_at(self._feed, partitions)
            return
        for one in partitions:
            if (one.topic, one.partition) in self._held:
                raise failed(Code.CONFLICT, f"{one.topic} [{one.partition}] is already part of the current assignment")
        if isinstance(self._feed, Subscribed):
            raise failed(Code.STATE, "Failed to set assignment: Local: Erroneous state")
        if self._feed is None:
            self._feed = self._reading(cluster)
        self._add(partitions)

    def incremental_unassign(self, partitions: list[TopicPartition], /) -> None:
        """Read these no more; raises `KafkaException` (`_INVALID_ARG`) for one that is not read."""
        self._use()
        check_partitions(partitions)
        if self._is_in_callback and isinstance(self._feed, Subscribed):
            return
        places = [(one.topic, one.partition) for one in partitions]
        for topic, number in places:
            if (topic, number) not in self._held:
                raise failed(
                    Code.INVALID_ARG,
                    f"{topic} [{number}] can't be unassigned since it is not in the current assignment",
                )
        if not isinstance(self._feed, Reading):
            raise failed(Code.STATE, "Failed to set assignment: Local: Erroneous state")
        self._commit_stored(places)
        self._feed.remove(places)
        for place in places:
            del self._held[place]

    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read, with the offsets that they were assigned with."""
        self._use()
        return [TopicPartition(*place, held.start) for place, held in self._held.items()]

    # Messages

    def poll(self, timeout: float = -1) -> Message[bytes, bytes] | None:
        """The next message, waiting up to `timeout` seconds (-1: for ever); None if none came. Serves callbacks.

        A message whose `error()` is not None tells of an event or a failure.
        """
        found = self._consumed(1, timeout)
        return found[0] if found else None

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message[bytes, bytes]]:
        """Up to `num_messages` messages; fewer only when `timeout` seconds have passed."""
        self._use()
        if not 0 <= num_messages <= MOST_MESSAGES:
            raise ValueError("num_messages must be between 0 and 1000000 (1M)")
        return self._consumed(num_messages, timeout) if num_messages else []

    def _consumed(self, most: int, timeout: float) -> list[Raw]:
        self._use()
        if not isinstance(timeout, int | float):
            raise TypeError(f"must be real number, not {type(timeout).__name__}")
        deadline = time.monotonic() + timeout if timeout >= 0 else float("inf")
        found: list[Raw] = []
        while True:
            self._serve()
            left = deadline - time.monotonic()
            wait = max(0.0, min(left, SLICE_SECONDS, self._statistics.seconds_left()))
            if self._feed is None:
                time.sleep(wait)
            else:
                taken = self._feed.take(most - len(found), wait)
                self._note(taken)
                found += taken
            if len(found) >= most or left <= 0:
                return found

    def _note(self, taken: Sequence[Raw]) -> None:
        """How far each partition came by handing these out."""
        for message in taken:
            if message._error is not None:
                continue
            assert message._topic is not None
            held = self._held.get((message._topic, message._partition))
            if held is not None:
                held.position = message._offset + 1
                if self._stores:
                    held.stored = held.position

    def _serve(self) -> None:
        """What is due: commits, their callbacks, statistics."""
        if self._commits and time.monotonic() >= self._due:
            self._due = time.monotonic() + self._interval
            self._commit_stored(list(self._held))
        self._report_commits()
        self._statistics.emit_if_due(dict)

    def _report_commits(self) -> None:
        while self._reports:
            error, partitions = self._reports.popleft()
            if self._on_commit is not None:
                self._on_commit(error, partitions)

    # Places

    def pause(self, partitions: list[TopicPartition], /) -> None:
        """Hand out nothing of these until `resume`; what is not read is passed over."""
        self._set_paused(partitions, is_paused=True)

    def resume(self, partitions: list[TopicPartition], /) -> None:
        """Hand these out again."""
        self._set_paused(partitions, is_paused=False)

    def _set_paused(self, partitions: list[TopicPartition], *, is_paused: bool) -> None:
        self._use()
        check_partitions(partitions)
        places = [place for one in partitions if (place := (one.topic, one.partition)) in self._held]
        if isinstance(self._feed, Subscribed):
            (self._feed.pause if is_paused else self._feed.resume)(places)
        elif self._feed is not None:
            for place in places:
                self._feed.lanes[place].is_paused = is_paused

    def seek(self, partition: TopicPartition) -> None:
        """Go on at the partition's offset; raises `KafkaException` (`_STATE`) for one that is not read."""
        self._use()
        check_partition(partition)
        place = partition.topic, partition.partition
        if self._feed is None or place not in self._held:
            raise failed(Code.STATE, f"Failed to seek to offset {partition.offset}: Local: Erroneous state")
        self._seek(self._feed, place, partition.offset)

    def _seek(self, feed: Reading | Subscribed, place: Place, offset: int) -> None:
        held = self._held[place]
        held.position = OFFSET_INVALID
        try:
            if isinstance(feed, Subscribed):
                feed.seek(place, offset)
            else:
                feed.lanes[place].seek(offset)
        except kafkalite.KafkaliteError as error:
            raise exception_of(error, f"Failed to seek to offset {offset}: ") from error

    def position(self, partitions: list[TopicPartition], /) -> list[TopicPartition]:
        """Of each, the offset after the last message that was handed out; `OFFSET_INVALID` before there is one."""
        self._use()
        check_partitions(partitions)
        none = _Held()
        return [answer(one, self._held.get((one.topic, one.partition), none).position) for one in partitions]

    def committed(self, partitions: list[TopicPartition], timeout: float = -1) -> list[TopicPartition]:
        """Of each, the offset that the group has committed; `OFFSET_INVALID` if it has none."""
        del timeout
        cluster = self._use()
        check_partitions(partitions)
        found = groups.fetched(cluster, self._group_id, partitions)
        for place, one in enumerate(found):
            if not _exists(cluster, one):
                found[place] = answer(one, OFFSET_INVALID, KafkaError(Code.UNKNOWN_TOPIC_OR_PART))
        return found

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float = -1, cached: bool = False
    ) -> tuple[int, int]:
        """(first offset, offset after the last); raises `KafkaException` (`_UNKNOWN_PARTITION`)."""
        del timeout, cached  # what is asked for is always known
        cluster = self._use()
        check_partition(partition)
        if not _exists(cluster, partition):
            raise failed(Code.UNKNOWN_PARTITION, "Failed to get watermark offsets: Local: Unknown partition")
        topic = cluster.topic(partition.topic)
        return topic.beginning_offsets()[partition.partition], topic.end_offsets()[partition.partition]

    def offsets_for_times(self, partitions: list[TopicPartition], timeout: float = -1) -> list[TopicPartition]:
        """Of each, the first offset at or after the time that stands in its `offset` (ms since 1970 UTC)."""
        del timeout
        cluster = self._use()
        check_partitions(partitions)
        if not all(_exists(cluster, one) for one in partitions):
            raise failed(Code.UNKNOWN_PARTITION, "Failed to get offsets: Local: Unknown partition")
        answers = []
        for one in partitions:
            topic = cluster.topic(one.topic)
            if one.offset < 0:
                answers.append(answer(one, topic.end_offsets()[one.partition]))
                continue
            found = offset_at(topic, one.partition, one.offset)
            answers.append(answer(one, OFFSET_END if found is None else found[0]))
        return answers

    # Offsets

    def store_offsets(
        self, message: Message[Any, Any] | None = None, offsets: list[TopicPartition] | None = None
    ) -> None:
        """Store an offset to be committed, with `enable.auto.offset.store=False`.

        Raises `KafkaException` (`_INVALID_ARG` when storing is automatic, `_STATE` when none of the partitions is
        read), `ValueError`, `TypeError`.
        """
        self._use()
        wanted = _wanted(message, offsets)
        if wanted is None:
            raise ValueError("expected either message or offsets")
        error = message.error() if message is not None else None
        if error is not None:
            raise failed(Code.INVALID_ARG, f"Cannot store offsets for message with error: '{error.str()}'")
        if self._stores:
            raise failed(Code.INVALID_ARG, "StoreOffsets failed: Local: Invalid argument or configuration")
        known = [one for one in wanted if (one.topic, one.partition) in self._held]
        if wanted and not known:
            raise failed(Code.STATE, "StoreOffsets failed: Local: Erroneous state")
        for one in known:
            self._held[one.topic, one.partition].stored = one.offset

    def commit(
        self,
        message: Message[Any, Any] | None = None,
        offsets: list[TopicPartition] | None = None,
        asynchronous: bool = True,
    ) -> list[TopicPartition] | None:
        """Commit the offset after `message`, or `offsets` (the next ones), or all that is stored.

        With `asynchronous=False` returns what was committed, or raises `KafkaException` (`_NO_OFFSET` when there is
        nothing to commit); else the outcome goes to `on_commit`, by `poll`.
        """
        self._use()
        wanted = _wanted(message, offsets)
        if wanted is None:
            wanted = self._stored(list(self._held))
        try:
            done = self._committed(wanted)
        except KafkaException as error:
            if not asynchronous:
                raise
            self._reports.append((error.args[0], wanted))
            return None
        if not asynchronous:
            return done
        self._reports.append((None, done))
        return None

    def _stored(self, places: Sequence[Place]) -> list[TopicPartition]:
        """What is stored and not committed; `OFFSET_INVALID` where nothing."""
        found = []
        for place in places:
            held = self._held[place]
            found.append(TopicPartition(*place, held.stored if held.stored > held.committed else OFFSET_INVALID))
        return found

    def _committed(self, wanted: Sequence[TopicPartition]) -> list[TopicPartition]:
        """Commit; raises `KafkaException`."""
        cluster = self._use()
        valid = [one for one in wanted if one.offset >= 0]
        if not valid:
            raise failed(Code.NO_OFFSET, "Commit failed: Local: No offset stored")
        feed = self._feed
        try:
            if isinstance(feed, Subscribed) and self._held:
                feed.commit(valid)
            else:
                groups.committed(cluster, self._group_id, valid)
        except kafkalite.KafkaliteError as error:
            raise exception_of(error, "Commit failed: ") from error
        for one in valid:
            held = self._held.get((one.topic, one.partition))
            if held is not None:
                held.committed = one.offset
        return [answer(one, one.offset, None, one.metadata) for one in wanted]

    def _commit_stored(self, places: Sequence[Place]) -> None:
        """The automatic commit: reported to `on_commit`, and silent when there is nothing."""
        if not self._commits:
            return
        wanted = self._stored([place for place in places if place in self._held])
        if not any(one.offset >= 0 for one in wanted):
            return
        try:
            self._reports.append((None, self._committed(wanted)))
        except KafkaException as error:
            self._reports.append((error.args[0], wanted))

    # The group

    def memberid(self) -> str | None:
        """This member's id; None while it is none."""
        self._use()
        member = self._member()
        return None if member is None else member.member_id

    def _member(self) -> Any:
        return self._feed.group._member if isinstance(self._feed, Subscribed) else None

    def consumer_group_metadata(self) -> bytes:
        """What `Producer.send_offsets_to_transaction` is to be given: opaque."""
        self._use()
        member = self._member()
        if member is None:
            return packed(GroupMetadata(self._group_id))
        return packed(GroupMetadata(self._group_id, member.member_id, member.current_epoch()))

    # Ending

    def close(self) -> None:
        """Commit what is stored, if that is automatic, leave the group, let go of the store; idempotent."""
        if self._lease is None:
            return
        try:
            self._leave()
            self._report_commits()
        finally:
            self._release()


class _Listener:
    """A consumer as its subscription knows it: it does not keep it alive."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = weakref.ref(consumer)

    def revoked(self, partitions: list[Place]) -> None:
        """Commit what is stored of these, and forget them."""
        consumer = self._consumer()
        if consumer is not None:
            consumer._commit_stored(partitions)
            for place in partitions:
                consumer._held.pop(place, None)

    def assigned(self, partitions: list[Place]) -> None:
        """Know these as its own."""
        consumer = self._consumer()
        if consumer is not None:
            consumer._held |= {place: _Held() for place in partitions}

    def lost(self) -> None:
        """Forget all: they may be others' by now."""
        consumer = self._consumer()
        if consumer is not None:
            consumer._held.clear()


def _is_offset(one: TopicPartition) -> bool:
    """Whether a partition's offset is one, or a name for one."""
    return one.offset >= 0 or one.offset in (-1, -2, OFFSET_STORED, OFFSET_INVALID) or one.offset <= OFFSET_TAIL_BASE


def _is_subscribable(name: str) -> bool:
    if not name.startswith("^"):
        return bool(name)
    try:
        re.compile(name)
    except re.error:
        return False
    return True


def _exists(cluster: Cluster, one: TopicPartition) -> bool:
    try:
        return 0 <= one.partition < cluster.topic(one.topic).partition_count
    except kafkalite.KafkaliteError:
        return False


def _wanted(message: Any, offsets: Any) -> list[TopicPartition] | None:
    """The offsets that a message or a list of partitions stands for; None if neither is given."""
    if message is not None and offsets is not None:
        raise ValueError("message and offsets are mutually exclusive")
    if message is not None:
        if not isinstance(message, Message):
            raise TypeError("expected confluent_kafka.cimpl.Message")
        return [TopicPartition(message._topic or "", message._partition, message._offset + 1)]
    if offsets is not None:
        check_partitions(offsets)
        return list(offsets)
    return None
