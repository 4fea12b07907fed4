"""What a group reads, and how: from what a user names to names, patterns, serdes and checked settings."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from kafkalite import config
from kafkalite.config import ConfigMapping
from kafkalite.coordinator.assignors import named
from kafkalite.errors import ConfigError
from kafkalite.serde import BatchSerde
from kafkalite.topic import Topic

_FLAGS = (("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL), ("x", re.VERBOSE))


class Subscription(NamedTuple):
    """Topics by name with their serdes, patterns of whole names, and the serdes of what patterns match.

    Where there are patterns, the names are among them: so whoever resolves them anew needs nothing else.
    """

    serdes: Mapping[str, tuple[BatchSerde[Any], BatchSerde[Any]]]
    patterns: tuple[str, ...]
    key: BatchSerde[Any]
    value: BatchSerde[Any]


def given_group_settings(settings: Mapping[str, Any], dotted: ConfigMapping | None) -> dict[str, Any]:
    """A member's settings, checked, the rest at its defaults."""
    found = config.resolved("group", settings, dotted)
    named(found["partition_assignment_strategy"])
    return found


def subscription(topics: Any, key: BatchSerde[Any], value: BatchSerde[Any]) -> Subscription:
    """What a group reads, from what a user names; raises `ConfigError`."""
    given = [topics] if isinstance(topics, str | re.Pattern | Topic) else list(topics)
    serdes: dict[str, tuple[BatchSerde[Any], BatchSerde[Any]]] = {}
    patterns: list[str] = []
    for one in given:
        if isinstance(one, Topic):
            serdes[one.name] = (one.key_serde, one.value_serde)
        elif isinstance(one, str):
            serdes[one] = (key, value)
        elif isinstance(one, re.Pattern) and isinstance(one.pattern, str):
            patterns.append(_text(one))
        else:
            raise ConfigError(f"topics={one!r} is not valid: give names, topics, or compiled patterns of text")
    if not serdes and not patterns:
        raise ConfigError("topics= is empty: a group reads at least one topic or pattern")
    if patterns:
        patterns += [re.escape(name) for name in sorted(serdes)]
    return Subscription(serdes, tuple(patterns), key, value)


def _text(pattern: "re.Pattern[str]") -> str:
    """A compiled pattern as text that stands among others: its flags apply to it alone."""
    flags = "".join(letter for letter, flag in _FLAGS if pattern.flags & flag)
    return f"(?{flags}:{pattern.pattern})"
