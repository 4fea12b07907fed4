"""Both payloads: what is written is read back, they agree with each other, and no bytes do harm."""

import os
import tracemalloc
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kafkalite.errors import CorruptRecordError, KafkaliteError
from kafkalite.records import batch, compression, kafka_v2, native
from kafkalite.records.envelope import (
    HEADER_SIZE,
    LOG_APPEND_TIME,
    MAGIC_NATIVE,
    MAGIC_V2,
    Envelope,
    SealedBatch,
    parse,
    verify,
)

HAS_CRC32C = find_spec("crc32c") is not None
needs_crc32c = pytest.mark.skipif(not HAS_CRC32C, reason="CRC-32C needs the wire extra")
both = pytest.mark.parametrize("payload", [native, pytest.param(kafka_v2, marks=needs_crc32c)])
# Slow on a busy machine is not wrong.
slow = [HealthCheck.too_slow]
unhurried = settings(deadline=None, max_examples=150, suppress_health_check=slow)
thorough = settings(unhurried, max_examples=400)
MIB = 1024 * 1024

contents = st.none() | st.binary(max_size=80)
header_tuples = st.lists(st.tuples(st.text(max_size=8), contents), max_size=3).map(tuple)


@st.composite
def columns(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `encode`: every column present or absent."""
    count = draw(st.integers(0, 12))

    def column(elements: st.SearchStrategy[Any]) -> Any:
        return draw(st.none() | st.lists(elements, min_size=count, max_size=count))

    gaps = column(st.integers(1, 300)) if count else None
    offset_deltas = None if gaps is None else [sum(gaps[: n + 1]) - 1 for n in range(count)]
    last = offset_deltas[-1] if offset_deltas else max(count - 1, 0)
    return {
        "values": draw(st.lists(contents, min_size=count, max_size=count)),
        "keys": column(contents),
        "base_timestamp": draw(st.integers(-1, 2**62)),
        "timestamp_deltas": column(st.integers(-200, 200) | st.integers(-(2**61), 2**61)) if count else None,
        "headers": column(st.none() | header_tuples),
        "offset_deltas": offset_deltas,
        "codec": draw(st.sampled_from([compression.NONE, compression.ZSTD])),
        "attributes": draw(st.sampled_from([0, LOG_APPEND_TIME])),
        "last_offset_delta": last + draw(st.integers(0, 5)),
    }


def whole(sealed: SealedBatch, base_offset: int = 0, leader_epoch: int = 0) -> bytes:
    return sealed.prefix(base_offset, leader_epoch) + sealed.fields + sealed.payload


def lists(read: native.Columns) -> list[list[Any]]:
    return [list(column) for column in read]


def expected(given_columns: dict[str, Any], base_offset: int) -> list[list[Any]]:
    """The columns that must come out, by the plainest reading of the format."""
    values, base = given_columns["values"], given_columns["base_timestamp"]
    count = len(values)
    deltas = given_columns["timestamp_deltas"] or [0] * count
    times = [base + delta for delta in deltas]
    if given_columns["attributes"] & LOG_APPEND_TIME:
        times = [max(times)] * count if count else []
    return [
        [base_offset + delta for delta in given_columns["offset_deltas"] or range(count)],
        times,
        given_columns["keys"] or [None] * count,
        values,
        [headers or () for headers in given_columns["headers"] or [None] * count],
    ]


@both
@unhurried
@given(given_columns=columns(), base_offset=st.integers(0, 2**60))
def test_what_is_encoded_is_decoded(payload: ModuleType, given_columns: dict[str, Any], base_offset: int) -> None:
    raw = whole(payload.encode(**given_columns), base_offset, 3)
    envelope, read = batch.decode(raw)
    assert lists(read) == expected(given_columns, base_offset)
    assert envelope == verify(raw)
    assert envelope.last_offset_delta == given_columns["last_offset_delta"]
    assert lists(batch.decode(memoryview(raw))[1]) == lists(read)


@needs_crc32c
@unhurried
@given(given_columns=columns())
def test_native_and_v2_give_the_same_view_of_the_same_records(given_columns: dict[str, Any]) -> None:
    in_native, in_v2 = (batch.decode(whole(form.encode(**given_columns))) for form in (native, kafka_v2))
    assert lists(in_native[1]) == lists(in_v2[1])
    differing = {"magic": 0, "checksum": 0, "batch_length": 0}
    assert in_native[0]._replace(**differing) == in_v2[0]._replace(**differing)
    assert (in_native[0].magic, in_v2[0].magic) == (MAGIC_NATIVE, MAGIC_V2)


@both
def test_a_batch_of_one_hundred_thousand_records(payload: ModuleType) -> None:
    values = [b"%d" % number for number in range(100_000)]
    deltas = list(range(100_000))
    sealed = payload.encode(values, keys=values, base_timestamp=0, timestamp_deltas=deltas)
    envelope, read = batch.decode(whole(sealed, 7))
    assert envelope.count == 100_000
    assert list(read.values) == list(read.keys) == values
    assert read.offsets == range(7, 100_007)
    assert list(read.timestamps_ms) == deltas


@both
@pytest.mark.parametrize("codec", [compression.NONE, compression.ZSTD])
@pytest.mark.parametrize("size", [0, 1, 62, 63, 64, 127, 128, 8191, 8192, 65_535, 65_536, MIB - 1, MIB])
def test_values_and_keys_from_nothing_to_one_mebibyte(payload: ModuleType, codec: int, size: int) -> None:
    content = os.urandom(size // 2) + bytes(size - size // 2)
    sealed = payload.encode([content, b"", content], keys=[content, None, b"k"], base_timestamp=0, codec=codec)
    read = batch.decode(whole(sealed))[1]
    assert list(read.values) == [content, b"", content]
    assert list(read.keys) == [content, None, b"k"]


@both
def test_columns_are_immutable_bytes_also_from_a_view(payload: ModuleType) -> None:
    raw = bytearray(whole(payload.encode([b"value"], keys=[b"key"], base_timestamp=0)))
    read = batch.decode(memoryview(raw))[1]
    raw[:] = bytes(len(raw))
    assert (read.values[0], read.keys[0]) == (b"value", b"key")


# Hostile bytes


def small(payload: ModuleType, codec: int = compression.NONE) -> bytes:
    sealed = payload.encode(
        [b"value", None, b"x" * 70],
        keys=[b"k", b"", None],
        base_timestamp=1_000_000,
        codec=codec,
        timestamp_deltas=[0, 3, -1],
        headers=[(("name", b"h"), ("null", None)), None, None],
        offset_deltas=[0, 2, 5],
    )
    return whole(sealed, 40, 1)


@both
@pytest.mark.parametrize("codec", [compression.NONE, compression.ZSTD])
def test_a_batch_cut_short_anywhere_is_refused(payload: ModuleType, codec: int) -> None:
    raw = small(payload, codec)
    envelope = parse(raw)
    for size in range(len(raw)):
        with pytest.raises(CorruptRecordError):
            batch.decode(raw[:size])
    for size in range(HEADER_SIZE, len(raw)):
        with pytest.raises(CorruptRecordError):
            batch.columns(envelope, raw[HEADER_SIZE:size])


@both
@pytest.mark.parametrize("codec", [compression.NONE, compression.ZSTD])
def test_bytes_behind_the_last_record_are_refused(payload: ModuleType, codec: int) -> None:
    raw = small(payload, codec)
    with pytest.raises(CorruptRecordError):
        batch.columns(parse(raw), raw[HEADER_SIZE:] + b"\x00")


@both
@pytest.mark.parametrize("codec", [compression.NONE, compression.ZSTD])
def test_every_bit_flip_of_a_payload_gives_columns_or_an_error_of_the_table(payload: ModuleType, codec: int) -> None:
    raw = small(payload, codec)
    for bit in range(HEADER_SIZE * 8, len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        decode_harmlessly(parse(raw), bytes(flipped[HEADER_SIZE:]))


def decode_harmlessly(envelope: Envelope, payload: bytes) -> None:
    """Columns as long as the header says, or one of the table's errors."""
    try:
        read = batch.columns(envelope, payload)
    except KafkaliteError:
        return
    assert {len(column) for column in read} == {envelope.count}
    assert all(type(number) is int for column in read[:2] for number in column)


@both
@thorough
@given(
    edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.binary(max_size=6)), min_size=1),
    count=st.integers(0, 5) | st.integers(0, 2**31 - 1),
)
def test_an_edited_payload_gives_columns_or_an_error_of_the_table(
    payload: ModuleType, edits: list[tuple[int, int, bytes]], count: int
) -> None:
    raw = small(payload)
    content = raw[HEADER_SIZE:]
    for at, removed, put in edits:
        at %= len(content) + 1  # noqa: PLW2901  (the edit's place in what is left)
        content = content[:at] + put + content[at + removed :]
    decode_harmlessly(parse(raw), content)
    decode_harmlessly(parse(raw)._replace(count=count), content)


@pytest.mark.parametrize("magic", [MAGIC_NATIVE, MAGIC_V2])
@thorough
@given(content=st.binary(max_size=200), count=st.integers(0, 8), attributes=st.integers(0, 0x7F))
def test_random_payloads_give_columns_or_an_error_of_the_table(
    magic: int, content: bytes, count: int, attributes: int
) -> None:
    envelope = Envelope(0, 49 + len(content), 0, magic, 0, attributes, 20, 0, 0, -1, -1, -1, count)
    decode_harmlessly(envelope, content)


@unhurried
@given(content=st.binary(max_size=200))
def test_random_bytes_are_no_batch(content: bytes) -> None:
    with pytest.raises(CorruptRecordError):
        batch.decode(content)


@pytest.mark.parametrize(
    ("magic", "content"),
    [
        (MAGIC_V2, bytes(7)),
        (MAGIC_NATIVE, b"\x95\xdd\x7f\xff\xff\xff"),
        (MAGIC_NATIVE, b"\x95" + b"\xdd\x00\x01\x00\x00" * 900 + b"\xc0" * 66_000),
        (MAGIC_NATIVE, b"\x95\xc6\x7f\xff\xff\xff"),
    ],
    ids=["v2 of many records", "array of many", "arrays in arrays of many", "long bin"],
)
def test_a_count_or_length_beyond_the_payload_takes_little_memory(magic: int, content: bytes) -> None:
    envelope = Envelope(0, 49 + len(content), 0, magic, 0, 0, 2**31 - 1, 0, 0, -1, -1, -1, 2**31 - 1)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptRecordError):
            batch.columns(envelope, content)
        # Arrays in arrays take half a gigabyte with a msgpack before 1.2.4, which made room for all of them.
        assert tracemalloc.get_traced_memory()[1] < 128 * MIB
    finally:
        tracemalloc.stop()


@given(
    value=contents,
    key=contents,
    headers=st.none() | header_tuples,
    timestamp=st.integers(0, 2**62),
    codec=st.sampled_from([compression.NONE, compression.ZSTD]),
    attributes=st.sampled_from([0, LOG_APPEND_TIME]),
)
@unhurried
def test_a_batch_of_one_has_the_same_bytes_either_way(
    value: Any, key: Any, headers: Any, timestamp: int, codec: int, attributes: int
) -> None:
    assert native.encode_one(value, key, timestamp, headers, attributes, codec) == native.encode(
        (value,),
        keys=None if key is None else (key,),
        base_timestamp=timestamp,
        headers=None if headers is None else (headers,),
        codec=codec,
        attributes=attributes,
    )
