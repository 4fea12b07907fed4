"""Format version 1, pinned: every kind of batch that a store may have to read, bytes beside their meaning.

`golden/<case>.hex` are the bytes, `golden/<case>.json` what they say (bytes as Python writes them). Both are
rewritten by `REWRITE=1 pytest tests/records/test_golden.py`; a change in the diff is a change of the format.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kafkalite.records import batch, compression, control, kafka_v2, native
from kafkalite.records.envelope import (
    CONTROL,
    HEADER_SIZE,
    LOG_APPEND_TIME,
    MAGIC_V2,
    TRANSACTIONAL,
    SealedBatch,
    parse,
    resealed,
    seal,
    verify,
)
from kafkalite.records.native import HeaderTuple

GOLDEN = Path(__file__).parent / "golden"
REWRITE = os.environ.get("REWRITE") == "1"
HAS_CRC32C = find_spec("crc32c") is not None
NOON = 1_357_041_600_000
ABC = [b"a", b"bb", b"ccc"]
HEADERS: list[HeaderTuple | None] = [
    (("trace", b"\x00\xff"), ("trace", b"again"), ("empty", b""), ("null", None)),
    None,
    (("größe", b"1"),),
]
PLAIN: dict[str, Any] = {
    "keys": [b"k1", None, b"k3"],
    "base_timestamp": NOON,
    "timestamp_deltas": [0, 1, 300],
}
GAPS: dict[str, Any] = {"base_timestamp": NOON, "offset_deltas": [1, 4, 5], "last_offset_delta": 9}
NULLS: dict[str, Any] = {"values": [None, b"", b"c"], "keys": [b"", None, b"k"], "base_timestamp": NOON}
MARKER: dict[str, Any] = {
    "producer_id": 7,
    "producer_epoch": 2,
    "coordinator_epoch": 5,
    "timestamp_ms": NOON,
}
PRODUCER: dict[str, Any] = {"base_timestamp": NOON, "producer_id": 7, "producer_epoch": 2}


class Case(NamedTuple):
    about: str
    sealed: SealedBatch
    base_offset: int = 0
    leader_epoch: int = 0


def _record_cases() -> dict[str, Case]:
    """What one record, or a few, may be."""
    return {
        "native_plain": Case("keys, values and times", native.encode(ABC, **PLAIN), 1000),
        "native_nulls": Case(
            "null keys, a null value (a tombstone), which is not the empty one", native.encode(**NULLS)
        ),
        "native_headers": Case(
            "a repeated name, an empty value, a null value, a name beyond ASCII, a record without any",
            native.encode(ABC, headers=HEADERS, base_timestamp=NOON),
        ),
        "native_create_time": Case(
            "times before and after the first record's: the greatest is not the last",
            native.encode(ABC, base_timestamp=NOON, timestamp_deltas=[0, 70_000, -5]),
        ),
        "native_log_append_time": Case(
            "the header's max timestamp is every record's",
            native.encode(ABC, base_timestamp=NOON, timestamp_deltas=[0, 5, 9], attributes=LOG_APPEND_TIME),
        ),
        "native_empty_value": Case("nothing but an empty value", native.encode([b""], base_timestamp=0)),
        "native_one": Case("a batch of one", native.encode([b"one"], keys=[b"k"], base_timestamp=NOON), 41),
        "native_zstd": Case(
            "compressed with zstandard",
            native.encode([b"again and " * 20] * 3, codec=compression.ZSTD, base_timestamp=NOON),
        ),
    }


def _batch_cases() -> dict[str, Case]:
    """What a batch may be to producers, replication, transactions and compaction."""
    return {
        "native_transactional": Case(
            "part of a transaction over the wire",
            native.encode(ABC, attributes=TRANSACTIONAL, base_sequence=0, **PRODUCER),
        ),
        "native_producer": Case(
            "producer id, epoch and sequence of an idempotent producer, at their greatest",
            native.encode(
                ABC,
                base_timestamp=NOON,
                producer_id=2**63 - 1,
                producer_epoch=2**15 - 1,
                base_sequence=2**31 - 1,
            ),
        ),
        "native_leader_epoch": Case("the leader epoch is set", native.encode(ABC, base_timestamp=NOON), 5, 3),
        "native_compacted": Case(
            "compaction left gaps; the last offset is kept though its record went",
            native.encode(ABC, **GAPS),
            100,
            1,
        ),
        "native_compacted_empty": Case(
            "compaction took all records; what remains keeps the producer's sequence",
            native.encode([], last_offset_delta=4, base_sequence=10, **PRODUCER),
            100,
        ),
        "control_commit": Case("a transaction's commit", control.encode(control.COMMIT, **MARKER), 12),
        "control_abort": Case("a transaction's abort", control.encode(control.ABORT, **MARKER), 13),
    }


def _v2_cases() -> dict[str, Case]:
    """Kafka's own records; their checksum needs the wire extra."""
    return {
        "v2_plain": Case("keys, times, headers", kafka_v2.encode(ABC, headers=HEADERS, **PLAIN), 9, 4),
        "v2_nulls": Case("null keys and values", kafka_v2.encode(**NULLS)),
        "v2_compacted": Case("gaps and a kept last offset", kafka_v2.encode(ABC, **GAPS), 100),
        "v2_control_commit": Case(
            "a commit as a Kafka broker writes it",
            kafka_v2.encode(
                [bytes.fromhex("0000 00000005")],
                keys=[bytes.fromhex("0000 0001")],
                attributes=CONTROL | TRANSACTIONAL,
                **PRODUCER,
            ),
            12,
        ),
        "v2_zstd": Case(
            "compressed",
            kafka_v2.encode([b"again and " * 20] * 3, codec=compression.ZSTD, base_timestamp=NOON),
        ),
    }


CASES = _record_cases() | _batch_cases() | (_v2_cases() if HAS_CRC32C else {})
NAMES = sorted(path.stem for path in GOLDEN.glob("*.hex")) if not REWRITE else sorted(CASES)


def _needs_checksum(name: str) -> None:
    if name.startswith("v2_") and not HAS_CRC32C:
        pytest.skip("CRC-32C needs the wire extra")


def _bytes(name: str) -> bytes:
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


def _whole(case: Case) -> bytes:
    sealed = case.sealed
    return sealed.prefix(case.base_offset, case.leader_epoch) + sealed.fields + sealed.payload


def _meaning(raw: bytes) -> dict[str, object]:
    """What a batch says, as plain JSON."""
    envelope, columns = batch.decode(raw)
    meaning: dict[str, object] = {
        "envelope": envelope._asdict(),
        "records": [
            {
                "offset": offset,
                "timestamp_ms": timestamp,
                "key": _shown(key),
                "value": _shown(value),
                "headers": [[header, _shown(content)] for header, content in headers],
            }
            for offset, timestamp, key, value, headers in zip(*columns, strict=True)
        ],
    }
    if envelope.is_control:
        meaning["marker"] = control.decode(envelope, raw[HEADER_SIZE:])._asdict()
    return meaning


def _shown(content: bytes | None) -> str | None:
    return None if content is None else repr(content)


def _rewrite(name: str) -> None:
    raw = _whole(CASES[name])
    digits = raw.hex()
    lines = [digits[at : at + 64] for at in range(0, len(digits), 64)]
    (GOLDEN / f"{name}.hex").write_text("\n".join(lines) + "\n")
    expected = {"about": CASES[name].about} | _meaning(raw)
    text = json.dumps(expected, indent=1, ensure_ascii=False)
    (GOLDEN / f"{name}.json").write_text(text + "\n")


@pytest.fixture(scope="module", autouse=True)
def _rewritten() -> None:
    if REWRITE:
        assert HAS_CRC32C, "rewriting needs the wire extra"
        for old in GOLDEN.glob("*.*"):
            old.unlink()
        for name in CASES:
            _rewrite(name)


def test_every_case_has_its_golden_file_and_every_file_its_case() -> None:
    kept = {name for name in NAMES if HAS_CRC32C or not name.startswith("v2_")}
    assert kept == set(CASES)
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_golden_bytes_still_mean_what_they_meant(name: str) -> None:
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    del expected["about"]
    assert _meaning(_bytes(name)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_golden_bytes_pass_their_checksum(name: str) -> None:
    _needs_checksum(name)
    raw = _bytes(name)
    assert verify(raw) == parse(raw)
    again = resealed(raw)
    envelope = parse(raw)
    assert again.prefix(envelope.base_offset, envelope.leader_epoch) + again.fields + again.payload == raw


@pytest.mark.parametrize("name", NAMES)
def test_the_same_records_give_the_golden_bytes(name: str) -> None:
    _needs_checksum(name)
    if "zstd" in name:
        # Another zstandard may compress otherwise: what must be the same is what comes out.
        assert _comparable(_meaning(_whole(CASES[name]))) == _comparable(_meaning(_bytes(name)))
    else:
        assert _whole(CASES[name]).hex() == _bytes(name).hex()


def _comparable(meaning: dict[str, object]) -> dict[str, object]:
    envelope = meaning["envelope"]
    assert isinstance(envelope, dict)
    return meaning | {"envelope": envelope | {"checksum": 0, "batch_length": 0}}


def test_a_kept_compressed_payload_is_sealed_to_the_same_header() -> None:
    raw = _bytes("native_zstd")
    envelope = parse(raw)
    sealed = seal(
        raw[HEADER_SIZE:],
        count=envelope.count,
        base_timestamp=envelope.base_timestamp,
        max_timestamp=envelope.max_timestamp,
        attributes=envelope.attributes,
    )
    assert sealed.prefix(0, 0) + sealed.fields == raw[:HEADER_SIZE]


def test_golden_batches_of_both_payloads_with_the_same_records_read_alike() -> None:
    native_nulls, v2_nulls = batch.decode(_bytes("native_nulls")), batch.decode(_bytes("v2_nulls"))
    assert v2_nulls[0].magic == MAGIC_V2
    assert [list(column) for column in native_nulls[1]] == [list(column) for column in v2_nulls[1]]
