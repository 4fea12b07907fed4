"""A consumer's membership of a group: kafkalite's ConsumerGroup below, librdkafka's rebalancing above.

Below, a rebalance moves what moves and leaves the rest alone. Above, that is what a `cooperative-sticky` consumer sees.
The other strategies, the default among them, are *eager*: all partitions are revoked, then all that are left or came
are assigned. So for these every change below is told as one `on_revoke` of everything and one `on_assign` of
everything; what a consumer keeps it goes on reading where it was.

    group.poll --+-- gives up, takes --> on_revoke at once: what was read may still be committed
                 +-- returns ----------> on_assign then: it may seek, by `assign` with offsets of its own

Records are fetched a few at a time: few enough that the group is asked again within `BUSY_SECONDS`, however long a
program takes for each, since only that is when a member hears of a rebalance.
"""
# ruff: noqa: SLF001  (reads messages' fields, as often as there are messages)

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import kafkalite
from kafkalite.compat.confluent_kafka.cluster import Cluster
from kafkalite.compat.confluent_kafka.constants import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_TAIL_BASE,
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
)
from kafkalite.compat.confluent_kafka.kafka_error import Code, KafkaError, error_of
from kafkalite.compat.confluent_kafka.model import Message, TopicPartition
from kafkalite.compat.confluent_kafka.properties import Config
from kafkalite.compat.confluent_kafka.reading import EARLIEST, LATEST, Place, Raw, error_message

Group = kafkalite.ConsumerGroup[bytes, bytes | None]
Moved = Callable[[list[TopicPartition]], object]

IDLE_SECONDS: Final = 0.02
BUSY_SECONDS: Final = 0.1
MOST_RECORDS: Final = 500
STRATEGIES: Final = {"range": "range", "roundrobin": "roundrobin", "cooperative-sticky": "cooperative-sticky"}


class Listener(Protocol):
    """The consumer, as its membership sees it."""

    def revoked(self, partitions: list[Place]) -> None:
        """Commit what is stored of these, and forget them."""

    def assigned(self, partitions: list[Place]) -> None:
        """Know these as its own."""

    def lost(self) -> None:
        """Forget all: they may be others' by now."""


class Callbacks:
    """What `subscribe` was given to be told of rebalances."""

    def __init__(self, on_assign: Moved | None, on_revoke: Moved | None, on_lost: Moved | None) -> None:
        self.on_assign = on_assign
        self.on_revoke = on_revoke
        self.on_lost = on_lost


class Subscribed:
    """A subscription: joined by the first `take`, left by `close`."""

    def __init__(
        self, cluster: Cluster, config: Config, topics: Sequence[str], callbacks: Callbacks, listener: Listener
    ) -> None:
        self._cluster = cluster
        self._callbacks = callbacks
        self._listener = listener
        strategy = config["partition.assignment.strategy"].split(",")[0].strip()
        self.is_eager = strategy != "cooperative-sticky" and config["group.protocol"] != "consumer"
        self._tells_eof = config["enable.partition.eof"]
        self._eof_at: dict[Place, int] = {}
        self._names: list[str | re.Pattern[str]] = []
        self._news: deque[Raw] = deque()
        self._buffer: deque[Raw] = deque()
        self._most = 1
        self._given_at = 0.0
        self._kinds: dict[str, int] = {}
        self._owned: set[Place] = set()
        self._gained: list[Place] = []
        self._is_revoked = True
        self._owes_assign = True
        self._failure: BaseException | None = None
        self._moved: set[Place] = set()
        for name in topics:
            self._names.append(self._subscribable(name, creates=config["allow.auto.create.topics"]))
        self.group: Group = cluster.store.consumer_group(
            config["group.id"],
            self._names,
            on_assigned=self._on_assigned,
            on_revoked=self._on_revoked,
            on_lost=self._on_lost,
            **_settings(config, STRATEGIES[strategy]),
        )
        self._is_joined = False

    def _subscribable(self, name: str, *, creates: bool) -> str | re.Pattern[str]:
        """A topic's name, or a pattern: "^…" is one, and a topic that is not there is waited for as one."""
        if name.startswith("^"):
            return re.compile(f"(?:{name}).*")
        try:
            self._cluster.topic(name, create=creates)
        except kafkalite.KafkaliteError:
            text = f"Subscribed topic not available: {name}: Broker: Unknown topic or partition"
            self._news.append(error_message((name, 0), KafkaError(Code.UNKNOWN_TOPIC_OR_PART, text)))
            return re.compile(re.escape(name))
        return name

    # Messages

    def take(self, most: int, timeout: float) -> list[Raw]:
        """Up to `most` messages; waits up to `timeout` seconds for the first. Raises what callbacks raised."""
        if not self._buffer:
            self._fill(timeout)
        found = [self._news.popleft() for _ in range(min(most, len(self._news)))]
        while self._buffer and len(found) < most:
            found.append(self._buffer.popleft())
        return found

    def _fill(self, timeout: float) -> None:
        now = time.monotonic()
        if now - self._given_at < IDLE_SECONDS:
            self._most = min(2 * self._most, MOST_RECORDS)
        elif now - self._given_at > BUSY_SECONDS:
            self._most = max(1, self._most // 4)
        records = self._polled(0 if self._news else timeout)
        try:
            self._settle_changes()
        finally:
            self._buffer.extend(self._message(record) for record in records if self._is_wanted(record))
        if not self._buffer and self._tells_eof:
            self._tell_ends()
        self._given_at = time.monotonic()

    def _polled(self, timeout: float) -> list[kafkalite.Record[bytes, bytes | None]]:
        """Records from the group; an error is news, and the group goes on with the next call."""
        self._moved.clear()
        try:
            if not self._is_joined:
                self.group.join()
                self._is_joined = True
            return self.group.poll(max_records=self._most, timeout=timeout)
        except kafkalite.OffsetOutOfRangeError as error:
            self._news.append(error_message(("", -1), KafkaError(Code.AUTO_OFFSET_RESET, str(error))))
        except kafkalite.KafkaliteError as error:
            self._news.append(error_message(("", -1), error_of(error)))
        return []

    def _is_wanted(self, record: kafkalite.Record[bytes, bytes | None]) -> bool:
        """Whether nobody has said meanwhile that its partition goes on elsewhere."""
        return (record.topic, record.partition) not in self._moved

    def _message(self, record: kafkalite.Record[bytes, bytes | None]) -> Raw:
        topic, partition, offset, stamp, key, value, headers = record
        kind = self._kinds.get(topic)
        if kind is None:
            is_append = self._cluster.topic(topic).settings["message_timestamp_type"] == "LogAppendTime"
            kind = self._kinds[topic] = TIMESTAMP_LOG_APPEND_TIME if is_append else TIMESTAMP_CREATE_TIME
        pairs = list(headers) if headers else None
        return Message(topic, partition, offset, key, value, pairs, None, (kind, stamp))

    def _tell_ends(self) -> None:
        """News of each partition that has been read to its end, once for each end."""
        for one, lag in self.group.lag().items():
            place, position = (one.topic, one.partition), self.group.position()[one]
            if lag == 0 and self._eof_at.get(place) != position:
                self._eof_at[place] = position
                text = f"Fetch from broker 1 reached end of partition at offset {position}"
                self._news.append(error_message(place, KafkaError(Code.PARTITION_EOF, text), position))

    # Rebalancing

    def _on_assigned(self, group: Group, partitions: list[kafkalite.TopicPartition]) -> None:
        """Called by the group: these have come. The program is told when the group's call is over."""
        del group
        gained = [(one.topic, one.partition) for one in partitions]
        if self.is_eager and not self._is_revoked:
            self._tell_revoked(sorted(self._owned))
        self._owned.update(gained)
        self._gained += gained
        self._owes_assign = True
        self._listener.assigned(gained)

    def _on_revoked(self, group: Group, partitions: list[kafkalite.TopicPartition]) -> None:
        """Called by the group, before these are given up: now what was read of them can still be committed."""
        del group
        lost = [(one.topic, one.partition) for one in partitions]
        if not self.is_eager:
            self._tell_revoked(lost)
        elif not self._is_revoked:
            self._tell_revoked(sorted(self._owned))
        self._listener.revoked(lost)
        self._owned.difference_update(lost)

    def _on_lost(self, group: Group, partitions: list[kafkalite.TopicPartition]) -> None:
        """Called by the group: these were taken away, and may be others' by now."""
        del group
        lost = [(one.topic, one.partition) for one in partitions]
        self._call(self._callbacks.on_lost or self._callbacks.on_revoke, lost)
        self._is_revoked = self._owes_assign = True
        self._owned.clear()
        self._listener.lost()

    def _tell_revoked(self, places: Sequence[Place]) -> None:
        if places:
            self._call(self._callbacks.on_revoke, places)
        if self.is_eager:
            self._is_revoked = self._owes_assign = True

    def _settle_changes(self) -> None:
        """Tell the program what was assigned, now that the group can be spoken to."""
        if self._owes_assign:
            places = sorted(self._owned if self.is_eager else self._gained)
            self._gained, self._owes_assign, self._is_revoked = [], False, False
            self._call(self._callbacks.on_assign, places)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _call(self, callback: Moved | None, places: Sequence[Place]) -> None:
        """A program's callback; what it raises is raised when the group's call is over, which must not be cut short."""
        if callback is None:
            return
        try:
            callback([TopicPartition(*place) for place in places])
        except BaseException as error:  # noqa: BLE001  (raised by _settle_changes)
            self._failure = self._failure or error

    # Places

    def places(self) -> list[Place]:
        """The partitions that are this member's."""
        return sorted(self._owned)

    def seek(self, place: Place, offset: int) -> None:
        """Go on elsewhere; raises kafkalite's `OffsetOutOfRangeError`, `FencedMemberError`."""
        wanted: Any = {OFFSET_BEGINNING: "earliest", OFFSET_END: "latest"}.get(offset, offset)
        if offset < OFFSET_TAIL_BASE:
            first, end = self._bounds(place)
            wanted = max(first, end - (OFFSET_TAIL_BASE - offset))
        self._drop(place)
        self._eof_at.pop(place, None)
        self.group.seek(kafkalite.TopicPartition(*place), wanted)

    def _bounds(self, place: Place) -> tuple[int, int]:
        topic = self._cluster.topic(place[0])
        return topic.beginning_offsets()[place[1]], topic.end_offsets()[place[1]]

    def _drop(self, place: Place) -> None:
        """What was fetched of a partition, and not handed out, is not to be."""
        self._moved.add(place)
        kept = [one for one in self._buffer if (one._topic, one._partition) != place]
        self._buffer.clear()
        self._buffer.extend(kept)

    def pause(self, places: Sequence[Place]) -> None:
        """Hand out nothing of these; what was fetched of them is fetched again when they go on."""
        owned = [place for place in places if place in self._owned]
        for place in owned:
            first = next((one._offset for one in self._buffer if (one._topic, one._partition) == place), None)
            if first is not None:
                self.seek(place, first)
        self.group.pause([kafkalite.TopicPartition(*place) for place in owned])

    def resume(self, places: Sequence[Place]) -> None:
        """Hand these out again."""
        self.group.resume([kafkalite.TopicPartition(*place) for place in places if place in self._owned])

    def commit(self, offsets: Sequence[TopicPartition]) -> None:
        """Commit next offsets; raises kafkalite's `FencedMemberError`."""
        given = {kafkalite.TopicPartition(one.topic, one.partition): one for one in offsets}
        said = {place: one.metadata for place, one in given.items() if one.metadata is not None}
        self.group.commit({place: one.offset for place, one in given.items()}, metadata=said)

    def close(self) -> None:
        """Leave the group; the program is told that all it had is revoked. Raises what its callback raised."""
        if not self._is_joined:
            return
        places = sorted(self._owned)
        if places:
            self._call(self._callbacks.on_revoke, places)
        self._listener.revoked(places)
        self._callbacks = Callbacks(None, None, None)
        self._owned.clear()
        self._buffer.clear()
        self._is_joined = False
        self.group.close()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


def _settings(config: Config, strategy: str) -> dict[str, Any]:
    """Properties of librdkafka as settings of a group; offsets are committed here, not there."""
    reset = config["auto.offset.reset"]
    return {
        "auto_offset_reset": "earliest" if reset in EARLIEST else "latest" if reset in LATEST else "error",
        "enable_auto_commit": False,
        "isolation_level": config["isolation.level"],
        "partition_assignment_strategy": strategy,
        "group_instance_id": config["group.instance.id"] or None,
        "client_id": config["client.id"] or "rdkafka",
        "session_timeout_ms": config["session.timeout.ms"],
        "max_poll_interval_ms": config["max.poll.interval.ms"],
    }
