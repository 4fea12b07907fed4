"""Kafka's v2 records: byte for byte what Kafka's clients write, and every malformed one refused."""

import pytest

from kafkalite.errors import CorruptRecordError, SerializationError, UnsupportedError
from kafkalite.records import compression, kafka_v2
from kafkalite.records.envelope import HEADER_SIZE, MAGIC_V2, TRANSACTIONAL, Envelope, verify
from kafkalite.records.native import Columns

pytest.importorskip("crc32c", reason="CRC-32C needs the wire extra")

NOON = 1_357_041_600_000

# What kafka-python 3.0.12 writes for the records of `test_the_bytes_are_those_of_another_implementation`.
FOREIGN = bytes.fromhex(
    "0000000000000000000000e90000000002b944b9040010000000030000013bf5fb86000000013bf5fb872c00000000000000"
    "0700020000000b0000000456000000046b310261080a74726163650400ff0a74726163650a616761696e0a656d7074790008"
    "6e756c6c01100002020104626200f00100d80404046b33c80163636363636363636363636363636363636363636363636363"
    "6363636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363636363"
    "63636363636363636363636363636363636363636363636363020e6772c3b6c39f6502311000dfc50806000100"
)


def read(payload: str, count: int = 1, last_offset_delta: int = 9) -> Columns:
    """Columns of a payload in hex, at offset 100 and time 1000."""
    content = bytes.fromhex(payload)
    envelope = Envelope(100, 49 + len(content), 0, MAGIC_V2, 0, 0, last_offset_delta, 1000, 1000, -1, -1, -1, count)
    return kafka_v2.decode(envelope, content)


def refusal(payload: str, count: int = 1) -> str:
    with pytest.raises(CorruptRecordError) as caught:
        read(payload, count)
    return str(caught.value)


def test_the_bytes_are_those_of_another_implementation() -> None:
    sealed = kafka_v2.encode(
        [b"a", b"bb", b"c" * 100, None],
        keys=[b"k1", None, b"k3", b""],
        base_timestamp=NOON,
        timestamp_deltas=[0, 1, 300, -70_000],
        headers=[
            (("trace", b"\x00\xff"), ("trace", b"again"), ("empty", b""), ("null", None)),
            None,
            (("größe", b"1"),),
            (),
        ],
        attributes=TRANSACTIONAL,
        producer_id=7,
        producer_epoch=2,
        base_sequence=11,
    )
    assert (sealed.prefix(0, 0) + sealed.fields + sealed.payload).hex() == FOREIGN.hex()
    envelope = verify(FOREIGN)
    columns = kafka_v2.decode(envelope, FOREIGN[HEADER_SIZE:])
    assert columns.values == [b"a", b"bb", b"c" * 100, None]
    assert columns.timestamps_ms == [NOON, NOON + 1, NOON + 300, NOON - 70_000]
    assert columns.headers[2] == (("größe", b"1"),)


def test_the_example_of_the_docstring() -> None:
    columns = read("12 00 00 00 02 6b 04 68 69 00")
    assert columns == Columns(range(100, 101), [1000], [b"k"], [b"hi"], [()])


def test_null_and_empty_differ() -> None:
    assert read("0c 00 00 00 01 01 00").values == [None]
    columns = read("0c 00 00 00 00 00 00")
    assert (columns.keys, columns.values) == ([b""], [b""])


def test_the_undefined_attributes_of_a_record_are_ignored() -> None:
    assert read("0c ff 00 00 01 01 00").values == [None]


def test_header_value_null_and_names_that_repeat() -> None:
    assert read("18 00 00 00 01 01 04 02 61 01 02 61 00").headers == [(("a", None), ("a", b""))]


def test_numbers_in_more_bytes_than_they_need_are_read() -> None:
    columns = read("18 00 84 80 00 82 80 00 81 00 81 00 00")
    assert columns == Columns([101], [1002], [None], [None], [()])


@pytest.mark.parametrize(
    "delta", [0, 1, -1, 63, 64, -64, -65, 1023, 1024, 8191, 8192, -8193, 2**31, 2**63 - 1, -(2**63)]
)
def test_timestamp_deltas_at_the_edges_of_their_varints(delta: int) -> None:
    sealed = kafka_v2.encode([b"a", b"b"], base_timestamp=0 if delta > 0 else -1, timestamp_deltas=[0, delta])
    envelope = verify(sealed.prefix(0, 0) + sealed.fields + sealed.payload)
    columns = kafka_v2.decode(envelope, sealed.payload)
    assert columns.timestamps_ms[1] - columns.timestamps_ms[0] == delta


def test_offsets_with_gaps_keep_their_places() -> None:
    gaps = "0c 00 00 02 01 01 00  0c 00 00 08 01 01 00"
    assert read(gaps, 2).offsets == [101, 104]
    assert "do not rise" in refusal("0c 00 00 08 01 01 00  0c 00 00 02 01 01 00", 2)
    assert "do not rise" in refusal("0c 00 00 02 01 01 00  0c 00 00 02 01 01 00", 2)
    assert "do not rise" in refusal("0c 00 00 01 01 01 00")
    assert "do not rise" in refusal("0c 00 00 14 01 01 00")


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ("0d 00 00 00 01 01 00", "another length"),  # negative
        ("0a 00 00 00 01 01 00", "another length"),  # too short for its fields
        ("0e 00 00 00 01 01 00", "another length"),  # longer than its fields
        ("0c 00 00 00 03 01 00", "length of -2"),  # key
        ("0c 00 00 00 01 03 00", "length of -2"),  # value
        ("0c 00 00 00 01 02 00", "ends inside a record"),  # value runs into the header count
        ("0c 00 00 00 7e 01 00", "ends inside a record"),
        ("0c 00 00 00 01 01 01", "headers in"),  # a negative header count
        ("0c 00 00 00 01 01 7e", "headers in"),  # more than the record can hold
        ("10 00 00 00 01 01 02 01 01", "without a name"),
        ("12 00 00 00 01 01 02 02 ff 01", "utf-8"),
        ("12 00 00 00 01 01 02 02 61 03", "length of -2"),  # header value
        ("12 00 00 00 01 01 02 02 61 08", "run out of"),  # header value
        ("12 00 00 00 01 01 02 08 61 62", "ends inside a record"),
        ("0c 00 00 00 01 01 00 00", "1 bytes behind"),
        ("1a 00 00 00 ff ff ff ff 1f 01 00 00 00 00", "goes beyond"),
        ("18 00 00 00 80 80 80 80 80 00 01 00 00", "goes beyond"),
        ("22 00 ff ff ff ff ff ff ff ff ff 02 00 01 01 00 00 00", "goes beyond"),
        ("80 80 80 80 80 80 80", "goes beyond"),
        ("0c 00 00 00 01 01 80", "ends inside a record"),
        ("00", "says 1 records, its payload has 1 bytes"),
        ("", "says 1 records, its payload has 0 bytes"),
    ],
)
def test_a_malformed_record_is_refused_with_the_reason(payload: str, why: str) -> None:
    message = refusal(payload)
    assert why in message
    assert "offset 100" in message


def test_a_batch_without_records_is_empty() -> None:
    assert [list(column) for column in read("", 0)] == [[], [], [], [], []]
    with pytest.raises(CorruptRecordError, match="1 bytes behind its 0 records"):
        read("00", 0)


def test_a_header_name_that_is_no_text_is_the_senders_error() -> None:
    with pytest.raises(SerializationError, match="header's name"):
        kafka_v2.encode([b""], base_timestamp=0, headers=[(("\ud800", b""),)])


def test_a_delta_beyond_64_bits_is_the_senders_error() -> None:
    with pytest.raises(SerializationError, match="64 bits"):
        kafka_v2.encode([b"", b""], base_timestamp=0, timestamp_deltas=[0, -(2**63) - 1])


def test_a_codec_that_is_not_built_in_is_named() -> None:
    envelope = Envelope(0, 49, 0, MAGIC_V2, 0, compression.LZ4, 0, 0, 0, -1, -1, -1, 1)
    with pytest.raises(UnsupportedError, match="lz4"):
        kafka_v2.decode(envelope, b"")
