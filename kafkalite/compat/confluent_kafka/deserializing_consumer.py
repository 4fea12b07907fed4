"""DeserializingConsumer: a Consumer whose messages bear objects."""

from typing import Any, Final, Generic, TypeVar

from kafkalite.compat.confluent_kafka import serde_config
from kafkalite.compat.confluent_kafka.consumer import Consumer
from kafkalite.compat.confluent_kafka.error import ConsumeError, KeyDeserializationError, ValueDeserializationError
from kafkalite.compat.confluent_kafka.model import Message
from kafkalite.compat.confluent_kafka.serialization import MessageField, SerializationContext

K = TypeVar("K")
V = TypeVar("V")

_NO_CONSUME: Final = NotImplementedError("a DeserializingConsumer has no consume(), as in confluent_kafka: use poll()")


class DeserializingConsumer(Consumer, Generic[K, V]):
    """A Consumer with `key.deserializer` and `value.deserializer`, `(bytes, SerializationContext) -> object`."""

    def __init__(self, conf: dict[str, Any]) -> None:
        """Take a configuration; raises as `Consumer`, and `ValueError` for a deserializer given twice."""
        serdes = serde_config.Serdes(conf, "deserializer")
        self._serdes = serdes
        super().__init__(serdes.rest)
        serde_config.introduce([serdes.key, serdes.value], self.cluster_id)

    def poll(self, timeout: float = -1) -> Message[K, V] | None:  # type: ignore[override]  # what makes it one
        """The next message with key and value as objects, or None.

        Raises `ConsumeError` for a message with an error, `KeyDeserializationError`, `ValueDeserializationError`; the
        message is the error's `kafka_message`, and the next `poll` goes past it.
        """
        message: Message[Any, Any] | None = super().poll(timeout)
        if message is None:
            return None
        error = message.error()
        if error is not None:
            raise ConsumeError(error, kafka_message=message)
        return self._deserialized(message)

    def _deserialized(self, message: Message[Any, Any]) -> Message[K, V]:
        """The key first: its deserializer may leave something for the value's."""
        context = SerializationContext(message.topic() or "", MessageField.KEY, message.headers())
        key, value = message.key(), message.value()
        if self._serdes.key is not None:
            try:
                key = self._serdes.key(key, context)
            except Exception as error:
                raise KeyDeserializationError(error, message) from error
        context.field = MessageField.VALUE
        if self._serdes.value is not None:
            try:
                value = self._serdes.value(value, context)
            except Exception as error:
                raise ValueDeserializationError(error, message) from error
        message.set_key(key)
        message.set_value(value)
        return message

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message[K, V]]:  # type: ignore[override]
        """Not here, as in confluent_kafka: use `poll`."""
        del num_messages, timeout
        raise _NO_CONSUME

    def close(self) -> None:
        """Close the consumer, then the deserializers that it built."""
        super().close()
        owned, self._serdes.owned = self._serdes.owned, []
        serde_config.close(owned)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.close()
