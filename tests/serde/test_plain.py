"""bytes, str and int."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkalite.errors import DeserializationError, SerializationError
from kafkalite.serde import resolve

DEFAULT = resolve(None)
BYTES = resolve(bytes)
STR = resolve(str)
INT = resolve(int)
longs = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.none() | st.binary()))
def test_default_carries_bytes_and_null_as_they_are(values):
    datas = DEFAULT.serialize_many(values)
    assert datas == values
    assert DEFAULT.deserialize_many(datas) == values
    assert [DEFAULT.serialize(value) for value in values] == [DEFAULT.deserialize(value) for value in values] == values


@given(st.lists(st.text(st.characters(codec="utf-8"))))
def test_str_is_utf8(values):
    datas = STR.serialize_many(values)
    assert datas == [value.encode() for value in values] == [STR.serialize(value) for value in values]
    assert STR.deserialize_many(datas) == values == [STR.deserialize(data) for data in datas]


@given(st.lists(longs))
def test_int_is_kafkas_long(values):
    datas = INT.serialize_many(values)
    assert datas == [value.to_bytes(8, "big", signed=True) for value in values]
    assert datas == [INT.serialize(value) for value in values]
    assert INT.deserialize_many(datas) == values == [INT.deserialize(data) for data in datas]


def test_int_bytes_are_pinned():
    assert INT.serialize(-2) == b"\xff\xff\xff\xff\xff\xff\xff\xfe"
    assert INT.serialize(258) == b"\0\0\0\0\0\0\1\2"


def test_only_the_default_is_identity():
    assert DEFAULT.is_identity
    assert not any(serde.is_identity for serde in (BYTES, STR, INT))


def test_batch_is_a_new_list():
    values = [b"a"]
    assert DEFAULT.serialize_many(values) is not values
    assert DEFAULT.deserialize_many(values) is not values


@pytest.mark.parametrize("serde", [DEFAULT, BYTES])
@pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"ab"), memoryview(b"a-b-")[::2]])
def test_buffers_become_bytes(serde, value):
    assert serde.serialize(value) == b"ab"
    for data in [serde.serialize(value), *serde.serialize_many([b"ab", value])]:
        assert type(data) is bytes
        assert data == b"ab"


def test_bytes_are_copied_from_a_buffer_that_changes_later():
    buffer = bytearray(b"ab")
    data = DEFAULT.serialize(buffer)
    buffer[0] = 0
    assert data == b"ab"


def test_subclass_of_bytes_becomes_bytes():
    class Sub(bytes):
        __slots__ = ()

    assert type(DEFAULT.serialize(Sub(b"x"))) is bytes
    assert type(DEFAULT.serialize_many([Sub(b"x")])[0]) is bytes


def test_released_memoryview_is_refused():
    view = memoryview(b"ab")
    view.release()
    with pytest.raises(SerializationError, match="released"):
        DEFAULT.serialize(view)


@pytest.mark.parametrize(
    ("serde", "value", "words"),
    [
        (DEFAULT, "text", ["str 'text'", "bytes is wanted", "value=str"]),
        (DEFAULT, 5, ["int 5", "bytes is wanted", "kafkalite.JSON"]),
        (BYTES, None, ["None", "null", "kafkalite.optional(bytes)"]),
        (STR, None, ["None", "null", "kafkalite.optional(str)"]),
        (STR, b"x", ["bytes b'x'", "str is wanted"]),
        (STR, "\ud800", ["surrogates"]),
        (INT, None, ["None", "null", "kafkalite.optional(int)"]),
        (INT, True, ["bool True", "int is wanted"]),
        (INT, 1.0, ["float 1.0", "int is wanted"]),
        (INT, 2**63, ["9223372036854775808", "2**63 - 1", "str"]),
        (INT, -(2**63) - 1, ["-9223372036854775809"]),
        pytest.param(INT, 10**5000, ["2**63 - 1"], id="huge int"),
        (DEFAULT, "x" * 10_000, ["..."]),
    ],
)
def test_wrong_value_is_refused_alone_and_in_a_batch(serde, value, words):
    good = {DEFAULT: b"", BYTES: b"", STR: "", INT: 0}[serde]
    for send in (lambda: serde.serialize(value), lambda: serde.serialize_many([good, value, good])):
        with pytest.raises(SerializationError) as caught:
            send()
        assert all(word in str(caught.value) for word in words)
        assert len(str(caught.value)) < 350


@pytest.mark.parametrize(
    ("serde", "data", "words"),
    [
        (BYTES, None, ["null", "kafkalite.optional(bytes)"]),
        (STR, None, ["null", "kafkalite.optional(str)"]),
        (STR, b"\xff", [r"b'\xff'", "str", "invalid start byte"]),
        (INT, None, ["null", "kafkalite.optional(int)"]),
        (INT, b"", ["0 bytes", "8"]),
        (INT, b"\0\0\0\1", ["4 bytes"]),
        (INT, b"x" * 9000, ["9000 bytes"]),
    ],
)
def test_wrong_bytes_are_refused_alone_and_in_a_batch(serde, data, words):
    for read in (lambda: serde.deserialize(data), lambda: serde.deserialize_many([bytes(8), data])):
        with pytest.raises(DeserializationError) as caught:
            read()
        assert all(word in str(caught.value) for word in words)
        assert len(str(caught.value)) < 250


def test_lengths_of_two_ints_that_add_up_are_refused():
    with pytest.raises(DeserializationError):
        INT.deserialize_many([bytes(4), bytes(12)])
