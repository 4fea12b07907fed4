"""SerializingProducer: a Producer whose keys and values are objects."""

from typing import Any, Generic, TypeVar

from kafkalite.compat.confluent_kafka import serde_config
from kafkalite.compat.confluent_kafka.constants import PARTITION_UA
from kafkalite.compat.confluent_kafka.error import KeySerializationError, ValueSerializationError
from kafkalite.compat.confluent_kafka.model import HeaderList
from kafkalite.compat.confluent_kafka.producer import DeliveryCallback, Producer
from kafkalite.compat.confluent_kafka.serialization import MessageField, SerializationContext

K = TypeVar("K")
V = TypeVar("V")


class SerializingProducer(Producer, Generic[K, V]):
    """A Producer with `key.serializer` and `value.serializer`: callables `(object, SerializationContext) -> bytes`."""

    def __init__(self, conf: dict[str, Any]) -> None:
        """Take a configuration; raises as `Producer`, and `ValueError` for a serializer given twice."""
        serdes = serde_config.Serdes(conf, "serializer")
        self._serdes = serdes
        self._is_closed = False
        super().__init__(serdes.rest)
        serde_config.introduce([serdes.key, serdes.value], self.cluster_id)

    def produce(  # type: ignore[override]  # confluent-kafka's order of parameters is another here
        self,
        topic: str,
        key: K | None = None,
        value: V | None = None,
        partition: int = PARTITION_UA,
        on_delivery: DeliveryCallback | None = None,
        timestamp: int = 0,
        headers: HeaderList | None = None,
    ) -> None:
        """Serialize and produce; raises `KeySerializationError`, `ValueSerializationError`, and as `Producer`."""
        if self._is_closed:
            raise RuntimeError("Producer has been closed")
        if not isinstance(topic, str):
            raise TypeError(f"topic must be a str, not {type(topic).__name__}")
        context = SerializationContext(topic, MessageField.KEY, headers)
        key_bytes: Any = key
        value_bytes: Any = value
        if self._serdes.key is not None:
            try:
                key_bytes = self._serdes.key(key, context)
            except Exception as error:
                raise KeySerializationError(error) from error
        context.field = MessageField.VALUE
        if self._serdes.value is not None:
            try:
                value_bytes = self._serdes.value(value, context)
            except Exception as error:
                raise ValueSerializationError(error) from error
        super().produce(
            topic,
            value_bytes,
            key_bytes,
            partition=partition,
            on_delivery=on_delivery,
            timestamp=timestamp,
            headers=headers,
        )

    def close(self) -> bool:
        """Close the producer, then the serializers that it built."""
        result = super().close()
        self._is_closed = True
        owned, self._serdes.owned = self._serdes.owned, []
        serde_config.close(owned)
        return result

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.close()
