"""The record batch's envelope: Kafka's 61-byte v2 header, field for field, big-endian.

    at  size  field
     0     8  base offset                  assigned at the append
     8     4  batch length                 bytes after this field: 49 + payload
    12     4  partition leader epoch       assigned at the append
    16     1  magic                        2 = Kafka v2 records (`kafka_v2`), 107 = native columns (`native`)
    17     4  checksum                     magic 2: CRC-32C from 21 on; native: low half of `batch_digest`
    21     2  attributes                   bits 0-2 codec, 3 log-append time, 4 transactional, 5 control,
                                           6 delete horizon
    23     4  last offset delta            last offset - base offset: compaction keeps it when records go
    27     8  base timestamp               of the first record, ms
    35     8  max timestamp                ms; the timestamp of all records when bit 3 is set
    43     8  producer id                  -1 without idempotence
    51     2  producer epoch
    53     4  base sequence
    57     4  record count
    61        payload

The first 21 bytes, `prefix` here, are known only when a batch is appended; the next 40, `fields`, and the
payload are sealed before the write lock is taken. Neither checksum covers the prefix: the frame around a
batch does.
"""

from struct import Struct
from typing import Final, NamedTuple

from kafkalite.errors import CorruptRecordError
from kafkalite.records.checksum import MASK32, batch_digest, crc32c, hash64

PREFIX: Final = Struct(">qiibI")
FIELDS: Final = Struct(">hiqqqhii")
PREFIX_SIZE: Final = 21
FIELDS_SIZE: Final = 40
HEADER_SIZE: Final = 61
LENGTH_FIELD_END: Final = 12
LENGTH_OVERHEAD: Final = HEADER_SIZE - LENGTH_FIELD_END
assert PREFIX.size == PREFIX_SIZE
assert FIELDS.size == FIELDS_SIZE
assert HEADER_SIZE == PREFIX_SIZE + FIELDS_SIZE

MAGIC_V2: Final = 2
MAGIC_NATIVE: Final = 107
MAGICS: Final = (MAGIC_V2, MAGIC_NATIVE)

CODEC_BITS: Final = 0x07
LOG_APPEND_TIME: Final = 0x08
TRANSACTIONAL: Final = 0x10
CONTROL: Final = 0x20
DELETE_HORIZON: Final = 0x40
NO_PRODUCER: Final = -1
MAX_BATCH_RECORDS: Final = 100_000

_pack_prefix = PREFIX.pack
_pack_fields = FIELDS.pack
_new = tuple.__new__


class SealedBatch(NamedTuple):
    """A batch complete but for its place: what a producer hands to the commit."""

    magic: int
    checksum: int
    fields: bytes
    payload: bytes
    digest: int
    count: int  # type: ignore[assignment]  # a batch is no tuple to count in
    last_offset_delta: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int

    @property
    def size(self) -> int:
        """Bytes of the whole batch."""
        return HEADER_SIZE + len(self.payload)

    def prefix(self, base_offset: int, leader_epoch: int) -> bytes:
        """The first 21 bytes, now that the batch has its place."""
        return _pack_prefix(base_offset, LENGTH_OVERHEAD + len(self.payload), leader_epoch, self.magic, self.checksum)


class Envelope(NamedTuple):
    """A batch's header, read; the fields of the layout in order."""

    base_offset: int
    batch_length: int
    leader_epoch: int
    magic: int
    checksum: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int  # type: ignore[assignment]  # a batch is no tuple to count in

    @property
    def last_offset(self) -> int:
        """Offset of the last record that the batch was sealed with, inclusive."""
        return self.base_offset + self.last_offset_delta

    @property
    def codec(self) -> int:
        """Kafka's number of the payload's compression."""
        return self.attributes & CODEC_BITS

    @property
    def is_control(self) -> bool:
        """Whether it holds a control record, which no user sees."""
        return bool(self.attributes & CONTROL)

    @property
    def is_transactional(self) -> bool:
        """Whether a control batch decides about its records."""
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def is_log_append_time(self) -> bool:
        """Whether the max timestamp is every record's."""
        return bool(self.attributes & LOG_APPEND_TIME)


def seal(
    payload: bytes,
    count: int,
    base_timestamp: int,
    max_timestamp: int,
    attributes: int = 0,
    last_offset_delta: int | None = None,
    producer_id: int = NO_PRODUCER,
    producer_epoch: int = -1,
    base_sequence: int = -1,
    *,
    magic: int = MAGIC_NATIVE,
) -> SealedBatch:
    """Seal a payload of `count` records; only base offset and leader epoch are still to come."""
    delta = count - 1 if last_offset_delta is None else last_offset_delta
    fields = _pack_fields(
        attributes, delta, base_timestamp, max_timestamp, producer_id, producer_epoch, base_sequence, count
    )
    digest = batch_digest(fields, payload)
    checksum = digest & MASK32 if magic == MAGIC_NATIVE else crc32c(fields, payload)
    return _new(SealedBatch, (
        magic, checksum, fields, payload, digest, count, delta, max_timestamp,
        producer_id, producer_epoch, base_sequence,
    ))  # fmt: skip


def seal_one(payload: bytes, timestamp: int, attributes: int) -> SealedBatch:
    """`seal` for a native batch of one without a producer: fewer arguments and calls, the same bytes."""
    fields = _pack_fields(attributes, 0, timestamp, timestamp, NO_PRODUCER, -1, -1, 1)
    digest = hash64(payload, hash64(fields))
    return _new(SealedBatch, (
        MAGIC_NATIVE, digest & MASK32, fields, payload, digest, 1, 0, timestamp, NO_PRODUCER, -1, -1,
    ))  # fmt: skip


def parse(batch: bytes | memoryview) -> Envelope:
    """Read the header of a batch; raises `CorruptRecordError` when it cannot be one."""
    if len(batch) < HEADER_SIZE:
        raise CorruptRecordError(f"a record batch of {len(batch)} bytes is shorter than its {HEADER_SIZE}-byte header")
    envelope = Envelope(*PREFIX.unpack_from(batch), *FIELDS.unpack_from(batch, PREFIX_SIZE))
    if envelope.batch_length != len(batch) - LENGTH_FIELD_END or envelope.magic not in MAGICS:
        raise CorruptRecordError(
            f"a record batch of {len(batch)} bytes says length {envelope.batch_length} and magic {envelope.magic}"
        )
    if not 0 <= envelope.count <= envelope.last_offset_delta + 1 or envelope.base_offset < 0:
        raise CorruptRecordError(
            f"a record batch says {envelope.count} records from offset {envelope.base_offset},"
            f" the last {envelope.last_offset_delta} behind it"
        )
    return envelope


def verify(batch: bytes | memoryview) -> Envelope:
    """`parse`, and the batch's own checksum: what a batch that came over a wire must pass."""
    envelope = parse(batch)
    fields = bytes(batch[PREFIX_SIZE:HEADER_SIZE])
    payload = memoryview(batch)[HEADER_SIZE:]
    native = envelope.magic == MAGIC_NATIVE
    checksum = batch_digest(fields, payload) & MASK32 if native else crc32c(fields, payload)
    if checksum != envelope.checksum:
        raise CorruptRecordError(
            f"the batch at offset {envelope.base_offset} has checksum {envelope.checksum:#x},"
            f" its bytes give {checksum:#x}"
        )
    return envelope


def resealed(batch: bytes) -> SealedBatch:
    """A whole batch that came as bytes, to be appended as it is: its place is assigned anew."""
    envelope = verify(batch)
    fields, payload = batch[PREFIX_SIZE:HEADER_SIZE], batch[HEADER_SIZE:]
    return SealedBatch(
        envelope.magic,
        envelope.checksum,
        fields,
        payload,
        batch_digest(fields, payload),
        envelope.count,
        envelope.last_offset_delta,
        envelope.max_timestamp,
        envelope.producer_id,
        envelope.producer_epoch,
        envelope.base_sequence,
    )
