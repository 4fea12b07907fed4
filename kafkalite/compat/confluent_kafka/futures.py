"""Answers of AdminClient: futures that are done, since a store answers at once."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

import kafkalite
from kafkalite.compat.confluent_kafka.kafka_error import KafkaException, exception_of

K = TypeVar("K")


def done(call: Callable[[], Any]) -> "Future[Any]":
    """A future with what the call returns or raises."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    try:
        future.set_result(call())
    except KafkaException as error:
        future.set_exception(error)
    except kafkalite.KafkaliteError as error:
        future.set_exception(exception_of(error))
    return future


def for_each(keys: Iterable[K], call: Callable[[K], Any]) -> "dict[K, Future[Any]]":
    """By key, a future with what the call returns or raises for it; one failure does not keep the others back."""
    return {key: done(lambda key=key: call(key)) for key in keys}  # type: ignore[misc]  # bound as the default
