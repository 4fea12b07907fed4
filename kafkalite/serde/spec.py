"""From what a user gives as `key=` or `value=` to the serde that the engine calls.

    nothing                              bytes and null as they are
    bytes, str, int                      plain.py
    dataclass, Struct, TypedDict         typed.py
    JSON, MSGPACK, json(…), optional(…)  themselves
    any object with the two methods      a CustomSerde around it

Everything else raises `ConfigError` with what to write instead. `BatchSerde`s are recognised by their
methods, so that a serde of another module (Avro, Protobuf) needs no entry here.
"""

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, cast, get_args, get_origin, overload

from kafkalite.errors import ConfigError, DeserializationError, KafkaliteError, SerializationError
from kafkalite.serde.base import BatchSerde, Made, Serde, brief, failed_read, failed_write, type_name
from kafkalite.serde.plain import BytesSerde, IntSerde, StrSerde
from kafkalite.serde.typed import TypedSerde, is_typed_class, json

T = TypeVar("T")

_DEFAULT: BytesSerde[bytes | None] = BytesSerde(is_identity=True)
_BYTES: BytesSerde[bytes] = BytesSerde(is_identity=False)
_PLAIN: dict[type, BatchSerde[Any]] = {bytes: _BYTES, str: StrSerde(), int: IntSerde()}
_SINGLE = ("serialize", "deserialize")
_USABLE = (
    "valid are bytes, str, int, a dataclass, a msgspec.Struct, a TypedDict, kafkalite.JSON, "
    "kafkalite.MSGPACK, kafkalite.json(type), kafkalite.optional(type), "
    "or an object with serialize() and deserialize()."
)


@overload
def resolve(spec: None, /) -> BatchSerde[bytes | None]: ...
@overload
def resolve(spec: type[T] | Serde[T], /) -> BatchSerde[T]: ...
def resolve(spec: Any, /) -> BatchSerde[Any]:
    """Give the serde for a topic's `value=`; `None` (nothing given) carries bytes and null.

    Raises `ConfigError` for what is neither a supported type nor a serde, with what to write instead.
    """
    if spec is None:
        return _DEFAULT
    if isinstance(spec, type) and spec in _PLAIN:
        return _PLAIN[spec]
    if is_typed_class(spec):
        return cast("BatchSerde[Any]", json(spec))
    if not isinstance(spec, type) and _has(spec, *_SINGLE):
        is_ours = _has(spec, "serialize_many", "deserialize_many") and hasattr(spec, "is_identity")
        return cast("BatchSerde[Any]", spec) if is_ours else CustomSerde(spec)
    raise _unusable(spec)


def resolve_key(spec: type[T] | Serde[T] | None, /) -> BatchSerde[Any]:
    """Give the serde for a topic's `key=`: as `resolve`, but whatever the type, null stands for no key.

    Equal keys give equal bytes: `{"a": 1, "b": 2}` is found when asked for as `{"b": 2, "a": 1}`.
    """
    serde: Any = resolve(cast("Any", spec))
    if isinstance(serde, OptionalSerde):
        serde = serde.inner
    if isinstance(serde, TypedSerde):
        serde = TypedSerde(serde.tp, serde.format, is_sorted=True)
    return resolve(optional(serde))


def optional(inner: type[T] | Serde[T], /) -> Serde[T | None]:
    """Make a serde that carries `inner`'s values, and Kafka's null as `None`.

    Raises `ConfigError` as `resolve` does.
    """
    serde: Any = resolve(inner)
    if isinstance(serde, BytesSerde):
        return cast("Serde[T | None]", _DEFAULT)
    if isinstance(serde, OptionalSerde):
        return serde
    return OptionalSerde(serde)


class OptionalSerde(Made, Generic[T]):
    """Null is `None`; everything else is the inner serde's, which never sees a null."""

    __slots__ = ("inner",)
    is_identity = False

    def __init__(self, inner: BatchSerde[T]) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"kafkalite.optional({self.inner!r})"

    def serialize(self, value: T | None, /) -> bytes | None:
        """Give null for `None`, the inner serde's bytes for the rest."""
        return None if value is None else self.inner.serialize(value)

    def deserialize(self, data: bytes | None, /) -> T | None:
        """Give `None` for null, the inner serde's value for the rest."""
        return None if data is None else self.inner.deserialize(data)

    def serialize_many(self, values: Sequence[T | None], /) -> list[bytes | None]:
        """Give the bytes, or null, of each value."""
        if NoneType not in set(map(type, values)):
            return self.inner.serialize_many(cast("Sequence[T]", values))
        datas = iter(self.inner.serialize_many([value for value in values if value is not None]))
        return [None if value is None else next(datas) for value in values]

    def deserialize_many(self, datas: Sequence[bytes | None], /) -> list[T | None]:
        """Give the value, or `None`, of each element."""
        if NoneType not in set(map(type, datas)):
            return cast("list[T | None]", self.inner.deserialize_many(datas))
        values = iter(self.inner.deserialize_many([data for data in datas if data is not None]))
        return [None if data is None else next(values) for data in datas]


class CustomSerde(Made, Generic[T]):
    """A user's serde with the batch functions added, its results checked and its exceptions made kafkalite's.

    It sees nulls on both sides: what they are is its own affair.
    """

    __slots__ = ("inner",)
    is_identity = False

    def __init__(self, inner: Serde[T]) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return repr(self.inner)

    def serialize(self, value: T, /) -> bytes | None:
        """Give the user's bytes; raises `SerializationError` if they raise or give no bytes."""
        try:
            data = self.inner.serialize(value)
        except KafkaliteError:
            raise
        except Exception as error:
            raise failed_write(value, self._name, error) from error
        if data is None or type(data) is bytes:
            return data
        if isinstance(data, bytes | bytearray | memoryview):
            return bytes(data)
        raise SerializationError(
            f"{self._name}.serialize gave {type(data).__name__} {brief(data)}: it must give bytes, or None for null."
        )

    def deserialize(self, data: bytes | None, /) -> T:
        """Give the user's value; raises `DeserializationError` for what they raise."""
        try:
            return self.inner.deserialize(data)
        except KafkaliteError:
            raise
        except Exception as error:
            if data is None:
                raise DeserializationError(
                    f"{self._name}.deserialize cannot read a null: {error} ({type(error).__name__}). "
                    "Let it take None, or put kafkalite.optional() around it."
                ) from error
            raise failed_read(data, self._name, error) from error

    def serialize_many(self, values: Sequence[T], /) -> list[bytes | None]:
        """Serialize each value."""
        return list(map(self.serialize, values))

    def deserialize_many(self, datas: Sequence[bytes | None], /) -> list[T]:
        """Deserialize each element."""
        return list(map(self.deserialize, datas))

    @property
    def _name(self) -> str:
        return type(self.inner).__name__


def _has(spec: object, *methods: str) -> bool:
    return all(callable(getattr(spec, method, None)) for method in methods)


def _unusable(spec: Any) -> ConfigError:
    return ConfigError(f"{_shown(spec)} cannot be a topic's key= or value=: {_fix(spec)}")


def _shown(spec: Any) -> str:
    return type_name(spec) if isinstance(spec, type) or get_args(spec) else brief(spec)


def _fix(spec: Any) -> str:
    """Say what to write instead of `spec`."""
    if spec is Any or spec is object:
        return "use kafkalite.JSON."
    if spec is json or spec is optional:
        return f"call it with a type: kafkalite.{spec.__name__}(Order)."
    if isinstance(spec, type) and _has(spec, *_SINGLE):
        return f"give an instance: {spec.__name__}()."
    if get_origin(spec) in (Union, UnionType) and NoneType in get_args(spec):
        rest = [type_name(part) for part in get_args(spec) if part is not NoneType]
        inner = rest[0] if len(rest) == 1 else f"kafkalite.json({' | '.join(rest)})"
        return f"use kafkalite.optional({inner})."
    missing = [name for name in _SINGLE if not _has(spec, name)]
    if len(missing) == 1:
        return f"it has no method {missing[0]}(). {_USABLE}"
    if isinstance(spec, bytearray | memoryview) or spec is bytearray or spec is memoryview:
        return "use bytes."
    return f"use kafkalite.json({type_name(spec)})." if _is_json_type(spec) else _USABLE


def _is_json_type(spec: Any) -> bool:
    if not isinstance(spec, type) and get_origin(spec) is None:
        return False
    try:
        json(spec)
    except ConfigError:
        return False
    return True
