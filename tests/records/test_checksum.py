"""The two checksums: known values, and the extra that one of them needs."""

import sys

import pytest
import xxhash

from kafkalite.errors import UnsupportedError
from kafkalite.records import checksum, kafka_v2


def test_the_digest_is_xxh3_of_the_payload_seeded_with_the_fields() -> None:
    seed = xxhash.xxh3_64_intdigest(b"fields")
    expected = xxhash.xxh3_64_intdigest(b"payload", seed)
    assert checksum.batch_digest(b"fields", b"payload") == expected
    assert checksum.batch_digest(b"fields", memoryview(b"payload")) == expected


def test_bytes_do_not_move_between_fields_and_payload_unnoticed() -> None:
    assert checksum.batch_digest(b"ab", b"c") != checksum.batch_digest(b"a", b"bc")


def test_crc32c_has_the_published_check_value() -> None:
    pytest.importorskip("crc32c", reason="CRC-32C needs the wire extra")
    assert checksum.crc32c(b"1234", b"56789") == 0xE3069283
    assert checksum.crc32c(b"", memoryview(b"123456789")) == 0xE3069283


def test_without_the_wire_extra_a_v2_batch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crc32c", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'kafkalite\[wire\]'"):
        kafka_v2.encode([b"value"], base_timestamp=0)
