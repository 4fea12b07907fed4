"""Reading the partitions that a consumer was told to read, without a group: `assign` and what follows from it.

A partition's lane knows where it is to go on; its start is resolved when it is first read, as librdkafka does: an
offset, an end, so many before the end, or what the group committed, and where that leads nowhere what
`auto.offset.reset` says. What cannot be read is told as a message that bears an error, once, and the other lanes go on.
"""
# ruff: noqa: SLF001  (makes messages and reads their fields)

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import kafkalite
from kafkalite.compat.confluent_kafka.cluster import Cluster, RawTopic
from kafkalite.compat.confluent_kafka.constants import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    OFFSET_STORED,
    OFFSET_TAIL_BASE,
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    TIMESTAMP_NOT_AVAILABLE,
)
from kafkalite.compat.confluent_kafka.kafka_error import Code, KafkaError, error_of, failed
from kafkalite.compat.confluent_kafka.model import Message, TopicPartition

Place = tuple[str, int]
"""A partition: topic and number."""

Raw = Message[bytes, bytes]
EARLIEST: Final = ("smallest", "earliest", "beginning")
LATEST: Final = ("largest", "latest", "end")
FIRST_PAUSE: Final = 0.001
LONGEST_PAUSE: Final = 0.02
RETRY_SECONDS: Final = 1.0
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
HALF_A_MILLISECOND: Final = 500


def offset_at(topic: RawTopic, partition: int, timestamp_ms: int) -> tuple[int, int] | None:
    """Offset and timestamp of the first record at or after a time (ms since 1970 UTC); None if there is none."""
    before = EPOCH + timedelta(microseconds=timestamp_ms * 1000 - HALF_A_MILLISECOND)
    found = next(topic.read(partition, start=before), None)
    return None if found is None else (found.offset, found.timestamp_ms)


def max_timestamp(topic: RawTopic, partition: int) -> tuple[int, int]:
    """Offset and timestamp of the record with the greatest timestamp; (-1, -1) of an empty partition."""
    rows = (row for batch in topic.batches(partition) for row in zip(batch.timestamps_ms, batch.offsets, strict=True))
    stamp, offset = max(rows, key=lambda row: (row[0], -row[1]), default=(-1, -1))
    return offset, stamp


def messages(batch: kafkalite.RecordBatch[bytes, bytes | None]) -> Iterator[Raw]:
    """The records of a batch as messages."""
    is_create = batch.timestamp_type == "create"
    kind = TIMESTAMP_CREATE_TIME if is_create else TIMESTAMP_LOG_APPEND_TIME
    name, number, epoch = batch.topic, batch.partition, batch.leader_epoch
    rows = zip(batch.offsets, batch.keys, batch.values, batch.headers, batch.timestamps_ms, strict=True)
    return (
        Message(name, number, offset, key, value, list(pairs) if pairs else None, None, (kind, stamp), None, epoch)
        for offset, key, value, pairs, stamp in rows
    )


def error_message(place: Place, error: KafkaError, offset: int = OFFSET_INVALID) -> Raw:
    """A message that bears an error; its value is the error's text, as with librdkafka."""
    text = error.str().encode()
    return Message(*place, offset, None, text, None, error, (TIMESTAMP_NOT_AVAILABLE, -1))


def reset_offset(topic: RawTopic, partition: int, policy: str, why: str) -> int:
    """Where `auto.offset.reset` leads; raises `KafkaException` (`_AUTO_OFFSET_RESET`) where it says "error"."""
    if policy in EARLIEST:
        return topic.beginning_offsets()[partition]
    if policy in LATEST:
        return topic.end_offsets()[partition]
    raise failed(Code.AUTO_OFFSET_RESET, why)


class Lane:
    """One assigned partition."""

    def __init__(self, cluster: Cluster, place: Place, start: int) -> None:
        self.cluster = cluster
        self.place = place
        self.start = start
        """As it was assigned, possibly one of the names below zero."""
        self.is_paused = False
        self.position: int | None = None
        """The next offset to fetch, once it is known."""
        self.eof_at = -1
        self.silent_until = 0.0
        self._topic: RawTopic | None = None
        self._batches: Iterator[Any] | None = None
        self._run: Iterator[Raw] = iter(())

    def seek(self, offset: int) -> None:
        """Go on elsewhere; what was fetched is forgotten."""
        self.start, self.position, self._batches, self._run = offset, None, None, iter(())
        self.eof_at, self.silent_until = -1, 0.0

    def next(self, committed: Callable[[Place], int | None], policy: str) -> Raw | None:
        """The next message, None if there is none yet; raises kafkalite's errors and `KafkaException`."""
        found = next(self._run, None)
        while found is None:
            batch = self._next_batch(committed, policy)
            if batch is None:
                return None
            self._run = messages(batch)
            found = next(self._run, None)
        self.position = found._offset + 1
        return found

    def _next_batch(self, committed: Callable[[Place], int | None], policy: str) -> Any:
        topic, number = self._topic_handle(), self.place[1]
        if self.position is None:
            self.position = self._resolved(topic, committed, policy)
        for _ in range(2):
            try:
                if self._batches is None:
                    self._batches = topic.batches(number, start=self.position)
                found = next(self._batches, None)
            except kafkalite.OffsetOutOfRangeError:
                why = "fetch failed due to requested offset not available on the broker: Broker: Offset out of range"
                self._batches, self.position = None, reset_offset(topic, number, policy, why)
            else:
                if found is None:
                    self._batches = None  # what was there has been read: ask again next time
                return found
        return None

    def _topic_handle(self) -> RawTopic:
        if self._topic is None:
            name, number = self.place
            topic = self.cluster.topic(name)
            if number >= topic.partition_count:
                raise failed(Code.UNKNOWN_TOPIC_OR_PART, f"{name} [{number}]: Broker: Unknown topic or partition")
            self._topic = topic
        return self._topic

    def _resolved(self, topic: RawTopic, committed: Callable[[Place], int | None], policy: str) -> int:
        number = self.place[1]
        if self.start >= 0:
            return self.start
        if self.start == OFFSET_BEGINNING:
            return topic.beginning_offsets()[number]
        if self.start == OFFSET_END:
            return topic.end_offsets()[number]
        if self.start in (OFFSET_STORED, OFFSET_INVALID):
            found = committed(self.place)
            why = "no previously committed offset available: Local: No offset stored"
            return found if found is not None else reset_offset(topic, number, policy, why)
        end = topic.end_offsets()[number]
        return max(topic.beginning_offsets()[number], end - (OFFSET_TAIL_BASE - self.start))


class Reading:
    """The lanes of a consumer, read in turn, a batch each."""

    def __init__(
        self, cluster: Cluster, policy: str, committed: Callable[[Place], int | None], *, tells_eof: bool
    ) -> None:
        self._cluster = cluster
        self._policy = policy
        self._committed = committed
        self._tells_eof = tells_eof
        self._order: list[Lane] = []
        self.lanes: dict[Place, Lane] = {}

    def add(self, partitions: Sequence[TopicPartition]) -> None:
        """Read these as well, each from its offset."""
        for one in partitions:
            place = one.topic, one.partition
            start = OFFSET_STORED if one.offset == OFFSET_INVALID else one.offset
            lane = self.lanes[place] = Lane(self._cluster, place, start)
            self._order.append(lane)

    def remove(self, places: Sequence[Place]) -> None:
        """Read these no more."""
        for place in places:
            self._order.remove(self.lanes.pop(place))

    def take(self, most: int, timeout: float) -> list[Raw]:
        """Up to `most` messages; waits up to `timeout` seconds for the first."""
        deadline = time.monotonic() + timeout
        pause = FIRST_PAUSE
        while True:
            found = self._collected(most)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _collected(self, most: int) -> list[Raw]:
        found: list[Raw] = []
        for lane in list(self._order):
            while len(found) < most:
                message = None if lane.is_paused else self._next(lane)
                if message is None:
                    break
                found.append(message)
                if message.error() is not None:
                    break
            if len(found) >= most:
                break
            self._order.append(self._order.pop(0))
        return found

    def _next(self, lane: Lane) -> Raw | None:
        if lane.silent_until and time.monotonic() < lane.silent_until:
            return None
        try:
            found = lane.next(self._committed, self._policy)
        except kafkalite.KafkaliteError as error:
            return self._failed(lane, error_of(error))
        except Exception as error:
            known = error.args[0] if error.args else None
            if isinstance(known, KafkaError):
                return self._failed(lane, known)
            raise
        if found is None and self._tells_eof and lane.position is not None and lane.eof_at != lane.position:
            lane.eof_at = lane.position
            text = f"Fetch from broker 1 reached end of partition at offset {lane.position}"
            return error_message(lane.place, KafkaError(Code.PARTITION_EOF, text), lane.position)
        return found

    def _failed(self, lane: Lane, error: KafkaError) -> Raw | None:
        """The error as a message, the first time; then the lane is tried again now and then without a word."""
        is_first = lane.silent_until == 0.0
        lane.silent_until = time.monotonic() + RETRY_SECONDS
        lane._topic = None
        return error_message(lane.place, error, lane.start if lane.start >= 0 else OFFSET_INVALID) if is_first else None
