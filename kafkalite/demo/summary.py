"""What the flights say: departures and their delay, by carrier and by hour of the day, in one pass of the topic.

A departure is a line with a delay; the others were cancelled and are counted apart. The delay is in minutes, early
departures counting as negative, as in the data. Hours are New York's (the column `hour`), of the schedule.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kafkalite import Record
from kafkalite.demo.flights import COLUMN, MISSING

_CARRIER = COLUMN["carrier"]
_DELAY = COLUMN["dep_delay"]
_HOUR = COLUMN["hour"]


@dataclass(slots=True)
class Tally:
    """Departures of one carrier or hour, the sum of their delays in minutes, and what was cancelled."""

    departures: int = 0
    delay: int = 0
    cancelled: int = 0

    @property
    def mean_delay(self) -> float:
        """Minutes per departure; 0 where nothing departed."""
        return self.delay / self.departures if self.departures else 0.0

    def count(self, delay: bytes) -> None:
        """Take in one line's delay, as the data has it."""
        if delay == MISSING:
            self.cancelled += 1
        else:
            self.departures += 1
            self.delay += int(delay)


@dataclass(frozen=True, slots=True)
class Summary:
    """Tallies by carrier (its two-letter code) and by hour of the day."""

    by_carrier: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    by_hour: dict[int, Tally] = field(default_factory=lambda: defaultdict(Tally))


def summarize(records: Iterable[Record[Any, Any]]) -> Summary:
    """Tally the lines in the records' values."""
    summary = Summary()
    for record in records:
        fields = record.value.split(b",")
        summary.by_carrier[fields[_CARRIER].decode()].count(fields[_DELAY])
        summary.by_hour[int(fields[_HOUR])].count(fields[_DELAY])
    return summary
