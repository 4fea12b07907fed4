"""The replay from a point in time."""

from datetime import UTC, datetime

import kafkalite
from kafkalite.demo.flights import Flight, Flights
from kafkalite.demo.ingest import ingest
from kafkalite.demo.replay import midnight_near_the_end, replay

DAY_MS = 24 * 3_600_000


def test_nothing_at_or_after_the_point_is_left_out(store: kafkalite.Store, january: Flights) -> None:
    topic = store.topic("flights", partitions=4)
    ingest(store, topic, january.rows, lambda _: None)
    start = datetime(2013, 1, 20, tzinfo=UTC)
    start_ms = round(start.timestamp() * 1000)
    result = replay(topic, start)

    expected = [row for row in january.rows if row.timestamp_ms >= start_ms]
    assert result.count - result.earlier == len(expected)
    assert result.first is not None
    assert result.first.timestamp_ms == min(row.timestamp_ms for row in expected)


def test_earlier_records_are_those_after_a_partitions_first_late_one(store: kafkalite.Store) -> None:
    topic = store.topic("flights")
    topic.append_many([b"1", b"2", b"3", b"4"], timestamps_ms=[0, 2 * DAY_MS, DAY_MS, 3 * DAY_MS])
    result = replay(topic, datetime(1970, 1, 3, tzinfo=UTC))
    assert (result.count, result.earlier) == (3, 1)
    assert result.first is not None
    assert result.first.value == b"2"


def test_point_after_everything_replays_nothing(store: kafkalite.Store) -> None:
    topic = store.topic("flights")
    topic.append(b"1", timestamp_ms=0)
    result = replay(topic, datetime(2030, 1, 1, tzinfo=UTC))
    assert (result.count, result.earlier, result.first) == (0, 0, None)


def test_midnight_near_the_end_is_within_the_rows_span(january: Flights) -> None:
    assert midnight_near_the_end(january.rows) == datetime(2013, 1, 24, tzinfo=UTC)
    assert midnight_near_the_end([Flight(b"", None, 5 * DAY_MS + 7)]) == datetime(1970, 1, 6, tzinfo=UTC)
