"""THE list of what confluent_kafka has and this package does not, each with its reason.

A class of it can still be imported, so that a program which mentions it loads; using it, or calling a method, raises
`KafkaException` (`_UNSUPPORTED_FEATURE`) with the reason. `python -m kafkalite.compat.confluent_kafka` prints the list.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final

from kafkalite.compat.confluent_kafka.kafka_error import Code, failed

ABSENT: Final = MappingProxyType(
    {
        "ShareConsumer": "a work queue is kafkalite's own: store.share_group(group_id, topics)",
        "DeserializingShareConsumer": "as ShareConsumer; a topic's value= type deserializes",
        "deserializing_share_consumer": "the module of DeserializingShareConsumer",
        "aio": "asyncio is kafkalite's own: kafkalite.aio",
        "schema_registry": "a registry is a service of its own; a topic's value= type takes its place",
        "avro": "deprecated there; as schema_registry",
        "kafkatest": "the test harness of the library itself",
        "Producer.purge": "a record that was handed over is committed with its batch: there is no queue to purge",
        "AdminClient.delete_records": "a store keeps its records until the cleaner is there",
        "AdminClient.describe_user_scram_credentials": "who may open a store's files may use it: there are no users",
        "AdminClient.alter_user_scram_credentials": "as describe_user_scram_credentials",
    }
)


def _refuse(name: str) -> None:
    raise failed(Code.UNSUPPORTED_FEATURE, f"{name} is not part of kafkalite.compat.confluent_kafka: {ABSENT[name]}")


def absent_method(name: str) -> Callable[..., Any]:
    """A method that says why it is not there."""
    assert name in ABSENT, name

    def method(self: object, *args: object, **kwargs: object) -> Any:
        del self, args, kwargs
        _refuse(name)

    method.__name__ = name.rpartition(".")[2]
    method.__qualname__ = name
    method.__doc__ = f"Not here: {ABSENT[name]}. Raises `KafkaException` (`_UNSUPPORTED_FEATURE`)."
    return method


def absent_class(name: str) -> type:
    """A class whose objects cannot be made, and which says why."""
    assert name in ABSENT, name

    def refuse(self: object, *args: object, **kwargs: object) -> None:
        del self, args, kwargs
        _refuse(name)

    return type(name, (), {"__init__": refuse, "__doc__": f"Not here: {ABSENT[name]}.", "__module__": __package__})


def listed() -> str:
    """The list, a line each."""
    width = max(map(len, ABSENT))
    return "\n".join(f"{name:{width}}  {reason}" for name, reason in ABSENT.items())
