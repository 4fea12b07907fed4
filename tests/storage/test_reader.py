"""Reading batches: from any offset and time, only what is published, and what happens when bytes are not there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kafkalite
from kafkalite.errors import CorruptRecordError, OffsetOutOfRangeError, UnknownTopicError
from kafkalite.records.native import Columns
from kafkalite.storage import catalogue, reader
from kafkalite.storage.catalogue import CATALOGUE_LOG
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.engine import Engine
from kafkalite.storage.reader import LogReader

from .kit import LOG, append, batch, flip, frames_of


def offsets(engine: Engine, start: int, partition: int = 0) -> list[int]:
    found = LogReader(engine, engine.topic("t"), partition, start)
    read: list[int] = []
    while (fetched := found.next_batch()) is not None:
        read += fetched.columns.offsets
    return read


@pytest.fixture
def topic(engine: Engine) -> catalogue.TopicState:
    """A topic of batches with 1, 2 … 6 records: offsets 0 to 20."""
    state = engine.create_topic("t", 2, {})
    for count in range(1, 7):
        engine.commit(append(*[b"%d" % count] * count, base_timestamp=count * 100))
    return state


def test_reading_begins_with_the_batch_that_holds_the_offset(engine: Engine, topic: catalogue.TopicState) -> None:
    bases = [0, 1, 3, 6, 10, 15]
    for start in range(21):
        base = max(base for base in bases if base <= start)
        assert offsets(engine, start) == list(range(base, 21))
    assert offsets(engine, 21) == []
    assert offsets(engine, 0, partition=1) == []


def test_a_reader_at_the_end_goes_on_when_there_is_more(engine: Engine, topic: catalogue.TopicState) -> None:
    found = LogReader(engine, topic, 0, 21)
    assert not found.has_next()
    assert found.next_batch() is None
    engine.commit(append(b"more"))
    assert found.has_next()
    fetched = found.next_batch()
    assert fetched is not None
    assert list(fetched.columns.values) == [b"more"]
    assert found.offset == 22


def test_only_what_is_published_is_read(engine: Engine, topic: catalogue.TopicState) -> None:
    engine.committer.submit(append(b"not yet"), 60)
    assert offsets(engine, 0) == list(range(21))
    assert reader.bounds(engine, topic, [0, 1]) == {0: (0, 21), 1: (0, 0)}
    assert reader.offset_at(engine, topic, 0, 10_000) == 21
    engine.flush()
    assert offsets(engine, 0) == list(range(22))


def test_removed_offsets_are_out_of_range(engine: Engine, topic: catalogue.TopicState) -> None:
    found = LogReader(engine, topic, 0, 0)
    engine.commit(Operation([Append(CATALOGUE_LOG, catalogue.batch_of([(("log_start", LOG), 6)]))]))
    with pytest.raises(OffsetOutOfRangeError, match="the first one left is 6"):
        found.next_batch()
    assert reader.bounds(engine, topic, [0]) == {0: (6, 21)}
    assert offsets(engine, 6) == list(range(6, 21))
    assert reader.offset_at(engine, topic, 0, 0) == 6


def test_a_topic_deleted_under_a_reader(engine: Engine, topic: catalogue.TopicState) -> None:
    found = LogReader(engine, topic, 0, 0)
    engine.delete_topic("t")
    with pytest.raises(UnknownTopicError, match="deleted"):
        found.next_batch()


def test_a_damaged_batch_is_an_error_and_its_neighbours_are_read(path: Path) -> None:
    with kafkalite.connect(path) as store:
        topic = store.topic("t")
        for name in (b"A", b"B", b"C"):
            topic.append(name)
        second = frames_of(path, LOG)[1].position
        for at in (0, 8, 39, 41, 70, 101, 103):
            flip(path, second + at)
            with pytest.raises(CorruptRecordError, match=r"topic 't', partition 0, offsets 1 to 1"):
                list(topic.read())
            assert [record.value for record in topic.read(0, start=2)] == [b"C"]
            assert [record.value for record in topic.read(0, until=1)] == [b"A"]
            flip(path, second + at)
        assert [record.value for record in topic.read()] == [b"A", b"B", b"C"]
        assert store.check().ok


def test_a_pointer_that_moved_is_followed_once_more(
    engine: Engine, topic: catalogue.TopicState, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = LogReader(engine, topic, 0, 0)
    assert found.has_next()
    found._rows = [row._replace(position=row.position + 8) for row in found._rows]
    fetched = found.next_batch()
    assert fetched is not None
    assert list(fetched.columns.offsets) == [0]


def test_more_batches_than_one_look_up_brings(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.create_topic("t", 1, {})
    engine.commit(Operation([Append(LOG, batch(b"x")) for _ in range(100)]))
    monkeypatch.setattr(reader, "LOOKUP_ROWS", 7)
    assert offsets(engine, 0) == list(range(100))
    monkeypatch.setattr(reader, "LOOKUP_BYTES", 1)
    assert offsets(engine, 3) == list(range(3, 100))


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafkalite.Store]:
    with kafkalite.connect(tmp_path_factory.mktemp("timed") / "s.klite", durability="none") as store:
        yield store
        assert store.check().ok


@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=5), max_size=8), st.data())
@settings(max_examples=60)
def test_a_time_is_the_first_record_at_or_after_it(
    timed: kafkalite.Store, batches: list[list[int]], data: st.DataObject
) -> None:
    name = f"t{len(timed.topics())}"
    topic = timed.topic(name)
    for stamps in batches:
        topic.append_many([b"x"] * len(stamps), timestamps_ms=stamps)
    whole = [stamp for stamps in batches for stamp in stamps]
    for stamp in {0, 41, data.draw(st.integers(0, 41)), *whole}:
        expected = next((offset for offset, at in enumerate(whole) if at >= stamp), len(whole))
        assert reader.offset_at(timed._engine, topic._state, 0, stamp) == expected


@given(
    st.lists(st.integers(0, 30), unique=True, min_size=1).map(sorted),
    st.integers(0, 31),
    st.none() | st.integers(0, 31),
)
def test_between_keeps_the_offsets_asked_for(found: list[int], start: int, end: int | None) -> None:
    columns = Columns(found, [n * 2 for n in found], [b"%d" % n for n in found], [None] * len(found), [()] * len(found))
    cut = reader.between(columns, start, end)
    expected = [offset for offset in found if offset >= start and (end is None or offset < end)]
    assert list(cut.offsets) == expected
    assert list(cut.timestamps_ms) == [offset * 2 for offset in expected]
    assert list(cut.keys) == [b"%d" % offset for offset in expected]
    assert len(cut.values) == len(cut.headers) == len(expected)
