"""The index: looking up ends, batches and times, against models that are too simple to be wrong."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kafkalite
from kafkalite import disk
from kafkalite.errors import StoreFailedError, StoreFullError
from kafkalite.storage import index
from kafkalite.storage.index import BatchRow, Index, Positions, ProducerState

NEIGHBOURS = (15, 17)
LOG = 16


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    found = Index(tmp_path_factory.mktemp("index") / "index", create=True)
    yield found
    found.close()


def fill(transaction: lmdb.Transaction, log_id: int, rows: Sequence[BatchRow]) -> None:
    for row in rows:
        transaction.put(
            index.BATCH_KEY.pack(index.BATCH, log_id, row.last_offset),
            index.BATCH_ROW.pack(row.position, row.length, row.max_timestamp),
        )


class Log(NamedTuple):
    """A log, and its timestamps one by one: gaps are offsets that compaction took away."""

    rows: list[BatchRow]
    stamps: list[tuple[int, int]]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    rows, stamps = [], []
    offset, latest, position = draw(st.integers(0, 5)), index.NO_TIMESTAMP, 96
    for count in draw(st.lists(st.integers(1, 4), max_size=12)):
        offset += draw(st.integers(0, 2))
        for number in range(count):
            stamp = draw(st.integers(-5, 30))
            stamps.append((offset + number, stamp))
            latest = max(latest, stamp)
        offset += count
        rows.append(BatchRow(offset - 1, position, 8, latest))
        position += 8
    return Log(rows, stamps)


@given(logs(), st.integers(0, 60), st.integers(-6, 31), st.booleans())
@settings(max_examples=150)
def test_look_ups_agree_with_walking_over_everything(
    environment: Index, log: Log, offset: int, stamp: int, crowded: bool
) -> None:
    rows = log.rows
    with environment.begin(write=True) as transaction:
        fill(transaction, LOG, rows)
        if crowded:
            for neighbour in NEIGHBOURS:
                fill(transaction, neighbour, [BatchRow(7, 1, 1, 99)])
        expected = [row for row in rows if row.last_offset >= offset]
        assert list(index.batches(transaction, LOG, offset)) == expected
        assert index.batch_at(transaction, LOG, offset) == (expected[0] if expected else None)
        assert list(index.batches_backward(transaction, LOG)) == rows[::-1]
        end, latest = (rows[-1].last_offset + 1, rows[-1].max_timestamp) if rows else (0, index.NO_TIMESTAMP)
        assert tuple(index.log_end(transaction, LOG)) == (end, latest)
        for published in range(90, 97 + 8 * len(rows), 4):
            seen = [row.last_offset + 1 for row in rows if row.position < published]
            assert index.published_end(transaction, LOG, published) == (seen[-1] if seen else 0)
            below = seen[-1] if seen else 0
            first = next((row for row in rows if row.last_offset < below and row.max_timestamp >= stamp), None)
            assert index.first_batch_since(transaction, LOG, stamp, below) == first
        _holds_the_first_record_since(rows, log.stamps, stamp, index.first_batch_since(transaction, LOG, stamp, end))
        transaction.abort()


def _holds_the_first_record_since(
    rows: Sequence[BatchRow], stamps: Sequence[tuple[int, int]], stamp: int, found: BatchRow | None
) -> None:
    first = next((offset for offset, at in stamps if at >= stamp), None)
    if first is None:
        assert found is None
    else:
        assert found == rows[bisect_left([row.last_offset for row in rows], first)]


def test_a_log_without_batches_ends_where_its_row_says(environment: Index) -> None:
    with environment.begin(write=True) as transaction:
        transaction.put(index.LOG_KEY.pack(index.LOG, LOG), index.LOG_ROW.pack(40, 41))
        assert index.log_bounds(transaction, LOG) == (40, 41)
        assert tuple(index.log_end(transaction, LOG)) == (41, index.NO_TIMESTAMP)
        assert index.published_end(transaction, LOG, 0) == 41
        assert index.log_bounds(transaction, LOG + 1) == (0, 0)
        transaction.abort()


def test_a_time_before_the_log_start_is_found_at_or_after_it(environment: Index) -> None:
    rows = [BatchRow(4, 96, 8, 10), BatchRow(9, 104, 8, 20)]
    with environment.begin(write=True) as transaction:
        fill(transaction, LOG, rows)
        transaction.put(index.LOG_KEY.pack(index.LOG, LOG), index.LOG_ROW.pack(7, 7))
        assert index.first_batch_since(transaction, LOG, 0, 10) == rows[1]
        assert index.first_batch_since(transaction, LOG, 21, 10) is None
        transaction.abort()


@pytest.mark.parametrize("log_id", [0, 1, 2**32 - 1])
def test_the_first_and_the_last_log_and_offset(environment: Index, log_id: int) -> None:
    last = index.OFFSET_MAX - 1  # the end offset is an int64, too
    with environment.begin(write=True) as transaction:
        fill(transaction, log_id, [BatchRow(0, 1, 1, 1), BatchRow(last, 2, 1, 2)])
        assert [row.last_offset for row in index.batches(transaction, log_id, 0)] == [0, last]
        assert [row.last_offset for row in index.batches_backward(transaction, log_id)] == [last, 0]
        assert index.batch_at(transaction, log_id, last) == BatchRow(last, 2, 1, 2)
        transaction.abort()


def test_the_tables_after_the_batches_are_not_walked_into(environment: Index) -> None:
    with environment.begin(write=True) as transaction:
        for table in range(9):
            transaction.put(bytes([table]) + b"\xff" * 12, b"\0" * 60)
            transaction.put(bytes([table]) + b"\0" * 12, b"\0" * 60)
        assert list(index.batches(transaction, LOG, 0)) == []
        assert list(index.batches_backward(transaction, LOG)) == []
        assert [key for key, _ in index.rows(transaction, index.TOPICS)] == [
            index.TOPICS + end * 12 for end in (b"\0", b"\xff")
        ]
        transaction.abort()


@given(st.lists(st.integers(0, 2**63 - 1), min_size=10, max_size=10))
def test_positions_are_read_as_written(environment: Index, numbers: list[int]) -> None:
    numbers[4] %= 256
    numbers[5] %= 2**32
    positions = Positions(*numbers)
    with environment.begin(write=True) as transaction:
        index.write_positions(transaction, positions)
        assert index.read_positions(transaction) == positions
        transaction.abort()


@given(st.integers(0, 2**15 - 1), st.lists(st.tuples(*[st.integers(0, 2**31 - 1)] * 3), max_size=5))
def test_a_producer_is_read_as_written(environment: Index, epoch: int, batches: list[tuple[int, int, int]]) -> None:
    state = ProducerState(epoch, tuple(batches))
    with environment.begin(write=True) as transaction:
        transaction.put(index.PRODUCER_KEY.pack(index.PRODUCER, LOG, 7), state.encode())
        assert index.producer_state(transaction, LOG, 7) == state
        assert index.producer_state(transaction, LOG, 8) is None
        transaction.abort()


def test_a_hundred_thousand_partitions_of_which_few_are_used(path: Path) -> None:
    used = (0, 1, 255, 256, 65_535, 65_536, 99_998, 99_999)
    with kafkalite.connect(path, durability="none") as store:
        topic = store.topic("t", partitions=100_000)
        before = disk.used_bytes(store._engine.place.index)
        for partition in used:
            topic.append(b"%d" % partition, partition=partition)
        ends = topic.end_offsets()
        assert len(ends) == 100_000
        assert {partition for partition, end in ends.items() if end} == set(used)
        for partition in used:
            assert [record.value for record in topic.read(partition)] == [b"%d" % partition]
        assert list(topic.read(2)) == []
        assert disk.used_bytes(store._engine.place.index) - before < 1 << 20
        assert store.check().ok


def test_a_failure_of_lmdb_says_what_to_do(environment: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreFailedError, match="open it again"), environment.writing():
        raise lmdb.CorruptedError("page")
    with pytest.raises(StoreFullError, match="free space"), environment.writing():
        raise lmdb.MapFullError("map")
    monkeypatch.setattr(disk, "free_bytes", lambda _: 0)
    with pytest.raises(StoreFullError, match="free space"), environment.writing():
        raise lmdb.DiskError("input/output error")


def test_what_is_not_an_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"no index" * 1024)
    with pytest.raises(StoreFailedError, match="index"):
        Index(tmp_path / "index")
