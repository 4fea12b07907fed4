"""Reading processes: real ones, at once, and all read the same bytes."""

import os
from pathlib import Path

import pytest

import kafkalite
from kafkalite.demo import DemoFailedError
from kafkalite.demo.flights import Flights, sha256
from kafkalite.demo.ingest import ingest
from kafkalite.demo.readers import read_at_once


def test_each_process_reads_everything(store: kafkalite.Store, store_path: Path, january: Flights) -> None:
    topic = store.topic("flights", partitions=3)
    ingest(store, topic, january.rows[:5000], lambda _: None)
    readings = read_at_once(store_path, "flights", 3)

    assert len({os.getpid(), *(reading.pid for reading in readings)}) == 4
    digests = tuple(sha256(record.value or b"" for record in topic.read(partition)) for partition in range(3))
    for reading in readings:
        assert reading.count == 5000
        assert reading.size == sum(len(row.line) for row in january.rows[:5000])
        assert reading.digests == digests
        assert reading.seconds > 0


def test_empty_topic_reads_as_nothing(store: kafkalite.Store, store_path: Path) -> None:
    store.topic("flights", partitions=2)
    assert [reading.count for reading in read_at_once(store_path, "flights", 1)] == [0]


def test_failing_reader_says_why(store: kafkalite.Store, store_path: Path) -> None:
    assert store.topics() == []
    with pytest.raises(DemoFailedError, match=r"reader ended with status 1, saying:[\s\S]*nowhere"):
        read_at_once(store_path, "nowhere", 2)
