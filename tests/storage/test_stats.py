"""Statistics: what all processes did is counted once, wherever they did it."""

from pathlib import Path

import pytest

import kafkalite
from kafkalite.storage.place import resolve
from tests.processes.forks import Forked

from . import kit


def write(path: Path, count: int) -> None:
    with kafkalite.connect(path) as store:
        topic = store.topic("t", create=False)
        for number in range(count):
            topic.append(b"%d" % number)


@pytest.fixture(params=["s.klite", "s"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def test_a_new_store_has_done_nothing(path: Path) -> None:
    with kafkalite.connect(path) as store:
        found = store.stats()
        assert (found.commits, found.batches, found.records, found.flushes, found.appended_bytes) == (0,) * 5
        assert (found.topics, found.partitions, found.segments) == (0, 0, 1)
        assert (found.mean_flush_ms, found.commits_per_flush) == (0.0, 0.0)
        assert store.check().ok


def test_what_every_process_did_is_counted(path: Path) -> None:
    with kafkalite.connect(path) as store:
        topic = store.topic("t", partitions=3)
        before = store.stats()
        children = [Forked(write, path, 20) for _ in range(3)]
        for child in children:
            child.result()
        topic.append_many([b"x"] * 40, keys=[b"%d" % number for number in range(40)])
        found = store.stats()
        assert found.records - before.records == 100
        assert found.commits - before.commits == 61
        assert found.batches - before.batches == 63
        assert before.flushes < found.flushes <= before.flushes + 61
        assert found.flush_seconds > before.flush_seconds
        assert (found.topics, found.partitions, found.unpublished_bytes) == (1, 3, 0)
        assert store.check().ok


def test_bytes_are_those_of_the_frames(path: Path) -> None:
    with kafkalite.connect(path) as store:
        topic = store.topic("t")
        before, tail = store.stats(), store._engine.index.positions().tail
        topic.append(bytes(1000))
        topic.append_many([bytes(10)] * 9)
        assert store.stats().appended_bytes - before.appended_bytes == store._engine.index.positions().tail - tail
        assert store.check().ok


def test_counters_outlive_a_close_and_begin_anew_with_the_index(path: Path) -> None:
    with kafkalite.connect(path) as store:
        store.topic("t").append(b"x")
        before = store.stats()
    with kafkalite.connect(path) as store:
        assert (store.stats().records, store.stats().commits) == (before.records, before.commits)
    resolve(path).index.unlink()
    with kafkalite.connect(path) as store:
        found = store.stats()
        assert (found.records, found.commits, found.flushes) == (0, 0, 0)
        assert found.era == before.era + 1
        assert [record.value for record in store.topic("t").read()] == [b"x"]
        assert store.check().ok


def test_what_was_not_flushed_shows_until_it_is(path: Path) -> None:
    with kafkalite.connect(path) as store:
        topic = store.topic("t")
        engine = store._engine
        engine.committer.submit(kit.append(b"x", log_id=topic._state.log_ids[0]), 10.0)
        assert store.stats().unpublished_bytes > 0
        store.flush()
        assert store.stats().unpublished_bytes == 0
        assert store.check().ok


def test_a_failed_or_repeated_operation_is_not_counted(path: Path) -> None:
    with kafkalite.connect(path) as store:
        topic = store.topic("t")
        before = store.stats()
        with pytest.raises(kafkalite.OffsetConflictError):
            topic.append(b"x", expected_end_offset=7)
        assert (store.stats().commits, store.stats().records) == (before.commits, before.records)
        assert store.check().ok


def test_figures_by_name(path: Path) -> None:
    with kafkalite.connect(path) as store:
        found = store.stats()
        assert found.as_dict()["segments"] == found.segments
        assert set(found.as_dict()) >= {"topics", "commits", "flush_seconds", "index_bytes"}
        assert store.check().ok
