"""Salvage: after any damage a store that opens and is sound, with every undamaged batch in its place, and the truth
about the rest. Each damaged copy of a store is repaired, and compared with its undamaged twin.
"""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import kafkalite
from kafkalite import NotAStoreError, RepairReport
from kafkalite.records import batch as batches
from kafkalite.records.envelope import parse
from kafkalite.storage import frame, recovery, salvage, segment, superblock
from kafkalite.storage.frame import Frame
from kafkalite.storage.salvage import Lost
from tests.faults import small_store
from tests.faults.ledger import LEDGER
from tests.house import independent_reader

from .kit import LOG, copy, frames_of, journal_of, state_of, where

Rows = dict[int, dict[int, Any]]
"""For each log its records by offset."""


class Written(NamedTuple):
    """A frame of an undamaged store: where its bytes are, and what it holds."""

    file: Path
    start: int
    end: int
    found: Frame


class Twin(NamedTuple):
    """An undamaged store, to be copied, damaged and compared with."""

    path: Path
    rows: Rows
    frames: list[Written]

    def damaged(self, target: Path) -> Path:
        """A copy without an index under the twin's own name, in a directory of its own."""
        return copy(self.path, target / self.path.name)


def rows_of(path: Path) -> Rows:
    """What the journal of a store gives, by log, without the index."""
    found = state_of(path)
    journal = journal_of(path)
    end = recovery.End(found.tail, found.tail_chain) if found.state is superblock.State.SEALED else None
    rows: Rows = {}
    try:
        for one in recovery.Scan(journal, recovery.find_path(journal, found.era_segment, end), end).frames():
            columns = batches.decode(one.batch)[1]
            for offset, *rest in zip(
                columns.offsets, columns.timestamps_ms, columns.keys, columns.values, columns.headers, strict=True
            ):
                rows.setdefault(one.log_id, {})[offset] = rest
    finally:
        journal.close()
    return rows


def twin_of(path: Path) -> Twin:
    rows = rows_of(path)
    written = []
    for found in frames_of(path):
        if found.kind == frame.BATCH and parse(found.batch).base_offset in rows.get(found.log_id, {}):
            file, at = where(path, found.position)
            written.append(Written(file, at, at + frame.HEADER_SIZE + found.length, found))
    return Twin(path, rows, written)


@pytest.fixture(scope="module", params=small_store.LAYOUTS)
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twin:
    """A small store of three logs in two segments, closed cleanly."""
    path = tmp_path_factory.mktemp("twin") / request.param
    small_store.make(path)
    return twin_of(path)


def offsets_of(lost: list[Lost], log_id: int) -> set[int]:
    return {offset for one in lost if one.log_id == log_id for offset in range(one.first, one.last + 1)}


def survivors(twin: Twin, path: Path) -> Rows:
    """The records of the twin's batches of which every byte is as it was."""
    rows: Rows = {}
    for written in twin.frames:
        file = path / written.file.name if path.is_dir() else path
        before = written.file.read_bytes()[written.start : written.end]
        if file.exists() and file.read_bytes()[written.start : written.end] == before:
            envelope = parse(written.found.batch)
            log_id = written.found.log_id
            for offset in range(envelope.base_offset, envelope.last_offset + 1):
                rows.setdefault(log_id, {})[offset] = twin.rows[log_id][offset]
    return rows


def assert_repaired(twin: Twin, path: Path, kept: Rows, report: RepairReport) -> None:
    """The repaired store is sound, has what was kept and nothing else, and the report says what it has not."""
    has = rows_of(path)
    for log_id, rows in kept.items():
        for offset, row in rows.items():
            assert has.get(log_id, {}).get(offset) == row, (log_id, offset)
    lost_facts = offsets_of(report.lost, 0)
    for log_id, rows in twin.rows.items():
        mine = has.get(log_id, {})
        missing = rows.keys() - mine.keys()
        told = offsets_of(report.lost, log_id)
        assert told <= missing | (set() if log_id else lost_facts)
        if report.is_exact:
            assert missing == told
        else:  # what was not told of is behind all that is known of the log
            assert all(offset > max([*mine, *told], default=-1) for offset in missing - told) or log_id == 0
        assert {offset: row for offset, row in mine.items() if log_id and offset not in rows} == {}
    assert independent_reader.read(path).keys() >= {("plain", 0)} or report.recovered or report.lost or not kept
    with kafkalite.connect(path, create=False) as store:
        checked = store.check()
        assert checked.ok, checked
        readable: Rows = {}
        for name in store.topics():
            topic = store.topic(name, create=False)
            for number in range(topic.partition_count):
                records = {
                    one.offset: [one.timestamp_ms, one.key, one.value, one.headers] for one in topic.read(number)
                }
                readable[topic._state.log_id(number)] = records
    assert {log: rows for log, rows in readable.items() if rows} == {log: has[log] for log in has if log >= LOG}


# Damage at random

SECTOR = 512


def damage_at_random(path: Path, chance: random.Random) -> str:
    """One damage to the journal; says which."""
    files = small_store.journal_files(path)
    files = [one for one in files if one.stat().st_size]
    if not files:
        return "nothing is left to damage"
    file = chance.choice(files)
    size = file.stat().st_size
    data = bytearray(file.read_bytes())
    used = len(bytes(data).rstrip(b"\0"))
    at = chance.randrange(used) if used else 0
    kind = chance.choice(["flip", "flip", "flip", "sector", "page", "noise", "cut", "header", "gone"])
    if kind == "flip":
        data[at] ^= 1 << chance.randrange(8)
    elif kind in ("sector", "page"):
        unit = SECTOR if kind == "sector" else 4096
        at -= at % unit
        data[at : at + unit] = bytes(len(data[at : at + unit]))
    elif kind == "noise":
        length = chance.randrange(1, 200)
        data[at : at + length] = chance.randbytes(len(data[at : at + length]))
    elif kind == "cut":
        del data[at:]
    elif kind == "header":
        start = chance.choice([m for m in range(0, size, 4096) if data[m : m + 8] == segment.MAGIC] or [0])
        data[start + chance.randrange(88)] ^= 1
    elif path.is_dir() and file.suffix == ".segment":
        file.unlink()
        return f"{file.name} gone"
    file.write_bytes(data)
    return f"{file.name} {kind} at {at}"


def damage_and_repair(twin: Twin, place: Path, chance: random.Random) -> None:
    """Damage a copy of the twin in one to four places, repair it, and compare."""
    path = twin.damaged(place)
    done = [damage_at_random(path, chance) for _ in range(chance.choice((1, 1, 2, 4)))]
    kept = survivors(twin, path)
    print(done)
    try:
        report = kafkalite.repair(path)
    except NotAStoreError:
        assert not kept, "a store that holds something is taken for none"
        return
    print(report)
    assert_repaired(twin, path, kept, report)


def go_through(twin: Twin, tmp_path: Path, seed: int, count: int) -> None:
    for number in range(count):
        print(f"\nseed {seed}, number {number}")
        try:
            damage_and_repair(twin, tmp_path / str(number), random.Random(f"{seed} {number}"))
        except BaseException:
            LEDGER.wrong(1)
            raise
        LEDGER.fault("repair", f"{twin.path.name} {number}", "damage")
        shutil.rmtree(tmp_path / str(number))


def test_after_random_damage_every_undamaged_batch_is_in_its_place(twin: Twin, tmp_path: Path) -> None:
    go_through(twin, tmp_path, 1, 40)


@pytest.mark.parametrize("broken", ["search", "fillers", "claims"])
def test_a_repair_that_is_wrong_is_found_out(
    twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    whole = salvage.valid_frames
    if broken == "search":  # gives up at the first damage
        monkeypatch.setattr(salvage, "valid_frames", lambda data, number, at=96: _unbroken(whole(data, number, at)))
    elif broken == "fillers":  # tells of no loss
        monkeypatch.setattr(salvage.Salvage, "_merged", lambda _: [])
    else:  # takes no header within the damage at its word, and does not say so
        monkeypatch.setattr(salvage.Salvage, "_claim", lambda *_: (None, None))
    with pytest.raises((AssertionError, kafkalite.KafkaliteError)):
        damage_and_repair_many(twin, tmp_path)


def damage_and_repair_many(twin: Twin, tmp_path: Path) -> None:
    for number in range(200):
        damage_and_repair(twin, tmp_path / str(number), random.Random(f"1 {number}"))


def _unbroken(frames: Iterator[Frame]) -> Iterator[Frame]:
    end = None
    for found in frames:
        if end not in (None, found.position):
            return
        yield found
        end = found.end


@pytest.mark.long
def test_after_much_random_damage_every_undamaged_batch_is_in_its_place(twin: Twin, tmp_path: Path, seed: int) -> None:
    go_through(twin, tmp_path, seed, 3000)
