"""The envelope: Kafka's 61 bytes, and what a checksum notices."""

from importlib.util import find_spec
from struct import pack_into
from types import ModuleType

import pytest

from kafkalite.errors import CorruptRecordError
from kafkalite.records import compression, kafka_v2, native
from kafkalite.records.envelope import (
    CONTROL,
    HEADER_SIZE,
    LOG_APPEND_TIME,
    MAGIC_NATIVE,
    TRANSACTIONAL,
    SealedBatch,
    parse,
    resealed,
    seal,
    verify,
)

needs_crc32c = pytest.mark.skipif(find_spec("crc32c") is None, reason="CRC-32C needs the wire extra")
both = pytest.mark.parametrize("payload", [native, pytest.param(kafka_v2, marks=needs_crc32c)])


def whole(sealed: SealedBatch, base_offset: int = 5, leader_epoch: int = 2) -> bytes:
    return sealed.prefix(base_offset, leader_epoch) + sealed.fields + sealed.payload


def test_every_field_stands_where_kafka_has_it() -> None:
    sealed = seal(
        b"payload",
        count=3,
        base_timestamp=0x1111,
        max_timestamp=0x2222,
        attributes=TRANSACTIONAL,
        last_offset_delta=9,
        producer_id=0x3333,
        producer_epoch=0x44,
        base_sequence=0x55,
    )
    raw = whole(sealed, 0x66, 0x77)
    assert raw.hex(" ", -4)[: 3 * 8] == "00000000 00000066 000000"
    assert raw[8:12] == (49 + 7).to_bytes(4, "big")
    assert raw[12:16] == b"\0\0\0\x77"
    assert raw[16] == MAGIC_NATIVE
    assert raw[17:21] == sealed.checksum.to_bytes(4, "big")
    assert raw[21:23] == b"\0\x10"
    assert raw[23:27] == b"\0\0\0\x09"
    assert raw[27:43].hex() == "00000000000011110000000000002222"
    assert raw[43:61].hex() == "000000000000333300440000005500000003"
    assert raw[61:] == b"payload"
    assert len(raw) == sealed.size


def test_the_bits_of_the_attributes() -> None:
    sealed = seal(
        b"",
        count=1,
        base_timestamp=0,
        max_timestamp=0,
        attributes=compression.ZSTD | LOG_APPEND_TIME | TRANSACTIONAL | CONTROL,
    )
    envelope = parse(whole(sealed))
    assert envelope.codec == compression.ZSTD
    assert (envelope.is_control, envelope.is_transactional, envelope.is_log_append_time) == (True, True, True)
    plain = parse(whole(seal(b"", count=1, base_timestamp=0, max_timestamp=0)))
    assert (plain.is_control, plain.is_transactional, plain.is_log_append_time) == (False, False, False)
    assert plain.codec == compression.NONE


def test_the_last_offset_is_inclusive() -> None:
    assert parse(whole(native.encode([b"", b"", b""], base_timestamp=0), 10)).last_offset == 12


@both
def test_every_single_bit_flip_of_what_is_sealed_fails_verify(payload: ModuleType) -> None:
    raw = whole(payload.encode([b"value", None], keys=[b"k", None], base_timestamp=1_000))
    verify(raw)
    place = {*range(8), *range(12, 16)}  # base offset and leader epoch: assigned later, outside the seal
    for bit in range(len(raw) * 8):
        if bit // 8 in place:
            continue
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecordError):
            verify(bytes(flipped))


@both
def test_a_place_does_not_change_the_seal(payload: ModuleType) -> None:
    sealed = payload.encode([b"value"], base_timestamp=1_000)
    for base_offset, leader_epoch in [(0, -1), (7, 0), (2**63 - 1, 2**31 - 1)]:
        envelope = verify(whole(sealed, base_offset, leader_epoch))
        assert (envelope.base_offset, envelope.leader_epoch) == (base_offset, leader_epoch)


@both
def test_a_whole_batch_is_sealed_again_as_it_was(payload: ModuleType) -> None:
    sealed = payload.encode(
        [b"value", None],
        base_timestamp=1_000,
        timestamp_deltas=[0, 5],
        producer_id=3,
        producer_epoch=1,
        base_sequence=8,
        offset_deltas=[2, 4],
        last_offset_delta=6,
    )
    assert resealed(whole(sealed)) == sealed


def test_a_batch_that_was_changed_is_not_sealed_again() -> None:
    raw = whole(native.encode([b"value"], base_timestamp=1_000))
    with pytest.raises(CorruptRecordError, match="checksum"):
        resealed(raw[:-8] + bytes(8))


@pytest.mark.parametrize("size", [0, 1, 60])
def test_less_than_a_header_is_no_batch(size: int) -> None:
    with pytest.raises(CorruptRecordError, match=f"{size} bytes is shorter than its 61-byte header"):
        parse(bytes(size))


@pytest.mark.parametrize(
    ("layout", "at", "value"),
    [
        (">q", 0, -1),  # base offset
        (">i", 8, 49),  # length: one less than there is
        (">i", 8, 51),
        (">i", 8, -1),
        ("b", 16, 0),  # magic: Kafka's v0 and v1 are never stored
        ("b", 16, 1),
        (">i", 23, -1),  # last offset delta
        (">i", 57, -1),  # count
        (">i", 57, 3),  # more records than offsets
        (">i", 57, 2**31 - 1),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(layout: str, at: int, value: int) -> None:
    raw = bytearray(whole(seal(b"x", count=2, base_timestamp=0, max_timestamp=0)))
    assert len(raw) == HEADER_SIZE + 1
    pack_into(layout, raw, at, value)
    with pytest.raises(CorruptRecordError):
        parse(bytes(raw))


def test_a_compacted_batch_may_hold_fewer_records_than_offsets_and_none() -> None:
    for count in (0, 1, 5):
        sealed = seal(b"", count=count, base_timestamp=0, max_timestamp=0, last_offset_delta=4)
        assert parse(whole(sealed)).count == count
