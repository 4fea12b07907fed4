"""A replay: everything from a point in time on, without a scan for where that is.

Kafka's rule holds: in each partition the replay starts at the first record whose timestamp is at or after the
point, and goes on by offset from there. In data that is not sorted by time, records with earlier timestamps may
therefore follow; they are counted apart instead of being left out in silence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from kafkalite import Record, Topic
from kafkalite.demo.flights import Flight


@dataclass(frozen=True, slots=True)
class Replayed:
    """`count` records came, `earlier` of them from before `start`; `first` is the first of the others."""

    start: datetime
    count: int
    earlier: int
    first: Record[Any, Any] | None
    seconds: float


def midnight_near_the_end(rows: Sequence[Flight]) -> datetime:
    """Midnight (UTC) before the last quarter of the time that the rows span: a point worth replaying from."""
    first, last = min(row.timestamp_ms for row in rows), max(row.timestamp_ms for row in rows)
    point = datetime.fromtimestamp((first + (last - first) * 3 // 4) / 1000, UTC)
    return point.replace(hour=0, minute=0, second=0, microsecond=0)


def replay(topic: Topic[Any, Any], start: datetime) -> Replayed:
    """Read `topic` from `start` on."""
    started = perf_counter()
    records = list(topic.read(start=start))
    seconds = perf_counter() - started
    start_ms = round(start.timestamp() * 1000)
    later = [record for record in records if record.timestamp_ms >= start_ms]
    first = min(later, key=lambda record: record.timestamp_ms, default=None)
    return Replayed(start, len(records), len(records) - len(later), first, seconds)
