"""The serdes that msgspec makes: dataclass, Struct, TypedDict, `json(tp)`, `JSON`, `MSGPACK`.

Values are written as JSON (or MessagePack) and validated when read. msgspec costs some milliseconds to
import, so nothing here imports it before a serde is first used; `JSON` and `MSGPACK` are made without it.

What a write guarantees:
- The value is of the declared type, as far as its class tells: no `Placed` gets into a topic of `Order`s.
  What stands in its fields is the type checker's business, and is validated by the reader.
- A value of a subclass (a bool where an int is declared, too) is written only if what was written can be read
  as the declared type; it is read as that, without what the subclass adds.
- No JSON null comes from a number: JSON has no NaN and no infinity, and msgspec writes null for them, which a
  reader could not tell from None. They are refused. MessagePack carries them.
- `None` on its own is Kafka's null and never written as JSON null; nor is a JSON null read as None.
"""

import math
import re
import typing
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar, Union, get_args, get_origin

from kafkalite.errors import ConfigError
from kafkalite.serde.base import Made, Serde, failed_read, failed_write, type_name, wrong_type

T = TypeVar("T")
Format = Literal["json", "msgpack"]

_NULL: frozenset[type] = frozenset((NoneType,))
_NOT_JSON: frozenset[type] = frozenset((NoneType, bytes, bytearray, memoryview))
_NO_BYTES = "JSON has no bytes: leave the type out to send them as they are, or use kafkalite.MSGPACK."
_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]", re.DOTALL)
"""A NaN or an infinity in MessagePack: the mark of a float64, then an exponent of ones."""


class Codec(NamedTuple):
    """What msgspec made for one type."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    classes: frozenset[type] | None
    """The classes that values have; `None` where no class tells, as for Any."""
    refused: frozenset[type]
    """The classes that values do not have, where `classes` is `None`."""


class TypedSerde(Made, Generic[T]):
    """JSON or MessagePack of a type that msgspec knows; with `Any` nothing is validated.

    `is_sorted` makes equal values equal bytes, whatever the order of their dicts and sets: a record is found
    by the bytes of its key. Values keep the order they have, which costs less.
    """

    __slots__ = ("_codecs", "format", "is_sorted", "tp")
    is_identity = False

    def __init__(self, tp: Any, format: Format = "json", is_sorted: bool = False) -> None:  # noqa: A002  (its name)
        self.tp = tp
        self.format = format
        self.is_sorted = is_sorted
        # Empty until first used: codecs neither pickle nor compare, and making one imports msgspec.
        self._codecs: list[Codec] = []

    def _fields(self) -> tuple[Any, ...]:
        return self.tp, self.format, self.is_sorted

    def __repr__(self) -> str:
        return f"Serde[{self.name}]" if is_typed_class(self.tp) else self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return TypedSerde, self._fields()

    @property
    def name(self) -> str:
        """What a user writes as `key=` or `value=` for this serde."""
        if self.tp is Any:
            return "kafkalite.JSON" if self.format == "json" else "kafkalite.MSGPACK"
        return type_name(self.tp) if is_typed_class(self.tp) else f"kafkalite.json({type_name(self.tp)})"

    def codec(self) -> Codec:
        """Give what msgspec made, and make it when first asked; raises `ConfigError` if that fails."""
        if not self._codecs:  # two threads at once make two, of which either serves
            self._codecs.append(_make_codec(self))
        return self._codecs[0]

    def serialize(self, value: T, /) -> bytes:
        """Encode; raises `SerializationError` for another type, for None, and for a NaN in JSON."""
        codec = self.codec()
        is_exact = self._check_class(codec, value)
        try:
            data = codec.encode(value)
            if b"null" in data and self.format == "json":
                _refuse_nulls([value], [data])
        except Exception as error:  # what a value's own hooks raise, and RecursionError, too
            raise failed_write(value, self.name, error) from error
        if not is_exact:
            self._check_reads_back(codec, value, data)
        return data

    def deserialize(self, data: bytes | None, /) -> T:
        """Decode and validate; raises `DeserializationError` for a null and for what is of another type."""
        if data is None:
            raise failed_read(None, self.name, "")
        codec = self.codec()
        try:
            value: T = codec.decode(data)
        except Exception as error:  # __post_init__ may raise anything
            raise failed_read(data, self.name, error) from error
        if value is None:
            raise failed_read(data, self.name, "its null is no value here; None is a record's null only")
        return value

    def serialize_many(self, values: Sequence[T], /) -> list[bytes | None]:
        """Encode each value."""
        codec = self.codec()
        kinds = set(map(type, values))
        if kinds <= codec.classes if codec.classes is not None else kinds.isdisjoint(codec.refused):
            try:
                datas = list(map(codec.encode, values))
                if self.format == "json" and b"null" in b"".join(datas):
                    _refuse_nulls(values, datas)
            except Exception:  # noqa: BLE001, S110  (one by one tells which, and raises it with its reason)
                pass
            else:
                return typing.cast("list[bytes | None]", datas)
        return [self.serialize(value) for value in values]

    def deserialize_many(self, datas: Sequence[bytes | None], /) -> list[T]:
        """Decode and validate each element."""
        codec = self.codec()
        try:
            values = list(map(codec.decode, datas))  # type: ignore[arg-type]  # a null raises TypeError
        except Exception:  # noqa: BLE001  (as above)
            return [self.deserialize(data) for data in datas]
        if codec.classes is None and NoneType in set(map(type, values)):
            return [self.deserialize(data) for data in datas]
        return values

    def _check_class(self, codec: Codec, value: T) -> bool:
        """Say whether the value's class is a declared one; raise if it is not even a subclass of one."""
        if codec.classes is None:
            if type(value) in codec.refused:
                raise wrong_type(value, self.name, _NO_BYTES)
            return True
        if type(value) in codec.classes:
            return True
        if not isinstance(value, tuple(codec.classes)):
            raise wrong_type(value, self.name)
        return False

    def _check_reads_back(self, codec: Codec, value: T, data: bytes) -> None:
        """Raise if what was written of a subclass cannot be read as the declared type."""
        try:
            codec.decode(data)
        except Exception as error:
            raise failed_write(
                value,
                self.name,
                f"what is written of a {type(value).__name__} cannot be read as that: {error}",
            ) from error


def json(tp: Any, /) -> Serde[Any]:
    """Make a serde that writes JSON of any type msgspec knows: `json(Placed | Paid)`, `json(list[int])`.

    Values are validated when read. Raises `ConfigError` for a type that msgspec does not know, and for one
    that includes None: a null is Kafka's null, which `kafkalite.optional` carries.
    """
    serde: TypedSerde[Any] = TypedSerde(tp)
    if tp is not Any:
        serde.codec()
    return serde


JSON: Serde[Any] = TypedSerde(Any)
"""JSON of whatever JSON holds (dict, list, str, int, float, bool), and of what msgspec turns into it."""

MSGPACK: Serde[Any] = TypedSerde(Any, "msgpack")
"""MessagePack of the same, and of bytes, NaN, datetimes with a zone, and dicts with keys of any kind."""


def is_typed_class(tp: Any) -> bool:
    """Say whether `tp` may stand as `key=` or `value=` by itself: a dataclass, a Struct, a TypedDict.

    Asks for the marks of the three and not for their base, so that neither msgspec nor dataclasses is imported for
    the answer.
    """
    base = get_origin(tp) or tp  # Box[int] is a Box
    if not isinstance(base, type):
        return False
    return any(hasattr(base, mark) for mark in ("__dataclass_fields__", "__struct_fields__")) or _is_typed_dict(base)


def _is_typed_dict(tp: Any) -> bool:
    # typing.is_typeddict does not know those of typing_extensions.
    return isinstance(tp, type) and dict in tp.__mro__ and hasattr(tp, "__required_keys__")


def _make_codec(serde: TypedSerde[Any]) -> Codec:
    import msgspec  # noqa: PLC0415  (the point of this module's laziness)

    module = msgspec.json if serde.format == "json" else msgspec.msgpack
    try:
        encoder = module.Encoder(order="deterministic" if serde.is_sorted else None)
        decoder = module.Decoder(serde.tp)
        classes = _classes(serde.tp)
        is_foreign = _is_foreign(serde.tp)
    except Exception as error:  # a forward reference may fail in any way
        raise ConfigError(
            f"{serde.name} cannot be a topic's type: {error} ({type(error).__name__}). "
            "Name types that msgspec knows, at the top level of a module, "
            "or give an object with serialize() and deserialize()."
        ) from error
    if classes is not None and NoneType in classes:
        raise ConfigError(f"{serde.name} includes None: take it out, and put kafkalite.optional() around the rest.")
    if is_foreign:
        raise ConfigError(
            f"{serde.name} cannot be a topic's type: msgspec does not know {type_name(serde.tp)}. "
            "Give a dataclass, or an object with serialize() and deserialize()."
        )
    return Codec(encoder.encode, decoder.decode, classes, _NOT_JSON if serde.format == "json" else _NULL)


def _is_foreign(tp: Any) -> bool:
    """Say whether msgspec takes `tp` for a class that it can only hand to hooks."""
    from msgspec.inspect import CustomType, type_info  # noqa: PLC0415  (as in _make_codec)

    return tp is not object and isinstance(type_info(tp), CustomType)


_CLASSES: dict[Any, frozenset[type] | None] = {
    float: frozenset((float, int)),
    None: _NULL,
    Any: None,
    object: None,
}


def _classes(tp: Any) -> frozenset[type] | None:
    """Give the classes that values of `tp` have, or None where no class tells."""
    from inspect import isabstract  # noqa: PLC0415  (as msgspec: dear, and only now needed)

    tp = _bare(tp)
    origin = get_origin(tp)
    if origin in (Union, UnionType):
        parts = [_classes(part) for part in get_args(tp)]
        known = [part for part in parts if part is not None]
        return frozenset().union(*known) if len(known) == len(parts) else None
    if origin is Literal:
        return frozenset(map(type, get_args(tp)))
    base = origin or tp
    if base in _CLASSES:
        return _CLASSES[base]
    if _is_typed_dict(base):
        return frozenset((dict,))
    if not isinstance(base, type) or isabstract(base):
        return None
    return frozenset((base,))


def _bare(tp: Any) -> Any:
    """Take off what only names or annotates a type."""
    alias: Any = getattr(typing, "TypeAliasType", ())  # `type X = ...`, from Python 3.12 on
    while True:
        if get_origin(tp) is Annotated:
            tp = get_args(tp)[0]
        elif isinstance(tp, NewType):
            tp = tp.__supertype__
        elif isinstance(tp, alias):
            tp = tp.__value__
        else:
            return tp


def _refuse_nulls(values: Sequence[Any], datas: Sequence[bytes]) -> None:
    """Raise `ValueError` if a null of these JSON texts was a number, or is a text of its own."""
    import msgspec  # noqa: PLC0415  (as in _make_codec)

    if _may_hold_not_finite(values) and _holds_not_finite(msgspec.to_builtins(list(values), enc_hook=str)):
        raise ValueError(
            "JSON has no NaN and no infinity. Send None in a field that allows it, or use kafkalite.MSGPACK."
        )
    if b"null" in datas:
        raise ValueError("its JSON is null, and a null is Kafka's: send None, with kafkalite.optional().")


def _may_hold_not_finite(values: Sequence[Any]) -> bool:
    """Search MessagePack, which keeps these numbers: faster than a walk, and strings may look like them."""
    import msgspec  # noqa: PLC0415  (as in _make_codec)

    try:
        return _NOT_FINITE.search(msgspec.msgpack.encode(list(values))) is not None
    except (OverflowError, TypeError):  # JSON takes larger ints
        return True


def _holds_not_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(map(_holds_not_finite, parts))
