"""Ingestion: every row becomes its record, and progress counts acknowledged ones."""

import kafkalite
from kafkalite.demo.flights import Flights, sha256, weave
from kafkalite.demo.ingest import CHUNK, ingest


def test_january_goes_in_and_comes_out_byte_for_byte(store: kafkalite.Store, january: Flights) -> None:
    topic = store.topic("flights", partitions=5)
    steps: list[int] = []
    result = ingest(store, topic, january.rows, steps.append)

    partitions = [[record.value for record in topic.read(partition)] for partition in range(5)]
    lines = [row.line for row in january.rows]
    assert sha256(weave(lines, partitions)) == sha256(lines)
    assert result.counts == {partition: len(values) for partition, values in enumerate(partitions)}
    assert sum(steps) == len(lines)
    assert max(steps) == CHUNK


def test_one_partition_is_the_file_again_without_its_source(store: kafkalite.Store, january: Flights) -> None:
    topic = store.topic("flights")
    ingest(store, topic, january.rows, lambda _: None)
    assert sha256(record.value or b"" for record in topic.read()) == sha256(row.line for row in january.rows)


def test_key_timestamp_and_null_key_are_the_rows(store: kafkalite.Store, january: Flights) -> None:
    rows = january.rows[:2000]
    topic = store.topic("flights", partitions=3)
    ingest(store, topic, rows, lambda _: None)
    read = {record.value: (record.key, record.timestamp_ms) for record in topic.read()}
    assert read == {row.line: (row.key, row.timestamp_ms) for row in rows}
    assert any(row.key is None for row in rows)


def test_fewer_rows_than_a_chunk_and_none_at_all(store: kafkalite.Store, january: Flights) -> None:
    topic = store.topic("flights", partitions=2)
    assert ingest(store, topic, [], lambda _: None).counts == {0: 0, 1: 0}
    assert sum(ingest(store, topic, january.rows[:1], lambda _: None).counts.values()) == 1
