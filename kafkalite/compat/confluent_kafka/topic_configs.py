"""Topic configurations in Kafka's names: what a store keeps of them, what it takes without effect, what it refuses."""

from collections.abc import Mapping
from typing import Any, Final

from kafkalite.compat.confluent_kafka.admin_types import AlterConfigOpType, ConfigEntry, ConfigSource
from kafkalite.compat.confluent_kafka.cluster import RawTopic
from kafkalite.compat.confluent_kafka.kafka_error import Code, failed

DEFAULTS: Final[Mapping[str, str]] = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "cleanup.policy": "delete",
    "max.message.bytes": "1048576",
    "message.timestamp.type": "CreateTime",
    "compression.type": "producer",
}
"""What a store keeps for a topic, and its defaults; one for ever instead of Kafka's seven days."""

WITHOUT_EFFECT: Final = frozenset(
    [
        "delete.retention.ms",
        "file.delete.delay.ms",
        "flush.messages",
        "flush.ms",
        "follower.replication.throttled.replicas",
        "index.interval.bytes",
        "leader.replication.throttled.replicas",
        "local.retention.bytes",
        "local.retention.ms",
        "max.compaction.lag.ms",
        "message.downconversion.enable",
        "message.format.version",
        "message.timestamp.after.max.ms",
        "message.timestamp.before.max.ms",
        "message.timestamp.difference.max.ms",
        "min.cleanable.dirty.ratio",
        "min.compaction.lag.ms",
        "min.insync.replicas",
        "preallocate",
        "remote.log.copy.disable",
        "remote.log.delete.on.disable",
        "remote.storage.enable",
        "segment.bytes",
        "segment.index.bytes",
        "segment.jitter.ms",
        "segment.ms",
        "unclean.leader.election.enable",
        "compression.gzip.level",
        "compression.lz4.level",
        "compression.zstd.level",
    ]
)
"""Kafka's other topic configurations: about segments, replicas and tiers, of which a topic here has none of its own."""

LISTS: Final = frozenset({"cleanup.policy"})
CODECS: Final = {"gzip": "zstd", "snappy": "zstd", "lz4": "zstd", "uncompressed": "none"}


def settings(configs: Mapping[str, str]) -> dict[str, Any]:
    """Configurations as settings of a store's topic; raises `KafkaException` (`INVALID_CONFIG`)."""
    found: dict[str, Any] = {}
    for name, value in configs.items():
        if name in WITHOUT_EFFECT:
            continue
        if name not in DEFAULTS:
            raise failed(Code.INVALID_CONFIG, f"Unknown topic config name: {name}")
        text = CODECS.get(str(value), value) if name == "compression.type" else value
        found[name.replace(".", "_")] = _normal(name, str(text))
    return found


def _normal(name: str, text: str) -> str:
    """A list in the order in which a store writes it."""
    return ",".join(sorted(part.strip() for part in text.split(",") if part.strip())) if name in LISTS else text


def entries(topic: RawTopic) -> dict[str, ConfigEntry]:
    """A topic's configuration as `describe_configs` answers."""
    current = topic.settings
    found = {}
    for name, default in DEFAULTS.items():
        value = str(current[name.replace(".", "_")])
        is_default = value == default
        source = ConfigSource.DEFAULT_CONFIG if is_default else ConfigSource.DYNAMIC_TOPIC_CONFIG
        found[name] = ConfigEntry(name, value, source.value, is_default=is_default)  # its number, as the library does
    return found


def altered(topic: RawTopic, changes: list[ConfigEntry]) -> dict[str, Any]:
    """`incremental_alter_configs`: the settings that change, as they will be."""
    given: dict[str, str] = {}
    for entry in changes:
        operation = entry.incremental_operation or AlterConfigOpType.SET
        if entry.name in WITHOUT_EFFECT:
            continue
        if operation is AlterConfigOpType.DELETE:
            given[entry.name] = DEFAULTS.get(entry.name, "")
        elif operation is AlterConfigOpType.SET:
            given[entry.name] = entry.value or ""
        else:
            given[entry.name] = _combined(topic, entry, operation)
    return settings(given)


def _combined(topic: RawTopic, entry: ConfigEntry, operation: AlterConfigOpType) -> str:
    if entry.name not in LISTS:
        raise failed(Code.INVALID_CONFIG, f"{operation.name} is only for lists, and {entry.name} is none")
    parts = set(str(topic.settings[entry.name.replace(".", "_")]).split(","))
    given = {part.strip() for part in (entry.value or "").split(",")}
    return ",".join(sorted(parts | given if operation is AlterConfigOpType.APPEND else parts - given))
