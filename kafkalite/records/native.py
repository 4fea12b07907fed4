"""The native payload: one batch as columns, packed and unpacked by whole-batch C calls.

A msgpack array of five, compressed when the attributes name a codec:

    [values, keys, timestamp deltas, headers, offset deltas]

    values            array of bin or nil (nil is Kafka's null), one for each record
    keys              nil when all are null, else array of bin or nil
    timestamp deltas  nil when all are 0, else array of int: ms after the base timestamp (may be negative)
    headers           nil when none has any, else array of nil or array of [str, bin or nil]
    offset deltas     nil when they are 0, 1, 2 …, else array of int: offset - base offset, rising (compaction
                      leaves gaps)

Rows instead of columns cost 128 ns a record to pack where columns cost 51; Kafka's varints cost microseconds.
"""

from collections.abc import Callable, Sequence
from operator import lt
from typing import Any, Final, NamedTuple

import msgpack

from kafkalite.errors import CorruptRecordError, SerializationError
from kafkalite.records import compression
from kafkalite.records.envelope import LOG_APPEND_TIME, Envelope, SealedBatch, seal, seal_one

HeaderTuple = tuple[tuple[str, bytes | None], ...]
NO_HEADERS: Final[HeaderTuple] = ()
COLUMN_COUNT: Final = 5

_pack: Callable[[object], bytes] = msgpack.Packer().pack
"""One for all threads: packing bytes and numbers runs no Python code, so none comes in between."""


class Columns(NamedTuple):
    """A batch read: one sequence for each part of a record, all of one length."""

    offsets: Sequence[int]
    timestamps_ms: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[HeaderTuple]


def encode(
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    base_timestamp: int,
    timestamp_deltas: Sequence[int] | None = None,
    headers: Sequence[HeaderTuple | None] | None = None,
    offset_deltas: Sequence[int] | None = None,
    codec: int = compression.NONE,
    attributes: int = 0,
    producer_id: int = -1,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    last_offset_delta: int | None = None,
) -> SealedBatch:
    """Pack and seal columns; deltas that are all zero may be given as they are.

    Raises `SerializationError` when a header's name is not valid text.
    """
    latest = 0
    if timestamp_deltas is not None:
        latest = max(timestamp_deltas)
        if not latest and not any(timestamp_deltas):
            timestamp_deltas = None
    if offset_deltas and last_offset_delta is None:
        last_offset_delta = offset_deltas[-1]
    try:
        payload = _pack((values, keys, timestamp_deltas, headers, offset_deltas))
    except UnicodeEncodeError as error:
        raise _no_text(error) from error
    if codec:
        payload = compression.compress(codec, payload)
    return seal(
        payload, len(values), base_timestamp, base_timestamp + latest, attributes | codec, last_offset_delta,
        producer_id, producer_epoch, base_sequence,
    )  # fmt: skip


def encode_one(
    value: bytes | None,
    key: bytes | None,
    timestamp: int,
    headers: HeaderTuple | None,
    attributes: int,
    codec: int,
) -> SealedBatch:
    """`encode` for a batch of one without a producer, at half the cost: the same bytes."""
    try:
        payload = _pack(
            ((value,), None if key is None else (key,), None, None if headers is None else (headers,), None)
        )
    except UnicodeEncodeError as error:
        raise _no_text(error) from error
    if codec:
        payload = compression.compress(codec, payload)
    return seal_one(payload, timestamp, attributes | codec)


def _no_text(error: UnicodeEncodeError) -> SerializationError:
    return SerializationError(f"a header's name cannot be written as UTF-8: {error}")


def decode(envelope: Envelope, payload: bytes | memoryview) -> Columns:
    """The columns of a native batch, offsets and timestamps absolute; raises `CorruptRecordError`."""
    if envelope.codec:
        payload = compression.decompress(envelope.codec, payload)
    try:
        columns = msgpack.unpackb(payload, use_list=False)
        values, keys, timestamp_deltas, headers, offset_deltas = columns
        count = len(values)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise CorruptRecordError(_where(envelope, f"is no msgpack array of columns: {error}")) from error
    if count != envelope.count:
        raise CorruptRecordError(_where(envelope, f"has {count} values, its header says {envelope.count}"))
    base = envelope.base_offset
    return Columns(
        range(base, base + count) if offset_deltas is None else _offsets(envelope, offset_deltas),
        _timestamps(envelope, timestamp_deltas),
        (None,) * count if keys is None else _column(envelope, "keys", keys),
        _column(envelope, "values", values),
        (NO_HEADERS,) * count if headers is None else _headers(envelope, headers),
    )


def _headers(envelope: Envelope, headers: Any) -> list[HeaderTuple]:
    return [header or NO_HEADERS for header in _column(envelope, "headers", headers)]


def _offsets(envelope: Envelope, deltas: Any) -> list[int]:
    offsets = _shifted(envelope, "offset", envelope.base_offset, deltas)
    if offsets and not (envelope.base_offset <= offsets[0] and offsets[-1] <= envelope.last_offset):
        span = f"0 to {envelope.last_offset_delta}"
        raise CorruptRecordError(_where(envelope, f"has offset deltas beyond {span}"))
    if not all(map(lt, offsets, offsets[1:])):
        raise CorruptRecordError(_where(envelope, "has offset deltas that do not rise"))
    return offsets


def _timestamps(envelope: Envelope, deltas: Sequence[int] | None) -> Sequence[int]:
    if envelope.attributes & LOG_APPEND_TIME:
        return (envelope.max_timestamp,) * envelope.count
    if deltas is None:
        return (envelope.base_timestamp,) * envelope.count
    return _shifted(envelope, "timestamp", envelope.base_timestamp, deltas)


def _shifted(envelope: Envelope, name: str, base: int, deltas: Any) -> list[int]:
    column = _column(envelope, f"{name} deltas", deltas)
    try:
        if type(sum(column)) is int:  # one float among integers would make it a float
            return [base + delta for delta in column]
    except TypeError:
        pass
    raise CorruptRecordError(_where(envelope, f"has {name} deltas that are no integers"))


def _column(envelope: Envelope, name: str, column: Any) -> Sequence[Any]:
    if not isinstance(column, tuple) or len(column) != envelope.count:
        trouble = f"has {name} that do not match its {envelope.count} values"
        raise CorruptRecordError(_where(envelope, trouble))
    return column


def _where(envelope: Envelope, trouble: str) -> str:
    return f"the native batch at offset {envelope.base_offset} {trouble}"
