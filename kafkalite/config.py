"""THE settings table: every setting, whose it is, its type, default, valid values and meaning.

Names are Kafka's with `_` for `.`, in Kafka's units; `config={"linger.ms": 5}` takes the dotted form. The reference
page of settings is made from `SETTINGS`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypedDict

from kafkalite.errors import ConfigError

Scope = Literal["store", "topic", "producer", "group"]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
INT64_MAX: Final = 2**63 - 1


class Setting(NamedTuple):
    """One row. `valid` is a tuple of choices, or (least, greatest) of a number; `unit` is part of the name."""

    scope: Scope
    name: str
    type: type
    default: Any
    valid: tuple[Any, ...]
    meaning: str

    def check(self, value: Any) -> Any:
        """The value in the setting's type; raises `ConfigError` naming setting, value and what is valid."""
        value = self._convert(value)
        if self.type in (int, float):
            least, greatest = self.valid
            if not least <= value <= greatest:
                raise ConfigError(f"{self.name}={value!r} is out of range: give {least} to {greatest}")
        elif self.valid and value not in self.valid:
            choices = ", ".join(map(repr, self.valid))
            raise ConfigError(f"{self.name}={value!r} is not valid: give one of {choices}")
        return value

    def _convert(self, value: Any) -> Any:
        if self.type is bool and isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if self.type in (int, float) and isinstance(value, str):
            try:
                return self.type(value)
            except ValueError:
                pass
        if self.type is object or (isinstance(value, self.type) and not (self.type is int and isinstance(value, bool))):
            return value
        raise ConfigError(
            f"{self.name}={value!r} has the wrong type: give {self.type.__name__}, not {type(value).__name__}"
        )


# fmt: off
_ROWS: Final = (
    Setting("store", "durability", str, "commit", ("commit", "interval", "none"),
            "An acknowledgement means: on disk; in the journal, and on disk within flush_interval_ms; in the journal."),
    Setting("store", "flush_interval_ms", int, 1000, (1, 3_600_000),
            "How often an `interval` store is flushed."),
    Setting("store", "segment_bytes", int, 64 * MIB, (512 * KIB, GIB),
            "Greatest size of a journal segment; the first ones are smaller. One larger commit gets one of its own."),
    Setting("store", "max_commit_bytes", int, GIB, (MIB, GIB),
            "Greatest size of one atomic commit."),
    Setting("topic", "retention_ms", int, -1, (-1, INT64_MAX),
            "Records older than this may be removed; -1 keeps for ever (Kafka's default is seven days)."),
    Setting("topic", "retention_bytes", int, -1, (-1, INT64_MAX),
            "The oldest records of a partition larger than this may be removed; -1 keeps all."),
    Setting("topic", "cleanup_policy", str, "delete", ("delete", "compact", "compact,delete"),
            "Whether old records are removed by age and size, or superseded ones by key."),
    Setting("topic", "max_message_bytes", int, MIB, (0, GIB // 2),
            "Greatest size of one record: key, value and headers."),
    Setting("topic", "message_timestamp_type", str, "CreateTime", ("CreateTime", "LogAppendTime"),
            "Whether a record's timestamp is the sender's or the time of the append (KIP-32)."),
    Setting("topic", "compression_type", str, "producer", ("producer", "none", "zstd"),
            "How batches are stored: as the producer says, or always so."),
    Setting("producer", "linger_ms", float, 5.0, (0.0, 3_600_000.0),
            "How long a record waits for company in its batch."),
    Setting("producer", "batch_size", int, 64 * KIB, (0, GIB // 2),
            "Bytes at which a partition's batch is committed by the sender itself."),
    Setting("producer", "buffer_memory", int, 32 * MIB, (1, 1024 * GIB),
            "Bytes not yet committed at which send() waits, up to max_block_ms."),
    Setting("producer", "max_block_ms", int, 60_000, (0, INT64_MAX),
            "How long a call waits for memory or for a lock of the store."),
    Setting("producer", "delivery_timeout_ms", int, 120_000, (1, INT64_MAX),
            "How long a batch is tried again after a retriable failure."),
    Setting("producer", "compression_type", str, "none", ("none", "zstd"),
            "How batches are compressed."),
    Setting("producer", "enable_idempotence", bool, True, (),
            "Whether batches bear producer id and sequence, so that a repeat is recognised (KIP-98)."),
    Setting("producer", "transactional_id", object, None, (),
            "Whose transactions these are: whoever claims the name last fences all others who have it (KIP-98)."),
    Setting("producer", "partitioner", str, "murmur2", ("murmur2",),
            "How a key chooses its partition: as Kafka's Java client does."),
    Setting("producer", "acks", object, "all", ("all", "-1", "1", "0", -1, 1, 0),
            "Whom to wait for; in process 1 and all are the same, 0 resolves deliveries at once."),
    Setting("group", "auto_offset_reset", str, "earliest", ("earliest", "latest", "error"),
            "Where a group begins in a partition of which it has committed no offset (Kafka's default is latest)."),
    Setting("group", "enable_auto_commit", bool, True, (),
            "Whether confirmed records are committed without being asked."),
    Setting("group", "auto_commit_interval_ms", int, 1000, (1, 3_600_000),
            "How often they are, at least."),
    Setting("group", "isolation_level", str, "read_committed", ("read_committed", "read_uncommitted"),
            "Whether records of transactions that are not decided, or aborted, are left out."),
    Setting("group", "partition_assignment_strategy", object, "cooperative-sticky", (),
            "Who gets which partition: range, roundrobin, sticky, cooperative-sticky, or a function."),
    Setting("group", "group_instance_id", object, None, (),
            "A name that this member keeps over restarts, so that its partitions wait for it (KIP-345)."),
    Setting("group", "client_id", str, "kafkalite", (),
            "What this program calls itself; the members' ids begin with it."),
    Setting("group", "session_timeout_ms", int, 45_000, (1, INT64_MAX >> 24),
            "How long a stopped process, or a static member that is away, keeps its partitions."),
    Setting("group", "max_poll_interval_ms", int, 300_000, (1, 2**31 - 1),
            "How long a member may work on what it has in hand, or give up partitions, before it is removed."),
    Setting("group", "max_poll_records", int, 500, (1, 1_000_000),
            "Most records of one poll()."),
)
# fmt: on

SETTINGS: Final[Mapping[Scope, Mapping[str, Setting]]] = MappingProxyType(
    {
        scope: MappingProxyType({row.name: row for row in _ROWS if row.scope == scope})
        for scope in ("store", "topic", "producer", "group")
    }
)


class StoreSettings(TypedDict, total=False):
    """Settings that belong to a store, of `connect` and `Store.alter`."""

    flush_interval_ms: int
    segment_bytes: int
    max_commit_bytes: int


class TopicSettings(TypedDict, total=False):
    """Settings of a topic, of `Store.topic` and `Topic.alter`."""

    retention_ms: int
    retention_bytes: int
    cleanup_policy: Literal["delete", "compact", "compact,delete"]
    max_message_bytes: int
    message_timestamp_type: Literal["CreateTime", "LogAppendTime"]
    compression_type: Literal["producer", "none", "zstd"]


class ProducerSettings(TypedDict, total=False):
    """Settings of a producer, of `Store.producer`."""

    linger_ms: float
    batch_size: int
    buffer_memory: int
    max_block_ms: int
    delivery_timeout_ms: int
    compression_type: Literal["none", "zstd"]
    enable_idempotence: bool
    transactional_id: str | None
    partitioner: Literal["murmur2"]
    acks: Literal["all", 0, 1, -1]


class GroupSettings(TypedDict, total=False):
    """Settings of a member of a consumer group, of `Store.consumer_group`."""

    auto_offset_reset: Literal["earliest", "latest", "error"]
    enable_auto_commit: bool
    auto_commit_interval_ms: int
    isolation_level: Literal["read_committed", "read_uncommitted"]
    partition_assignment_strategy: Any
    group_instance_id: str | None
    client_id: str
    session_timeout_ms: int
    max_poll_interval_ms: int
    max_poll_records: int


ConfigMapping = Mapping[str, str | int | float | bool]
"""Settings under Kafka's dotted names."""


def defaults(scope: Scope) -> dict[str, Any]:
    """Every setting of the scope at its default."""
    return {name: row.default for name, row in SETTINGS[scope].items()}


def given(scope: Scope, settings: Mapping[str, Any], config: ConfigMapping | None = None) -> dict[str, Any]:
    """The settings that a caller gave, checked; raises `ConfigError` for an unknown one, with a did-you-mean."""
    rows = SETTINGS[scope]
    checked: dict[str, Any] = {}
    for name, value in settings.items():
        checked[name] = _row(rows, name, scope).check(value)
    for dotted, value in (config or {}).items():
        name = dotted.replace(".", "_")
        if name in checked:
            raise ConfigError(f"{dotted!r} is given twice, as {name}= and in config=: leave one out")
        checked[name] = _row(rows, name, scope, shown=dotted).check(value)
    return checked


def resolved(scope: Scope, settings: Mapping[str, Any], config: ConfigMapping | None = None) -> dict[str, Any]:
    """The scope's defaults, overlaid by what the caller gave."""
    return defaults(scope) | given(scope, settings, config)


def _row(rows: Mapping[str, Setting], name: str, scope: Scope, shown: str | None = None) -> Setting:
    row = rows.get(name)
    if row is not None:
        return row
    from difflib import get_close_matches  # noqa: PLC0415  (for an error only, and not cheap to import)

    near = get_close_matches(name, rows, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"a {scope} has: {', '.join(sorted(rows))}"
    raise ConfigError(f"unknown {scope} setting {shown or name!r}: {hint}")
