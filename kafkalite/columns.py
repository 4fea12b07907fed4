"""From what a user hands over to sealed batches: serdes, partitions, sizes, timestamps, columns.

Shared by `Topic.append`, `Topic.append_many` and `Producer`: one place decides what a record may be. What is asked of
each record is asked of the whole column by one C call; only when that fails is the culprit looked for.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from typing import Any, Final, Generic, TypeVar

from kafkalite import clock
from kafkalite.config import MIB
from kafkalite.errors import ConfigError, RecordTooLargeError, SerializationError, UnknownPartitionError
from kafkalite.model import Headers
from kafkalite.partitioner import KeyPartitions
from kafkalite.records import compression, native
from kafkalite.records.envelope import LOG_APPEND_TIME, MAX_BATCH_RECORDS, SealedBatch
from kafkalite.records.native import NO_HEADERS, HeaderTuple
from kafkalite.serde import BatchSerde
from kafkalite.storage.catalogue import TopicState

K = TypeVar("K")
V = TypeVar("V")

BATCH_BYTES: Final = MIB
JOINED_VALUES: Final = 4096
"""Up to so many values their bytes are counted by joining them: half the time, for a copy that is thrown away."""
INT64_LIMIT: Final = 2**63

_wall_ns = clock.wall_ns
_Plan = tuple[dict[str, Any], int, int, int | None]
"""The settings that were looked at, `max_message_bytes`, a batch's attributes, and its codec if the topic has one."""


def header_tuple(headers: Headers) -> HeaderTuple:
    """Headers as stored; raises `SerializationError` unless they are pairs of str and bytes or None."""
    if not headers:
        return NO_HEADERS
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    try:
        result = tuple([(name, value) for name, value in pairs])
    except (TypeError, ValueError) as error:
        raise SerializationError(
            f"headers={headers!r} are not pairs: give (str, bytes | None) each, or a mapping"
        ) from error
    for name, value in result:
        if type(name) is not str or not (value is None or type(value) is bytes) or _has_lone_surrogate(name):
            raise SerializationError(f"the header ({name!r}, {value!r}) is not valid: give (str, bytes | None)")
    return result


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def header_size(headers: HeaderTuple) -> int:
    """Bytes of a record's headers, as far as limits count them."""
    return sum(len(name) + (len(value) if value else 0) for name, value in headers)


def check_timestamp(timestamp_ms: Any) -> int:
    """A record's timestamp: milliseconds since 1970 UTC, not negative; raises `ConfigError`."""
    if type(timestamp_ms) is not int or not 0 <= timestamp_ms < INT64_LIMIT:
        raise ConfigError(
            f"timestamp_ms={timestamp_ms!r} is not valid: give milliseconds since 1970 UTC as an int, 0 or more"
        )
    return timestamp_ms


def too_large(state: TopicState, size: int) -> RecordTooLargeError:
    """The error for a record of that size."""
    return RecordTooLargeError(
        f"a record of {size} bytes exceeds max_message_bytes={state.settings['max_message_bytes']} of topic "
        f"{state.name!r}: "
        "raise it with topic.alter(max_message_bytes=…), or split the value"
    )


class TopicEncoder(Generic[K, V]):
    """Turns keys and values of one topic into batches. Shared by threads.

    `current` brings the topic's state up to date: what it is asked for may have been added by another process.
    """

    def __init__(
        self,
        state: TopicState,
        key: BatchSerde[K],
        value: BatchSerde[V],
        current: Callable[[TopicState], TopicState],
    ) -> None:
        self.state = state
        self._current = current
        self.serialize_key = key.serialize
        self.serialize_value = value.serialize
        self.takes_bytes_as_key = key.is_identity
        self.takes_bytes = value.is_identity
        self._key = key
        self._value = value
        self.partitions = KeyPartitions(state.partition_count)
        self._turn = 0
        self._plan: _Plan = self._planned()

    def _planned(self) -> _Plan:
        """What the topic's settings mean for a batch, kept until they are others."""
        settings = self.state.settings
        attributes = LOG_APPEND_TIME if settings["message_timestamp_type"] == "LogAppendTime" else 0
        codec = None if settings["compression_type"] == "producer" else compression.CODECS[settings["compression_type"]]
        self._plan = (settings, settings["max_message_bytes"], attributes, codec)
        return self._plan

    def check_partition(self, partition: int) -> None:
        """Raise `UnknownPartitionError` unless the topic has this partition by now."""
        try:
            self.state.log_id(partition)
        except UnknownPartitionError:
            self._current(self.state).log_id(partition)

    def partition_of(self, key: bytes) -> int:
        """The partition that Kafka's default partitioner gives the key."""
        if self.partitions.partition_count != self.state.partition_count:
            self.partitions = KeyPartitions(self.state.partition_count)
        return self.partitions[key]

    def key_partitions(self) -> KeyPartitions:
        """Where keys go, over the partitions that there are."""
        self.partition_of(b"")
        return self.partitions

    def next_turn(self) -> int:
        """The partition for records without a key: each batch the next one."""
        count = self.state.partition_count
        if count == 1:
            return 0
        self._turn = turn = (self._turn + 1) % count
        return turn

    def one(
        self,
        value: V,
        key: K | None,
        partition: int | None,
        headers: Headers,
        timestamp_ms: int | None,
        expected: int | None,
    ) -> tuple[int, SealedBatch]:
        """A batch of one, and its partition."""
        state = self.state
        settings, most, attributes, codec = self._plan
        if settings is not state.settings:
            settings, most, attributes, codec = self._planned()
        if expected is not None:
            self._check_expected(expected, partition)
        is_plain = value.__class__ is bytes and self.takes_bytes
        raw: Any = value if is_plain else self.serialize_value(value)
        size = len(raw) if raw else 0
        raw_key = pairs = None
        if key is not None:
            raw_key = self.serialize_key(key)
            size += len(raw_key) if raw_key else 0
        if headers:
            pairs = header_tuple(headers)
            size += header_size(pairs)
        if size > most:
            raise too_large(state, size)
        if partition is not None:
            try:
                state.log_id(partition)
            except UnknownPartitionError:
                self.check_partition(partition)
        elif raw_key is not None:
            partition = self.partition_of(raw_key)
        else:
            partition = self.next_turn()
        if timestamp_ms is None:
            timestamp_ms = _wall_ns() // 1_000_000
        else:
            check_timestamp(timestamp_ms)
            if attributes:
                timestamp_ms = clock.now_ms()
        return partition, native.encode_one(raw, raw_key, timestamp_ms, pairs, attributes, codec or compression.NONE)

    def _check_expected(self, expected: Any, partition: int | None) -> None:
        if type(expected) is not int or expected < 0:
            raise ConfigError(f"expected_end_offset={expected!r} is not valid: give an offset, 0 or more")
        if partition is None and self.state.partition_count > 1:
            raise ConfigError("expected_end_offset= is about one partition: give partition= as well")

    def seal(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None,
        base_timestamp: int,
        deltas: Sequence[int] | None,
        headers: Sequence[HeaderTuple | None] | None,
        *,
        codec: int = compression.NONE,
        producer_id: int = -1,
        producer_epoch: int = -1,
        base_sequence: int = -1,
    ) -> SealedBatch:
        """Seal columns under the topic's settings: its compression and its kind of timestamp."""
        settings, _, attributes, forced = self._plan
        if settings is not self.state.settings:
            _, _, attributes, forced = self._planned()
        if attributes:
            base_timestamp, deltas = clock.now_ms(), None
        return native.encode(
            values,
            keys=keys,
            base_timestamp=base_timestamp,
            timestamp_deltas=deltas,
            headers=headers,
            codec=codec if forced is None else forced,
            attributes=attributes,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=base_sequence,
        )

    def many(
        self,
        values: Iterable[V],
        keys: Iterable[K | None] | None,
        partition: int | None,
        headers: Iterable[Headers] | None,
        timestamps_ms: Iterable[int] | None,
        expected: int | None,
    ) -> list[tuple[int, SealedBatch]]:
        """Batches of at most about 1 MiB, with their partitions, in the order of the records."""
        if expected is not None:
            self._check_expected(expected, partition)
        if partition is not None:
            self.check_partition(partition)
        elif self.state.partition_count == 1:
            partition = 0
        if keys is None and headers is None and timestamps_ms is None and partition is not None:
            values = values if isinstance(values, list | tuple) else list(values)
            batch = self._plain_bytes(values)
            if batch is not None:
                return [(partition, batch)]
        columns = self.columns(values, keys, headers, timestamps_ms)
        if not columns.values:
            return []
        return [
            (number, self.seal(*some.sealable()))
            for number, part in self.by_partition(columns, partition)
            for some in part.split(BATCH_BYTES)
        ]

    def _plain_bytes(self, values: Sequence[Any]) -> SealedBatch | None:
        """Values that are bytes, and no more than go into one batch, sealed; None for any others.

        The column is checked by the calls that copy it, without a look at each type: `join` takes nothing but
        buffers, and of these msgpack takes bytes, bytearray and memoryview.
        """
        count = len(values)
        if not (self.takes_bytes and 0 < count <= JOINED_VALUES and type(values[0]) is bytes):
            return None
        most = min(self.state.settings["max_message_bytes"], BATCH_BYTES)
        if len(values[0]) * count > most:  # most likely too many, and not to be copied to find out
            return None
        try:
            return self.seal(values, None, clock.now_ms(), None, None) if len(b"".join(values)) <= most else None
        except TypeError:
            return None

    def columns(
        self,
        values: Iterable[V],
        keys: Iterable[K | None] | None = None,
        headers: Iterable[Headers] | None = None,
        timestamps_ms: Iterable[int] | None = None,
    ) -> "RawColumns":
        """Serialize and check whole columns; raises what is wrong with the first record that something is
        wrong with.
        """
        given = values if isinstance(values, list | tuple) else list(values)
        count = len(given)
        raw = self._value.serialize_many(given)
        raw_keys = None if keys is None else self._key.serialize_many(_as_long(keys, count, "keys"))
        pairs = None if headers is None else [header_tuple(one) for one in _as_long(headers, count, "headers")]
        stamps = None if timestamps_ms is None else _as_long(timestamps_ms, count, "timestamps_ms")
        if (
            stamps is not None
            and count
            and (set(map(type, stamps)) != {int} or min(stamps) < 0 or max(stamps) >= INT64_LIMIT)
        ):
            for stamp in stamps:
                check_timestamp(stamp)
        columns = RawColumns(raw, raw_keys, pairs, stamps)
        columns.check_sizes(self.state)
        return columns

    def by_partition(self, columns: "RawColumns", partition: int | None) -> "list[tuple[int, RawColumns]]":
        """Columns taken apart by partition, each in the order of the whole."""
        count = self.state.partition_count
        if partition is not None:
            return [(partition, columns)]
        if count == 1:
            return [(0, columns)]
        if columns.keys is None:
            return [(self.next_turn(), part) for part in columns.split(max(1, min(BATCH_BYTES, columns.size // count)))]
        keyless = self.next_turn()
        partitions = self.key_partitions()
        places: dict[int, list[int]] = {}
        for number, key in enumerate(columns.keys):
            places.setdefault(keyless if key is None else partitions[key], []).append(number)
        return [(number, columns.pick(chosen)) for number, chosen in places.items()]


class RawColumns:
    """Records as columns of bytes, not yet batched."""

    __slots__ = ("_size", "headers", "keys", "stamps", "values")

    def __init__(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[HeaderTuple] | None = None,
        stamps: Sequence[int] | None = None,
    ) -> None:
        self.values = values
        self.keys = keys
        self.headers = headers if headers and any(headers) else None
        self.stamps = stamps
        self._size = -1

    @property
    def size(self) -> int:
        """Bytes of all keys and values, counted when first asked for."""
        if self._size < 0:
            self._size = _bytes_of(self.values) + (_bytes_of(self.keys) if self.keys else 0)
        return self._size

    def check_sizes(self, state: TopicState) -> None:
        """Raise `RecordTooLargeError` for the first record larger than the topic allows."""
        most = state.settings["max_message_bytes"]
        if self.headers is None and self.size <= most:
            return
        for number, value in enumerate(self.values):
            key = self.keys[number] if self.keys else None
            pairs = self.headers[number] if self.headers else NO_HEADERS
            size = len(value or b"") + len(key or b"") + header_size(pairs)
            if size > most:
                raise too_large(state, size)

    def rows(self) -> Iterator[tuple[int, bytes | None, bytes | None, HeaderTuple]]:
        """Timestamp (0 when it is still to come), key, value and headers of each record."""
        return zip(
            self.stamps or repeat(0), self.keys or repeat(None), self.values, self.headers or repeat(NO_HEADERS),
            strict=False,
        )  # fmt: skip

    def pick(self, chosen: Sequence[int]) -> "RawColumns":
        """The records at these places."""
        return RawColumns(
            [self.values[number] for number in chosen],
            [self.keys[number] for number in chosen] if self.keys else None,
            [self.headers[number] for number in chosen] if self.headers else None,
            [self.stamps[number] for number in chosen] if self.stamps else None,
        )

    def split(self, batch_bytes: int) -> "list[RawColumns]":
        """In runs of about `batch_bytes` each, and never too many records for a batch."""
        count = len(self.values)
        runs = max(1, -(-self.size // max(batch_bytes, 1)), -(-count // MAX_BATCH_RECORDS))
        length = max(1, -(-count // runs))
        if length >= count:
            return [self]
        return [self.slice(at, at + length) for at in range(0, count, length)]

    def slice(self, start: int, end: int) -> "RawColumns":
        """The records from one place to another."""
        return RawColumns(
            self.values[start:end],
            self.keys[start:end] if self.keys else None,
            self.headers[start:end] if self.headers else None,
            self.stamps[start:end] if self.stamps else None,
        )

    def sealable(
        self,
    ) -> tuple[
        Sequence[bytes | None],
        Sequence[bytes | None] | None,
        int,
        Sequence[int] | None,
        Sequence[HeaderTuple | None] | None,
    ]:
        """The arguments of `TopicEncoder.seal`."""
        if self.stamps:
            base = self.stamps[0]
            if self.stamps.count(base) == len(self.stamps):
                return self.values, self.keys, base, None, self.headers
            return self.values, self.keys, base, [stamp - base for stamp in self.stamps], self.headers
        return self.values, self.keys, clock.now_ms(), None, self.headers


def _bytes_of(column: Sequence[bytes | None]) -> int:
    """Bytes of a column, nulls having none."""
    try:
        if len(column) <= JOINED_VALUES:
            return len(b"".join(column))  # type: ignore[arg-type]
        return sum(map(len, column))  # type: ignore[arg-type]  # a null raises, and is rare
    except TypeError:
        return sum(map(len, filter(None, column)))


def _as_long(column: Iterable[Any], count: int, name: str) -> list[Any]:
    """A column as a list, which must have one entry for each value."""
    found = list(islice(column, count + 1))
    if len(found) != count:
        more = "more" if len(found) > count else len(found)
        raise ConfigError(f"{name}= has {more} entries for {count} values: give one for each, None where there is none")
    return found
