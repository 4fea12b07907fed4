"""Control records: a transaction's end in Kafka's bytes, and what is none."""

import pytest

from kafkalite.errors import CorruptRecordError
from kafkalite.records import control, native
from kafkalite.records.control import ABORT, COMMIT, Marker
from kafkalite.records.envelope import CONTROL, HEADER_SIZE, SealedBatch, verify

KEY_COMMIT = bytes.fromhex("0000 0001")
VALUE_EPOCH_5 = bytes.fromhex("0000 00000005")


def marker_of(sealed: SealedBatch) -> Marker:
    raw = sealed.prefix(9, 0) + sealed.fields + sealed.payload
    return control.decode(verify(raw), raw[HEADER_SIZE:])


def batch_of(key: bytes | None, value: bytes | None, count: int = 1, attributes: int = CONTROL) -> SealedBatch:
    return native.encode([value] * count, keys=[key] * count, attributes=attributes, base_timestamp=0)


@pytest.mark.parametrize("kind", [ABORT, COMMIT])
@pytest.mark.parametrize("epoch", [0, 5, 2**31 - 1, -1])
def test_a_marker_is_read_back(kind: int, epoch: int) -> None:
    sealed = control.encode(kind, producer_id=7, producer_epoch=2, coordinator_epoch=epoch, timestamp_ms=99)
    assert marker_of(sealed) == Marker(kind, epoch)


def test_a_control_batch_bears_the_transactions_producer_and_no_sequence() -> None:
    sealed = control.encode(COMMIT, producer_id=7, producer_epoch=2, coordinator_epoch=5, timestamp_ms=99)
    envelope = verify(sealed.prefix(9, 0) + sealed.fields + sealed.payload)
    assert envelope.is_control
    assert envelope.is_transactional
    assert (envelope.producer_id, envelope.producer_epoch, envelope.base_sequence) == (7, 2, -1)
    assert (envelope.count, envelope.max_timestamp) == (1, 99)


def test_the_bytes_are_kafkas() -> None:
    assert marker_of(batch_of(KEY_COMMIT, VALUE_EPOCH_5)) == Marker(COMMIT, 5)


def test_fields_of_a_later_version_are_passed_over() -> None:
    key, value = bytes.fromhex("0001 0000 ffff"), bytes.fromhex("0002 00000005 abcd")
    assert marker_of(batch_of(key, value)) == Marker(ABORT, 5)


def test_a_type_that_is_no_marker_is_given_as_its_number() -> None:
    assert marker_of(batch_of(bytes.fromhex("0000 0002"), b"of another schema")) == Marker(2, -1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, VALUE_EPOCH_5),
        (b"", VALUE_EPOCH_5),
        (b"\0\0\0", VALUE_EPOCH_5),
        (KEY_COMMIT, None),
        (KEY_COMMIT, b"\0\0\0\0\0"),
        (b"\xff\xff\0\1", VALUE_EPOCH_5),
        (KEY_COMMIT, b"\xff\xff\0\0\0\5"),
    ],
)
def test_a_record_that_is_no_control_record_is_refused(key: bytes | None, value: bytes | None) -> None:
    with pytest.raises(CorruptRecordError, match="offset 9 is no marker"):
        marker_of(batch_of(key, value))


def test_more_or_fewer_records_than_one_are_refused() -> None:
    with pytest.raises(CorruptRecordError, match="2 records"):
        marker_of(batch_of(KEY_COMMIT, VALUE_EPOCH_5, count=2))


def test_users_records_are_never_taken_for_a_marker() -> None:
    with pytest.raises(CorruptRecordError, match="no control batch"):
        marker_of(batch_of(KEY_COMMIT, VALUE_EPOCH_5, attributes=0))


def test_only_abort_and_commit_are_written() -> None:
    with pytest.raises(AssertionError):
        control.encode(2, producer_id=7, producer_epoch=2, coordinator_epoch=5, timestamp_ms=99)
