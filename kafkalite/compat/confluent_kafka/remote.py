"""The same clients on a real cluster: confluent-kafka does the work, and everything crosses this border translated.

A client whose `bootstrap.servers` names hosts holds a client of the real library and passes every call on. Objects of
this package become the real library's on the way in and come back on the way out, so that `except KafkaException`,
`TopicPartition(...)` and `isinstance` mean the same on both:

    TopicPartition, Message, KafkaError, Uuid, NewTopic, NewPartitions     made anew, field by field
    enumerations                                                           by the member's name
    other classes (descriptions, resources, metadata)                      attribute by attribute
    exceptions, futures, callables, lists, tuples, sets, dictionaries      by what is in them
"""
# ruff: noqa: SLF001  (takes objects apart to make them anew)

import functools
import importlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from enum import Enum
from typing import Any, Final, Self

from kafkalite.compat.confluent_kafka import admin, cimpl, model, properties
from kafkalite.compat.confluent_kafka.client import Local
from kafkalite.compat.confluent_kafka.kafka_error import KafkaError, KafkaException
from kafkalite.compat.confluent_kafka.model import Message, TopicPartition, Uuid, answer

LIBRARY: Final = "confluent_kafka"
HERE: Final = __package__
PLAIN: Final = (str, bytes, int, float, bool, type(None), type)


def library(name: str = "") -> Any:
    """The real library; raises `KafkaException` if it is not installed."""
    try:
        return importlib.import_module(f"{LIBRARY}{name}")
    except ImportError as error:
        raise properties.invalid(
            "bootstrap.servers names no store, and confluent-kafka, which reaches a Kafka cluster, is not installed: "
            "give file:PATH, such as file:shop.klite, or pip install confluent-kafka"
        ) from error


def _rebuild(value: Any, to: Callable[[Any], Any]) -> Any:
    """What is in a container, translated; None for what is no container."""
    if isinstance(value, dict):
        return {to(key): to(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(map(to, value))
    return None


def to_real(value: Any) -> Any:
    """An object of this package, or anything that holds some, as the real library's."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, dict | list | tuple | set):
        return _rebuild(value, to_real)
    if isinstance(value, Enum) and type(value).__module__.startswith(HERE):
        return _real_class(type(value).__name__)[value.name]
    if callable(value) and not type(value).__module__.startswith(HERE):
        return _wrapped(value)
    make = _TO_REAL.get(type(value).__name__)
    if make is not None and type(value).__module__.startswith(HERE):
        return make(value)
    if type(value).__module__.startswith(HERE):
        return _copied(value, _real_class(type(value).__name__), to_real)
    return value


def from_real(value: Any) -> Any:
    """An object of the real library, or anything that holds some, as this package's."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, dict | list | tuple | set):
        return _rebuild(value, from_real)
    if isinstance(value, Future):
        return _future(value)
    if not _is_real(value):
        return value
    if isinstance(value, Enum):
        return _own_class(type(value).__name__)[value.name]
    if isinstance(value, Exception):
        return _exception(value)
    make = _FROM_REAL.get(type(value).__name__)
    return make(value) if make is not None else _copied(value, _own_class(type(value).__name__), from_real)


def _is_real(value: object) -> bool:
    return type(value).__module__.split(".")[0] in (LIBRARY, "cimpl")


def _real_class(name: str) -> Any:
    for module in ("", ".admin", ".cimpl", ".error", ".serialization"):
        found = getattr(library(module), name, None)
        if found is not None:
            return found
    raise AssertionError(f"confluent_kafka has no {name}")


def _own_class(name: str) -> Any:
    for module in (model, admin, cimpl):
        found = getattr(module, name, None)
        if found is not None:
            return found
    raise AssertionError(f"this package has no {name}")


def _copied(value: Any, cls: Any, to: Callable[[Any], Any]) -> Any:
    made = object.__new__(cls)
    for name, one in vars(value).items():
        setattr(made, name, to(one))
    return made


def _future(real: "Future[Any]") -> "Future[Any]":
    found: Future[Any] = Future()
    found.set_running_or_notify_cancel()

    def done(future: "Future[Any]") -> None:
        error = future.exception()
        if error is None:
            found.set_result(from_real(future.result()))
        else:
            found.set_exception(from_real(error))

    real.add_done_callback(done)
    return found


def _exception(error: Exception) -> Exception:
    """Only the one that callers catch by name has a twin here; others (TypeError, BufferError) are Python's."""
    cls = _own_class(type(error).__name__) if hasattr(cimpl, type(error).__name__) else KafkaException
    made: Exception = cls(*map(from_real, error.args))
    return made


def _wrapped(call: Callable[..., Any]) -> Callable[..., Any]:
    """A callback of the program, called by the real library."""

    @functools.wraps(call, updated=())
    def called(*args: Any, **kwargs: Any) -> Any:
        return call(*map(from_real, args), **{name: from_real(one) for name, one in kwargs.items()})

    return called


_TO_REAL: Final[dict[str, Callable[[Any], Any]]] = {
    "TopicPartition": lambda one: library().TopicPartition(
        one.topic,
        one.partition,
        one.offset,
        **({} if one.metadata is None else {"metadata": one.metadata}),
        **({} if one.leader_epoch is None else {"leader_epoch": one.leader_epoch}),
    ),
    "KafkaError": lambda one: library().KafkaError(
        one.code(), one.str(), one.fatal(), one.retriable(), one.txn_requires_abort()
    ),
    "Message": lambda one: library().Message(
        topic=one._topic,
        partition=one._partition,
        offset=one._offset,
        key=one._key,
        value=one._value,
        headers=one._headers,
        error=to_real(one._error),
        timestamp=one._timestamp,
        **({} if one._leader_epoch is None else {"leader_epoch": one._leader_epoch}),
    ),
    "Uuid": lambda one: library().Uuid(one.get_most_significant_bits(), one.get_least_significant_bits()),
    "NewTopic": lambda one: library(".admin").NewTopic(
        one.topic,
        one.num_partitions,
        one.replication_factor,
        **{name: value for name in ("replica_assignment", "config") if (value := getattr(one, name)) is not None},
    ),
    "NewPartitions": lambda one: library(".admin").NewPartitions(
        one.topic,
        one.new_total_count,
        **({} if one.replica_assignment is None else {"replica_assignment": one.replica_assignment}),
    ),
    "OffsetSpec": lambda one: library(".admin").OffsetSpec(one._value),
}

_FROM_REAL: Final[dict[str, Callable[[Any], Any]]] = {
    "TopicPartition": lambda one: answer(
        TopicPartition(one.topic, one.partition, one.offset, leader_epoch=one.leader_epoch),
        one.offset,
        from_real(one.error),
        one.metadata,
    ),
    "KafkaError": lambda one: KafkaError(one.code(), one.str(), one.fatal(), one.retriable(), one.txn_requires_abort()),
    "Message": lambda one: Message(
        one.topic(),
        -1 if one.partition() is None else one.partition(),
        -1001 if one.offset() is None else one.offset(),
        one.key(),
        one.value(),
        one.headers(),
        from_real(one.error()),
        one.timestamp(),
        one.latency(),
        one.leader_epoch(),
    ),
    "Uuid": lambda one: Uuid(one.get_most_significant_bits(), one.get_least_significant_bits()),
}


class Remote(Local):
    """A client that passes every call on to one of the real library."""

    _real_name = ""
    _real: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what the real library takes; `KAFKALITE_BOOTSTRAP` and `file:` were looked at before."""
        conf = properties.merged(args, kwargs)
        made = _real_class(self._real_name)
        self._real = _translated(lambda: made({name: self._callback(value) for name, value in conf.items()}))

    def _callback(self, value: Any) -> Any:
        """Callables of the configuration, called with this client's objects; loggers and the like stay as they are."""
        return self._facing(value) if callable(value) else value

    def _facing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A callback that is told of this client where the real library tells of its own."""

        def called(*args: Any) -> Any:
            return call(*(self if one is self.__dict__.get("_real") else from_real(one) for one in args))

        return called

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def given(one: Any) -> Any:
            is_callback = callable(one) and not type(one).__module__.startswith(HERE)
            return self._facing(one) if is_callback else to_real(one)

        passed = [given(one) for one in args], {key: given(one) for key, one in kwargs.items()}
        found = from_real(_translated(lambda: getattr(self._real, name)(*passed[0], **passed[1])))
        _mark_refused(zip([*args, *kwargs.values()], [*passed[0], *passed[1].values()], strict=True))
        return found

    def __len__(self) -> int:
        return len(self._real)

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        _translated(lambda: self._real.__exit__(None, None, None))


def _mark_refused(pairs: Iterable[tuple[Any, Any]]) -> None:
    """`produce_batch` writes what it refused into the dictionaries it is given, which were copies."""
    for given, passed in pairs:
        if isinstance(given, list):
            for mine, real in zip(given, passed, strict=True):
                if isinstance(mine, dict) and "_error" in real:
                    mine["_error"] = from_real(real["_error"])


def _translated(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        if _is_real(error):
            raise from_real(error) from error
        raise


def remote_twin(local: type[Local], real_name: str) -> type[Local]:
    """The remote twin of a client class: each of its public methods passes the call on."""

    def passing_on(name: str) -> Callable[..., Any]:
        method = getattr(local, name)

        @functools.wraps(method)
        def call(self: Remote, *args: Any, **kwargs: Any) -> Any:
            return self._call(name, args, kwargs)

        return call

    names = [name for name in dir(local) if not name.startswith("_") and callable(getattr(local, name))]
    body = {name: passing_on(name) for name in names} | {"_real_name": real_name, "__module__": __name__}
    return type(f"Remote{real_name}", (Remote, local), body)
