"""The serdes that need no library: bytes, str, int.

    bytes   the bytes themselves; the default serde also carries null
    str     UTF-8, as Kafka's StringSerializer
    int     8 bytes, big-endian, signed, as Kafka's LongSerializer: -2**63 to 2**63 - 1

The 4 bytes of Kafka's IntegerSerializer lost: Python's int has one type, and ids and amounts outgrow 2**31. A
bool is not an int here: written, it would come back as one.

The batch functions hand a C function to `map`; when that fails they go one by one, which raises the error
with its reason. `set(map(type, values))` is the cheapest check of all types in a batch.
"""

import struct
from collections.abc import Sequence
from itertools import chain
from types import NoneType
from typing import Generic, TypeVar

from kafkalite.serde.base import Made, failed_read, failed_write, wrong_type

B = TypeVar("B", bytes, bytes | None)

_LONG = struct.Struct(">q")
_BYTES = frozenset((bytes,))
_BYTES_OR_NULL = frozenset((bytes, NoneType))
_INT = frozenset((int,))


class BytesSerde(Made, Generic[B]):
    """Bytes as they are; with `is_identity` null too, which is the default serde of keys and values."""

    __slots__ = ("is_identity",)

    def __init__(self, is_identity: bool) -> None:
        self.is_identity = is_identity

    def __repr__(self) -> str:
        return "Serde[bytes | None]" if self.is_identity else "Serde[bytes]"

    def serialize(self, value: B, /) -> B:
        """Give `value`; a bytearray or memoryview is copied. Raises `SerializationError` for other types."""
        if type(value) is bytes or (value is None and self.is_identity):
            return value
        if not isinstance(value, bytes | bytearray | memoryview):
            raise wrong_type(value, "bytes", _bytes_fix(value))
        try:
            return bytes(value)
        except ValueError as error:  # a released memoryview
            raise failed_write(value, "bytes", error) from error

    def deserialize(self, data: bytes | None, /) -> B:
        """Give `data`; raises `DeserializationError` for a null that is not carried."""
        if data is None and not self.is_identity:
            raise failed_read(None, "bytes", "")
        return data  # type: ignore[return-value]  # B is `bytes | None` where null is carried

    def serialize_many(self, values: Sequence[B], /) -> list[bytes | None]:
        """Give the bytes of each value, in a new list."""
        if set(map(type, values)) <= (_BYTES_OR_NULL if self.is_identity else _BYTES):
            return list(values)
        return [self.serialize(value) for value in values]

    def deserialize_many(self, datas: Sequence[bytes | None], /) -> list[B]:
        """Give the elements, in a new list."""
        if not self.is_identity and NoneType in set(map(type, datas)):
            raise failed_read(None, "bytes", "")
        return list(datas)  # type: ignore[arg-type]  # as in deserialize


def _bytes_fix(value: object) -> str:
    if isinstance(value, str):
        return "Encode it, or give the topic the type: key=str or value=str."
    return "Give the topic a type (key= or value=): str, int, a dataclass, kafkalite.JSON, kafkalite.MSGPACK."


class StrSerde(Made):
    """UTF-8."""

    __slots__ = ()
    is_identity = False

    def __repr__(self) -> str:
        return "Serde[str]"

    def serialize(self, value: str, /) -> bytes:
        """Encode; raises `SerializationError` for what is no str, or holds a lone surrogate."""
        if not isinstance(value, str):
            raise wrong_type(value, "str")
        try:
            return str.encode(value)
        except UnicodeEncodeError as error:
            raise failed_write(value, "str", error) from error

    def deserialize(self, data: bytes | None, /) -> str:
        """Decode; raises `DeserializationError` for a null and for what is not UTF-8."""
        if data is None:
            raise failed_read(None, "str", "")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise failed_read(data, "str", error.reason) from error

    def serialize_many(self, values: Sequence[str], /) -> list[bytes | None]:
        """Encode each value."""
        try:
            return list(map(str.encode, values))
        except (TypeError, UnicodeEncodeError):
            return [self.serialize(value) for value in values]

    def deserialize_many(self, datas: Sequence[bytes | None], /) -> list[str]:
        """Decode each element."""
        try:
            return list(map(bytes.decode, datas))  # type: ignore[arg-type]  # a null raises TypeError
        except (TypeError, UnicodeDecodeError):
            return [self.deserialize(data) for data in datas]


class IntSerde(Made):
    """8 bytes, big-endian, signed."""

    __slots__ = ()
    is_identity = False

    def __repr__(self) -> str:
        return "Serde[int]"

    def serialize(self, value: int, /) -> bytes:
        """Pack; raises `SerializationError` for what is no int (bool is none) or needs more than 64 bits."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong_type(value, "int")
        try:
            return _LONG.pack(value)
        except struct.error as error:
            raise failed_write(
                value, "int", "the range is -2**63 to 2**63 - 1 (8 bytes). Send larger ones as str."
            ) from error

    def deserialize(self, data: bytes | None, /) -> int:
        """Unpack; raises `DeserializationError` for a null and for any length but 8 bytes."""
        if data is None:
            raise failed_read(None, "int", "")
        if len(data) != _LONG.size:
            raise failed_read(data, "int", f"it has {len(data)} bytes, an int has 8 (big-endian, signed)")
        return int.from_bytes(data, "big", signed=True)

    def serialize_many(self, values: Sequence[int], /) -> list[bytes | None]:
        """Pack each value."""
        if set(map(type, values)) <= _INT:  # struct would take a bool
            try:
                return list(map(_LONG.pack, values))
            except struct.error:
                pass
        return [self.serialize(value) for value in values]

    def deserialize_many(self, datas: Sequence[bytes | None], /) -> list[int]:
        """Unpack each element."""
        try:
            return list(chain.from_iterable(map(_LONG.unpack, datas)))  # type: ignore[arg-type]  # null: TypeError
        except (TypeError, struct.error):
            return [self.deserialize(data) for data in datas]
