"""Places in a topic, as people write them: where `consume -o` starts, where `--until` ends.

    earliest start beginning    latest end      the first record; behind the last one
    42                                          an offset
    -10  +10                                    the last ten of each partition; behind its first ten
    @1357016400000  @1357016400                 ms, or seconds, since 1970 UTC (13 digits, or 10)
    @2013-01-01T05:00  @2013-01-01              a time in UTC, unless it names another zone (…T05:00+01:00)
    @-1h  @-1d12h                               a time before now: ms, s, m, h, d, w

The spelling is rpk's. A number counts in each partition that is read, within what the partition holds.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

import rich_click as click

import kafkalite

EARLIEST: Final = ("earliest", "start", "beginning")
LATEST: Final = ("latest", "end")
MS_DIGITS: Final = 12
_UNITS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
OFFSET_MAX: Final = 2**63 - 1

Bounds = Mapping[int, tuple[int, int]]
"""By partition: the first offset, and the one after the last."""


class Place(NamedTuple):
    """Where, before it is known in which topic."""

    text: str
    kind: Literal["earliest", "latest", "offset", "after_first", "before_last", "time", "ago"]
    value: Any = None

    def position(self, bounds: Bounds) -> Any:
        """What `Topic.read` takes for it: a time, or the offset of each partition of which the bounds are given."""
        if self.kind in ("time", "ago"):
            return self.value
        return {partition: self._offset(*both, alone=len(bounds) == 1) for partition, both in bounds.items()}

    def _offset(self, first: int, end: int, *, alone: bool) -> int:
        if self.kind in ("earliest", "latest"):
            return first if self.kind == "earliest" else end
        offset: int = self.value
        if self.kind == "after_first":
            offset += first
        elif self.kind == "before_last":
            offset = end - offset
        elif alone:
            return offset  # a wrong one is told, not mended
        return min(max(first, offset), end)


def parse(text: str) -> Place:
    """A place from its spelling; raises ValueError with what is valid."""
    word = text.strip()
    if word in EARLIEST:
        return Place(text, "earliest")
    if word in LATEST:
        return Place(text, "latest")
    if word.startswith("@"):
        return _moment(text, word[1:])
    digits = word.lstrip("+-")
    if not digits.isdecimal() or not digits.isascii() or len(word) - len(digits) > 1 or int(digits) > OFFSET_MAX:
        raise ValueError(f"{text!r} is not a place: give earliest, latest, 42, -10, +10, @2013-01-01T05:00 or @-1h")
    kind: dict[str, Any] = {"-": "before_last", "+": "after_first"}
    return Place(text, kind.get(word[0], "offset"), int(digits))


def _moment(text: str, word: str) -> Place:
    if word.startswith("-"):
        return Place(text, "ago", timedelta(milliseconds=span_ms(word[1:])))
    try:
        if word.isdecimal() and len(word) != len("20130101"):
            stamp = int(word) if len(word) > MS_DIGITS else 1000 * int(word)
            return Place(text, "time", datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=stamp))
        found = datetime.fromisoformat(word)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is not a time: give @2013-01-01T05:00 (UTC), @1357016400000 (ms), or @-1h (before now)"
        ) from None
    return Place(text, "time", found.replace(tzinfo=found.tzinfo or UTC))


def span_ms(word: str) -> float:
    """Milliseconds in a span such as 1h30m; raises ValueError."""
    parts = _SPAN.findall(word)
    if not parts or "".join(map("".join, parts)) != word:
        raise ValueError(f"{word!r} is not a span of time: give 500ms, 30s, 5m, 1h30m, 7d or 2w")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class PlaceType(click.ParamType):  # type: ignore[type-arg]  # generic in some versions only
    """A place on the command line."""

    name = "where"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        """The place that the text means; a usage error when it means none."""
        if isinstance(value, Place):
            return value
        try:
            return parse(str(value))
        except (ValueError, OverflowError) as error:
            self.fail(str(error), param, ctx)


def bounds_of(topic: kafkalite.Topic[Any, Any]) -> dict[int, tuple[int, int]]:
    """Where each partition begins and ends; one that is added meanwhile is left out."""
    beginnings, ends = topic.beginning_offsets(), topic.end_offsets()
    return {partition: (first, ends[partition]) for partition, first in beginnings.items()}
