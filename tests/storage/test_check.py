"""Check: it finds what is wrong with an index or a journal, and says where."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import kafkalite
from kafkalite.records import native
from kafkalite.records.envelope import seal
from kafkalite.storage import check, index
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.index import Positions

from .kit import LOG, abandon, append, batch, flip, frames_of


@pytest.fixture
def store(path: Path) -> Iterator[kafkalite.Store]:
    found = kafkalite.connect(path)
    for number in range(3):
        found.topic("t", partitions=2).append(b"%d" % number, partition=0)
    found._engine.commit(append(b"x", producer_id=7, producer_epoch=0, base_sequence=0))
    assert found.check().ok
    yield found
    abandon(found)


def test_what_was_looked_at_is_counted(store: kafkalite.Store) -> None:
    report = store.check()
    assert report.ok
    assert (report.segments, report.frames, report.records) == (1, 5, 6)
    assert report.rows > 7
    assert str(report).startswith("ok: 1 segments, 5 batches, 6 records")


def change(store: kafkalite.Store, key: bytes, value: bytes | None) -> None:
    engine = store._engine
    with engine.locks.write.threads, engine.index.writing() as transaction:
        if value is None:
            transaction.delete(key)
        else:
            transaction.put(key, value)


def rows_of(store: kafkalite.Store, table: bytes) -> list[tuple[bytes, bytes]]:
    with store._engine.index.snapshot() as transaction:
        return list(index.rows(transaction, table))


@pytest.mark.parametrize("table", [index.BATCHES, index.PRODUCERS, index.TOPICS, index.SEGMENTS, index.CATALOGUE])
def test_a_row_that_is_missing_changed_or_invented_is_found(store: kafkalite.Store, table: bytes) -> None:
    name = check.TABLE_NAMES[table]
    key, value = rows_of(store, table)[0]
    change(store, key, None)
    assert f"index, {name}: the row {key.hex()} is missing" in store.check().problems
    change(store, key, value[:-1] + bytes([value[-1] ^ 1]))
    assert any(line.startswith(f"index, {name}: the row {key.hex()} is") for line in store.check().problems)
    change(store, key, value)
    change(store, key + b"\xff", value)
    assert f"index, {name}: the row {key.hex()}ff is not in the journal" in store.check().problems
    change(store, key + b"\xff", None)
    assert store.check().ok


def test_every_flipped_frame_is_found(store: kafkalite.Store, path: Path) -> None:
    for found in frames_of(path):
        for at in (0, 20, 39, 41, 100):
            flip(path, found.position + at)
            report = store.check()
            assert not report.ok
            assert "problems" in str(report)
            flip(path, found.position + at)
    assert store.check().ok


def test_positions_out_of_order_are_found(store: kafkalite.Store) -> None:
    with store._engine.index.snapshot() as transaction:
        positions = index.read_positions(transaction)
    for wrong in (
        positions._replace(durable=positions.tail + 8),
        positions._replace(published=positions.tail + 8),
    ):
        _set(store, wrong)
        assert any("out of order" in line for line in store.check().problems)
    _set(store, positions)
    assert store.check().ok


def _set(store: kafkalite.Store, positions: Positions) -> None:
    change(store, index.POSITIONS, index.POSITIONS_ROW.pack(*positions))


def test_a_batch_whose_payload_is_no_batch_is_found(store: kafkalite.Store) -> None:
    store._engine.commit(Operation([Append(LOG, seal(b"\xc1", count=1, base_timestamp=1, max_timestamp=1))]))
    report = store.check()
    assert len(report.problems) == 1
    assert "no msgpack array" in report.problems[0]


def test_a_value_that_is_not_bytes_is_found(store: kafkalite.Store) -> None:
    sealed = native.encode(["text"], base_timestamp=1)  # type: ignore[list-item]
    store._engine.commit(Operation([Append(LOG, sealed)]))
    assert "values of type str" in str(store.check())


def test_it_stops_after_a_hundred_problems(store: kafkalite.Store) -> None:
    for number in range(300):
        change(store, index.BATCH_KEY.pack(index.BATCH, LOG + 5, number), bytes(20))
    assert len(store.check().problems) == check.MAX_PROBLEMS
    for number in range(300):
        change(store, index.BATCH_KEY.pack(index.BATCH, LOG + 5, number), None)
    assert store.check().ok


def test_what_is_appended_and_not_flushed_is_checked_too(store: kafkalite.Store) -> None:
    store._engine.committer.submit(Operation([Append(LOG, batch(b"unflushed"))]), 60)
    report = store.check()
    assert report.ok
    assert report.records == 7
