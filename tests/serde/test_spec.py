"""From a spec to a serde: `resolve`, `resolve_key`, `optional`, users' serdes."""

import copy
import json as stdlib_json
import pickle
from typing import Any, get_type_hints

import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st

from kafkalite.errors import ConfigError, DeserializationError, SerializationError
from kafkalite.serde import JSON, MSGPACK, json, optional, resolve, resolve_key

from .shapes import OWN_ERROR, Box, Carrier, Foreign, Giving, Order, Paid, Placed, Reversed

SPECS = [
    None, bytes, str, int, Order, Placed, Carrier, Box[int], JSON, MSGPACK, json(Placed | Paid),
    json(list[int]), optional(bytes), optional(str), optional(Order), optional(JSON),
    Reversed(), optional(Reversed()),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_serde_pickles_and_equals_another_of_its_spec(spec):
    for make in (resolve, resolve_key):
        serde = make(spec)
        assert serde == make(spec)
        assert hash(serde) == hash(make(spec))
        assert resolve(serde) is serde
        serde.serialize_many([])
        assert pickle.loads(pickle.dumps(serde)) == copy.deepcopy(serde) == serde
        assert pickle.loads(pickle.dumps(serde)).deserialize_many([]) == []


@pytest.mark.parametrize("spec", [bytes, str, Order, optional(str), Reversed()], ids=repr)
def test_serde_does_not_change(spec):
    serde = resolve(spec)
    for name in ("is_identity", *serde.__slots__):
        with pytest.raises(AttributeError, match=f"{name}=None cannot be set: .* make another serde"):
            setattr(serde, name, None)


def test_serdes_of_different_specs_differ():
    serdes = [resolve(spec) for spec in SPECS if spec != optional(bytes)]
    assert all(a != b for i, a in enumerate(serdes) for b in serdes[:i])


def test_repr_is_what_a_user_writes():
    assert [repr(resolve(spec)) for spec in (None, bytes, str, int, Order, JSON, MSGPACK)] == [
        "Serde[bytes | None]", "Serde[bytes]", "Serde[str]", "Serde[int]", "Serde[Order]", "kafkalite.JSON",
        "kafkalite.MSGPACK",
    ]  # fmt: skip
    assert repr(optional(str)) == "kafkalite.optional(Serde[str])"
    assert repr(json(list[int])) == "kafkalite.json(list[int])"


def test_typed_dict_of_typing_extensions():
    class Old(typing_extensions.TypedDict):
        a: int

    assert resolve(Old).serialize({"a": 1}) == b'{"a":1}'
    assert get_type_hints(Old) == {"a": int}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (list, ["list", "use kafkalite.json(list)"]),
        (list[int], ["list[int]", "use kafkalite.json(list[int])"]),
        (dict, ["use kafkalite.json(dict)"]),
        (float, ["use kafkalite.json(float)"]),
        (bool, ["use kafkalite.json(bool)"]),
        (Placed | Paid, ["Placed | ", "use kafkalite.json("]),
        (Order | None, ["use kafkalite.optional(Order)"]),
        (Placed | Paid | None, ["use kafkalite.optional(kafkalite.json(Placed | Paid))"]),
        (bytearray, ["use bytes"]),
        (memoryview, ["use bytes"]),
        (b"x", ["b'x'", "valid are"]),
        (bytearray(b"x"), ["use bytes"]),
        (Any, ["use kafkalite.JSON"]),
        (object, ["use kafkalite.JSON"]),
        (json, ["call it with a type: kafkalite.json(Order)"]),
        (optional, ["call it with a type: kafkalite.optional(Order)"]),
        (Reversed, ["Reversed", "give an instance: Reversed()"]),
        (Foreign, ["Foreign", "valid are bytes, str, int"]),
        (Foreign(), ["valid are bytes, str, int"]),
        ("str", ["'str'", "valid are bytes, str, int"]),
        (stdlib_json, ["module", "valid are"]),
        (5, ["5", "valid are"]),
        (type("Half", (), {"serialize": lambda _self, _value: b""})(), ["no method deserialize()"]),
    ],
)
@pytest.mark.parametrize("make", [resolve, resolve_key, optional])
def test_unusable_spec_says_what_to_write(make, spec, words):
    with pytest.raises(ConfigError) as caught:
        make(spec)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_field_of_unknown_type_says_so_at_once():
    from dataclasses import make_dataclass

    with pytest.raises(ConfigError, match=r"Broken.*Missing"):
        resolve(make_dataclass("Broken", [("x", "Missing")]))


@given(st.lists(st.none() | st.text(st.characters(codec="utf-8"))))
def test_optional_carries_nulls_among_values(values):
    serde = resolve(optional(str))
    datas = serde.serialize_many(values)
    assert [data is None for data in datas] == [value is None for value in values]
    assert serde.deserialize_many(datas) == values
    assert datas == [serde.serialize(value) for value in values]
    assert values == [serde.deserialize(data) for data in datas]


def test_null_differs_from_empty_and_from_json_null():
    serde = optional(JSON)
    assert serde.serialize(None) is None
    assert serde.deserialize(None) is None
    with pytest.raises(DeserializationError):
        serde.deserialize(b"null")
    assert optional(str).serialize("") == b""
    assert optional(str).deserialize(b"") == ""


def test_optional_raises_the_inner_error_in_a_batch():
    with pytest.raises(SerializationError, match="int 5: str is wanted"):
        resolve(optional(str)).serialize_many(["a", None, 5])
    with pytest.raises(DeserializationError, match="cannot be read as str"):
        resolve(optional(str)).deserialize_many([b"a", None, b"\xff"])


def test_optional_of_what_carries_null_is_that():
    assert optional(bytes) is optional(resolve(None)) is resolve(None)
    assert optional(optional(str)) == optional(str)


def test_key_may_be_null_whatever_its_type():
    for spec in SPECS:
        serde = resolve_key(spec)
        assert serde.serialize(None) is None
        assert serde.deserialize_many([None]) == [None]
    assert resolve_key(None) is resolve(None)
    assert resolve_key(None).is_identity


def test_equal_keys_have_equal_bytes():
    for spec in (JSON, MSGPACK, optional(JSON)):
        key = resolve_key(spec)
        assert key.serialize({"a": 1, "b": 2}) == key.serialize({"b": 2, "a": 1})
    assert resolve(JSON).serialize({"b": 1, "a": 2}) == b'{"b":1,"a":2}'


def test_custom_serde_gets_batches():
    serde = resolve(Reversed())
    assert not serde.is_identity
    assert serde.serialize_many(["ab", "cd"]) == [b"ba", b"dc"]
    assert serde.deserialize_many([b"ba"]) == ["ab"] == [serde.deserialize(b"ba")]


def test_custom_serde_with_the_batch_functions_is_used_as_it_is():
    class Whole(Reversed):
        is_identity = False

        def serialize_many(self, values):
            return [self.serialize(value) for value in values]

        def deserialize_many(self, datas):
            return [self.deserialize(data) for data in datas]

    serde = Whole()
    assert resolve(serde) is serde


@pytest.mark.parametrize("data", [bytearray(b"x"), memoryview(b"x"), b"x"])
def test_custom_serde_may_give_buffers(data):
    assert type(resolve(Giving(data)).serialize(1)) is bytes


def test_custom_serde_decides_about_nulls():
    assert resolve(Giving(None)).serialize(1) is None
    assert resolve(Giving("gone")).deserialize(None) == "gone"


def test_custom_serde_that_gives_no_bytes_is_named():
    with pytest.raises(SerializationError, match=r"Giving\.serialize gave str 'x': it must give bytes"):
        resolve(Giving("x")).serialize_many([1])


def test_exception_of_a_custom_serde_is_chained():
    serde = resolve(Giving(KeyError("k")))
    with pytest.raises(SerializationError, match=r"1 as Giving: 'k' \(KeyError\)") as write:
        serde.serialize(1)
    with pytest.raises(DeserializationError, match=r"b'x' cannot be read as Giving: 'k'") as read:
        serde.deserialize(b"x")
    with pytest.raises(DeserializationError, match=r"cannot read a null.*kafkalite\.optional"):
        serde.deserialize(None)
    assert isinstance(write.value.__cause__, KeyError)
    assert isinstance(read.value.__cause__, KeyError)


def test_own_error_of_a_custom_serde_passes():
    with pytest.raises(SerializationError) as caught:
        resolve(Giving(OWN_ERROR)).serialize(1)
    assert caught.value is OWN_ERROR


def test_dataclass_with_the_two_methods_is_a_dataclass():
    import dataclasses

    class Both(Order):
        def serialize(self): ...

        def deserialize(self): ...

    both = dataclasses.dataclass(Both)
    assert resolve(both).deserialize(resolve(both).serialize(both(1, 2.0))) == both(1, 2.0)
