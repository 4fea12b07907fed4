"""A store against a dictionary of lists: whatever is done to both, they say the same.

Whatever comes between, closing, a killed process, another boot, a lost index: all is there again.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import kafkalite
from kafkalite import disk
from kafkalite.errors import OffsetConflictError, UnknownTopicError
from kafkalite.storage.place import resolve

from .kit import abandon

Row = tuple[bytes | None, bytes | None, int, tuple[tuple[str, bytes | None], ...]]
"""Value, key, timestamp, headers."""

NAMES = ("a", "b", "long.name-with_all")
raw = st.none() | st.binary(max_size=40)
stamps = st.integers(0, 2_000)
headers = st.lists(st.tuples(st.text("héx", max_size=3), raw), max_size=2).map(tuple)
rows = st.tuples(raw, raw, stamps, headers)


@dataclass
class Model:
    """A topic as one would write it down."""

    partitions: list[list[Row]] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """Rules are what users do; `layout` and `durability` come from the test."""

    layout = "directory"
    durability: Any = "commit"

    def __init__(self) -> None:
        super().__init__()
        self._real_boot_id = disk.boot_id
        self.directory = Path(tempfile.mkdtemp(prefix="kafkalite-model-"))
        self.path = self.directory / ("s.klite" if self.layout == "file" else "s")
        self.topics: dict[str, Model] = {}
        self.store: kafkalite.Store

    @initialize()
    def create(self) -> None:
        target: Any = ":memory:" if self.layout == "memory" else self.path
        self.store = kafkalite.connect(
            target,
            durability=self.durability,
            flush_interval_ms=3_600_000,
            segment_bytes=512 * 1024,
        )

    def teardown(self) -> None:
        try:
            assert self.store.check().ok
            self.store.close()
        finally:
            disk.boot_id = self._real_boot_id
            shutil.rmtree(self.directory)

    # Topics

    @rule(name=st.sampled_from(NAMES), partitions=st.integers(1, 3))
    def create_topic(self, name: str, partitions: int) -> None:
        known = self.topics.get(name)
        topic = self.store.topic(name, partitions=len(known.partitions) if known else partitions)
        self.topics[name] = known or Model([[] for _ in range(partitions)])
        assert topic.partition_count == len(self.topics[name].partitions)

    @rule(name=st.sampled_from(NAMES))
    def delete_topic(self, name: str) -> None:
        if self.topics.pop(name, None) is None:
            with pytest.raises(UnknownTopicError):
                self.store.delete_topic(name)
        else:
            self.store.delete_topic(name)

    def _some(self, data: st.DataObject) -> tuple[kafkalite.Topic[bytes, bytes | None], int, list[Row]]:
        name = data.draw(st.sampled_from(sorted(self.topics)))
        partition = data.draw(st.integers(0, len(self.topics[name].partitions) - 1))
        return self.store.topic(name), partition, self.topics[name].partitions[partition]

    # Appending

    @precondition(lambda self: self.topics)
    @rule(data=st.data(), row=rows)
    def append(self, data: st.DataObject, row: Row) -> None:
        topic, partition, log = self._some(data)
        value, key, stamp, pairs = row
        done = topic.append(value, key=key, partition=partition, timestamp_ms=stamp, headers=pairs)
        assert done == (topic.name, partition, len(log), stamp)
        log.append(row)

    @precondition(lambda self: self.topics)
    @rule(data=st.data(), many=st.lists(rows, max_size=6), expected=st.integers(-1, 1) | st.none())
    def append_many(self, data: st.DataObject, many: list[Row], expected: int | None) -> None:
        topic, partition, log = self._some(data)
        columns: dict[str, Any] = {
            "keys": [row[1] for row in many],
            "timestamps_ms": [row[2] for row in many],
            "headers": [row[3] for row in many],
            "partition": partition,
        }
        if expected is not None:
            columns["expected_end_offset"] = max(0, len(log) + expected)
        values = [row[0] for row in many]
        if many and expected is not None and columns["expected_end_offset"] != len(log):
            with pytest.raises(OffsetConflictError):
                topic.append_many(values, **columns)
            return
        done = topic.append_many(values, **columns)
        assert done == ({partition: range(len(log), len(log) + len(many))} if many else {})
        log.extend(many)

    @precondition(lambda self: self.topics)
    @rule(data=st.data(), many=st.lists(rows, min_size=1, max_size=6))
    def append_to_several_partitions_at_once(self, data: st.DataObject, many: list[Row]) -> None:
        topic, _, _ = self._some(data)
        logs = self.topics[topic.name].partitions
        done = topic.append_many(
            [row[0] for row in many],
            keys=[b"%d" % number for number in range(len(many))],
            timestamps_ms=[row[2] for row in many],
        )
        assert sum(map(len, done.values())) == len(many)
        for partition, offsets in done.items():
            assert offsets.start == len(logs[partition])
            for record in topic.read(partition, start=offsets.start):
                number = int(record.key or b"-1")
                assert (record.value, record.timestamp_ms) == (many[number][0], many[number][2])
                logs[partition].append((record.value, record.key, record.timestamp_ms, ()))

    @precondition(lambda self: self.topics)
    @rule(data=st.data(), size=st.integers(50_000, 300_000))
    def append_a_large_one(self, data: st.DataObject, size: int) -> None:
        topic, partition, log = self._some(data)
        topic.append(bytes(size), partition=partition, timestamp_ms=5)
        log.append((bytes(size), None, 5, ()))

    @precondition(lambda self: self.topics)
    @rule(data=st.data(), many=st.lists(rows, max_size=6))
    def produce(self, data: st.DataObject, many: list[Row]) -> None:
        topic, partition, log = self._some(data)
        with self.store.producer(batch_size=data.draw(st.sampled_from([0, 50, 65_536]))) as producer:
            for value, key, stamp, pairs in many:
                producer.send(topic, value, key=key, partition=partition, timestamp_ms=stamp, headers=pairs)
        log.extend(many)

    # Reading

    @precondition(lambda self: self.topics)
    @rule(data=st.data())
    def read_from_an_offset(self, data: st.DataObject) -> None:
        topic, partition, log = self._some(data)
        start = data.draw(st.integers(0, len(log)))
        until = data.draw(st.integers(start, len(log)))
        found = list(topic.read(partition, start=start, until=until))
        assert [record.offset for record in found] == list(range(start, until))
        assert [(record.value, record.key, record.timestamp_ms, record.headers) for record in found] == log[start:until]

    @precondition(lambda self: self.topics)
    @rule(data=st.data(), stamp=stamps)
    def read_from_a_time(self, data: st.DataObject, stamp: int) -> None:
        topic, partition, log = self._some(data)
        first = next((offset for offset, row in enumerate(log) if row[2] >= stamp), len(log))
        found = topic.read(partition, start=datetime.fromtimestamp(stamp / 1000, UTC))
        assert [record.offset for record in found] == list(range(first, len(log)))

    # What comes between

    def _open_again(self) -> None:
        self.store = kafkalite.connect(self.path, create=False)

    @precondition(lambda self: self.layout != "memory")
    @rule()
    def close_and_open(self) -> None:
        self.store.close()
        self._open_again()

    @precondition(lambda self: self.layout != "memory")
    @rule(loses_index=st.booleans())
    def kill_and_open(self, loses_index: bool) -> None:
        abandon(self.store)
        if loses_index:
            resolve(self.path).index.unlink()
        self._open_again()

    @precondition(lambda self: self.layout != "memory")
    @rule()
    def reboot_and_open(self) -> None:
        abandon(self.store)
        boot_id = os.urandom(16)
        disk.boot_id = lambda: boot_id
        self._open_again()

    @rule()
    def check(self) -> None:
        assert self.store.check().ok

    @rule()
    def flush(self) -> None:
        self.store.flush()

    @invariant()
    def the_same_topics_of_the_same_length(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.topics() == sorted(self.topics)
        for name, known in self.topics.items():
            ends = self.store.topic(name).end_offsets()
            assert ends == {partition: len(log) for partition, log in enumerate(known.partitions)}


@pytest.mark.parametrize("durability", ["commit", "interval", "none"])
@pytest.mark.parametrize("layout", ["file", "directory", "memory"])
def test_a_store_says_what_a_dictionary_of_lists_says(layout: str, durability: str) -> None:
    machine = type("Machine", (StoreMachine,), {"layout": layout, "durability": durability})
    _run(machine, settings(max_examples=12, stateful_step_count=30))


@pytest.mark.long
@pytest.mark.parametrize("durability", ["commit", "none"])
@pytest.mark.parametrize("layout", ["file", "directory"])
def test_the_same_for_long(layout: str, durability: str) -> None:
    machine = type("Machine", (StoreMachine,), {"layout": layout, "durability": durability})
    _run(machine, settings(max_examples=1000, stateful_step_count=60))


def _run(machine: type[StoreMachine], given: settings) -> None:
    quiet = settings(given, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    run_state_machine_as_test(machine, settings=quiet)
