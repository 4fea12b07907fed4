"""The native payload: what is left out of it, and columns that are no columns."""

from typing import Any

import msgpack
import pytest

from kafkalite.errors import CorruptRecordError, SerializationError
from kafkalite.records import native
from kafkalite.records.envelope import MAGIC_NATIVE, Envelope


def read(columns: Any, count: int = 2, last_offset_delta: int = 9) -> native.Columns:
    """Columns of a payload given as what msgpack packs, at offset 100 and time 1000."""
    payload = msgpack.packb(columns)
    envelope = Envelope(100, 49 + len(payload), 0, MAGIC_NATIVE, 0, 0, last_offset_delta, 1000, 1000, -1, -1, -1, count)
    return native.decode(envelope, payload)


def packed(**columns: Any) -> list[Any]:
    unpacked: list[Any] = msgpack.unpackb(native.encode(base_timestamp=0, **columns).payload)
    return unpacked


def test_absent_columns_take_one_byte_each() -> None:
    assert packed(values=[b"a", None]) == [[b"a", None], None, None, None, None]
    assert len(native.encode([b""], base_timestamp=0).payload) == 1 + 3 + 4


def test_timestamp_deltas_of_zero_are_left_out() -> None:
    assert packed(values=[b"a", b"b"], timestamp_deltas=[0, 0])[2] is None
    assert packed(values=[b"a", b"b"], timestamp_deltas=[0, -1])[2] == [0, -1]


def test_the_greatest_timestamp_is_the_headers_wherever_it_stands() -> None:
    assert native.encode([b"", b"", b""], base_timestamp=50, timestamp_deltas=[0, 9, -9]).max_timestamp == 59
    assert native.encode([b"", b""], base_timestamp=50, timestamp_deltas=[-3, -2]).max_timestamp == 48
    assert native.encode([b""], base_timestamp=50).max_timestamp == 50


def test_the_last_offset_delta_is_the_last_records_unless_given() -> None:
    assert native.encode([b"", b""], base_timestamp=0).last_offset_delta == 1
    assert native.encode([b"", b""], base_timestamp=0, offset_deltas=[1, 7]).last_offset_delta == 7
    sealed = native.encode([b""], base_timestamp=0, offset_deltas=[1], last_offset_delta=7)
    assert sealed.last_offset_delta == 7


def test_absent_columns_come_back_whole() -> None:
    columns = read([[b"a", None], None, None, None, None])
    assert columns == native.Columns(range(100, 102), (1000, 1000), (None, None), (b"a", None), ((), ()))


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        (None, "no msgpack array"),
        (7, "no msgpack array"),
        ([], "no msgpack array"),
        ([[b"", b""], None, None, None], "no msgpack array"),
        ([[b"", b""], None, None, None, None, None], "no msgpack array"),
        ([None, None, None, None, None], "no msgpack array"),
        ([[b""], None, None, None, None], "1 values, its header says 2"),
        ([b"ab", None, None, None, None], "values that do not match"),
        ([{"a": 1, "b": 2}, None, None, None, None], "values that do not match"),
        ([[b"", b""], [b""], None, None, None], "keys that do not match"),
        ([[b"", b""], b"ab", None, None, None], "keys that do not match"),
        ([[b"", b""], None, [0], None, None], "timestamp deltas that do not match"),
        ([[b"", b""], None, [0, "1"], None, None], "timestamp deltas that are no integers"),
        ([[b"", b""], None, [0, 1.5], None, None], "timestamp deltas that are no integers"),
        ([[b"", b""], None, [0, None], None, None], "timestamp deltas that are no integers"),
        ([[b"", b""], None, None, [None], None], "headers that do not match"),
        ([[b"", b""], None, None, None, [0]], "offset deltas that do not match"),
        ([[b"", b""], None, None, None, [0, b"1"]], "offset deltas that are no integers"),
        ([[b"", b""], None, None, None, [1, 1]], "offset deltas that do not rise"),
        ([[b"", b""], None, None, None, [-1, 1]], "offset deltas beyond 0 to 9"),
        ([[b"", b""], None, None, None, [1, 10]], "offset deltas beyond 0 to 9"),
    ],
)
def test_malformed_columns_are_refused_with_the_reason(columns: Any, why: str) -> None:
    with pytest.raises(CorruptRecordError, match=why) as caught:
        read(columns)
    assert "offset 100" in str(caught.value)


def test_a_header_name_that_is_no_text_is_the_senders_error() -> None:
    with pytest.raises(SerializationError, match="header's name"):
        native.encode([b""], base_timestamp=0, headers=[(("\ud800", b""),)])
