"""Isolation: what readers see of transactions over the wire, by hand-built batches and their control batches."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite.records import control, kafka_v2, native
from kafkalite.records.envelope import TRANSACTIONAL, SealedBatch
from kafkalite.storage import reader
from kafkalite.storage.catalogue import TopicState
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.engine import Engine
from kafkalite.storage.reader import LogReader

from .kit import LOG, append

Encode = Callable[..., SealedBatch]
HANGS = 10.0


@pytest.fixture(params=[native.encode, kafka_v2.encode], ids=["native", "v2"])
def encode(request: pytest.FixtureRequest) -> Encode:
    if request.param is kafka_v2.encode:
        pytest.importorskip("crc32c")
    found: Encode = request.param
    return found


@pytest.fixture
def topic(engine: Engine) -> TopicState:
    return engine.create_topic("t", 1, {})


def put(engine: Engine, batch: SealedBatch) -> None:
    engine.commit(Operation([Append(LOG, batch)]))


class Wire:
    """A producer over the wire, as far as its batches go."""

    def __init__(self, engine: Engine, encode: Encode, producer: int) -> None:
        self._engine = engine
        self._encode = encode
        self._producer = producer
        self._sequence = 0

    def send(self, *data: bytes) -> None:
        sealed = self._encode(
            list(data), base_timestamp=1_000, attributes=TRANSACTIONAL, producer_id=self._producer, producer_epoch=0,
            base_sequence=self._sequence,
        )  # fmt: skip
        self._sequence += len(data)
        put(self._engine, sealed)

    def end(self, kind: int) -> None:
        mark(self._engine, self._producer, kind)


def mark(engine: Engine, producer: int, kind: int) -> None:
    """A marker, as the coordinator appends it."""
    put(engine, control.encode(kind, producer_id=producer, producer_epoch=0, coordinator_epoch=0, timestamp_ms=1_000))


def read(found: LogReader) -> list[bytes | None]:
    values: list[bytes | None] = []
    while (fetched := found.next_batch()) is not None:
        values += fetched.columns.values
    return values


def seen(engine: Engine, topic: TopicState) -> list[bytes | None]:
    return read(LogReader(engine, topic, 0, 0))


def test_an_undecided_batch_hides_itself_and_all_behind_it(engine: Engine, topic: TopicState, encode: Encode) -> None:
    engine.commit(append(b"before"))
    Wire(engine, encode, 5).send(b"open")
    engine.commit(append(b"behind"))
    found = LogReader(engine, topic, 0, 0)
    assert found.has_next()
    assert read(found) == [b"before"]
    assert found.offset == 1
    assert not found.has_next()
    assert found.next_batch() is None


def test_a_commit_shows_and_an_abort_hides(engine: Engine, topic: TopicState, encode: Encode) -> None:
    one, two = Wire(engine, encode, 5), Wire(engine, encode, 6)
    one.send(b"1a", b"1b")
    two.send(b"2a")
    engine.commit(append(b"plain"))
    one.send(b"1c")
    two.end(control.ABORT)
    assert seen(engine, topic) == []
    one.end(control.COMMIT)
    assert seen(engine, topic) == [b"1a", b"1b", b"plain", b"1c"]


def test_one_producers_transactions_are_decided_each_for_itself(
    engine: Engine, topic: TopicState, encode: Encode
) -> None:
    one = Wire(engine, encode, 5)
    for number, kind in enumerate([control.COMMIT, control.ABORT, control.ABORT, control.COMMIT]):
        one.send(b"%d" % number)
        one.send(b"%d" % number)
        one.end(kind)
    one.send(b"open")
    assert seen(engine, topic) == [b"0", b"0", b"3", b"3"]


def test_a_reader_that_waits_goes_on_when_it_is_decided(engine: Engine, topic: TopicState, encode: Encode) -> None:
    one, two = Wire(engine, encode, 5), Wire(engine, encode, 6)
    found = LogReader(engine, topic, 0, 0)
    one.send(b"1")
    two.send(b"2")
    assert read(found) == []
    engine.commit(append(b"3"))
    assert not found.has_next()
    two.end(control.COMMIT)
    assert not found.has_next(), "the first one is open still"
    one.end(control.ABORT)
    assert found.has_next()
    assert read(found) == [b"2", b"3"]
    one.send(b"4")
    assert not found.has_next() or found.next_batch() is None
    one.end(control.COMMIT)
    assert read(found) == [b"4"]


def test_a_reader_that_begins_within_a_transaction(engine: Engine, topic: TopicState, encode: Encode) -> None:
    one = Wire(engine, encode, 5)
    one.send(b"0", b"1", b"2")
    one.send(b"3")
    found = LogReader(engine, topic, 0, 2)
    assert read(found) == []
    assert found.offset == 2
    one.end(control.COMMIT)
    assert read(found) == [b"0", b"1", b"2", b"3"], "batches are whole: what is before the offset is the caller's"
    found.seek(0)
    assert read(found) == [b"0", b"1", b"2", b"3"]


def test_read_uncommitted_sees_everything_at_once(engine: Engine, topic: TopicState, encode: Encode) -> None:
    one = Wire(engine, encode, 5)
    one.send(b"aborted")
    one.end(control.ABORT)
    one.send(b"open")
    found = LogReader(engine, topic, 0, 0)
    found.reads_committed = False
    values = []
    while (fetched := found.next_batch()) is not None:
        if not fetched.envelope.is_control:
            values += fetched.columns.values
    assert values == [b"aborted", b"open"]


def test_a_look_ahead_over_many_batches_reads_each_once(
    engine: Engine, topic: TopicState, encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "LOOKUP_ROWS", 7)
    producers = [Wire(engine, encode, 10 + number) for number in range(5)]
    for number in range(60):
        producers[number % 5].send(b"%d" % number)
    for number, producer in enumerate(producers):
        producer.end(control.ABORT if number % 2 else control.COMMIT)
    reads = []
    view = LogReader._view
    monkeypatch.setattr(LogReader, "_view", lambda self, row: (reads.append(row), view(self, row))[1])
    assert seen(engine, topic) == [b"%d" % number for number in range(60) if number % 5 % 2 == 0]
    assert len(reads) == 2 * 65


def test_without_transactions_nothing_is_read_ahead(engine: Engine, topic: TopicState) -> None:
    for number in range(5):
        engine.commit(append(b"%d" % number))
    found = LogReader(engine, topic, 0, 0)
    assert len(read(found)) == 5
    assert found._markers is None


def test_topics_and_groups_see_what_is_committed(tmp_path: Path, encode: Encode) -> None:
    with kafkalite.connect(tmp_path / "s.klite") as store:
        topic = store.topic("t")
        engine = store._engine
        one = Wire(engine, encode, 5)
        one.send(b"aborted")
        one.end(control.ABORT)
        topic.append(b"plain")
        one.send(b"committed")
        one.end(control.COMMIT)
        one.send(b"open")
        topic.append(b"behind")
        assert [record.value for record in topic.read()] == [b"plain", b"committed"]
        with store.consumer_group("g", topic) as group:
            found: list[Any] = group.poll(timeout=0) + group.poll(timeout=0) + group.poll(timeout=0)
            assert [record.value for record in found] == [b"plain", b"committed"]
        one.end(control.COMMIT)
        assert [record.value for record in topic.read()] == [b"plain", b"committed", b"open", b"behind"]
        with store.consumer_group("g", topic) as group:
            assert [record.value for record in group.records()] == [b"open", b"behind"]
        assert store.check().ok


@pytest.mark.parametrize("way", ["records", "batches"])
@pytest.mark.parametrize("level", ["read_committed", "read_uncommitted"])
def test_the_end_of_a_group_is_what_its_isolation_level_shows(
    tmp_path: Path, encode: Encode, level: Any, way: str
) -> None:
    """An open transaction does not keep `until="end"` waiting, neither at its partition nor at another one."""
    with kafkalite.connect(tmp_path / "s.klite") as store:
        topic = store.topic("t", partitions=2)
        one = Wire(store._engine, encode, 5)
        topic.append(b"before", partition=0)
        one.send(b"open")
        topic.append(b"behind", partition=0)
        topic.append(b"other", partition=1)

        def to_the_end(group: kafkalite.ConsumerGroup[Any, Any]) -> list[Any]:
            found = getattr(group, way)(until="end", timeout=HANGS)
            flat = found if way == "records" else itertools.chain.from_iterable(found)
            return sorted((record.partition, record.value) for record in flat)

        with store.consumer_group("g", topic, isolation_level=level) as group:
            began = time.monotonic()
            shown = to_the_end(group)
            assert time.monotonic() - began < HANGS
            held_back = [(0, b"behind"), (0, b"open")]
            rest = [] if level == "read_uncommitted" else held_back
            assert shown == sorted([(0, b"before"), (1, b"other"), *held_back[len(rest) :]])
            one.end(control.COMMIT)
            assert to_the_end(group) == rest
        assert store.check().ok
