"""What a serde is, and the words its errors share.

A serde turns a key or value into the bytes of a record and back. `Serde` is what a user may write: two
methods. `BatchSerde` is what the engine calls: the same two, and two that take a whole batch, because a call
of Python per record costs more than the conversion does.

Invariants:
- `None` is Kafka's null on both sides: a serde that carries no null refuses `None` and refuses a null.
- The whole-batch functions give what the single ones give for each element. When one element fails they raise
  its error and nothing else; which element it was is for the caller to find, one by one.
- Whatever goes wrong is a `SerializationError` or a `DeserializationError`, with the cause chained.
- Serdes are immutable, compare equal when built from the same spec, and pickle (stores do, for `spawn`).
"""

import reprlib
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, get_args

from kafkalite.errors import DeserializationError, SerializationError

T = TypeVar("T")


class Made:
    """A value: each field is set once; equal, and hashed alike, when of one class and with equal fields.

    (Importing dataclasses, which would do the same, takes a fifth of what importing kafkalite may take.)
    """

    __slots__: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, name):
            raise AttributeError(f"{name}={value!r} cannot be set: {self!r} does not change, make another serde")
        object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._fields() == self._fields()

    def __hash__(self) -> int:
        return hash((type(self), *self._fields()))

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)


class Serde(Protocol[T]):
    """Turns a `T` into a record's bytes and back; `None` on the side of bytes is Kafka's null.

    Any object with these two methods may stand as `key=` or `value=`. What they raise reaches the caller as
    `SerializationError` or `DeserializationError`. One that shall travel to spawned processes must pickle.
    """

    def serialize(self, value: T, /) -> bytes | None:
        """Give the bytes of `value`, or `None` for Kafka's null."""

    def deserialize(self, data: bytes | None, /) -> T:
        """Give the value that `data` stands for; `None` is Kafka's null."""


class BatchSerde(Serde[T], Protocol[T]):
    """What `resolve` gives and the engine calls: a serde that also takes whole batches."""

    @property
    def is_identity(self) -> bool:
        """Whether the bytes of a record, null included, are the value: reading may skip the serde.

        Writing may not: `serialize` also checks the type.
        """

    def serialize_many(self, values: Sequence[T], /) -> list[bytes | None]:
        """Give the bytes of each value, in a new list."""

    def deserialize_many(self, datas: Sequence[bytes | None], /) -> list[T]:
        """Give the value of each element, in a new list."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel = 3
_BYTES_SHOWN = 24
_TEXT_SHOWN = 80


def brief(value: object) -> str:
    """Show a value in an error message, in about 80 characters, however large or ill-behaved it is."""
    if isinstance(value, bytes):
        cut = value[:_BYTES_SHOWN]
        return repr(cut) if len(cut) == len(value) else f"{cut!r}... ({len(value)} bytes)"
    try:
        text = _SHORT.repr(value)
    except Exception:  # noqa: BLE001  (a __repr__ may raise anything, and so does an int of 5000 digits)
        return f"<{type(value).__qualname__} without a repr>"
    return text if len(text) <= _TEXT_SHOWN else f"{text[:_TEXT_SHOWN]}..."


def type_name(tp: Any) -> str:
    """Name a type as its user writes it: `Order`, `list[int]`, `shop.Placed | shop.Paid`."""
    return tp.__name__ if isinstance(tp, type) and not get_args(tp) else str(tp)


def wrong_type(value: object, wanted: str, fix: str = "") -> SerializationError:
    """Make the error for a value that is not what the serde carries."""
    if value is None:
        return SerializationError(
            f"cannot send None: it is Kafka's null, and {wanted} carries none. "
            f"Use kafkalite.optional({wanted}) for a topic with nulls (tombstones)."
        )
    name = type(value).__qualname__
    return SerializationError(f"cannot send {name} {brief(value)}: {wanted} is wanted.{fix and ' ' + fix}")


def failed_write(value: object, wanted: str, cause: BaseException | str) -> SerializationError:
    """Make the error for a value of the right type that has no bytes."""
    return SerializationError(f"cannot send {brief(value)} as {wanted}: {_reason(cause)}")


def failed_read(data: object, wanted: str, cause: BaseException | str) -> DeserializationError:
    """Make the error for bytes, or a null, that stand for no value."""
    if data is None:
        return DeserializationError(
            f"a null cannot be read as {wanted}. Use kafkalite.optional({wanted}) for a topic with nulls (tombstones)."
        )
    return DeserializationError(f"{brief(data)} cannot be read as {wanted}: {_reason(cause)}")


def _reason(cause: BaseException | str) -> str:
    return cause if isinstance(cause, str) else f"{cause} ({type(cause).__name__})"
