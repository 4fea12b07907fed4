"""Control records: the marks by which a transaction over the wire ends, in Kafka's schemas (KIP-98).

A control batch has the bits CONTROL and TRANSACTIONAL, the producer id and epoch of the transaction it ends,
and one record, big-endian:

    key      int16 version, 0     int16 type: 0 abort, 1 commit
    value    int16 version, 0     int32 coordinator epoch

It takes an offset and is never handed to a user. A later version may only add fields at the end, so what is
behind the known ones is passed over; a type not known here is given as its number, for the reader to skip.
"""

import struct
from struct import Struct
from typing import Final, NamedTuple

from kafkalite.errors import CorruptRecordError
from kafkalite.records import batch, native
from kafkalite.records.envelope import CONTROL, TRANSACTIONAL, Envelope, SealedBatch

KEY: Final = Struct(">hh")
VALUE: Final = Struct(">hi")
VERSION: Final = 0
ABORT: Final = 0
COMMIT: Final = 1


class Marker(NamedTuple):
    """A control record read; `coordinator_epoch` is -1 for a type other than `ABORT` and `COMMIT`."""

    type: int
    coordinator_epoch: int


def encode(
    kind: int, *, producer_id: int, producer_epoch: int, coordinator_epoch: int, timestamp_ms: int
) -> SealedBatch:
    """The batch of one marker, `ABORT` or `COMMIT`, sealed."""
    assert kind in (ABORT, COMMIT)
    return native.encode(
        [VALUE.pack(VERSION, coordinator_epoch)],
        keys=[KEY.pack(VERSION, kind)],
        base_timestamp=timestamp_ms,
        attributes=CONTROL | TRANSACTIONAL,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
    )


def decode(envelope: Envelope, payload: bytes | memoryview) -> Marker:
    """The marker of a control batch, native or v2; raises `CorruptRecordError` for anything else."""
    columns = batch.columns(envelope, payload)
    if not envelope.is_control or len(columns.keys) != 1:
        raise CorruptRecordError(
            f"the batch at offset {envelope.base_offset} is no control batch of one record: attributes"
            f" {envelope.attributes:#x}, {len(columns.keys)} records"
        )
    key, value = columns.keys[0] or b"", columns.values[0] or b""
    try:
        version, kind = KEY.unpack_from(key)
        value_version, epoch = VALUE.unpack_from(value) if kind in (ABORT, COMMIT) else (VERSION, -1)
    except struct.error as error:
        raise _unreadable(envelope, key, value) from error
    if version < VERSION or value_version < VERSION:
        raise _unreadable(envelope, key, value)
    return Marker(kind, epoch)


def _unreadable(envelope: Envelope, key: bytes, value: bytes) -> CorruptRecordError:
    return CorruptRecordError(
        f"the control record at offset {envelope.base_offset} is no marker of a transaction:"
        f" key {key[:16].hex()}, value {value[:16].hex()}"
    )
