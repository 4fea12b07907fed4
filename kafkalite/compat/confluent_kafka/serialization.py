"""confluent_kafka.serialization: keys and values to bytes and back, for `SerializingProducer` and its counterpart.

A serializer is any callable `(object, SerializationContext) -> bytes`; these are the ones for text and numbers, big
endian as Java's. `None` is Kafka's null either way.
"""

import struct
from collections.abc import Callable
from enum import Enum
from typing import Any

from kafkalite.compat.confluent_kafka.kafka_error import KafkaException

__all__ = [
    "Deserializer",
    "DeserializerBuilder",
    "DoubleDeserializer",
    "DoubleSerializer",
    "IntegerDeserializer",
    "IntegerSerializer",
    "MessageField",
    "SerializationContext",
    "SerializationError",
    "Serializer",
    "SerializerBuilder",
    "StringDeserializer",
    "StringSerializer",
]


class MessageField(str, Enum):  # noqa: UP042  (prints as its value, and is text, as there)
    """Which part of a message is at hand."""

    NONE = "none"
    KEY = "key"
    VALUE = "value"

    def __str__(self) -> str:
        return str(self.value)


class SerializationContext:
    """What a serializer is told beside the object: the topic, the field, the headers."""

    def __init__(self, topic: str, field: MessageField, headers: Any = None) -> None:
        self.topic = topic
        self.field = field
        self.headers = headers


class SerializationError(KafkaException):
    """An object could not be turned into bytes, or bytes into an object."""


def _for_a_subclass(base: object) -> NotImplementedError:
    return NotImplementedError(f"{type(base).__name__} says only how it is called: use a class that derives from it")


class _Serde:
    """What serializers and deserializers share: both may be told of the cluster, and be closed."""

    __slots__: tuple[str, ...] = ()

    def set_cluster_id_resolver(self, resolver: Callable[[], Any]) -> None:
        """Take a callable that gives the cluster's id; ignored unless a subclass needs it."""

    def close(self) -> None:
        """Let go of what it made for itself."""


class Serializer(_Serde):
    """Base of serializers: call it with an object, get bytes."""

    __slots__ = ()

    def __call__(self, obj: Any, ctx: SerializationContext | None = None) -> bytes | None:
        """The object as bytes; raises `SerializationError`."""
        del obj, ctx
        raise _for_a_subclass(self)


class Deserializer(_Serde):
    """Base of deserializers: call it with bytes, get an object."""

    __slots__ = ()

    def __call__(self, value: bytes | None, ctx: SerializationContext | None = None) -> Any:
        """The object that the bytes are; raises `SerializationError`."""
        del value, ctx
        raise _for_a_subclass(self)


class SerializerBuilder:
    """Base of what builds a serializer when its client is made, from the client's own configuration."""

    __slots__ = ()

    def build(self, conf: dict[str, Any], is_key: bool) -> tuple[Serializer, dict[str, Any]]:
        """The serializer, and the configuration without what the builder took for itself."""
        del conf, is_key
        raise _for_a_subclass(self)


class DeserializerBuilder:
    """Base of what builds a deserializer when its client is made."""

    __slots__ = ()

    def build(self, conf: dict[str, Any], is_key: bool) -> tuple[Deserializer, dict[str, Any]]:
        """The deserializer, and the configuration without what the builder took for itself."""
        del conf, is_key
        raise _for_a_subclass(self)


class _Packing(Serializer):
    """A number as one of `struct`'s formats."""

    __slots__ = ()
    _format = ""

    def __call__(self, obj: Any, ctx: SerializationContext | None = None) -> bytes | None:  # noqa: ARG002
        try:
            return None if obj is None else struct.pack(self._format, obj)
        except struct.error as error:
            raise SerializationError(str(error)) from error


class _Unpacking(Deserializer):
    """One of `struct`'s formats as a number."""

    __slots__ = ()
    _format = ""

    def __call__(self, value: bytes | None, ctx: SerializationContext | None = None) -> Any:  # noqa: ARG002
        try:
            return None if value is None else struct.unpack(self._format, value)[0]
        except struct.error as error:
            raise SerializationError(str(error)) from error


class DoubleSerializer(_Packing):
    """A float as IEEE 754 binary64, 8 bytes."""

    __slots__ = ()
    _format = ">d"


class DoubleDeserializer(_Unpacking):
    """IEEE 754 binary64 as a float."""

    __slots__ = ()
    _format = ">d"


class IntegerSerializer(_Packing):
    """An int as int32, 4 bytes."""

    __slots__ = ()
    _format = ">i"


class IntegerDeserializer(_Unpacking):
    """int32 as an int."""

    __slots__ = ()
    _format = ">i"


class StringSerializer(Serializer):
    """Text in a codec, UTF-8 unless another is named."""

    __slots__ = ("codec",)

    def __init__(self, codec: str = "utf_8") -> None:
        self.codec = codec

    def __call__(self, obj: Any, ctx: SerializationContext | None = None) -> bytes | None:  # noqa: D102, ARG002
        try:
            encoded: bytes | None = None if obj is None else obj.encode(self.codec)
        except UnicodeError as error:
            raise SerializationError(str(error)) from error
        return encoded


class StringDeserializer(Deserializer):
    """Bytes in a codec as text, UTF-8 unless another is named."""

    __slots__ = ("codec",)

    def __init__(self, codec: str = "utf_8") -> None:
        self.codec = codec

    def __call__(self, value: bytes | None, ctx: SerializationContext | None = None) -> Any:  # noqa: D102, ARG002
        try:
            return None if value is None else value.decode(self.codec)
        except UnicodeError as error:
            raise SerializationError(str(error)) from error
