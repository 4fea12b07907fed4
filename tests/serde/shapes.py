"""Types that the serde tests send, at the top level of a module: pickle and forward references find them."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, NotRequired, TypedDict, TypeVar

import msgspec

from kafkalite.errors import SerializationError

T = TypeVar("T")


@dataclass
class Order:
    id: int
    amount: float
    note: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class GiftOrder(Order):
    card: str = ""


@dataclass
class Tree:
    name: str
    children: "list[Tree]" = field(default_factory=list)


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Even:
    n: int

    def __post_init__(self) -> None:
        if self.n % 2:
            raise LookupError(f"{self.n} is odd")


class Event(msgspec.Struct, tag=True):
    id: int


class Placed(Event):
    amount: float = 0.0


class Paid(Event):
    method: str = "card"


class Plain(msgspec.Struct):
    id: int


class StrictPlain(Plain, forbid_unknown_fields=True):
    pass


class Carrier(TypedDict):
    code: str
    fleet: NotRequired[list[str]]


class Color(Enum):
    RED = "red"


class Foreign:
    """A class that msgspec does not know."""


class Reversed:
    """A user's serde; it knows no nulls."""

    def __repr__(self) -> str:
        return "Reversed()"

    def serialize(self, value: str, /) -> bytes | None:
        return value[::-1].encode()

    def deserialize(self, data: bytes | None, /) -> str:
        assert data is not None
        return data.decode()[::-1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reversed)

    def __hash__(self) -> int:
        return 13


class Giving:
    """A user's serde that gives, or raises, what the test tells it."""

    def __init__(self, result: object) -> None:
        self.result = result

    def serialize(self, _value: object, /) -> bytes | None:
        return self._give()

    def deserialize(self, _data: bytes | None, /) -> object:
        return self._give()

    def _give(self) -> object:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


OWN_ERROR = SerializationError("mine")
