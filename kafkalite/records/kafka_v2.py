"""The v2 payload: Kafka's own records, as Kafka's clients write and read them over the wire (KIP-98).

The records of a batch stand one after another, compressed together when the attributes name a codec. A varint
is zigzag (0, -1, 1, -2 … become 0, 1, 2, 3 …), then seven bits a byte, low ones first, the top bit set on all
bytes but the last:

    length            varint    bytes of this record after this field
    attributes        1 byte    none is defined; written 0, ignored when read
    timestamp delta   varlong   ms after the base timestamp (may be negative)
    offset delta      varint    offset - base offset, rising (compaction leaves gaps)
    key length        varint    -1 is Kafka's null; then the key
    value length      varint    -1 is Kafka's null; then the value
    header count      varint    then each: length, UTF-8 of its name, length (-1 is null), bytes of its value

Key `k`, value `hi` at base offset and base timestamp: `12 00 00 00 02 6b 04 68 69 00`, where 12 is 9 bytes.

Clients send such batches and they are stored as they came; in-process producers write `native`, far cheaper
in Python. Whatever the bytes are, reading them gives columns or raises `CorruptRecordError`, with memory in
proportion to the payload: the header's record count is believed only as far as the payload can hold it.
"""

from collections.abc import Sequence
from itertools import count as counting
from itertools import repeat
from operator import lt
from typing import Final, NoReturn

from kafkalite.errors import CorruptRecordError, SerializationError
from kafkalite.records import compression
from kafkalite.records.envelope import LOG_APPEND_TIME, MAGIC_V2, Envelope, SealedBatch, seal
from kafkalite.records.native import NO_HEADERS, Columns, HeaderTuple

LEAST_RECORD_SIZE: Final = 7
LEAST_HEADER_SIZE: Final = 2
UINT32_MAX: Final = 2**32 - 1
UINT64_MAX: Final = 2**64 - 1


class _Varints(dict[int, bytes]):
    """Number to varint: the small ones kept, any other made when asked for."""

    def __missing__(self, number: int) -> bytes:
        if not -(2**63) <= number < 2**63:
            raise SerializationError(f"{number} does not fit the 64 bits that Kafka's v2 format has for it")
        left = (number << 1) ^ (number >> 63)
        groups = bytearray()
        while left > 0x7F:
            groups.append(left & 0x7F | 0x80)
            left >>= 7
        groups.append(left)
        return bytes(groups)


_varints: Final = _Varints()
_varints.update([(number, _varints[number]) for number in range(-1, 256)])
NULL: Final = _varints[-1]
ZERO: Final = _varints[0]


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
    """Pack and seal records given as columns, as `native.encode` does; the checksum needs the `wire` extra.

    Raises `SerializationError` when a header's name is not valid text or a delta needs more than 64 bits.
    """
    if offset_deltas and last_offset_delta is None:
        last_offset_delta = offset_deltas[-1]
    columns = (keys, timestamp_deltas, headers, offset_deltas)
    assert all(column is None or len(column) == len(values) for column in columns)
    pieces: list[bytes] = []
    for value, key, timestamp, offset, named in zip(
        values,
        keys or repeat(None),
        timestamp_deltas or repeat(0),
        offset_deltas or counting(),
        headers or repeat(None),
        strict=False,  # what stands in for an absent column has no end
    ):
        record = b"".join(
            (
                b"\0",
                _varints[timestamp],
                _varints[offset],
                NULL if key is None else _varints[len(key)],
                key or b"",
                NULL if value is None else _varints[len(value)],
                value or b"",
                _pack_headers(named) if named else ZERO,
            )
        )
        pieces += (_varints[len(record)], record)
    payload = b"".join(pieces)
    if codec:
        payload = compression.compress(codec, payload)
    return seal(
        payload,
        count=len(values),
        base_timestamp=base_timestamp,
        max_timestamp=base_timestamp + (max(timestamp_deltas) if timestamp_deltas else 0),
        attributes=attributes | codec,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
        last_offset_delta=last_offset_delta,
        magic=MAGIC_V2,
    )


def _pack_headers(headers: HeaderTuple) -> bytes:
    pieces = [_varints[len(headers)]]
    for name, value in headers:
        try:
            text = name.encode()
        except UnicodeEncodeError as error:
            raise SerializationError(f"a header's name cannot be written as UTF-8: {error}") from error
        pieces += (_varints[len(text)], text, NULL if value is None else _varints[len(value)], value or b"")
    return b"".join(pieces)


def decode(envelope: Envelope, payload: bytes | memoryview) -> Columns:
    """The columns of a v2 batch, offsets and timestamps absolute; raises `CorruptRecordError`."""
    if envelope.codec:
        payload = compression.decompress(envelope.codec, payload)
    if envelope.count * LEAST_RECORD_SIZE > len(payload):
        raise _corrupt(envelope, f"says {envelope.count} records, its payload has {len(payload)} bytes")
    try:
        # A slice of bytes is what a record needs; slices of a view would each be copied again.
        timestamps, offsets, keys, values, headers = _records(bytes(payload), envelope.count)
    except IndexError as error:
        raise _corrupt(envelope, "ends inside a record") from error
    except ValueError as error:  # also a name that is not UTF-8
        raise _corrupt(envelope, str(error)) from error
    return Columns(_offsets(envelope, offsets), _timestamps(envelope, timestamps), keys, values, headers)


_Records = tuple[list[int], list[int], list[bytes | None], list[bytes | None], list[HeaderTuple]]


def _records(data: bytes, count: int) -> _Records:  # noqa: PLR0915  (one loop, varints read in place: calls cost more)
    """Timestamp deltas, offset deltas, keys, values and headers.

    Varints of one and two bytes are read in place: a call for each field takes twice as long. A slice that
    runs out of the payload is short without a word, but the header count behind it is then an `IndexError`;
    one that runs out of its record is noticed at the record's end.
    """
    timestamps: list[int] = []
    offsets: list[int] = []
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    headers: list[HeaderTuple] = []
    at = 0
    for _ in range(count):
        length = data[at]
        at += 1
        if length > 0x7F:
            if data[at] > 0x7F:
                length, at = _varint(data, at - 1, UINT32_MAX)
            else:
                length += (data[at] << 7) - 0x80
                at += 1
        end = at + (length >> 1)
        number = data[at + 1]  # behind the attributes
        at += 2
        if number > 0x7F:
            if data[at] > 0x7F:
                number, at = _varint(data, at - 1, UINT64_MAX)
            else:
                number += (data[at] << 7) - 0x80
                at += 1
        timestamps.append(number >> 1 ^ -(number & 1))
        number = data[at]
        at += 1
        if number > 0x7F:
            if data[at] > 0x7F:
                number, at = _varint(data, at - 1, UINT32_MAX)
            else:
                number += (data[at] << 7) - 0x80
                at += 1
        offsets.append(number >> 1 ^ -(number & 1))
        number = data[at]
        start = at = at + 1
        if number > 0x7F:
            number, start = _varint(data, at - 1, UINT32_MAX)
        at = start + (number >> 1)
        keys.append(data[start:at] if not number & 1 else None if number == 1 else _refuse(number))
        number = data[at]
        start = at = at + 1
        if number > 0x7F:
            number, start = _varint(data, at - 1, UINT32_MAX)
        at = start + (number >> 1)
        values.append(data[start:at] if not number & 1 else None if number == 1 else _refuse(number))
        if data[at]:
            named, at = _headers(data, at, end)
            headers.append(named)
        else:
            at += 1
            headers.append(NO_HEADERS)
        if at != end or length & 1:
            raise ValueError(f"has a record of another length than the {length >> 1} bytes it says")
    if at != len(data):
        raise ValueError(f"has {len(data) - at} bytes behind its {count} records")
    return timestamps, offsets, keys, values, headers


def _headers(data: bytes, at: int, end: int) -> tuple[HeaderTuple, int]:
    """The headers that start with their count at `at`, and where they end, which is not beyond `end`."""
    number, at = _varint(data, at, UINT32_MAX)
    if number & 1 or (number >> 1) * LEAST_HEADER_SIZE > end - at:
        raise ValueError(f"has a record of {number >> 1} headers in {end - at} bytes")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(number >> 1):
        size, at = _varint(data, at, UINT32_MAX)
        if size & 1:
            raise ValueError("has a header without a name")
        start, at = at, at + (size >> 1)
        name = data[start:at].decode()
        size, at = _varint(data, at, UINT32_MAX)
        start, at = at, at + (size >> 1)
        headers.append((name, data[start:at] if not size & 1 else None if size == 1 else _refuse(size)))
    if at > min(end, len(data)):
        raise ValueError("has headers that run out of their record")
    return tuple(headers), at


def _varint(data: bytes, at: int, greatest: int) -> tuple[int, int]:
    """The unsigned number (zigzag still in it) that starts at `at`, and where it ends."""
    number = shift = 0
    while True:
        group = data[at]
        at += 1
        number |= (group & 0x7F) << shift
        if number > greatest or shift >= greatest.bit_length():
            raise ValueError(f"has a varint that goes beyond {greatest}")
        if group < 0x80:
            return number, at
        shift += 7


def _refuse(number: int) -> NoReturn:
    """A negative length, still zigzag, other than the -1 of null."""
    raise ValueError(f"has a length of {-(number >> 1) - 1}")


def _offsets(envelope: Envelope, deltas: list[int]) -> Sequence[int]:
    base = envelope.base_offset
    if deltas == list(range(len(deltas))):
        return range(base, base + len(deltas))
    if deltas[0] < 0 or deltas[-1] > envelope.last_offset_delta or not all(map(lt, deltas, deltas[1:])):
        raise _corrupt(envelope, f"has offset deltas that do not rise from 0 to {envelope.last_offset_delta}")
    return [base + delta for delta in deltas]


def _timestamps(envelope: Envelope, deltas: list[int]) -> Sequence[int]:
    if envelope.attributes & LOG_APPEND_TIME:
        return (envelope.max_timestamp,) * len(deltas)
    base = envelope.base_timestamp
    return [base + delta for delta in deltas]


def _corrupt(envelope: Envelope, trouble: str) -> CorruptRecordError:
    return CorruptRecordError(f"the v2 batch at offset {envelope.base_offset} {trouble}")
