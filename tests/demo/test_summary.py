"""The tallies: departures, delays and cancellations by carrier and hour."""

import csv

from kafkalite import Record
from kafkalite.demo.flights import COLUMN, HEADER, Flights
from kafkalite.demo.summary import Tally, summarize


def record(line: bytes) -> Record[bytes, bytes]:
    return Record("flights", 0, 0, 0, None, line, ())


def line(carrier: str, hour: int, delay: str) -> bytes:
    fields = [""] * len(COLUMN)
    fields[COLUMN["carrier"]], fields[COLUMN["hour"]], fields[COLUMN["dep_delay"]] = carrier, str(hour), delay
    return ",".join(fields).encode()


def test_early_departures_count_negative_and_cancelled_ones_apart() -> None:
    summary = summarize(record(line(*row)) for row in [("UA", 5, "-4"), ("UA", 6, "10"), ("UA", 6, "NA")])
    assert summary.by_carrier == {"UA": Tally(departures=2, delay=6, cancelled=1)}
    assert summary.by_hour == {5: Tally(1, -4, 0), 6: Tally(1, 10, 1)}
    assert summary.by_carrier["UA"].mean_delay == 3.0


def test_carrier_that_never_departed_has_no_delay() -> None:
    assert summarize([record(line("OO", 5, "NA"))]).by_carrier["OO"].mean_delay == 0.0


def test_january_agrees_with_a_csv_reader(january: Flights) -> None:
    rows = [row.line for row in january.rows]
    summary = summarize(map(record, rows))
    parsed = list(csv.DictReader([HEADER.decode(), *(row.decode() for row in rows)]))
    delays = [int(row["dep_delay"]) for row in parsed if row["carrier"] == "EV" and row["dep_delay"] != "NA"]
    cancelled = sum(row["carrier"] == "EV" and row["dep_delay"] == "NA" for row in parsed)
    assert summary.by_carrier["EV"] == Tally(len(delays), sum(delays), cancelled)
    assert sum(tally.departures + tally.cancelled for tally in summary.by_hour.values()) == len(rows)
