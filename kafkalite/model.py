"""The nouns of the public face: records, where they lie, and what an acknowledgement says.

Plain data, named as Kafka names it. Offsets are logical (0, 1, 2 … in a partition); timestamps are milliseconds
since 1970 UTC; keys and values are what the topic's serdes make of the bytes, `None` being Kafka's null.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

K_co = TypeVar("K_co", covariant=True)
V_co = TypeVar("V_co", covariant=True)

Raw = bytes | None
"""What the default serde carries: bytes, or null."""

Headers = Iterable[tuple[str, bytes | None]] | Mapping[str, bytes | None]
"""A record's headers: pairs in order, keys may repeat; or a mapping."""

Position = Literal["earliest", "latest"] | int | Mapping[int, int] | datetime | timedelta
"""Where reading starts: an end, an offset (of one partition), offsets by partition, a time, or a time before now."""

Until = Position | Literal["end"] | None
"""Where reading ends, exclusive; "end" is what is visible at the call, `None` follows."""

Durability = Literal["commit", "interval", "none"]
"""What an acknowledgement means; see `kafkalite.connect`."""

INTERNAL_TOPICS: Final = ("__cluster_metadata", "__consumer_offsets", "__transaction_state", "__share_group_state")
"""The internal logs by log id: all that is not a user's record is a record in one of these."""


class TopicPartition(NamedTuple):
    """A partition of a topic, by name and number."""

    topic: str
    partition: int


class GroupMetadata(NamedTuple):
    """Whose offsets a transaction commits: a group, and the member that read (KIP-447), by its id and its epoch.

    Without a member, for a consumer that reads by itself, nobody is looked for in the group.
    """

    group_id: str
    member_id: str = ""
    epoch: int = -1


class RecordMetadata(NamedTuple):
    """Where a record was committed, and the timestamp it bears."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class Record(NamedTuple, Generic[K_co, V_co]):
    """One record. Read it by name; `headers` is a tuple of (str, bytes | None)."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: K_co | None
    value: V_co
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def timestamp(self) -> datetime:
        """`timestamp_ms` as an aware datetime in UTC."""
        return datetime.fromtimestamp(self.timestamp_ms / 1000, UTC)


RawRecord = Record[bytes, Raw]

RecordRow = tuple[str, int, int, int, Any, Any, tuple[tuple[str, bytes | None], ...]]
"""A `Record` before it is one: the fields in order."""
