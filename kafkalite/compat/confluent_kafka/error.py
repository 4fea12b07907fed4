"""confluent_kafka.error: what `SerializingProducer` and `DeserializingConsumer` raise."""
# ruff: noqa: SLF001  (the codes are attributes that begin with an underscore, as in confluent_kafka)

from typing import Any

from kafkalite.compat.confluent_kafka.kafka_error import KafkaError, KafkaException
from kafkalite.compat.confluent_kafka.model import Message
from kafkalite.compat.confluent_kafka.serialization import SerializationError

__all__ = [
    "ConsumeError",
    "KafkaError",
    "KafkaException",
    "KeyDeserializationError",
    "KeySerializationError",
    "Message",
    "ProduceError",
    "SerializationError",
    "ValueDeserializationError",
    "ValueSerializationError",
]


class _KafkaClientError(KafkaException):
    """A `KafkaException` that also holds what caused it, and the message it is about."""

    def __init__(
        self,
        kafka_error: KafkaError,
        exception: Exception | None = None,
        kafka_message: Message[Any, Any] | None = None,
    ) -> None:
        super().__init__(kafka_error)
        self.exception = exception
        self.kafka_message = kafka_message

    @property
    def code(self) -> int:
        """The code of the `KafkaError`."""
        error: KafkaError = self.args[0]
        return error.code()

    @property
    def name(self) -> str:
        """The name of its code."""
        error: KafkaError = self.args[0]
        return error.name()


class ConsumeError(_KafkaClientError):
    """Consuming failed; `kafka_message` is the message as it was read."""


class KeyDeserializationError(ConsumeError, SerializationError):
    """A key could not be turned into an object; `exception` says why."""

    def __init__(self, exception: Exception | None = None, kafka_message: Message[Any, Any] | None = None) -> None:
        super().__init__(KafkaError(KafkaError._KEY_DESERIALIZATION, str(exception)), exception, kafka_message)


class ValueDeserializationError(ConsumeError, SerializationError):
    """A value could not be turned into an object; `exception` says why."""

    def __init__(self, exception: Exception | None = None, kafka_message: Message[Any, Any] | None = None) -> None:
        super().__init__(KafkaError(KafkaError._VALUE_DESERIALIZATION, str(exception)), exception, kafka_message)


class ProduceError(_KafkaClientError):
    """Producing failed."""

    def __init__(self, kafka_error: KafkaError, exception: Exception | None = None) -> None:
        super().__init__(kafka_error, exception, None)


class KeySerializationError(ProduceError, SerializationError):
    """A key could not be turned into bytes; `exception` says why."""

    def __init__(self, exception: Exception | None = None) -> None:
        super().__init__(KafkaError(KafkaError._KEY_SERIALIZATION, str(exception)), exception)


class ValueSerializationError(ProduceError, SerializationError):
    """A value could not be turned into bytes; `exception` says why."""

    def __init__(self, exception: Exception | None = None) -> None:
        super().__init__(KafkaError(KafkaError._VALUE_SERIALIZATION, str(exception)), exception)
