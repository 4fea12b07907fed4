"""Check: it finds what is wrong with an index or a journal, and says where."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kafkalite
from kafkalite.clock import Deadline
from kafkalite.records import native
from kafkalite.records.envelope import seal
from kafkalite.storage import catalogue, check, index, recovery, segment, superblock
from kafkalite.storage.commit import Append, Operation
from kafkalite.storage.index import Positions
from kafkalite.storage.place import resolve
from tests.faults.small_store import journal_files

from .kit import LOG, abandon, append, batch, copied, flip, frames_of, sized


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
    assert (report.topics, report.logs) == (1, 2)
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


# Beside others


def test_what_is_appended_while_it_reads_is_read_as_well(
    store: kafkalite.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_path = recovery.whole_path

    def busy(*arguments: object) -> recovery.SegmentPath:
        found = whole_path(*arguments)  # type: ignore[arg-type]
        store._engine.append([Append(LOG, sized(300_000))])
        store._engine.append([Append(LOG, sized(300_000))])  # into the next segment
        store.topic("new").append(b"1")
        return found

    monkeypatch.setattr(recovery, "whole_path", busy)
    report = store.check()
    assert report.ok, report
    assert (report.segments, report.topics, report.logs) == (2, 2, 3)


def test_what_is_appended_between_two_looks_is_left_to_the_next_check(
    store: kafkalite.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "ROWS_PER_SNAPSHOT", 2)
    rows_from = check._rows_from

    def busy(*arguments: object) -> Iterator[tuple[bytes, bytes]]:
        found = list(rows_from(*arguments))  # type: ignore[arg-type]
        appended.append(len(found))
        return iter(found)

    appended: list[int] = []
    monkeypatch.setattr(check, "_rows_from", busy)
    monkeypatch.setattr(check, "_differences", _appending(store, check._differences))
    report = store.check()
    assert report.ok, report
    assert len(appended) > 2


def _appending(store: kafkalite.Store, differences: Any) -> Any:
    def busy(name: str, actual: Any, *more: Any) -> Any:
        if name == "batches":
            store.topic("t").append(b"meanwhile", partition=0)
        return differences(name, actual, *more)

    return busy


def test_no_snapshot_of_the_index_is_held_while_the_journal_is_read(store: kafkalite.Store) -> None:
    seen: list[tuple[int, int]] = []

    def look(done: int, total: int) -> None:
        engine = store._engine
        assert engine.index.gate.acquire(timeout=0)  # a fork would not wait
        engine.index.gate.release()
        readers = engine.index.env.readers().splitlines()[1:]
        assert [line for line in readers if line.split()[-1] != "-"] == []
        seen.append((done, total))

    store._engine.append([Append(LOG, sized(300_000))])
    engine = store._engine
    assert check.check(engine.index, engine.journal, engine.place, look).ok
    done, total = seen[-1]
    assert done == total > 300_000
    assert seen == sorted(seen)


# By path


def test_a_store_is_checked_by_its_path(path: Path) -> None:
    with kafkalite.connect(path) as store:
        store.topic("t").append(b"1")
    report = kafkalite.check(path)
    assert (report.ok, report.cannot_open, report.topics) == (True, "", 1)
    with kafkalite.connect(path) as store:
        assert kafkalite.check(path).records == report.records
        assert store.check().ok


def test_a_store_that_cannot_be_opened_is_explained(path: Path, tmp_path: Path) -> None:
    with kafkalite.connect(path) as store:
        for number in range(3):
            store.topic("t").append(b"%d" % number)
    flip(path, frames_of(path, LOG)[0].position + 105)
    damaged = copied(path, tmp_path / "there", "copy")
    before = [file.read_bytes() for file in journal_files(damaged)]
    report = kafkalite.check(damaged)
    assert not report.ok
    assert report.cannot_open in report.problems
    assert "damaged: segment 1" in str(report)
    assert "repair would give up topic 't', partition 0: offsets 0 to 0" in report.problems
    assert [file.read_bytes() for file in journal_files(damaged)] == before


def test_damage_in_an_open_store_is_located_by_topic_and_offset(path: Path) -> None:
    with kafkalite.connect(path) as store:
        for number in range(3):
            store.topic("t").append(b"%d" % number)
    found = frames_of(path, LOG)[1]
    at, size = found.position, found.end - found.position
    flip(path, at + 105)
    report = kafkalite.check(path)
    assert (report.ok, report.cannot_open) == (False, "")
    assert f"damaged: segment 1, byte {segment.byte_of(at)}, {size} bytes: no valid frame" in report.problems
    assert "unreadable: topic 't', partition 0: offsets 1 to 1" in report.problems
    flip(path, at + 105)
    assert kafkalite.check(path).ok


@pytest.mark.parametrize("content", [b"", b"a text\n" * 3000])
def test_what_is_no_store_cannot_be_checked(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes.txt"
    with pytest.raises(kafkalite.StoreNotFoundError):
        kafkalite.check(file)
    file.write_bytes(content)
    with pytest.raises((kafkalite.NotAStoreError, kafkalite.StoreNotFoundError)):
        kafkalite.check(file)
    assert file.read_bytes() == content


def test_a_store_without_its_superblock_is_explained(path: Path) -> None:
    with kafkalite.connect(path) as store:
        store.topic("t").append(b"1")
    file = resolve(path).file
    good = file.read_bytes()
    file.write_bytes(b"\xff" * superblock.SIZE + good[superblock.SIZE :])
    assert "not a store" in kafkalite.check(path).cannot_open
    file.write_bytes(good)
    assert kafkalite.check(path).ok


# What else it looks at


def test_a_damaged_slot_of_the_superblock_is_found(path: Path) -> None:
    with kafkalite.connect(path) as store:
        store.topic("t").append(b"1")
        file = resolve(path).file
        data = bytearray(file.read_bytes())
        data[200] ^= 1
        with file.open("r+b") as stream:
            stream.write(data[:4096])
        assert "slot 0 of the superblock is damaged" in str(kafkalite.check(path))
    assert kafkalite.check(path).ok


def test_offsets_without_records_must_be_known_as_lost(path: Path) -> None:
    with kafkalite.connect(path) as store:
        store.topic("t")
        store._engine.append([Append(LOG, native.encode([], base_timestamp=1, last_offset_delta=4))])
        problems = store.check().problems
        assert problems == [
            "topic 't', partition 0: offsets 0 to 4 have no records, and nothing says that they are lost"
        ]
        store._engine.append([Append(0, catalogue.batch_of([(("lost", LOG), [[0, 5]])]))])
        report = store.check()
        assert report.ok, report
        assert [str(one) for one in report.lost] == ["topic 't', partition 0: offsets 0 to 4"]
        assert store.topic("t").append(b"1").offset == 5


def test_spare_segments_deleted_topics_and_strays_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with kafkalite.connect(path) as store:
        store.topic("gone").append(b"1")
        store.delete_topic("gone")
        store._engine._prepare(0, Deadline(60))
        (path / "notes.txt").write_text("mine")
        report = kafkalite.check(path)
        assert report.ok
        assert report.notes == [
            "1 logs of deleted topics, whose space is not given back yet",
            "segment 2 is prepared, and not begun (1048576 bytes)",
            "notes.txt belongs to nobody",
        ]
