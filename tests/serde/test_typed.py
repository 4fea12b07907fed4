"""JSON and MessagePack by msgspec."""

import collections
import math
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, NewType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafkalite.errors import ConfigError, DeserializationError, SerializationError
from kafkalite.serde import JSON, MSGPACK, json, resolve

from . import shapes
from .shapes import Box, Carrier, Color, Even, Event, GiftOrder, Order, Paid, Placed, Plain, StrictPlain, Tree

reals = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"))
orders = st.builds(Order, st.integers(-(2**63), 2**63), reals, st.none() | texts, st.lists(texts))
events = st.builds(Placed, st.integers(0, 9), reals) | st.builds(Paid, st.integers(0, 9), texts)
carriers = st.fixed_dictionaries({"code": texts}, optional={"fleet": st.lists(texts)})
scalars = st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts
json_values = st.recursive(
    scalars | reals, lambda inner: st.lists(inner | st.none()) | st.dictionaries(texts, inner | st.none())
)
msgpack_values = st.recursive(
    scalars | st.floats(allow_nan=False) | st.binary(),
    lambda inner: st.lists(inner | st.none()) | st.dictionaries(scalars | st.binary(), inner | st.none()),
)


def round_trip(serde, values):
    datas = resolve(serde).serialize_many(values)
    assert datas == [serde.serialize(value) for value in values]
    assert all(type(data) is bytes for data in datas)
    assert resolve(serde).deserialize_many(datas) == values
    assert [serde.deserialize(data) for data in datas] == values


@given(st.lists(orders))
def test_dataclass_round_trip(values):
    round_trip(resolve(Order), values)


@given(st.lists(events))
def test_tagged_union_round_trip(values):
    round_trip(json(Placed | Paid), values)


@given(st.lists(carriers))
def test_typed_dict_round_trip(values):
    round_trip(resolve(Carrier), values)


@given(st.lists(json_values, max_size=8))
def test_json_round_trip(values):
    round_trip(JSON, values)


@given(st.lists(msgpack_values, max_size=8))
def test_msgpack_round_trip(values):
    round_trip(MSGPACK, values)


@pytest.mark.parametrize(
    ("tp", "value"),
    [
        (list[int], [1, 2]),
        (dict[str, Order], {"a": Order(1, 2.0)}),
        (float, 1),
        (float, 1.5),
        (bool, True),
        (bool | int, True),
        (Literal["a", 1], "a"),
        (Annotated[int, msgspec.Meta(ge=1)], 5),
        (NewType("Id", int), 5),
        (Sequence[int], [1]),
        (tuple[int, str], (1, "a")),
        (Color, Color.RED),
        (datetime, datetime(2024, 1, 1, tzinfo=UTC)),
        (bytes, b"\x00"),
        (Any, [1]),
        (object, {"a": 1}),
        (str | list[int], "x"),
        (Box[int], Box(1)),
    ],
)
def test_json_takes_any_type_of_msgspec(tp, value):
    round_trip(json(tp), [value])


def test_generic_and_recursive_dataclass():
    round_trip(resolve(Box[int]), [Box(1)])
    round_trip(resolve(Tree), [Tree("root", [Tree("leaf")])])
    with pytest.raises(DeserializationError, match=r"\$\.content"):
        resolve(Box[int]).deserialize(b'{"content":"x"}')


def test_bytes_are_plain_json_that_other_clients_read():
    assert resolve(Order).serialize(Order(1, 42.0)) == b'{"id":1,"amount":42.0,"note":null,"tags":[]}'
    assert json(Placed | Paid).serialize(Placed(1)) == b'{"type":"Placed","id":1,"amount":0.0}'


@pytest.mark.parametrize(
    ("serde", "value", "words"),
    [
        (resolve(Order), Placed(1), ["Placed Placed(id=1", "Order is wanted"]),
        (resolve(Order), {"id": 1, "amount": 1.0}, ["dict", "Order is wanted"]),
        (resolve(Order), Order, ["type", "Order is wanted"]),
        (resolve(Order), None, ["None", "kafkalite.optional(Order)"]),
        (resolve(Order), Order(1, math.nan), ["NaN", "kafkalite.MSGPACK"]),
        (resolve(Order), Order(1, 1.0, tags=[object()]), ["object", "unsupported"]),
        (resolve(Order), Order(1, 1.0, "\ud800"), ["surrogates"]),
        (resolve(Order), GiftOrder(1, -math.inf), ["NaN"]),
        (resolve(Event), Placed(1), ["Placed", "cannot be read as that"]),
        (resolve(Carrier), [("code", "AA")], ["list", "Carrier is wanted"]),
        (resolve(Carrier), None, ["kafkalite.optional(Carrier)"]),
        (json(Placed | Paid), Order(1, 1.0), ["Order", "Placed | ", "is wanted"]),
        (json(Placed | Paid), None, ["kafkalite.optional(kafkalite.json("]),
        (json(list[int]), {1: 2}, ["dict", "kafkalite.json(list[int])"]),
        (json(int), True, ["True", "cannot be read as that"]),
        (json(float), math.inf, ["infinity"]),
        (json(date), datetime(2024, 1, 1, tzinfo=UTC), ["datetime", "cannot be read as that"]),
        (json(Color), "red", ["str 'red'"]),
        (JSON, None, ["None", "kafkalite.optional(kafkalite.JSON)"]),
        (JSON, math.nan, ["NaN"]),
        (JSON, {"a": [None, (math.inf,)]}, ["infinity"]),
        (JSON, b"{}", ["bytes b'{}'", "MSGPACK"]),
        (JSON, bytearray(b"{}"), ["bytearray", "MSGPACK"]),
        (JSON, shapes.Foreign(), ["Foreign"]),
        (JSON, {(1, 2): 3}, ["keys"]),
        (JSON, msgspec.Raw(b"null"), ["JSON is null"]),
        (MSGPACK, None, ["None", "kafkalite.optional(kafkalite.MSGPACK)"]),
        (MSGPACK, shapes.Foreign(), ["Foreign"]),
        (MSGPACK, 2**64, ["int"]),
        (JSON, ["x" * 100_000, object()], ["..."]),
    ],
)
def test_wrong_value_is_refused_alone_and_in_a_batch(serde, value, words):
    for send in (lambda: serde.serialize(value), lambda: resolve(serde).serialize_many([value, value])):
        with pytest.raises(SerializationError) as caught:
            send()
        said = str(caught.value)
        assert all(word.lower() in said.lower() for word in words), said  # msgspec spells utf-8 in several ways
        assert len(str(caught.value)) < 500


def test_cyclic_value_is_refused():
    cycle: list[Any] = []
    cycle.append(cycle)
    for serde in (JSON, MSGPACK):
        with pytest.raises(SerializationError, match="recursion"):
            serde.serialize(cycle)


def test_nulls_strings_and_large_ints_beside_each_other_are_no_nan():
    values = [None, "null", "\x7f\xf8" * 3, 2**70, 1.5, {"a": {None}}, msgspec.Raw(b"[null]")]
    data = JSON.serialize(values)
    assert data.endswith(b"[null]]")
    suspect = {"note": None, "noise": b"\xcb\x7f\xf8"}
    assert b"null" in JSON.serialize(suspect)
    assert b"null" in JSON.serialize({**suspect, "raw": msgspec.Raw(b"1")})


def test_any_sequence_of_values_is_a_batch():
    values = collections.deque([Order(1, 1.0), Order(2, 1.0, "x")])
    assert len(resolve(Order).serialize_many(values)) == 2


def test_msgpack_carries_nan():
    assert math.isnan(MSGPACK.deserialize(MSGPACK.serialize(math.nan)))


def test_subclass_is_written_whole_and_read_as_the_declared_class():
    serde = resolve(Order)
    for data in (
        serde.serialize(GiftOrder(1, 2.0, card="hi")),
        serde.serialize_many([GiftOrder(1, 2.0, card="hi")])[0],
    ):
        assert b'"card":"hi"' in data
        assert serde.deserialize(data) == Order(1, 2.0)
    assert resolve(Plain).deserialize(resolve(Plain).serialize(StrictPlain(1))) == Plain(1)
    ordered = collections.OrderedDict(code="AA")
    assert resolve(Carrier).deserialize(resolve(Carrier).serialize(ordered)) == {"code": "AA"}


@pytest.mark.parametrize(
    ("serde", "data", "words"),
    [
        (resolve(Order), None, ["null", "kafkalite.optional(Order)"]),
        (resolve(Order), b"", ["truncated"]),
        (resolve(Order), b"{", ["truncated"]),
        (resolve(Order), b"null", ["Order", "null"]),
        (resolve(Order), b'{"id":1}', ["missing required field `amount`"]),
        (resolve(Order), b'{"id":"x","amount":1}', ["$.id", "int"]),
        (resolve(Order), b'{"id":1,"amount":1} x', ["trailing"]),
        (resolve(Even), b'{"n":1}', ["1 is odd", "LookupError"]),
        (resolve(Carrier), b"{}", ["`code`"]),
        (json(Placed | Paid), b'{"type":"Lost","id":1}', ["Lost"]),
        (json(list[int]), b'["a"]', ["$[0]"]),
        (JSON, None, ["null", "kafkalite.optional(kafkalite.JSON)"]),
        (JSON, b"null", ["null", "record"]),
        (JSON, b" null ", ["record"]),
        (JSON, b"\xff", ["kafkalite.JSON"]),
        (JSON, b'"\xff"', ["utf-8"]),
        (JSON, b"[" * 100_000, ["100000 bytes", "recursion"]),
        (MSGPACK, None, ["null"]),
        (MSGPACK, b"\xc0", ["record"]),
        (MSGPACK, b"\x81", ["truncated"]),
    ],
)
def test_wrong_bytes_are_refused_alone_and_in_a_batch(serde, data, words):
    for read in (lambda: serde.deserialize(data), lambda: resolve(serde).deserialize_many([data, data])):
        with pytest.raises(DeserializationError) as caught:
            read()
        said = str(caught.value)
        assert all(word.lower() in said.lower() for word in words), said  # msgspec spells utf-8 in several ways
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("tp", "words"),
    [
        (Order | None, ["includes None", "kafkalite.optional()"]),
        (None, ["includes None"]),
        (Literal["a"] | None, ["includes None"]),
        (Annotated[int | None, "x"], ["includes None"]),
        (shapes.Foreign, ["Foreign", "serialize() and deserialize()"]),
        ("Order", ["Order", "not supported"]),
        (Order | Even, ["Order", "more than one dataclass"]),
        (list["Missing"], ["Missing"]),  # noqa: F821
        (5, ["5"]),
    ],
)
def test_json_of_an_impossible_type_says_so_at_once(tp, words):
    with pytest.raises(ConfigError) as caught:
        json(tp)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def test_msgspec_is_imported_when_a_typed_serde_is_first_used():
    out = run(
        "import sys, kafkalite.serde as s\n"
        "is_in = lambda: print('msgspec' in sys.modules)\n"
        "for spec in (None, bytes, str, int, s.JSON, s.MSGPACK, s.optional(s.JSON)):\n"
        "    s.resolve(spec); s.resolve_key(spec)\n"
        "repr(s.JSON), s.resolve(str).serialize('x')\n"
        "is_in()\n"
        "s.JSON.serialize([1])\n"
        "is_in()\n"
    )
    assert out == ["False", "True"]
